# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Comparing observables
#
# A generator of jets is judged by what one computes from its jets. To learn how the judges work, no generator is needed: we take true jets, spoil some of them in ways that we know, and see which observable and which metric
# notices which defect. On the way come substructure observables, the table of an evaluation and how to read it, an observable of your own, and a table for a paper.
#
# Each sample has 1,200 jets, so that the page is quick; an evaluation of a real generator should have ten times as many. All that is written goes into a temporary folder.

# %% tags=["hide-input"]
import os
import tempfile
from pathlib import Path

import awkward as ak
import hist
import matplotlib.pyplot as plt
import mplhep
import numpy as np
import pandas as pd
from IPython.display import display

import pcdiff
from pcdiff.evaluation import wasserstein
from pcdiff.physics import jets, observables, profiles
from pcdiff.resources import find

plt.rcParams |= {
    "figure.dpi": 80,
    "font.size": 9,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
}

embedded = pcdiff.read(find("datasets/jets/gluon30_test.hdf5"))
temporary = tempfile.TemporaryDirectory()
os.chdir(temporary.name)

# %% [markdown]
# ## 1. One truth and four samples
#
# All come from the 6,000 gluon jets of the embedded test sample, and no jet is in two of them:
#
# - *more truth*: nothing is wrong with it; whoever finds something has a false alarm;
# - *3 % harder*: each constituent has 1.03 times its $p_\mathrm{T}$, as if a calibration were off;
# - *one fewer*: each jet has lost its softest constituent;
# - *copies*: 600 true jets, each of them twice, as a generator makes them that has found a few jets that always please.

# %%
size = 1200
truth, more, raw_hard, raw_fewer, raw_copies = (embedded[start : start + size] for start in range(0, 5 * size, size))


def with_points(clouds, points):
    """The same jets with other constituents."""
    return pcdiff.PointClouds(points, clouds.features, clouds.schema)


points = raw_hard.points
samples = {
    "more truth": more,
    "3 % harder": with_points(raw_hard, ak.with_field(points, 1.03 * points.ptrel, "ptrel")),
    "one fewer": with_points(raw_fewer, raw_fewer.points[:, :-1]),  # ordered by falling pT
    "copies": raw_copies[np.repeat(np.arange(size // 2), 2)],
}
colors = dict(zip(samples, ("#D55E00", "#0072B2", "#009E73", "#CC79A7"), strict=True))
styles = dict(zip(samples, ("-", "--", "-.", ":"), strict=True))
assert {len(sample) for sample in samples.values()} == {size}

# %% [markdown]
# ## 2. What an observable is
#
# A plain function that takes point clouds and returns one number a jet (or one a constituent). Nothing needs to be registered to be computed:

# %%
print("mass in GeV:", jets.mass(truth)[:3].round(1))
print("constituents:", jets.multiplicity(truth)[:3])
print("angularity with kappa = 1, beta = 3:", jets.angularity(truth, 1.0, 3.0)[:3].round(5))

# %% [markdown]
# The registry adds what a table or a figure needs: a title, a unit, a label. These are compared by default:

# %%
registry = observables("jets")
display(
    pd.DataFrame(
        [(o.name, o.title, o.unit, o.level) for o in registry.values()], columns=["name", "title", "unit", "one a"]
    )
)

# %% [markdown]
# A few of them in formulas, with $z_i$ the share of constituent $i$ in the summed $p_\mathrm{T}$ and $\theta_{ij}$ the distance of two constituents in the plane of rapidity and azimuth:
#
# - **N-subjettiness**, how well $N$ axes describe the jet: $\tau_N = \sum_i z_i \min_k \theta_{ik}$. $\tau_{21} = \tau_2 / \tau_1$ is small for a jet of two prongs.
# - **Soft drop**: undo the clustering, dropping the softer branch, until one has $\min(z_1, z_2) > 0.1$; the mass of what is left knows little of soft radiation.
# - **Energy correlators**: $e_2 = \sum_{i<j} z_i z_j \theta_{ij}$, $e_3$ likewise over triples, $D_2 = e_3 / e_2^3$. No axes needed.
# - **Energy-flow polynomials**, one for each multigraph $G$: $\mathrm{EFP}_G = \sum_{i_1} \cdots \sum_{i_N} z_{i_1} \cdots z_{i_N} \prod_{(k, l) \in G} \theta_{i_k i_l}$. They span all observables that are safe against soft and collinear radiation.

# %%
shown = {
    "soft_drop_mass": (30, 0, 200),
    "tau21": (30, 0, 1),
    "tau32": (30, 0, 1),
    "d2": (30, 0, 12),
    "les_houches_angularity": (30, 0, 0.7),
    "total_ptrel": (30, 0.5, 1.1),
}
figure, axes = plt.subplots(2, 3, figsize=(9.4, 5), layout="constrained")
for axis, (name, bins) in zip(axes.flat, shown.items(), strict=True):
    observable = registry[name]
    filled = hist.Hist.new.Reg(*bins).Weight().fill(observable.function(truth))
    mplhep.histplot(
        filled,
        ax=axis,
        density=True,
        color="#4D4D4D",
        histtype="fill",
        alpha=0.3,
        yerr=False,
        flow="none",
        label="truth",
    )
    for key in ("3 % harder", "one fewer"):
        filled = hist.Hist.new.Reg(*bins).Weight().fill(observable.function(samples[key]))
        mplhep.histplot(
            filled, ax=axis, density=True, color=colors[key], linestyle=styles[key], yerr=False, flow="none", label=key
        )
    unit = f" [{observable.unit}]" if observable.unit else ""
    axis.set(
        xlabel=observable.label + unit, xlim=bins[1:], ylabel="density" + (f" [1/{observable.unit}]" if unit else "")
    )
axes[0, 0].legend()
plt.show()

# %% [markdown]
# By eye nobody tells the defects in the first five: they are as small as those of a decent generator. The sum of $p_\mathrm{T}^\mathrm{rel}$ is about to show one.
#
# Some observables have many entries a jet. They are compared as *profiles*: a histogram that each jet fills, of which a sample has the mean. The primary Lund plane holds each emission along the harder branch at
# $\ln 1/\Delta$ and $\ln k_\mathrm{t}$; the energy-energy correlator says how much momentum stands at a distance $R_L$ from other momentum. `pcdiff` draws a profile from an evaluation, below; as numbers it is a
# sparse matrix, one row a jet.

# %%
plane, correlator = profiles("jets")["lund_plane"], profiles("jets")["energy_energy_correlator"]
figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.2), layout="constrained")
x, y = plane.edges
area = (x[1] - x[0]) * (y[1] - y[0])
density = np.asarray(plane.function(truth).mean(axis=0)).reshape(len(x) - 1, len(y) - 1) / area
image = axes[0].pcolormesh(x, y, np.where(density > 0, density, np.nan).T, cmap="viridis", rasterized=True)
axes[0].set(xlabel=plane.labels[0], ylabel=plane.labels[1], xlim=(0, 6), ylim=(-10, 0))
figure.colorbar(image, label="emissions a jet and unit area")
(edges,) = correlator.edges
for name, clouds, style in (
    ("truth", truth, {"color": "#4D4D4D", "linewidth": 3, "alpha": 0.4}),
    *(
        (name, samples[name], {"color": colors[name], "linestyle": styles[name]})
        for name in ("3 % harder", "one fewer")
    ),
):
    mean = np.asarray(correlator.function(clouds).mean(axis=0)).ravel()
    axes[1].stairs(mean, edges, label=name, **style)
axes[1].set(
    xscale="log", yscale="log", xlabel=correlator.labels[0], ylabel=r"mean of $\sum 2 z_i z_j$", ylim=(1e-5, 0.3)
)
axes[1].legend(loc="lower center")
plt.show()
emissions = plane.function(truth).sum(axis=1)
assert np.all(np.asarray(emissions).ravel() <= jets.multiplicity(truth) - 1), (
    "n constituents have at most n - 1 primary emissions"
)

# %% [markdown]
# The energy-flow polynomial of one edge is $2 e_2$; with more edges it weighs hard and wide structure more. Here against the relative mass:

# %%
polynomials = jets.flow_polynomials(truth, degree=2)
names = jets.flow_polynomial_graphs(2)
table = pd.DataFrame({"edges of the graph": [str(graph) for graph in names], "mean": polynomials.mean(axis=0)})
table["correlation with relative mass"] = [
    np.corrcoef(column, jets.relative_mass(truth))[0, 1] for column in polynomials.T
]
display(table.round(4))

# %% [markdown]
# ## 3. The evaluation
#
# All samples against the truth in one call. Each metric comes with its error (bootstrap over whole jets) and its **floor**, the value between two samples of the truth of the same sizes; the **pull** is the difference of the two in units of the combined error.

# %%
evaluation = pcdiff.evaluate(truth, samples, "report", workers=2)
records = pd.DataFrame(evaluation.records())
columns = ["sample", "value", "error", "floor", "floor_error", "pull", "different"]
display(records[records.name == "w1_total_ptrel"][columns].round(4))

# %% [markdown]
# How to read a line:
#
# 1. The *value* is a distance in the unit of the observable; by itself it says nothing, because distances of finite samples are never zero.
# 2. The *floor* is what chance gives. A value near its floor says that this many jets cannot tell, not that the sample is right.
# 3. The *pull* grows with the number of jets, the value does not. `different` is set where the pull is so large that a sample of the truth would have any such line, among all of its lines, once in a hundred evaluations.
#
# A common shift of 3 % should move the mean of the sum of $p_\mathrm{T}^\mathrm{rel}$ by 3 %, and $W_1$ of a shifted distribution is the shift:

# %%
by_name = records.set_index(["sample", "name"])
expected = 0.03 * jets.total_ptrel(truth).mean()
found = by_name.loc[("3 % harder", "w1_total_ptrel")]
print(f"expected {expected:.4f}, found {found.value:.4f} ± {found.error:.4f}")
assert abs(found.value - expected) < 4 * found.error
display(evaluation.figure("total_ptrel"))

# %% [markdown]
# ## 4. Which metric sees which defect
#
# The pulls of the metrics of whole jets, and for each observable the largest of its metrics' pulls ($W_1$, and the triangular discriminator and $\chi^2$ of its bins). Framed: called different.

# %%
records["what"] = records.about.where(records.about != "", records.name)
pulls = records.pivot_table(index="what", columns="sample", values="pull", aggfunc="max", sort=False)[list(samples)]
framed = records.pivot_table(index="what", columns="sample", values="different", aggfunc="any", sort=False)[
    list(samples)
]
figure, axis = plt.subplots(figsize=(6.4, 8.6), layout="constrained")
image = axis.imshow(pulls, cmap="PuOr_r", vmin=-10, vmax=10, aspect="auto")
for (row, column), pull in np.ndenumerate(pulls.to_numpy()):
    axis.text(
        column, row, f"{pull:+.1f}", ha="center", va="center", color="white" if abs(pull) > 7 else "black", fontsize=8
    )
    if framed.iloc[row, column]:
        axis.add_patch(plt.Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, linewidth=1.5))
axis.set_xticks(range(len(samples)), samples)
axis.set_yticks(range(len(pulls)), [name.replace("_", " ") for name in pulls.index])
axis.tick_params(length=0)
figure.colorbar(image, label="pull", shrink=0.4, extend="both")
plt.show()

# %%
for result in evaluation.samples:
    names = ", ".join(metric.name for metric in result.different) or "none"
    print(
        f"{result.compared.name}: {len(result.different)} of {len(result.metrics)} metrics beyond {result.threshold:.1f}: {names}"
    )
results = {result.compared.name: result for result in evaluation.samples}
assert results["3 % harder"].blamed[0] == "total_ptrel" and "multiplicity" not in results["3 % harder"].blamed
assert set(results["one fewer"].blamed) == {"multiplicity", "rank_spectrum"}
assert not results["more truth"].different
assert results["copies"].different[0].name == "duplicates" and results["copies"].different[0].pull > 20

# %% [markdown]
# What is to be seen:
#
# - *3 % harder* changes momenta and no ratio of them: all that is built from the shares $z_i$ and from angles is blind to it. The sum of $p_\mathrm{T}^\mathrm{rel}$ finds it; the $p_\mathrm{T}$ in GeV, which is this sum times a jet $p_\mathrm{T}$ that
#   spreads over hundreds of GeV, does not with so few jets.
# - *one fewer* is glaring in the multiplicity, and not to be seen in what is infrared safe: the softest constituent carries next to nothing.
# - *copies* have the right distribution of every observable. What is glaring is the share of jets whose nearest neighbour is suspiciously near. The other pulls of this column lean to the positive, one of them perhaps beyond the threshold, for
#   1,200 jets of which each is there twice fluctuate like 600, and the floor, which is that of 1,200, does not know.
#
# How momentum is shared out by rank shows the missing constituent at the end of the spectrum:

# %%
display(evaluation.figure("rank_spectrum"))

# %% [markdown]
# ## 5. An observable of your own
#
# Any function will do. Say, the angle between the two leading constituents. Its $W_1$ and what two true samples have, with errors from resampling jets:


# %%
def leading_angle(clouds):
    """Distance of the two hardest constituents of each jet in rapidity and azimuth."""
    first, second = clouds.relative()[:, 0], clouds.relative()[:, 1]
    return ak.to_numpy(np.hypot(first.etarel - second.etarel, first.phirel - second.phirel))


real, made = leading_angle(truth), leading_angle(samples["3 % harder"])
rng = np.random.default_rng(1)
draw = lambda values: rng.choice(values, len(values))
error = np.std([wasserstein(draw(real), draw(made)) for _ in range(200)])
floor = [wasserstein(draw(real), draw(real)) for _ in range(200)]
value = wasserstein(real, made)
print(f"W1 = {value:.4f} ± {error:.4f}, floor {np.mean(floor):.4f} ± {np.std(floor):.4f}")
assert value < np.mean(floor) + 5 * np.hypot(error, np.std(floor)), "a common factor does not turn constituents"

# %%
figure, (main, below) = plt.subplots(2, 1, figsize=(4.8, 3.8), height_ratios=(3, 1), sharex=True, layout="constrained")
axis = hist.axis.Regular(16, 0.002, 0.8, transform=hist.axis.transform.log)
filled = [hist.Hist(axis, storage=hist.storage.Weight()).fill(values) for values in (real, made)]
mplhep.histplot(filled[0], ax=main, color="#4D4D4D", histtype="fill", alpha=0.3, yerr=False, flow="none", label="truth")
mplhep.histplot(
    filled[1], ax=main, color=colors["3 % harder"], histtype="errorbar", flow="none", label="3 % harder", markersize=4
)
truths, mades = (each.values() for each in filled)
both = (truths > 0) & (mades > 0)
ratio = mades[both] / truths[both]
below.errorbar(
    axis.centers[both],
    ratio,
    ratio * np.sqrt(1 / truths[both] + 1 / mades[both]),
    color=colors["3 % harder"],
    fmt="o",
    markersize=3,
)
below.axhline(1, color="#4D4D4D")
main.set(ylabel="jets / bin", xscale="log", xlim=(0.002, 0.8), xlabel="")
below.set(ylim=(0, 2), ylabel="ratio", xlabel=r"$\Delta R$ of the two leading constituents")
main.legend()
plt.show()

# %% [markdown]
# ## 6. For a paper
#
# The evaluation above was given a folder. It holds a page that needs no other file and no network (`index.html`), all figures as PNG and PDF, each number as JSON and CSV, and the published metrics as a table in LaTeX:

# %%
for path in sorted(Path("report").iterdir()):
    print(path.name if path.is_file() else f"{path.name}/ with {len(list(path.iterdir()))} files")
print(
    (Path("report") / "table.tex").read_text().partition("\n")[2]
)  # without the first line, which says when it was made

# %% [markdown]
# ## Try next
#
# - Take 100 jets of each sample: which defects are still found? The floor says why.
# - Spoil the angles: multiply `etarel` by 1.05. Which observables notice first?
# - `pcdiff.evaluate(truth, samples, classifiers=["boosted", "net"])` lets classifiers look; [the next notebook](reweight_and_classify.ipynb) is about them.
# - [How to compare](../how-to/compare.md) in a shell, and [what the metrics mean](../explanation/metrics.md).
