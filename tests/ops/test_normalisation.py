"""Norms against their definitions in NumPy, their gradients against flax's layers, and what shapes may be."""

import math
import re

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from research.models.norms import norm
from research.ops.normalisation import batch_norm, group_norm, layer_norm, rms_norm

EPSILON = 1e-3
SHAPES = [(3, 4, 4, 8), (2, 5, 7, 6), (4, 6), (3, 37, 4), (2, 3, 4, 5, 2), (2, 16, 130)]
"""Positions of two, one, none and three dimensions; numbers of them that lie side by side, and that do not."""
GROUPS = 2


def moments(inputs, axes):
    return inputs.mean(axes, keepdims=True), inputs.var(axes, keepdims=True)


def by_definition(kind, inputs, scale, bias):
    """In float64."""
    if kind == "batch":
        mean, variance = moments(inputs, tuple(range(inputs.ndim - 1)))
    elif kind == "group":
        grouped = inputs.reshape(*inputs.shape[:-1], GROUPS, -1)
        mean, variance = (
            np.broadcast_to(moment, (len(inputs), *(1,) * (inputs.ndim - 2), *grouped.shape[-2:])).reshape(
                len(inputs), *(1,) * (inputs.ndim - 2), -1
            )
            for moment in moments(grouped, (*range(1, inputs.ndim - 1), grouped.ndim - 1))
        )
    elif kind == "layer":
        mean, variance = moments(inputs, -1)
    else:
        mean, variance, bias = 0, (inputs**2).mean(-1, keepdims=True), 0
    return (inputs - mean) / np.sqrt(variance + EPSILON) * scale + bias


OURS = {
    "batch": lambda inputs, scale, bias: batch_norm(inputs, scale, bias, EPSILON)[0],
    "group": lambda inputs, scale, bias: group_norm(inputs, scale, bias, GROUPS, EPSILON),
    "layer": lambda inputs, scale, bias: layer_norm(inputs, scale, bias, EPSILON),
    "rms": lambda inputs, scale, bias: rms_norm(inputs, scale, EPSILON),
}
FLAX = {
    "batch": nn.BatchNorm(use_running_average=False, epsilon=EPSILON),
    "group": nn.GroupNorm(num_groups=GROUPS, epsilon=EPSILON),
    "layer": nn.LayerNorm(epsilon=EPSILON),
    "rms": nn.RMSNorm(epsilon=EPSILON),
}


def flax(kind):
    def apply(inputs, scale, bias):
        variables = {"params": {"scale": scale} if kind == "rms" else {"scale": scale, "bias": bias}}
        if kind == "batch":
            variables["batch_stats"] = {"mean": jnp.zeros_like(scale), "var": jnp.ones_like(scale)}
            return FLAX[kind].apply(variables, inputs, mutable=["batch_stats"])[0]
        return FLAX[kind].apply(variables, inputs)

    return apply


def operands(shape, dtype="float64"):
    """Inputs whose mean is no smaller than their deviation, and parameters."""
    generator = np.random.default_rng(math.prod(shape))
    inputs = generator.normal(2, 1 + np.arange(shape[-1]), shape)
    return [array.astype(dtype) for array in (inputs, *generator.normal(1, 1, (2, shape[-1])))]


cases = pytest.mark.parametrize(("kind", "shape"), [(kind, shape) for kind in OURS for shape in SHAPES])


@cases
def test_outputs_are_those_of_the_definition(kind, shape):
    given = operands(shape)
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(OURS[kind])(*given), by_definition(kind, *given), rtol=1e-10, atol=1e-10)
    single = [array.astype("float32") for array in given]
    np.testing.assert_allclose(jax.jit(OURS[kind])(*single), by_definition(kind, *given), rtol=1e-4, atol=1e-4)


@cases
def test_gradients_are_those_that_jax_finds_for_flax(kind, shape):
    given, weights = operands(shape), np.random.default_rng(1).normal(size=shape)

    def gradients(function):
        return jax.jit(jax.grad(lambda *arrays: (function(*arrays) * weights).sum(), (0, 1, 2)))(*given)

    with jax.enable_x64(True):
        for ours, theirs in zip(gradients(OURS[kind]), gradients(flax(kind)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", OURS)
def test_so_are_gradients_of_gradients(kind):
    given, weights = operands((3, 4, 8)), np.random.default_rng(1).normal(size=(2, 3, 4, 8))

    def of_gradients(function):
        def first(*arrays):
            return jax.grad(lambda *arrays: (function(*arrays) ** 2 * weights[0]).sum(), (0, 1, 2))(*arrays)

        return jax.jit(jax.grad(lambda *arrays: (first(*arrays)[0] * weights[1]).sum(), (0, 1)))(*given)

    with jax.enable_x64(True):
        for ours, theirs in zip(of_gradients(OURS[kind]), of_gradients(flax(kind)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", OURS)
def test_of_many_models_at_once_each_is_as_alone(kind):
    models = [operands((2, 5, 4), "float32") for _ in range(3)]
    for i, model in enumerate(models):
        model[0] += i
    weights = np.random.default_rng(2).normal(size=(2, 5, 4)).astype("float32")

    def gradients(*arrays):
        return jax.value_and_grad(lambda *arrays: (OURS[kind](*arrays) * weights).sum(), (0, 1, 2))(*arrays)

    together = jax.jit(jax.vmap(gradients))(*(jnp.stack(each) for each in zip(*models, strict=True)))
    for i, model in enumerate(models):
        alone = jax.tree.leaves(jax.jit(gradients)(*model))
        for ours, theirs in zip(jax.tree.leaves(together), alone, strict=True):
            np.testing.assert_allclose(ours[i], theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("dtypes", [("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float16", "float16")])
def test_outputs_have_the_dtype_of_inputs_and_parameters_as_in_flax(kind, dtypes):
    inputs, *parameters = operands((2, 6, 8))
    given = [jnp.asarray(inputs, dtypes[0]), *(jnp.asarray(array, dtypes[1]) for array in parameters)]
    ours, theirs = OURS[kind](*given), flax(kind)(*given)
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours.astype("float32"), theirs.astype("float32"), rtol=0.02, atol=0.02)
    gradients = jax.grad(lambda *arrays: OURS[kind](*arrays).astype("float32").sum(), (0, 1, 2))(*given)
    assert [gradient.dtype for gradient in gradients] == [array.dtype for array in given]


def test_inputs_without_variance_are_at_the_bias():
    inputs, bias = jnp.full((2, 3, 4), 3.3), jnp.arange(4.0)
    for kind in ("batch", "group", "layer"):
        outputs = OURS[kind](inputs, jnp.ones(4), bias)
        np.testing.assert_allclose(outputs, np.broadcast_to(bias, (2, 3, 4)), atol=1e-4)


def test_the_batch_s_statistics_are_those_of_numpy():
    inputs, scale, bias = operands((5, 3, 3, 4))
    with jax.enable_x64(True):
        _, mean, variance = batch_norm(*map(jnp.asarray, (inputs, scale, bias)))
    np.testing.assert_allclose(mean, inputs.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(variance, inputs.var((0, 1, 2)), rtol=1e-12)


@pytest.mark.parametrize("kind", ["group", "layer", "rms"])
def test_how_many_examples_there_are_may_be_unknown(kind):
    """As in a program that is exported."""
    inputs, scale, bias = operands((5, 4, 4, 6), "float32")
    (batch,) = jax.export.symbolic_shape("batch")
    function = jax.jit(lambda inputs: OURS[kind](inputs, jnp.asarray(scale), jnp.asarray(bias)))
    exported = jax.export.export(function)(jax.ShapeDtypeStruct((batch, 4, 4, 6), "float32"))
    np.testing.assert_allclose(exported.call(inputs), function(inputs), rtol=1e-5, atol=1e-5)


def test_epsilon_may_be_traced():
    inputs, scale, bias = operands((4, 6), "float32")
    inputs, scale, bias = map(jnp.asarray, (inputs, scale, bias))
    traced = jax.jit(layer_norm)(inputs, scale, bias, 0.5)
    np.testing.assert_allclose(traced, layer_norm(inputs, scale, bias, 0.5), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(rms_norm)(inputs, scale, 0.5), rms_norm(inputs, scale, 0.5), rtol=1e-6)


@pytest.mark.parametrize("kind", OURS)
def test_of_no_examples_there_are_no_outputs_and_no_gradients(kind):
    inputs, scale, bias = jnp.ones((0, 4, 4, 8)), jnp.ones(8), jnp.ones(8)
    outputs = jax.jit(OURS[kind])(inputs, scale, bias)
    assert outputs.shape == inputs.shape
    gradients = jax.grad(lambda *arrays: OURS[kind](*arrays).sum(), (0, 1, 2))(inputs, scale, bias)
    assert [gradient.shape for gradient in gradients] == [inputs.shape, scale.shape, bias.shape]


@pytest.mark.devices(4)
@pytest.mark.parametrize("batch", [100, 20, 12, 64])
def test_devices_that_share_a_batch_exchange_its_moments_and_not_its_activations(batch):
    mesh = jax.make_mesh((4,), ("batch",), devices=jax.devices()[:4], axis_types=(jax.sharding.AxisType.Auto,))
    laid_out = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    shapes = [(batch, 32, 32, 16), (16,), (16,)]
    arrays = [jax.ShapeDtypeStruct(s, "float32", sharding=laid_out if len(s) > 1 else whole) for s in shapes]
    gradients = jax.jit(jax.grad(lambda *arrays: jnp.square(OURS["batch"](*arrays)).sum(), (0, 1, 2)))
    program = gradients.lower(*arrays).compile().as_text()
    exchanged = re.findall(r"= \(?f32\[([\d,]*)\]\S* (?:all-gather|all-reduce|all-to-all|collective-permute)", program)
    assert (
        exchanged
        and max(math.prod(map(int, sizes.split(",") if sizes else ())) for sizes in exchanged) < 3 * 32 * 32 * 16
    )


def test_the_running_averages_of_a_layer_move_as_those_of_flax():
    inputs = jnp.asarray(operands((6, 3, 3, 8), "float32")[0])
    changed = []
    for layer in (norm("batch", 8, True, name=None), nn.BatchNorm(use_running_average=False, momentum=0.9)):
        variables = layer.init(jax.random.key(0), inputs)
        for _ in range(2):
            _, state = layer.apply(variables, inputs, mutable=["batch_stats"])
            variables = {**variables, **state}
        changed.append(variables["batch_stats"])
    for name in ("mean", "var"):
        np.testing.assert_allclose(changed[0][name], changed[1][name], rtol=1e-5, atol=1e-6)
        assert np.abs(changed[0][name] - (name == "var")).max() > 0.01


def test_groups_that_do_not_divide_the_features_are_an_error():
    for groups in (3, 0):
        with pytest.raises(ValueError, match=rf"{groups} groups do not divide the 8 features of inputs \(2, 3, 8\)"):
            group_norm(jnp.ones((2, 3, 8)), jnp.ones(8), jnp.ones(8), groups)
