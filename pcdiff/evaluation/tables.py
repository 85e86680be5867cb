"""The published metrics as a LaTeX table, ready for a paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pcdiff.evaluation.metric import Metric
from pcdiff.evaluation.result import ComparedSet, Evaluation, common_exponent, with_error
from pcdiff.physics import noun

__all__ = ["latex", "latex_table"]

# More columns do not fit on a page side by side.
_MOST_COLUMNS = 4
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}


def latex(text: str) -> str:
    r"""Text whose characters LaTeX all shows as they are.

    >>> latex("100 % of run_3")
    '100 \\% of run\\_3'
    """
    return "".join(_SPECIAL.get(character, character) for character in text)


def latex_table(evaluation: Evaluation) -> str:
    """A ``table`` environment of the metrics of the literature, deviations and the AUCs of classifiers; needs the package booktabs.

    A line for the truth-versus-truth floor, one more for each further size of samples, and a line for each sample. All numbers
    of a column are in the power of ten that its heading states.
    """
    samples = {
        sample.compared.name: {metric.name: metric for metric in sample.metrics if _is_shown(metric)}
        for sample in evaluation.samples
    }
    columns = {name: metric for found in samples.values() for name, metric in found.items()}
    names = list(columns)
    blocks = [names[start : start + _MOST_COLUMNS] for start in range(0, len(names), _MOST_COLUMNS)]
    tabulars = "\n\n\\medskip\n".join(_tabular(evaluation, samples, columns, block) for block in blocks)
    return "\n".join(
        (
            rf"% {evaluation.created}, pcdiff {latex(evaluation.version)}; needs \usepackage{{booktabs}}",
            r"\begin{table}",
            r"\centering",
            r"\small",
            tabulars,
            rf"\caption{{{_caption(evaluation)}}}",
            r"\end{table}",
            "",
        )
    )


def _is_shown(metric: Metric) -> bool:
    return metric.group == "published" or metric.name.startswith(("auc_", "deviation_"))


def _tabular(
    evaluation: Evaluation,
    samples: Mapping[str, Mapping[str, Metric]],
    columns: Mapping[str, Metric],
    names: list[str],
) -> str:
    exponents = {
        name: min(common_exponent(found[name]) for found in samples.values() if name in found) for name in names
    }
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(names)}}}",
        r"\toprule",
        " & ".join(["", *(latex(_heading(columns[name])) for name in names)]) + r" \\",
        " & ".join(["", *(_scale(columns[name], exponents[name]) for name in names)]) + r" \\",
        r"\midrule",
    ]
    for label, cells in _floors(evaluation, samples, names):
        lines.append(_row(label, [_cell(cells.get(name), exponents[name], floor=True) for name in names]))
    for sample, found in samples.items():
        lines.append(_row(latex(sample), [_cell(found.get(name), exponents[name], floor=False) for name in names]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _floors(
    evaluation: Evaluation, samples: Mapping[str, Mapping[str, Metric]], names: list[str]
) -> Iterator[tuple[str, dict[str, Metric]]]:
    """A label and the metrics whose floors stand in its line, one line for each size of samples."""
    sizes = dict.fromkeys(sample.compared.clouds for sample in evaluation.samples)
    for size in sizes:
        of_size = [samples[s.compared.name] for s in evaluation.samples if s.compared.clouds == size]
        label = "truth" if len(sizes) == 1 else f"truth, {size:,} {noun(evaluation.kind)}"
        yield latex(label), {name: found[name] for found in reversed(of_size) for name in names if name in found}


def _row(label: str, cells: list[str]) -> str:
    return " & ".join([label, *cells]) + r" \\"


def _cell(metric: Metric | None, exponent: int, *, floor: bool) -> str:
    if metric is None:
        return "--"
    value, error = (metric.floor, metric.floor_error) if floor else (metric.value, metric.error)
    number = with_error(value, error, exponent)
    # A floor that is known, such as the AUC of chance, has no error.
    return f"${number.replace('±', chr(92) + 'pm') if error > 0 else number.partition(' ±')[0]}$"


def _heading(metric: Metric) -> str:
    """The title without its details; those of classifiers tell them apart, and of deviations what they are of."""
    if metric.name.startswith("deviation_"):
        return metric.title.partition(", ")[2]
    return metric.title.split(",")[0] + (f" ({metric.name.removeprefix('auc_')})" if metric.group == "clouds" else "")


def _scale(metric: Metric, exponent: int) -> str:
    power = f"$10^{{{exponent}}}$" if exponent else ""
    unit = rf"\mathrm{{{latex(metric.unit)}}}" if metric.unit else ""
    inside = r"\,".join(filter(None, (power, f"${unit}$" if unit else "")))
    return f"[{inside}]" if inside else ""


def _caption(evaluation: Evaluation) -> str:
    sizes = ", ".join(_size(sample.compared) for sample in evaluation.samples)
    shown = dict.fromkeys(m.title for sample in evaluation.samples for m in sample.metrics if _is_shown(m))
    return latex(
        f"Generated {noun(evaluation.kind)} against {evaluation.truth.clouds:,} true ones: {sizes}. Columns: {'; '.join(shown)}. "
        f"Errors of the samples are those of {evaluation.draws} bootstrap resamples of whole {noun(evaluation.kind)}, or as the metric's definition "
        "states them; the line of the truth is the value and spread of the same metric between two samples of the truth of the same "
        "sizes, and chance for an AUC."
    )


def _size(compared: ComparedSet) -> str:
    weighted = compared.effective < compared.clouds
    return f"{compared.name} ({compared.clouds:,}{f', effective {compared.effective:,.0f}' if weighted else ''})"
