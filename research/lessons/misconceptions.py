"""What is usually taught wrong about convolutional networks and backpropagation, a short section for each mistake.

Every number that is right is computed here, by the functions that the rest of the house uses; what is often printed
instead stands beside it, computed as well where the mistake can be made.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from research.config import config, leaf, structure
from research.data.digits import read_digits
from research.errors import UserError
from research.lessons.backpropagation import Digits64, accuracy, fit, load_digits, order
from research.lessons.base import Lesson, Section
from research.models import MLP, ConvNet, Model, OneConvolution, SmallResNet, TwoConvolutions, network
from research.ops import backpropagation as bp
from research.ops.convolution import convolve
from research.ops.pooling import global_average_pool
from research.parameters import by_path, flatten, is_kernel, total
from research.spec import Spec


@config
class Misconceptions(Lesson):
    """What is usually taught wrong: the right value computed, and what is often printed instead."""

    epochs: int = structure(20, "times that the trainings see every digit", within="[1, inf)")
    trials: int = structure(4, "trainings of each kind, whose mean is told", within="[1, inf)")
    seed: int = leaf(0, "decides initial parameters and the order of examples; trial i has this plus i")

    def sections(self) -> Iterator[Section]:
        digits = load_digits()
        yield textbook_example()
        yield same_padding()
        yield same_at_stride_two()
        yield kernel_axes()
        yield matrix_product()
        yield equivariance()
        yield parameter_counts()
        yield relu_on_logits(self, digits)
        yield inverted_sign(self, digits)
        yield missing_derivative(self, digits)
        yield bias_gradient(self, digits)
        yield input_layer()
        yield depth()


def _one(image: Any) -> Array:
    """A single picture (height, width) as a batch of one, with one feature."""
    return jnp.asarray(image, jnp.float32)[None, :, :, None]


def _window(kernel: Any) -> Array:
    """A window (height, width) as the kernel of one input and one output feature."""
    return jnp.asarray(kernel, jnp.float32)[:, :, None, None]


def _by(*sizes: int) -> str:
    return " x ".join(map(str, sizes))


# ---------------------------------------------------------------------------------------------------------------------
# Convolution

IMAGE = np.arange(1, 26).reshape(5, 5)
KERNEL = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])


def textbook_example() -> Section:
    """The 5x5 picture of 1 to 25 under a cross of ones."""
    right = convolve(_one(IMAGE), _window(KERNEL), padding="VALID")[0, :, :, 0]
    return Section(
        "The 5x5 example",
        """
        The kernel picks the corners and the middle of each 3x3 window and adds them up. The first window gives 1 + 3 +
        7 + 11 + 13 = 35, and each step to the right adds 5, each step down 25.
        """,
        [{"picture": IMAGE, "kernel": KERNEL, "right": right.astype(int), "often printed": "32 37 42 ..."}],
    )


def same_padding() -> Section:
    """Padding that keeps the size, for kernels that are even or not square."""
    rows = []
    for size, window in (((5, 5), (4, 4)), ((6, 6), (3, 1)), ((5, 5), (3, 3))):
        image, kernel = jnp.ones((1, *size, 1)), jnp.ones((*window, 1, 1))

        def output_size(padding, image=image, kernel=kernel):
            return _by(*convolve(image, kernel, padding=padding).shape[1:3])

        zeros = jax.lax.padtype_to_pads(size, window, (1, 1), "SAME")
        height = window[0]
        rows.append(
            {
                "picture": _by(*size),
                "kernel": _by(*window),
                "SAME": output_size("SAME"),
                "zeros low, high": "; ".join(f"{int(low)}, {int(high)}" for low, high in zeros),
                "(k-1)//2 around": output_size([((height - 1) // 2,) * 2] * 2),
                "k//2 around": output_size([(height // 2,) * 2] * 2),
            }
        )
    return Section(
        '"Same" padding is not k // 2 on all sides',
        """
        A window of k positions loses k - 1 of them, so k - 1 zeros are needed in each dimension, by the size that the
        window has in that dimension: with k = 4 one before and two after, and none across a kernel that is 1 wide. The
        last two columns are what the printed formulas give, which agree with it for odd and square kernels alone.
        """,
        rows,
    )


def same_at_stride_two() -> Section:
    """Which positions SAME and symmetric padding look at, told by a kernel that copies its middle."""
    rows = []
    for size, window in ((6, 3), (7, 3), (224, 7), (225, 7)):
        line = jnp.arange(size, dtype=jnp.float32)[None, :, None]
        middle = jnp.zeros((window, 1, 1)).at[window // 2].set(1)
        ((low, high),) = jax.lax.padtype_to_pads((size,), (window,), (2,), "SAME")
        same, symmetric = (
            convolve(line, middle, stride=2, padding=padding)[0, :, 0].astype(int)
            for padding in ("SAME", [(window // 2, window // 2)])
        )
        rows.append(
            {
                "size": size,
                "kernel": window,
                "SAME zeros": f"{low}, {high}",
                "torch's": f"{window // 2}, {window // 2}",
                "SAME looks at": _first(same),
                "torch looks at": _first(symmetric),
                "equal": bool(jnp.array_equal(same, symmetric)),
            }
        )
    return Section(
        "SAME at stride 2 is not torch's padding",
        """
        SAME adds as few zeros as give ceil(size / stride) positions, the odd one at the end. PyTorch's padding=k//2
        adds the same number at both ends. At stride 2 and even sizes both give outputs of one size, from windows that
        lie one position apart: pretrained weights need the padding that they were trained with. "Looks at" is where the
        windows' middles lie, counted from 0.
        """,
        rows,
    )


def _first(positions: Array, shown: int = 4) -> str:
    return " ".join(map(str, positions[:shown].tolist())) + (" ..." if len(positions) > shown else "")


def kernel_axes() -> Section:
    """The order of a kernel's axes, and a wrong one that raises no error."""
    kernel = _parameters(ConvNet(features=(32,)), (28, 28, 3))["stage_0/convolution_0/kernel"]
    colour, grey = jnp.ones((1, 6, 6, 3)), jnp.ones((1, 6, 6, 1))
    rows = []
    for what, shape in (
        ("a ConvNet's first kernel", kernel.shape),
        ("3x3 on colour, right", (3, 3, 3, 1)),
        ("3x3 on colour, wrong", (1, 3, 3, 1)),
    ):
        row = {"kernel": what, "shape": str(shape)}
        for name, image in (("6x6 colour gives", colour), ("6x6 grey gives", grey)):
            row[name] = _shape_or_refusal(image, jnp.ones(shape))
        rows.append(row)
    return Section(
        "A kernel's axes are (height, width, in, out)",
        """
        Channels last, a picture is (batch, height, width, features) and a kernel (height, width, features in, features
        out). A kernel written like a picture, (1, h, w, 1), is a window 1 high and h wide over w features: on grey
        pictures it is refused, but a 3x3 one runs on colour, and is something else.
        """,
        rows,
    )


def _shape_or_refusal(image: Array, kernel: Array) -> str:
    try:
        return str(convolve(image, kernel, padding="VALID").shape)
    except (ValueError, UserError):
        return "refused"


def matrix_product() -> Section:
    """The matrix that a 3x3 kernel over a 5x5 picture is."""
    kernel = np.arange(1, 10).reshape(3, 3)
    pixels = jnp.eye(25).reshape(25, 5, 5, 1)  # a picture for each pixel: the columns of the matrix
    matrix = convolve(pixels, _window(kernel), padding="VALID").reshape(25, 9).T
    off = matrix @ IMAGE.reshape(25) - convolve(_one(IMAGE), _window(kernel), padding="VALID").reshape(9)
    facts = f"""{_by(*matrix.shape)}
{np.count_nonzero(matrix)} of {matrix.size} not 0
{len(np.unique(matrix)) - 1} numbers, shared
error {float(jnp.abs(off).max()):g}"""
    return Section(
        "Convolution is a matrix product",
        """
        Not something beside it: a linear map, and so a matrix. What is special is that the matrix is sparse, for an
        output sees 9 of 25 pixels, and that its rows share their numbers. A dense layer in its place would have 225
        weights of its own. Below, kernel 1 to 9 over 5x5; "error" is of matrix times picture against the convolution.
        """,
        [{"the matrix": matrix.astype(int), "": facts}],
    )


def equivariance() -> Section:
    """Shifts before and after a convolution of a real digit."""
    picture = _one(np.pad(read_digits()[0][0, :, :, 0], 8))  # an 8x8 digit amid 24x24: nothing is pushed over the edge
    kernel = _window([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])

    def edges(image, stride=1):
        return jax.nn.relu(convolve(image, kernel, stride=stride))

    def shift(image, by):
        return jnp.roll(image, (by, by), axis=(1, 2))

    def differ(a, b):
        return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))

    by_one, by_two = shift(picture, 1), shift(picture, 2)
    pairs = [
        ("edges of a shifted digit", "shifted edges", edges(by_two), shift(edges(picture), 2)),
        ("edges of a shifted digit", "edges", edges(by_two), edges(picture)),
        (
            "their mean over all positions",
            "that of the digit",
            *map(global_average_pool, (edges(by_two), edges(picture))),
        ),
        (
            "stride 2: edges of a digit shifted by 2",
            "edges shifted by 1",
            edges(by_two, 2),
            shift(edges(picture, 2), 1),
        ),
        ("stride 2: edges of a digit shifted by 1", "edges", edges(by_one, 2), edges(picture, 2)),
        (
            "stride 2: edges of a digit shifted by 1",
            "edges shifted by 1",
            edges(by_one, 2),
            shift(edges(picture, 2), 1),
        ),
    ]
    return Section(
        "Convolution is equivariant to shifts, not invariant",
        """
        Shift the picture and the outputs shift along: that is equivariance. Invariant would be outputs that stay as
        they are. A mean over all positions is invariant. A stride, and pooling too, keep equivariance to shifts by
        multiples of the stride alone. Told is the norm of the difference, relative to that of the second.
        """,
        [{"": a, "against": b, "differ by": differ(left, right)} for a, b, left, right in pairs],
    )


# ---------------------------------------------------------------------------------------------------------------------
# Counting


def _parameters(model: Model, shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """The parameters of a model by path, as shapes, for inputs of a shape and ten classes."""
    return flatten(jax.eval_shape(network(model, _ten_classes(shape)).init, jax.random.key(0))["params"])


def _ten_classes(shape: tuple[int, ...]) -> Spec:
    return Spec(shape, 10, tuple("0123456789"))


def _flattened(model: ConvNet, shape: tuple[int, ...]) -> tuple[int, ...]:
    """What a ConvNet flattens: the shape of one example after the last stage."""
    net, last = network(model, _ten_classes(shape)), f"stage_{len(model.features) - 1}"

    def outputs(key):
        return net.apply(net.init(key), jnp.zeros((1, *shape)), train=False, features=(last,))[1]["features"][last]

    return jax.eval_shape(outputs, jax.random.key(0)).shape[1:]


def parameter_counts() -> Section:
    """The two networks of most introductions, with and without padding."""
    shape, rows = (28, 28, 1), []
    for name, kind in (
        ("3x3x16, pool, 120, 84, 10", OneConvolution),
        ("5x5x32, pool, 5x5x64, pool, 1024, 10", TwoConvolutions),
    ):
        models = {padding: kind(padding=padding) for padding in ("SAME", "VALID")}
        counts = {padding: total(_parameters(model, shape)).parameters for padding, model in models.items()}
        for padding, other in (("SAME", "VALID"), ("VALID", "SAME")):
            rows.append(
                {
                    "network": name,
                    "padding": padding,
                    "flattened": _by(*_flattened(models[padding], shape)),
                    "right": counts[padding],
                    "often printed": counts[other],
                }
            )
    return Section(
        "Parameters depend on padding, through the first dense layer",
        """
        A convolution has as many parameters with padding as without, but the dense layer after it has a weight for each
        number that comes out of it. A text that pads its convolutions and counts as if it did not, or the reverse,
        prints the other number.
        """,
        rows,
    )


def input_layer() -> Section:
    """A network 784-30-10 has two layers of parameters."""
    counted = by_path(_parameters(MLP(depth=1, width=30), (784,)))
    sizes = {path: count.parameters for path, count in counted.items()}
    rows = [{"layer": "784 inputs", "kernel": 0, "bias": 0, "often printed as bias": 784}]
    for layer, name in (("block_00/dense", "30 hidden"), ("head", "10 outputs")):
        bias = sizes[f"{layer}/bias"]
        rows.append({"layer": name, "kernel": sizes[f"{layer}/kernel"], "bias": bias, "often printed as bias": bias})
    in_all = {key: sum(row[key] for row in rows) for key in ("kernel", "bias", "often printed as bias")}
    return Section(
        "The input layer has no parameters, no biases either",
        f"""
        Inputs are given, not computed. In a network drawn as 784-30-10 the parameters belong to the arrows and to what
        they arrive at: {sum(sizes.values()):,} in all, of which {in_all["bias"]} are biases. Who gives
        the inputs biases as well counts {in_all["often printed as bias"]} of them.
        """,
        [*rows, {"layer": "in all", **in_all}],
    )


def depth() -> Section:
    """Layers with a kernel, and layers with any parameters."""
    rows = []
    for name, model in (
        ("ConvNet, no norm", ConvNet(features=(32, 64), convolutions=2, hidden=(128,))),
        ("ConvNet, batch norm", ConvNet(features=(32, 64), convolutions=2, hidden=(128,), norm="batch")),
        ("ResNet-20", SmallResNet(depth=20)),
        ("ResNet-20, projections", SmallResNet(depth=20, shortcut="project")),
    ):
        paths = list(_parameters(model, (32, 32, 3)))
        kernels = [path for path in paths if is_kernel(path)]
        beside = [path for path in kernels if "shortcut" in path]
        norms = {path.rpartition("/")[0] for path in paths if path.endswith("/scale")}
        rows.append(
            {
                "network": name,
                "depth": len(kernels) - len(beside),
                "on shortcuts": len(beside),
                "norms": len(norms),
                "often printed": len(kernels) + len(norms),
            }
        )
    return Section(
        "Depth is counted without norms",
        """
        The 20 in ResNet-20 counts convolutions and dense layers on the way from input to output. A norm rescales
        features and makes no new ones of them; a projection on a shortcut lies beside the way. Who counts every layer
        that has parameters compares networks by how they were written down.
        """,
        rows,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Learning

RATES = (0.001, 0.01, 0.03, 0.1, 0.3)


def relu_on_logits(lesson: Misconceptions, digits: Digits64) -> Section:
    """Two mistakes of many first networks, alone and together, at the best of several learning rates."""
    cases = {
        (start, head): (start == "N(0, 1)", head == "ReLU")
        for start in ("N(0, 1)", "He")
        for head in ("ReLU", "as they are")
    }
    steps = lesson.epochs * len(digits.inputs) // 32
    seeds = np.arange(lesson.trials, dtype=np.uint32) + np.uint32(lesson.seed)
    orders = np.stack([order(digits, seed, batch_size=32, steps=steps) for seed in seeds])

    def trial(from_normal, rectified, rate, seed, chosen):
        layers = _normal_or_he(jax.random.key(seed), (64, 128, 10), from_normal)

        def scores(layers, inputs):
            logits = bp.forward(layers, inputs, "relu")[1]
            return jnp.where(rectified, jax.nn.relu(logits), logits)

        def loss(layers, inputs, targets):
            return bp.loss(scores(layers, inputs), targets, "cross_entropy")

        layers, _ = fit(jax.value_and_grad(loss), layers, digits, chosen, rate)
        logits = bp.forward(layers, digits.test_inputs, "relu")[1]
        silent = jnp.sum(jnp.max(logits, axis=0) <= 0)  # a class whose ReLU is never above 0 has no gradient either
        return accuracy(scores(layers, digits.test_inputs), digits.test_targets), silent

    over_seeds = jax.vmap(trial, (None, None, None, 0, 0))
    over_rates = jax.vmap(over_seeds, (None, None, 0, None, None))
    over_cases = jax.jit(jax.vmap(over_rates, (0, 0, None, None, None)))
    from_normal, rectified = np.array(list(cases.values())).T
    right, silent = over_cases(from_normal, rectified, np.float32(RATES), seeds, orders)
    right, silent = np.asarray(right).mean(-1), np.asarray(silent).mean(-1)  # (cases, rates), means over trials
    rows = []
    for number, (start, head) in enumerate(cases):
        best = int(right[number].argmax())
        rows.append(
            {
                "kernels from": start,
                "logits": head,
                "test accuracy": f"{100 * right[number, best]:.1f} %",
                "at rate": RATES[best],
                "silent classes": silent[number, best],
            }
        )
    return Section(
        "No ReLU on the logits, and no N(0, 1) for kernels",
        f"""
        A ReLU on the scores makes every class below 0 the same 0, and where a class stays below 0 on all examples,
        nothing pulls it up again: its gradient is 0 (silent classes are above 0 on no test digit). Kernels and biases
        from N(0, 1) make scores of the size of tens, where softmax is sure and wrong. The network 64-128-10 on digits,
        {lesson.epochs} epochs, each at the best of {len(RATES)} learning rates; means of {lesson.trials} trials.
        Guessing gives 10 %.
        """,
        rows,
        _draw_rates(cases, right),
    )


def _normal_or_he(key: Array, sizes: tuple[int, ...], from_normal: Array) -> bp.Layers:
    """Kernels and biases from N(0, 1) where `from_normal`, else He's kernels and biases of 0."""
    layers = []
    for number, layer in enumerate(bp.initial(key, sizes, "relu")):
        for_kernel, for_bias = jax.random.split(jax.random.fold_in(key, 100 + number))
        kernel, bias = jax.random.normal(for_kernel, layer.kernel.shape), jax.random.normal(for_bias, layer.bias.shape)
        layers.append(bp.Layer(jnp.where(from_normal, kernel, layer.kernel), jnp.where(from_normal, bias, layer.bias)))
    return tuple(layers)


def _draw_rates(cases: Any, right: np.ndarray):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for (start, head), line in zip(cases, right, strict=True):
        style = {"color": "#d95f02" if head == "ReLU" else "#0b6fb8", "linestyle": "-" if start == "He" else "--"}
        axes.plot(RATES, 100 * line, marker=".", label=f"kernels from {start}, logits {head}", **style)
    axes.axhline(10, color="#8a8f98", linewidth=0.8, linestyle=":")
    axes.set(xlabel="learning rate", ylabel="test accuracy, %", xscale="log", ylim=(0, 100))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return figure


STEPS_SHOWN = (0, 10, 20, 50, 100, 200)


def inverted_sign(lesson: Misconceptions, digits: Digits64) -> Section:
    """One training with the minus of gradient descent, and one with a plus."""
    chosen = order(digits, lesson.seed, batch_size=32, steps=STEPS_SHOWN[-1] + 1)

    def gradients(*batch):
        return bp.loss_and_gradients(*batch, "tanh", "cross_entropy")

    @jax.jit
    def losses(rate):
        layers = bp.initial(jax.random.key(np.uint32(lesson.seed)), (64, 32, 10), "tanh")
        return fit(gradients, layers, digits, chosen, rate)[1]

    minus, plus = np.asarray(losses(np.float32(0.1))), np.asarray(losses(np.float32(-0.1)))
    rows = [
        {"step": step, "w - rate * gradient": minus[step], "w + rate * gradient": plus[step]} for step in STEPS_SHOWN
    ]
    return Section(
        "An update goes against the gradient",
        f"""
        The gradient points to where the loss grows fastest. With a plus, training climbs: the loss of 64-32-10 on
        digits, rate 0.1, begins near log 10 = {np.log(10):.2f} either way. A loss that grows from the very first steps
        at a small rate is a sign the wrong way round.
        """,
        rows,
    )


def missing_derivative(lesson: Misconceptions, digits: Digits64) -> Section:
    """The factor a (1 - a) of a sigmoid's squared error, left out."""
    layers = bp.initial(jax.random.key(np.uint32(lesson.seed)), (64, 32, 10), "sigmoid")
    inputs, targets = digits.inputs[:256], digits.targets[:256]

    def squared_error(scores):
        return bp.loss(scores, targets, "squared_error")

    def binary_cross_entropy(scores):
        a = bp.sigmoid(scores)
        return -jnp.sum(targets * jnp.log(a) + (1 - targets) * jnp.log(1 - a)) / len(scores)

    @jax.jit
    def compare(layers):
        activations, scores = bp.forward(layers, inputs, "sigmoid")
        with_it = bp.loss_gradient(scores, targets, "squared_error")
        without = (bp.sigmoid(scores) - targets) / len(scores)
        losses = {"squared": squared_error, "binary": binary_cross_entropy}
        true = {
            name: bp.backward(layers, activations, jax.grad(loss)(scores), "sigmoid") for name, loss in losses.items()
        }
        written = {"(a - y) a (1 - a)": with_it, "a - y": without}
        return {
            text: {name: _off(bp.backward(layers, activations, d, "sigmoid"), true[name]) for name in true}
            for text, d in written.items()
        }

    rows = [
        {
            "dJ/dz written as": text,
            "off squared error": float(off["squared"]),
            "off cross-entropy": float(off["binary"]),
            "is the gradient of": "the squared error" if off["squared"] < 1e-4 else "the cross-entropy",
        }
        for text, off in compare(layers).items()
    ]
    return Section(
        "The output layer has a derivative, too",
        """
        With outputs a = sigmoid(z) and J = 1/2 sum (a - y)^2, dJ/dz is (a - y) a (1 - a). Many hand-written networks
        stop at a - y. They learn, but not by the loss that they print: a - y is exactly the gradient
        of the cross-entropy of each output. "Off" is the norm of the difference of all gradients, relative to the true
        ones, which jax.grad takes of the losses.
        """,
        rows,
    )


def _off(gradients: bp.Layers, true: bp.Layers) -> Array:
    """The norm of the difference of two gradients, relative to that of the second."""
    squares = jax.tree.map(lambda a, b: jnp.stack([jnp.sum((a - b) ** 2), jnp.sum(b**2)]), gradients, true)
    difference, size = jnp.sum(jnp.stack(jax.tree.leaves(squares)), axis=0)
    return jnp.sqrt(difference / size)


def bias_gradient(lesson: Misconceptions, digits: Digits64) -> Section:
    """What a bias's gradient is summed over, in a dense layer and in a convolution."""
    layers = bp.initial(jax.random.key(np.uint32(lesson.seed)), (64, 10), "relu")
    inputs, targets = digits.inputs[:32], digits.targets[:32]
    images, kernel = (
        inputs.reshape(32, 8, 8, 1),
        jax.random.normal(jax.random.key(np.uint32(lesson.seed)), (3, 3, 1, 4)),
    )

    def dense(bias):
        return bp.loss(bp.forward((layers[0]._replace(bias=bias),), inputs, "relu")[1], targets, "cross_entropy")

    def after_convolution(outputs):
        return jnp.mean(jnp.sum(jnp.square(outputs), axis=(1, 2, 3)))

    outputs = convolve(images, kernel)
    of_dense = bp.loss_gradient(bp.forward(layers, inputs, "relu")[1], targets, "cross_entropy")
    of_convolution = jax.jit(jax.grad(after_convolution))(outputs)
    true_dense = jax.jit(jax.grad(dense))(jnp.zeros(10))
    true_convolution = jax.jit(jax.grad(lambda bias: after_convolution(outputs + bias)))(jnp.zeros(4))
    rows = []
    for layer, summed, gradient, true in (
        ("dense, 10 features", "batch", of_dense.sum(0), true_dense),
        ("dense, 10 features", "everything", of_dense.sum(), true_dense),
        ("dense, 10 features", "features", of_dense.sum(1), true_dense),
        ("dense, 10 features", "batch, then / batch", of_dense.mean(0), true_dense),
        ("convolution, 4 features", "batch and positions", of_convolution.sum((0, 1, 2)), true_convolution),
        ("convolution, 4 features", "batch", of_convolution.sum(0), true_convolution),
    ):
        right = gradient.shape == true.shape and bool(jnp.allclose(gradient, true, rtol=1e-5, atol=1e-6))
        rows.append({"layer": layer, "d summed over": summed, "shape": str(gradient.shape), "right": right})
    return Section(
        "A bias's gradient is summed over the batch axis only",
        """
        A bias is added to its feature in every example, so that its gradient is the sum of d over the batch alone: a
        number for each feature. Summed over everything it is one number, which broadcasts to all biases without a
        complaint; d already holds the 1 / batch of a mean loss, and dividing again is too much. In a convolution the
        bias is added at every position as well, and so the positions are summed, too.
        """,
        rows,
    )
