"""The hand-derived gradients are those of jax.grad, of finite differences in float64, and of torch; and they train."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.ops import backpropagation as bp

ACTIVATIONS, LOSSES = ("sigmoid", "tanh", "relu"), ("cross_entropy", "squared_error")
SIZES = {"linear": (5, 3), "one hidden": (5, 4, 3), "three hidden": (5, 7, 1, 6, 3)}
every_network = pytest.mark.parametrize(
    ("activation", "kind", "sizes"),
    [pytest.param(*case, SIZES[name], id="-".join((*case, name)))
     for *case, name in itertools.product(ACTIVATIONS, LOSSES, SIZES)],
)  # fmt: skip


def problem(sizes, activation, batch=6, seed=0):
    """Layers with biases that are not 0, inputs and targets; float32, or float64 where that is switched on."""
    random = np.random.default_rng(seed)
    layers = bp.initial(jax.random.key(seed), sizes, activation)
    layers = jax.tree.map(lambda p: jnp.asarray(np.asarray(p) + 0.3 * random.normal(size=p.shape), float), layers)
    inputs = jnp.asarray(random.normal(size=(batch, sizes[0])), float)
    return layers, inputs, jnp.asarray(np.eye(sizes[-1])[random.integers(0, sizes[-1], batch)], float)


def reference_loss(layers, inputs, targets, activation, kind):
    """The same network in NumPy, in the dtype of its arguments, written without looking at ours."""
    a, targets = np.asarray(inputs), np.asarray(targets)
    for kernel, bias in layers[:-1]:
        z = np.einsum("ni,ij->nj", a, kernel) + np.asarray(bias)
        a = {"sigmoid": lambda z: 1 / (1 + np.exp(-z)), "tanh": np.tanh, "relu": lambda z: z.clip(0)}[activation](z)
    z = np.einsum("ni,ij->nj", a, layers[-1].kernel) + np.asarray(layers[-1].bias)
    if kind == "cross_entropy":
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        return float(-np.log(p[targets == 1]).mean())
    return float(0.5 * ((1 / (1 + np.exp(-z)) - targets) ** 2).sum(1).mean())


@every_network
def test_the_gradients_are_those_of_jax_to_rounding(activation, kind, sizes):
    layers, inputs, targets = problem(sizes, activation)

    def differentiated(layers):
        return bp.loss(bp.forward(layers, inputs, activation)[1], targets, kind)

    value, gradients = bp.loss_and_gradients(layers, inputs, targets, activation, kind)
    expected_value, expected = jax.value_and_grad(differentiated)(layers)
    assert value == expected_value
    assert jax.tree.structure(gradients) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, jnp.float32)
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6 * np.abs(theirs).max())


@every_network
def test_the_gradients_are_finite_differences_of_a_numpy_network_in_float64(activation, kind, sizes):
    with jax.enable_x64(True):
        layers, inputs, targets = problem(sizes, activation)
        value, gradients = bp.loss_and_gradients(layers, inputs, targets, activation, kind)
        assert value.dtype == jnp.float64
        leaves, structure = jax.tree.flatten(jax.tree.map(np.array, layers))

        def at(number, index, change):
            moved = [leaf.copy() for leaf in leaves]
            moved[number][index] += change
            return reference_loss(jax.tree.unflatten(structure, moved), inputs, targets, activation, kind)

        assert float(value) == pytest.approx(reference_loss(layers, inputs, targets, activation, kind), rel=1e-12)
        for number, gradient in enumerate(jax.tree.leaves(gradients)):
            gradient = np.asarray(gradient)
            for index in np.ndindex(gradient.shape):
                slope = (at(number, index, 1e-5) - at(number, index, -1e-5)) / 2e-5
                assert gradient[index] == pytest.approx(slope, rel=1e-6, abs=1e-9)


@pytest.mark.peers
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_gradients_are_those_of_torch(activation):
    import torch

    layers, inputs, targets = problem(SIZES["three hidden"], activation)
    _, gradients = bp.loss_and_gradients(layers, inputs, targets, activation, "cross_entropy")
    parameters = [torch.tensor(np.array(leaf), requires_grad=True) for leaf in jax.tree.leaves(layers)]
    outputs = torch.tensor(np.array(inputs))
    for number in range(0, len(parameters), 2):
        outputs = outputs if number == 0 else getattr(torch, activation)(outputs)
        outputs = outputs @ parameters[number] + parameters[number + 1]
    torch.nn.functional.cross_entropy(outputs, torch.tensor(np.array(targets))).backward()
    for ours, theirs in zip(jax.tree.leaves(gradients), parameters, strict=True):
        np.testing.assert_allclose(ours, theirs.grad, rtol=1e-5, atol=1e-6)


def test_the_slope_of_a_relu_is_0_where_its_input_is_0():
    # as in other libraries; the gradient that JAX takes of a plain maximum would be 1/2 there
    assert bp.slope("relu", bp.activate("relu", jnp.array([-1.0, 0.0, 2.0]))).tolist() == [0, 0, 1]


@pytest.mark.parametrize("kind", LOSSES)
def test_scores_too_large_for_exp_make_no_nan(kind):
    scores, targets = jnp.array([[1e4, -1e4, 0.0]]), jnp.array([[0.0, 1.0, 0.0]])
    assert jnp.isfinite(bp.loss(scores, targets, kind))
    assert jnp.isfinite(bp.loss_gradient(scores, targets, kind)).all()


def test_the_inputs_have_no_parameters():
    layers = bp.initial(jax.random.key(0), (784, 30, 10), "sigmoid")
    assert [(layer.kernel.shape, layer.bias.shape) for layer in layers] == [((784, 30), (30,)), ((30, 10), (10,))]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_initial_features_keep_their_scale_through_many_layers(activation):
    layers = bp.initial(jax.random.key(1), (256,) * 12, activation)
    activations, _ = bp.forward(layers, jax.random.normal(jax.random.key(2), (64, 256)), activation)
    assert 0.1 < float(jnp.sqrt(jnp.mean(jnp.square(activations[-1])))) < 2
    if activation == "relu":
        np.testing.assert_allclose(jnp.mean(jnp.square(activations[-1])), 1, rtol=0.4)


def test_gradient_descent_goes_downhill():
    layers, inputs, targets = problem((5, 8, 3), "tanh", batch=40)
    losses = []
    for _ in range(60):
        value, gradients = bp.loss_and_gradients(layers, inputs, targets, "tanh", "cross_entropy")
        layers = bp.descend(layers, gradients, 0.3)
        losses.append(float(value))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0, 2)])
def test_sizes_that_make_no_network_are_refused(sizes):
    with pytest.raises(ValueError, match="must be those of inputs"):
        bp.initial(jax.random.key(0), sizes, "relu")


def test_inputs_that_do_not_fit_are_named_by_shape():
    layers = bp.initial(jax.random.key(0), (4, 2), "relu")
    with pytest.raises(ValueError, match=r"inputs \(3, 5\) do not fit the first kernel, \(4, 2\)"):
        bp.forward(layers, jnp.zeros((3, 5)), "relu")
