"""A user registers; three services that know nothing of each other hear of it. `python -m examples.registration`."""
