"""Every claim of the lesson, against oracles that know nothing of our code: NumPy, SciPy, formulas, torch."""

import io
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from scipy.signal import correlate2d
from sklearn.datasets import load_digits as sklearn_digits

from research.lessons import misconceptions as lesson
from research.lessons import run
from research.lessons.backpropagation import load_digits
from research.lessons.misconceptions import Misconceptions
from research.ops.backpropagation import initial
from research.ops.convolution import convolve

SHORT = Misconceptions(epochs=10, trials=2)


@pytest.fixture(scope="module")
def digits():
    return load_digits()


# ---------------------------------------------------------------------------------------------------------------------
# Convolution


def test_the_5x5_example():
    (row,) = lesson.textbook_example().rows
    assert row["right"].tolist() == [[35, 40, 45], [60, 65, 70], [85, 90, 95]]
    assert row["right"].tolist() == correlate2d(row["picture"], row["kernel"], "valid").tolist()
    assert row["often printed"].startswith("32 37 42")


def test_same_padding_keeps_the_size_for_even_and_oblong_kernels():
    even, oblong, odd = lesson.same_padding().rows
    assert (even["picture"], even["kernel"], even["SAME"]) == ("5 x 5", "4 x 4", "5 x 5")
    assert (even["(k-1)//2 around"], even["k//2 around"]) == ("4 x 4", "6 x 6")
    assert (oblong["picture"], oblong["kernel"], oblong["SAME"]) == ("6 x 6", "3 x 1", "6 x 6")
    assert (oblong["(k-1)//2 around"], oblong["k//2 around"]) == ("6 x 8", "6 x 8")
    assert (odd["SAME"], odd["(k-1)//2 around"], odd["k//2 around"]) == ("5 x 5",) * 3


@pytest.mark.parametrize("row", [0, 1, 2])
def test_the_zeros_told_for_same_padding_are_those_of_the_convolution(row):
    told = lesson.same_padding().rows[row]
    size, window = ([int(n) for n in told[key].split(" x ")] for key in ("picture", "kernel"))
    zeros = [tuple(int(n) for n in pair.split(", ")) for pair in told["zeros low, high"].split("; ")]
    random = np.random.default_rng(0)
    image, kernel = random.normal(size=size), random.normal(size=window)
    ours = convolve(jnp.float32(image)[None, ..., None], jnp.float32(kernel)[..., None, None])[0, ..., 0]
    np.testing.assert_allclose(ours, correlate2d(np.pad(image, zeros), kernel, "valid"), atol=1e-5)


@pytest.mark.parametrize("row", [0, 1, 2, 3])
def test_where_same_looks_at_stride_2_and_where_symmetric_padding_does(row):
    told = lesson.same_at_stride_two().rows[row]
    size, window = told["size"], told["kernel"]
    outputs = -(-size // 2)
    missing = (outputs - 1) * 2 + window - size  # of the positions that the windows need
    same = np.arange(outputs) * 2 - missing // 2 + window // 2
    symmetric = np.arange((size + 2 * (window // 2) - window) // 2 + 1) * 2
    assert told["SAME zeros"] == f"{missing // 2}, {missing - missing // 2}"
    assert [int(n) for n in told["SAME looks at"].removesuffix(" ...").split()] == same[:4].tolist()
    assert [int(n) for n in told["torch looks at"].removesuffix(" ...").split()] == symmetric[:4].tolist()
    assert told["equal"] == np.array_equal(same, symmetric) == (size % 2 == 1)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
def test_torch_looks_where_the_lesson_says_and_agrees_about_even_kernels():
    import torch

    for told in lesson.same_at_stride_two().rows:
        line, middle = torch.arange(float(told["size"]))[None, None], torch.zeros(1, 1, told["kernel"])
        middle[0, 0, told["kernel"] // 2] = 1
        seen = torch.nn.functional.conv1d(line, middle, stride=2, padding=told["kernel"] // 2).int()[0, 0].tolist()
        assert [int(n) for n in told["torch looks at"].removesuffix(" ...").split()] == seen[:4]
    image, kernel = torch.randn(1, 1, 5, 5), torch.randn(1, 1, 4, 4)
    theirs = torch.nn.functional.conv2d(image, kernel, padding="same")[0, 0]
    ours = convolve(
        jnp.asarray(image[0, 0].numpy())[None, ..., None], jnp.asarray(kernel[0, 0].numpy())[..., None, None]
    )
    np.testing.assert_allclose(ours[0, ..., 0], theirs, atol=1e-5)


def test_the_axes_of_a_kernel_and_the_wrong_one_that_is_no_error():
    of_model, right, wrong = lesson.kernel_axes().rows
    assert of_model["shape"] == "(3, 3, 3, 32)"
    assert (right["shape"], right["6x6 colour gives"]) == ("(3, 3, 3, 1)", "(1, 4, 4, 1)")
    assert (wrong["shape"], wrong["6x6 colour gives"]) == ("(1, 3, 3, 1)", "(1, 6, 4, 1)")  # a window 1 high, 3 wide
    assert all(row["6x6 grey gives"] == "refused" for row in (of_model, right, wrong))


def test_the_matrix_of_a_convolution():
    (row,) = lesson.matrix_product().rows
    expected = np.zeros((9, 25), int)
    for y, x in np.ndindex(3, 3):
        for i, j in np.ndindex(3, 3):
            expected[3 * y + x, 5 * (y + i) + x + j] = 3 * i + j + 1
    np.testing.assert_array_equal(row["the matrix"], expected)
    for fact in ("9 x 25", "81 of 225 not 0", "9 numbers, shared", "error 0"):
        assert fact in row[""].splitlines()
    convolved = correlate2d(lesson.IMAGE, np.arange(1, 10).reshape(3, 3), "valid")
    np.testing.assert_array_equal(expected @ lesson.IMAGE.reshape(25), convolved.reshape(9))


def test_convolution_is_equivariant_and_not_invariant():
    told = [row["differ by"] for row in lesson.equivariance().rows]
    picture = np.pad(sklearn_digits().images[0], 8)
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])

    def edges(by, stride=1):
        shifted = np.pad(picture, ((by, 0), (by, 0)))[:24, :24]
        low = 0 if stride == 2 else 1  # of SAME's zeros, 24 being even
        return correlate2d(np.pad(shifted, (low, 1)), kernel, "valid").clip(0)[::stride, ::stride]

    def moved(outputs, by):
        return np.pad(outputs, ((by, 0), (by, 0)))[: len(outputs), : len(outputs)]

    def differ(a, b):
        return np.linalg.norm(a - b) / np.linalg.norm(b)

    expected = [
        differ(edges(2), moved(edges(0), 2)),
        differ(edges(2), edges(0)),
        differ(edges(2).mean(), edges(0).mean()),
        differ(edges(2, 2), moved(edges(0, 2), 1)),
        differ(edges(1, 2), edges(0, 2)),
        differ(edges(1, 2), moved(edges(0, 2), 1)),
    ]
    np.testing.assert_allclose(told, expected, rtol=1e-4, atol=1e-6)
    assert [value < 1e-6 for value in told] == [True, False, True, True, False, False]


# ---------------------------------------------------------------------------------------------------------------------
# Counting


def dense(*sizes):
    return sum((before + 1) * after for before, after in itertools.pairwise(sizes))


def test_the_parameters_of_the_two_teaching_networks():
    rows = lesson.parameter_counts().rows
    assert [row["right"] for row in rows] == [387_614, 335_774, 3_274_634, 1_111_946]
    assert [row["right"] for row in rows] == [
        (9 + 1) * 16 + dense(14 * 14 * 16, 120, 84, 10),
        (9 + 1) * 16 + dense(13 * 13 * 16, 120, 84, 10),
        (25 + 1) * 32 + (25 * 32 + 1) * 64 + dense(7 * 7 * 64, 1024, 10),
        (25 + 1) * 32 + (25 * 32 + 1) * 64 + dense(4 * 4 * 64, 1024, 10),
    ]
    assert [row["flattened"] for row in rows] == ["14 x 14 x 16", "13 x 13 x 16", "7 x 7 x 64", "4 x 4 x 64"]
    assert [row["often printed"] for row in rows] == [335_774, 387_614, 1_111_946, 3_274_634]


def test_the_input_layer_has_no_parameters():
    section = lesson.input_layer()
    inputs, hidden, outputs, in_all = section.rows
    assert (inputs["kernel"], inputs["bias"]) == (0, 0)
    assert (hidden["kernel"], hidden["bias"]) == (784 * 30, 30)
    assert (outputs["kernel"], outputs["bias"]) == (30 * 10, 10)
    assert in_all["kernel"] + in_all["bias"] == dense(784, 30, 10) == 23_860
    assert "23,860" in section.text
    assert in_all["often printed as bias"] == 824


def test_depth_is_counted_without_norms_and_without_what_lies_beside_the_way():
    rows = {row["network"]: row for row in lesson.depth().rows}
    told = {name: tuple(row[key] for key in ("depth", "on shortcuts", "norms")) for name, row in rows.items()}
    assert told == {
        "ConvNet, no norm": (2 * 2 + 1 + 1, 0, 0),
        "ConvNet, batch norm": (2 * 2 + 1 + 1, 0, 2 * 2),
        "ResNet-20": (1 + 3 * 3 * 2 + 1, 0, 1 + 3 * 3 * 2),
        "ResNet-20, projections": (1 + 3 * 3 * 2 + 1, 2, 1 + 3 * 3 * 2 + 2),
    }
    assert rows["ResNet-20"]["often printed"] == 39


# ---------------------------------------------------------------------------------------------------------------------
# Learning


def numpy_training(digits, *, normal=False, rectified=False, rate=0.1, epochs=10, sign=-1, seed=0):
    """A network 64-128-10 by gradient descent in float64: the loss of each step, and the test accuracy."""
    random = np.random.default_rng(seed)
    x, y, test_x, test_y = (np.asarray(array, float) for array in digits)
    w1, w2 = random.normal(size=(64, 128)), random.normal(size=(128, 10))
    b1, b2 = random.normal(size=128), random.normal(size=10)
    if not normal:
        w1, w2, b1, b2 = w1 * np.sqrt(2 / 64), w2 * np.sqrt(1 / 128), 0 * b1, 0 * b2
    losses = []
    for step in range(epochs * len(x) // 32):
        if step % (len(x) // 32) == 0:
            order = random.permutation(len(x))
        chosen = order[step % (len(x) // 32) * 32 :][:32]
        a, t = x[chosen], y[chosen]
        h = (a @ w1 + b1).clip(0)
        z = h @ w2 + b2
        s = z.clip(0) if rectified else z
        p = np.exp(s - s.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        losses.append(-np.log((p * t).sum(1) + 1e-300).mean())
        dz = (p - t) / 32 * ((z > 0) if rectified else 1)
        dh = dz @ w2.T * (h > 0)
        w2, b2 = w2 + sign * rate * h.T @ dz, b2 + sign * rate * dz.sum(0)
        w1, b1 = w1 + sign * rate * a.T @ dh, b1 + sign * rate * dh.sum(0)
    scores = (test_x @ w1 + b1).clip(0) @ w2 + b2
    scores = scores.clip(0) if rectified else scores
    return losses, (scores.argmax(1) == test_y.argmax(1)).mean()


def test_a_relu_on_the_logits_and_kernels_from_n01_ruin_the_accuracy(digits):
    section = lesson.relu_on_logits(SHORT, digits)
    told = {
        (row["kernels from"], row["logits"]): float(row["test accuracy"].removesuffix(" %")) for row in section.rows
    }
    assert told["N(0, 1)", "ReLU"] < 50
    assert told["He", "as they are"] > 94
    assert told["N(0, 1)", "ReLU"] + 20 < told["He", "ReLU"] < told["He", "as they are"] - 10
    assert told["N(0, 1)", "as they are"] < told["He", "as they are"]
    silent = {(row["kernels from"], row["logits"]): row["silent classes"] for row in section.rows}
    assert silent["N(0, 1)", "ReLU"] > 0
    assert silent["He", "as they are"] == 0
    # the same from NumPy, which has seeds of its own
    assert max(numpy_training(digits, normal=True, rectified=True, rate=rate)[1] for rate in (0.01, 0.1)) < 0.5
    assert numpy_training(digits, rate=0.3)[1] > 0.94


def test_a_plus_in_the_update_climbs(digits):
    rows = lesson.inverted_sign(SHORT, digits).rows
    minus, plus = ([row[f"w {sign} rate * gradient"] for row in rows] for sign in "-+")
    assert minus[0] == plus[0] == pytest.approx(np.log(10), abs=0.7)
    assert minus == sorted(minus, reverse=True)
    assert plus == sorted(plus)
    assert minus[-1] < 0.5 < 50 < plus[-1]
    descending, climbing = (numpy_training(digits, epochs=2, sign=sign)[0] for sign in (-1, 1))
    assert descending[-1] < 1 < 10 < climbing[-1]


def test_without_its_derivative_an_output_layer_follows_another_loss(digits):
    with_it, without = lesson.missing_derivative(SHORT, digits).rows
    assert with_it["off squared error"] < 1e-5 < 0.1 < with_it["off cross-entropy"]
    assert without["off cross-entropy"] < 1e-5 < 1 < without["off squared error"]
    assert (with_it["is the gradient of"], without["is the gradient of"]) == ("the squared error", "the cross-entropy")

    # what the two formulas are derivatives of, by differences in float64
    random = np.random.default_rng(0)
    z, y = random.normal(size=7), (np.arange(7) == 3).astype(float)
    a = 1 / (1 + np.exp(-z))

    def slopes(loss):
        moved = z + 1e-6 * np.eye(7)[:, None] * np.array([[1], [-1]])
        ahead, behind = loss(1 / (1 + np.exp(-moved))).T
        return (ahead - behind) / 2e-6

    np.testing.assert_allclose((a - y) * a * (1 - a), slopes(lambda a: ((a - y) ** 2).sum(-1) / 2), atol=1e-8)
    entropy = slopes(lambda a: -(y * np.log(a) + (1 - y) * np.log(1 - a)).sum(-1))
    np.testing.assert_allclose(a - y, entropy, atol=1e-8)


def test_a_bias_gradient_is_summed_over_the_batch_axis_and_a_convolution_s_over_positions_too(digits):
    rows = lesson.bias_gradient(SHORT, digits).rows
    right = [(row["layer"].split(",")[0], row["d summed over"]) for row in rows if row["right"]]
    assert right == [("dense", "batch"), ("convolution", "batch and positions")]
    assert [row["shape"] for row in rows] == ["(10,)", "()", "(32,)", "(10,)", "(4,)", "(8, 8, 4)"]

    # the gradient of a dense bias by differences in float64
    (layer,) = initial(jax.random.key(0), (64, 10), "relu")
    x, y = np.asarray(digits.inputs[:32], float), np.asarray(digits.targets[:32])
    z = x @ np.asarray(layer.kernel, float)

    def loss(bias):
        p = np.exp(z + bias)
        return -np.log((p / p.sum(1, keepdims=True) * y).sum(1)).mean()

    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    slopes = [(loss(1e-6 * unit) - loss(-1e-6 * unit)) / 2e-6 for unit in np.eye(10)]
    np.testing.assert_allclose(((p - y) / 32).sum(0), slopes, atol=1e-8)


# ---------------------------------------------------------------------------------------------------------------------
# As a whole


def test_sections_without_training_fit_80_columns_in_ascii():
    for make in (
        lesson.textbook_example,
        lesson.same_padding,
        lesson.same_at_stride_two,
        lesson.kernel_axes,
        lesson.matrix_product,
        lesson.equivariance,
        lesson.parameter_counts,
        lesson.input_layer,
        lesson.depth,
    ):
        file, section = io.StringIO(), make()
        run.show_section(Console(file=file, width=80), 1, section)
        assert file.getvalue().isascii()
        assert len({tuple(row) for row in section.rows}) == 1
        for line in file.getvalue().splitlines():
            assert len(line) <= 80
