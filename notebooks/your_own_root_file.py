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
# # Your own ROOT file
#
# Experiments have their own names for things. Any `TTree` or `RNTuple` with one list of constituents a jet (or one list of lists an event) can be read, once it is said which branch is
# which column. In this notebook we write a file as a private experiment might have it, map it, check that the mapping is right, train on it, and give the synthetic jets back to a ROOT analysis.
# At the end stand the usual mistakes and what is said of them.
#
# The training here is a few dozen steps, so that the page is quick: it shows the way, not the quality. In the figures, truth is grey and what the model makes is orange. All that is written goes into a temporary folder.

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
import vector
from IPython.display import display

import pcdiff
from pcdiff.evaluation import wasserstein
from pcdiff.physics import jets
from pcdiff.resources import find

TRUTH, MADE = "#4D4D4D", "#D55E00"
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
vector.register_awkward()

temporary = tempfile.TemporaryDirectory()
os.chdir(temporary.name)

# %% [markdown]
# ## 1. A private file
#
# The invented experiment keeps its calibrated jets in a tree `calibrated`, in MeV: `trk_*` for the constituents, `jet_*` for the jet, and a `jet_flavour` that is 0 for gluons and 1 for quarks. We fill it from the gluon
# jets that come with `pcdiff`. These are relative to a jet without azimuth, so the jets are turned to random azimuths first.


# %%
def write_private(path, clouds, seed, **changes):
    """The jets as the invented experiment stores them; ``changes`` replace branches."""
    pt, eta = clouds.feature("pt"), clouds.feature("eta")
    phi = np.random.default_rng(seed).uniform(-np.pi, np.pi, len(clouds))
    relative = clouds.relative()
    branches = {
        "trk_pt": 1000 * relative.ptrel * pt,
        "trk_eta": relative.etarel + eta,
        "trk_phi": ak.values_astype((relative.phirel + phi + np.pi) % (2 * np.pi) - np.pi, np.float32),
        "jet_pt": 1000 * pt,
        "jet_eta": eta,
        "jet_phi": phi.astype(np.float32),
        "jet_m": 1000 * clouds.feature("mass"),
        "jet_flavour": np.zeros(len(clouds), np.int32),
    }
    with uproot.recreate(path) as file:
        file.mktree("calibrated", branches | changes)


embedded = {part: pcdiff.read(find(f"datasets/jets/gluon30_{part}.hdf5")) for part in ("train", "validation", "test")}
write_private("train.root", embedded["train"][:4000], seed=1)
write_private("validation.root", embedded["validation"][:1000], seed=2)
write_private("test.root", embedded["test"][:4000], seed=3)

# %% [markdown]
# ## 2. What is in it?
#
# `pcdiff.inspect` opens any file (in a shell: `pcdiff inspect test.root`). No reader of a known layout fits, so it lists trees and branches, with no feature beside them yet.

# %%
found = pcdiff.inspect("test.root")
print(f"{found.clouds:,} entries, to be read as {found.format!r}", *found.notes, sep="\n")
pd.DataFrame(found.columns)

# %% [markdown]
# ## 3. The mapping
#
# For each standard column its branch. Constituents need `pt`, `eta` (or `rapidity`) and `phi`, or `px`, `py`, `pz` and `energy`, or `etarel`, `phirel` and `ptrel`; jets have `pt`, `eta`, `phi` and `mass`. `pcdiff` works in GeV and radians,
# so a branch in MeV gets a scale. Two things a file cannot say of itself: `axis`, whether the jet columns stand for *all* constituents of the jet or only for those *kept* in the file; and `types`, what the labels mean.

# %%
mapping = {
    "tree": "calibrated",
    "points": {"pt": {"branch": "trk_pt", "scale": 0.001}, "eta": "trk_eta", "phi": "trk_phi"},
    "clouds": {
        "pt": {"branch": "jet_pt", "scale": 0.001},
        "eta": "jet_eta",
        "phi": "jet_phi",
        "mass": {"branch": "jet_m", "scale": 0.001},
        "type": "jet_flavour",
    },
    "axis": "all",
    "types": ["gluon", "quark"],
}
truth = pcdiff.read("test.root", **mapping)
display(truth)

# %% [markdown]
# A mapping that can be read may still be wrong. Physics tells. We kept the 30 leading constituents of each jet: together they must have nearly the jet's $p_\mathrm{T}$, never much more, and less than its mass; and
# they must stand around its axis. A forgotten scale would put the first ratio at 1,000; angles in degrees, or another jet's axis, would spoil the third.

# %%
summed = ak.sum(truth.momenta(), axis=1)
relative = truth.relative()
axis_distance = np.hypot(np.average(jets.etarel(truth)), np.average(jets.phirel(truth)))
checks = {
    r"summed $p_\mathrm{T}$ / jet $p_\mathrm{T}$": (summed.pt / truth.feature("pt"), (60, 0.5, 1.1)),
    "summed mass / jet mass": (summed.mass / truth.feature("mass"), (60, 0.2, 1.1)),
    r"$\Delta R$ of a constituent to the jet axis": (
        ak.flatten(np.hypot(relative.etarel, relative.phirel)),
        (60, 0, 0.6),
    ),
}
figure, axes = plt.subplots(1, 3, figsize=(9.4, 2.6), layout="constrained")
for axis, (label, (values, bins)) in zip(axes, checks.items(), strict=True):
    filled = hist.Hist.new.Reg(*bins).Double().fill(values)
    mplhep.histplot(filled, ax=axis, color=TRUTH, histtype="fill", alpha=0.4, yerr=False, flow="none")
    axis.set(xlabel=label, ylabel="entries", xlim=bins[1:])
axes[2].axvline(0.4, color="black", linestyle=":")
axes[2].text(0.41, 0.9, "$R$ = 0.4", transform=axes[2].get_xaxis_transform())
plt.show()

ratio = ak.to_numpy(summed.pt / truth.feature("pt"))
print(f"the kept constituents carry {ratio.mean():.1%} of the jet's pT, and of no jet more than {ratio.max():.1%}")
assert 0.8 < ratio.mean() < 1 and ratio.max() < 1.02
assert np.mean(summed.mass < truth.feature("mass")) > 0.99
assert np.mean(np.hypot(jets.etarel(truth), jets.phirel(truth)) < 0.45) > 0.99
assert axis_distance < 0.005

# %% [markdown]
# The same jets were read another way before they became private. What is computed from the two must agree up to the rounding of 32-bit numbers:

# %%
assert np.allclose(jets.relative_mass(truth), jets.relative_mass(embedded["test"][:4000]), rtol=2e-3, atol=1e-5)
worst = np.abs(jets.relative_mass(truth) / jets.relative_mass(embedded["test"][:4000]) - 1).max()
print(f"relative masses agree to {worst:.1e}")

# %% [markdown]
# ## 4. Training
#
# The mapping goes into the config as `data.options`; in YAML it looks the same (`configs/private_tree.yaml` is a template). The generator makes `etarel`, `phirel` and `ptrel`, which are derived from what is mapped, given
# the jet's `pt`, `eta` and `mass`.

# %%
config = pcdiff.load_config(
    {
        "name": "private",
        "data": {"train": "train.root", "validation": "validation.root", "options": mapping},
        "net": {"kind": "epic", "hidden": 64, "layers": 2},
        "loss": {"weight": "velocity"},
        "optim": {"lr": 0.005, "warmup": 20, "ema": 0.99},
        "training": {"steps": 300, "points_per_batch": 1920, "compare": 0},
        "multiplicity": {"steps": 500},
        "tracking": {"enabled": False},
    }
)
generator = pcdiff.Generator.load(pcdiff.train(config, progress=False))
print(generator)

# %% [markdown]
# `types` of the training file are known to the generator; in a file with both, `generator.sample(1000, conditions={"type": "quark"})` would ask for one of them.
#
# ## 5. Back to ROOT
#
# Whatever the input looked like, `pcdiff.write` uses one layout, that of CMS NanoAOD: a tree `Jets`, one entry a jet, in GeV.

# %%
generated = generator.sample(4000, seed=11)
pcdiff.write(generated, "synthetic.root", metadata=generator.metadata(seed=11))
pd.DataFrame(
    [(name, branch.typename) for name, branch in uproot.open("synthetic.root:Jets").items()], columns=["branch", "type"]
)

# %% [markdown]
# An analysis reads both files with uproot and awkward alone. Only the names and the units differ.


# %%
def momenta(path, names, scale=1.0):
    """Constituents and jets of a tree as vectors, in GeV."""
    tree = ak.values_astype(uproot.open(path).arrays(), np.float64)  # the mass is a small difference of large numbers
    constituents = {part: tree[name] for part, name in names.items()}
    return ak.zip(
        {
            "pt": scale * constituents["pt"],
            "eta": constituents["eta"],
            "phi": constituents["phi"],
            "mass": 0 * constituents["pt"],
        },
        with_name="Momentum4D",
    )


private = momenta("test.root:calibrated", {part: f"trk_{part}" for part in ("pt", "eta", "phi")}, scale=0.001)
synthetic = momenta("synthetic.root:Jets", {part: f"Constituent_{part}" for part in ("pt", "eta", "phi")})


# %%
def compare(axis, real, made, bins, label, unit):
    """Two histograms of unit area, with Poisson errors."""
    for values, color, name in ((real, TRUTH, "truth"), (made, MADE, "generated")):
        filled = hist.Hist.new.Reg(*bins).Weight().fill(values)
        style = (
            {"histtype": "fill", "alpha": 0.4, "yerr": False}
            if color == TRUTH
            else {"histtype": "errorbar", "markersize": 3}
        )
        mplhep.histplot(filled, ax=axis, density=True, color=color, label=name, flow="none", **style)
    axis.set(xlabel=f"{label} [{unit}]", ylabel=f"density [1/{unit}]", xlim=bins[1:])


figure, axes = plt.subplots(1, 3, figsize=(10.2, 2.8), layout="constrained")
both = [ak.sum(array, axis=1) for array in (private, synthetic)]
compare(axes[0], *(jet.pt for jet in both), (40, 500, 1600), r"$p_\mathrm{T}$ of the constituents' sum", "GeV")
compare(axes[1], *(jet.mass for jet in both), (40, 0, 300), "mass of the constituents", "GeV")
compare(
    axes[2],
    *(array[:, 0].pt for array in (private, synthetic)),
    (40, 0, 500),
    r"$p_\mathrm{T}$ of the leading constituent",
    "GeV",
)
axes[2].legend()
plt.show()
shift = float(np.mean(both[1].mass) / np.mean(both[0].mass) - 1)
print(f"after 300 steps the mean mass of {len(generated):,} generated jets is off by {shift:+.0%}")
assert np.allclose(both[1].mass, jets.mass(generated), rtol=2e-3)

# %% [markdown]
# Three hundred steps make jets of about the right size, and no more. [The quickstart](quickstart_jets.ipynb) trains longer; `pcdiff.evaluate` says how far off each observable is.
#
# If the analysis insists on the experiment's own names, uproot writes them:

# %%
points, features = generated.momenta(), generated.features
with uproot.recreate("private_synthetic.root") as file:
    file.mktree(
        "calibrated",
        {
            "trk": ak.zip({"pt": 1000 * points.pt, "eta": points.eta, "phi": points.phi}),
            "jet_pt": 1000 * features["pt"],
            "jet_eta": features["eta"],
            "jet_phi": features["phi"],
            "jet_m": 1000 * features["mass"],
            "jet_flavour": features["type"],
        },
    )
again = pcdiff.read("private_synthetic.root", **mapping)
assert np.allclose(jets.mass(again), jets.mass(generated), rtol=2e-3)
display(again)

# %% [markdown]
# Private files and generated ones can be compared at once, whatever their layouts: observables are computed from both in the same way. Here the Wasserstein distance, beside that of two samples of the truth of as many jets,
# below which nothing can be told. `pcdiff.evaluate(truth, generated)` does so for all observables, with errors.

# %%
more_truth = pcdiff.read("train.root", **mapping)
rows = {
    name: (wasserstein(function(truth), function(generated)), wasserstein(function(truth), function(more_truth)))
    for name, function in (
        ("relative mass", jets.relative_mass),
        ("pT [GeV]", jets.pt),
        ("multiplicity", jets.multiplicity),
    )
}
assert rows["pT [GeV]"][0] > 3 * rows["pT [GeV]"][1], "300 steps are not enough for the pT of the summed constituents"
pd.DataFrame(rows, index=["generated to truth", "truth to truth"]).T.round(4)

# %% [markdown]
# ## 6. Common mistakes
#
# Each is one line that names the file and the branch, what was found and what was expected. In a shell the same lines come without a traceback.


# %%
def attempt(what, action):
    """What is said when something goes wrong."""
    try:
        action()
    except pcdiff.PcdiffError as error:
        print(f"{what}:\n    {error}\n")
    else:
        raise AssertionError(f"{what}: went through")


def mapped(level, **columns):
    """The mapping with some columns changed."""
    return mapping | {level: mapping[level] | columns}


attempt("no mapping", lambda: pcdiff.read("test.root"))
attempt("another tree", lambda: pcdiff.read("test.root", **mapping | {"tree": "events"}))
attempt("a branch misspelt", lambda: pcdiff.read("test.root", **mapped("points", eta="track_eta")))
attempt("a jet's branch as that of constituents", lambda: pcdiff.read("test.root", **mapped("points", pt="jet_pt")))
attempt("constituents as a jet's column", lambda: pcdiff.read("test.root", **mapped("clouds", pt="trk_pt")))
attempt(
    "a factor, not a scale",
    lambda: pcdiff.read("test.root", **mapped("clouds", pt={"branch": "jet_pt", "factor": 0.001})),
)
attempt("labels without names", lambda: pcdiff.read("test.root", **mapped("clouds", type="jet_pt")))

# %% [markdown]
# What is wrong in the values is found as well: lists that do not belong together, jets without constituents, numbers that are not finite.

# %%
few = embedded["test"][:1000]
relative = few.relative()
hard = relative.ptrel > 0.01
write_private("cut_once.root", few, 4, trk_pt=1000 * (relative.ptrel * few.feature("pt"))[hard])
attempt("a cut on one branch only", lambda: pcdiff.read("cut_once.root", **mapping))

harder = relative.ptrel > 0.15
cut = {name: values[harder] for name, values in (("trk_eta", relative.etarel), ("trk_phi", relative.phirel))}
write_private("empty.root", few, 4, trk_pt=1000 * (relative.ptrel * few.feature("pt"))[harder], **cut)
attempt("jets without constituents", lambda: pcdiff.read("empty.root", **mapping))
left = pcdiff.read("empty.root", drop_empty=True, **mapping)
print(f"with drop_empty=True, {len(left):,} of {len(few):,} jets are left\n")

broken = np.where(np.arange(len(few)) == 3, np.nan, 1000 * few.feature("pt"))
write_private("broken.root", few, 4, jet_pt=broken)
attempt("a number that is none", lambda: pcdiff.read("broken.root", **mapping))

# %% [markdown]
# A forgotten `scale` is no error, because nothing forbids a jet of a million GeV; `inspect` with the mapping notes it:

# %%
notes = pcdiff.inspect("test.root", **mapped("clouds", pt="jet_pt")).notes
print(*notes, sep="\n")
assert any("MeV" in note for note in notes)

# %% [markdown]
# A column with a name of one's own is kept as an extra one. So a `pT` in the place of `pt` is found only when somebody asks for momenta:

# %%
odd = mapping | {"points": {"pT": "trk_pt", "eta": "trk_eta", "phi": "trk_phi"}}
attempt("pT for pt", lambda: pcdiff.read("test.root", **odd).momenta())

# %% [markdown]
# ## Try next
#
# - Your own file: `pcdiff inspect FILE`, then the mapping, then the three plots of section 3.
# - Events with many jets an entry: the same mapping, with branches that are lists of lists.
# - [The page about it](../your_own_root_file.md) does all this in a shell.
