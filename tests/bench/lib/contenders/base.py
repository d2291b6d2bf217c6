"""What every contender is: a program that is started on the ground, is handed scripts, and is ended with all that it started."""

import contextlib
import os
import subprocess
import time

from arena import Trouble

# Scripts that only tell whether a contender is awake have ids from here on.
PROBES = 90_000_000


class Kind:
    """One contender as it is listed: how it is called, what it needs, how it is made."""

    def __init__(self, name, title, make, needs=(), only=None, never=None, essential=False):
        self.name = name
        self.title = title
        self._make = make
        self.needs = needs
        # Beginnings of the names of workloads: only these make sense; the others are passed by without a word.
        self.only = only
        # Beginnings of names, each with the reason why it cannot take part; that is told in the table.
        self.never = never or {}
        # It is measured even where that takes long.
        self.essential = essential

    def make(self, ground):
        return self._make(ground)

    def without(self, tools, workload):
        """Why it cannot take part, though it should; None if it can."""
        for need in self.needs:
            if need in tools.missing:
                return tools.missing[need]
        if not self.suits(workload.name):
            return None
        return next((why for start, why in self.never.items() if workload.name.startswith(start)), None)

    def suits(self, workload):
        return self.only is None or any(workload.startswith(start) for start in self.only)


class Contender:
    """One that watches script-bin. Others override `hand_over`."""

    # It mounts the application and output images by itself.
    mounts = False
    # It sees what is in script-bin; what does not is handed each script.
    watches = True
    # All that it does is done in its control group.
    counted = True

    def __init__(self, ground):
        self.ground = ground
        self.process = None
        self.probes = []

    # What differs.

    def command(self):
        """The program and its arguments."""
        raise NotImplementedError

    def environment(self):
        return {}

    def prepare(self):
        """Before the start, when the images are mounted."""

    def files(self):
        """The programs that must be installed for it."""
        raise NotImplementedError

    # The same for all.

    def start(self):
        if not self.mounts:
            self.ground.mount("app", "out")
        self.prepare()
        command = self.command()
        if command:
            self.launch(command)

    def launch(self, command):
        ground = self.ground
        launch = os.path.join(ground.tools.built, "launch")
        home = {"PATH": os.environ["PATH"], "HOME": ground.ram, "LANG": "C.UTF-8"}
        with open(os.path.join(ground.ram, "said"), "wb") as said:
            self.process = subprocess.Popen(
                [launch, ground.group.path, ground.starts.path, "launch", *command],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**home, **self.environment()},
                cwd=ground.ram,
                start_new_session=True,
            )

    def cpu_us(self):
        """Processor time so far, of it and of what it ran; None where part of it is spent elsewhere."""
        return self.ground.group.cpu_us() if self.counted else None

    def cpu_since(self, before, count):
        return (self.cpu_us() - before) / count if self.counted else None

    def said(self):
        """The last line that it printed, for a message."""
        with contextlib.suppress(OSError), open(os.path.join(self.ground.ram, "said"), encoding="utf-8", errors="replace") as file:
            lines = file.read().strip().splitlines()
            return lines[-1][:300] if lines else "it said nothing"
        return "it said nothing"

    def lay_probes(self, payload, count=20):
        """To be called while the image is filled."""
        self.probes = payload.write_many(self.ground.incoming, count, PROBES)

    def ready(self, seconds=20):
        """Waits until it runs what it is handed."""
        until = time.monotonic() + seconds
        for identity in self.probes:
            self._wait_for_mount(until)
            self.hand_over(identity)
            if self.ground.starts.wait_one(identity, max(1.2, seconds / len(self.probes))):
                return
            if self.process and self.process.poll() is not None:
                raise Trouble(f"it ended with status {self.process.returncode}: {self.said()}")
            if time.monotonic() > until:
                break
        raise Trouble(f"it did not run anything in {seconds} s: {self.said()}")

    def _wait_for_mount(self, until):
        while not os.path.isdir(self.ground.incoming) and time.monotonic() < until:
            time.sleep(0.01)

    def path(self, identity):
        return os.path.join(self.ground.incoming, f"s{identity}")

    def hand_over(self, identity):
        """One script; the way that is measured."""
        os.rename(self.path(identity), os.path.join(self.ground.script_bin, f"s{identity}"))

    def settled(self):
        """Called after a script was handed over and time has passed: to look after what was started, where somebody must."""

    def stop(self):
        """Asks it to end, so that it unmounts; the ground's end takes care of the rest."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        self.ground.group.end()
        if self.process:
            self.process.wait()
