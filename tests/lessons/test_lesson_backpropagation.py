"""The lesson's gradients agree, and what it trains reaches what it promises."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits as sklearn_digits

from research.config import LARGEST_SEED
from research.data.order import indices
from research.lessons import backpropagation as lesson
from research.lessons.backpropagation import Backpropagation


@pytest.fixture(scope="module")
def sections():
    return list(Backpropagation().sections())


def test_the_gradients_are_those_of_jax_and_of_differences(sections):
    rows = sections[0].rows
    assert [row["gradient of"] for row in rows] == [f"layer {n} {p}" for n in (1, 2, 3) for p in ("kernel", "bias")]
    assert [row["shape"] for row in rows[:2]] == ["64 x 32", "32"]
    for row in rows:
        assert row["off jax.grad"] < 2e-6
        assert row["off differences"] < 1e-6
        assert row["largest"] > 1e-3


def test_digits_are_learned_to_95_percent_and_by_a_squared_error_slowly(sections):
    told = {(row["hidden layers, loss"], row["rate"]): row for row in sections[1].rows}
    right = {key: float(row["test accuracy"].removesuffix(" %")) for key, row in told.items()}
    slow = right.pop(("sigmoid, squared error", 0.3))
    assert len(right) == 4
    assert min(right.values()) >= 95
    assert slow < min(right.values()) - 5
    for row in told.values():
        assert row["last loss"] < row["first loss"]


def test_the_figure_has_a_line_for_each_training(sections):
    (axes,) = sections[1].figure.axes
    assert len(axes.lines) == len(sections[1].rows)
    assert all(len(line.get_xdata()) == Backpropagation().epochs for line in axes.lines)


def test_the_digits_are_normalised_rows_and_train_and_test_are_not_the_same():
    digits = lesson.load_digits()
    assert [array.shape for array in digits] == [(1257, 64), (1257, 10), (360, 64), (360, 10)]
    assert abs(float(digits.inputs.mean())) < 1e-4
    assert float(digits.inputs.std()) == pytest.approx(1, abs=1e-3)
    raw = sklearn_digits().data
    known = {row.tobytes() for row in raw.astype(np.float32)}
    scale = (raw.max() - raw.min()) / float(digits.inputs.max() - digits.inputs.min())
    test = np.rint((digits.test_inputs - digits.inputs.min()) * scale).astype(np.float32)
    train = np.rint((digits.inputs - digits.inputs.min()) * scale).astype(np.float32)
    assert {row.tobytes() for row in test} <= known
    assert not {row.tobytes() for row in test} & {row.tobytes() for row in train}


def test_the_order_is_that_of_the_library_and_shows_each_example_once_an_epoch():
    digits = lesson.load_digits()
    chosen = lesson.order(digits, 3, batch_size=32, steps=90)
    for step in (0, 39, 40, 89):
        np.testing.assert_array_equal(chosen[step], indices(3, step, batch_size=32, examples=1257))
    assert sorted(chosen.reshape(-1)[:1257]) == list(range(1257))


def test_the_largest_seed_is_a_seed():
    losses, _ = lesson.train(
        Backpropagation(seed=LARGEST_SEED, epochs=1), lesson.load_digits(), "relu", "cross_entropy", 0.3
    )
    assert losses.shape == (1,)
    assert np.isfinite(losses).all()


def test_accuracy_is_the_share_of_largest_scores_in_the_right_place():
    scores = jnp.array([[3.0, 1, 2], [0, 5, 1], [0, 1, 2], [9, 8, 7]])
    assert float(lesson.accuracy(scores, jnp.eye(3)[jnp.array([0, 1, 1, 0])])) == 0.75


def test_finite_differences_of_a_known_function():
    from research.ops.backpropagation import Layer

    layers = (Layer(jnp.array([[2.0, 3.0]]), jnp.array([5.0])),)

    def loss(layers, inputs, targets):
        return jnp.sum(layers[0].kernel ** 2) * inputs + layers[0].bias[0] * targets

    (found,) = lesson.finite_differences(loss, layers, jnp.float32(0.5), jnp.float32(4.0), by=0.125)
    np.testing.assert_allclose(found.kernel, [[2, 3]])
    np.testing.assert_allclose(found.bias, [4])
