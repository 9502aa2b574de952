"""A demonstration on one machine without installed servers: they start and end with this process.

Each part starts real programs, shows their effects, and leaves neither a process nor a file behind. Nothing in the relay
imports this package; it may import everything.
"""
