"""Metrics: sums that add up whatever the batches, and reports as scikit-learn writes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from research.training.metrics import Mistake, batch_sums, confusion, of_language, report

CLASSES = 6


def examples(seed, count=97):
    """Logits, labels and losses; class 4 is never a label, class 5 neither a label nor predicted."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count).astype(np.int32)
    logits = rng.normal(size=(count, CLASSES)).astype(np.float32)
    logits[np.arange(count), labels] += 1
    logits[:, 5] = -100
    return logits, labels, rng.random(count).astype(np.float32)


def in_batches(logits, labels, losses, size):
    """Sums over batches, the last of which is padded with what must not count: NaN, whose argmax is 0, its label."""
    total = None
    for start in range(0, len(labels), size):
        part = slice(start, start + size)
        missing = max(0, start + size - len(labels))
        mask = np.arange(size) < size - missing
        padded = (
            np.pad(losses[part], (0, missing), constant_values=np.nan),
            np.pad(logits[part], ((0, missing), (0, 0)), constant_values=np.nan),
            np.pad(labels[part], (0, missing), constant_values=0),
        )
        sums = step(*padded, mask)
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    return jax.tree.map(np.asarray, total)


@jax.jit
def step(losses, logits, labels, mask):
    return batch_sums(losses, logits, labels, mask) | {"confusion": confusion(logits, labels, mask, CLASSES)}


@pytest.mark.parametrize("size", [1, 10, 97, 128])
def test_sums_do_not_depend_on_the_batches(size):
    logits, labels, losses = examples(0)
    sums = in_batches(logits, labels, losses, size)
    predicted = logits.argmax(1)
    assert sums["count"] == 97 and sums["correct"] == (predicted == labels).sum()
    assert sums["loss"] == pytest.approx(losses.astype(np.float64).sum(), rel=1e-6)
    want = sklearn.metrics.confusion_matrix(labels, predicted, labels=range(CLASSES))
    np.testing.assert_array_equal(sums["confusion"], want)


def test_dtypes_do_not_depend_on_those_of_the_losses():
    logits, labels, losses = examples(0)
    sums = step(losses.astype(jnp.bfloat16), logits.astype(jnp.bfloat16), labels, np.ones(97, bool))
    assert {k: v.dtype.name for k, v in sums.items()} == {
        "loss": "float32", "correct": "int32", "count": "int32", "confusion": "int32"
    }  # fmt: skip


def test_tokens_are_summed_over_those_that_count():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 8, CLASSES)).astype(np.float32)
    labels = rng.integers(-1, CLASSES, (5, 8)).astype(np.int32)
    losses = np.where(labels < 0, np.nan, rng.random((5, 8))).astype(np.float32)
    mask = np.array([True, True, False, True, False])
    sums = jax.jit(batch_sums)(losses, logits, labels, mask)
    counted = (labels >= 0) & mask[:, None]
    assert sums["count"] == counted.sum()
    assert sums["correct"] == ((logits.argmax(-1) == labels) & counted).sum()
    np.testing.assert_allclose(sums["loss"], losses[counted].astype(np.float64).sum(), rtol=1e-6)
    assert {k: v.dtype.name for k, v in sums.items()} == {"loss": "float32", "correct": "int32", "count": "int32"}


def test_perplexity_and_bits_are_the_loss_in_other_words():
    assert of_language(np.log(256), "byte") == pytest.approx({"perplexity": 256, "bits_per_byte": 8})
    assert of_language(0.0, "token") == {"perplexity": 1, "bits_per_token": 0}
    assert of_language(1e6, "byte")["perplexity"] == np.inf


def test_of_probabilities_the_likeliest_class_counts():
    logits, labels, losses = examples(1)
    rows = 0.7 * np.eye(CLASSES)[labels] + 0.3 / CLASSES
    mask = np.arange(97) % 3 > 0
    for a, b in zip(
        step(losses, logits, labels, mask).values(), step(losses, logits, rows, mask).values(), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", range(5))
def test_the_report_is_that_of_scikit_learn(seed):
    logits, labels, losses = examples(seed)
    names = [f"class {i}" for i in range(CLASSES)]
    sums = in_batches(logits, labels, losses, 16)
    got = report(sums["confusion"], sums["loss"], names)
    predicted = logits.argmax(1)
    assert got.count == 97
    assert got.loss == pytest.approx(losses.mean(), rel=1e-5)
    assert got.accuracy == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    want = sklearn.metrics.classification_report(
        labels, predicted, labels=range(CLASSES), target_names=names, output_dict=True, zero_division=0
    )
    for found in got.classes:
        expected = want[found.name]
        assert found.support == expected["support"]
        figures = [found.precision, found.recall, found.f1]
        assert figures == pytest.approx([expected[k] for k in ("precision", "recall", "f1-score")])
    macro = want["macro avg"]
    figures = [got.macro_precision, got.macro_recall, got.macro_f1]
    assert figures == pytest.approx([macro[k] for k in ("precision", "recall", "f1-score")])


def test_the_most_frequent_mistakes_come_first():
    matrix = np.array([[9, 2, 0], [5, 9, 0], [0, 1, 9]])
    want = (Mistake("b", "a", 5), Mistake("a", "b", 2), Mistake("c", "b", 1))
    assert report(matrix, 0.0, "abc").mistakes == want
    assert report(matrix, 0.0, "abc", most=1).mistakes == want[:1]
    assert report(np.eye(3, dtype=int), 0.0, "abc").mistakes == ()


def test_a_report_of_nothing_has_no_mean():
    got = report(np.zeros((2, 2), int), 0.0, "ab")
    assert np.isnan(got.loss) and np.isnan(got.accuracy) and got.macro_f1 == 0 and got.count == 0


def test_reports_hold_plain_numbers():
    got = report(np.eye(2, dtype=np.int32), np.float32(1.5), "ab")
    plain = [value for value in got if not isinstance(value, tuple)] + list(got.classes[0])
    assert {type(value) for value in plain} == {int, float, str}
