"""Peers that are told of each script: task-spooler and nq by their client, the QEMU guest agent over its socket. What tells them is the
driver; it deletes nothing for them, which costs them nothing."""

import contextlib
import json
import os
import socket
import time

from arena import Trouble

from .base import Contender, Kind


class Queue(Contender):
    """A client program that puts one script into a queue."""

    watches = False
    # The clients are the driver's children.
    counted = False
    uses = ""

    def files(self):
        return [self.ground.tools.find(self.uses)]

    def prepare(self):
        self.client = self.ground.tools.find(self.uses)
        self.outputs = os.path.join(self.ground.places["out"], "results")
        os.makedirs(self.outputs, exist_ok=True)
        self.env = {"PATH": os.environ["PATH"], **self.environment()}
        self.quiet = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]

    def command(self):
        return None

    def hand_over(self, identity):
        self.tell(*self.arguments, self.path(identity))

    def tell(self, *arguments):
        child = os.posix_spawn(self.client, [self.client, *arguments], self.env, file_actions=self.quiet)
        _, status = os.waitpid(child, 0)
        if status != 0:
            raise Trouble(f"{self.uses} ended with status {os.waitstatus_to_exitcode(status)}")


class TaskSpooler(Queue):
    """Its first client becomes the server; that one is started in the group, so that all that it starts is there too."""

    uses = "tsp"
    arguments = ()

    def environment(self):
        return {"TS_SOCKET": os.path.join(self.ground.ram, "tsp.socket"), "TMPDIR": self.outputs}

    def start(self):
        super().start()
        self.launch([self.client, "-S", "1"])
        if self.process.wait(10) != 0:
            raise Trouble(f"the server was not started: {self.said()}")

    def stop(self):
        with contextlib.suppress(Trouble):
            self.tell("-K")
        super().stop()


class Nq(Queue):
    """No server: each client waits for the one before it by a lock."""

    uses = "nq"
    arguments = ("-q",)

    def environment(self):
        return {"NQDIR": self.outputs}

    def stop(self):
        # Its clients are in the driver's own group, and hold the output image until they have ended.
        child = os.posix_spawn("/usr/bin/timeout", ["timeout", "30", self.client, "-w"], self.env, file_actions=self.quiet)
        os.waitpid(child, 0)
        super().stop()


class GuestAgent(Contender):
    """guest-exec, then guest-exec-status until the script has ended: one at a time, as gvad does it."""

    watches = False
    link = None
    running = None

    def files(self):
        return [self.ground.tools.find("qemu-ga")]

    def command(self):
        ram = self.ground.ram
        self.socket_path = os.path.join(ram, "qga.socket")
        options = ["--method=unix-listen", f"--path={self.socket_path}", f"--pidfile={ram}/qga.pid", f"--statedir={ram}"]
        return [self.ground.tools.find("qemu-ga"), *options]

    def start(self):
        super().start()
        self.link = socket.socket(socket.AF_UNIX)
        until = time.monotonic() + 10
        while True:
            try:
                self.link.connect(self.socket_path)
                break
            except OSError as error:
                if time.monotonic() > until:
                    raise Trouble(f"the guest agent does not listen: {error}; {self.said()}") from error
                time.sleep(0.01)
        self.link.settimeout(10)
        self.stream = self.link.makefile("rb")

    def ask(self, what, **arguments):
        self.link.sendall(json.dumps({"execute": what, "arguments": arguments}).encode() + b"\n")
        answer = json.loads(self.stream.readline() or b"{}")
        if "return" not in answer:
            raise Trouble(f"{what}: {answer}")
        return answer["return"]

    def hand_over(self, identity):
        self.settled()
        self.running = self.ask("guest-exec", path=self.path(identity), **{"capture-output": True})["pid"]

    def settled(self):
        while self.running is not None:
            if self.ask("guest-exec-status", pid=self.running)["exited"]:
                self.running = None

    def stop(self):
        if self.link:
            self.link.close()
        super().stop()


AT_MOST = {"output": "keeps at most 16 MiB of output"}
IN_FILES = {"idle": "has no process that waits", "memory": "has no process that waits", "start": "has no process that waits"}
NO_START = {"start": "is not handed anything at its start"}

ALL = [
    Kind("tsp", "task-spooler", TaskSpooler, needs=("tsp",), never=NO_START),
    Kind("nq", "nq", Nq, needs=("nq",), never=IN_FILES),
    Kind("guest-agent", "QEMU guest agent, guest-exec", GuestAgent, needs=("qemu-ga",), never={**AT_MOST, **NO_START}),
]
