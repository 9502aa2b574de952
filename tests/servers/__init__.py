"""Real servers, and a proxy in front of them, that tests and benchmarks start and stop."""
