"""`convolve` by every method, its gradients and its transpose, against definitions in NumPy's float64 and PyTorch."""

import functools
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

from research.ops.convolution import convolve, convolve_transposed, true_convolve
from research.ops.convolution.formulations import FORMULATIONS
from research.ops.convolution.geometry import geometry_of_convolution
from research.ops.convolution.operations import Problem, _kernel_gradient_by_shifts

METHODS = (None, *FORMULATIONS)

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
    "causal": ((6, 7), (3, 2), 2, 2, {"padding": "CAUSAL", "stride": (1, 2), "dilation": (2, 1)}),
    "grouped": ((5, 5), (3, 3), 4, 6, {"groups": 2, "stride": 2}),
    "grouped, padded more than the window": ((4, 4), (2, 2), 4, 2, {"groups": 2, "padding": ((3, 0), (1, 4))}),
    "depthwise": ((6, 5), (3, 2), 3, 3, {"groups": 3}),
    "depthwise, all at once": (
        (9, 7),
        (2, 3),
        2,
        6,
        {"groups": 2, "stride": (2, 3), "dilation": (3, 2), "padding": ((0, 2), (3, 1))},
    ),
    "each feature of itself": ((4, 3), (1, 1), 2, 3, {}),
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
    elif padding == "CAUSAL":
        padding = [(r - 1, 0) for r in reach]
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


def expected_and_arguments(case, seed=0, batch=3):
    inputs, kernel, arguments = operands(case, seed, batch)
    outputs, gradients = definition(inputs, kernel, **arguments)
    gradient = np.random.default_rng(seed + 1).normal(size=outputs.shape)
    expected = (outputs, *gradients(gradient))
    return expected, [jnp.asarray(a, jnp.float32) for a in (inputs, kernel, gradient)], arguments


def assert_all_close(actual, expected, tolerance=1e-5):
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        np.testing.assert_allclose(
            np.asarray(a, np.float64), e, rtol=tolerance, atol=tolerance * np.abs(e).max(initial=1)
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_are_those_of_the_definition(name, method):
    expected, inputs, arguments = expected_and_arguments(CASES[name])
    assert_all_close(jax.jit(value_and_gradients({**arguments, "method": method}))(*inputs), expected)


@pytest.mark.parametrize("batch", [31, 32, 33, 100, 128])
@pytest.mark.parametrize("name", ["same", "strided, with a remainder", "grouped", "signal"])
def test_the_gradient_of_the_kernel_is_right_whatever_parts_the_batch_falls_into(name, batch):
    expected, inputs, arguments = expected_and_arguments(CASES[name], batch=batch)
    assert_all_close(jax.jit(value_and_gradients({**arguments, "method": "xla"}))(*inputs), expected)


@pytest.mark.parametrize("name", ["same", "even and not square", "padded more than the window", "whole"])
def test_the_gradient_of_the_kernel_as_one_product_of_shifts_is_that_of_the_definition(name):
    case = {**CASES, "whole": ((7, 9), (7, 9), 2, 3, {"padding": "VALID"})}[name]
    (_, _, expected), (inputs, kernel, gradient), arguments = expected_and_arguments(case)
    window, sizes = kernel.shape[:-2], inputs.shape[1:-1]
    geometry = geometry_of_convolution("it", sizes, window, 1, arguments.get("padding", "SAME"), 1)
    problem = Problem(sizes, window, *kernel.shape[-2:], 1, geometry, None)
    assert_all_close([_kernel_gradient_by_shifts(inputs, gradient, problem)], [expected])


def test_the_gradient_of_the_kernel_does_not_compute_its_inputs_anew():
    """Within the transposed copy XLA would: then the kernel's gradient has the layer before it in its fusions."""
    before, kernel, gradient = jnp.ones((64, 8, 8, 4)), jnp.ones((3, 3, 4, 4)), jnp.ones((64, 8, 8, 4))

    def both(before, kernel, gradient):
        inputs = jnp.maximum(before * kernel[0, 0, 0], 0)
        outputs, back = jax.vjp(lambda k: convolve(inputs, k, method="xla"), kernel)
        return outputs, back(gradient)

    cpu = jax.devices("cpu")[0]
    text = jax.jit(both).lower(*jax.device_put((before, kernel, gradient), cpu)).compile().as_text()
    assert len(re.findall(r" maximum\(", text)) == 1


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, None) for name in ("same", "strided, with a remainder", "all at once", "grouped", "depthwise", "volume")]
    + [("depthwise, all at once", method) for method in FORMULATIONS],
)
def test_a_loop_changes_nothing(name, method):
    expected, inputs, arguments = expected_and_arguments(CASES[name])
    assert_all_close(in_a_loop(value_and_gradients({**arguments, "method": method}))(*inputs), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["strided, same", "grouped", "depthwise"])
def test_no_examples_give_no_outputs_and_no_gradient(name, method):
    inputs, kernel, arguments = operands(CASES[name], batch=0)
    outputs, gradients = definition(inputs, kernel, **arguments)
    single = [jnp.asarray(a, jnp.float32) for a in (inputs, kernel, outputs)]
    actual = jax.jit(value_and_gradients({**arguments, "method": method}))(*single)
    assert_all_close(actual, (outputs, *gradients(outputs)))


@st.composite
def cases(draw):
    n = draw(st.integers(1, 3))
    several = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(n))  # noqa: E731
    window, stride, dilation = several(1, 3), several(1, 3), several(1, 2)
    reach = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    sizes = tuple(r + extra for r, extra in zip(reach, several(0, 4), strict=True))
    explicit = tuple(zip(several(0, 3), several(0, 3), strict=True))
    padding = draw(st.sampled_from(["SAME", "VALID", "CAUSAL", explicit]))
    groups = draw(st.integers(1, 3))
    features, out = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    arguments = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups}
    return sizes, window, features, out, arguments


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(case=cases(), method=st.sampled_from(METHODS))
def test_any_geometry_is_right(case, method):
    expected, inputs, arguments = expected_and_arguments(case)
    assert_all_close(jax.jit(value_and_gradients({**arguments, "method": method}))(*inputs), expected)


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, None) for name in ("strided, same", "each feature of itself", "grouped", "depthwise", "signal")]
    + [("strided, same", method) for method in FORMULATIONS],
)
@pytest.mark.parametrize("axes", [(None, 0, 0), (0, None, 0), (0, 0, 0)], ids=["kernels", "inputs", "both"])
def test_vmap_is_each_alone(name, method, axes):
    (_, kernel, gradient), (inputs, *_) = [expected_and_arguments(CASES[name], seed)[1] for seed in (0, 7)]
    function = value_and_gradients({**CASES[name][-1], "method": method})
    stacked = [
        a if axis is None else jnp.stack([a, 2 * a[::-1]])
        for a, axis in zip((inputs, kernel, gradient), axes, strict=True)
    ]
    mapped = jax.jit(jax.vmap(function, axes))(*stacked)
    for i in range(2):
        alone = jax.jit(function)(*(a if axis is None else a[i] for a, axis in zip(stacked, axes, strict=True)))
        assert_all_close([m[i] for m in mapped], alone)


@pytest.mark.parametrize("name", ["one input feature", "all at once", "grouped", "depthwise, all at once", "signal"])
def test_many_models_on_an_nvidia_gpu_are_products_of_matrices_and_each_as_alone(name, monkeypatch):
    _, operands, arguments = expected_and_arguments(CASES[name])
    stacked = [jnp.stack([a, 2 * a[::-1]]) for a in operands]
    alone = [jax.jit(value_and_gradients(arguments))(*(a[i] for a in stacked)) for i in range(2)]
    on_cuda = lambda *args, default=None, **branches: branches.get("cuda", default)(*args)  # noqa: E731
    monkeypatch.setattr(lax, "platform_dependent", on_cuda)
    jax.clear_caches()  # what was traced for the platform that is there
    many = jax.vmap(value_and_gradients(arguments))
    assert "conv_general_dilated" not in str(jax.make_jaxpr(many)(*stacked))
    mapped = jax.jit(many)(*stacked)
    for i in range(2):
        assert_all_close([m[i] for m in mapped], alone[i])
    jax.clear_caches()


def test_vmap_of_vmap_in_a_loop_is_each_alone():
    _, (inputs, kernel, gradient), arguments = expected_and_arguments(CASES["strided, same"])
    function = value_and_gradients(arguments)
    kernels = kernel * jnp.arange(1.0, 7.0).reshape(2, 3, 1, 1, 1, 1)
    several = jnp.stack([inputs, inputs[::-1], 2 * inputs])
    over_both = jax.vmap(jax.vmap(function, (0, 0, None)), (None, 0, None))
    mapped = in_a_loop(over_both)(several, kernels, gradient)
    for i, j in itertools.product(range(2), range(3)):
        assert_all_close([m[i, j] for m in mapped], jax.jit(function)(several[j], kernels[i, j], gradient))


def test_gradients_go_through_checkpoint():
    expected, (inputs, kernel, gradient), arguments = expected_and_arguments(CASES["strided, same"])
    again = jax.checkpoint(lambda x, k: convolve(x, k, **arguments))
    assert_all_close(jax.jit(lambda x, k, g: jax.vjp(again, x, k)[1](g))(inputs, kernel, gradient), expected[1:])


@pytest.mark.parametrize("name", ["strided, same", "grouped", "depthwise"])
def test_second_derivatives_by_reverse_mode_are_those_of_the_definition(name):
    if name == "strided, same" and jax.default_backend() == "gpu":
        pytest.skip("XLA's compiler for GPUs aborts on that of a strided convolution (jaxlib 0.11.2)")
    _, (inputs, kernel, _), arguments = expected_and_arguments(CASES[name])

    def slopes(method, inputs, kernel):
        """The squared length of the first derivatives, which depend on both operands."""
        function = lambda x, k: jnp.sum(jnp.sin(convolve(x, k, **arguments, method=method)))  # noqa: E731
        return sum(jnp.sum(g**2) for g in jax.grad(function, (0, 1))(inputs, kernel))

    second = lambda method: jax.jit(jax.grad(lambda x, k: slopes(method, x, k), (0, 1)))(inputs, kernel)  # noqa: E731
    assert_all_close(second(None), second("definition"), tolerance=1e-4)


def test_forward_mode_goes_through_the_methods_that_jax_differentiates():
    _, (inputs, kernel, _), arguments = expected_and_arguments(CASES["grouped"])
    for method in ("definition", "matrix product", "fourier"):
        function = functools.partial(convolve, inputs, **arguments, method=method)
        along = jax.jvp(function, (kernel,), (2 * kernel,))[1]
        np.testing.assert_allclose(along, 2 * convolve(inputs, kernel, **arguments), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["same", "grouped", "depthwise"])
def test_bfloat16_stays_bfloat16_and_meets_float32_in_float32(name, method):
    expected, inputs, arguments = expected_and_arguments(CASES[name])
    arguments = {**arguments, "method": method}
    halves = [a.astype(jnp.bfloat16) for a in inputs]
    actual = jax.jit(value_and_gradients(arguments))(*halves)
    assert all(a.dtype == jnp.bfloat16 for a in actual)
    assert_all_close(actual, expected, tolerance=0.03)
    mixed = jax.jit(value_and_gradients(arguments))(halves[0], inputs[1], inputs[2])
    assert [a.dtype for a in mixed] == [jnp.float32, jnp.bfloat16, jnp.float32]


@pytest.mark.devices(8)
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


@pytest.mark.parametrize("models", [1, 2])
@pytest.mark.parametrize("name", ["same", "strided, same", "grouped"])
def test_every_convolution_in_a_loop_is_in_the_layout_that_is_fast_on_a_cpu(name, models):
    _, inputs, arguments = expected_and_arguments(CASES[name])
    cpu = jax.devices("cpu")[0]
    body = value_and_gradients({**arguments, "method": "xla"})
    if models > 1:
        body = jax.vmap(body)
        inputs = [jnp.stack([array] * models) for array in inputs]

    def loop(rounds, inputs, kernel, gradient):
        step = lambda _, k: k + body(inputs * k.ravel()[0], k, gradient)[2] + jnp.sum(body(inputs, k, gradient)[1])  # noqa: E731
        return lax.fori_loop(0, rounds, step, kernel)

    text = jax.jit(loop).lower(*jax.device_put((3, *inputs), cpu)).compile().as_text()
    layouts = re.findall(r"convolution\(.*dim_labels=(\S+?)[,\s]", text)
    assert len(layouts) >= (4 if name == "strided, same" else 2)  # of that, one for each remainder
    assert set(layouts) == {"b01f_01io->b01f"}
    assert "feature_group_count" not in text
    assert "batch_group_count" not in text


def test_the_gradient_of_strided_inputs_multiplies_no_zeros():
    inputs, kernel = jnp.ones((2, 16, 16, 8)), jnp.ones((3, 3, 8, 8))

    def products(stride):
        gradient = jnp.ones_like(convolve(inputs, kernel, stride=stride))
        transposed = lambda g: jax.vjp(lambda x: convolve(x, kernel, stride=stride), inputs)[1](g)  # noqa: E731
        return jax.jit(transposed).lower(gradient).compile().cost_analysis()["flops"]

    assert 3 < products(1) / products(2) < 5  # a quarter of the outputs


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
        (
            (2, 4, 4, 1),
            (3, 3, 1, 1),
            {"method": "im2col"},
            "no method 'im2col'; there are 'definition', 'matrix product'",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(inputs, kernel, arguments, message):
    with pytest.raises(ValueError, match=message):
        convolve(jnp.zeros(inputs), jnp.zeros(kernel), **arguments)


def test_whole_numbers_are_refused():
    for function in (convolve, convolve_transposed):
        with pytest.raises(ValueError, match="the inputs are uint8"):
            function(jnp.zeros((2, 4, 4, 1), jnp.uint8), jnp.zeros((3, 3, 1, 1)))


@pytest.mark.parametrize("dimensions", [1, 2])
def test_causal_outputs_see_nothing_beyond_their_position(dimensions):
    inputs = jax.random.normal(jax.random.key(0), (1, *(6,) * dimensions, 1))
    kernel = jax.random.normal(jax.random.key(1), (*(3,) * dimensions, 1, 1))
    seen = jax.jacobian(lambda x: convolve(x, kernel, padding="CAUSAL", dilation=2)[0, ..., 0])(inputs)
    seen = seen.reshape((6,) * 2 * dimensions)
    outputs, inputs = np.indices(seen.shape).reshape(2, dimensions, *seen.shape)
    assert not np.any(seen[(inputs > outputs).any(0)])
    assert np.all(seen[(inputs == outputs).all(0)])


def test_true_convolution_is_numpys():
    signal, kernel = np.arange(1.0, 8.0), np.array([1.0, 2.0, -4.0])
    full = true_convolve(
        jnp.asarray(signal, jnp.float32)[None, :, None],
        jnp.asarray(kernel, jnp.float32)[:, None, None],
        padding=[(2, 2)],
    )
    np.testing.assert_allclose(full[0, :, 0], np.convolve(signal, kernel))


# ---------------------------------------------------------------------------------------------------------------------
# Transposed


@st.composite
def transposed_cases(draw):
    sizes, window, features, out, arguments = draw(cases())
    if isinstance(arguments["padding"], str):
        output_padding = 0
    else:
        output_padding = tuple(draw(st.integers(0, s - 1)) for s in arguments["stride"])
        reach = [(w - 1) * d + 1 for w, d in zip(window, arguments["dilation"], strict=True)]
        arguments["padding"] = tuple(
            (min(a, r // 2), min(b, r // 2)) for (a, b), r in zip(arguments["padding"], reach, strict=True)
        )
    return sizes, window, features, out, arguments, output_padding


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(case=transposed_cases())
def test_the_transpose_is_the_gradient_of_convolve_and_turns_its_shapes_round(case):
    *case, output_padding = case
    positions, window, features, out, arguments = case
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(*window, features // arguments["groups"], out))
    given = rng.normal(size=(2, *positions, out))
    function = lambda g, k: convolve_transposed(g, k, **arguments, output_padding=output_padding)  # noqa: E731
    single = [jnp.asarray(a, jnp.float32) for a in (given, kernel)]
    actual, back = jax.vjp(jax.jit(function), *single)
    inputs = rng.normal(size=actual.shape)
    outputs, gradients = definition(inputs, kernel, **arguments)
    assert outputs.shape == given.shape
    assert_all_close([actual], gradients(given)[:1])
    # and its own gradients are convolve, and the kernel's gradient with the operands exchanged
    assert_all_close(jax.jit(back)(jnp.asarray(inputs, jnp.float32)), (outputs, gradients(given)[1]))


def test_words_for_padding_give_stride_times_the_positions_when_transposed():
    inputs, kernel = jnp.ones((1, 3, 5, 2)), jnp.ones((2, 4, 3, 2))
    for padding in ("SAME", "CAUSAL"):
        assert convolve_transposed(inputs, kernel, stride=(2, 3), padding=padding).shape == (1, 6, 15, 3)


@pytest.mark.parametrize(
    ("inputs", "kernel", "arguments", "message"),
    [
        (
            (2, 4, 4, 3),
            (3, 3, 2, 4),
            {},
            r"inputs \(2, 4, 4, 3\) and kernel \(3, 3, 2, 4\): the kernel sees 4 features",
        ),
        ((2, 4, 3), (3, 3, 2, 3), {}, r"must be \(batch, \*positions, in\) and \(\*window, out / groups, in\)"),
        ((2, 4, 4, 3), (3, 3, 2, 3), {"groups": 2}, "do not fall into 2 groups"),
        ((2, 4, 4, 4), (3, 3, 2, 4), {"groups": 0}, "0 groups"),
        ((2, 4, 4, 3), (3, 3, 2, 3), {"padding": "VALID", "output_padding": 1}, "must be smaller than the stride"),
        ((2, 4, 4, 3), (3, 3, 2, 3), {"stride": 2, "output_padding": 1}, "'SAME' gives stride times as many"),
        ((2, 4, 4, 3), (3, 3, 2, 3), {"stride": 0}, "stride 0 must be one positive number"),
        ((2, 1, 1, 3), (3, 3, 2, 3), {"padding": ((2, 2), (0, 0))}, "nothing is left"),
    ],
)
def test_transposes_that_do_not_fit_are_named(inputs, kernel, arguments, message):
    with pytest.raises(ValueError, match=message):
        convolve_transposed(jnp.zeros(inputs), jnp.zeros(kernel), **arguments)


@pytest.mark.peers
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_transpose_is_pytorchs(dimensions, groups):
    import torch

    positions, window = (5, 4, 3)[:dimensions], (3, 2, 4)[:dimensions]
    settings = {"stride": (2, 3, 2)[:dimensions], "dilation": (1, 2, 1)[:dimensions], "groups": groups}
    amounts, extra = (1, 0, 2)[:dimensions], (1, 2, 0)[:dimensions]
    rng = np.random.default_rng(0)
    inputs, kernel = rng.normal(size=(2, *positions, 4)), rng.normal(size=(*window, 6 // groups, 4))
    transpose = getattr(torch.nn.functional, f"conv_transpose{dimensions}d")
    x = torch.tensor(np.moveaxis(inputs, -1, 1))
    k = torch.tensor(np.moveaxis(kernel, (-1, -2), (0, 1)))
    expected = transpose(x, k, **settings, padding=amounts, output_padding=extra).numpy()
    single = [jnp.asarray(a, jnp.float32) for a in (inputs, kernel)]
    actual = convolve_transposed(*single, **settings, padding=tuple((a, a) for a in amounts), output_padding=extra)
    assert_all_close([actual], [np.moveaxis(expected, 1, -1)])


@pytest.mark.peers
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_value_and_gradients_are_pytorchs(dimensions, groups, method):
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
    assert_all_close(jax.jit(value_and_gradients({**arguments, "method": method}))(*single), expected)
