"""The configuration: what can be set, where each value came from, and the frozen settings made of it.

In: flags, environment variables, the TOML file, secret files. Out: `settings.Settings`.
Never: a connection, or a secret in a repr, an error or a log line.
"""
