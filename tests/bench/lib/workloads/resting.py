"""Workloads without scripts: an idle contender, and the size of what must be installed for it."""

import os
import re
import subprocess
import time

from scripts import Payload

from .base import Measure, Workload, processes, started


class Idle(Workload):
    """Nothing to do for 30 s."""

    name = "idle"
    title = "30 s without a script, after one has run"
    rounds = 1
    measures = (
        Measure("pss_kib", "PSS KiB", "{:.0f}", main=True),
        Measure("switches_per_s", "context switches a second", "{:.2f}"),
        Measure("cpu_us_per_s", "CPU µs a second", "{:.0f}"),
    )

    def measure(self, contender, ground, quick):
        seconds = 5 if quick else 30
        with ground.filling():
            contender.lay_probes(Payload(ground))
        with started(contender):
            contender.settled()
            time.sleep(3)
            before, cpu = processes(ground.group), contender.cpu_us()
            time.sleep(seconds)
            after, rate = processes(ground.group), contender.cpu_since(cpu, seconds)
        return {
            "pss_kib": after["pss_kib"],
            "switches_per_s": max(0, after["switches"] - before["switches"]) / seconds,
            "cpu_us_per_s": rate,
            "processes": after["processes"],
        }


# Libraries that every system has for its own sake.
EVERYWHERE = re.compile(r"/(ld-linux|libc\.|libm\.|libdl\.|libpthread\.|librt\.|libresolv\.|libgcc_s\.)")


class Size(Workload):
    """Bytes on disk: the programs, and the libraries that a minimal system would not have."""

    name = "size"
    title = "programs with the libraries that they alone need (without the C library); bash and Python count, Python's own modules do not"
    reference = None
    rounds = 1
    size = None
    measures = (Measure("kib", "KiB", "{:.0f}", main=True),)

    def measure(self, contender, ground, quick):
        del ground, quick
        programs = {os.path.realpath(path) for path in contender.files() if path}
        libraries = {library for program in programs for library in needed(program)}
        each = {path: os.path.getsize(path) for path in programs | libraries}
        return {"kib": sum(each.values()) / 1024, "files": each}


def needed(program):
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    paths = re.findall(r"(/\S+) \(0x", said)
    return {os.path.realpath(path) for path in paths if not EVERYWHERE.search(path)}
