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
# # Classifiers and weights
#
# Two questions about a generated sample. *Can it be told from the truth at all?* A classifier that is trained to do so answers, and finds differences that no single observable has. *Can it be mended?* The same classifier knows the
# ratio of the densities, and with weights a sample can be made to follow the truth; within limits.
#
# To judge the judges, we take a "generator" whose mistakes are known exactly: true gluon jets, of which some were thrown away at random with a probability that depends on the jet. For it the best classifier and the right weights are known in closed form.
# In the figures truth is grey, the spoilt sample orange, the reweighted one blue. All that is written goes into a temporary folder.

# %% tags=["hide-input"]
import os
import tempfile

import awkward as ak
import hist
import matplotlib.pyplot as plt
import mplhep
import numpy as np
import pandas as pd
import torch
import uproot
from IPython.display import display
from scipy.special import expit
from sklearn.metrics import roc_auc_score, roc_curve

import pcdiff
from pcdiff.evaluation.classifier import classifier_test
from pcdiff.evaluation.reweighting import reweight
from pcdiff.physics import jets, measure
from pcdiff.resources import find

TRUTH, SPOILT, WEIGHTED = "#4D4D4D", "#D55E00", "#0072B2"
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
torch.set_num_threads(1)

truth, pool = (pcdiff.read(find(f"datasets/jets/gluon30_{part}.hdf5")) for part in ("test", "train"))
truth = truth[:4000]
temporary = tempfile.TemporaryDirectory()
os.chdir(temporary.name)

# %% [markdown]
# ## 1. A generator with known mistakes
#
# Each jet $x$ of the training sample is kept with the probability
#
# $$ a(x) = \left[ 0.2 + 0.8 \, S\!\left( \frac{m / p_\mathrm{T} - 0.06}{0.012} \right) \right] \left[ 0.3 + 0.7 \, S\!\left( \frac{p_\mathrm{T} - 1000 \, \mathrm{GeV}}{60 \, \mathrm{GeV}} \right) \right], \qquad S(u) = \frac{1}{1 + e^{-u}}, $$
#
# so light jets and soft jets come too rarely. The sample's density is $p_\mathrm{gen}(x) \propto a(x) \, p_\mathrm{true}(x)$.


# %%
def kept(clouds):
    """The probability that a jet is kept."""
    light = 0.2 + 0.8 * expit((jets.relative_mass(clouds) - 0.06) / 0.012)
    return light * (0.3 + 0.7 * expit((jets.pt(clouds) - 1000) / 60))


sample = pool[np.random.default_rng(1).random(len(pool)) < kept(pool)][:4000]
print(f"{len(sample):,} jets of the sample, {len(truth):,} of the truth; no jet is in both")


# %%
def compare(axis, function, bins, label, sets):
    """Densities; ``sets`` are (clouds, weights, colour, name). Errors from the sum of the squared weights."""
    for clouds, weights, color, name in sets:
        filled = hist.Hist.new.Reg(*bins).Weight().fill(function(clouds), weight=weights)
        style = (
            {"histtype": "fill", "alpha": 0.3, "yerr": False}
            if color == TRUTH
            else {"histtype": "errorbar", "markersize": 3}
        )
        mplhep.histplot(filled, ax=axis, density=True, color=color, label=name, flow="none", **style)
    unit = label.rpartition("[")[2].rstrip("]") if "[" in label else ""
    axis.set(xlabel=label, ylabel="density" + (f" [1/{unit}]" if unit else ""), xlim=bins[1:])


spectra = (
    (jets.relative_mass, (30, 0, 0.24), r"relative mass $m / p_\mathrm{T}$"),
    (jets.mass, (30, 0, 240), "mass of the constituents [GeV]"),
    (jets.pt, (30, 600, 1500), r"$p_\mathrm{T}$ of the constituents' sum [GeV]"),
)
figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
for axis, spectrum in zip(axes, spectra, strict=True):
    compare(axis, *spectrum, ((truth, None, TRUTH, "truth"), (sample, None, SPOILT, "sample")))
axes[0].legend()
plt.show()

# %% [markdown]
# ## 2. Can it be told from the truth?
#
# A classifier puts out $C(x)$, its probability that $x$ is true. The best one there is follows the ratio of the densities (Neyman and Pearson), here $1 / a(x)$ up to a constant:
#
# $$ \frac{C}{1 - C} = \frac{p_\mathrm{true}(x)}{p_\mathrm{gen}(x)} = \frac{\langle a \rangle}{a(x)} . $$
#
# The area under its ROC curve, AUC, is the chance that a true jet scores higher than a generated one: 0.5 if there is nothing to see. No classifier can do better than this one:

# %%
is_true = np.concatenate([np.ones(len(truth)), np.zeros(len(sample))])
best_scores = np.concatenate([1 / kept(truth), 1 / kept(sample)])
best = roc_auc_score(is_true, best_scores)
print(f"AUC of the best classifier: {best:.3f}")

# %% [markdown]
# Now two that must learn it. `boosted` are decision trees on the observables of whole jets; `net` is a permutation-invariant net on the constituents, which is told nothing of masses. Both are trained on some parts of the jets and score the others, so that
# nothing is scored by what it was learnt from.

# %%
measured = measure(truth), measure(sample)
tests = {kind: classifier_test(*measured, kind=kind, seed=1) for kind in ("boosted", "net")}
for kind, test in tests.items():
    print(f"{kind:8} AUC = {test.auc:.3f} ± {test.error:.3f}, {test.pull:.0f} errors above 0.5")

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.3), layout="constrained")
curves = {f"best, AUC {best:.3f}": (best_scores, "#4D4D4D", "--")}
for (kind, test), color, line in zip(tests.items(), (SPOILT, "#009E73"), ("-", "-."), strict=True):
    scores = np.concatenate([test.truth_scores, test.sample_scores])
    curves[f"{kind}, AUC {test.auc:.3f}"] = (scores, color, line)
for name, (scores, color, line) in curves.items():
    axes[0].plot(*roc_curve(is_true, scores)[:2], line, color=color, label=name)
axes[0].plot((0, 1), (0, 1), ":", color="black", linewidth=0.8)
axes[0].set(
    xlabel="share of sample jets called true",
    ylabel="share of true jets called true",
    aspect="equal",
    xlim=(0, 1),
    ylim=(0, 1),
)
axes[0].legend(loc="lower right")

weights = np.where(is_true == 1, 0.5 / len(truth), 0.5 / len(sample))  # both sets weigh the same
for (kind, test), color, marker in zip(tests.items(), (SPOILT, "#009E73"), "os", strict=True):
    scores = np.concatenate([test.truth_scores, test.sample_scores])
    bins = np.array_split(np.argsort(scores), 8)
    claimed = [np.average(scores[part], weights=weights[part]) for part in bins]
    seen = [np.average(is_true[part], weights=weights[part]) for part in bins]
    error = [np.sqrt(p * (1 - p) / len(part)) for p, part in zip(seen, bins, strict=True)]
    axes[1].errorbar(
        claimed,
        seen,
        error,
        color=color,
        fmt=marker,
        markersize=4,
        label=f"{kind}, mean gap {test.calibration_error:.3f}",
    )
axes[1].plot((0, 1), (0, 1), ":", color="black", linewidth=0.8)
axes[1].set(
    xlabel="probability to be true, as claimed",
    ylabel="share that is true",
    aspect="equal",
    xlim=(0.2, 0.9),
    ylim=(0.2, 0.9),
)
axes[1].legend(loc="upper left")
plt.show()
assert all(0.5 + 5 * test.error < test.auc < best + 3 * test.error for test in tests.values())
assert all(test.calibration_error < 0.05 for test in tests.values())

# %% [markdown]
# Left, both come near to the best curve and cannot pass it. Right, their probabilities are honest: of the jets that are said to be true with 60 %, about 60 % are. This *calibration* matters as soon as the scores are used as more than an order,
# as weights are.
#
# ## 3. What gives it away?
#
# For trees one can ask by how much the AUC falls when an observable is dealt out anew among the jets (its importance), and what the AUC of that observable alone would be. We know the answer: the mass relative to $p_\mathrm{T}$, and $p_\mathrm{T}$.

# %%
ranking = pd.DataFrame(tests["boosted"].ranking).head(8)
display(ranking.round(4))

# %% [markdown]
# Observables that say the same share their importance, or take it from one another: the mass in GeV is $p_\mathrm{T}$ times the relative mass, so trees that have two of the three do without the third. `alone` says what each would do by
# itself. Read the first lines together, and not as a list of faults.

# %%
masses = {"relative_mass", "thrust", "mass", "girth", "les_houches_angularity", "tau1"}
first = set(ranking.observable[:4])
assert first & masses, "something like a mass is among the first"
assert "pt" in first, "and so is pT"

# %% [markdown]
# ## 4. Weights
#
# With the calibrated probability, each jet of the sample gets the weight
#
# $$ w(x) = \frac{C(x)}{1 - C(x)} \approx \frac{p_\mathrm{true}(x)}{p_\mathrm{gen}(x)} . $$
#
# `reweight` sets a quarter of the truth aside, trains on the rest, and never weighs a jet by a classifier that was trained on it.

# %%
weighted = reweight(truth, sample, kind="boosted", seed=1)
learnt, exact = weighted.sample.feature("weight"), 1 / kept(sample)
exact /= exact.mean()
print(weighted)
print(f"with the exact weights they would tell as much as {exact.sum() ** 2 / (exact**2).sum():,.0f}")

# %% [markdown]
# Weights cost statistics. The effective size $n_\mathrm{eff} = (\sum w)^2 / \sum w^2$ (Kish) is the number of jets of equal weight that tell as much. Beside it, the weights that were learnt against the exact ones:

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.6, 3), layout="constrained")
edges = np.geomspace(0.3, 6, 40)
axes[0].hist2d(exact, learnt, bins=(edges, edges), cmap="Blues", norm="log")
axes[0].plot((0.3, 6), (0.3, 6), ":", color="black")
axes[0].set(xscale="log", yscale="log", xlabel="exact weight", ylabel="learnt weight", aspect="equal")
for ticks in (axes[0].set_xticks, axes[0].set_yticks):
    ticks((0.5, 1, 2, 4), ("0.5", "1", "2", "4"))
    ticks((), minor=True)
for values, color, name, line in ((exact, TRUTH, "exact", "--"), (learnt, WEIGHTED, "learnt", "-")):
    axes[1].hist(values, bins=np.linspace(0, 6, 61), histtype="step", color=color, label=name, linestyle=line)
axes[1].set(xlabel="weight", ylabel="jets / 0.1", yscale="log", xlim=(0, 6))
axes[1].legend()
plt.show()
agreement = np.corrcoef(np.log(learnt), np.log(exact))[0, 1]
print(f"correlation of the logarithms {agreement:.2f}; sizes {len(sample):,} and {weighted.effective_size:,.0f}")
assert agreement > 0.6 and weighted.effective_size < len(sample)

# %% [markdown]
# The learnt weights scatter about the exact ones: a few thousand jets do not say more about the ratio of two densities. More of them would.
#
# ## 5. Closure
#
# Does the weighted sample agree with true jets that no weight depends on? `closure` compares the sample before and after with those that were set aside.

# %%
closure = weighted.closure(draws=10)
records = pd.DataFrame(closure.records())
shown = records[records.name.isin(["w1_relative_mass", "w1_mass", "w1_pt", "w1_tau21", "fpd"])]
display(shown.pivot(index="title", columns="sample", values=["value", "floor", "pull"]).round(4))

# %%
held = weighted.held_out
figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
for axis, spectrum in zip(axes, spectra, strict=True):
    sets = (
        (held, None, TRUTH, "truth, held out"),
        (sample, None, SPOILT, "sample"),
        (weighted.sample, learnt, WEIGHTED, "reweighted"),
    )
    compare(axis, *spectrum, sets)
axes[0].legend()
plt.show()
values = records.set_index(["name", "sample"]).value
for name in ("w1_relative_mass", "w1_mass", "w1_pt"):
    before, after = values[name, "generated"], values[name, "reweighted"]
    print(f"{name:18} {before:9.4f} -> {after:9.4f}")
    assert after < 0.6 * before

# %% [markdown]
# ## 6. Weights in an analysis
#
# The weights are a column of the clouds, and in ROOT the branch `Jet_weight`. An analysis fills them into its histograms; a `Weight` storage keeps the sum of the squared weights, without which error bars are wrong.

# %%
pcdiff.write(weighted.sample, "weighted.root")
tree = uproot.open("weighted.root:Jets").arrays(["Jet_pt", "Jet_weight", "Constituent_ptrel"])
hardest = ak.max(tree.Constituent_ptrel, axis=1)
filled = hist.Hist.new.Reg(30, 0, 0.6, label=r"$p_\mathrm{T}^\mathrm{rel}$ of the leading constituent").Weight()
filled.fill(hardest, weight=tree.Jet_weight)
print(
    f"sum of weights {filled.sum(flow=True).value:,.0f} ± {np.sqrt(filled.sum(flow=True).variance):,.0f}, from {len(tree):,} jets"
)
assert np.isclose(filled.sum(flow=True).variance, np.sum(tree.Jet_weight**2), rtol=1e-5)
again = pcdiff.read("weighted.root")
assert np.allclose(again.feature("weight"), learnt)

figure, axis = plt.subplots(figsize=(4.4, 2.8), layout="constrained")
mplhep.histplot(filled, ax=axis, color=WEIGHTED, histtype="errorbar", markersize=3, flow="none")
axis.set(ylabel="weighted jets / 0.02", xlim=(0, 0.6))
plt.show()

# %% [markdown]
# `pcdiff.evaluate` counts by that column by itself, and puts the effective size in the place of the number of jets.
#
# ## 7. What weights cannot do
#
# *Make what is not there.* Let the generator make no jet at all above $m / p_\mathrm{T} = 0.12$. Even the exact weights leave the tail empty: there is nothing to weigh.

# %%
blind = sample[jets.relative_mass(sample) < 0.12]
figure, axis = plt.subplots(figsize=(4.6, 2.8), layout="constrained")
sets = ((truth, None, TRUTH, "truth"), (blind, 1 / kept(blind), WEIGHTED, "no heavy jets, exact weights"))
compare(axis, *spectra[0], sets)
axis.legend()
plt.show()
missing = np.mean(jets.relative_mass(truth) > 0.12)
print(f"{missing:.1%} of the true jets lie where the sample has none, whatever the weights")
assert missing > 0.03

# %% [markdown]
# *Give statistics back.* The weighted sample tells as much as $n_\mathrm{eff}$ jets; a few large weights can eat most of a sample. `reweight(..., clip=10)` bounds them, at the price of a bias.
#
# *Know more than the truth they were learnt from.* The weights carry the fluctuations of the true jets used for training; they do not add to what those jets say.
#
# *See copies.* A classifier looks at one jet at a time. A sample that repeats good jets passes; [duplicates](compare_observables.ipynb) are found otherwise.
#
# ## Try next
#
# - `reweight(truth, sample, kind="net")`: the net sees all constituents, so it also restores what no observable of the list has. It needs more jets for it.
# - Weigh the jets of [the quickstart](quickstart_jets.ipynb): which of its faults are mended? In a shell: `pcdiff reweight TRUTH SAMPLE -o weighted.root --report closure`.
# - Train on weighted jets? Not here: training counts all jets alike. Train longer instead, and keep weights for what is left.
