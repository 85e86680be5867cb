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
# # Diffusion from first principles
#
# Take samples of an unknown distribution, destroy them slowly with noise, and learn to undo the last bit of damage. That is all a diffusion model does, and from it
# follow samplers, likelihoods and posteriors. This notebook derives each piece in a few lines and shows it on distributions in the plane, where everything can be
# drawn and where, mostly, the exact answer is known.
#
# The symbols are those of the modules of `pcdiff.diffusion`, each of which has its mathematics at its head:
#
# | symbol | is |
# | --- | --- |
# | $x_0$, $\epsilon$ | a clean cloud; standard normal noise |
# | $x_t = \alpha x_0 + \sigma \epsilon$ | the noisy cloud at time $t$; $\alpha(t)$ falls, $\sigma(t)$ rises |
# | $\log\mathrm{SNR} = \log(\alpha^2 / \sigma^2) = 2 \lambda$ | names a noise level whatever the schedule |
# | $r^2 = \alpha^2 + \sigma^2$, $s = \sigma / \alpha$ | variance of $x_t$ for data of unit variance; noise in units of the data |
# | $m(x_t, t) = E[x_0 \mid x_t]$, $E[\epsilon \mid x_t]$ | the best guesses of data and noise |
# | $\nabla \log p(x_t)$ | the score, a vector field that points to where the data are |
#
# A *cloud* is a set of $n$ points of $F$ features. Here each cloud is a single point in the plane, a tensor of shape $(B, 1, 2)$; a jet of 30 constituents goes
# through the same code with shape $(B, 30, 3)$. All runs in about two minutes on one core. In the figures, truth is grey and what a model makes is blue.

# %% tags=["hide-input"]
import math
import tempfile
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from scipy import stats

import pcdiff
from pcdiff import diffusion as dm
from pcdiff.config import EpicConfig
from pcdiff.data import toy
from pcdiff.data.toys import CURVE_NOISE, MIXTURES, Mixture
from pcdiff.diffusion import guidance, objectives
from pcdiff.flows import RealNVP
from pcdiff.nets import build_net
from pcdiff.trajectory import trajectory

torch.set_num_threads(1)  # the nets are so small that a second thread costs more than it brings
TRUTH, MADE, OTHER = "0.55", "C0", "C1"
BLUES = LinearSegmentedColormap.from_list("made", ["white", MADE, "#0b2e4a"])
plt.rcParams |= {
    "figure.dpi": 80,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "image.cmap": "Greys",
}


def panels(columns, rows=1, width=2.3, height=None, **options):
    """A figure of panels; returns it and its axes as a flat list."""
    size = (width * columns, (height or width) * rows + 0.3)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    return figure, list(axes.flat)


def plane(axis, title="", half=2.6):
    """The plane of the data: equal aspect, labels at the outer edges only."""
    axis.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", title=title)
    axis.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    spec = axis.get_subplotspec()
    axis.set_xlabel("x" if spec.is_last_row() else "")
    axis.set_ylabel("y" if spec.is_first_col() else "")
    axis.tick_params(labelbottom=spec.is_last_row(), labelleft=spec.is_first_col())


def scatter(axis, x, color=MADE, title="", half=2.6):
    """Points (n, 1, 2) as dots."""
    axis.scatter(*x[:, 0].T, s=2.5, color=color, alpha=0.5, linewidths=0)
    plane(axis, title, half)


def lattice(half=2.6, cells=80):
    """The centres of the cells of a square, shape (cells^2, 1, 2), and the area of a cell."""
    line = (torch.arange(cells) + 0.5) / cells * 2 * half - half
    x, y = torch.meshgrid(line, line, indexing="xy")
    return torch.stack([x.flatten(), y.flatten()], 1)[:, None], (2 * half / cells) ** 2


def density(axis, log_p, title="", cmap="Greys", half=2.6, top=1.0):
    """log p on a lattice as an image of p."""
    cells = math.isqrt(len(log_p))
    axis.imshow(
        log_p.exp().reshape(cells, cells), extent=(-half, half) * 2, origin="lower", cmap=cmap, vmin=0, vmax=top
    )
    plane(axis, title, half)


def arrows(axis, where, vectors, color="black", longest=2.0):
    """A vector field at points (n, 1, 2); what is longer than ``longest`` is drawn so long."""
    shown = vectors * (longest / vectors.norm(dim=-1, keepdim=True).clamp(min=longest))
    axis.quiver(*where[:, 0].T, *shown[:, 0].T, color=color, scale=14 * longest, width=0.006, pivot="mid")


# %% [markdown]
# Three more helpers: points of a toy as a tensor, the mask and the (absent) conditions that each denoiser takes, and the distance between two samples. The last is the
# sliced Wasserstein distance: the mean over directions of the one-dimensional distance, in the units of the data, whose standard deviation is about 1.


# %%
def draw(name, n, seed):
    """Points of a toy, shape (n, 1, 2)."""
    clouds = toy(name, n, seed)
    return torch.from_numpy(np.stack([clouds.column("x"), clouds.column("y")], axis=1))[:, None]


def normal(n, seed, width=2, dtype=torch.float32):
    return torch.randn(n, 1, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain(x):
    """Mask and conditions of clouds of one point."""
    return torch.ones(len(x), 1, dtype=torch.bool), torch.zeros(len(x), 0)


def record(into, count=None):
    """A callback that keeps what a sampler holds at each step, of the first ``count`` clouds."""
    return lambda step, t, x, prediction: into.append(x[:count])


def distance(a, b, directions=64):
    angle = torch.arange(directions) * math.pi / directions
    lines = torch.stack([angle.cos(), angle.sin()]).double()
    return float(((a[:, 0].double() @ lines).sort(0)[0] - (b[:, 0].double() @ lines).sort(0)[0]).abs().mean())


truth = draw("spiral", 3000, seed=100)
floor = np.mean([distance(truth, draw("spiral", 3000, seed=101 + k)) for k in range(5)])
print(f"two samples of 3,000 true points are {floor:.3f} apart: no model can be told from the truth below that")

# %% [markdown]
# ## 1. The forward process
#
# Noise is added by the linear stochastic differential equation
#
# $$ dx = f x \, dt + g \, dw. $$
#
# Given $x_0$ its solution is normal, $x_t = \alpha x_0 + \sigma \epsilon$. The mean obeys $\alpha' = f \alpha$ and the variance $(\sigma^2)' = 2 f \sigma^2 + g^2$, so
# a schedule $(\alpha, \sigma)$ *is* a forward process, with
#
# $$ f = \frac{\alpha'}{\alpha}, \qquad g^2 = 2 \sigma \sigma' - 2 f \sigma^2 = -\sigma^2 \, \frac{d \log\mathrm{SNR}}{dt}. $$
#
# To reach time $t$ no path need be simulated: draw one $\epsilon$. At the end nothing of $x_0$ is left, and $p(x_t)$ is a normal that we can draw from.

# %%
schedule = dm.CosineSchedule()  # alpha = cos(pi t / 2), sigma = sin(pi t / 2)
eps = normal(3000, seed=1)
figure, axes = panels(6, width=1.75)
for axis, t in zip(axes, (0.0, 0.05, 0.15, 0.3, 0.6, 1.0), strict=True):
    level = schedule.level(torch.tensor([t]).clamp(schedule.t_min, schedule.t_max))
    x_t = level.alpha * truth + level.sigma * eps
    scatter(axis, x_t, TRUTH, f"$t$ = {t:g}", half=3.2)
    assert (x_t.var(0) - (level.alpha**2 * truth.var(0) + level.sigma**2)).abs().max() < 0.1

# %% [markdown]
# Schedules differ in how they spend their time. What matters is which noise levels they visit, and that is the same for all: from a $\log\mathrm{SNR}$ of 12 (noise of
# 0.0025 of the data, far below any structure) to $-9$ (data of 0.011 of the noise). Two schedules that visit the same levels differ by a rescaling of time and of $x$
# only. Variance-preserving schedules have $\alpha^2 + \sigma^2 = 1$; `rectified` are the straight lines of flow matching; the variance-exploding `ve`
# has $\alpha = 1$, and its $\sigma$ leaves the picture.

# %%
kinds = {
    "cosine": (dm.CosineSchedule(), "-"),
    "linear": (dm.LinearSchedule(), "-"),
    "sub-vp": (dm.SubVPSchedule(), "--"),
    "rectified": (dm.RectifiedSchedule(), "-."),
    "ve": (dm.VESchedule(), ":"),
}
figure, axes = panels(3, width=2.9, height=2.4)
for k, (name, (kind, style)) in enumerate(kinds.items()):
    t = torch.linspace(kind.t_min, kind.t_max, 400, dtype=torch.float64)
    for axis, values in zip(axes, (kind.alpha(t), kind.sigma(t), kind.log_snr(t)), strict=True):
        axis.plot(t, values, style, color=f"C{k}", label=name)
for axis, label in zip(axes, (r"$\alpha$", r"$\sigma$", r"$\log\mathrm{SNR}$"), strict=True):
    axis.set(xlabel="$t$", ylabel=label, xlim=(0, 1), ylim=(-10, 13) if "SNR" in label else (0, 1.05))
axes[2].legend(loc="upper right", handlelength=2.2)
plt.show()

# %% [markdown]
# ## 2. The score
#
# The noisy density is the data smeared, $p(x_t) = \int p(x_0) \, N(x_t; \alpha x_0, \sigma^2) \, dx_0$. Differentiate under the integral: each kernel gives
# $-(x_t - \alpha x_0) / \sigma^2 = -\epsilon / \sigma$, weighted by how likely that $x_0$ is given $x_t$. Hence Tweedie's formula,
#
# $$ \nabla \log p(x_t) = -\frac{E[\epsilon \mid x_t]}{\sigma} = \frac{\alpha \, E[x_0 \mid x_t] - x_t}{\sigma^2}. $$
#
# Knowing the score, knowing the expected noise and knowing the expected clean cloud are one and the same, because $\alpha x_0 + \sigma \epsilon = x_t$ is given. `Prediction`
# holds any of them and reads as all: `.x0`, `.eps`, `.score`, `.velocity`.
#
# For a Gaussian mixture $p(x_0) = \sum_k w_k N(m_k, C_k)$ all is closed. Component $k$ is smeared to $N(\alpha m_k, S_k)$, $S_k = \alpha^2 C_k + \sigma^2$, and with $\gamma_k$ the
# share of component $k$ at $x_t$,
#
# $$ E[x_0 \mid x_t] = \sum_k \gamma_k \left( m_k + \alpha C_k S_k^{-1} (x_t - \alpha m_k) \right). $$


# %%
class Exact:
    """The exact denoiser of a Gaussian mixture; obeys the contract of a trained one."""

    def __init__(self, mixture, schedule):
        self.schedule = schedule
        self.w, self.m = torch.tensor(mixture.weights).double(), torch.tensor(mixture.means).double()
        self.c, self.u = torch.linalg.eigh(torch.tensor(mixture.covariances).double())  # C = u diag(c) u^T

    def _parts(self, x_t, level):
        """log(w_k N(x_t; alpha m_k, S_k)), and C S^-1 (x_t - alpha m_k)."""
        w, m, c, u = (v.to(x_t.dtype) for v in (self.w, self.m, self.c, self.u))
        along = torch.einsum("kij,bki->bkj", u, x_t - level.alpha * m)  # in the axes of component k
        variance = level.alpha**2 * c + level.sigma**2
        log_p = w.log() - (along**2 / variance + (2 * math.pi * variance).log()).sum(-1) / 2
        return log_p, torch.einsum("kij,bkj->bki", u, c / variance * along)

    def log_p(self, x_t, t):
        return self._parts(x_t, self.schedule.level(t.expand(len(x_t))))[0].logsumexp(1)

    def __call__(self, x_t, t, mask, cond):
        level = self.schedule.level(t)
        log_p, pull = self._parts(x_t, level)
        means = self.m.to(x_t.dtype) + level.alpha * pull
        x0 = torch.einsum("bk,bki->bi", log_p.softmax(1), means)[:, None]
        return dm.Prediction.of("x0", x0, x_t, level)


# %% [markdown]
# The spiral is a curve smeared by a Gaussian of width 0.05, so it too is a mixture, to all digits that matter: 600 components along its arms, spaced by at most a little more than
# their own width, add up to a smooth density. With it we know the truth of the hardest toy at each noise level.


# %%
def spiral_mixture(per_arm=300):
    r = (np.arange(per_arm) + 0.5) / per_arm * 2
    arm = r[:, None] * np.stack([np.cos(1.5 * np.pi * r), np.sin(1.5 * np.pi * r)], axis=1)
    round_ = ((CURVE_NOISE**2, 0.0), (0.0, CURVE_NOISE**2))
    weights = np.tile(r / r.sum() / 2, 2)  # the radius has the density r / 2
    return Mixture(tuple(weights), tuple(map(tuple, np.concatenate([arm, -arm]))), (round_,) * (2 * per_arm))


exact = {name: Exact(mixture, schedule) for name, mixture in MIXTURES.items()}
exact["spiral"] = Exact(spiral_mixture(), schedule)

where, coarse = lattice()[0].double(), lattice(cells=14)[0].double()
figure, axes = panels(4, width=2.25)
for axis, log_snr in zip(axes, (-2.0, 0.0, 2.0, 5.0), strict=True):
    t = schedule.time(torch.tensor([log_snr], dtype=torch.float64))
    log_p = exact["eight-gaussians"].log_p(where, t)
    density(axis, log_p - log_p.max(), rf"$\log\mathrm{{SNR}} = {log_snr:g}$", top=1.6)
    found = exact["eight-gaussians"](coarse, t.expand(len(coarse)), *plain(coarse))
    arrows(axis, coarse, found.score * schedule.sigma(t))

# %% [markdown]
# The arrows are $\sigma \nabla \log p = -E[\epsilon \mid x_t]$, which is of order one at each level. In strong noise they all point to the mean; as the noise falls the field
# breaks up, first into a ring and then into eight basins with ridges between them. Which basin a point belongs to is decided around $\log\mathrm{SNR} \approx 2$.

# %% [markdown]
# ## 3. The reverse process
#
# The density of the forward process obeys the Fokker-Planck equation, in which the diffusion can be written as a drift along the score:
#
# $$ \frac{\partial p}{\partial t} = -\nabla \cdot (f x \, p) + \frac{g^2}{2} \nabla^2 p = -\nabla \cdot \left[ \left( f x - \frac{g^2}{2} \nabla \log p \right) p \right]. $$
#
# Nothing says how much of the transport must be random. For each strength $\eta \ge 0$ the process
#
# $$ dx = \left[ f x - \frac{1 + \eta^2}{2} g^2 \, \nabla \log p \right] dt + \eta \, g \, dw \qquad (t \text{ falling}) $$
#
# has the same $p(x_t)$ at each $t$. $\eta = 1$ is the reverse diffusion (Anderson 1982), $\eta = 0$ the probability-flow ODE. All that is needed is the score. Here is
# the reverse diffusion with the exact score of the eight Gaussians; no net was trained yet.

# %%
way = []
z = normal(3000, seed=2)
fresh = dm.drawer(z, torch.Generator().manual_seed(3))
grid = dm.log_snr_grid(schedule, 200)
made = dm.ancestral(exact["eight-gaussians"], z, grid, *plain(z), draw=fresh, callback=record(way))
figure, axes = panels(6, width=1.75)
for axis, step in zip(axes, (0, 70, 95, 115, 140, -1), strict=True):
    scatter(axis, [*way, made][step], title=f"$t$ = {grid[step]:.2f}", half=3.2)
assert distance(made, draw("eight-gaussians", 3000, seed=4)) < 0.08

# %% [markdown]
# ## 4. DDPM: how the score is learned
#
# Why should the error of the noise be the thing to minimise? Because it bounds the likelihood. Let the model be a chain $x_T \to \dots \to x_0$ that steps from $t$ to $s < t$ by
# $p(x_s \mid x_t) = q(x_s \mid x_t, \hat x_0(x_t))$: the true posterior of the forward process, with the model's guess in the place of $x_0$. By Jensen's inequality
#
# $$ -\log p(x_0) \le \underbrace{-E \log p(x_0 \mid x_{t_\mathrm{min}})}_\text{reconstruction} + \underbrace{\mathrm{KL}\big(q(x_T \mid x_0) \,\|\, p(x_T)\big)}_\text{prior}
# + \sum_{t > s} E \, \mathrm{KL}\big(q(x_s \mid x_t, x_0) \,\|\, p(x_s \mid x_t)\big). $$
#
# The forward process is normal, and so is its posterior: with $\sigma_{t|s}^2 = \sigma_t^2 - (\alpha_t / \alpha_s)^2 \sigma_s^2$, the noise added between $s$ and $t$,
#
# $$ q(x_s \mid x_t, x_0) = N\!\left( \frac{\alpha_t \sigma_s^2}{\alpha_s \sigma_t^2} \, x_t + \frac{\alpha_s \sigma_{t|s}^2}{\sigma_t^2} \, x_0, \;
# \frac{\sigma_{t|s}^2 \sigma_s^2}{\sigma_t^2} \right). $$
#
# Two normals of equal variance that differ by $\Delta$ in the mean have $\mathrm{KL} = \Delta^2 / 2 \mathrm{Var}$. Insert, and all but the signal-to-noise ratios cancels:
#
# $$ \mathrm{KL} = \tfrac12 \left( \mathrm{SNR}_s - \mathrm{SNR}_t \right) |x_0 - \hat x_0|^2 = \tfrac12 \left( e^{\log\mathrm{SNR}_s - \log\mathrm{SNR}_t} - 1 \right) |\epsilon - \hat\epsilon|^2
# \;\longrightarrow\; \tfrac12 \int \left( -\frac{d \log\mathrm{SNR}}{dt} \right) E \, |\epsilon - \hat\epsilon|^2 \, dt $$
#
# for many steps. The bound is half the area under the error of the noise, drawn over the $\log\mathrm{SNR}$. DDPM leaves out the weight, $L = E_{t, x_0, \epsilon} |\epsilon - \hat\epsilon|^2$,
# which spends less of the net on noise levels too fine to see. The minimum at each level is unchanged: $\hat\epsilon = E[\epsilon \mid x_t]$, that is, the score.
#
# The net sees $x_t / r$ and puts out $F$, read as $\hat\epsilon = (\sigma x_t / r + \alpha F) / r$ and $\hat x_0 = (\alpha x_t / r - \sigma F) / r$. With $F = 0$ this is the exact
# denoiser of a standard normal, so an untrained net is not a bad start. Which times to draw is free as long as their density is divided out again; drawing them in proportion
# to the weight that the loss has on $F$ gives the least scatter of the gradient.

# %%
bank = {name: draw(name, 20_000, seed=5) for name in ("spiral", "two-gaussians", "eight-gaussians")}


def batch(name, rng, count=512):
    """Clean points and noise."""
    x0 = bank[name][torch.randint(len(bank[name]), (count,), generator=rng)]
    return x0, torch.randn(x0.shape, generator=rng)


def new_net(seed=0, hidden=64, layers=3):
    torch.manual_seed(seed)
    return build_net(EpicConfig(hidden=hidden, layers=layers), 2, 0, ("x", "y"))


def fit(model, loss, steps, lr=5e-3, seed=0):
    """Minimise a loss by Adam, with a learning rate that falls as a cosine; returns its history."""
    rng = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    history = []
    for _ in range(steps):
        value = loss(rng).mean()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        decay.step()
        history.append(value.item())
    return np.array(history)


# %%
def ddpm_loss(denoiser, rng, name="spiral", weight="epsilon"):
    x0, eps = batch(name, rng)
    t, factor = dm.draw_times(denoiser.schedule, len(x0), "importance", rng, weight=weight)
    return factor * dm.denoising_loss(denoiser, x0, *plain(x0), t=t, noise=eps, weight=weight)


ddpm = dm.Denoiser(new_net(), schedule)
history = fit(ddpm, partial(ddpm_loss, ddpm), steps=2000)


# %%
@torch.no_grad()
def noise_error(denoiser, log_snr, x0, seed=6):
    """E |eps - eps_hat|^2 an entry at a noise level, float64."""
    t = schedule.time(torch.full((len(x0),), log_snr, dtype=x0.dtype))
    eps = normal(len(x0), seed, dtype=x0.dtype)
    found = denoiser(dm.noised(denoiser, x0, plain(x0)[0], t, eps), t, *plain(x0))
    return float((found.eps - eps).square().mean())


levels = np.linspace(-8, 11.5, 27)
errors = {name: [noise_error(d, v, truth) for v in levels] for name, d in (("net", ddpm), ("exact", exact["spiral"]))}
least = float(
    torch.trapezoid(torch.tensor(errors["exact"]).flip(0), schedule.time(torch.from_numpy(levels)).flip(0))
)  # over t

# %%
figure, axes = panels(2, width=3.9, height=2.7)
smooth = np.convolve(history, np.ones(50) / 50, mode="valid")
axes[0].plot(history, color=MADE, alpha=0.25, linewidth=0.5)
axes[0].plot(np.arange(len(smooth)) + 25, smooth, color=MADE, label="net, mean of 50 steps")
axes[0].axhline(least, color=TRUTH, linestyle="--", label="exact denoiser")
axes[0].set(xlabel="optimiser step", ylabel=r"$E \, |\epsilon - \hat\epsilon|^2$", xlim=(0, 2000), ylim=(0.38, 0.58))
axes[1].plot(levels, errors["exact"], color=TRUTH, linestyle="--", label="exact denoiser")
axes[1].plot(levels, errors["net"], color=MADE, label="net")
axes[1].set(xlabel=r"$\log\mathrm{SNR}$", ylabel=r"$E \, |\epsilon - \hat\epsilon|^2$", xlim=(-8, 11.5), ylim=(0, 1.05))
for axis in axes:
    axis.legend()
assert smooth[-1] < least + 0.05

# %% [markdown]
# The loss does not go to zero, and should not: even the exact denoiser cannot know the noise, only its mean given $x_t$. In strong noise (left) $x_t$ *is* the noise and the error
# is small; in weak noise the point says nothing of it and the error is 1. The interesting levels lie between, where structure appears. What is left between the two curves is what the
# net has not learned after 2,000 steps: a little at the fine structure, around $\log\mathrm{SNR} = 5$.
#
# Next, samples of the reverse diffusion, and the score that the net has learned beside the exact one, both drawn over the exact density. The centre, where the two arms meet, is learned last.

# %%
with torch.no_grad():
    z = normal(3000, seed=7)
    fresh = dm.drawer(z, torch.Generator().manual_seed(8))
    made = dm.ancestral(ddpm, z, dm.log_snr_grid(schedule, 250), *plain(z), draw=fresh)
figure, axes = panels(2, width=2.9)
scatter(axes[0], truth, TRUTH, "truth")
scatter(axes[1], made, MADE, f"DDPM, 250 steps: distance {distance(made, truth):.3f}")
assert distance(made, truth) < 0.15

# %%
figure, axes = panels(4, width=2.25)
for k, log_snr in enumerate((0.0, 3.0)):
    t = schedule.time(torch.tensor([log_snr], dtype=torch.float64))
    log_p = exact["spiral"].log_p(where, t)
    for axis, (name, model, color) in zip(
        axes[2 * k :], (("exact", exact["spiral"], "black"), ("learned", ddpm, MADE)), strict=False
    ):
        at = coarse.float()
        with torch.no_grad():
            field = model(at, t.float().expand(len(at)), *plain(at)).score * schedule.sigma(t).float()
        density(axis, log_p - log_p.max(), rf"{name}, $\log\mathrm{{SNR}} = {log_snr:g}$", top=1.8)
        arrows(axis, at, field, color)

# %% [markdown]
# ## 5. Score matching without a clean target
#
# Denoising is one way to the score. Hyvärinen's is another: expand the square, and integrate the cross term by parts,
#
# $$ E |\hat s - \nabla \log p|^2 = E |\hat s|^2 - 2 \int \hat s \cdot \nabla p \, dx + \text{const} = E \left[ |\hat s|^2 + 2 \, \mathrm{div} \, \hat s \right] + \text{const}. $$
#
# The score that we do not know has dropped out: samples suffice, and nobody need know which noise made them. *Sliced* score matching replaces the divergence by $v^T (d\hat s / dx) v$ with
# random $v$, one product instead of one for each dimension. With $\hat s = -\hat\epsilon / \sigma$ and times $\sigma^2$, the three objectives have one mean,
#
# $$ E |\epsilon - \hat\epsilon|^2 = F n + E \left[ |\hat\epsilon|^2 - 2 \sigma \, \mathrm{div} \, \hat\epsilon \right], $$
#
# by Stein's identity $E[\epsilon \cdot \hat\epsilon] = \sigma E[\mathrm{div} \, \hat\epsilon]$; here $F n$ is the number of entries of a cloud. What differs is the scatter of one draw.

# %%
estimates = {"denoising": [], "implicit": [], "sliced": []}
rng = torch.Generator().manual_seed(9)
knots = np.linspace(-6, 10, 17)
for log_snr in knots:
    t, eps = schedule.time(torch.full((len(truth),), log_snr)), torch.randn(truth.shape, generator=rng)
    mask, cond = plain(truth)
    given = {"t": t, "noise": eps}
    match = partial(dm.score_matching_loss, ddpm, truth, mask, cond, **given)
    estimates["denoising"].append(dm.denoising_loss(ddpm, truth, mask, cond, **given).detach())
    estimates["implicit"].append(1 + match().detach())
    estimates["sliced"].append(1 + match(vectors=dm.probe(truth, mask, "rademacher", rng)).detach())

# %%
figure, axes = panels(2, width=3.9, height=2.6)
for (name, values), color, style in zip(estimates.items(), (TRUTH, MADE, OTHER), ("-", "--", ":"), strict=True):
    values = torch.stack(values)
    axes[0].plot(knots, values.mean(1), style, color=color, label=name, linewidth=2)
    axes[1].semilogy(knots, values.std(1), style, color=color, linewidth=2)
axes[0].set(xlabel=r"$\log\mathrm{SNR}$", ylabel="mean of the loss, an entry", ylim=(0, 1.1))
axes[1].set(xlabel=r"$\log\mathrm{SNR}$", ylabel="standard deviation of one draw")
axes[0].legend()
off = (torch.stack(estimates["implicit"]) - torch.stack(estimates["denoising"])).mean(1).abs()
assert off[knots <= 6].max() < 0.1

# %% [markdown]
# Equal means, as promised; the scatter differs. In strong noise, where the answer can be read off $x_t$, that of denoising vanishes, because it *knows* the noise, whereas the others average
# $|\hat\epsilon|^2$ against a divergence. Next to the data it is the other way round: the target of denoising is then almost pure chance. Sliced scatters more than implicit, for less work
# in many dimensions. Denoising alone needs no second derivatives, and is what one trains generators with; the others are for data whose noise is not known. They do learn; 300 steps each:


# %%
def divergence_loss(denoiser, sliced, rng):
    x0, eps = batch("two-gaussians", rng, 256)
    mask, cond = plain(x0)
    t, _ = dm.draw_times(schedule, len(x0), "low-discrepancy", rng)
    vectors = dm.probe(x0, mask, "rademacher", rng) if sliced else None
    return dm.score_matching_loss(denoiser, x0, mask, cond, t=t, noise=eps, vectors=vectors)


models = {name: dm.Denoiser(new_net(), schedule) for name in ("denoising", "implicit", "sliced")}
fit(models["denoising"], partial(ddpm_loss, models["denoising"], name="two-gaussians"), 300)
fit(models["implicit"], partial(divergence_loss, models["implicit"], False), 300)
fit(models["sliced"], partial(divergence_loss, models["sliced"], True), 300)
two = draw("two-gaussians", 3000, seed=10)
figure, axes = panels(4, width=2.25)
scatter(axes[0], two, TRUTH, "truth")
for axis, (name, model) in zip(axes[1:], models.items(), strict=True):
    with torch.no_grad():
        made = dm.ddim(model, z, dm.log_snr_grid(schedule, 30), *plain(z))
    scatter(axis, made, MADE, f"{name}: distance {distance(made, two):.2f}")
    assert distance(made, two) < 0.25

# %% [markdown]
# ## 6. Langevin dynamics
#
# The oldest way to sample with a score alone: at a fixed noise level,
#
# $$ x \leftarrow x + \frac{e}{2} \nabla \log p(x) + \sqrt{e} \, z, $$
#
# leaves $p$ as it is, up to its step $e$. But between well-separated modes it never crosses: each walker stays in the basin that it started in, and the weights of the modes are those of the
# start. *Annealing* cures it. Go through the levels from strong noise to weak; while the noise is strong there is one basin, and the walkers share themselves out rightly before it splits.

# %%
model, walkers = exact["two-gaussians"], 3 * normal(2000, seed=11)
rng = torch.Generator().manual_seed(12)
t_low = schedule.time(torch.tensor([5.0]))
e = 0.1 * schedule.sigma(t_low) ** 2
x, path = walkers, [walkers]
for _ in range(1500):
    score = model(x, t_low.expand(len(x)), *plain(x)).score
    x = x + e / 2 * score + e.sqrt() * torch.randn(x.shape, generator=rng)
    path.append(x)

# %%
annealed = []
z = normal(2000, seed=11)
look, fresh = record(annealed), dm.drawer(z, rng)
end = dm.langevin(model, z, dm.log_snr_grid(schedule, 250), *plain(z), corrections=6.0, draw=fresh, callback=look)
lower = [float((points.sum(-1) < -0.4).float().mean()) for points in (x, end)]
figure, axes = panels(2, width=3.1)
ways = {"one level": (x, path), "annealed": (end, annealed[100:])}  # its first 100 levels, of strong noise, not drawn
for axis, (name, (ends, way)), share in zip(axes, ways.items(), lower, strict=True):
    scatter(axis, ends, MADE, f"{name}: lower mode has {share:.2f} (truth 0.40)", half=4.5)
    for k in range(4):
        line = torch.stack([points[k, 0] for points in way])
        axis.plot(*line.T, color=f"C{k + 1}", linewidth=0.6)
        axis.plot(*line[0], "o", color=f"C{k + 1}", markersize=5, markeredgecolor="white")
assert abs(lower[0] - 0.4) > 0.05  # one level: the shares of the start
assert abs(lower[1] - 0.4) < 0.05

# %% [markdown]
# ## 7. SDE against ODE
#
# The same start, the same score, two values of $\eta$. Along the line through the two modes the problem is one-dimensional, so that paths can be drawn over the density they move in. Paths of
# the ODE never cross: it is an invertible map, and where a point ends is decided by where it starts. Those of the SDE forget their start, and are decided only when the basins split. The
# densities that they visit are the same at each time.

# %%
axis_u = torch.linspace(-3, 3, 240, dtype=torch.float64)
line = (axis_u[:, None] / math.sqrt(2)).expand(-1, 2)[:, None]  # u = (x + y) / sqrt 2
knots = torch.linspace(-6, 8, 200, dtype=torch.float64)
image = torch.stack([model.log_p(line, schedule.time(v[None])) for v in knots], 1)
image = (image - image.max(0)[0]).exp()


def u_paths(eta, count=4000, steps=400):
    """log-SNR, and u of each path; shapes (steps + 1,) and (steps + 1, count)."""
    way = []
    z = normal(count, seed=13, dtype=torch.float64)
    fresh = dm.drawer(z, torch.Generator().manual_seed(14))
    grid = dm.log_snr_grid(schedule, steps)
    end = dm.ddim(model, z, grid, *plain(z), order=1, eta=eta, draw=fresh, callback=record(way))
    return schedule.log_snr(grid), torch.stack([*way, end])[:, :, 0].sum(-1) / math.sqrt(2)


# %%
figure, axes = plt.subplots(1, 3, figsize=(9.2, 2.9), width_ratios=(3, 3, 1.2), sharey=True)
bins = np.linspace(-3, 3, 61)
axes[2].hist((two[:, 0].sum(-1) / math.sqrt(2)).numpy(), bins, density=True, orientation="horizontal", color="0.8")
for axis, eta, name, color in ((axes[0], 0.0, "ODE", MADE), (axes[1], 1.0, "SDE", OTHER)):
    along, way = u_paths(eta)
    axis.imshow(image, extent=(-6, 8, -3, 3), origin="lower", aspect="auto", vmax=1.6)
    first = way[0].argsort()[torch.linspace(200, 3800, 9).long()]  # starts spread over the prior
    axis.plot(along, way[:, first], color=color, linewidth=0.9)
    axis.set(xlim=(-6, 8), ylim=(-3, 3), xlabel=r"$\log\mathrm{SNR}$ (sampling runs to the right)", title=name)
    axes[2].hist(way[-1].numpy(), bins, density=True, orientation="horizontal", histtype="step", color=color)
    assert abs(float((way[-1] < -0.3).double().mean()) - 0.4) < 0.04
axes[0].set_ylabel(r"$u = (x + y) / \sqrt{2}$")
axes[2].set(xlabel="density", title="at the end")
plt.show()

# %% [markdown]
# ## 8. DDIM against DDPM
#
# In $y = x / \alpha$ and $s = \sigma / \alpha$ the probability-flow ODE is simply $dy / ds = E[\epsilon \mid x]$. Hold the guess of $x_0$ for a step and it is solved exactly; with
# $h = \lambda' - \lambda$ and a prime at the end of the step,
#
# $$ x' = \frac{\sigma'}{\sigma} x + \alpha' \int_\lambda^{\lambda'} e^{l - \lambda'} m(l) \, dl \qquad \text{and for constant } m \qquad
# x' = \frac{\sigma'}{\sigma} x + \alpha' (1 - e^{-h}) \, m. $$
#
# That is DDIM, of order 1. A polynomial through this and past values of $m$ is better at the same price: through two, DPM-Solver++ 2M, order 2. UniPC also corrects the
# step with the value at its end, which is that of the next step anyway: order 3. Heun's method has order 2 for two evaluations a step. DDPM adds noise in each step and has order 1.
#
# Left: how far each is from the solution of the ODE, with an exact score (eight Gaussians). The slopes are the orders. Right: what counts, the distance of the
# samples to the truth, with the net that learned the spiral.

# %%
reference = exact["eight-gaussians"]
z = normal(400, seed=15, dtype=torch.float64)
best = dm.unipc(reference, z, dm.log_snr_grid(schedule, 1500), *plain(z), order=3)
methods = {  # the sampler, its evaluations a step, marker and colour
    "DDPM": (lambda d, x, g: dm.ancestral(d, x, g, *plain(x), draw=dm.drawer(x, rng)), 1, "x", TRUTH),
    "DDIM": (lambda d, x, g: dm.ddim(d, x, g, *plain(x), order=1), 1, "o", "C0"),
    "2M": (lambda d, x, g: dm.ddim(d, x, g, *plain(x), order=2), 1, "s", "C1"),
    "UniPC": (lambda d, x, g: dm.unipc(d, x, g, *plain(x)), 1, "^", "C2"),
    "Heun": (lambda d, x, g: dm.heun(d, x, g, *plain(x)), 2, "D", "C3"),
}
evaluations = np.array([8, 16, 32, 64, 128])
far, off = {}, {}
start = normal(3000, seed=16)
for name, (method, cost, *_) in methods.items():
    grids = [dm.log_snr_grid(schedule, int(n) // cost) for n in evaluations]
    more = [dm.log_snr_grid(schedule, int(n) // cost) for n in 2 * 2 ** np.arange(2, 9)]
    far[name] = [float((method(reference, z, g) - best).square().mean().sqrt()) for g in more]
    with torch.no_grad():
        off[name] = [distance(method(ddpm, start, g), truth) for g in grids]

# %%
figure, axes = panels(2, width=3.9, height=3.0)
for name, (_, _, marker, color) in methods.items():
    if name != "DDPM":  # it does not solve the ODE
        axes[0].loglog(2 * 2.0 ** np.arange(2, 9), far[name], marker=marker, color=color, markersize=4)
    axes[1].loglog(evaluations, off[name], marker=marker, color=color, markersize=4, label=name)
for order in (1, 2, 3):
    n = np.array([128.0, 512.0])
    axes[0].plot(n, 0.4 * far[("DDIM", "2M", "UniPC")[order - 1]][4] * (n / 128) ** -order, color="0.7", linestyle=":")
axes[1].axhspan(0, floor, color="0.9", label="two true samples")
axes[0].set(xlabel="evaluations", ylabel="rms error of the ODE's solution")
axes[1].set(xlabel="evaluations", ylabel="distance to the truth", ylim=(0.01, 3))
axes[1].legend(ncols=2, fontsize=8)
assert off["UniPC"][2] < off["DDIM"][2] and off["2M"][1] < off["DDPM"][1]
plt.show()

# %% [markdown]
# The order is worth having: with 8 evaluations 2M and UniPC are about where DDIM is with 64 and DDPM with more than 100. Heun's steps are in $s$, which these grids resolve coarsely at the noisy end; with
# enough of them it catches up. From about 0.03 on it is the size of the sample that limits what can be seen, not the sampler.

# %% [markdown]
# ## 9. Likelihood
#
# The ODE is an invertible map of the data to a normal, so it has a density. Along $dx/dt = v(x, t)$ a volume grows at the rate $\mathrm{div} \, v$, whence
#
# $$ \log p(x_0) = \log p_T(x_T) + \int_{t_\mathrm{min}}^{t_\mathrm{max}} \mathrm{div} \, v(x_t, t) \, dt + n F \log \alpha(t_\mathrm{min}). $$
#
# In the plane the divergence is two derivatives. In many dimensions Hutchinson's estimate $v^T J v$ with random signs $v$ does with one, at the price of an error, which
# the scatter of several $v$ tells.

# %%
where, area = lattice(cells=80)
model_log_p = dm.log_likelihood(ddpm, where, *plain(where), steps=25).log_p
t0 = torch.tensor([1e-6], dtype=torch.float64)  # no noise to speak of
true_log_p = exact["spiral"].log_p(where.double(), t0)
integral = float(model_log_p.exp().sum() * area)
figure, axes = panels(2, width=3.0)
density(axes[0], true_log_p, "truth, $p(x_0)$")
density(axes[1], model_log_p, f"model, integral {integral:.3f}", BLUES)
assert abs(integral - 1) < 0.03
plt.show()

# %% [markdown]
# How good is it? The mean of $-\log p$ over true points is the cross entropy; its excess over the entropy of the truth is the Kullback-Leibler divergence of model from truth, and here
# we know both. The variational bound of section 4 belongs to the SDE, which with a learned score is a slightly different model than the ODE; the bound of a chain with few steps is larger. With the exact score both
# agree with the entropy: the bound is then tight.

# %%
held = draw("spiral", 1000, seed=17)
mask, cond = plain(held)
entropy = -exact["spiral"].log_p(held.double(), t0)
through_ode = -dm.log_likelihood(ddpm, held, mask, cond, steps=25).log_p
rng = torch.Generator().manual_seed(18)
some = held[:300], mask[:300], cond[:300]
hutchinson = dm.log_likelihood(ddpm, *some, steps=25, kind="rademacher", probes=4, generator=rng)
# The same times and noise for both, so that their difference is precise.
bounds = {
    name: dm.variational_bound(model, held, mask, cond, generator=torch.Generator().manual_seed(18), draws=64)
    for name, model in (("exact", exact["spiral"]), ("net", ddpm))
}
excess = float((bounds["net"].total - bounds["exact"].total).mean())

# %%
spread = float(bounds["exact"].error.square().sum().sqrt() / len(held))
print(f"entropy of the truth            {entropy.mean():6.3f} nats a point")
print(f"exact score, bound              {bounds['exact'].total.mean():6.3f} ± {spread:.3f}")
print(
    f"net, through the ODE            {through_ode.mean():6.3f}, {(through_ode - entropy).mean():.3f} above the entropy"
)
print(f"net, bound                      {bounds['net'].total.mean():6.3f}, {excess:.3f} above that of the exact score")
print(f"   reconstruction, prior        {bounds['net'].reconstruction.mean():6.3f}, {bounds['net'].prior.mean():.4f}")
print(f"   diffusion                    {bounds['net'].diffusion.mean():6.3f}")
shift = (hutchinson.log_p + through_ode[:300]).mean()
print(f"Hutchinson less exact, 4 probes {shift:6.3f}, with an error of {hutchinson.error.median():.2f} a point")
assert abs(bounds["exact"].total.mean() - entropy.mean()) < 4 * spread
assert -0.05 < excess < 0.3
assert -0.05 < (through_ode - entropy).mean() < 0.3

# %%
lengths = [16, 32, 64, 128, 256, 512]
fresh = torch.Generator().manual_seed(18)
chains = [
    float(
        (
            dm.variational_bound(ddpm, held, mask, cond, generator=fresh, grid=dm.log_snr_grid(schedule, n)).total
            - entropy
        ).mean()
    )
    for n in lengths
]
figure, axes = panels(1, width=4.4, height=2.6)
axes[0].loglog(lengths, chains, "o-", color=MADE, label="bound of a chain")
axes[0].axhline(excess, color=MADE, linestyle="--", label="bound in continuous time")
axes[0].axhline((through_ode - entropy).mean(), color=OTHER, label="through the ODE")
axes[0].set(xlabel="steps of the chain", ylabel="nats above the entropy", ylim=(0.01, 30))
axes[0].set_xticks(lengths, lengths)
axes[0].minorticks_off()
axes[0].legend()
plt.show()
assert chains[0] > chains[2] > chains[4] > 0

# %% [markdown]
# The bound of a chain falls about as one over its number of steps: hundreds are not enough for a good likelihood, though a dozen evaluations made good samples. The integral in continuous time, and the ODE, have no such cost.

# %% [markdown]
# ## 10. Flow matching and Action Matching
#
# Forget the SDE. Ask for *any* flow $dx/dt = v(x, t)$ that carries $p(x_1)$ = noise to $p(x_0)$ = data. Each pair $(x_0, \epsilon)$ has its own line $x_t = \alpha x_0 + \sigma \epsilon$ with the velocity
# $\alpha' x_0 + \sigma' \epsilon$; regress on it, and the minimum of the squared error is the mean over all lines through a point,
#
# $$ v(x_t, t) = E[\alpha' x_0 + \sigma' \epsilon \mid x_t] = f x_t - \frac{g^2}{2} \nabla \log p(x_t), $$
#
# the probability-flow ODE again. Flow matching is diffusion with the weight that belongs to the velocity, and its favourite schedule is $\alpha = 1 - t$, $\sigma = t$, whose lines are straight. The
# *flow* is not: where lines cross, the mean bends.

# %%
straight = dm.Denoiser(new_net(), dm.RectifiedSchedule(), parametrisation="velocity")
history = fit(straight, partial(ddpm_loss, straight, name="eight-gaussians", weight="flow-matching"), steps=1000)
eight = draw("eight-gaussians", 3000, seed=29)
z, way = normal(3000, seed=19), []
with torch.no_grad():
    grid = dm.log_snr_grid(straight.schedule, 60)
    made = dm.unipc(straight, z, grid, *plain(z), callback=record(way, 80))
figure, axes = panels(3, width=2.6)
ends = torch.stack([eight[:80, 0], z[:80, 0]])
axes[0].plot(*ends.permute(2, 0, 1), color=TRUTH, linewidth=0.5)
axes[1].plot(*torch.stack([*way, made[:80]])[:, :, 0].permute(2, 0, 1), color=MADE, linewidth=0.5)
for axis, end, color in ((axes[0], eight[:80], TRUTH), (axes[1], made[:80], MADE)):
    axis.plot(*end[:, 0].T, ".", color=color, markersize=4)
plane(axes[0], "lines of 80 pairs (noise, data)", half=3.2)
plane(axes[1], "the flow that they average to", half=3.2)
scatter(axes[2], made, MADE, f"samples: distance {distance(made, eight):.3f}", half=3.2)
assert distance(made, eight) < 0.15

# %% [markdown]
# Action Matching asks for still less: samples of each $p(x_t)$, no pairs and no velocity. Among all flows with these marginals the one of least kinetic energy is a gradient field, $v = \nabla S$. Expand
# $E |\nabla S - v|^2 / 2$ and integrate by parts with the continuity equation; in the time $u = \log(\sigma / \alpha)$
#
# $$ L = E_{u_0} S - E_{u_1} S + \int_{u_0}^{u_1} E \left[ \tfrac12 |\nabla S|^2 + \frac{\partial S}{\partial u} \right] du. $$
#
# The net is now a scalar potential, whose gradient is the denoiser's $F$. Below is the action $S$ that 400 steps find for the two Gaussians, and its gradient, along which points move towards noise.


# %%
def action_loss(denoiser, rng):
    x0, eps = batch("two-gaussians", rng, 256)
    return dm.action_loss(denoiser, x0, *plain(x0), unit=dm.comb(len(x0), rng), noise=eps)


potential = dm.Denoiser(dm.Potential(new_net()), schedule)
fit(potential, partial(action_loss, potential), steps=400)
fine, knots = lattice(cells=60)[0], lattice(cells=12)[0]
figure, axes = panels(3, width=2.6)
for axis, log_snr in zip(axes, (-1.0, 2.0), strict=False):
    t = schedule.time(torch.tensor([log_snr]))
    level = objectives.action(potential, fine, t.expand(len(fine)), *plain(fine)).detach().reshape(60, 60)
    with torch.no_grad():
        flow = potential(knots, t.expand(len(knots)), *plain(knots)).velocity * (-2 / schedule.d_log_snr(t))
    axis.contour(fine[:60, 0, 0], fine[::60, 0, 1], level, 14, colors=[TRUTH], linewidths=0.6)
    arrows(axis, knots, flow, MADE, longest=0.8)
    plane(axis, rf"$S$ and $\nabla S$, $\log\mathrm{{SNR}} = {log_snr:g}$")
with torch.no_grad():
    made = dm.ddim(potential, z, dm.log_snr_grid(schedule, 30), *plain(z))
scatter(axes[2], made, MADE, f"samples: distance {distance(made, two):.3f}")
assert distance(made, two) < 0.25

# %% [markdown]
# ## 11. Poisson flows
#
# Let the data be charges. In the plane $z = 0$ of a space with more dimensions they make an electric field, and its lines, followed from a distant hemisphere where the flux is uniform down to the plane, end on the
# charges with the right density: that is Gauss' law. This is PFGM with one dimension more, and PFGM++ with $D$ of them, of which only the distance $z = \sigma \sqrt D$ matters. The kernel of the field is that
# of Student noise,
#
# $$ p(x \mid x_0) \propto \left( |x - x_0|^2 + \sigma^2 D \right)^{-(N + D) / 2} \quad\Longleftrightarrow\quad x_t = x_0 + \sigma \, z \sqrt{D / \chi^2_D}, \qquad z \sim N(0, 1), $$
#
# so it is diffusion with heavy tails, and $D \to \infty$ is diffusion. Below are the lines over the two modes in one dimension, found by the same Heun sampler over a bank of charges, no training. They start at equal
# steps of the prior's quantile, so that each carries the same flux.

# %%
charges = draw("two-gaussians", 1000, seed=20).double().sum(-1, keepdim=True) / math.sqrt(2)
edm = dm.EDMSchedule()  # alpha = 1, sigma = t
quantiles = (np.arange(48) + 0.5) / 48
grid = dm.log_snr_grid(edm, 150)
figure, axes = panels(3, width=2.9, height=2.9, sharey=True)
for axis, dimension, name in zip(
    axes, (1.0, 8.0, None), ("$D = 1$: Poisson flow", "$D = 8$: PFGM++", r"$D \to \infty$: diffusion"), strict=True
):
    spread = stats.norm.ppf(quantiles) if dimension is None else stats.t.ppf(quantiles, dimension)
    start, way = torch.from_numpy(spread)[:, None, None], []
    field = dm.BankDenoiser(charges, plain(charges)[0], edm, dimension=dimension)
    end = dm.heun(field, start, grid, *plain(start), callback=record(way))
    axis.plot(torch.stack([*way, end])[:, :, 0, 0], grid, color=MADE, linewidth=0.6)
    axis.hist(charges.flatten().numpy(), 60, weights=np.full(1000, 0.004), color=TRUTH, bottom=-0.6)
    axis.set(xlim=(-5, 5), ylim=(-0.6, 5), xlabel="$u$", title=name)
    assert abs(float((end < -0.3).double().mean()) - 0.4) < 0.05
axes[0].set_ylabel(r"$\sigma = z / \sqrt{D}$")
plt.show()

# %% [markdown]
# Trained, it is the ordinary loss with Student noise, and a point whose noise came out large is preconditioned at the level where it seems to stand. The tail has its price: the variance of the noise is infinite
# for $D \le 2$, and a few far points then rule the loss. With $D = 8$ training is as easy as for diffusion.

# %%
pfgm = dm.Denoiser(new_net(), edm, dimension=8.0)


def student_noise(n, seed, dimension):
    unit = torch.rand(n, generator=torch.Generator().manual_seed(seed))  # of the chi^2
    return normal(n, seed) * dm.student_scale(unit, dimension)[:, None, None]


def pfgm_loss(rng):
    x0, eps = batch("eight-gaussians", rng)
    t, _ = dm.draw_times(edm, len(x0), "logit-normal", rng)
    unit = torch.rand(len(x0), generator=rng)
    return dm.denoising_loss(pfgm, x0, *plain(x0), t=t, noise=eps, unit=unit, weight="velocity")


history = fit(pfgm, pfgm_loss, steps=1000)
start, grid = student_noise(3000, 21, 8.0), dm.log_snr_grid(edm, 40)
with torch.no_grad():
    made = dm.unipc(pfgm, start, grid, *plain(start))
few = bank["eight-gaussians"][:1000]
start = student_noise(1500, 22, 1.0)
field = dm.BankDenoiser(few, plain(few)[0], edm, dimension=1.0)
along_field = dm.unipc(field, start, grid, *plain(start))

# %% [markdown]
# A screened field does the same. GenPhys reads partial differential equations as flows: with $(\partial_t^2 + \nabla^2 - m^2) \phi = -p_\mathrm{data} \, \delta(t)$, the Yukawa potential of a field of mass $m$ (here not the
# posterior mean), charges die on their way to the distant plane. Going back each line gains weight, and the ends must be kept in proportion to it.

# %%
rng = torch.Generator().manual_seed(23)
yukawa_ends, weights = dm.sample_yukawa(
    bank["two-gaussians"][:500, 0].double(), 1200, mass=2.0, steps=40, generator=rng
)
kept = yukawa_ends[torch.multinomial(weights, 1200, replacement=True, generator=rng)]
shares = [float((ends.sum(1) < -0.4).double().mean()) for ends in (yukawa_ends, kept)]
figure, axes = panels(4, width=2.3)
scatter(axes[0], along_field, MADE, "$D = 1$, field of 1,000 charges")
scatter(axes[1], made, MADE, f"$D = 8$, net: distance {distance(made, eight):.3f}")
scatter(axes[2], yukawa_ends[:, None], OTHER, f"Yukawa lines: lower mode {shares[0]:.2f}")
scatter(axes[3], kept[:, None], MADE, f"weighted: {shares[1]:.2f} (truth 0.40)")
assert distance(made, eight) < 0.15
assert distance(along_field, eight[:1500]) < 0.15
assert abs(shares[1] - 0.4) < 0.08

# %% [markdown]
# ## 12. RealNVP
#
# The older way to an invertible map: build one. A coupling leaves the coordinates $A$ as they are, and scales and shifts the others by functions of them,
#
# $$ x_A = z_A, \qquad x_B = z_B \, e^{s(z_A)} + t(z_A), \qquad \log |\det J| = \sum_B s(z_A). $$
#
# It inverts without inverting $s$ or $t$, its Jacobian is triangular, and one trains it by maximum likelihood, with no noise, no time and no ODE. What it pays is shape: affine couplings deform a normal,
# and cannot tear it, so that thin bridges are left where the data have gaps.

# %%
torch.manual_seed(0)
flow = RealNVP(2, layers=8, hidden=64)
flow.fit(bank["eight-gaussians"][:, 0].double().numpy(), steps=1000, batch=512, lr=3e-3, seed=0)
with torch.no_grad():
    made = flow.sample(normal(3000, seed=24)[:, 0])[:, None]
    flow_log_p = flow.log_prob(where[:, 0])
    hidden, _ = flow.encode(eight[:, 0])
    excess = (exact["eight-gaussians"].log_p(eight.double(), t0) - flow.log_prob(eight[:, 0])).mean()
figure, axes = panels(4, width=2.25)
density(axes[0], exact["eight-gaussians"].log_p(where.double(), t0), "truth, $p(x_0)$")
density(axes[1], flow_log_p, f"RealNVP, {excess:.2f} nats off", BLUES)
scatter(axes[2], made, MADE, f"samples: distance {distance(made, eight):.3f}")
scatter(axes[3], hidden[:, None], TRUTH, "data as normals, $z = f^{-1}(x)$", half=3.2)
assert abs(float(flow_log_p.exp().sum() * area) - 1) < 0.05 and 0 < excess < 0.5 and distance(made, eight) < 0.2

# %% [markdown]
# ## 13. The score without training
#
# If the data *are* $K$ points $y_k$, the posterior mean needs no net,
#
# $$ E[x_0 \mid x_t] = \sum_k w_k y_k, \qquad w = \mathrm{softmax}_k \left( -\frac{|x_t - \alpha y_k|^2}{2 \sigma^2} \right). $$
#
# This is the exact optimum of the loss on a finite data set, and it shows what a diffusion model must not learn: its samples are the training points. All generalisation is error, of the right kind. As a teacher
# it is useful: it labels noise with data. Solve the ODE for many $z$ and regress a net on the ends, $|\hat x_0(z, t_\mathrm{max}) - x_\mathrm{ODE}(z)|^2$, and one evaluation makes one sample.

# %%
teacher = dm.BankDenoiser(few, plain(few)[0], dm.SqrtRectifiedSchedule())
noise = normal(12_000, seed=25)
solved = torch.cat([dm.unipc(teacher, z, dm.log_snr_grid(teacher.schedule, 25), *plain(z)) for z in noise.split(2000)])
nearest = torch.cdist(solved[:3000, 0], few[:, 0]).min(1)[0]
student = dm.Denoiser(new_net(), teacher.schedule)


def teach(rng):
    index = torch.randint(len(noise), (512,), generator=rng)
    return dm.pair_loss(student, noise[index], solved[index], *plain(index))


history = fit(student, teach, steps=1000)
z = normal(3000, seed=26)
with torch.no_grad():
    once = dm.ddim(student, z, dm.log_snr_grid(student.schedule, 1), *plain(z), order=1)

# %%
figure, axes = panels(3, width=2.6)
scatter(axes[0], few, TRUTH, "a bank of 1,000 points")
scatter(axes[1], solved[:3000], MADE, f"ODE on its score: distance {distance(solved[:3000], eight):.3f}")
scatter(axes[2], once, MADE, f"a net, one evaluation: distance {distance(once, eight):.3f}")
print(f"samples of the bank's ODE are {nearest.median():.4f} from the nearest of its points, in the median")
assert nearest.median() < 0.01 and distance(once, eight) < 0.2

# %% [markdown]
# ## 14. Conditions and posteriors
#
# A prior that is a diffusion model can be conditioned after training. Given an observation $y = A x_0 + $ normal noise of variance $S$, the score of the posterior is the prior's plus $\nabla \log p(y \mid x_t)$, and what
# methods differ in is how they average over the $x_0$ that $x_t$ may still become. Diffusion posterior sampling (DPS) puts the mean in its place. Moment matching also takes the variance
# $V = (\sigma^2 / \alpha) \, dE[x_0 \mid x_t] / dx_t$,
#
# $$ \nabla \log p(y \mid x_t) = J^T A^T (S + A V A^T)^{-1} (y - A E[x_0 \mid x_t]), \qquad J = \frac{dE[x_0 \mid x_t]}{dx_t}. $$
#
# Each is a wrapper around the denoiser, so every sampler runs on it. Of the two Gaussians we observe $x = -0.3 \pm 0.4$; the posterior is again a mixture, so that we know what should come out.

# %%
seen, error = -0.3, 0.4
prior = MIXTURES["two-gaussians"]
means, variance = np.array(prior.means), 0.2**2
evidence = np.array(prior.weights) * np.exp(-((seen - means[:, 0]) ** 2) / (2 * (variance + error**2)))
share = evidence[0] / evidence.sum()
gain = variance / (variance + error**2)
rng = np.random.default_rng(27)
component = (rng.random(3000) > share).astype(int)
true = means[component] + 0.2 * rng.standard_normal((3000, 2))
true[:, 0] = (
    means[component, 0]
    + gain * (seen - means[component, 0])
    + math.sqrt((1 - gain) * variance) * rng.standard_normal(3000)
)
true = torch.from_numpy(true)[:, None]

# %%
z = normal(3000, seed=28, dtype=torch.float64)
value, std = torch.full((3000, 1), seen, dtype=torch.float64), torch.tensor([error], dtype=torch.float64)
base = exact["two-gaussians"]
conditioned = {
    "DPS": guidance.Posterior(base, lambda x0, mask: -((x0[:, 0, 0] - seen) ** 2) / (2 * error**2)),
    "moment matching": guidance.MomentMatching(base, lambda x0, mask: x0[:, :, 0], value, std),
}
figure, axes = panels(4, width=2.25)
scatter(axes[0], two, TRUTH, "prior: lower mode 0.40")
scatter(axes[1], true, TRUTH, f"posterior: lower mode {share:.2f}")
for axis, (name, model) in zip(axes[2:], conditioned.items(), strict=True):
    made = dm.unipc(model, z, dm.log_snr_grid(schedule, 100), *plain(z))
    lower = float((made[:, 0].sum(1) < -0.4).double().mean())
    scatter(axis, made, MADE, f"{name}: {lower:.2f}")
for axis in axes:
    axis.axvspan(seen - error, seen + error, color=OTHER, alpha=0.15, linewidth=0)
assert abs(lower - share) < 0.15 and distance(made, true) < 0.3

# %% [markdown]
# DPS takes the mean for the whole distribution; it is far too sure of itself, and drags the points to where the prior has none. Moment matching puts both modes in their places. Their weights are right to a tenth only, because
# a normal $p(x_0 \mid x_t)$ is not two; with a normal prior the method is exact.

# %% [markdown]
# ## 15. The same with one command
#
# All this is what `pcdiff train`, `pcdiff sample` and `pcdiff likelihood` do, for jets as for toys. A config names the method; any key can be set from outside. In a shell:
#
# ```bash
# pcdiff train configs/toys/spiral.yaml training.steps=1200
# pcdiff sample runs/spiral -n 10000 --sampler unipc --steps 20 --trajectory 4 -o synthetic.parquet
# ```
#
# And in Python:

# %%
with tempfile.TemporaryDirectory() as folder:
    settings = ["training.steps=1200", "net.hidden=64", "net.layers=3", "optim.lr=5e-3", "loss.times=logit-normal"]
    settings += ["training.compare=0", "tracking.enabled=false"]
    config = pcdiff.load_config("configs/toys/spiral.yaml", [*settings, f"output={folder}/run"])
    generator = pcdiff.Generator.load(pcdiff.train(config, progress=False))
stages = trajectory(generator, 1024, seed=1, sampler="unipc", steps=20)
figure, axes = panels(6, width=1.75)
for axis, step in zip(axes, (0, 8, 10, 12, 14, 20), strict=True):
    part = stages[stages.feature("step") == step]
    x = torch.from_numpy(np.stack([part.column("x"), part.column("y")], axis=1))[:, None]
    scatter(axis, x, MADE, f"step {step}: $t$ = {part.feature('time')[0]:.2f}", half=3.2)
assert distance(x, draw("spiral", 1024, seed=100)) < 0.25

# %% [markdown]
# ## What was shown
#
# | section | in one line | in `pcdiff` |
# | --- | --- | --- |
# | 1 forward process | a schedule is an SDE with normal marginals | `CosineSchedule` and its kind, `noised` |
# | 2 score | expected noise, expected data and score are one | `Prediction`, `Denoiser` |
# | 3 reverse process | only the score is needed to run time back | `ancestral`, `euler_maruyama`, `ito`, `sde_dpm` |
# | 4 DDPM | the bound on the likelihood is half the area under the error of the noise | `denoising_loss`, `draw_times`, `WEIGHTS` |
# | 5 score matching | the same mean without knowing the noise | `score_matching_loss`, `divergence` |
# | 6 Langevin | a score samples; annealing gets the weights right | `langevin`, `predictor_corrector` |
# | 7 SDE and ODE | same densities, different paths | `ddim(eta=...)` |
# | 8 DDIM and DDPM | the order of the integrator decides at few evaluations | `ddim(order=...)`, `unipc`, `heun`, `fit_grids` |
# | 9 likelihood | the ODE has an exact density; the SDE a bound | `log_likelihood`, `variational_bound` |
# | 10 flow and Action Matching | velocities, or only a potential | weight `flow-matching`, `action_loss`, `Potential` |
# | 11 Poisson flows | charges instead of noise; $D \to \infty$ is diffusion | `Denoiser(dimension=...)`, `sample_yukawa` |
# | 12 RealNVP | an invertible map by construction | `pcdiff.flows.RealNVP` |
# | 13 no training | the exact score of a finite sample is its memory; a net makes it one step | `BankDenoiser`, `pair_loss` |
# | 14 posteriors | conditions are wrappers of the denoiser | `guidance.MomentMatching`, `Posterior`, `InPainted`, `repaint` |
# | 15 one command | all of it from a config | `pcdiff train`, `pcdiff sample` |
#
# Further: [the methods](../methods.md), each with its formula, options and source, and how well each learns the spiral; [the architecture](../architecture.md) of the package; [the interface](../reference.md).
