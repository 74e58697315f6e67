"""Evaluation counts every example once, whatever the batch."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from research.data.base import Split, Streamed
from research.training import evaluation
from research.training.plan import boundary, make_plan
from research.training.step import initial_state


def oracle(state, split):
    """Loss and predictions of the affine model in float64."""
    x = (split.inputs.astype(np.float64) - 0.1) / 1.5
    logits = x @ np.asarray(state.trainable["head/kernel"], np.float64) + np.asarray(state.trainable["head/bias"])
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return -log_p[np.arange(len(split.labels)), split.labels], logits.argmax(1)


@pytest.mark.parametrize("least", [1, 7, 23, 256])
@pytest.mark.parametrize("devices", [1, pytest.param(8, marks=pytest.mark.devices(8))])
def test_sums_equal_those_over_each_example(tiny, affine, monkeypatch, least, devices):
    monkeypatch.setattr(evaluation, "LEAST_BATCH", least)
    experiment = tiny(model=affine, batch_size=8, devices=devices)
    loaded = experiment.data.load()
    plan = dataclasses.replace(make_plan(experiment, loaded), steps=1000 + least)  # its own trace
    state, frozen = initial_state(plan, boundary(experiment))
    split = loaded.splits["test"]
    sums = evaluation.evaluate_split(plan, boundary(experiment), frozen, state.used(), split, loaded.normalisation)
    losses, predicted = oracle(state, split)
    assert sums["count"] == len(split) == 23
    np.testing.assert_allclose(sums["loss"], losses.sum(), rtol=1e-5)
    assert sums["correct"] == (predicted == split.labels).sum()
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (split.labels, predicted), 1)
    np.testing.assert_array_equal(sums["confusion"], expected)


def test_a_streamed_split_gives_the_same_sums_block_by_block(tiny, affine, monkeypatch):
    monkeypatch.setattr(evaluation, "BLOCK", 10)
    experiment = tiny(model=affine)
    loaded = experiment.data.load()
    plan = make_plan(experiment, loaded)
    state, frozen = initial_state(plan, boundary(experiment))
    split = loaded.splits["test"]

    streamed = make_streamed(split)
    arguments = (plan, boundary(experiment), frozen, state.used())
    there = evaluation.evaluate_split(*arguments, split, loaded.normalisation)
    here = evaluation.evaluate_split(*arguments, streamed, loaded.normalisation)
    assert there.keys() == here.keys()
    for name in there:
        np.testing.assert_allclose(here[name], there[name], rtol=1e-6, err_msg=name)


def make_streamed(split: Split) -> Streamed:
    """A split that hands out its examples only when read."""

    class Reads(Streamed):
        def __init__(self):
            pass

        labels = split.labels

        def __len__(self):
            return len(split.labels)

        def read(self, indices):
            return split.inputs[np.asarray(indices)]

    return Reads()


def test_probabilities_sum_to_one_and_follow_the_logits(tiny, affine):
    experiment = tiny(model=affine)
    loaded = experiment.data.load()
    plan = make_plan(experiment, loaded)
    state, frozen = initial_state(plan, boundary(experiment))
    split = loaded.splits["test"]
    p = evaluation.probabilities(
        plan, boundary(experiment), frozen, *state.used(), jnp.asarray(split.inputs), loaded.normalisation
    )
    losses, predicted = oracle(state, split)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(-np.log(p[np.arange(23), split.labels]), losses, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(p.argmax(1), predicted)
