"""The report: one self-contained HTML page, the figures as PNG and PDF, and every number as JSON."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from pcdiff.evaluation.plots import figure, plane
from pcdiff.evaluation.result import SIGNIFICANT, ComparedSet, Evaluation
from pcdiff.files import atomic_folder, write_json
from pcdiff.physics import Measured, observables, planes

__all__ = ["write_report"]


def write_report(evaluation: Evaluation, truth: Measured, samples: Mapping[str, Measured], folder: Path) -> None:
    """Write ``index.html``, ``metrics.json`` and ``figures/NAME.png`` and ``.pdf``.

    The page needs no other file and no network. The folder appears whole or not at all.

    Args:
        truth: observables of the true clouds.
        samples: name -> observables of each sample.
        folder: where to; whatever is there is replaced.

    Raises:
        DataError: the folder cannot be written.
    """
    with atomic_folder(folder) as temporary:
        _write(evaluation, truth, samples, temporary)


def _write(evaluation: Evaluation, truth: Measured, samples: Mapping[str, Measured], folder: Path) -> None:
    (folder / "figures").mkdir()
    pictures = []

    def add(name: str, title: str, text: str, drawn: Figure, *, wide: bool) -> None:
        encoded = base64.b64encode(_save(drawn, folder / "figures" / name)).decode("ascii")
        pictures.append({"title": title, "text": text, "image": f"data:image/png;base64,{encoded}", "wide": wide})

    def known(*names: str) -> bool:
        return any(
            all(name in each.values for each in (truth, sample) for name in names) for sample in samples.values()
        )

    for first, second in planes(truth.kind):
        if known(first.name, second.name):
            title = f"{second.title} against {first.title}"
            drawn = plane(first, second, truth, samples)
            add(f"{first.name}_{second.name}", title, f"{title}, truth beside generated", drawn, wide=True)
    for name, observable in observables(truth.kind).items():
        if known(name):
            text = f"Distribution of {observable.title}, truth and generated, with their ratio"
            add(name, observable.title, text, figure(observable, truth, samples), wide=False)
    write_json(folder / "metrics.json", evaluation.to_dict())

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pcdiff.evaluation", ""), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html.jinja").render(
        evaluation=evaluation,
        rows=list(evaluation.rows()),
        pictures=pictures,
        significant=SIGNIFICANT,
        sets=_sets(evaluation),
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def _save(drawn: Figure, path: Path) -> bytes:
    """Write the figure as PNG and PDF; returns the PNG."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png")
    path.with_suffix(".png").write_bytes(buffer.getvalue())
    drawn.savefig(path.with_suffix(".pdf"), format="pdf")
    return buffer.getvalue()


def _sets(evaluation: Evaluation) -> list[dict[str, Any]]:
    """All sets of clouds that took part, with their provenance as pairs of text."""
    involved: list[tuple[str, ComparedSet]] = [("truth", evaluation.truth)]
    if evaluation.reference:
        involved.append(("reference", evaluation.reference))
    involved += [("generated", sample.compared) for sample in evaluation.samples]
    return [
        {
            "role": role,
            "set": compared,
            "provenance": {
                key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
                for key, value in compared.provenance.items()
            },
        }
        for role, compared in involved
    ]
