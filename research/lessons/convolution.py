"""Convolution from first principles: one sum, ways to compute it, and what it does to pictures, shapes and time."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from research.config import config, structure
from research.lessons.base import Lesson, Section
from research.ops.convolution import convolve, true_convolve
from research.ops.convolution.formulations import FORMULATIONS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGE = np.arange(1, 26).reshape(5, 5)
KERNEL = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])

# Each kernel is shown at work on a photograph.
EDGES = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
UPRIGHT_EDGES = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
BLUR = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
SHARPEN = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]])


@config
class Convolutions(Lesson):
    """Convolution from first principles: one sum, ways to compute it, what it does to pictures, shapes and time."""

    rounds: int = structure(5, "times that each formulation is timed", within="[1, inf)")

    def sections(self) -> Iterator[Section]:
        yield textbook_example()
        yield true_convolution()
        yield famous_kernels()
        yield shifted_picture()
        yield sizes_and_costs()
        yield times(self.rounds)


def filtered(image: Any, kernel: Any, **arguments: Any) -> Array:
    """A single picture (height, width) under a single window (height, width)."""
    image, kernel = jnp.asarray(image, jnp.float32), jnp.asarray(kernel, jnp.float32)
    return convolve(image[None, :, :, None], kernel[:, :, None, None], **arguments)[0, :, :, 0]


def textbook_example() -> Section:
    """The 5x5 picture of 1 to 25 under a cross of ones, by every formulation."""
    rows = []
    for method in FORMULATIONS:
        outputs = filtered(IMAGE, KERNEL, padding="VALID", method=method)
        whole = jnp.rint(outputs)
        error = float(jnp.abs(outputs - whole).max())
        rows.append({"method": method, "outputs": whole.astype(int), "largest rounding error": error})
    return Section(
        "One sum, four ways to compute it",
        """
        The picture is 5x5 and counts from 1 to 25, row by row; the kernel is 3x3 with ones at its corners and in the
        middle. An output is the sum of what lies under the kernel, each number times the kernel's there: 1 + 3 + 7 + 11
        + 13 = 35 is the first. The kernel fits in 3x3 places, so there are 3x3 outputs.

        The definition goes over the positions of the kernel; the matrix product lays all that outputs see side by side;
        Fourier's transform multiplies frequencies; XLA brings code of its own.
        """,
        rows,
    )


def true_convolution() -> Section:
    """What turning the kernel round changes."""
    impulse = np.zeros((3, 3), int)
    impulse[1, 1] = 1
    kernel = np.arange(1, 10).reshape(3, 3)
    batch = jnp.asarray(impulse, jnp.float32)[None, :, :, None]
    turned = true_convolve(batch, jnp.asarray(kernel, jnp.float32)[:, :, None, None])[0, :, :, 0]
    return Section(
        "What the field calls convolution does not turn the kernel round",
        """
        A picture of a single 1 gives back the kernel under true convolution, and the kernel turned round under what
        every deep learning library calls convolution, which mathematics calls cross-correlation. Learned kernels do not
        care, and symmetric ones, as that of the example above, are their own mirror images.
        """,
        [
            {
                "picture": impulse,
                "kernel": kernel,
                "convolve": filtered(impulse, kernel).astype(int),
                "true_convolve": turned.astype(int),
            }
        ],
    )


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def photograph() -> np.ndarray:
    """A grey photograph, (height, width) in [0, 1], that comes with scikit-learn."""
    from sklearn.datasets import load_sample_image

    colours = load_sample_image("china.jpg")[::2, ::2] / 255
    return colours @ np.array([0.299, 0.587, 0.114])  # what the eye makes of red, green and blue (ITU-R BT.601)


def texture(size: int = 15, wavelength: float = 4.0, angle: float = 0.0) -> np.ndarray:
    """A wave under a bell (Gabor, 1946), (size, size): answers to stripes of its wavelength in pixels and angle."""
    y, x = np.mgrid[:size, :size] - size // 2
    along = x * np.cos(angle) + y * np.sin(angle)
    bell = np.exp(-(x**2 + y**2) / (2 * (size / 6) ** 2))
    wave = bell * np.cos(2 * np.pi * along / wavelength)
    return wave - bell * wave.sum() / bell.sum()  # no answer to even brightness


def famous_kernels() -> Section:
    """Edges, blur, sharpening and texture on a photograph."""
    kernels = {
        "edges": EDGES,
        "upright edges": UPRIGHT_EDGES,
        "blur": BLUR,
        "sharpen": SHARPEN,
        "texture": texture(),
    }
    picture = photograph()
    answers = {name: filtered(picture, kernel, padding="VALID") for name, kernel in kernels.items()}
    rows = [
        {
            "kernel": name,
            "size": f"{len(kernel)} x {len(kernel)}",
            "sum": round(float(kernel.sum()), 6),
            "mean before": float(picture.mean()),
            "mean after": float(answers[name].mean()),
        }
        for name, kernel in kernels.items()
    ]
    return Section(
        "Kernels that people wrote before networks learned them",
        """
        The numbers of a kernel add up to what it does to even brightness: 1 keeps it, 0 answers to changes alone, be it
        edges or stripes. Networks find kernels of both sorts in their first layers.
        """,
        rows,
        _pictures({"photograph": picture, **answers}),
    )


def _pictures(pictures: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    for axes, (title, picture) in zip(figure.subplots(2, 3).flat, pictures.items(), strict=True):
        answers_to_changes = abs(picture.mean()) < 0.1
        most = np.percentile(np.abs(picture), 99)
        low, high = (-most, most) if answers_to_changes else (0, 1)
        axes.imshow(picture, cmap="gray", vmin=low, vmax=high)
        axes.set(title=title, xticks=[], yticks=[])
    return figure


def shifted_picture() -> Section:
    """Shifts of a photograph to the right, and what its outputs do; away from the border, which shifts bring round."""
    picture = photograph()
    rows = []
    for stride, by in ((1, 1), (1, 7), (2, 1), (2, 2)):
        before = filtered(picture, UPRIGHT_EDGES, stride=stride)
        after = filtered(np.roll(picture, by, axis=1), UPRIGHT_EDGES, stride=stride)
        moved_back = jnp.roll(after, -(by // stride), axis=1)
        inner = (slice(10, -10), slice(10, -10))
        rows.append(
            {
                "stride": stride,
                "shift": by,
                "shifted outputs": _difference(moved_back[inner], before[inner]),
                "the same outputs": _difference(after[inner], before[inner]),
            }
        )
    return Section(
        "Equivariant is not invariant",
        """
        Shift a picture, and the outputs are those of before, shifted as far: that is equivariance, and the third column
        is 0. They are not the outputs of before, which would be invariance: the last column. With a stride of 2, the
        outputs can move by whole steps of two pixels alone, and equivariance ends with a shift by one. (Differences
        are relative to the outputs' length, and leave out the border.)
        """,
        rows,
    )


def _difference(a: Array, b: Array) -> float:
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


# ---------------------------------------------------------------------------------------------------------------------
# Sizes and costs


def sizes_and_costs() -> Section:
    """How kernel, stride, padding, dilation and groups change an output's size, parameters and cost."""
    cases = [
        (3, {}),
        (5, {}),
        (4, {}),
        (1, {}),
        (3, {"padding": "VALID"}),
        (3, {"stride": 2}),
        (3, {"stride": 2, "padding": [(1, 1), (1, 1)]}),
        (3, {"dilation": 2}),
        (3, {"dilation": 2, "padding": "VALID"}),
        (3, {"groups": 4}),
        (3, {"groups": 16}),
    ]
    rows = [
        {
            "kernel": f"{window} x {window}",
            "changed": ", ".join(f"{name} {value}" for name, value in changed.items()).replace("[(1, 1), (1, 1)]", "1"),
            **size_and_cost((32, 32, 16), (window, window), 32, **changed),
        }
        for window, changed in cases
    ]
    return Section(
        "Output size, parameters and cost",
        """
        Of 32 x 32 positions with 16 features, to 32 features; SAME, stride 1, where nothing else is said. With input
        size i, kernel k, stride s, dilation d and zeros p, the size is floor((i + p - d (k - 1) - 1) / s) + 1.
        Parameters depend on kernel, features and groups alone, not on the picture; the cost is the parameters without
        the biases, times the positions. Dilation lets a kernel see further at no cost.
        """,
        rows,
    )


def size_and_cost(
    shape: Sequence[int], window: Sequence[int], out: int, groups: int = 1, dilation: int = 1, **changed: Any
) -> dict[str, Any]:
    """Of inputs `shape` (*spatial, in), with `out` features after: what a convolution with biases gives and costs.

    Read off the function's own shapes; nothing is computed. A multiply-add is one of each.
    """
    inputs = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    kernel = jax.ShapeDtypeStruct((*window, shape[-1] // groups, out), jnp.float32)
    function = lambda x, k: convolve(x, k, groups=groups, dilation=dilation, **changed)  # noqa: E731
    positions = jax.eval_shape(function, inputs, kernel).shape[1:-1]
    return {
        "sees": " x ".join(str((w - 1) * dilation + 1) for w in window),
        "size": " x ".join(map(str, positions)),
        "parameters": math.prod(kernel.shape) + out,
        "multiply-adds": math.prod(positions) * math.prod(kernel.shape),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Time


def times(rounds: int) -> Section:
    """Milliseconds of each formulation, gradients included, for shapes that are best served by different ones."""
    cases = {
        "3x3, 16 features": ((32, 14, 14, 16), (3, 3, 16, 16), 1),
        "1x1, 64 features": ((32, 14, 14, 64), (1, 1, 64, 64), 1),
        "3x3, depthwise, 32 features": ((16, 14, 14, 32), (3, 3, 1, 32), 32),
        "129 of a signal, 1 feature": ((8, 2048, 1), (129, 1, 1), 1),
    }
    rows = []
    for name, (inputs, kernel, groups) in cases.items():
        functions = {method or "chosen": _looped(inputs, kernel, groups, method) for method in (*FORMULATIONS, None)}
        rows.append({"outputs and both gradients": name, **_milliseconds(functions, rounds)})
    return Section(
        "The same numbers, not the same time",
        """
        Milliseconds for outputs and both gradients, in a loop, as in training, on this machine. What is fast depends on
        the shape, and on the platform; the last column is what `convolve` chooses where no method is given.
        `experiments/benchmarks/convolution.py` measures more shapes, and each part alone.
        """,
        rows,
    )


def _looped(inputs: Sequence[int], kernel: Sequence[int], groups: int, method: str | None) -> Callable[[], float]:
    """A function that says the seconds of one convolution and its gradients: the mean over a loop of ten."""
    keys = jax.random.split(jax.random.key(0), 2)
    operands = jax.random.normal(keys[0], inputs), jax.random.normal(keys[1], kernel)

    @jax.jit
    def loop(count: int, x: Array, k: Array) -> Any:
        def body(_: int, operands: tuple[Array, Array]) -> tuple[Array, Array]:
            outputs, back = jax.vjp(lambda x, k: convolve(x, k, groups=groups, method=method), *operands)
            return jax.tree.map(lambda a, slope: a - 1e-6 * slope, operands, back(outputs))

        return lax.fori_loop(0, count, body, (x, k))

    def seconds(count: int = 10) -> float:
        began = time.perf_counter()
        jax.block_until_ready(loop(count, *operands))
        return (time.perf_counter() - began) / count

    seconds(1)  # compile
    return seconds


def _milliseconds(functions: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of each, all taking turns, so that what else the machine does befalls all alike."""
    taken = [[seconds() for seconds in functions.values()] for _ in range(rounds)]
    return {
        name: float(f"{1e3 * statistics.median(own):.3g}")
        for name, own in zip(functions, zip(*taken, strict=True), strict=True)
    }
