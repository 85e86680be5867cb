"""The command line. It parses, calls the Python functions of the same names, and prints; nothing else happens here.

Exit codes: 0 done; 2 the user's input was refused, with one line on stderr for each mistake; 130 interrupted; 1 a bug, with
its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pcdiff.cli.parser import parse
from pcdiff.errors import ConfigError, PcdiffError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: its words, without the program's name; those of the process when absent.

    Returns:
        The exit code.
    """
    try:
        args = parse(sys.argv[1:] if argv is None else list(argv))
    except SystemExit as stop:
        # argparse leaves this way after --help, --version and its own errors.
        return int(stop.code or 0)
    try:
        args.run(args)
        sys.stdout.flush()
    except PcdiffError as error:
        if args.debug:
            raise
        # A config has a line for each mistake; every other error is one line.
        lines = str(error).splitlines() if isinstance(error, ConfigError) else [" ".join(str(error).split("\n"))]
        return _refuse(lines)
    except BrokenPipeError:
        # Whoever read the output, such as head, has seen enough; Python must not complain when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if args.debug or error.filename is None:
            raise
        return _refuse([f"{error.filename}: {error.strerror}"])
    except KeyboardInterrupt:
        sys.stderr.write("pcdiff: interrupted\n")
        return 130
    return 0


def _refuse(lines: Sequence[str]) -> int:
    for line in lines:
        sys.stderr.write(f"pcdiff: error: {line}\n")
    return 2
