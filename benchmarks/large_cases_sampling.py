"""Tables of docs/scaling.md: what is assumed and measured, and 10^9 generated jets."""

from __future__ import annotations

from typing import Any

import large_cases_model as model
from large_cases_model import FAST, LARGE, PYTHIA, SHARD, Facts, Sampling
from measuring import described
from tables import digits, duration, size

from pcdiff.generator import WINDOW

Part = list[list[str]]
UNKNOWN = "not measured"


def row(line: str) -> list[str]:
    """Cells with bars between them."""
    return [cell.strip() for cell in line.split("|")]


def assumptions(facts: Facts) -> Part:  # noqa: ARG001
    """What was not measured."""
    lines = [row("name | value | why")]
    for name, value in model.ASSUMED.items():
        # Bytes and what comes after them; else the number with its unit.
        shown = f"{size(value)}{value.unit[5:]}" if value.unit.startswith("bytes") else f"{value:,.9g} {value.unit}"
        lines.append([f"`{name}`", shown.strip(), value.why])
    return lines


def measurements(facts: Facts) -> Part:
    """What was, on how much, and by which script."""
    own, found = facts.own, facts.own["training"]
    jets, shards, dask, order = own["formats"][FAST], own["shards"], own["dask"], found["order"]
    merged = ", ".join(f"{rate:,.0f} jets/s" for rate in shards["jets_per_second"].values())
    processes = UNKNOWN if facts.processes is None else _processes(facts.processes)
    evaluating = UNKNOWN if facts.memory is None else _evaluating(facts.memory)
    return [
        row("what | found | of | script"),
        row(f"start of `pcdiff sample` until the first jet | {duration(facts.start)} | 10,000 and 100,000 jets | throughput"),
        row(f"jets/s and core, two cores over one: gluon30, {FAST} | {digits(facts.two_cores('gluon30'))}, {digits(facts.two_cores(FAST))} | 5 rounds of 10,000 jets | throughput"),
        row(f"Python files that it imports | {own['files']:,} | | this one"),
        row(f"a gluon jet in memory | {jets['in_memory']:.0f} B | {jets['jets']:,} jets of {jets['constituents']:.1f} | this one"),
        row(f"to see whose shard a file is | {duration(shards['seconds_to_look'])} | {shards['jets'] // 2:,} jets | this one"),
        row(f"`pcdiff merge` to Parquet, to ROOT | {merged} | {shards['jets']:,} gluon jets in two shards | this one"),
        row(f"SHA-256 of a file | {size(shards['sha256'])}/s | one of these shards | this one"),
        row(f"a task of Dask: scheduler and client, bytes | {duration(dask['seconds'])}, {dask['bytes']:,} B | {dask['tasks']:,} tasks that do nothing | this one"),
        row(f"reading the layout of JetClass | {found['read']:,.0f} jets/s | {found['jets']:,} jets of {found['constituents']:.1f} | this one"),
        row(f"the same, kept, encoded and fingerprinted | {found['loaded']:,.0f} jets/s | twice as many | this one"),
        row(f"their columns, encoded | {found['columns']:.0f} B, {found['encoded']:.0f} B a jet | as many | this one"),
        row(f"order of an epoch: time, memory | {1e9 * order['seconds']:.0f} ns, {order['bytes']:.0f} B a jet | {order['jets']:,} jets | this one"),
        row(f"a whole batch: put together, drawn | {found['together_ms']:.1f} ms, {found['drawn_ms']:.1f} ms | {found['points']:,.0f} points, mean of 8 | this one"),
        row(f"a checkpoint | {size(found['checkpoint'])} | {found['parameters']:,} parameters, Muon and AdamW | this one"),
        row(f"a step of {LARGE}, H200, bfloat16 | {duration(facts.gpu_step)} | {facts.shipped_steps:,} steps of {facts.batch:,} points | its card and training_log.csv"),
        row(f"a step of as many points, one core, float32 | {duration(facts.core_step)} | 3 rounds of 8 steps | scaling, that of gluon30-teacher"),
        row(f"a step of several processes | {processes} | | processes"),
        row(f"`pcdiff evaluate` of at most 100,000 jets a set | {evaluating} | | memory"),
    ]  # fmt: skip


def _processes(found: dict[str, Any]) -> str:
    return ", ".join(f"{one['processes']}: {one['milliseconds']:.1f} ms" for one in found["rows"])


def _evaluating(found: dict[str, Any]) -> str:
    rows = [one for one in found["rows"] if one["task"] == "evaluate"]
    return ", ".join(f"{duration(one['seconds'])} of {one['jets']:,} jets" for one in rows)


def sampling(facts: Facts) -> Part:
    """10^9 jets on 100 nodes."""
    lines = [
        row(
            "generator | net in | jets/s, one core | core-hours | a shard | rounds | wall | smallest shards: one | rounds | wall"
        )
    ]
    for name, about in facts.own["generators"].items():
        for precision, rate in about["jets_per_second"].items():
            usual, small = (facts.sampling(name, precision, shard=shard) for shard in (SHARD, WINDOW))
            line = [name, precision, digits(rate), f"{usual.core_seconds / 3600:,.0f}"]
            for one in (usual, small):
                line += [duration(one.seconds_a_shard), str(one.rounds), duration(one.wall)]
            lines.append(line)
    truth = Sampling(model.JETS, facts.stored(PYTHIA) * model.EFFICIENCY, SHARD, model.NODES * model.CORES)
    hours, wall = f"{truth.core_seconds / 3600:,.0f}", duration(truth.core_seconds / truth.workers)
    return [*lines, row(f"{PYTHIA} | - | {digits(facts.stored(PYTHIA))} | {hours} | - | - | {wall} | - | - | -")]


def files(facts: Facts) -> Part:
    """Bytes and times of each format."""
    lines = [
        row("format | " + " | ".join(f"{name}: a jet | 10⁹ jets | written in | read in" for name in (FAST, LARGE)))
    ]
    for kind in facts.own["formats"][FAST]["bytes"]:
        line = [kind]
        for about in (facts.own["formats"][name] for name in (FAST, LARGE)):
            times = [duration(model.JETS / about[way][kind]) for way in ("written", "read")]
            line += [f"{about['bytes'][kind]:,.0f} B", size(model.JETS * about["bytes"][kind]), *times]
        lines.append(line)
    return lines


def afterwards(facts: Facts) -> Part:
    """What one process does when all shards are there."""
    seen, names = facts.observables, (FAST, LARGE)
    observables = seen["others"]["seconds"] + seen["workers"] * seen["polynomials"]["seconds"]
    about = [facts.own["formats"][name] for name in names]
    evaluating = UNKNOWN if facts.memory is None else _evaluating(facts.memory)
    read = [duration(model.JETS / one["read"]["parquet"]) for one in about]
    return [
        row(f"what | {FAST} | {LARGE}"),
        ["`merge`: to see whose each shard is", *[duration(facts.looking)] * 2],
        *([f"`merge` to {kind}", *(duration(facts.merging(name, kind)) for name in names)] for kind in ("Parquet", "ROOT")),
        ["reading all shards once, as `evaluate` does for each set, whatever `--most` is", *read],
        ["`evaluate --most 100_000`: comparing", evaluating, UNKNOWN],
        ["`evaluate --most 1_000_000_000`: memory for the columns of each set", *(size(model.JETS * one["in_memory"]) for one in about)],
        ["the same: observables of each set, one core", duration(model.JETS * observables / seen["jets"]), UNKNOWN],
    ]  # fmt: skip


def enough(facts: Facts) -> Part:
    """How many jets tell a generator's error."""
    parts, jets = facts.quality["parts"], facts.quality["identity"]["jets"]
    floor = _mean(parts["truth"])
    lines = [
        row(f"generator | W1M of {jets:,}, 10⁻³ | floor | floor is a tenth of its own distance from | floor of 10⁹")
    ]
    for name in ("gluon30", FAST):
        value = _mean(parts[name])
        # What finite samples add is taken off as if both added up as squares.
        own = max(value**2 - floor**2, 0.0) ** 0.5
        needed = (
            f"not seen in {jets:,}"
            if own < floor / 2
            else f"{float(f'{jets * (10 * floor / own) ** 2:.1e}'):,.0f} jets"
        )
        last = f"{1e3 * floor * (jets / model.JETS) ** 0.5:.4f}"
        lines.append(row(f"{name} | {1e3 * value:.3f} | {1e3 * floor:.3f} | {needed} | {last}"))
    return lines


def _mean(part: dict[str, Any]) -> float:
    values = list(part["values"]["w1m"].values())
    return float(sum(values) / len(values))


def load(facts: Facts) -> Part:
    """What 100 nodes ask of what they share while they sample."""
    lines = [row("what | gluon30-fast | gluon30 | jets150")]
    opened, dask = facts.own["files"] * model.NODES, facts.own["dask"]
    columns = []
    for name in lines[0][1:]:
        one, small = (facts.sampling(name, facts.best(name), shard=shard) for shard in (SHARD, WINDOW))
        rate = facts.data(name) / one.wall
        columns.append(
            {
                "wall time of sampling": duration(one.wall),
                "written, all nodes": f"{size(rate)}/s",
                "of the file system": f"{rate / model.FILESYSTEM:.1%}",
                "of the network of a node": f"{rate / model.NODES / model.NETWORK:.2%}",
                "shards, operations on files": f"{one.shards:,}, {one.shards * model.METADATA_A_SHARD:,.0f}",
                "start: files opened, each once a node": f"{opened:,.0f}, {duration(opened / model.METADATA)}",
                "start: of a job for each shard, core-hours of all": digits(one.shards * facts.start / 3600),
                "start: files opened, each once a process": f"{opened * model.CORES:,.0f}, {duration(opened * model.CORES / model.METADATA)}",
                "Dask: tasks, bytes sent": f"{one.shards:,}, {size(one.shards * dask['bytes'])}",
                "Dask: scheduler and client at work": duration(one.shards * dask["seconds"]),
                "of the wall time": f"{one.shards * dask['seconds'] / one.wall:.1%}",
                "of the wall time, smallest shards": f"{small.shards * dask['seconds'] / small.wall:.1%}",
            }
        )
    return [*lines, *([what, *(column[what] for column in columns)] for what in columns[0])]


def failures(facts: Facts) -> Part:
    """Workers that die, and what it costs."""
    lines = [
        row(
            "generator | a node is lost every | jets a shard | nodes lost | workers killed | core-hours done again | of all | shards given up"
        )
    ]
    for name in facts.own["generators"]:
        for mtbf in (model.MTBF, model.PREEMPTED):
            for shard in (SHARD, WINDOW):
                one = facts.sampling(name, facts.best(name), shard=shard)
                killed, again = one.lost(model.NODES, model.CORES, mtbf)
                given_up = one.given_up(mtbf, model.DEATHS)
                lost = " | ".join(map(few, (killed / model.CORES, killed, again / 3600)))
                share = f"{again / one.core_seconds:.2%}"
                lines.append(row(f"{name} | {duration(mtbf)} | {shard:,} | {lost} | {share} | {few(given_up)}"))
    return lines


def few(number: float) -> str:
    """An expected number, which may be next to nothing."""
    return digits(number) if number >= 1e-3 else "below 0.001"


def bottlenecks(facts: Facts) -> Part:
    """The longest part at each scale."""
    scales = {"1 core": 1.0, "1 node": float(model.CORES), "10 nodes": 10 * model.CORES, "100 nodes": 100 * model.CORES}
    lines: Part = []
    for name in facts.own["generators"]:
        for scale, workers in scales.items():
            one, nodes = facts.sampling(name, facts.best(name), workers=workers), max(1.0, workers / model.CORES)
            parts = {
                "start": facts.start + facts.own["files"] * nodes / model.METADATA,
                "sampling": one.wall,
                "writing": facts.data(name) / model.FILESYSTEM,
                "scheduler": one.shards * facts.own["dask"]["seconds"],
                "merge to ROOT": facts.merging(name, "ROOT"),
            }
            lines = lines or [["generator", "on", *parts, "longest"]]
            longest = max(parts, key=lambda part: parts[part])
            lines.append([name, scale, *map(duration, parts.values()), longest])
    return lines


def notes(facts: Facts) -> list[str]:
    """What stands beside what was measured."""
    own = facts.own
    counts = ", ".join(
        f"{name} {' and '.join(f'{count:,}' for count in about['jets'])}" for name, about in own["generators"].items()
    )
    others = {"throughput": facts.throughput, "scaling": facts.scaling["batches"], "quality": facts.quality}
    dates = [f"{name} {about['conditions']['date']}" for name, about in others.items()]
    stored = ", ".join(f"{name} {facts.stored(name):,.0f}" for name in (FAST, "gluon30", PYTHIA))
    own_jets = (
        f"It takes seconds of the processor, not of the clock: sampling, loading and Dask once, all else the fastest of three. Jets sampled: {counts}; "
        f"those of each generator, repeated to {own['formats'][LARGE]['timed']:,} or more, are what formats are timed with."
    )
    elsewhere = (
        f"The others, in benchmarks/README.md: {', '.join(dates)}, observables {facts.observables['date']}; two cores of an AMD EPYC too, but "
        f"all but observables with AVX2 and without bfloat16. There, from the seed to a ROOT file: {stored} jets/s."
    )
    mine, versions = described(own["conditions"])
    return [
        f"This one, `OMP_NUM_THREADS=1 python benchmarks/large_cases.py --measure`: {mine}",
        versions,
        own_jets,
        elsewhere,
    ]
