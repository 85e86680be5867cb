"""What each command that makes or fetches data does with its options."""

from __future__ import annotations

import argparse
from pathlib import Path

from pcdiff.cli.commands import given, say

__all__ = ["fetch", "make_halos", "make_jets", "make_toy"]


def make_jets(args: argparse.Namespace) -> None:
    """``pcdiff data make jets``"""
    from pcdiff.data import make_jets

    output = args.output if "output" in args else Path("data", f"jets_{args.process}_{args.count}.hdf5")
    chosen = given(
        args, "seed", "radius", "pt", "eta", "constituents", "significant_bits", "max_ctau", "labels", "workers", "dask"
    )
    say(str(make_jets(output, process=args.process, count=args.count, **chosen)))


def make_halos(args: argparse.Namespace) -> None:
    """``pcdiff data make halos_pm``"""
    from pcdiff.data import make_halos

    output = args.output if "output" in args else Path("data", f"halos_pm_{args.count}.hdf5")
    chosen = given(args, "seed", "omega_m", "sigma_8", "steps", "refinement", "workers", "dask")
    say(str(make_halos(output, count=args.count, **chosen)))


def make_toy(args: argparse.Namespace) -> None:
    """``pcdiff data make toy``"""
    from pcdiff.data import toy
    from pcdiff.io import write

    output = args.output if "output" in args else Path("data", f"toy_{args.shape}_{args.count}.parquet")
    say(str(write(toy(args.shape, args.count, **given(args, "seed")), output)))


def fetch(args: argparse.Namespace) -> None:
    """``pcdiff data fetch``"""
    if args.name == "fpnd":
        from pcdiff.evaluation.fpnd import fetch_fpnd_resources

        say(str(fetch_fpnd_resources(**given(args, "output"))))
        return
    from pcdiff.data import fetch

    say(str(fetch(args.name, **given(args, "type", "output"))))
