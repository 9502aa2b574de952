"""Bytes of the output plugin to outbox events. Pure.

pgoutput.py   one message of protocol 1 -> Begin, Relation, Insert, Commit, …
outbox.py     Relation -> a plan, compiled once; Insert + plan -> OutboxEvent
"""
