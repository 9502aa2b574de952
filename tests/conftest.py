"""Only the list of fixture families; each is its own file in tests/plugins."""
