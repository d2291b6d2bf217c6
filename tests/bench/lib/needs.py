"""What the benchmark needs: gvad, its own C programs, the peers. A peer that cannot be had is told, and named in every table."""

import os
import platform
import shutil
import subprocess
import sys

from say import say

PACKAGES = {
    "cc": "gcc",
    "mke2fs": "e2fsprogs",
    "losetup": "mount",
    "unshare": "util-linux",
    "inotifywait": "inotify-tools",
    "incrond": "incron",
    "run-parts": "debianutils",
    "tsp": "task-spooler",
    "nq": "nq",
    "qemu-ga": "qemu-guest-agent",
}
ALWAYS = ("cc", "mke2fs", "losetup")
WATCHEXEC = "watchexec-cli"

C_FLAGS = ["-O2", "-Wall", "-Wextra"]
PAYLOAD_FLAGS = (
    "-Os -Wall -Wextra -static -nostdlib -ffreestanding -fno-stack-protector -fno-asynchronous-unwind-tables "
    "-fno-tree-loop-distribute-patterns -fno-pie -no-pie -Wl,--build-id=none,-z,noseparate-code,-s"
).split()


class Tools:
    """Where everything is. `missing` tells what is not, and why."""

    def __init__(self, root, gvad):
        self.root = root
        self.gvad = gvad
        self.source = os.path.join(root, "tests", "bench")
        self.home = os.path.join(root, "target", "tools")
        self.built = os.path.join(root, "target", "bench", "bin")
        self.python = None
        self.missing = {}

    def find(self, name):
        return shutil.which(name, path=f"{self.home}/bin:{os.environ.get('PATH', '')}:/usr/sbin:/sbin")

    def payload(self, shape, log):
        """Builds the payload in one shape (a list of macros) for this log of starts."""
        out = os.path.join(os.path.dirname(log), "payload" + "".join(part.strip("-").lower() for part in shape))
        if not os.path.exists(out):
            compile_c([*PAYLOAD_FLAGS, f'-DLOG="{log}"', *shape], os.path.join(self.source, "c", "payload.c"), out)
        return out


def gather(root, gvad, wanted):
    """Installs and builds what is wanted; `wanted` holds commands, and "watchexec", "watchdog", "gvad"."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    tools = Tools(root, gvad)
    packages(tools, [*ALWAYS, *(need for need in sorted(wanted) if need in PACKAGES)])
    os.makedirs(tools.built, exist_ok=True)
    compile_c(C_FLAGS, os.path.join(tools.source, "limit.c"), os.path.join(tools.built, "limit"))
    compile_c(C_FLAGS, os.path.join(tools.source, "c", "launch.c"), os.path.join(tools.built, "launch"))
    if "gvad" in wanted and not gvad:
        say("building gvad (release)")
        subprocess.run(["cargo", "build", "--release", "--locked", "--bin", "gvad", "--quiet"], cwd=root, check=True, stdout=sys.stderr)
        tools.gvad = os.path.join(root, "target", "release", "gvad")
    if "watchexec" in wanted:
        watchexec(tools)
    if "watchdog" in wanted:
        watchdog(tools)
    for name, why in tools.missing.items():
        say(f"without {name}: {why}")
    return tools


def compile_c(flags, source, out):
    subprocess.run(["cc", *flags, "-o", out, source], check=True, stdout=sys.stderr)


def packages(tools, commands):
    lacking = {name: PACKAGES[name] for name in commands if not tools.find(name)}
    if not lacking:
        return
    say(f"installing {' '.join(sorted(set(lacking.values())))}")
    # RUNLEVEL=1: no service of a peer is started by its package; the benchmark starts its own.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    apt = ["apt-get", "install", "-q", "-y", "--no-install-recommends"]
    if subprocess.run([*apt, *sorted(set(lacking.values()))], env=env, stdout=sys.stderr, check=False).returncode != 0:
        subprocess.run(["apt-get", "update", "-q"], stdout=sys.stderr, check=False)
        for package in sorted(set(lacking.values())):
            subprocess.run([*apt, package], env=env, stdout=sys.stderr, check=False)
    for name, package in lacking.items():
        if not tools.find(name):
            tools.missing[name] = f"the package {package} cannot be installed"
    for name in ALWAYS:
        if name in tools.missing:
            sys.exit(f"tests/bench/run: {tools.missing[name]}")


def watchexec(tools):
    if tools.find("watchexec"):
        return
    say(f"building {WATCHEXEC}, once: some minutes of both processors")
    env = {**os.environ, "CARGO_TARGET_DIR": os.path.join(tools.home, "build")}
    command = ["cargo", "install", "--quiet", "--locked", "--root", tools.home, WATCHEXEC]
    if subprocess.run(command, env=env, stdout=sys.stderr, check=False).returncode != 0:
        tools.missing["watchexec"] = f"cargo install {WATCHEXEC} failed"
    shutil.rmtree(env["CARGO_TARGET_DIR"], ignore_errors=True)


def watchdog(tools):
    """A Python with the package watchdog, in an environment of its own."""
    python = os.path.join(tools.home, "watchdog", "bin", "python3")
    tools.python = python
    if os.path.exists(python) and subprocess.run([python, "-c", "import watchdog"], capture_output=True, check=False).returncode == 0:
        return
    say("installing Python's watchdog into target/tools/watchdog")
    made = subprocess.run([sys.executable, "-m", "venv", os.path.dirname(os.path.dirname(python))], stdout=sys.stderr, check=False)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "watchdog"]
    if made.returncode != 0 or subprocess.run(pip, stdout=sys.stderr, check=False).returncode != 0:
        tools.missing["watchdog"] = "Python's watchdog cannot be installed (python3-venv? the network?)"


def machine(tools):
    """What the numbers were measured on."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    with open("/proc/meminfo", encoding="utf-8") as file:
        memory = int(file.readline().split()[1]) // 1024
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=tools.root, capture_output=True, text=True, check=False)
    return {
        "kernel": platform.release(),
        "processors": f"{os.cpu_count()} x {model[0] if model else platform.machine()}",
        "memory_mib": memory,
        "load": os.getloadavg()[0],
        "gvad": revision.stdout.strip(),
    }
