"""Tables of docs/scaling.md: a training on JetClass, and what pcdiff would have to change for both cases."""

from __future__ import annotations

import large_cases_model as model
from large_cases_model import LARGE, SHARD, Facts
from large_cases_sampling import Part, few, row
from tables import digits, duration, size

from pcdiff.generator import WINDOW

# GPUs, and processes of one core each, on so many nodes.
_GPUS = {"1 GPU": 1, "1 node": 4, "10 nodes": 40, "100 nodes": 400}
_CORES = {"1 core": 1, "1 node": 64, "10 nodes": 640, "100 nodes": 6400}


def data(facts: Facts) -> Part:
    """JetClass on the disk, and one pass through it."""
    found, (columns, encoded) = facts.own["training"], facts.arrays
    raw, jets = model.TRAINING_JETS * model.CONSTITUENTS * 4, model.TRAINING_JETS
    read, every = jets * facts.jetclass / found["read"], model.GPUS * model.NODES
    both = columns + encoded
    missed = facts.batch / model.CONSTITUENTS * model.RANDOM_READ
    return [
        row("what | | note"),
        row(f"the files, particles uncompressed | {size(raw * model.BRANCHES)} | an upper limit: they are compressed; what they take was found in no source"),
        row(f"of these read | {size(raw * model.BRANCHES_READ)} | uncompressed"),
        row(f"columns on the disk of the run, a process | {size(columns)} | as long as the run lasts"),
        row(f"encoded, a process | {size(encoded)} | likewise; batches are read from these"),
        row(f"both, the {model.GPUS:.0f} processes of a node | {size(model.GPUS * both)} | {size(model.GPUS * encoded)} of them are read in each pass; a node has {size(model.MEMORY)} of memory"),
        row(f"both, {every:.0f} processes | {size(every * both)} | {duration(every * both / model.FILESYSTEM)} of the file system"),
        row(f"read and decoded, one core | {duration(read)} | "),
        row(f"read, kept, encoded, fingerprinted, one core | {duration(facts.loading)} | at each start and resumption, by each process for itself; further cores do not help"),
        row(f"the order of an epoch | {duration(jets * found['order']['seconds'])} | {size(jets * found['order']['bytes'])} of memory, a process"),
        row(f"a batch that is not in memory | {duration(missed)} | a random read for each of its jets; a step of the H200 is {duration(facts.gpu_step)}"),
    ]  # fmt: skip


def steps(facts: Facts) -> Part:
    """Optimiser steps, and time on what was measured."""
    lines = [
        row(
            f"on | a step | jets/s | 10¹² operations/s | steps a pass | one pass | {model.PASSES:g} passes | {facts.shipped_steps:,} steps, as {LARGE}"
        )
    ]
    rows = {
        "one core, float32": facts.core_step,
        "64 cores, a process each": facts.step(64, gpu=False).seconds,
        "one H200": facts.gpu_step,
    }
    for name, seconds in rows.items():
        rate, whole = digits(facts.batch / model.CONSTITUENTS / seconds), facts.steps * seconds
        done = digits(facts.operations / seconds / 1e12)
        times = " | ".join(map(duration, (whole, model.PASSES * whole, facts.shipped_steps * seconds)))
        lines.append(row(f"{name} | {duration(seconds)} | {rate} | {done} | {facts.steps:,.0f} | {times}"))
    return lines


def processes(facts: Facts) -> Part:
    """One training on many GPUs."""
    lines = [
        row(
            f"GPUs | jets a batch | whole batch | share of the net | ring | tree | a step | times as fast | steps a pass | {model.PASSES:g} passes"
        )
    ]
    alone = facts.step(1).seconds
    for growing in (False, True):
        for count in _GPUS.values():
            growth = count if growing else 1
            one, number = facts.step(count, growth), facts.steps / growth
            sums = [summed(one.gradients, count, model.NETWORK, model.LATENCY) for summed in (model.ring, model.tree)]
            times = " | ".join(map(duration, (one.whole_batch, one.share, *sums, one.seconds)))
            jets, faster = growth * facts.batch / model.CONSTITUENTS, digits(growth * alone / one.seconds)
            whole = duration(model.PASSES * number * one.seconds)
            lines.append(row(f"{count} | {jets:,.0f} | {times} | {faster} | {number:,.0f} | {whole}"))
    return lines


def checkpoints(facts: Facts) -> Part:
    """What a lost node costs a training with the batch of one GPU."""
    every = facts.checkpoint_every
    lines = [
        row(
            f"GPUs | {every:,} steps, a checkpoint | nodes lost in the run, one in {duration(model.MTBF)} each | one in {duration(model.PREEMPTED)} each | steps done again | reading again"
        )
    ]
    for count in _GPUS.values():
        seconds, nodes = facts.step(count).seconds, max(1.0, count / model.GPUS)
        whole = model.PASSES * facts.steps * seconds + facts.reading(count)
        lost = " | ".join(few(nodes * whole / mtbf) for mtbf in (model.MTBF, model.PREEMPTED))
        lines.append(
            row(
                f"{count} | {duration(every * seconds)} | {lost} | {duration(every * seconds / 2)} | {duration(facts.reading(count))}"
            )
        )
    return lines


def bottlenecks(facts: Facts) -> Part:
    """The longest part at each scale, with the batch of one process."""
    lines: Part = []
    number = model.PASSES * facts.steps
    read = model.TRAINING_JETS * model.CONSTITUENTS * 4 * model.BRANCHES_READ
    for gpu, scales in ((False, _CORES), (True, _GPUS)):
        for scale, count in scales.items():
            one = facts.step(count, gpu=gpu)
            parts = {
                "decoding": facts.loading / (1 if gpu or count == 1 else model.EFFICIENCY),
                "file system": count * (read + sum(facts.arrays)) / model.FILESYSTEM,
                "whole batches": number * one.whole_batch,
                "net": number * one.share,
                "sum of gradients": number * one.summing,
            }
            lines = lines or [["on", *parts, "together", "longest"]]
            # A process decodes while the file system reads and writes for others.
            whole = max(parts["decoding"], parts["file system"]) + number * one.seconds
            name = scale if scale.startswith("1 ") and "node" not in scale else f"{scale}, {'GPUs' if gpu else 'cores'}"
            longest = max(parts, key=lambda part: parts[part])
            lines.append([name, *map(duration, parts.values()), duration(whole), longest])
    return lines


def changes(facts: Facts) -> Part:
    """What to change in pcdiff, and what it would gain, the most for the least first."""
    best, merge, both, loading = facts.best(LARGE), facts.merging(LARGE, "ROOT"), sum(facts.arrays), facts.loading
    usual, small = (facts.sampling(LARGE, best, shard=shard) for shard in (SHARD, WINDOW))
    kept = facts.arrays[1] / facts.own["training"]["fingerprint"]
    alone, many = facts.step(1), facts.step(400, 400)
    most, drawn = 400 * alone.seconds, many.seconds - many.whole_batch + facts.host
    ahead = alone.seconds / max(alone.whole_batch, alone.share)
    memory = size(model.JETS * facts.own["formats"][LARGE]["in_memory"])
    rows = [
        f"count the shards of a sample without joining them; readers take the folder by a glob | `production.merge`, the command without `-o` | hours | {LARGE}: {duration(merge)} to {duration(facts.looking)}",
        f"see whose a shard is by the JSON at its end, without reading jets | `production._about`, through `Format.describe` | hours | {duration(facts.looking)} to the opening of {usual.shards:,} files",
        f"a number of shards that keeps all workers busy to the end | `production.sample_in_shards`; today by hand, `--shards` | hours | {LARGE}, 100 nodes: {duration(usual.wall)} to {duration(small.wall)}",
        f"encoded clouds in a file with a name, made by local process 0, mapped by all of its node | `training_data`, `mapped.GrowingArray` | days | {size(model.GPUS * both)} to {size(both)} a node",
        f"and kept for the next start, under the fingerprint of files and config | the same | days | each resumption: {duration(loading)} to {duration(kept)}, the SHA-256 of what is kept",
        f"each process reads its part of the files | `training_data.read_clouds`, `distributed` | days | {duration(loading)} to {duration(loading / model.GPUS)} on one node of GPUs, {duration(loading / 400)} on 100",
        f"the next batch made in a thread while the net computes | `training._batches` | days | one GPU: {digits(ahead)} times as fast",
        f"joining on many processes, into as many files as are wanted | `production.merge`, `executors` | days | {duration(merge)} to {duration(merge / model.NODES)} with one process on each node",
        f"each process draws and puts together its share alone: noise from (seed, step, cloud) as in `noise` | `loader`, `denoising.draw`; other numbers for each seed | weeks | 400 GPUs, growing batch: {digits(most / many.seconds)} to {digits(most / drawn)} times as fast as one",
        f"metrics that add up over shards: sums in bins in place of all values | `physics.measure`, `evaluation.metric` | weeks | {memory} of memory to that of one shard; it would tell no more of these generators",
    ]  # fmt: skip
    return [
        row(" | change | where | effort | gain"),
        *(row(f"{number} | {text}") for number, text in enumerate(rows, 1)),
    ]
