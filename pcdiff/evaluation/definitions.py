"""What each metric is, in plain words, for the readers of a report."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Definition", "definitions"]


class Definition(NamedTuple):
    """One kind of metric.

    Attributes:
        names: regular expression that the whole names of its metrics match.
        title: what papers call it.
        text: what it is.
        source: where it comes from.
    """

    names: str
    title: str
    text: str
    source: str


_DEFINITIONS = (
    Definition(
        "w1_.*|w1p",
        "W1, W1M, W1P",
        "The Wasserstein-1 distance of one observable: how far the distribution must be moved, on average, to turn that of the sample "
        "into that of the truth, in the observable's unit. W1M is that of the relative jet mass, W1P the mean of those of the "
        "constituents' etarel, phirel and ptrel.",
        "Ramdas, Garcia, Cuturi, arXiv 1509.02237; Kansal et al., arXiv 2106.11535",
    ),
    Definition(
        "w1efp",
        "W1EFP",
        "The mean W1 of the energy-flow polynomials of four points and degree four: correlations of the constituents.",
        "Kansal et al., arXiv 2106.11535; Komiske, Metodiev, Thaler, arXiv 1712.07124",
    ),
    Definition(
        "triangular_.*",
        "Triangular discriminator",
        "Half the sum over bins of the squared difference of two histograms, divided by their sum: 0 for equal histograms, 1 where they do not "
        "overlap.",
        "Topsoe, IEEE Transactions on Information Theory 46 (2000)",
    ),
    Definition(
        "deviation_.*",
        "Deviation",
        "The root mean squared difference of the bins of two profiles in units of the spread of a single true cloud, such as one box of halos: how "
        "far the sample is off beside what varies from box to box. Unlike chi-squared it does not grow with the number of clouds.",
        "chi-squared of one cloud: Pearson, Philosophical Magazine 50 (1900)",
    ),
    Definition(
        "chi2_.*",
        "Chi-squared per bin",
        "The mean squared difference of two histograms in units of its statistical error. Bins of one set are correlated where a cloud has "
        "several entries, so it is compared with its floor and not with the textbook distribution.",
        "Pearson, Philosophical Magazine 50 (1900)",
    ),
    Definition(
        "fpd",
        "FPD",
        "Fréchet physics distance: the distance of two normal distributions that have the means and covariances of the energy-flow "
        "polynomials of each set, extrapolated to infinite samples.",
        "Kansal et al., arXiv 2211.10295",
    ),
    Definition(
        "kpd",
        "KPD",
        "Kernel physics distance: the squared maximum mean discrepancy of the energy-flow polynomials under a kernel of degree four. Its "
        "estimate is unbiased, so it may be negative.",
        "Kansal et al., arXiv 2211.10295",
    ),
    Definition(
        "fpnd",
        "FPND",
        "Fréchet ParticleNet distance: the distance of two normal distributions that have the means and covariances of the activations of a "
        "classifier of jets, from the real jets of JetNet.",
        "Kansal et al., arXiv 2106.11535",
    ),
    Definition(
        "coverage|mmd",
        "Coverage and MMD",
        "In small batches of jets: the share of true jets that are nearest to some generated jet, and the mean distance of each true jet from the "
        "nearest generated one, both in the energy mover's distance. Smaller coverage is worse, a larger distance is worse.",
        "Achlioptas et al., arXiv 1707.02392; Komiske, Metodiev, Thaler, arXiv 1902.02346",
    ),
    Definition(
        "sliced_wasserstein",
        "Sliced W1",
        "The mean W1 of all energy-flow polynomials projected on random directions, each scaled to unit spread: correlations that no single "
        "observable has.",
        "Kolouri et al., arXiv 1902.00434",
    ),
    Definition(
        "auc_.*",
        "AUC of a classifier",
        "The chance that a classifier, trained on other clouds of both sets, finds a true cloud more likely to be true than a generated one: 0.5 if "
        "it cannot tell them apart, 1 if it always can. It depends on the classifier and on the number of clouds it learns from. The drop "
        "in AUC without an observable says how much the classifier needs it; observables that say the same share it.",
        "Lopez-Paz, Oquab, arXiv 1610.06545; Krause, Shih, arXiv 2106.05285",
    ),
    Definition(
        "near_training|nearest_training_ratio",
        "Distance from the training data",
        "How near generated jets are to the nearest jet that the generator learned from, compared with jets that it never saw: copies are nearer "
        "than new jets are.",
        "Distance: Komiske, Metodiev, Thaler, arXiv 1902.02346",
    ),
    Definition(
        "duplicates",
        "Duplicates",
        "The share of generated jets that are nearer to another generated jet than all but one in a hundred true jets are to another true one: "
        "about 1 % by chance, more where the generator repeats itself.",
        "Distance: a lower bound of that of Komiske, Metodiev, Thaler, arXiv 1902.02346",
    ),
)


def definitions(names: Iterable[str]) -> list[Definition]:
    """The definitions of metrics of these names.

    >>> [definition.title for definition in definitions(["fpd", "chi2_mass"])]
    ['Chi-squared per bin', 'FPD']
    """
    known = list(names)
    return [each for each in _DEFINITIONS if any(re.fullmatch(each.names, name) for name in known)]
