"""Loops that people write in a shell: with inotifywait, with sleep, with run-parts; and incron's and watchexec's tables."""

import os

from .base import Contender, Kind

HANDLE = '"$1"\nrm -f "$1"\n'


class Shell(Contender):
    """A shell script, `text`, which finds script-bin in $1."""

    interpreter = "bash"
    text = ""

    def files(self):
        return [self.ground.tools.find(name) for name in (self.interpreter, *self.uses)]

    uses = ()

    def script(self, name, text):
        path = os.path.join(self.ground.ram, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/{self.interpreter}\n{text}")
        os.chmod(path, 0o755)
        return path

    def command(self):
        return [self.interpreter, self.script("loop", self.text), self.ground.script_bin]


class Inotifywait(Shell):
    uses = ("inotifywait",)
    text = """\
{ ls "$1"; exec inotifywait --monitor --quiet --event moved_to,close_write --format %f "$1"; } |
    while IFS= read -r name; do
        "$1/$name"
        rm -f "$1/$name"
    done
"""


class Sleep(Shell):
    text = """\
while :; do
    for script in "$1"/*; do
        [ -x "$script" ] || continue
        "$script"
        rm -f "$script"
    done
    sleep 1
done
"""


class RunParts(Shell):
    """run-parts runs a whole directory and deletes nothing, so the loop moves what is there aside first."""

    uses = ("run-parts",)
    text = """\
batch=${1%/*}/claims/batch
while :; do
    mkdir "$batch"
    find "$1" -maxdepth 1 -type f -exec mv -t "$batch" {} +
    run-parts "$batch"
    rm -r "$batch"
    sleep 1
done
"""


class Incron(Shell):
    """An incrond of its own, with its own tables."""

    interpreter = "sh"
    uses = ("incrond",)

    def command(self):
        ram = self.ground.ram
        for name in ("tables", "users", "locks"):
            os.makedirs(os.path.join(ram, name), exist_ok=True)
        handler = self.script("handle", HANDLE)
        with open(os.path.join(ram, "tables", "bench"), "w", encoding="utf-8") as file:
            file.write(f"{self.ground.script_bin} IN_MOVED_TO,IN_CLOSE_WRITE {handler} $@/$#\n")
        config = os.path.join(ram, "incron.conf")
        with open(config, "w", encoding="utf-8") as file:
            file.write(f"system_table_dir = {ram}/tables\nuser_table_dir = {ram}/users\nlockfile_dir = {ram}/locks\n")
        return [self.ground.tools.find("incrond"), "--foreground", f"--config={config}"]


class Watchexec(Shell):
    """It tells that something changed, and runs one command: which here runs all that is there."""

    interpreter = "sh"
    uses = ("watchexec",)
    text = 'for script in "$1"/*; do\n[ -x "$script" ] || continue\n"$script"\nrm -f "$script"\ndone\n'

    def command(self):
        handler = self.script("handle", self.text)
        options = ["--quiet", "--no-vcs-ignore", "--fs-events=create,rename", "--on-busy-update=queue"]
        return [self.ground.tools.find("watchexec"), *options, "--watch", self.ground.script_bin, "--", handler, self.ground.script_bin]


class Watchdog(Contender):
    """Python's watchdog."""

    def files(self):
        return [self.ground.tools.python]

    def command(self):
        program = os.path.join(self.ground.tools.source, "lib", "watchdog_loop.py")
        return [self.ground.tools.python, program, self.ground.script_bin]


NOT_SEEN = {
    "backlog": "does not see what was there before it was started",
    "memory": "does not see what was there before it was started",
    "start": "does not see what was there before it was started",
}

ALL = [
    Kind("inotifywait", "inotifywait -m and bash", Inotifywait, needs=("inotifywait",)),
    Kind("sleep-loop", "a bash loop with sleep 1", Sleep),
    Kind("run-parts", "run-parts in a loop with sleep 1", RunParts, needs=("run-parts",)),
    Kind("incron", "incron", Incron, needs=("incrond",), never=NOT_SEEN),
    Kind("watchexec", "watchexec", Watchexec, needs=("watchexec",)),
    Kind("watchdog", "Python with watchdog", Watchdog, needs=("watchdog",)),
]
