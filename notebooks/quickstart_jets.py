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
# # Quickstart: a generator of jets
#
# A jet is a set of particles that move in about the same direction. Simulating one takes a chain of programs; here a small diffusion model learns, from
# 16,000 simulated gluon jets, to make more of them. We look at the jets, train for about a minute, sample new jets into a ROOT file, read that file as an analysis
# would, and ask how well the new jets agree with the truth. No GPU is needed.
#
# In the figures, truth is grey and what the model makes is orange. All that this notebook writes goes into a temporary folder.

# %% tags=["hide-input"]
import json
import os
import tempfile
import warnings

import awkward as ak
import hist
import matplotlib.pyplot as plt
import mplhep
import numpy as np
import torch
import uproot
import vector
from IPython.display import display

import pcdiff
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
torch.set_num_threads(1)  # the net is so small that a second thread brings little
vector.register_awkward()
warnings.filterwarnings("ignore", message="IProgress not found")  # MLflow's progress bars, of which we show none

temporary = tempfile.TemporaryDirectory()
os.chdir(temporary.name)

# %% [markdown]
# ## 1. The jets
#
# The jets that come with `pcdiff` were made with Pythia 8 (proton collisions at 13 TeV, gluons of about 1.2 TeV) and clustered with anti-kT, $R = 0.4$. Each keeps its 30
# constituents of largest $p_\mathrm{T}$. `pcdiff.read` finds out which format a file has; what it returns says what the columns mean.

# %%
train, truth = (pcdiff.read(find(f"datasets/jets/gluon30_{part}.hdf5")) for part in ("train", "test"))
display(train)

# %% [markdown]
# The constituents are given relative to their jet,
#
# $$ \eta^\mathrm{rel} = \eta - \eta_\mathrm{jet}, \qquad \phi^\mathrm{rel} = \phi - \phi_\mathrm{jet}, \qquad p_\mathrm{T}^\mathrm{rel} = p_\mathrm{T} / p_\mathrm{T,jet}. $$
#
# Clouds have different numbers of points, so they are awkward arrays: lists of records. Nothing is padded.

# %%
print(train.points.type)
print("the three leading constituents of the first jet:", train.points[0, :3].to_list())

# %% [markdown]
# Three jets of the test sample, chosen by their relative mass $m / p_\mathrm{T}$: at 5, 50 and 95 % of its distribution. The area of a dot is proportional to $p_\mathrm{T}^\mathrm{rel}$; the
# circle has the radius of the clustering. A light jet is one hard core. A heavy one has two: the gluon radiated early and at a large angle.


# %%
def show(clouds, color):
    """The jets at three quantiles of the relative mass."""
    relative_mass = jets.relative_mass(clouds)
    order = np.argsort(relative_mass)
    _, axes = plt.subplots(1, 3, figsize=(8.4, 2.9), layout="constrained", sharex=True, sharey=True)
    for axis, quantile in zip(axes, (0.05, 0.5, 0.95), strict=True):
        number = order[int(quantile * len(order))]
        jet = clouds.relative()[number]
        axis.scatter(
            jet.etarel, jet.phirel, s=1200 * jet.ptrel, color=color, alpha=0.5, edgecolors="black", linewidths=0.4
        )
        axis.add_patch(plt.Circle((0, 0), 0.4, fill=False, linestyle=":", color="black"))
        axis.set(xlim=(-0.45, 0.45), ylim=(-0.45, 0.45), aspect="equal", xlabel=r"$\eta^\mathrm{rel}$")
        axis.set_title(rf"{clouds.counts[number]} constituents, $m / p_\mathrm{{T}}$ = {relative_mass[number]:.3f}")
    axes[0].set_ylabel(r"$\phi^\mathrm{rel}$ [rad]")


show(truth, TRUTH)
plt.show()

# %% [markdown]
# What a sample of jets looks like is in its spectra. An observable is a plain function of the clouds; `pcdiff.physics.jets` has many. For the mass of the constituents $i$ of a jet
#
# $$ m^2 = \Big( \sum_i E_i \Big)^2 - \Big| \sum_i \mathbf{p}_i \Big|^2 . $$
#
# Four of them, of the training sample:


# %%
def spectrum(axis, values, bins, label, unit="", color=TRUTH, name=None, log=False):
    """A histogram of entries with the Poisson error of each bin."""
    filled = hist.Hist.new.Reg(*bins).Weight().fill(values)
    mplhep.histplot(
        filled,
        ax=axis,
        color=color,
        label=name,
        histtype="step" if name is None else "errorbar",
        yerr=True,
        flow="none",
    )
    width = filled.axes[0].widths[0]
    axis.set_xlabel(label + (f" [{unit}]" if unit else ""))
    axis.set_ylabel(f"entries / {width:g} {unit}".rstrip())
    axis.set(xlim=bins[1:], yscale="log" if log else "linear")


figure, axes = plt.subplots(1, 4, figsize=(11.5, 2.6), layout="constrained")
spectrum(axes[0], jets.mass(train), (50, 0, 300), "mass of the constituents", "GeV")
spectrum(axes[1], jets.pt(train), (50, 500, 1500), r"$p_\mathrm{T}$ of the constituents' sum", "GeV")
spectrum(axes[2], jets.multiplicity(train), (24, 7.5, 31.5), "number of constituents", log=True)
spectrum(axes[3], jets.ptrel(train), (50, 0, 0.5), r"constituent $p_\mathrm{T}^\mathrm{rel}$", log=True)
plt.show()

kept = float(np.mean(train.counts == 30))
print(f"{kept:.1%} of the jets have 30 constituents, or had more and keep their 30 leading ones")
assert 0.97 < kept < 1

# %% [markdown]
# ## 2. Training
#
# The model has two parts. A normalising flow learns how many constituents a jet has together with the jet's $p_\mathrm{T}$, $\eta$ and mass. Given these, a denoiser learns the constituents: noise is mixed into a
# jet, $x_t = \alpha x_0 + \sigma \epsilon$, and a net that treats all constituents alike is trained to find the noise again. [Diffusion from first principles](diffusion_from_first_principles.ipynb) derives
# why that is enough.
#
# What to learn from and how is said by a config: a YAML file, a dictionary, or a shipped file with overrides as below. We take that of `make quickstart` and make it cheaper: a net of
# half the width, half the batch, fewer steps.

# %%
config = pcdiff.load_config(
    "configs/quickstart.yaml",
    [
        "name=quickstart_jets",
        "net.hidden=64",
        "net.layers=3",
        "optim.lr=4e-3",
        "training.steps=2500",
        "training.points_per_batch=1920",
        "training.log_every=100",
        "training.validate_every=250",
        "training.compare=0",
        "multiplicity.steps=800",
    ],
)
run = pcdiff.train(config, progress=False)
print("the run folder", run, "holds", *sorted(path.name for path in run.iterdir()))

# %% [markdown]
# A mistake in a config is one line that says what was found and what was expected:

# %%
try:
    pcdiff.load_config("configs/quickstart.yaml", ["optim.learning_rate=1e-3"])
except pcdiff.PcdiffError as error:
    print(error)

# %% [markdown]
# The loss is the squared error of the net's output, one number for all noise levels. It does not go to zero, because noise cannot be known from the noisy jet, only its mean. What counts is that the loss
# of jets that the net has not seen, evaluated with a moving average of the weights, falls with that of the training jets: 2,500 steps of 64 jets are 10 times through the data, too few to learn it by heart.

# %%
lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
losses = {
    key: np.array([(line["step"], line["metrics"][key]) for line in lines if key in line["metrics"]]).T
    for key in ("loss/train", "loss/validation")
}
figure, axis = plt.subplots(figsize=(4.6, 2.6), layout="constrained")
axis.plot(*losses["loss/train"], color=TRUTH, label="training, mean of 100 steps")
axis.plot(*losses["loss/validation"], "o", color=MADE, label="validation, 2,000 jets")
axis.set(xlabel="optimiser step", ylabel="squared error of an entry", xlim=(0, 1.02 * lines[-1]["step"]))
axis.legend()
plt.show()
first, *_, last = losses["loss/validation"][1]
assert last < first, "the validation loss falls"

# %% [markdown]
# ## 3. Sampling
#
# A run folder holds a generator: the weights, the flow, the transform between physical units and the net's, and the default sampler. Starting from noise, it solves the probability-flow ODE in 20 evaluations of
# the net with DDIM of second order.

# %%
generator = pcdiff.Generator.load(run)
generated = generator.sample(3000, seed=7)
print(generator)
display(generated)

# %% [markdown]
# Noise belongs to a seed and a jet's number: the first hundred jets are the same whether one asks for a hundred or for 3,000. The azimuth of the jet, which the training files lack, is drawn uniformly.

# %%
again = generator.sample(100, seed=7)
assert np.array_equal(again.counts, generated[:100].counts)
assert np.allclose(again.column("ptrel"), generated[:100].column("ptrel"), rtol=1e-3, atol=1e-5)
show(generated, MADE)
plt.show()

# %% [markdown]
# ## 4. A ROOT file
#
# `pcdiff.write` takes the format from the name. The tree `Jets` has one entry a jet, with branches named as in CMS NanoAOD: those that the model made, `Jet_pt`, `Constituent_ptrel` and so on, and the momenta
# that follow from them. An object `pcdiff` beside it says what they are and which generator made them.

# %%
pcdiff.write(generated, "synthetic.root", metadata=generator.metadata(seed=7))
with uproot.open("synthetic.root") as file:
    print(file.classnames())
    file["Jets"].show(interpretation_width=44)

# %% [markdown]
# Whoever analyses it needs no `pcdiff`, only uproot, awkward and vector (or ROOT itself). The file holds single precision; sums are better taken in double, for the mass is a small difference of two large numbers, $E^2 - p^2$.

# %%
tree = ak.values_astype(uproot.open("synthetic.root:Jets").arrays(filter_name="Constituent_*"), np.float64)
constituents = ak.zip(
    {name: tree[f"Constituent_{name}"] for name in ("pt", "eta", "phi", "mass")}, with_name="Momentum4D"
)
jet = ak.sum(constituents, axis=1)
leading, others = constituents[:, 0], constituents[:, 1:]
distance = leading.deltaR(others)

figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.7), layout="constrained")
spectrum(axes[0], jet.mass, (40, 0, 300), "mass of the constituents", "GeV", MADE)
spectrum(axes[1], ak.flatten(distance), (40, 0, 0.6), r"$\Delta R$ to the leading constituent", color=MADE)
plt.show()
assert np.allclose(jet.mass, jets.mass(generated), rtol=2e-3), "float32 momenta give the mass to a permille"

# %% [markdown]
# ## 5. Against the truth
#
# Two samples of the same physics are never at distance zero. `pcdiff.evaluate` therefore sets beside each distance what two samples of the *truth* of these sizes would have, the floor, and the pull
#
# $$ \text{pull} = \frac{\text{distance} - \text{floor}}{\sqrt{\text{error}^2 + \text{error of the floor}^2}} . $$
#
# Errors come from resampling whole jets, because the constituents of one jet are correlated. Lines in red are differences that chance does not explain, in view of how many lines there are.

# %%
evaluation = pcdiff.evaluate(truth[:3000], {"generated": generated})
display(evaluation)

# %% [markdown]
# The mass, first of what an analysis asks for. Band and bars are one standard deviation.

# %%
evaluation.figure("mass")

# %% [markdown]
# The transverse momentum of the summed constituents is harder. It is $p_\mathrm{T,jet}$, which the flow knows well, times the sum of thirty $p_\mathrm{T}^\mathrm{rel}$. In the truth these know of each other: a jet that
# keeps nearly all its $p_\mathrm{T}$ cannot keep more. Nothing in the loss asks for the sum as such, and it comes out too widely spread.

# %%
evaluation.figure("pt")

# %%
distances = {record["name"]: record for record in evaluation.records()}
for name in ("w1_relative_mass", "w1_total_ptrel", "w1_pt"):
    found = distances[name]
    print(f"{name:18} {found['value']:9.4f} ± {found['error']:.4f} {found['unit']:4} floor {found['floor']:.4f}")
spreads = [float(jets.total_ptrel(clouds).std()) for clouds in (truth, generated)]
print(f"the sum of ptrel spreads by {spreads[0]:.3f} in the truth and by {spreads[1]:.3f} in the generated jets")
assert spreads[1] > spreads[0]
mean = float(jets.relative_mass(truth).mean())
assert distances["w1_relative_mass"]["value"] < 0.1 * mean, "relative masses are within a tenth of their mean"
assert distances["w1_total_ptrel"]["pull"] > 2, "a minute of training is not enough for the sum of ptrel"

# %% [markdown]
# What differs most, an observable or a profile, the evaluation names itself. The energy-energy correlator is a profile: the momentum that stands at a distance $R_L$ from other momentum, a mean over jets.

# %%
print("what differs, the worst first:", ", ".join(evaluation.samples[0].blamed[:6]))
evaluation.figure("energy_energy_correlator")

# %% [markdown]
# Fine structure is learned last. Pairs of constituents closer than about 0.01 are too few and come out a few hundredths apart instead: the cores of the generated jets are blurred.

# %%
edges = jets.CORRELATOR_EDGES
close = edges[1:] < 0.005
momentum = [jets.energy_energy_correlator(clouds).mean(axis=0)[close].sum() for clouds in (truth, generated)]
print(f"momentum at R_L below {edges[1:][close][-1]:.4f}: {momentum[1] / momentum[0]:.2f} of that in the truth")
assert momentum[1] < 0.8 * momentum[0]

# %% [markdown]
# ## 6. Where the run is kept
#
# The run folder is the truth of the run: config, metrics, checkpoints, generator. A background thread mirrors it to MLflow, here to a file `mlflow.db` in the working folder, or to a server if the environment's
# `MLFLOW_TRACKING_URI` or the config's `tracking.uri` names one. `pcdiff ui` opens it in a browser; in Python it is a table.

# %%
import mlflow

mlflow.set_tracking_uri("sqlite:///mlflow.db")
runs = mlflow.search_runs(experiment_names=["pcdiff"])
runs[["tags.mlflow.runName", "status", "params.net.hidden", "params.training.steps", "metrics.loss/validation"]]

# %% [markdown]
# ## What longer training gives
#
# This was a tiny net trained for a minute. `make quickstart` trains one of twice the width for minutes and compares 10,000 jets: it reaches (1.5 ± 0.5) × 10⁻³ for the Wasserstein distance of the relative mass, where
# two samples of the truth are (0.7 ± 0.3) × 10⁻³ apart. Its sum of $p_\mathrm{T}^\mathrm{rel}$ is still off, (4.6 ± 0.5) × 10⁻³ against (1.3 ± 0.5) × 10⁻³ (README, 2026-11-24).
#
# Next:
#
# - `pcdiff train configs/gluon30_teacher.yaml`: more jets, a longer run; `pcdiff data make jets` makes the jets.
# - Other evaluations a step: `generator.sample(3000, seed=7, steps=50)`, or `sampler="unipc"`; which of the differences above are the sampler's?
# - [Compare observables](compare_observables.ipynb): substructure, what each metric sees, observables of your own.
# - [Your own ROOT file](your_own_root_file.ipynb), and [reweighting](reweight_and_classify.ipynb) what is left of the differences.
