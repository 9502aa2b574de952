"""PostgreSQL, and the only importer of psycopg.

wire.py         bytes <-> XLogData, primary keepalive, standby status update; pure
connect.py      connections, pinned session settings, errors translated once
replication.py  a walsender session: replication commands, without long blocking calls
stream.py       COPY BOTH: receive messages, send status updates, end the copy
slot.py         inspect, create, copy, drop
publication.py  publications and outbox tables in the catalog
table_rows.py   rows of the table in a snapshot
pgoutput.py     messages of the output plugin; pure
"""
