"""Workloads in which scripts wait when the contender is started: backlogs, memory, the start itself, one that prints much."""

import time

from arena import Trouble
from scripts import Payload

from .base import Measure, Workload, median, processes, started

# A measurement is cut off after so many seconds.
DEADLINE = 600
# What would take longer is not begun with a peer or a variant of the limit: nobody waits for incron's hundred thousand.
TOO_LONG = 120


def hand_over_all(contender, ground, ids):
    """To those who do not look by themselves."""
    if contender.watches:
        return
    for identity in ids:
        contender.hand_over(identity)
    contender.settled()
    ground.starts.read()


class Backlog(Workload):
    """So many scripts are there at the start."""

    reference = "c-journal"
    measures = (
        Measure("us", "µs a script", "{:.0f}", main=True),
        Measure("halves", "second half / first", "{:.2f}"),
        Measure("cpu_us", "CPU µs a script", "{:.0f}"),
        Measure("peak_rss_kib", "peak RSS KiB", "{:.0f}"),
    )

    def __init__(self, count, quick, kind="static", rounds=5):
        self.count = count
        self.quick = quick
        self.kind = kind
        self.rounds = rounds
        self.name = f"backlog-{count}" + ("" if kind == "static" else f"-{kind}")
        self.title = f"{count:,} scripts there at the start; payload: {kind}"
        self.size = "large" if count > 10_000 else "small"

    def too_slow(self, contender, medians, quick):
        smaller = medians.get(("backlog-1000", contender.name)) if self.count > 1000 and not quick else None
        each = median(smaller) if smaller else None
        if each and each * self.count > TOO_LONG * 1e6 and not contender.essential:
            return f"left out: {each * self.count / 6e7:.0f} minutes at {each:.0f} µs a script"
        return None

    def measure(self, contender, ground, quick):
        count = self.quick if quick else self.count
        with ground.filling():
            where = ground.script_bin if contender.watches else ground.incoming
            ids = Payload(ground, self.kind).write_many(where, count)
            contender.lay_probes(Payload(ground), 20 if not contender.watches else 0)
        with started(contender, wait=not contender.watches):
            hand_over_all(contender, ground, ids)
            whole = ground.starts.wait(ids, 15, DEADLINE)
            cpu = contender.cpu_since(0, max(1, ground.starts.count(ids)))
            used = processes(ground.group)
        order = ground.starts.first(ids)
        if len(order) < 4:
            raise Trouble(f"it started {len(order)} of {count} scripts: {contender.said()}")
        middle = len(order) // 2
        first = (order[middle] - order[0]) / middle
        second = (order[-1] - order[middle]) / (len(order) - 1 - middle)
        return {
            "us": (order[-1] - order[0]) / (len(order) - 1) / 1000,
            "halves": second / first,
            "cpu_us": cpu,
            "peak_rss_kib": used["peak_rss_kib"] or None,
            **({} if whole else {"cut_off_after_s": DEADLINE}),
            **ground.starts.losses(ids),
        }


class Memory(Workload):
    """Peak memory while 10,000 scripts wait."""

    name = "memory"
    title = "peak resident memory with 10,000 scripts waiting, all processes of the contender"
    rounds = 3
    measures = (Measure("peak_rss_kib", "peak RSS KiB", "{:.0f}", main=True), Measure("pss_kib", "PSS KiB", "{:.0f}"))

    def measure(self, contender, ground, quick):
        count = 2000 if quick else 10_000
        with ground.filling():
            where = ground.script_bin if contender.watches else ground.incoming
            ids = Payload(ground).write_many(where, count)
            contender.lay_probes(Payload(ground), 20 if not contender.watches else 0)
        until = time.monotonic() + 60
        with started(contender, wait=not contender.watches):
            hand_over_all(contender, ground, ids[:1000])
            while ground.starts.count(ids[:1000]) < 200:
                if time.monotonic() > until:
                    raise Trouble(f"it started {ground.starts.count(ids)} scripts in a minute: {contender.said()}")
                time.sleep(0.05)
            used = processes(ground.group)
        doubled = ground.starts.losses(ids)["doubled"]
        # It is ended before it is done, so nothing can be said of what is lost.
        return {**used, "scripts": count, "lost": 0, "doubled": doubled}


class Start(Workload):
    """From exec of the contender to the first instruction of the first script."""

    name = "start"
    title = "from exec of the contender to the first script's first instruction"
    measures = (Measure("ms", "ms", "{:.1f}", main=True),)

    def measure(self, contender, ground, quick):
        del quick
        with ground.filling():
            ids = Payload(ground).write_many(ground.script_bin, 1)
        with started(contender, wait=False):
            ground.starts.wait(ids, 15, 15)
        began = ground.starts.times["launch"][0]
        order = ground.starts.first(ids)
        if not order:
            raise Trouble(f"it started nothing: {contender.said()}")
        return {"ms": (order[0] - began) / 1e6, **ground.starts.losses(ids)}


class Output(Workload):
    """One script prints 1 GiB."""

    name = "output"
    title = "a script that prints 1 GiB: seconds until all is printed, and until the script is done with and gone"
    reference = "c-capture"
    rounds = 3
    size = "large"
    measures = (Measure("print_s", "printing, s", "{:.2f}", main=True), Measure("done_s", "until done, s", "{:.2f}"))

    def measure(self, contender, ground, quick):
        amount = (64 if quick else 1024) << 20
        with ground.filling():
            ids = Payload(ground, "print", amount).write_many(ground.incoming, 1)
            contender.lay_probes(Payload(ground))
        with started(contender):
            time.sleep(1)
            contender.hand_over(ids[0])
            if not ground.starts.wait_one(f"{ids[0]}.end", 120):
                raise Trouble(f"it was not printed in two minutes: {contender.said()}")
            times = ground.starts.times
            began, ended = times[ids[0]][0], times[f"{ids[0]}.end"][0]
            until = time.monotonic() + 60
            while contender.watches and ground.left(f"s{ids[0]}") and time.monotonic() < until:
                time.sleep(0.002)
            done = (time.monotonic_ns() - began) / 1e9 if contender.watches else None
            contender.settled()
        return {"print_s": (ended - began) / 1e9, "done_s": done, "bytes": amount, **ground.starts.losses(ids)}
