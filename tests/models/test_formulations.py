"""Flax's layers by our formulations: the same functions, gradients and statistics as Flax's own, in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from research.models import network
from research.models.formulations import FORMS, formulated
from research.spec import Spec

PICTURES, SIGNALS, VOLUMES, TOKENS, ROW = (2, 7, 6, 6), (3, 9, 4), (2, 4, 3, 5, 2), (2, 5, 6), (6,)


class Own(nn.Dense):
    """Derived from Flax's, and so another layer."""

    def __call__(self, inputs):
        return 2 * super().__call__(inputs)


class Called(nn.Module):
    """A layer that is called with more than inputs."""

    layer: nn.Module
    told: dict

    def __call__(self, inputs):
        return self.layer(inputs, **self.told)


def name_of(value):
    return type(value).__name__


UNDERSTOOD = [
    (nn.Conv(4, (3, 3)), PICTURES),
    (nn.Conv(4, (3, 2), strides=2, use_bias=False), PICTURES),
    (nn.Conv(4, (2, 2), strides=(1, 2), padding="VALID"), PICTURES),
    (nn.Conv(4, (3, 3), padding=2, kernel_dilation=(1, 2)), PICTURES),
    (nn.Conv(4, (3, 3), padding=((1, 0), (0, 2))), PICTURES),
    (nn.Conv(4, (3, 3), padding=(0, 1), strides=None), PICTURES),
    (nn.Conv(4, (3, 3), feature_group_count=2), PICTURES),
    (nn.Conv(5, 3), SIGNALS),
    (nn.Conv(3, (2, 2, 3), strides=2), VOLUMES),
    (nn.Dense(5), TOKENS),
    (nn.Dense(5, use_bias=False), ROW),
    (nn.LayerNorm(), TOKENS),
    (nn.LayerNorm(epsilon=0.1, use_bias=False), PICTURES),
    (nn.LayerNorm(use_scale=False, use_bias=False), ROW),
    (nn.RMSNorm(), TOKENS),
    (nn.RMSNorm(use_scale=False), TOKENS),
    (nn.GroupNorm(2), PICTURES),
    (nn.GroupNorm(None, group_size=3, epsilon=0.1, use_scale=False), TOKENS),
    (nn.BatchNorm(use_running_average=False), PICTURES),
    (nn.BatchNorm(use_running_average=False, momentum=0.5, use_bias=False, epsilon=0.1), TOKENS),
    (Called(nn.BatchNorm(), {"use_running_average": False}), TOKENS),
]
LEFT_TO_FLAX = [
    (nn.Conv(4, (3, 3), padding="CIRCULAR"), PICTURES),
    (nn.Conv(4, (3, 3), padding="SAME_LOWER", strides=2), PICTURES),
    (nn.Conv(4, 3, padding="CAUSAL"), SIGNALS),
    (nn.Conv(4, (3, 3), padding=1, input_dilation=2), PICTURES),
    (nn.Conv(4, (3, 3), precision="highest"), PICTURES),
    (nn.Conv(4, 3), PICTURES),  # a signal of each row
    (nn.Conv(4, (3, 3), mask=jnp.arange(216.0).reshape(3, 3, 6, 4) % 2), PICTURES),
    (nn.Conv(4, (3, 3), mask=np.arange(216.0).reshape(3, 3, 6, 4) % 2), PICTURES),
    (nn.Conv(4, (3, 3), conv_general_dilated=lax.conv_general_dilated), PICTURES),
    (nn.ConvLocal(4, (3, 3)), PICTURES),
    (nn.Dense(5, dot_general=lax.dot_general), TOKENS),
    (nn.DenseGeneral((2, 3)), TOKENS),
    (Own(5), TOKENS),
    (nn.LayerNorm(reduction_axes=(1, 2)), TOKENS),
    (nn.LayerNorm(use_fast_variance=False), TOKENS),
    (Called(nn.LayerNorm(), {"mask": np.arange(6) < 4}), TOKENS),
    (Called(nn.GroupNorm(2), {"mask": np.arange(6) < 5}), TOKENS),
    (nn.BatchNorm(use_running_average=True), TOKENS),
    (nn.BatchNorm(use_running_average=False, axis=1), TOKENS),
]


@pytest.fixture
def computed(monkeypatch):
    """By class, whether each call that came to a form was computed by it."""
    told = {}

    def spied(layer, form):
        def compute(*args, **kwargs):
            outputs = form.compute(*args, **kwargs)
            told.setdefault(layer, []).append(outputs is not None)
            return outputs

        return form._replace(compute=compute)

    monkeypatch.setattr(
        "research.models.formulations.FORMS", {layer: spied(layer, form) for layer, form in FORMS.items()}
    )
    return told


def everything(layer, shape):
    """Outputs, what the layer changes, and the gradients of a loss that all outputs move, by variables and inputs."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=shape) + 0.5)
    variables = layer.init(jax.random.key(0), inputs)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape)), variables)
    state = {name: tree for name, tree in variables.items() if name != "params"}

    def loss(parameters, inputs):
        outputs, changed = layer.apply({"params": parameters, **state}, inputs, mutable=list(state))
        weights = jnp.cos(jnp.arange(outputs.size, dtype=outputs.dtype)).reshape(outputs.shape)
        return jnp.sum(weights * outputs**2), (outputs, changed)

    gradients, aside = jax.grad(loss, (0, 1), has_aux=True)(variables.get("params", {}), inputs)
    return {"gradients": gradients, "outputs and changes": aside}


@pytest.mark.parametrize(("layer", "shape"), UNDERSTOOD + LEFT_TO_FLAX, ids=name_of)
def test_layers_and_their_gradients_are_flax_s(layer, shape):
    with jax.enable_x64(True):
        expected = everything(layer, shape)
        with formulated():
            found = everything(layer, shape)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9), found, expected)


@pytest.mark.parametrize(("layer", "shape"), UNDERSTOOD, ids=name_of)
def test_what_is_understood_is_computed_here(layer, shape, computed):
    with formulated():
        everything(layer, shape)
    assert computed == {type(getattr(layer, "layer", layer)): [True]}


@pytest.mark.parametrize(("layer", "shape"), LEFT_TO_FLAX, ids=name_of)
def test_what_is_not_is_left_to_flax(layer, shape, computed):
    with formulated():
        everything(layer, shape)
    assert not any(any(each) for each in computed.values())


@pytest.mark.parametrize("of_inputs", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (nn.LayerNorm, {}),
        (nn.RMSNorm, {}),
        (nn.BatchNorm, {"use_running_average": False}),
        (nn.GroupNorm, {"num_groups": 2}),
        (nn.Dense, {"features": 5}),
        (nn.Conv, {"features": 5, "kernel_size": 3}),
    ],
    ids=name_of,
)
def test_dtypes_are_those_of_flax(make, told, dtype, param_dtype, of_inputs, computed):
    layer = make(dtype=dtype, param_dtype=param_dtype, **told)
    inputs = jax.random.normal(jax.random.key(1), TOKENS).astype(of_inputs)
    variables = layer.init(jax.random.key(0), inputs)
    expected = layer.apply(variables, inputs, mutable="batch_stats")
    with formulated():
        found = layer.apply(variables, inputs, mutable="batch_stats")
    assert computed == {make: [True]}
    exact = {dtype, param_dtype, of_inputs} <= {None, jnp.float32}
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        one, other = (np.asarray(each, np.float32) for each in (one, other))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 if exact else 0.05)


class Net(nn.Module):
    """Convolutions in a scan, recomputed, batch norm and attention, as a user may write them."""

    classes: int | None = None

    @nn.compact
    def __call__(self, images, train):
        class Block(nn.Module):
            @nn.compact
            def __call__(self, carry, _):
                hidden = nn.Conv(8, (3, 3))(nn.relu(carry))
                return carry + nn.BatchNorm(use_running_average=not train)(hidden), None

        scanned = nn.scan(
            nn.remat(Block), variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}, length=2
        )
        hidden, _ = scanned()(nn.Conv(8, (3, 3))(images), None)
        tokens = hidden.reshape(len(images), -1, 8)
        tokens = tokens + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(tokens))
        return nn.Dense(self.classes, name="head")(tokens.mean(1))


def test_a_network_of_flax_s_layers_is_made_of_ours(computed):
    net = network(Net(), Spec((6, 6, 1), 3, ("a", "b", "c")))
    variables = net.init(jax.random.key(0))
    assert not computed
    inputs = jax.random.normal(jax.random.key(1), (4, 6, 6, 1))

    def loss(parameters):
        logits, changed = net.apply({**variables, "params": parameters}, inputs, train=True)
        return jnp.sum(logits**2), (logits, changed)

    (_, (logits, changed)), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    assert all(all(each) for each in computed.values())
    assert computed.keys() == {nn.Conv, nn.BatchNorm, nn.LayerNorm, nn.Dense}
    by_flax = lambda parameters: Net(classes=3).apply(  # noqa: E731
        {**variables, "params": parameters}, inputs, train=True, mutable="batch_stats"
    )
    expected, also_changed = by_flax(variables["params"])
    expected_gradients = jax.grad(lambda parameters: jnp.sum(by_flax(parameters)[0] ** 2))(variables["params"])
    near = lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)  # noqa: E731
    near(logits, expected)
    jax.tree.map(near, changed, also_changed)
    jax.tree.map(near, gradients, expected_gradients)
