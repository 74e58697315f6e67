"""Low rank: exact at full rank, and below as near as can be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.deployment.compression import Factorization, Retraining
from research.deployment.compression.factors import Factorized, factorize, factors, rank_of_energy
from research.models import MLP
from research.training import steps


@given(st.sampled_from([(6, 4), (4, 6)]), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=20)
def test_what_is_missed_are_the_singular_values_left_out(shape, rank, seed):
    inputs, features = shape
    kernel = np.random.default_rng(seed).normal(size=(inputs, features)).astype(np.float32)
    first, second = factors(kernel, rank)
    values = np.linalg.svd(kernel.astype(np.float64), compute_uv=False)
    assert first.shape == (inputs, rank) and second.shape == (rank, features)
    missed = np.linalg.norm(kernel - np.asarray(first, np.float64) @ np.asarray(second, np.float64))
    assert missed == pytest.approx(np.sqrt(np.square(values[rank:]).sum()), abs=1e-5)


@given(st.floats(0.01, 1), st.integers(0, 99))
def test_the_rank_is_the_smallest_that_keeps_the_energy(energy, seed):
    kernel = np.random.default_rng(seed).normal(size=(6, 5))
    rank, squares = rank_of_energy(kernel, energy), np.linalg.svd(kernel, compute_uv=False) ** 2
    assert squares[:rank].sum() >= energy * squares.sum() - 1e-9
    assert rank == 1 or squares[: rank - 1].sum() < energy * squares.sum()


def test_a_network_of_full_rank_is_the_network(make, answers):
    trained = make(MLP(depth=1, width=6))
    ranks = {"block_00/dense": 6, "head": 6}
    model = Factorized(model=trained.model, ranks=tuple(ranks.items()))
    parameters = factorize(trained.parameters, ranks)
    assert "head/kernel" not in parameters and parameters["head/first/kernel"].shape == (6, 6)
    np.testing.assert_allclose(
        answers(trained._replace(model=model, parameters=parameters)), answers(trained), atol=1e-4
    )


def test_layers_that_would_not_get_smaller_stay(make, work_on, answers):
    trained = make(MLP(depth=1, width=16))
    compressed = Factorization(energy=None, cost=0.5, retraining=Retraining(duration=steps(2))).compress(
        work_on(trained)
    )
    assert compressed.told["ranks"] == {"block_00/dense": 6, "head": 3}
    assert compressed.network.parameters["block_00/dense/second/kernel"].shape == (6, 16)
    assert np.isfinite(answers(compressed.network)).all()
    (problem,) = Factorization(energy=1.0).unsuited(work_on(trained))
    assert "would make smaller" in problem
