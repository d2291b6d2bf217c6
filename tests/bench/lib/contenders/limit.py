"""The limit: tests/bench/limit.c, with each guarantee by itself and with all of them."""

import os

from .base import Contender, Kind


class Limit(Contender):
    """limit.c with some of its options; `options` gives them, as directories are known only on the ground."""

    options = ()

    def files(self):
        return [os.path.join(self.ground.tools.built, "limit")]

    def place(self, role, name):
        path = os.path.join(self.ground.places[role], name)
        os.makedirs(path, exist_ok=True)
        return path

    def command(self):
        ground = self.ground
        values = {
            "--copy": lambda: self.place("state", "copies"),
            "--capture": lambda: self.place("out", "results"),
            "--result": lambda: self.place("out", "results"),
            "--journal": lambda: os.path.join(ground.places["out"], "journal"),
            "--cgroup": lambda: ground.group.path,
        }
        words = []
        for option in self.options:
            words += option.split("=") if "=" in option else [option]
            if option in values:
                words.append(values[option]())
        return [os.path.join(ground.tools.built, "limit"), "--watch", *words, ground.script_bin, ground.claims]


def variant(name, title, options, only=("backlog-1000",)):
    made = type("Limit_" + name.replace("-", "_"), (Limit,), {"options": tuple(options)})
    return Kind(name, f"C: {title}", made, needs=("cc",), only=only)


EVERYWHERE = ("latency", "backlog", "burst", "idle", "memory", "start", "size")
SEPARATE = ["--sync-claim", "--result", "--sync-result"]
TREE = ["--copy", "--capture", "--cgroup"]

ALL = [
    variant("c-watch", "nothing but rename, posix_spawn, wait, unlink", [], (*EVERYWHERE, "big")),
    variant("c-copy", "and a copy on another file system", ["--copy"], ("backlog-1000", "big")),
    variant("c-capture", "and output into files", ["--capture"], ("backlog-1000", "output")),
    variant("c-capture-durable", "and output into files, synced", ["--capture", *SEPARATE], ("output",)),
    variant("c-cgroup", "and a control group", ["--cgroup"]),
    variant("c-claim", "and the claim durable", ["--sync-claim"]),
    variant("c-result", "and a result file, not synced", ["--result"]),
    variant("c-result-durable", "and the result file durable", ["--result", "--sync-result"]),
    variant("c-journal", "and a record synced: one sync a script", ["--journal"], EVERYWHERE),
    variant("c-journal-32", "and one sync of records for 32 scripts", ["--journal", "--group=32"], ("backlog", "burst")),
    variant("c-watch-durable", "and claim and result durable, separately", SEPARATE, EVERYWHERE),
    variant("c-all-journal", "copy, output, cgroup; one sync a script", [*TREE, "--journal"], (*EVERYWHERE, "big")),
    variant("c-all-journal-32", "copy, output, cgroup; one sync for 32", [*TREE, "--journal", "--group=32"], ("backlog", "burst")),
    variant("c-all-separate", "copy, output, cgroup; claim and result durable", [*TREE, *SEPARATE], (*EVERYWHERE, "big")),
]
