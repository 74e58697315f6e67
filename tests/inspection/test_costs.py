"""Costs equal closed forms, the figures of the literature, and what XLA counts of the compiled program."""

import jax
import jax.numpy as jnp
import pytest

from research.inspection import Cost, inspect
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


def test_layers_have_their_costs_without_any_name_scope():
    inspection = three_inspected()
    assert [layer.forward.multiply_adds for layer in inspection.layers if layer.parameters] == [4 * 8 * 8] * 3
