"""Programs that use cdc-outbox as an application would: to read, to run, to copy from."""
