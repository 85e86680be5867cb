"""The words of the command line. Options that are not given are absent, so every default stands in one place: Python."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn

from pcdiff import __version__
from pcdiff.cli import commands
from pcdiff.cli.arguments import CLUSTER, GENERATOR, OneOf, add_reading, count
from pcdiff.cli.data_parser import add_data
from pcdiff.cli.sampling_parser import add_sampling
from pcdiff.errors import suggest

__all__ = ["build_parser", "parse"]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command and its options; ``args.run(args)`` does the work.

    Raises:
        SystemExit: 0 after --help or --version; 2 with one line on stderr for a wrong word.
    """
    args, rest = build_parser().parse_known_args(argv)
    if "overrides" in args:
        # argparse gives up on them after an option: train CONFIG --resume optim.lr=1e-3
        args.overrides += [word for word in rest if not word.startswith("-")]
        rest = [word for word in rest if word.startswith("-")]
    if rest:
        args.parser.refuse(rest)
    return args


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line with the nearest word that it knows.

    Attributes:
        function: the Python function behind the command, as ``module.name``, whose defaults the help shows.
    """

    function: str | None = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, argument_default=argparse.SUPPRESS, **kwargs)

    def format_help(self) -> str:
        """The help, with the defaults that Python has."""
        defaults = {} if self.function is None else _defaults(self.function)
        # Once: the help may be asked for again.
        self.function = None
        for action in self._actions:
            if action.dest in defaults and not action.required:
                action.help = f"{action.help}; default: {defaults[action.dest]}"
            elif isinstance(action.type, OneOf) and str(action.type) not in str(action.help):
                action.help = f"{action.help}: {action.type}; default: the generator's own"
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"argument (.*): invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice:
            where, found, known = choice[1], choice[2], re.findall(r"[\w.-]+", choice[3])
            what = f"no command {found!r}" if where == "COMMAND" else f"{where}: no choice {found!r}"
            message = f"{what}: {suggest(found, known)}"
        self.exit(2, f"{self.prog}: error: {message}\n")

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """End with the first of the words that were not understood."""
        for word in words:
            if word.startswith("-"):
                name = word.partition("=")[0]
                options = [option for action in self._actions for option in action.option_strings]
                self.error(f"no option {name}: {suggest(name, options)}")
        self.error(f"one word too many: {words[0]!r}")


def build_parser() -> _Parser:
    """The parser of all commands."""
    parser = _Parser(prog="pcdiff", description="Diffusion models that generate physics point clouds.")
    parser.add_argument("--version", action="version", version=f"pcdiff {__version__}")
    parser.set_defaults(parser=parser, debug=bool(os.environ.get("PCDIFF_DEBUG")))
    names = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_training(names)
    add_sampling(names, _command)
    _add_judgement(names)
    _add_files(names)
    add_data(_group(names, "data", "make and fetch data sets"), _command, _group)
    _add_tracking(names)
    _add_config(names)
    return parser


def _command(
    names: Any, name: str, run: Callable[[argparse.Namespace], None], text: str, function: str | None = None
) -> _Parser:
    parser: _Parser = names.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.function = function
    parser.add_argument("--debug", action="store_true", help="show where in the code an error comes from")
    parser.set_defaults(run=run, parser=parser)
    return parser


def _group(names: Any, name: str, text: str) -> Any:
    parser: _Parser = names.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(parser=parser)
    return parser.add_subparsers(metavar="COMMAND", required=True)


def _add_training(names: Any) -> None:
    train = _command(names, "train", commands.train, "train a generator")
    train.add_argument("config", metavar="CONFIG", help="YAML file, name of a shipped one, or a run folder")
    train.add_argument("overrides", metavar="KEY.PATH=VALUE", nargs="*", default=[], help="for example optim.lr=1e-3")
    train.add_argument("--resume", action="store_true", help="continue the run from its newest checkpoint")

    distill = _command(
        names, "distill", commands.distill, "teach a generator of one or two steps what another does in many"
    )
    distill.add_argument("config", metavar="CONFIG", help="YAML file, name of a shipped one, or a run folder")
    distill.add_argument("overrides", metavar="KEY.PATH=VALUE", nargs="*", default=[], help="for example steps=2")
    distill.add_argument("--resume", action="store_true", help="continue the run from its newest checkpoint")

    info = _command(names, "info", commands.info, "what is known of a run or a generator, or of this installation")
    info.add_argument("path", metavar="RUN", nargs="?", type=Path, default=None, help=GENERATOR)


def _add_judgement(names: Any) -> None:
    likelihood = _command(
        names,
        "likelihood",
        commands.likelihood,
        "how likely point clouds are under a generator, in nats",
        "pcdiff.density.cloud_log_likelihood",
    )
    _add_clouds(likelihood)
    likelihood.add_argument("--steps", metavar="STEPS", type=count, help="Runge-Kutta steps of the ODE")
    likelihood.add_argument("--probes", metavar="N", type=count, help="random probes of the divergence")
    likelihood.add_argument("--exact", action="store_true", help="take the divergence exactly: slow for large clouds")
    likelihood.add_argument("--seed", metavar="SEED", type=int, help="seed of the probes")
    likelihood.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps")

    posterior = _command(
        names,
        "posterior",
        commands.posterior,
        "what universe catalogues are from: the posterior of features that a generator is conditioned on",
        "pcdiff.inference.posteriors",
    )
    _add_clouds(posterior)
    posterior.add_argument(
        "--feature",
        metavar="NAME",
        dest="features",
        action="append",
        help="feature to infer, twice for two; default: all that the generator is conditioned on",
    )
    posterior.add_argument("--levels", metavar="N", type=count, help="levels of noise, with two draws each")
    posterior.add_argument("--seed", metavar="SEED", type=int, help="seed of the noise")
    posterior.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps")

    evaluate = _command(
        names,
        "evaluate",
        commands.evaluate,
        "compare generated samples with the truth",
        "pcdiff.evaluation.evaluate",
    )
    evaluate.add_argument("truth", metavar="TRUTH", help="file or glob of true clouds")
    evaluate.add_argument("samples", metavar="SAMPLE", nargs="+", help="files of generated clouds")
    evaluate.add_argument("-o", "--output", metavar="FOLDER", type=Path, help="write the report here")
    evaluate.add_argument("--reference", metavar="FILE", help="further true clouds, to measure the floor with")
    add_reading(evaluate, "--format", "TRUTH and of the file of --reference")
    evaluate.add_argument("--training", metavar="FILE", help="what the generator learned from, to see if it repeats it")
    _add_judging(evaluate)
    evaluate.add_argument("--seed", metavar="SEED", type=int, help="seed of the resampling")
    evaluate.add_argument(
        "--most",
        metavar="N",
        type=count,
        help="clouds of each set that are used at most, a random part of more",
    )

    reweight = _command(
        names,
        "reweight",
        commands.reweight,
        "give generated clouds weights that make them look like the truth",
        "pcdiff.evaluation.reweighting.reweight",
    )
    reweight.add_argument("truth", metavar="TRUTH", help="file or glob of true clouds")
    reweight.add_argument("sample", metavar="SAMPLE", help="file or glob of generated clouds")
    reweight.add_argument(
        "-o", "--output", metavar="FILE", type=Path, required=True, help="the generated clouds with a column weight"
    )
    reweight.add_argument("--report", metavar="FOLDER", type=Path, help="write a report of the closure here")
    reweight.add_argument("--kind", metavar="KIND", choices=("boosted", "net"), help="the classifier: boosted or net")
    reweight.add_argument(
        "--folds", metavar="N", type=count, help="number of parts, each weighted by what the others say"
    )
    reweight.add_argument("--held-out", metavar="SHARE", type=float, help="share of the truth set aside for the report")
    reweight.add_argument("--clip", metavar="W", type=float, help="cut weights above W times their mean; default: none")
    reweight.add_argument("--seed", metavar="SEED", type=int, help="seed of the folds and of the training")
    add_reading(reweight, "--format", "TRUTH")

    compare = _command(
        names,
        "compare",
        commands.compare,
        "compare the generators of several runs with one truth",
        "pcdiff.comparison.compare_runs",
    )
    compare.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="run folders, or names of generators that come with pcdiff"
    )
    compare.add_argument("-o", "--output", metavar="FOLDER", type=Path, required=True, help="write the report here")
    compare.add_argument(
        "--truth", metavar="FILE", help="true clouds; those that the runs were validated on when absent"
    )
    compare.add_argument("-n", dest="count", metavar="N", type=count, help="number of clouds of each generator")
    add_reading(compare, "--format", "--truth")
    _add_judging(compare)
    compare.add_argument("--seed", metavar="SEED", type=int, help="seed of the clouds and of the resampling")
    compare.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps")


def _add_clouds(parser: _Parser) -> None:
    """A generator, and clouds that it is asked about."""
    parser.add_argument("generator", metavar="GENERATOR", type=Path, help=GENERATOR)
    parser.add_argument("file", metavar="FILE", help="file or glob of point clouds")
    parser.add_argument("-n", dest="n", metavar="N", type=count, help="only the first N clouds; default: all")
    add_reading(parser, "--from", "FILE")


def _add_judging(parser: _Parser) -> None:
    """The options that say how samples are compared with the truth."""
    parser.add_argument(
        "--classifier",
        metavar="KIND",
        dest="classifiers",
        action="append",
        choices=("boosted", "net"),
        help="let a classifier tell generated from true: boosted trees on observables, or a net on constituents; may be repeated",
    )
    parser.add_argument(
        "--fpnd", action="store_true", help="also FPND from real JetNet jets; first: pcdiff data fetch fpnd"
    )
    parser.add_argument("--draws", metavar="N", type=count, help="number of bootstrap resamples")
    parser.add_argument("--workers", metavar="N", type=count, help="processes that compute observables")
    parser.add_argument("--dask", metavar="WHERE", help=f"a cluster in their place: {CLUSTER}")


def _add_files(names: Any) -> None:
    inspect = _command(
        names, "inspect", commands.inspect, "what is inside a file, and which reader fits; or what a generator is"
    )
    inspect.add_argument("file", metavar="FILE", help=f"file or glob; or {GENERATOR}")
    add_reading(inspect, "--format", "FILE")

    convert = _command(names, "convert", commands.convert, "write point clouds in another format", "pcdiff.io.iterate")
    convert.add_argument("inputs", metavar="INPUT", nargs="+", help="files or globs")
    convert.add_argument("output", metavar="OUTPUT", type=Path, help="the suffix decides the format")
    convert.add_argument("--format", metavar="NAME", help="format of the output, where the suffix does not say")
    convert.add_argument("--step-size", metavar="N", type=count, help="most clouds in memory at a time")
    add_reading(convert, "--from", "each INPUT")


def _add_tracking(names: Any) -> None:
    track = _group(names, "track", "work with the tracking store")
    sync = _command(track, "sync", commands.sync, "send what the tracking store lacks of a run")
    sync.add_argument("run_folder", metavar="RUN", type=Path)
    sync.add_argument("--uri", metavar="URI", help="the store; that of the run when absent")

    ui = _command(names, "ui", commands.ui, "show the MLflow page of the tracking store", "pcdiff.tracking.ui")
    ui.add_argument("--uri", metavar="URI", help="the store; default: $MLFLOW_TRACKING_URI, else ./mlflow.db")
    ui.add_argument("--port", metavar="PORT", type=count, help="port to serve it on")


def _add_config(names: Any) -> None:
    config = _group(names, "config", "look at configurations")
    schema = _command(config, "schema", commands.schema, "print the JSON schema of a config, for editors")
    schema.add_argument("--distill", action="store_true", help="that of pcdiff distill instead of pcdiff train")
    show = _command(config, "show", commands.show, "print a config with every default written out")
    show.add_argument("config", metavar="CONFIG", help="YAML file, name of a shipped one, or a run folder")
    show.add_argument("overrides", metavar="KEY.PATH=VALUE", nargs="*", default=[], help="for example optim.lr=1e-3")


def _defaults(function: str) -> dict[str, str]:
    """The defaults of a Python function by name, in the words of the command line; None says nothing to its reader."""
    module, _, name = function.rpartition(".")
    parameters = signature(getattr(import_module(module), name)).parameters.values()
    found = {p.name: p.default for p in parameters if p.default is not p.empty and p.default is not None}
    return {
        name: ":".join(f"{bound:g}" for bound in default) if isinstance(default, tuple) else str(default)
        for name, default in found.items()
    }
