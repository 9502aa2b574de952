"""How fast, how late, how big: cdc-outbox beside what else there is, on real servers, in one run.

python -m benchmarks --help     (`make bench ARGS=…`)

rig.py         the servers, the outbox filled, slots, topics
child.py       a process, watched: CPU of all its threads, memory, over time
contenders.py  cdc-outbox, Debezium, a polling worker: how each is started
installed.py   cdc-outbox in an environment of its own, as its users have it
raw.py         the yardstick: the slot read with nothing decoded
arrivals.py    what came out of Kafka: every id, order per key, when
drain.py  steady.py  memory.py  snapshot.py     the scenarios
producer_alone.py  the floor of a steady rate: produce, and nothing else
quota.py       a part of a core, as a container has it
report.py  chart.py     table, JSON, SVG
shards.py      what several relays on one outbox cost the server
bench_check.py CPU per row against a committed baseline, without servers
giant.py       one transaction of millions of rows
micro/         single stages, under pytest-benchmark
"""
