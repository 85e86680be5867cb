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
# # Halo catalogues in a periodic box
#
# Dark matter collapses into haloes, and where they are, how they move and how heavy they are tells of what universe it is. Here a small diffusion model learns catalogues
# of haloes in many universes, in a few minutes without a GPU. We look at the catalogues, train, make boxes of one universe, compare them with true ones, ask what universe
# a box is from, add light haloes to massive ones, and grow a volume larger than the training box.
#
# In the figures, truth is grey and what the model makes is orange. All that this notebook writes goes into a temporary folder.

# %% tags=["hide-input"]
import os
import tempfile
import warnings

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

import pcdiff
from pcdiff.completion import complete
from pcdiff.evaluation.binning import Binned
from pcdiff.inference import posteriors
from pcdiff.physics import measure, profiles
from pcdiff.resources import find
from pcdiff.volumes import grow

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
warnings.filterwarnings("ignore", message="IProgress not found")  # MLflow's progress bars, of which we show none

temporary = tempfile.TemporaryDirectory()
os.chdir(temporary.name)

# %% [markdown]
# ## 1. The boxes
#
# The boxes that come with `pcdiff` are 125 Mpc/$h$ wide and were made with a particle mesh, each in a universe of its own: $\Omega_\mathrm{m}$ and $\sigma_8$ of a Latin
# hypercube. Sixty more are of one universe, the fiducial one.

# %%
train, truth = (pcdiff.read(find(f"datasets/halos_pm/{part}.hdf5")) for part in ("lhc_train", "fiducial_test"))
display(train)

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), constrained_layout=True)
box = truth[:1]
near = box.column("z") < 30
areas = 10 ** (box.column("log10_mass")[near] - 13.3)
axes[0].scatter(box.column("x")[near], box.column("y")[near], 3 * areas, color=TRUTH, linewidths=0)
axes[0].set(
    xlabel="$x$ [Mpc/$h$]",
    ylabel="$y$ [Mpc/$h$]",
    title="a slice of 30 Mpc/$h$, areas in proportion to mass",
    aspect="equal",
)
shade = axes[1].scatter(train.feature("omega_m"), train.feature("sigma_8"), 12, c=train.counts, cmap="viridis")
axes[1].set(xlabel=r"$\Omega_\mathrm{m}$", ylabel=r"$\sigma_8$", title="the universes of the 220 training boxes")
figure.colorbar(shade, label="number of halos in the box")
plt.show()

# %% [markdown]
# ## 2. Train
#
# The config says that positions are periodic. The net passes numbers and vectors between neighbours, in whichever image of the box they are nearest; so neither a translation
# nor a symmetry of the cube changes what it says, and none of them has to be learned. Two or three hundred steps are a start; `configs/halos.yaml` takes thousands.

# %%
config = pcdiff.load_config("halos_quick", ["training.steps=250", "tracking.enabled=false", "output=run"])
run = pcdiff.train(config, progress=False)
generator = pcdiff.Generator.load(run)
display(generator)

# %% [markdown]
# ## 3. Boxes of one universe
#
# $\Omega_\mathrm{m}$ and $\sigma_8$ are asked for; the number of halos is drawn for them, from a regression that was fitted to the training boxes.

# %%
universe = {"omega_m": 0.3175, "sigma_8": 0.834}
made = generator.sample(30, seed=1, conditions=universe)
print(
    f"halos in a box: true {truth.counts.mean():.0f} ± {truth.counts.std() / 60**0.5:.0f}, made {made.counts.mean():.0f} ± {made.counts.std() / 30**0.5:.0f}"
)


# %% tags=["hide-input"]
measured = {"true": measure(truth), "made": measure(made)}


def compare(name, axes):
    profile = profiles("halos")[name]
    edges = profile.edges[0]
    middle = np.sqrt(edges[1:] * edges[:-1]) if profile.log_x else (edges[1:] + edges[:-1]) / 2
    for label, colour in (("true", TRUTH), ("made", MADE)):
        # Errors are from the scatter of the boxes.
        found = Binned.of_profile(name, measured[label])
        axes.errorbar(middle, found.mean, np.sqrt(found.variance), fmt="o-", ms=3, lw=1, color=colour, label=label)
    axes.set(xlabel=profile.labels[0], ylabel=profile.content, xscale="log" if profile.log_x else "linear")
    axes.set_yscale("log" if profile.log_y else "linear")
    axes.legend()


# %%
figure, axes = plt.subplots(1, 3, figsize=(10, 3), constrained_layout=True)
for name, panel in zip(("mass_function", "two_point_correlation", "pairwise_velocity"), axes, strict=True):
    compare(name, panel)
plt.show()

# %% [markdown]
# After so short a training the two-point function of near pairs is not right yet; `pcdiff.evaluate` says by how much, with errors from box to box:

# %%
evaluation = pcdiff.evaluate(truth, made)
for metric in sorted(evaluation.samples[0].metrics, key=lambda one: -abs(one.pull or 0))[:5]:
    print(f"{metric.name:42} pull {metric.pull:5.1f}")

# %% [markdown]
# ## 4. What universe is it?
#
# The model knows how likely a catalogue is in each universe. With common noise for all of them, the variational bound gives the posterior of
# $(\Omega_\mathrm{m}, \sigma_8)$ of a single box.

# %%
(posterior,) = posteriors(generator, truth[:1], levels=12, seed=1)
figure, axes = plt.subplots(figsize=(4, 3.4), constrained_layout=True)
axes.pcolormesh(*posterior.axes, posterior.probability.T, cmap="Greys", rasterized=True)
axes.plot(universe["omega_m"], universe["sigma_8"], "*", ms=12, color=MADE, label="the truth")
axes.set(xlabel=r"$\Omega_\mathrm{m}$", ylabel=r"$\sigma_8$", title="posterior of one box")
axes.legend()
plt.show()

# %% [markdown]
# ## 5. Known haloes, and larger volumes
#
# Massive haloes are easily simulated, light ones are not. Here those above $10^{13.8}\,M_\odot/h$ of a true box are given, and the model adds the others.

# %%
heavy = box.column("log10_mass") > 13.8
known = box.points_where(heavy)
whole = complete(generator, known, box.counts, below=13.8, steps=20, repeats=2)
print(f"{known.num_points} given, {whole.num_points - known.num_points} added")

# %% [markdown]
# And a volume of two boxes, from windows that overlap by half:

# %%
volume = grow(generator, (2, 1, 1), universe, steps=15, seed=3)
figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), width_ratios=[1, 2], constrained_layout=True)
for catalogue, panel, title in (
    (whole, axes[0], "light haloes added to massive ones"),
    (volume, axes[1], "two boxes grown as one"),
):
    near = catalogue.column("z") < 30
    mass = catalogue.column("log10_mass")[near]
    given = (mass > 13.8) & (catalogue is whole)
    panel.scatter(
        catalogue.column("x")[near],
        catalogue.column("y")[near],
        3 * 10 ** (mass - 13.3),
        c=np.where(given, TRUTH, MADE),
        linewidths=0,
    )
    panel.set(xlabel="$x$ [Mpc/$h$]", ylabel="$y$ [Mpc/$h$]", title=title, aspect="equal")
plt.show()

# %% [markdown]
# Further: [work with halo catalogues](../how-to/halos.md) reads files of other simulations and trains in earnest; [periodic boxes](../methods.md#periodic-boxes) says
# what diffusion on a torus is.

# %% tags=["hide-input"]
os.chdir("/")
temporary.cleanup()
