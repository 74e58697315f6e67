"""`convolve` and its two gradients against their definition in NumPy's float64, and against PyTorch."""

import itertools
import re

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from research.ops.convolution import convolve

# (spatial sizes, window, input features, output features, arguments)
CASES = {
    "same": ((6, 5), (3, 3), 2, 3, {}),
    "one input feature": ((7, 7), (5, 5), 1, 4, {"padding": "VALID"}),
    "even and not square": ((7, 6), (2, 3), 2, 3, {}),
    "strided, with a remainder": ((8, 7), (3, 2), 2, 2, {"stride": (3, 2), "padding": "VALID"}),
    "strided, same": ((7, 8), (3, 3), 2, 2, {"stride": 2}),
    "stride beyond the window": ((9, 9), (1, 1), 2, 3, {"stride": 4, "padding": "VALID"}),
    "dilated": ((9, 8), (3, 2), 2, 2, {"dilation": (2, 3)}),
    "padded more than the window": ((4, 4), (2, 2), 1, 2, {"padding": ((3, 0), (1, 4))}),
    "all at once": ((9, 7), (2, 3), 2, 3, {"stride": (2, 3), "dilation": (3, 2), "padding": ((0, 2), (3, 1))}),
    "grouped": ((5, 5), (3, 3), 4, 6, {"groups": 2, "stride": 2}),
    "signal": ((11,), (4,), 2, 3, {"stride": 2}),
    "volume": ((4, 3, 5), (2, 3, 2), 2, 2, {"stride": (1, 2, 2)}),
}


def operands(case, seed=0, batch=3):
    sizes, window, features, out, arguments = case
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(*window, features // arguments.get("groups", 1), out))
    return rng.normal(size=(batch, *sizes, features)), kernel, arguments


def definition(inputs, kernel, *, stride=1, padding="SAME", dilation=1, groups=1):
    """Outputs, and a function from their gradient to those of inputs and kernel: the sums as they are defined."""
    n = inputs.ndim - 2
    stride, dilation = np.broadcast_to(stride, n), np.broadcast_to(dilation, n)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel.shape, dilation, strict=False)]
    if padding == "SAME":
        missing = [
            max(0, (-(-s // t) - 1) * t + r - s) for s, t, r in zip(inputs.shape[1:], stride, reach, strict=False)
        ]
        padding = [(m // 2, m - m // 2) for m in missing]
    elif padding == "VALID":
        padding = [(0, 0)] * n
    padded = np.pad(inputs, ((0, 0), *padding, (0, 0)))
    counts = [(s - r) // t + 1 for s, r, t in zip(padded.shape[1:], reach, stride, strict=False)]
    ins, outs = kernel.shape[-2], kernel.shape[-1] // groups
    outputs = np.zeros((len(inputs), *counts, kernel.shape[-1]))

    def terms():
        for k in itertools.product(*map(range, kernel.shape[:-2])):
            at = tuple(
                slice(i * d, i * d + (c - 1) * t + 1, t) for i, d, c, t in zip(k, dilation, counts, stride, strict=True)
            )
            for g in range(groups):
                i, o = slice(g * ins, (g + 1) * ins), slice(g * outs, (g + 1) * outs)
                yield (slice(None), *at, i), (*k, slice(None), o), (..., o)

    for x, k, y in terms():
        outputs[y] += padded[x] @ kernel[k]

    def gradients(gradient):
        of_padded, of_kernel = np.zeros_like(padded), np.zeros_like(kernel)
        for x, k, y in terms():
            of_padded[x] += gradient[y] @ kernel[k].T
            of_kernel[k] += np.tensordot(padded[x], gradient[y], (range(n + 1), range(n + 1)))
        crop = tuple(slice(low, low + s) for (low, _), s in zip(padding, inputs.shape[1:], strict=False))
        return of_padded[:, *crop], of_kernel

    return outputs, gradients


def value_and_gradients(arguments):
    """(inputs, kernel, gradient of the outputs) -> outputs and both gradients."""

    def function(inputs, kernel, gradient):
        outputs, back = jax.vjp(lambda x, k: convolve(x, k, **arguments), inputs, kernel)
        return outputs, *back(gradient)

    return function


def in_a_loop(function):
    """The same, computed by the only round of a loop whose length XLA does not know."""

    def looped(rounds, *inputs):
        start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, *inputs))
        return lax.fori_loop(0, rounds, lambda _, __: function(*inputs), start)

    return lambda *inputs: jax.jit(looped)(1, *inputs)


def expected_and_arguments(case, seed=0):
    inputs, kernel, arguments = operands(case, seed)
    outputs, gradients = definition(inputs, kernel, **arguments)
    gradient = np.random.default_rng(seed + 1).normal(size=outputs.shape)
    expected = (outputs, *gradients(gradient))
    return expected, [jnp.asarray(a, jnp.float32) for a in (inputs, kernel, gradient)], arguments


def assert_all_close(actual, expected, tolerance=1e-5):
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        np.testing.assert_allclose(
            np.asarray(a, np.float64), e, rtol=tolerance, atol=tolerance * max(1, np.abs(e).max())
        )


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_are_those_of_the_definition(name):
    expected, inputs, arguments = expected_and_arguments(CASES[name])
    assert_all_close(jax.jit(value_and_gradients(arguments))(*inputs), expected)


@pytest.mark.parametrize("name", ["same", "strided, with a remainder", "all at once", "volume"])
def test_a_loop_changes_nothing(name):
    expected, inputs, arguments = expected_and_arguments(CASES[name])
    assert_all_close(in_a_loop(value_and_gradients(arguments))(*inputs), expected)


@st.composite
def cases(draw):
    n = draw(st.integers(1, 3))
    several = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(n))  # noqa: E731
    window, stride, dilation = several(1, 3), several(1, 3), several(1, 2)
    reach = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    sizes = tuple(r + extra for r, extra in zip(reach, several(0, 4), strict=True))
    explicit = tuple(zip(several(0, 3), several(0, 3), strict=True))
    padding = draw(st.sampled_from(["SAME", "VALID", explicit]))
    features, out = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return sizes, window, features, out, {"stride": stride, "dilation": dilation, "padding": padding}


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(case=cases())
def test_any_geometry_is_right(case):
    expected, inputs, arguments = expected_and_arguments(case)
    assert_all_close(jax.jit(value_and_gradients(arguments))(*inputs), expected)


@pytest.mark.parametrize("axes", [(None, 0, 0), (0, None, 0), (0, 0, 0)], ids=["kernels", "inputs", "both"])
def test_vmap_is_each_alone(axes):
    (_, kernel, gradient), (inputs, *_) = [expected_and_arguments(CASES["strided, same"], seed)[1] for seed in (0, 7)]
    function = value_and_gradients(CASES["strided, same"][-1])
    stacked = [
        a if axis is None else jnp.stack([a, 2 * a[::-1]])
        for a, axis in zip((inputs, kernel, gradient), axes, strict=True)
    ]
    mapped = jax.jit(jax.vmap(function, axes))(*stacked)
    for i in range(2):
        alone = jax.jit(function)(*(a if axis is None else a[i] for a, axis in zip(stacked, axes, strict=True)))
        assert_all_close([m[i] for m in mapped], alone)


def test_gradients_go_through_checkpoint():
    expected, (inputs, kernel, gradient), arguments = expected_and_arguments(CASES["strided, same"])
    again = jax.checkpoint(lambda x, k: convolve(x, k, **arguments))
    assert_all_close(jax.jit(lambda x, k, g: jax.vjp(again, x, k)[1](g))(inputs, kernel, gradient), expected[1:])


def test_a_second_derivative_by_reverse_mode_is_right():
    _, (inputs, kernel, _), arguments = expected_and_arguments(CASES["strided, same"])

    def slope(epsilon):
        return jax.grad(lambda k: jnp.sum(jnp.sin(convolve(inputs, k, **arguments))))(kernel + epsilon)

    along = jax.grad(lambda e: jnp.sum(slope(e * jnp.ones_like(kernel))))(0.0)
    numeric = (jnp.sum(slope(1e-2)) - jnp.sum(slope(-1e-2))) / 2e-2
    np.testing.assert_allclose(along, numeric, rtol=1e-2)


def test_bfloat16_stays_bfloat16_and_meets_float32_in_float32():
    expected, inputs, arguments = expected_and_arguments(CASES["same"])
    halves = [a.astype(jnp.bfloat16) for a in inputs]
    actual = jax.jit(value_and_gradients(arguments))(*halves)
    assert all(a.dtype == jnp.bfloat16 for a in actual)
    assert_all_close(actual, expected, tolerance=0.03)
    mixed = jax.jit(value_and_gradients(arguments))(halves[0], inputs[1], inputs[2])
    assert [a.dtype for a in mixed] == [jnp.float32, jnp.bfloat16, jnp.float32]


def test_a_batch_over_eight_devices_gives_the_same_and_gathers_nothing():
    inputs, kernel, arguments = operands(CASES["strided, same"], batch=16)
    inputs, kernel = jnp.asarray(inputs, jnp.float32), jnp.asarray(kernel, jnp.float32)
    gradient = jnp.ones_like(convolve(inputs, kernel, **arguments))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    over_batch, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    function = jax.jit(value_and_gradients(arguments), out_shardings=(over_batch, over_batch, everywhere))
    sharded = jax.device_put((inputs, kernel, gradient), (over_batch, everywhere, over_batch))
    program = function.lower(*sharded).compile()
    assert_all_close(program(*sharded), jax.jit(value_and_gradients(arguments))(inputs, kernel, gradient))
    assert "all-reduce" in program.as_text()
    assert "all-gather" not in program.as_text()


def test_every_convolution_in_a_loop_is_in_the_layout_that_is_fast_on_a_cpu():
    _, inputs, arguments = expected_and_arguments(CASES["strided, same"])
    cpu = jax.devices("cpu")[0]
    body = value_and_gradients(arguments)

    def loop(rounds, inputs, kernel, gradient):
        step = lambda _, k: k + body(inputs * k[0, 0, 0, 0], k, gradient)[2] + jnp.sum(body(inputs, k, gradient)[1])  # noqa: E731
        return lax.fori_loop(0, rounds, step, kernel)

    text = jax.jit(loop).lower(*jax.device_put((3, *inputs), cpu)).compile().as_text()
    layouts = re.findall(r"convolution\(.*dim_labels=(\S+?)[,\s]", text)
    assert len(layouts) >= 2
    assert set(layouts) == {"b01f_01io->b01f"}


@pytest.mark.parametrize(
    ("inputs", "kernel", "arguments", "message"),
    [
        (
            (2, 8, 8, 3),
            (3, 3, 4, 5),
            {},
            r"\(2, 8, 8, 3\) and kernel \(3, 3, 4, 5\): the kernel sees 4 features, not 3",
        ),
        ((2, 8, 8, 3), (3, 3, 5), {}, r"inputs \(2, 8, 8, 3\) and kernel \(3, 3, 5\) must be"),
        ((2, 3), (3, 3), {}, "must be"),
        ((2, 4, 4, 1), (5, 5, 1, 1), {"padding": "VALID"}, r"covers \(5, 5\) does not fit into \(4, 4\)"),
        ((2, 4, 4, 1), (3, 3, 1, 1), {"padding": "VALID", "dilation": 2}, r"covers \(5, 5\) does not fit"),
        ((2, 4, 4, 1), (3, 3, 1, 1), {"stride": 0}, "stride 0 must be one positive number, or 2"),
        ((2, 4, 4, 1), (3, 3, 1, 1), {"stride": (1, 1, 1)}, r"stride \(1, 1, 1\)"),
        ((2, 4, 4, 1), (3, 3, 1, 1), {"dilation": -1}, "dilation -1"),
        ((2, 4, 4, 1), (3, 3, 1, 1), {"padding": "same"}, "padding 'same' must be"),
        ((2, 4, 4, 1), (3, 3, 1, 1), {"padding": ((1, 1),)}, "a pair"),
        ((2, 4, 4, 1), (3, 3, 1, 1), {"padding": ((1, -1), (0, 0))}, "a pair"),
        ((2, 4, 4, 3), (3, 3, 1, 4), {"groups": 2}, "3 input and 4 output features do not fall into 2 groups"),
        ((2, 4, 4, 4), (3, 3, 1, 4), {"groups": 2}, "the kernel sees 1 features in each of 2 groups, not 4"),
        ((2, 4, 4, 4), (3, 3, 4, 4), {"groups": 0}, "0 groups"),
    ],
)
def test_shapes_that_do_not_fit_are_named(inputs, kernel, arguments, message):
    with pytest.raises(ValueError, match=message):
        convolve(jnp.zeros(inputs), jnp.zeros(kernel), **arguments)


def test_whole_numbers_are_refused():
    with pytest.raises(ValueError, match="the inputs are uint8"):
        convolve(jnp.zeros((2, 4, 4, 1), jnp.uint8), jnp.zeros((3, 3, 1, 1)))


@pytest.mark.peers
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_value_and_gradients_are_pytorchs(dimensions, groups):
    import torch

    sizes, window = (7, 6, 5)[:dimensions], (3, 2, 3)[:dimensions]
    settings = {"stride": (2, 1, 2)[:dimensions], "dilation": (1, 2, 1)[:dimensions]}
    amounts = (2, 1, 0)[:dimensions]
    arguments = {**settings, "padding": tuple((a, a) for a in amounts), "groups": groups}
    inputs, kernel, _ = operands((sizes, window, 4, 2, {"groups": groups}))
    x = torch.tensor(np.moveaxis(inputs, -1, 1), requires_grad=True)
    k = torch.tensor(np.moveaxis(kernel, (-1, -2), (0, 1)), requires_grad=True)
    convolution = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[dimensions - 1]
    y = convolution(x, k, **settings, padding=amounts, groups=groups)
    gradient = np.random.default_rng(1).normal(size=y.shape)
    y.backward(torch.tensor(gradient))
    expected = (
        np.moveaxis(y.detach().numpy(), 1, -1),
        np.moveaxis(x.grad.numpy(), 1, -1),
        np.moveaxis(k.grad.numpy(), (0, 1), (-1, -2)),
    )
    single = [jnp.asarray(a, jnp.float32) for a in (inputs, kernel, np.moveaxis(gradient, 1, -1))]
    assert_all_close(jax.jit(value_and_gradients(arguments))(*single), expected)
