"""gvad, configured as a user would: images by their labels, every default kept that a machine with its own images would have."""

import contextlib
import fcntl
import os
import subprocess
import time

from arena import Trouble

from .base import Contender, Kind

# gvad looks for an output image by its default label when the configuration names none; tests of gvad hold this lock
# while they have such an image attached.
TESTS_LOCK = "/tmp/gvad-tests.lock"


class Gvad(Contender):
    """With an output image of its own."""

    mounts = True

    def files(self):
        return [self.ground.tools.gvad]

    def config(self):
        ground = self.ground
        nothing = os.path.join(ground.ram, "data")
        os.makedirs(nothing, exist_ok=True)
        state = os.path.join(ground.places["state"], "gvad")
        return f"""\
[application]
source = "LABEL={ground.labels['app']}"
mount_point = "{ground.places['app']}"
[data]
source = "{nothing}"
mount_point = "{ground.ram}/no-data"
{self.output()}
[run]
temp_dir = "{state}"
output_limit = "4GiB"
"""

    def output(self):
        return f"""\
[output]
source = "LABEL={self.ground.labels['out']}"
mount_point = "{self.ground.places['out']}"
"""

    def command(self):
        path = os.path.join(self.ground.ram, "gvad.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.config())
        return [self.ground.tools.gvad, "--config", path]


class Combined(Gvad):
    """With one image for everything."""

    lock = None

    def output(self):
        return f'[output]\nmount_point = "{self.ground.places["out"]}"\nwait = "0s"\n'

    def prepare(self):
        # pylint: disable-next=consider-using-with
        self.lock = open(TESTS_LOCK, "a", encoding="utf-8")
        fcntl.flock(self.lock, fcntl.LOCK_SH)
        search = ["blkid", "-c", "/dev/null", "-o", "device", "-t", "LABEL=gva-output"]
        until = time.monotonic() + 60
        while found := subprocess.run(search, capture_output=True, text=True, check=False).stdout.strip():
            if time.monotonic() > until:
                self.release()
                raise Trouble(f"{found} has the label gva-output: gvad would take it for its own")
            time.sleep(0.5)

    def release(self):
        with contextlib.suppress(AttributeError, OSError):
            self.lock.close()

    def stop(self):
        super().stop()
        self.release()


ALL = [
    Kind("gvad", "gvad, with an output image", Gvad, needs=("gvad",), essential=True),
    Kind("gvad-combined", "gvad, one image for all", Combined, needs=("gvad",), essential=True),
]
