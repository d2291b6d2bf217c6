"""Control groups, version 2: to end a contender with all that it started, and to count what all of it has used."""

import contextlib
import os
import time


class Group:
    """One group."""

    def __init__(self, path):
        self.path = path

    @staticmethod
    def own():
        """The group of this process."""
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
            places = [fields[1] for fields in map(str.split, file) if fields[2] == "cgroup2"]
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            own = [line.strip()[3:] for line in file if line.startswith("0::")]
        if not places or not own:
            raise SystemExit("tests/bench/run: no cgroup v2 is mounted, and gvad's guarantees need one")
        return Group(places[-1] + own[0].rstrip("/"))

    def make(self, name):
        path = os.path.join(self.path, name)
        os.makedirs(path, exist_ok=True)
        return Group(path)

    def groups(self):
        """This group and all below it, the deepest first."""
        return [path for path, _, _ in os.walk(self.path, topdown=False)]

    def pids(self):
        found = []
        for path in self.groups():
            with contextlib.suppress(OSError), open(f"{path}/cgroup.procs", encoding="utf-8") as file:
                found += [int(line) for line in file]
        return found

    def cpu_us(self):
        """Processor time of all that ran in it, whether it still runs or not."""
        with open(f"{self.path}/cpu.stat", encoding="utf-8") as file:
            return int(dict(line.split() for line in file)["usage_usec"])

    def end(self, patience=10):
        """Kills what is in it, and removes it."""
        with contextlib.suppress(OSError), open(f"{self.path}/cgroup.kill", "w", encoding="utf-8") as file:
            file.write("1")
        until = time.monotonic() + patience
        while self.pids() and time.monotonic() < until:
            time.sleep(0.01)
        self.remove()

    def remove(self):
        for path in self.groups():
            with contextlib.suppress(OSError):
                os.rmdir(path)
