"""What every workload is, and what several have in common."""

import contextlib
import os
import re
import statistics


class Measure:
    """One number of a workload: its key in the record, its title, its unit, how it is written."""

    def __init__(self, key, title, form="{:.3g}", main=False):
        self.key = key
        self.title = title
        self.form = form
        # Ratios are shown of this one.
        self.main = main


class Workload:
    """One workload. `measure` makes one measurement and returns its numbers."""

    name = ""
    title = ""
    # What the ratios are against, beside gvad; None where nothing is a limit.
    reference = "c-watch"
    rounds = 5
    size = "small"
    measures = ()

    def fits(self, contender):
        return contender.suits(self.name)

    def too_slow(self, contender, medians, quick):
        """Why measuring it would take too long, by what smaller measurements of this run have shown."""
        del contender, medians, quick

    def measure(self, contender, ground, quick):
        raise NotImplementedError

    def brief(self, record):
        if "failed" in record:
            return f"failed: {record['failed']}"
        parts = [f"{measure.title} {measure.form.format(record[measure.key])}" for measure in self.measures if record.get(measure.key) is not None]
        if "scripts" in record:
            parts.append(f"{record['scripts']} scripts, {record['lost']} lost, {record['doubled']} doubled")
        return ", ".join(parts)


@contextlib.contextmanager
def started(contender, wait=True):
    """The contender runs, and is ended whatever happens."""
    try:
        contender.start()
        if wait:
            contender.ready()
        yield
    finally:
        contender.stop()


def percentile(values, share):
    """The value below which this share of them lies, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def median(values):
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None


def processes(group):
    """What the living processes of a contender need, without scripts that run just now: peak and present memory in KiB, context switches.

    A script that is just being started still goes by the name of who starts it, and shares its memory: the look that saw the fewest processes counts."""
    return min((processes_now(group) for _ in range(20)), key=lambda seen: (seen["processes"] == 0, seen["processes"]))


def processes_now(group):
    """The same, as one look shows it."""
    total = {"processes": 0, "peak_rss_kib": 0, "pss_kib": 0, "switches": 0}
    for pid in group.pids():
        with contextlib.suppress(OSError, ValueError):
            status = fields(f"/proc/{pid}/status")
            if re.fullmatch(r"s\d{8}", status["Name"]):
                continue
            pss = int(fields(f"/proc/{pid}/smaps_rollup")["Pss"].split()[0])
            total["processes"] += 1
            total["peak_rss_kib"] += int(status["VmHWM"].split()[0])
            total["pss_kib"] += pss
            for task in os.listdir(f"/proc/{pid}/task"):
                each = fields(f"/proc/{pid}/task/{task}/status")
                total["switches"] += int(each["voluntary_ctxt_switches"]) + int(each["nonvoluntary_ctxt_switches"])
    return total


def fields(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        pairs = (line.split(":", 1) for line in file if ":" in line)
        return {name: value.strip() for name, value in pairs}
