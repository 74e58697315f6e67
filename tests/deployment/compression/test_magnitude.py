"""Pruning: so many of the smallest weights are 0, and stay so."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.deployment.compression import MagnitudePruning, Retraining
from research.deployment.compression.magnitude import Sparse, pruned
from research.deployment.trained import logits
from research.models import MLP, ConvNet
from research.training import steps


@settings(max_examples=50)
@given(share=st.floats(0, 0.99), among=st.sampled_from(["network", "layer"]), seed=st.integers(0, 99))
def test_the_smallest_are_pruned_and_no_others(share, among, seed):
    random = np.random.default_rng(seed)
    parameters = {"a/kernel": random.normal(size=(4, 5)), "b/kernel": random.normal(size=(7,)), "a/bias": np.ones(5)}
    found = pruned(parameters, ["a/kernel", "b/kernel"], share, among=among)
    assert found["a/bias"] is parameters["a/bias"]
    groups = [("a/kernel", "b/kernel")] if among == "network" else [("a/kernel",), ("b/kernel",)]
    for group in groups:
        before, after = (np.concatenate([tree[path].ravel() for path in group]) for tree in (parameters, found))
        assert (after == 0).sum() == int(share * len(after) + 1e-9)
        np.testing.assert_array_equal(after[after != 0], before[after != 0])
        if (after == 0).sum() > 0:
            assert np.abs(before[after == 0]).max() <= np.abs(before[after != 0]).min()


def test_equal_weights_are_pruned_in_their_order():
    found = pruned({"a/kernel": np.ones((2, 2))}, ["a/kernel"], 0.5, among="layer")
    np.testing.assert_array_equal(found["a/kernel"], [[0, 0], [1, 1]])


def test_what_is_zero_gets_no_gradient_and_the_rest_gets_its_own(make, inputs):
    trained = make(MLP(depth=1, width=6))
    parameters = pruned(trained.parameters, ["block_00/dense/kernel", "head/kernel"], 0.5, among="network")
    sparse = trained._replace(model=Sparse(model=trained.model, layers=("block_00/dense", "head")))

    def gradient(network):
        return jax.grad(lambda parameters: logits(network, parameters, {}, inputs).sum())(parameters)

    for path, plain in gradient(trained).items():
        is_there = parameters[path] != 0 if path.endswith("kernel") else True
        np.testing.assert_allclose(gradient(sparse)[path], np.where(is_there, plain, 0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("stages", [1, 2])
def test_the_mask_holds_through_fine_tuning(make, work_on, stages):
    trained = make(ConvNet(features=(3,), hidden=(6,), norm="batch"))
    work = work_on(trained, average=0.9)
    method = MagnitudePruning(sparsity=0.8, stages=stages, retraining=Retraining(duration=steps(4), learning_rate=0.01))
    compressed = method.compress(work)
    kernels = {path: array for path, array in compressed.network.parameters.items() if path.endswith("kernel")}
    zeros, all_of_them = (sum(map(count, kernels.values())) for count in (lambda a: (a == 0).sum(), np.size))
    assert zeros == int(0.8 * all_of_them)
    if stages == 1:
        at_once = pruned(trained.parameters, kernels, 0.8, among="network")
        for path, kernel in kernels.items():
            np.testing.assert_array_equal(kernel == 0, at_once[path] == 0)
            assert (kernel[kernel != 0] != trained.parameters[path][kernel != 0]).any()  # it was trained
    assert compressed.told["sparsity"]["head"] == np.mean(kernels["head/kernel"] == 0)


def test_a_pruned_network_is_the_masked_one(make, work_on, answers):
    trained = make(MLP(depth=1, width=6))
    network = MagnitudePruning(sparsity=0.5, among="layer", retraining=None).compress(work_on(trained)).network
    masked = dict(trained.parameters)
    for path, kernel in trained.parameters.items():
        if path.endswith("kernel"):
            masked[path] = kernel * (np.abs(kernel) >= np.sort(np.abs(kernel).ravel())[kernel.size // 2])
    np.testing.assert_array_equal(answers(network), answers(trained._replace(parameters=masked)))
