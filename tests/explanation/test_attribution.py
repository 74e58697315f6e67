"""Attribution against closed forms: a linear function, a network small enough to work out, made attention."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.explanation import attribution
from research.explanation.attribution import (
    grad_cam,
    gradient_times_input,
    incompleteness,
    integrated_gradients,
    occlusion,
    patches_of,
    rollout,
    smooth_gradient,
)

RANDOM = np.random.default_rng(0)
WEIGHTS = jnp.asarray(RANDOM.normal(size=(5, 3)), jnp.float32)
INPUTS = jnp.asarray(RANDOM.normal(size=(4, 5)), jnp.float32)
TARGET = jnp.array([0, 2, 1, 2])
OF_TARGET = WEIGHTS.T[TARGET]


def linear(inputs):
    return inputs @ WEIGHTS + 0.7


def curved(inputs):
    return jnp.tanh(jnp.tanh(inputs @ WEIGHTS + 0.3) @ WEIGHTS.T - 0.2) @ WEIGHTS


def test_of_a_linear_function_every_method_is_the_weight_times_the_input():
    np.testing.assert_allclose(gradient_times_input(linear, INPUTS, TARGET), OF_TARGET * INPUTS, rtol=1e-6)
    np.testing.assert_allclose(integrated_gradients(linear, INPUTS, TARGET, steps=3), OF_TARGET * INPUTS, rtol=1e-5)
    smooth = smooth_gradient(linear, INPUTS, TARGET, jax.random.key(0), samples=3)
    np.testing.assert_allclose(smooth, OF_TARGET, rtol=1e-5)
    each = occlusion(linear, INPUTS, TARGET, patches_of((5,)))
    np.testing.assert_allclose(each, OF_TARGET * INPUTS, rtol=1e-4, atol=1e-5)


def test_from_a_baseline_it_is_the_weight_times_the_way():
    baseline = jnp.asarray(RANDOM.normal(size=5), jnp.float32)
    way = OF_TARGET * (INPUTS - baseline)
    for found in (
        gradient_times_input(linear, INPUTS, TARGET, baseline),
        integrated_gradients(linear, INPUTS, TARGET, baseline, steps=4),
        occlusion(linear, INPUTS, TARGET, patches_of((5,)), baseline),
    ):
        np.testing.assert_allclose(found, way, rtol=1e-4, atol=1e-5)


def test_integrated_gradients_are_complete():
    few, many = (integrated_gradients(curved, INPUTS, TARGET, 0.0, steps) for steps in (2, 1024))
    assert incompleteness(curved, INPUTS, TARGET, 0.0, many).max() < 1e-3
    assert incompleteness(curved, INPUTS, TARGET, 0.0, few).max() > 1e-3
    difference = attribution.scores(curved, INPUTS, TARGET) - attribution.scores(curved, 0 * INPUTS, TARGET)
    np.testing.assert_allclose(many.sum(1), difference, rtol=1e-3)


def test_integrated_gradients_of_a_product_are_half_of_it_each():
    def product(inputs):
        return (inputs[:, :1] * inputs[:, 1:2]).repeat(2, 1)

    found = integrated_gradients(product, jnp.array([[3.0, 5.0]]), jnp.array([0]), steps=8)
    np.testing.assert_allclose(found, [[7.5, 7.5]], rtol=1e-6)


def test_a_smooth_gradient_without_noise_is_the_gradient_and_with_noise_that_of_a_wider_slope():
    plain = attribution.gradient(curved, INPUTS, TARGET)
    np.testing.assert_allclose(
        smooth_gradient(curved, INPUTS, TARGET, jax.random.key(0), noise=0.0, samples=2), plain, rtol=1e-5, atol=1e-6
    )

    def step(inputs):  # |x| has no slope at 0 on the mean of either side
        return jnp.abs(inputs)

    inputs = jnp.array([[0.001, 1.0]])
    found = smooth_gradient(step, inputs, jnp.array([0]), jax.random.key(1), noise=0.3, samples=2000)
    assert abs(float(found[0, 0])) < 0.1


def test_occlusion_of_a_function_that_reads_one_pixel_finds_that_pixel():
    def reads(pictures):
        return jnp.stack([pictures[:, 2, 5, 0], pictures[:, 0, 0, 0]], axis=1)

    pictures = jnp.asarray(RANDOM.uniform(1, 2, (2, 6, 7, 1)), jnp.float32)
    found = np.asarray(occlusion(reads, pictures, jnp.array([0, 0]), patches_of((6, 7))))
    expected = np.zeros((2, 6, 7))
    expected[:, 2, 5] = pictures[:, 2, 5, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    wide = np.asarray(occlusion(reads, pictures, jnp.array([0, 0]), patches_of((6, 7), side=3)))
    assert (wide[0] > 0).sum() == 20 and wide[0, 2, 5] == pytest.approx(float(pictures[0, 2, 5, 0]))


@pytest.mark.parametrize("side, stride", [(1, 1), (2, 1), (3, 2), (4, 3), (9, 4)])
def test_patches_cover_everything(side, stride):
    patches = patches_of((7, 5), side, stride)
    assert patches.any(0).all()
    assert (patches.sum((1, 2)) == min(side, 7) * min(side, 5)).all()


def test_grad_cam_is_the_definition_on_a_net_worked_out_by_hand():
    kernel, head = RANDOM.normal(size=(2, 3)), RANDOM.normal(size=(3, 2))
    pictures = RANDOM.normal(size=(2, 4, 4, 2))

    def function(inputs, added):
        features = inputs @ kernel.astype(np.float32) + added
        return jnp.square(features).mean((1, 2)) @ head.astype(np.float32), features

    found = grad_cam(function, jnp.asarray(pictures, jnp.float32), jnp.array([1, 0]))
    features = pictures @ kernel
    for i, target in enumerate((1, 0)):
        slopes = 2 * features[i] / 16 * head[:, target]  # of the mean of squares
        weights = slopes.mean((0, 1))
        np.testing.assert_allclose(found[i], np.maximum((features[i] * weights).sum(-1), 0), rtol=1e-4, atol=1e-6)


def test_rollout_of_attention_made_by_hand():
    one = np.array([[[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]]])  # two heads whose mean is half and half
    np.testing.assert_allclose(rollout([one])[0], [[0.75, 0.25], [0.25, 0.75]])
    still = np.eye(2)[None, None]
    np.testing.assert_allclose(rollout([one, still])[0], rollout([one])[0])
    np.testing.assert_allclose(rollout([still, one])[0], rollout([one])[0])
    swap = np.array([[[[0.0, 1.0], [1.0, 0.0]]]])
    later = np.array([[[[1.0, 0.0], [1.0, 0.0]]]])  # the order of layers matters
    first = (np.array([[0.0, 1.0], [1.0, 0.0]]) + np.eye(2)) / 2
    last = (np.array([[1.0, 0.0], [1.0, 0.0]]) + np.eye(2)) / 2
    np.testing.assert_allclose(rollout([swap, later])[0], last @ first)
    assert np.allclose(np.asarray(rollout([swap, one, later])).sum(-1), 1)


def test_maps_of_a_network_do_not_depend_on_what_else_is_in_the_batch():
    module = nn.Dense(3)
    variables = module.init(jax.random.key(0), INPUTS)

    def function(inputs):
        return jnp.tanh(module.apply(variables, inputs))

    whole = integrated_gradients(function, INPUTS, TARGET, steps=8)
    np.testing.assert_allclose(whole[1:2], integrated_gradients(function, INPUTS[1:2], TARGET[1:2], steps=8), rtol=1e-5)
