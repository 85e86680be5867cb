"""The words of the command line that sample a generator, or prepare it for that."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pcdiff.cli import sampling_commands as commands
from pcdiff.cli.arguments import CLUSTER, GENERATOR, OneOf, add_reading, count, shard

__all__ = ["add_sampling"]


def add_sampling(names: Any, command: Callable[..., Any]) -> None:
    """Add them.

    Args:
        names: the words after ``pcdiff``.
        command: makes a command of the parser.
    """
    sample = command(names, "sample", commands.sample, "generate point clouds")
    sample.add_argument("generator", metavar="GENERATOR", type=Path, help=GENERATOR)
    sample.add_argument("-n", dest="n", metavar="N", type=count, help="number of clouds; that of --given by default")
    sample.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        required=True,
        help="the suffix decides the format; with --dask a folder of shards",
    )
    sample.add_argument("--format", metavar="NAME", help="format of the output, where the suffix does not say")
    _add_shards(sample)
    # Asking Python for its defaults would take the seconds that torch needs; a test compares them.
    sample.add_argument(
        "--seed",
        metavar="SEED",
        type=int,
        help="the same seed gives the same clouds; default: 0, so two calls without it give the same clouds",
    )
    sample.add_argument(
        "--given", metavar="FILE", help="take number of points, features and type of each cloud from here"
    )
    add_reading(sample, "--from", "the file of --given")
    sample.add_argument(
        "--set",
        metavar="NAME=VALUE",
        dest="conditions",
        action="append",
        help="only clouds of this type (type=t, or type=t,w for several), number of points (number_of_points=25) or cloud feature "
        "(pt=1000), or in this window, ends included (pt=900:1100); may be repeated",
    )
    _add_sampler(sample)
    sample.add_argument(
        "--sampler-option",
        metavar="KEY=VALUE",
        dest="sampler_options",
        action="append",
        help="further setting of the sampler, for example eta=0.5; may be repeated",
    )
    sample.add_argument(
        "--trajectory",
        metavar="N",
        nargs="?",
        const=4,
        type=count,
        help="also write the sampler's intermediates of the first N clouds, 4 when N is absent, and a picture of them",
    )
    sample.add_argument(
        "--precision",
        metavar="NAME",
        type=OneOf("precision"),
        help="what the net is computed in; auto: bfloat16, in half the time, where the hardware multiplies in it",
    )
    sample.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps; default: auto")

    export = command(names, "export", commands.export, "write a whole generator as one ONNX file, for C++ programs")
    export.add_argument("generator", metavar="GENERATOR", type=Path, help=GENERATOR)
    export.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="for example gluon30.onnx")
    _add_sampler(export)

    command(names, "generators", commands.generators, "list the generators that come with pcdiff")

    grid = command(names, "grid", commands.grid, "fit the sampler's times to a generator, and keep them in it")
    grid.add_argument("generator", metavar="GENERATOR", type=Path, help=GENERATOR)
    grid.add_argument(
        "--steps", metavar="STEPS", nargs="+", type=count, help="numbers of steps to fit; default: 5 10 20"
    )
    grid.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps; default: auto")

    merge = command(names, "merge", commands.merge, "join the shards of a sample to one file")
    merge.add_argument("shards", metavar="SHARDS", nargs="+", help="a folder of shards, files or globs, in any order")
    merge.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the suffix decides the format")
    merge.add_argument("--format", metavar="NAME", help="format of the output, where the suffix does not say")


def _add_sampler(parser: argparse.ArgumentParser) -> None:
    """The options that override a generator's default sampler."""
    parser.add_argument(
        "--steps", metavar="STEPS", type=count, help="number of steps of the sampler; default: the generator's own"
    )
    parser.add_argument("--order", metavar="ORDER", type=OneOf("order"), help="order of the sampler")
    parser.add_argument("--grid", metavar="NAME", type=OneOf("grid"), help="how the times are spread")
    parser.add_argument("--sampler", metavar="NAME", type=OneOf("sampler"), help="the sampler (docs/methods.md)")
    parser.add_argument("--denoise", action="store_true", help="end with one evaluation that takes out the last noise")
    parser.add_argument("--guidance", metavar="SCALE", type=float, help="strength of classifier-free guidance; 1: none")


def _add_shards(parser: argparse.ArgumentParser) -> None:
    """The options that split a sample."""
    parser.add_argument(
        "--shard",
        metavar="I/N",
        type=shard,
        help="only this of N shards, I from 0 on, for one of N batch jobs; pcdiff merge joins them",
    )
    parser.add_argument(
        "--dask",
        metavar="WHERE",
        help=f"make shards on a cluster: {CLUSTER}; pcdiff merge joins them",
    )
    parser.add_argument(
        "--shards", metavar="N", type=count, help="number of shards of --dask; default: one for each 131,072 clouds"
    )
