"""PostgreSQL, and the only importer of psycopg.

wire.py         bytes <-> XLogData, primary keepalive, standby status update; pure
connect.py      connections, pinned session settings, errors translated once
replication.py  a walsender session that takes replication commands, without ever blocking for long
stream.py       COPY BOTH: receive messages, send status, close with the last word heard
slot.py         inspect, create, copy, drop
publication.py  what is published, and how
table_rows.py   rows of the table in a snapshot
pgoutput.py     messages of the output plugin; pure
"""
