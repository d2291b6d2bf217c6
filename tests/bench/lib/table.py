"""The tables, from the raw numbers alone."""

import contenders
import workloads
from workloads.base import median


def tables(records):
    """Markdown."""
    rows = [record for record in records if "workload" in record]
    parts = [heading(records)]
    for workload in workloads.ALL:
        mine = [record for record in rows if record["workload"] == workload.name]
        if mine:
            parts.append(one(workload, mine))
    parts.append(price(rows))
    parts.append(summary(rows))
    parts.append(losses(rows))
    return "\n".join(part for part in parts if part)


def heading(records):
    first = next((record for record in records if "machine" in record), None)
    if not first:
        return ""
    about = ", ".join(f"{key} {value}" for key, value in first["machine"].items())
    quick = "\n**A quick run: it shows that everything works, and no more. Its numbers mean nothing.**\n" if first.get("quick") else ""
    return f"# gvad beside its peers and beside the limit\n\n{about}\n{quick}"


def by_contender(rows):
    found = {}
    for row in rows:
        found.setdefault(row["contender"], []).append(row)
    order = [kind.name for kind in contenders.ALL]
    return dict(sorted(found.items(), key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order)))


def main_measure(workload):
    return next(measure for measure in workload.measures if measure.main)


def middle(rows, key):
    return median([row.get(key) for row in rows])


def spread(rows, key, form):
    values = sorted(row[key] for row in rows if row.get(key) is not None)
    return f"{form.format(values[0])} to {form.format(values[-1])}" if len(values) > 1 else "one round"


def ratio(value, other):
    return f"{value / other:.2f}" if value is not None and other else "–"


def one(workload, rows):
    """The table of one workload."""
    main = main_measure(workload)
    found = by_contender(rows)
    references = [name for name in dict.fromkeys((workload.reference, "gvad")) if name in found]
    base = {name: middle(found[name], main.key) for name in references}
    head = ["contender", main.title, "spread", *(f"against {name}" for name in references)]
    head += [measure.title for measure in workload.measures if not measure.main] + ["lost", "doubled"]
    lines = [f"## {workload.name}: {workload.title}\n", line(head), line(["---"] * len(head))]
    for name, mine in found.items():
        measured = [row for row in mine if row.get(main.key) is not None]
        if not measured:
            why = next((row.get("without") or row.get("failed") for row in mine if "without" in row or "failed" in row), "nothing was measured")
            lines.append(line([name, "–", why, *([""] * (len(head) - 3))]))
            continue
        value = middle(measured, main.key)
        cells = [name, main.form.format(value), spread(measured, main.key, main.form)]
        cells += [ratio(value, base[other]) for other in references]
        for measure in workload.measures:
            if not measure.main:
                other = middle(measured, measure.key)
                cells.append("–" if other is None else measure.form.format(other))
        cells += [counted(mine, "lost"), counted(mine, "doubled")]
        notes = {f"{row['cut_off_after_s']} s: cut off" for row in mine if "cut_off_after_s" in row}
        failed = sum("failed" in row for row in mine)
        notes |= {f"{failed} of {len(mine)} rounds failed"} if failed else set()
        cells[0] += f" ({'; '.join(sorted(notes))})" if notes else ""
        lines.append(line(cells))
    return "\n".join(lines) + "\n" + syncs(rows)


def syncs(rows):
    """How even the ground was: what a sync cost before each measurement."""
    took = sorted(row["sync_us"] for row in rows if row.get("sync_us"))
    if not took:
        return ""
    return f"\nA sync took {took[0]:.0f} to {took[-1]:.0f} µs before these measurements, the middle one {median(took):.0f} µs.\n"


def price(rows):
    """What each guarantee adds to the least that there is."""
    found = by_contender([row for row in rows if row["workload"] == "backlog-1000"])
    values = {name: value for name, mine in found.items() if (value := middle(mine, "us")) is not None}
    cpu = {name: middle(mine, "cpu_us") for name, mine in found.items()}
    least = values.pop("c-watch", None)
    head = ["C program", "adds", "µs a script", "CPU µs a script"]
    lines = ["## What each guarantee adds (backlog-1000, to c-watch)\n", line(head), line(["---"] * len(head))]
    for kind in contenders.limit.ALL + contenders.gvad.ALL:
        if least is not None and kind.name in values:
            spent = cpu[kind.name] - cpu["c-watch"]
            lines.append(line([kind.name, kind.title, f"{values[kind.name] - least:+.0f}", f"{spent:+.0f}"]))
    return "\n".join(lines) + "\n" if len(lines) > 3 else ""


def counted(rows, key):
    present = [row for row in rows if key in row]
    total = sum(row[key] for row in present)
    return f"**{total}** of {sum(row['scripts'] for row in present)}" if total else ("0" if present else "–")


def line(cells):
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def summary(rows):
    """gvad's ratios at a glance: against the limit, and against the best of the peers."""
    limits = {kind.name for kind in contenders.limit.ALL}
    own = {kind.name for kind in contenders.gvad.ALL}
    head = ["measure", "gvad", "against the limit", "which", "against the best peer", "which"]
    lines = ["## gvad at a glance (below 1: gvad is ahead)\n", line(head), line(["---"] * len(head))]
    for workload in workloads.ALL:
        main = main_measure(workload)
        found = by_contender([row for row in rows if row["workload"] == workload.name])
        values = {name: value for name, mine in found.items() if (value := middle(mine, main.key)) is not None}
        if "gvad" not in values:
            continue
        peers = {name: value for name, value in values.items() if name not in limits and name not in own}
        best = min(peers, key=peers.get, default=None)
        limit = workload.reference if workload.reference in values else None
        cells = [f"{workload.name}, {main.title}", main.form.format(values["gvad"])]
        cells += [ratio(values["gvad"], values.get(limit)), limit or "–", ratio(values["gvad"], peers.get(best)), best or "–"]
        lines.append(line(cells))
    return "\n".join(lines) + "\n" if len(lines) > 3 else ""


def losses(rows):
    """Who has lost or doubled scripts, over everything."""
    bad = []
    for name, mine in by_contender(rows).items():
        lost, doubled = counted(mine, "lost"), counted(mine, "doubled")
        if "**" in lost + doubled:
            bad.append(f"- {name}: lost {lost}, run again {doubled}")
    said = "\n".join(bad) if bad else "No contender lost a script or ran one twice."
    return f"## Lost and doubled runs\n\n{said}\n"
