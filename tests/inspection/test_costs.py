"""Costs equal closed forms, the figures of the literature, and what XLA counts of the compiled program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.inspection import Cost, inspect
from research.inspection import costs as module
from research.inspection.costs import costs
from research.ops.convolution import convolve


def counted(function, *arguments, **options):
    """The total cost of a function of arrays or shapes."""
    return costs(jax.make_jaxpr(function)(*arguments), {}, **options).total()


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def dense(x, w):
    return x @ w


def test_a_matrix_product_costs_the_product_of_its_three_sizes():
    cost = counted(dense, shape(5, 7), shape(7, 11))
    assert cost == Cost(5 * 7 * 11, 2 * 5 * 7 * 11, 4 * (5 * 7 + 7 * 11 + 5 * 11))


def test_what_only_moves_numbers_costs_no_flops():
    assert counted(lambda x: x.T.reshape(7, 5)[::2, 1:].astype(jnp.bfloat16), shape(5, 7)).flops == 0


def test_a_scan_costs_its_body_as_often_as_it_runs():
    def chain(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    once = counted(lambda x, w: jnp.tanh(x @ w), shape(4, 8), shape(8, 8))
    for length in (1, 3, 100):
        cost = counted(chain, shape(4, 8), shape(length, 8, 8))
        assert (cost.multiply_adds, cost.flops) == (once.multiply_adds * length, once.flops * length)


def test_nested_scans_multiply():
    def inner(x, _):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=3)[0], None

    assert counted(lambda x: jax.lax.scan(inner, x, None, length=5)[0], shape(4, 4)).multiply_adds == 15 * 64


def test_vmap_costs_as_many_times_as_there_are():
    one = counted(dense, shape(5, 7), shape(7, 11)).flops
    assert counted(jax.vmap(dense), shape(6, 5, 7), shape(6, 7, 11)).flops == 6 * one


def test_a_jitted_function_costs_what_it_would_inline():
    assert counted(jax.jit(dense), shape(5, 7), shape(7, 11)) == counted(dense, shape(5, 7), shape(7, 11))


def test_recomputation_is_counted():
    def loss(w, x):
        return jnp.sum(jnp.sin(jnp.sin(x @ w) @ w))

    kept = counted(jax.value_and_grad(loss), shape(8, 8), shape(4, 8)).multiply_adds
    again = counted(jax.value_and_grad(jax.checkpoint(loss)), shape(8, 8), shape(4, 8)).multiply_adds
    product = 4 * 8 * 8
    assert kept == 5 * product  # two forward, two for w, one for what is between them
    assert again == kept + 2 * product  # both forward ones a second time


def test_what_nobody_uses_costs_nothing():
    def wasteful(x, w):
        x @ w @ w
        return x @ w

    assert counted(wasteful, shape(4, 8), shape(8, 8)).multiply_adds == 4 * 8 * 8


def test_of_a_carry_that_nobody_reads_the_loop_is_spared_too():
    def body(carry, _):
        used, unused = carry
        return (used @ used, unused @ unused @ unused), None

    loop = lambda x: jax.lax.scan(body, (x, x), None, length=3)[0][0]  # noqa: E731
    assert counted(loop, shape(4, 4)).multiply_adds == 3 * 64


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("padding", "positions"), [("SAME", None), ("VALID", None)])
def test_a_convolution_costs_its_window_for_every_output_and_as_much_for_each_gradient(stride, padding, positions):
    x, k = shape(2, 12, 12, 3), shape(3, 3, 3, 5)
    forward = lambda x, k: convolve(x, k, stride=stride, padding=padding)  # noqa: E731
    out = jax.eval_shape(forward, x, k)
    products = out.size * 3 * 3 * 3
    assert counted(forward, x, k).multiply_adds == products
    loss = lambda x, k: jnp.sum(forward(x, k) ** 2)  # noqa: E731
    assert counted(jax.value_and_grad(loss, 1), x, k).multiply_adds == 2 * products
    both = counted(jax.value_and_grad(loss, (0, 1)), x, k).multiply_adds
    assert abs(both - 3 * products) <= 0.1 * products  # at a stride, a padding of one side less is seen


@pytest.mark.parametrize("groups", [2, 4])
def test_groups_divide_the_cost_of_a_convolution(groups):
    x = shape(2, 6, 6, 4)
    whole = counted(lambda x, k: convolve(x, k, padding="SAME"), x, shape(3, 3, 4, 8)).multiply_adds
    grouped = lambda x, k: convolve(x, k, padding="SAME", groups=groups)  # noqa: E731
    assert counted(grouped, x, shape(3, 3, 4 // groups, 8)).multiply_adds * groups == whole


def test_without_padding_only_products_with_inputs_count():
    x, k = shape(1, 5, 5, 1), shape(3, 3, 1, 1)
    same = lambda x, k: convolve(x, k, padding="SAME")  # noqa: E731
    assert counted(same, x, k).multiply_adds == 25 * 9
    assert counted(same, x, k, padding=False).multiply_adds == (3 + 2 + 3 + 3 + 2) ** 2  # 13 of 15 along each axis


def mlp(parameters, x):
    for w in parameters:
        x = jax.nn.relu(x @ w)
    return x


def xla_flops(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("gradient", [False, True])
def test_dense_networks_cost_what_xla_counts(gradient):
    arguments = [shape(64, 64)] * 4, shape(256, 64)
    function = mlp if not gradient else jax.value_and_grad(lambda p, x: jnp.sum(mlp(p, x) ** 2))
    assert counted(function, *arguments).flops == pytest.approx(xla_flops(function, *arguments), rel=0.01)


@pytest.mark.parametrize("gradient", [False, True])
def test_convolutional_networks_cost_what_xla_counts_when_padding_is_left_out(gradient):
    def forward(kernels, x):
        for kernel in kernels:
            x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return x

    arguments = [shape(3, 3, 16, 16)] * 3, shape(8, 10, 10, 16)
    function = forward if not gradient else jax.value_and_grad(lambda k, x: jnp.sum(forward(k, x)))
    cost = counted(function, *arguments, padding=False).flops
    assert cost == pytest.approx(xla_flops(function, *arguments), rel=0.01)
    assert counted(function, *arguments).flops > 1.1 * cost


def test_a_while_of_unknown_length_counts_once_and_says_so():
    loop = lambda n, x: jax.lax.fori_loop(0, n, lambda _, x: x @ x, x)  # noqa: E731
    found = costs(jax.make_jaxpr(loop)(3, jnp.ones((4, 4))), {})
    assert found.total().multiply_adds == 64
    assert any("while" in note for note in found.notes)


def test_of_branches_the_dearest_counts_and_it_is_said():
    branch = lambda c, x: jax.lax.cond(c, lambda x: x @ x @ x, lambda x: x, x)  # noqa: E731
    found = costs(jax.make_jaxpr(branch)(True, jnp.ones((4, 4))), {})
    assert found.total().multiply_adds == 2 * 64
    assert any("branches" in note for note in found.notes)


def test_the_condition_of_a_while_is_counted_with_its_iteration():
    loop = lambda x: jax.lax.while_loop(lambda x: jnp.sum(x @ x) < 1, lambda x: x + 1, x)  # noqa: E731
    assert counted(loop, shape(4, 4)).multiply_adds == 64


@given(
    st.tuples(*(st.integers(0, 7),) * 2), st.tuples(*(st.integers(1, 6),) * 3), st.integers(-5, 8), st.integers(0, 9)
)
def test_windows_on_inputs_are_counted_as_if_each_were_looked_at(lengths, steps, low, size):
    (positions, window), (stride, dilation, spread) = lengths, steps
    begin = np.arange(positions) * stride - low
    place = begin[:, None] + np.arange(window) * dilation
    on_one = place % spread == 0
    assert module._on_inputs(begin, window, dilation, spread) == on_one.sum()
    on_one &= (place >= 0) & (place < (size - 1) * spread + 1)
    assert module._on_inputs(begin, window, dilation, spread, size) == on_one.sum()


def test_the_gradient_of_a_convolution_over_a_long_signal_costs_little_to_count(monkeypatch):
    monkeypatch.setattr(np, "arange", lambda n, arange=np.arange: arange(n) if n < 10**6 else pytest.fail("too long"))
    filtered = lambda x, k: convolve(x, k, padding="VALID").sum()  # noqa: E731
    gradient = jax.grad(filtered, 1)
    cost = counted(gradient, shape(1, 10**6 + 399, 1), shape(400, 1, 1))
    assert cost.multiply_adds == 400 * 10**6


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_numbers_of_every_precision_cost_the_same(dtype):
    assert counted(lambda x: jnp.tanh(x * x), shape(5, 7, dtype=dtype)).flops == 2 * 35


def test_random_keys_are_no_numbers():
    choose = lambda c, x: jnp.where(c, jax.random.key(0), jax.random.key(1))  # noqa: E731
    normal = lambda c, x: x + jax.random.uniform(choose(c, x), x.shape)  # noqa: E731
    assert counted(normal, shape(dtype=bool), shape(3)).flops > 0


def test_a_product_by_groups_costs_each_row_once_and_so_does_each_gradient():
    sizes = jnp.full(4, 8)
    product = lambda x, w: jax.lax.ragged_dot(x, w, sizes).sum()  # noqa: E731
    x, w = shape(32, 16), shape(4, 16, 8)
    assert counted(product, x, w).multiply_adds == 32 * 16 * 8
    assert counted(jax.grad(product, (0, 1)), x, w).multiply_adds == 2 * 32 * 16 * 8


N = 600


@pytest.mark.parametrize(
    ("function", "flops"),
    [
        (jnp.linalg.cholesky, N**3 / 3),
        (lambda a: jax.scipy.linalg.lu_factor(a)[0], 2 * N**3 / 3),
        (lambda a: jnp.linalg.solve(a, a), 2 * N**3 / 3 + 2 * N**3),
        (lambda a: jax.scipy.linalg.solve_triangular(a, a), N**3),
        (lambda a: jnp.linalg.qr(a)[0], 8 * N**3 / 3),
    ],
)
def test_linear_algebra_costs_what_the_textbook_says(function, flops):
    assert counted(function, shape(N, N)).flops == pytest.approx(flops, rel=0.02)


def test_what_takes_as_long_as_the_data_tells_is_an_estimate_and_it_is_said():
    found = costs(jax.make_jaxpr(jnp.linalg.svd)(shape(N, N)), {})
    assert found.total().flops > 20 * N**3
    assert any("svd" in note for note in found.notes)


def test_reductions_of_ones_own_cost_a_flop_for_each_number():
    own = lambda x: jax.lax.reduce(x, 0.0, lambda a, b: a + 2 * b, (0, 1))  # noqa: E731
    assert counted(own, shape(4, 64)).flops == 4 * 64 - 1
    window = lambda x: jax.lax.reduce_window(x, 0.0, lambda a, b: a + 2 * b, (1, 3), (1, 1), "VALID")  # noqa: E731
    assert counted(window, shape(4, 64)).flops == 4 * 62 * 2


@pytest.mark.devices(8)
@pytest.mark.parametrize("axes", [{"a"}, {"a", "b"}])
def test_a_product_shared_among_devices_costs_what_it_would_on_one(axes):
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows = jax.sharding.PartitionSpec(tuple(sorted(axes)))
    none = jax.sharding.PartitionSpec()
    shared = jax.shard_map(dense, mesh=mesh, in_specs=(rows, none), out_specs=rows, axis_names=axes)
    assert counted(shared, shape(8, 16), shape(16, 4)).multiply_adds == 8 * 16 * 4


def test_what_is_not_known_is_said():
    host = lambda x: jax.pure_callback(np.sin, x, x)  # noqa: E731
    (note,) = costs(jax.make_jaxpr(host)(jnp.ones(3)), {}).notes
    assert "pure_callback" in note and "lower bound" in note


def test_what_is_written_into_a_reference_is_said_not_to_be_counted():
    def into(x):
        reference = jax.new_ref(jnp.zeros((4, 4)))
        reference[...] = x @ x
        return reference[...]

    assert any("reference" in note for note in costs(jax.make_jaxpr(into)(jnp.ones((4, 4))), {}).notes)


# ---------------------------------------------------------------------------------------------------------------------
# What is frozen

LAYERS = ("a", "b", "c")


def three(parameters, x):
    for name in LAYERS:
        x = jnp.sin(x @ parameters[name]["kernel"])
    return x


def three_inspected(*frozen):
    parameters = {name: {"kernel": shape(8, 8)} for name in LAYERS}
    return inspect(three, parameters, shape(4, 8), frozen=[f"{name}/kernel" for name in frozen])


def backward(inspection):
    return [inspection.layer(name).backward.multiply_adds // (4 * 8 * 8) for name in LAYERS]


def test_the_first_layer_needs_no_gradient_of_its_inputs():
    assert backward(three_inspected()) == [1, 2, 2]


def test_a_frozen_prefix_needs_no_backward_pass():
    assert backward(three_inspected("a")) == [0, 1, 2]
    assert backward(three_inspected("a", "b")) == [0, 0, 1]


def test_a_frozen_suffix_passes_gradients_through():
    assert backward(three_inspected("c")) == [1, 2, 1]
    assert backward(three_inspected("b", "c")) == [1, 1, 1]


def test_a_frozen_middle_is_passed_through():
    assert backward(three_inspected("b")) == [1, 1, 2]


def test_what_is_frozen_has_no_gradient_and_keeps_nothing():
    whole, last = three_inspected(), three_inspected("a", "b")
    assert last.memory.gradients * 3 == whole.memory.gradients
    assert last.memory.activations < whole.memory.activations
    assert (last.trainable, last.parameters) == (64, 192)


def test_nothing_trained_has_no_backward_pass():
    inspection = three_inspected(*LAYERS)
    assert inspection.backward == Cost()
    assert inspection.memory.activations == 0


def test_what_is_frozen_may_be_named_twice():
    assert three_inspected("a", "a") == three_inspected("a")


def test_the_backward_pass_is_that_of_the_outputs_without_any_sum_of_them():
    inspection = inspect(lambda p, x: (x @ p, jnp.argmax(x @ p)), shape(8, 8), shape(4, 8))
    assert inspection.backward[:2] == (4 * 8 * 8, 2 * 4 * 8 * 8)


def test_layers_have_their_costs_without_any_name_scope():
    inspection = three_inspected()
    assert [layer.forward.multiply_adds for layer in inspection.layers if layer.parameters] == [4 * 8 * 8] * 3
