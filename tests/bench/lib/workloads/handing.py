"""Workloads that hand scripts to a contender which waits: latency, a burst, a large script."""

import gc
import time

from scripts import Payload

from .base import Measure, Workload, percentile, started

MICROSECOND = 1000


class Latency(Workload):
    """Scripts 20 ms apart: from the rename into script-bin to the script's first instruction."""

    reference = "c-watch-durable"
    measures = (
        Measure("p50_us", "p50 µs", "{:.0f}", main=True),
        Measure("p99_us", "p99 µs", "{:.0f}"),
        Measure("cpu_us", "CPU µs a script", "{:.0f}"),
    )

    def __init__(self, name, kind, rounds):
        self.name = name
        self.rounds = rounds
        self.kind = kind
        self.title = f"from rename to first instruction, 300 drops 20 ms apart; payload: {kind}"

    def measure(self, contender, ground, quick):
        count = 40 if quick else 300
        payload = Payload(ground, self.kind)
        with ground.filling():
            ids = payload.write_many(ground.incoming, count)
            contender.lay_probes(Payload(ground))
        handed = {}
        with started(contender):
            time.sleep(1)
            gc.disable()
            before = contender.cpu_us()
            due = time.monotonic()
            for identity in ids:
                due += 0.02
                time.sleep(max(0, due - time.monotonic()))
                contender.settled()
                handed[identity] = time.monotonic_ns()
                contender.hand_over(identity)
            contender.settled()
            gc.enable()
            ground.starts.wait(ids, 6, 120)
            cpu = contender.cpu_since(before, count)
        times = ground.starts.times
        took = [(times[identity][0] - handed[identity]) / MICROSECOND for identity in ids if identity in times]
        return {
            "p50_us": percentile(took, 0.5),
            "p99_us": percentile(took, 0.99),
            "max_us": max(took, default=None),
            "cpu_us": cpu,
            "each_us": [round(one, 1) for one in took],
            **ground.starts.losses(ids),
        }


class Burst(Workload):
    """1,000 renames as fast as they go, while the contender runs."""

    name = "burst"
    title = "1,000 renames at once, while it runs: µs a script until the last has started"
    reference = "c-journal"
    measures = (
        Measure("us", "µs a script", "{:.0f}", main=True),
        Measure("p50_us", "p50 of waiting, µs", "{:.0f}"),
        Measure("cpu_us", "CPU µs a script", "{:.0f}"),
    )

    def measure(self, contender, ground, quick):
        count = 200 if quick else 1000
        with ground.filling():
            ids = Payload(ground).write_many(ground.incoming, count)
            contender.lay_probes(Payload(ground))
        with started(contender):
            time.sleep(1)
            before = contender.cpu_us()
            began = time.monotonic_ns()
            for identity in ids:
                contender.hand_over(identity)
            contender.settled()
            ground.starts.wait(ids, 6, 120)
            cpu = contender.cpu_since(before, count)
        # From the first rename on, for all: those who are handed one script at a time wait as well.
        took = [(when - began) / MICROSECOND for when in ground.starts.first(ids)]
        return {"us": took[-1] / len(took) if took else None, "p50_us": percentile(took, 0.5), "cpu_us": cpu, **ground.starts.losses(ids)}


class Big(Workload):
    """A binary of 100 MiB as a script: what moving or copying it costs."""

    name = "big"
    title = "a script of 100 MiB, from rename to first instruction"
    reference = "c-copy"
    rounds = 3
    measures = (Measure("ms", "ms", "{:.1f}", main=True),)

    def measure(self, contender, ground, quick):
        size = (20 if quick else 100) << 20
        with ground.filling():
            ids = Payload(ground, "big", size).write_many(ground.incoming, 2)
            contender.lay_probes(Payload(ground))
        took = []
        with started(contender):
            for identity in ids:
                time.sleep(1)
                handed = time.monotonic_ns()
                contender.hand_over(identity)
                if ground.starts.wait_one(identity, 30):
                    took.append((ground.starts.times[identity][0] - handed) / 1e6)
                contender.settled()
        return {"ms": percentile(took, 0.5), "each_ms": took, "bytes": size, **ground.starts.losses(ids)}
