"""`python -m cdc_outbox` is `cdc-outbox`."""

from cdc_outbox.cli import main

main()
