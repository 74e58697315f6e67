"""What is kept for the backward pass is what it needs, and what XLA keeps."""

import os

import jax
import jax.numpy as jnp
import pytest

from research.inspection import inspect
from research.inspection.roofline import Rates, intensity, least_seconds, measure_rates

WIDTH, BATCH = 64, 4096
ARRAY = BATCH * WIDTH * 4


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def network(activation, depth):
    """A plain network, and the shapes of its parameters."""

    def apply(parameters, x):
        for w in parameters:
            x = activation(x @ w)
        return x

    return apply, [shape(WIDTH, WIDTH)] * depth


def loss_of(apply):
    return lambda parameters, x: jnp.sum(apply(parameters, x) ** 2)


def kept(activation, depth):
    apply, parameters = network(activation, depth)
    return inspect(apply, parameters, shape(BATCH, WIDTH), loss=loss_of(apply)).memory.activations


def xla(activation, depth):
    """The temporary memory of a compiled step, which holds what is kept and whatever it works with."""
    apply, parameters = network(activation, depth)
    step = jax.jit(jax.value_and_grad(loss_of(apply)))
    return step.lower(parameters, shape(BATCH, WIDTH)).compile().memory_analysis().temp_size_in_bytes


def assert_kept(ours, theirs):
    """What is predicted is what XLA keeps by its defaults on a CPU, and the most that it keeps where it fuses more.

    That is on a GPU, and with the flags of `runtime.tune`: some of it is then computed again.
    """
    fuses_more = jax.default_backend() != "cpu" or "ynn_fusion_type" in os.environ["XLA_FLAGS"]
    assert 0.9 * theirs < ours < (2.1 if fuses_more else 1.1) * theirs


@pytest.mark.parametrize(
    ("activation", "arrays"),
    [
        (jax.nn.relu, 2),  # what goes into it, for its mask, and what comes out, which the next product reads
        (jnp.tanh, 1),  # what comes out, from which its derivative follows
        (lambda x: x, 1),
    ],
)
def test_a_layer_keeps_what_its_derivative_and_the_next_product_need(activation, arrays):
    assert kept(activation, 9) - kept(activation, 5) == 4 * arrays * ARRAY


@pytest.mark.parametrize("activation", [jax.nn.relu, jnp.tanh, jax.nn.silu, jax.nn.gelu])
def test_each_further_layer_keeps_what_it_does_in_xla(activation):
    ours, theirs = (memory(activation, 9) - memory(activation, 5) for memory in (kept, xla))
    assert_kept(ours, theirs)


def test_a_convolution_with_a_norm_keeps_what_it_does_in_xla(look):
    from research.models import SmallResNet
    from research.models.base import network
    from research.spec import Spec

    spec = Spec((16, 16, 3), 10, ("",) * 10)

    def theirs(depth):
        net = network(SmallResNet(depth=depth, norm="group"), spec)
        variables = jax.eval_shape(net.init, jax.random.key(0))
        loss = lambda p, state, x: jnp.sum(net.apply({**state, "params": p}, x, train=False)[0] ** 2)  # noqa: E731
        state = {kind: tree for kind, tree in variables.items() if kind != "params"}
        step = jax.jit(jax.value_and_grad(loss)).lower(variables["params"], state, shape(64, 16, 16, 3))
        return step.compile().memory_analysis().temp_size_in_bytes

    def ours(depth):
        return look(SmallResNet(depth=depth, norm="group"), (16, 16, 3), classes=10, batch=64).memory.activations

    assert_kept(ours(14) - ours(8), theirs(14) - theirs(8))


def test_a_transformers_block_keeps_what_it_does_in_xla(look):
    from research.models import GPT
    from research.models.base import network
    from research.spec import Spec

    spec = Spec((64,), 32, ("",) * 32, 32)
    model = lambda depth: GPT(depth=depth, width=64, heads=4, context=64)  # noqa: E731

    def theirs(depth):
        net = network(model(depth), spec)
        parameters = jax.eval_shape(net.init, jax.random.key(0))["params"]
        loss = lambda p, x: jnp.sum(net.apply({"params": p}, x, train=False)[0])  # noqa: E731
        step = jax.jit(jax.value_and_grad(loss)).lower(parameters, shape(64, 64, dtype=jnp.int32))
        return step.compile().memory_analysis().temp_size_in_bytes

    def ours(depth):
        return look(model(depth), (64,), classes=32, tokens=32, batch=64).memory.activations

    assert_kept(ours(3) - ours(1), theirs(3) - theirs(1))


def test_a_softmax_in_a_frozen_prefix_keeps_nothing_but_what_the_next_product_reads():
    def apply(p, x):
        return jax.nn.softmax(x @ p["a"]) @ p["b"]

    parameters = {name: shape(WIDTH, WIDTH) for name in ("a", "b")}
    inspection = inspect(apply, parameters, shape(BATCH, WIDTH), frozen=["a"])
    assert inspection.memory.activations == ARRAY
    assert inspect(apply, parameters, shape(BATCH, WIDTH)).memory.activations > 2 * ARRAY


def test_recomputed_blocks_keep_their_inputs_alone():
    def blocks(ws, x):
        for w in ws:
            x = jax.checkpoint(lambda x, w: jnp.sin(jnp.sin(x @ w) @ w))(x, w)
        return x

    memory = inspect(blocks, [shape(WIDTH, WIDTH)] * 5, shape(BATCH, WIDTH)).memory
    assert memory.activations == 4 * ARRAY  # the first block's input is the network's own


def test_constants_are_not_kept():
    constant = jnp.ones((BATCH, WIDTH))
    memory = inspect(lambda p, x: (x @ p) * constant, shape(WIDTH, WIDTH), shape(BATCH, WIDTH)).memory
    assert (memory.activations, memory.residuals) == (0, 0)


def test_parameters_gradients_and_optimizer_state_are_counted_to_the_byte():
    parameters = {"a": shape(3, 5), "b": shape(5, dtype=jnp.bfloat16)}
    apply = lambda p, x: x @ p["a"] + p["b"]  # noqa: E731
    memory = inspect(apply, parameters, shape(2, 3), frozen=["b"], optimizer_bytes={"a": 120, "": 4}).memory
    assert (memory.parameters, memory.frozen, memory.gradients, memory.optimizer) == (70, 10, 60, 124)
    assert memory.total == 70 + 60 + 124 + memory.activations


def test_the_least_time_is_that_of_arithmetic_or_of_memory():
    apply = lambda p, x: x @ p  # noqa: E731
    inspection = inspect(apply, shape(32, 32), shape(8, 32), frozen=[""])
    cost = inspection.forward
    assert (cost.flops, cost.moved) == (2 * 8 * 32 * 32, 4 * (8 * 32 + 32 * 32 + 8 * 32))
    assert intensity(cost) == cost.flops / cost.moved
    assert least_seconds(inspection, Rates(cost.flops / 3, 1e99)) == pytest.approx(3)
    assert least_seconds(inspection, Rates(1e99, cost.moved / 5)) == pytest.approx(5)


def test_rates_can_be_measured(monkeypatch):
    from research.inspection import roofline

    monkeypatch.setattr(roofline, "VECTOR", 1 << 16)
    monkeypatch.setattr(roofline, "MATRIX", 64)
    assert all(rate > 0 for rate in measure_rates())
