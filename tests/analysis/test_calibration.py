"""How sure and how right, against definitions written out and scikit-learn's figures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from research.analysis.calibration import brier, calibration, surprise


def drawn(seed=0, examples=400, classes=4, sharpness=2.0):
    random = np.random.default_rng(seed)
    logits = sharpness * random.normal(size=(examples, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities.astype(np.float32), random.integers(0, classes, examples)


def by_hand(probabilities, labels, bins):
    """The definition, example by example."""
    total = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        inside = [i for i, row in enumerate(probabilities) if low < float(max(row)) <= high]
        if inside:
            sure = np.mean([float(max(probabilities[i])) for i in inside])
            right = np.mean([np.argmax(probabilities[i]) == labels[i] for i in inside])
            total += len(inside) / len(labels) * abs(sure - right)
    return total


@given(st.integers(0, 50), st.sampled_from([5, 10, 15]))
def test_the_error_is_its_definition(seed, bins):
    probabilities, labels = drawn(seed, examples=60)
    found = calibration(probabilities, labels, bins)
    assert found.ece == pytest.approx(by_hand(probabilities, labels, bins), abs=1e-6)
    assert 0 <= found.ece <= 1
    assert sum(each.count for each in found.bins) == 60
    assert np.abs(found.gaps.mean(1)).sum() == pytest.approx(found.ece)


def test_bins_are_those_of_scikit_learns_curve():
    from sklearn.calibration import calibration_curve

    probabilities, labels = drawn(examples=900)
    right = probabilities.argmax(1) == labels
    shares, sure = calibration_curve(right, probabilities.max(1), n_bins=10)
    filled = [each for each in calibration(probabilities, labels, 10).bins if each.count]
    np.testing.assert_allclose([each.accuracy for each in filled], shares)
    np.testing.assert_allclose([each.confidence for each in filled], sure, rtol=1e-6)


def test_what_is_as_sure_as_right_has_an_error_near_nothing_and_what_is_too_sure_has_not():
    random = np.random.default_rng(1)
    sure = random.uniform(0.5, 1, 20_000)
    labels = (random.uniform(size=20_000) > sure).astype(int)  # right as often as it says
    probabilities = np.stack([sure, 1 - sure], axis=1)
    assert calibration(probabilities, labels).ece < 0.02
    bold = np.stack([np.full(20_000, 0.999), np.full(20_000, 0.001)], axis=1)
    assert calibration(bold, labels).ece == pytest.approx(0.999 - (labels == 0).mean())


def test_brier_and_surprise_are_scikit_learns():
    probabilities, labels = drawn()
    assert surprise(probabilities, labels).mean() == pytest.approx(metrics.log_loss(labels, probabilities), rel=1e-5)
    two, truth = drawn(classes=2)
    expected = 2 * metrics.brier_score_loss(truth, two[:, 1])  # theirs is of the second class alone
    assert brier(two, truth).mean() == pytest.approx(expected, rel=1e-5)


def test_a_class_said_to_be_impossible_surprises_without_end_to_a_number():
    found = surprise(np.array([[1.0, 0.0]], np.float32), np.array([1]))
    assert np.isfinite(found).all() and found[0] > 80
