"""The command line. It parses, calls the Python functions of the same names, and prints; nothing else happens here.

Exit codes: 0 done; 2 the user's input was refused, with one line on stderr for each mistake; 128 + N ended by signal N, for
example 130 by Ctrl-C; 1 a bug, with its traceback.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from pcdiff.allocator import keep_freed_memory
from pcdiff.cli.parser import parse
from pcdiff.errors import ConfigError, PcdiffError

__all__ = ["main"]

# Windows has no SIGHUP.
_ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


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
    keep_freed_memory()
    try:
        with _orderly_end():
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
    except KeyboardInterrupt as stop:
        # Training says where it was saved.
        sys.stderr.write(f"pcdiff: {': '.join(filter(None, ['interrupted', str(stop)]))}\n")
        return 128 + signal.SIGINT
    return 0


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Let a request to end pass through the code as an exception, so that temporary files and servers go as well."""

    def end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
        raise SystemExit(128 + number)

    # A signal that is ignored stays so: nohup relies on it. Python sets handlers in the main thread only.
    main_thread = threading.current_thread() is threading.main_thread()
    numbers = [n for n in _ENDS if main_thread and signal.getsignal(n) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _refuse(lines: Sequence[str]) -> int:
    for line in lines:
        sys.stderr.write(f"pcdiff: error: {line}\n")
    return 2
