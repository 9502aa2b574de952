"""Long runs of one promise, by hand: `python -m tests.soak.prune --seconds 3600`."""
