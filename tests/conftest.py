"""Only the list of fixture families; each is its own file in tests/plugins."""

import os
import signal

from hypothesis import settings

pytest_plugins = [
    "tests.plugins.postgres",
    "tests.plugins.kafka",
    "tests.plugins.daemon",
    "tests.plugins.proxy",
    "tests.plugins.outbox",
    "tests.plugins.oracle",
    "tests.plugins.fragile",
    "tests.plugins.three_brokers",
    "tests.plugins.secure",
    "tests.plugins.pair",
    "tests.plugins.browser",
    "tests.plugins.order",
]

os.environ.setdefault("CDC_OUTBOX_NATIVE", "off")
"""Relays of the tests run in Python, whether the native plane is installed or not; `make test-native` sets it to on."""

settings.register_profile("suite", deadline=None)
"""A busy machine delays single examples; pytest-timeout ends a test that hangs."""
settings.load_profile("suite")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that puts us into the background has SIGINT ignored, here and in every program that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The time of one example depends on the other processes of the machine; hypothesis' deadline of 200 ms would fail at random.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
