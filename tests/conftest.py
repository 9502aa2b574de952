"""Only the list of fixture families; each is its own file in tests/plugins."""

pytest_plugins = [
    "tests.plugins.postgres",
    "tests.plugins.kafka",
    "tests.plugins.daemon",
    "tests.plugins.proxy",
    "tests.plugins.outbox",
    "tests.plugins.oracle",
    "tests.plugins.fragile",
    "tests.plugins.secure",
    "tests.plugins.pair",
    "tests.plugins.browser",
]
