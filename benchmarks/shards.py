"""What shards cost the server: one backlog drained by 1, 2 and 4 relays, with the CPU of each walsender.

Every walsender decodes all of the WAL and drops the rows of the other shards at the end. Verified: every id, order per key.

    python -m benchmarks.shards --rows 100000
"""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path

from benchmarks.child import process_cpu
from benchmarks.contenders import Place, Relay
from benchmarks.drain import LOOK_SECONDS, STALL_SECONDS
from benchmarks.rig import Rig, servers
from cdc_outbox.commands.install import InstallOptions, apply_install
from cdc_outbox.config.shards import Shard


def main() -> None:
    """Drain it with each number of shards."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shards", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--payload-bytes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with servers() as rig:
        rig.install()
        for count in (2, 4):
            apply_install(rig.dsn, InstallOptions(shards=count), print)
        backlog = rig.fill_backlog(options.rows, 10, options.payload_bytes, options.seed)
        print(f"{'shards':>6}{'rows/s':>12}{'each walsender, CPU us per row of the backlog':>48}")
        for count in (1, 2, 4):
            rate, cpu = drain(rig, count, backlog.rows)
            print(f"{count:>6}{rate:>12,.0f}{', '.join(f'{seconds / backlog.rows * 1e6:.2f}' for seconds in cpu):>48}")


def drain(rig: Rig, count: int, rows: int) -> tuple[float, list[float]]:
    """Start this number of relays at once. Rows a second in all, CPU seconds of each walsender."""
    slot, prefix, topic = rig.next_turn()
    shards = [Shard(index, count) for index in range(count)] if count > 1 else []
    slots = [shard.name(slot) for shard in shards] or [slot]
    for name in slots:
        rig.copy_slot(name)
    used = dict.fromkeys(slots, 0.0)
    place = Place(rig.dsn, rig.kafka.brokers, slot, prefix, Path())
    with contextlib.ExitStack() as running:
        options: list[tuple[str, ...]] = [("--shard", str(shard)) for shard in shards] or [()]
        relays = [running.enter_context(Relay(options=each).start(place)) for each in options]
        deadline = time.monotonic() + STALL_SECONDS
        while topic.count() < rows:
            for relay in relays:
                relay.require_alive()
            assert time.monotonic() < deadline, f"{topic.count()} of {rows} came"
            _look(rig, used)
            time.sleep(LOOK_SECONDS)
        _look(rig, used)
        for relay in relays:
            relay.terminate()
    rate = topic.read(rows).per_second
    for name in slots:
        rig.drop_slot(name)
    topic.delete()
    return rate, list(used.values())


def _look(rig: Rig, used: dict[str, float]) -> None:
    """Note the CPU of the walsenders that there are."""
    for name, pid in rig.run("SELECT slot_name, active_pid FROM pg_replication_slots WHERE active"):
        with contextlib.suppress(OSError):
            used[str(name)] = process_cpu(int(str(pid)))


if __name__ == "__main__":
    main()
