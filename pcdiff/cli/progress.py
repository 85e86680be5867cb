"""The progress bar of commands that pass clouds along."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from pcdiff.clouds import PointClouds

__all__ = ["counted"]


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} a second")


def counted(pieces: Iterable[PointClouds], label: str, total: int | None = None) -> Generator[PointClouds, None, None]:
    """The same pieces, under a bar on stderr that counts clouds; ``total`` is their number, where known."""
    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate()]
    if total is not None:
        columns += [TextColumn("left"), TimeRemainingColumn()]
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)
        for piece in pieces:
            yield piece
            progress.advance(task, len(piece))
