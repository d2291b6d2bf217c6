"""The command line, and the whole run from it: what is needed, the measurements in turn, the tables."""

import argparse
import json
import os
import signal
import sys
import time

import arena
import contenders
import needs
import table
import workloads
from say import say

ABOUT = """\
Measures gvad beside its peers and beside the limit: a C program that makes the same system calls and nothing else.
Everything runs side by side on freshly made ext4 images on loop devices, in a mount namespace of its own; contenders take turns, and
each round begins with another one. Prints Markdown tables to standard output, progress to standard error; raw numbers go to FILE.
Run it as root, on a quiet machine. What is missing is installed first (Debian packages, a crate, a Python package), and named.
"""

EXAMPLES = """\
examples:
  tests/bench/run --quick                                    all of it, small: does it work?
  tests/bench/run -o quiet.jsonl                             all of it; takes more than an hour
  tests/bench/run --workload latency,backlog-1000 --contender gvad,c-watch-durable,c-journal
  tests/bench/run --from quiet.jsonl                         the tables of an earlier run again
"""


def names(text):
    return [name for name in text.split(",") if name]


def arguments():
    parser = argparse.ArgumentParser(
        prog="tests/bench/run", description=ABOUT, epilog=listing(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round of everything: whether it works, not how fast it is")
    parser.add_argument("--workload", type=names, action="extend", metavar="NAME,…", help="only these; a beginning such as `backlog` names several")
    parser.add_argument("--contender", type=names, action="extend", metavar="NAME,…", help="only these; the same")
    parser.add_argument("--repeat", type=int, metavar="N", help="rounds, in place of each workload's own number")
    parser.add_argument("-o", dest="file", metavar="FILE.jsonl", help="where the raw numbers go (default: target/bench/TIME.jsonl)")
    parser.add_argument("--from", dest="old", metavar="FILE.jsonl", help="measure nothing: the tables of these raw numbers")
    parser.add_argument("--gvad", metavar="PROGRAM", type=os.path.abspath, help="this gvad, in place of a release build of this checkout")
    parser.add_argument("--dir", default="/var/tmp", help="where the images are made (default: %(default)s); 5 GiB for the large workloads")
    return parser.parse_args()


def listing():
    lines = ["workloads:"]
    lines += [f"  {workload.name:<20} {workload.title}" for workload in workloads.ALL]
    lines += ["", "contenders:"]
    lines += [f"  {contender.name:<20} {contender.title}" for contender in contenders.ALL]
    return "\n".join(lines) + "\n\n" + EXAMPLES


def chosen(all_of_them, wanted, kind):
    if not wanted:
        return list(all_of_them)
    picked = []
    for name in wanted:
        exact = [one for one in all_of_them if one.name == name]
        found = exact or [one for one in all_of_them if one.name.startswith(name)]
        if not found:
            sys.exit(f"tests/bench/run: no {kind} {name!r}: see --help")
        picked += [one for one in found if one not in picked]
    return picked


def own_namespace():
    """Mounts of the benchmark must neither be seen by others nor outlive it."""
    if os.environ.get("GVAD_BENCH_NAMESPACE") != "own":
        os.environ["GVAD_BENCH_NAMESPACE"] = "own"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])


def interrupted(number, _frame):
    raise KeyboardInterrupt(signal.Signals(number).name)


def main():
    args = arguments()
    picked_workloads = chosen(workloads.ALL, args.workload, "workload")
    picked_contenders = chosen(contenders.ALL, args.contender, "contender")
    if args.old:
        with open(args.old, encoding="utf-8") as file:
            print(table.tables([json.loads(line) for line in file]))
        return 0
    if os.geteuid() != 0:
        sys.exit("tests/bench/run: not root: it mounts images and makes control groups")
    own_namespace()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    root = os.path.realpath(os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", ".."))
    file = args.file or os.path.join(root, "target", "bench", time.strftime("%Y-%m-%dT%H-%M-%S.jsonl"))
    records = []
    status = 0
    try:
        tools = needs.gather(root, args.gvad, {need for contender in picked_contenders for need in contender.needs})
        os.makedirs(os.path.dirname(os.path.abspath(file)), exist_ok=True)
        with open(file, "w", encoding="utf-8") as raw, arena.Arena(args.dir, tools) as ground:
            measure_all(args, picked_workloads, picked_contenders, ground, lambda record: keep(records, raw, record))
    except KeyboardInterrupt as stop:
        say(f"interrupted {stop}; everything was taken away again")
        status = 130
        if not records:
            return status
    print(table.tables(records))
    say(f"raw numbers: {file}")
    return status


def keep(records, raw, record):
    records.append(record)
    raw.write(json.dumps(record) + "\n")
    raw.flush()


def measure_all(args, picked_workloads, picked_contenders, ground, put):
    put({"machine": needs.machine(ground.tools), "quick": args.quick})
    medians = {}
    for workload in picked_workloads:
        runnable = []
        for contender in picked_contenders:
            reason = contender.without(ground.tools, workload) or workload.too_slow(contender, medians, args.quick)
            if reason:
                put({"workload": workload.name, "contender": contender.name, "without": reason})
            elif workload.fits(contender):
                runnable.append(contender)
        rounds = args.repeat or (1 if args.quick else workload.rounds)
        for turn in range(rounds):
            start = turn * max(1, len(runnable) // rounds) % max(1, len(runnable))
            for contender in runnable[start:] + runnable[:start]:
                record = one(workload, contender, ground, args.quick)
                put({"workload": workload.name, "contender": contender.name, "round": turn, **record})
                value = record.get(workload.measures[0].key)
                medians.setdefault((workload.name, contender.name), []).append(value)
                say(f"{workload.name} {turn + 1}/{rounds} {contender.name}: {workload.brief(record)}")


def one(workload, contender, ground, quick):
    """One measurement. What goes wrong with one contender does not stop the others."""
    began = time.monotonic()
    try:
        with ground.fresh(workload.size):
            sync = ground.sync_us() if workload.size else None
            record = workload.measure(contender.make(ground), ground, quick)
    except arena.Trouble as trouble:
        record = {"failed": str(trouble)}
        sync = None
    record["sync_us"] = sync
    record["took"] = round(time.monotonic() - began, 3)
    return record
