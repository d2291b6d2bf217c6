"""The log of starts: what the payloads wrote. Who started, when, and how often."""

import time


class Starts:
    """Reads the log as it grows, which every contender's launcher writes to as well (`launch`). Times are of CLOCK_MONOTONIC, in nanoseconds."""

    def __init__(self, path):
        self.path = path
        self.times = {}
        self.offset = 0

    def clear(self):
        with open(self.path, "wb"):
            pass
        self.times = {}
        self.offset = 0

    def read(self):
        """Reads what is new."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.decode().splitlines():
            name, when = line.split(" ")
            self.times.setdefault(name, []).append(int(when))

    def count(self, ids):
        self.read()
        return sum(name in self.times for name in ids)

    def wait(self, ids, patience, deadline):
        """Waits until all have started, nothing new has for `patience` seconds, or `deadline` seconds are over. False if it was cut off."""
        began = moved = time.monotonic()
        wanted = set(ids)
        pause = 0.02 if len(wanted) < 5000 else 0.1
        while True:
            before = len(self.times)
            self.read()
            # Comparing all of them is dear: only when enough have started.
            if len(self.times) >= len(wanted) and wanted <= self.times.keys():
                return True
            now = time.monotonic()
            if len(self.times) > before:
                moved = now
            if now - began > deadline:
                return False
            if now - moved > patience:
                return True
            time.sleep(pause)

    def wait_one(self, name, seconds):
        until = time.monotonic() + seconds
        while True:
            self.read()
            if name in self.times:
                return True
            if time.monotonic() > until:
                return False
            time.sleep(0.002)

    def losses(self, ids):
        """How many never started, and how many further starts there were of those that did."""
        self.read()
        lost = sum(name not in self.times for name in ids)
        doubled = sum(max(0, len(self.times.get(name, ())) - 1) for name in ids)
        return {"scripts": len(ids), "lost": lost, "doubled": doubled}

    def first(self, ids):
        """First starts, in order of time."""
        return sorted(self.times[name][0] for name in ids if name in self.times)
