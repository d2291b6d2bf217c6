"""The ground on which the contenders meet: fresh ext4 images on loop devices, a log of starts in memory, a control group; and its end.

Each measurement gets file systems that were just made: ext4 does not reuse a deleted inode for a while, so a contender must not pay for
what the one before it deleted. The image files themselves are written once with zeros and stay, so that no measurement pays for
blocks that the file system below has yet to find."""

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import tempfile
import time

import cgroup
from starts import Starts

MIB = 1 << 20
# Megabytes of application, output and state image, by size of the workload.
SIZES = {"small": (512, 512, 512), "large": (3072, 2048, 512)}
ROLES = ("app", "out", "state")


class Trouble(Exception):
    """A measurement that could not be made, and why."""


def sh(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Trouble(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


class Arena:
    """One for a whole run. `with arena.fresh(size):` lays the ground for one measurement."""

    def __init__(self, directory, tools):
        self.tools = tools
        self.home = tempfile.mkdtemp(prefix="gvad-bench-", dir=directory)
        self.ram = os.path.join(self.home, "ram")
        self.places = {role: os.path.join(self.home, "mnt", role) for role in ROLES}
        self.devices = {}
        self.group = None
        self.starts = Starts(os.path.join(self.ram, "starts"))
        tag = f"{os.getpid():07d}"
        self.labels = {role: f"gvb-{role[0]}-{tag}" for role in ROLES}

    def __enter__(self):
        try:
            self._let_go_of_foreign_images()
            for path in (self.ram, *self.places.values()):
                os.makedirs(path)
            sh("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", self.ram)
            self.base = cgroup.Group.own().make(f"gvad-bench-{os.getpid()}")
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *_):
        # Whoever is impatient presses Ctrl-C twice: nothing may be left behind all the same.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._leave()

    def _leave(self):
        self._clear()
        if getattr(self, "base", None):
            self.base.remove()
        subprocess.run(["umount", self.ram], capture_output=True, check=False)
        shutil.rmtree(self.home, ignore_errors=True)

    def _let_go_of_foreign_images(self):
        """The new mount namespace has a copy of each mount of the old one; those of images would keep other people's devices busy."""
        for device, place in mounts():
            if device.startswith("/dev/loop") and place != "/":
                subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)

    # One measurement.

    @contextlib.contextmanager
    def fresh(self, size):
        """`size` is None for what needs no ground."""
        if size is None:
            yield
            return
        try:
            for role, megabytes in zip(ROLES, SIZES[size]):
                self.devices[role] = self._image(role, size, megabytes)
            self.group = self.base.make("measured")
            self.mount("state")
            self.starts.clear()
            yield
        finally:
            self._clear()

    def _image(self, role, size, megabytes):
        path = os.path.join(self.home, f"{role}-{size}.img")
        if not os.path.exists(path):
            with open(path, "wb") as file:
                for _ in range(megabytes):
                    file.write(bytes(MIB))
        extended = "nodiscard,lazy_itable_init=0,lazy_journal_init=0"
        sh("mke2fs", "-q", "-F", "-t", "ext4", "-L", self.labels[role], "-i", "4096", "-m", "0", "-E", extended, path)
        rest(path)
        return sh("losetup", "--find", "--show", path)

    def _clear(self):
        if self.group:
            self.group.end()
            self.group = None
        self.unmount()
        for device in self.devices.values():
            subprocess.run(["losetup", "--detach", device], capture_output=True, check=False)
        self.devices = {}

    # Mounting, for the driver and for contenders that do not mount by themselves.

    def mount(self, *roles):
        for role in roles:
            sh("mount", "-t", "ext4", "-o", "nosuid,nodev", self.devices[role], self.places[role])

    def unmount(self, *roles):
        """Unmounts, and brings to rest what was written; without roles all of them, also what a killed gvad has left."""
        wanted = {self.places[role] for role in roles or ROLES}
        until = time.monotonic() + 10
        while left := [place for _, place in mounts() if place in wanted]:
            for place in reversed(left):
                subprocess.run(["umount", place], capture_output=True, check=False)
            if time.monotonic() > until:
                for place in reversed(left):
                    subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)
                break
            time.sleep(0.02)
        for role in roles:
            rest(self.devices[role])

    # Places.

    @property
    def script_bin(self):
        return os.path.join(self.places["app"], "script-bin")

    @property
    def incoming(self):
        """Where scripts lie before they are handed over, on the same file system."""
        return os.path.join(self.places["app"], "incoming")

    @property
    def claims(self):
        return os.path.join(self.places["app"], "claims")

    @contextlib.contextmanager
    def filling(self):
        """The application image is mounted, to be filled; afterwards it is as cold as a fresh machine finds it."""
        self.mount("app")
        try:
            for path in (self.script_bin, self.incoming, self.claims):
                os.makedirs(path, exist_ok=True)
            yield
        finally:
            self.unmount("app")

    def sync_us(self, times=15):
        """What a sync costs just now: the median of overwriting a block in place and making it durable."""
        file = os.open(os.path.join(self.places["state"], "sync"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        took = []
        try:
            for _ in range(times + 1):
                os.pwrite(file, os.urandom(4096), 0)
                began = time.monotonic_ns()
                os.fdatasync(file)
                took.append((time.monotonic_ns() - began) / 1000)
        finally:
            os.close(file)
        # The first one has the file's blocks to find.
        return sorted(took[1:])[times // 2]

    def left(self, name):
        """Whether a script of this name is still anywhere on the application image."""
        patterns = (f"{self.script_bin}/{name}", f"{self.script_bin}/.gvad/*/{name}", f"{self.claims}/{name}")
        return any(glob.glob(pattern) for pattern in patterns)


def mounts():
    """Pairs of device and place, in the order of mounting."""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        return [tuple(line.split(" ")[:2]) for line in file]


def rest(path):
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
