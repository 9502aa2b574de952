"""For the tests of applications: a pytest plugin. `plugin` has the fixtures, and imports the rest when one is used."""
