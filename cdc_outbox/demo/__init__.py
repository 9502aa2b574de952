"""The whole thing on one machine without installing anything: servers that come and go with this process.

Each part starts real programs, shows what they do, and leaves neither a process nor a file behind. Nothing in the relay
imports this package; it may import everything.
"""
