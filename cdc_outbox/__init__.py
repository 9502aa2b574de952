"""cdc-outbox: insert a row in your transaction, get a Kafka record. At least once, in order per key, no polling."""

__version__ = "0.1.0"

DOCUMENTATION = "https://cdc-outbox.example.com"
"""Base URL of the documentation, for links on the status page and in the alerts. Change it in a build of your own."""

IMAGE = ""
"""Name of the published image, without a tag. Empty: nothing is released yet, and each line that names an installation is that
of a checkout. Set it with the first release and run `make reference`: the same lines are those of the release."""


def pip_install(extra: str) -> str:
    """The command that adds an extra: `pip install 'cdc-outbox[demo]'`, or in a checkout before the first release."""
    if IMAGE:
        return f"pip install 'cdc-outbox[{extra}]'"
    return "pip install ./native, in a checkout" if extra == "native" else f"pip install '.[{extra}]', in a checkout"
