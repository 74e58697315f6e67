"""Whether a network is as sure as it is right: of what it says with 90 %, nine in ten should be so.

    found = calibration(probabilities, labels)      # (examples, classes) and (examples,)
    found.ece                                        # 0.012: on average 1.2 points too sure, or not sure enough

The expected calibration error puts examples into bins by the probability of the predicted class, and is the mean gap
between that and the share that is right (Naeini et al., 2015; Guo et al., 2017). With few examples a bin's gap is
partly chance, so a perfectly calibrated network has an error above 0 too.
"""

from typing import NamedTuple

import numpy as np

BINS = 15


class Bin(NamedTuple):
    """The examples whose prediction has a probability of more than `low` and at most `high`; NaN where none has."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


class Calibration(NamedTuple):
    """How sure a network is, and how right."""

    ece: float
    bins: tuple[Bin, ...]
    gaps: np.ndarray
    """(bins, examples): what each example adds to the gap of its bin, its confidence less 1 where it is right. The
    error is the sum over bins of the absolute mean over examples."""


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Calibration:
    """The calibration of predictions, (examples, classes) whose rows sum to 1, in bins of equal width."""
    confidence, right = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == labels
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, bins - 1)
    inside = place == np.arange(bins)[:, None]
    gaps = inside * (confidence - right)
    counts = inside.sum(1)
    told = tuple(
        Bin(
            float(edges[i]),
            float(edges[i + 1]),
            int(counts[i]),
            float(confidence[inside[i]].mean()) if counts[i] else float("nan"),
            float(right[inside[i]].mean()) if counts[i] else float("nan"),
        )
        for i in range(bins)
    )
    return Calibration(float(np.abs(gaps.mean(1)).sum()), told, gaps)


def brier(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(examples,): the squared distance of the probabilities from the truth, summed over classes (Brier, 1950)."""
    truth = np.arange(probabilities.shape[1]) == labels[:, None]
    return np.square(probabilities.astype(np.float64) - truth).sum(1)


def surprise(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(examples,): the negative log of the true class's probability, in nats; at most that of the smallest float32."""
    true = np.take_along_axis(probabilities, labels[:, None], 1)[:, 0].astype(np.float64)
    return -np.log(np.maximum(true, np.finfo(np.float32).tiny))
