"""Chaos: seeded random schedules of faults against a relay whose writers never pause, and one judgement after each.

`make chaos SEEDS=20`, or `make chaos SEEDS=1 FIRST=4711` to see seed 4711 again. The schedule is a pure function of the seed;
what the machine makes of it (how far a relay has come when it is killed) is not, so a seed that failed may need a few runs.

`schedule` says what happens when, `stage` has the servers, `faults` carries out, `writers` write, `watch` looks on, `verdict`
judges, `play` does one seed, `run` many, `summary` adds up.
"""
