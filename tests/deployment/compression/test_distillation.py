"""Distillation: the loss is the one of the paper, and a student comes to answer as its teacher does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.deployment.compression import Distillation
from research.deployment.compression.soft_answers import SoftAnswers
from research.inspection.matching import size
from research.models import MLP
from research.training import AdamW, steps


def softmax(logits):
    likely = np.exp(logits - logits.max(-1, keepdims=True))
    return likely / likely.sum(-1, keepdims=True)


def test_the_loss_is_that_of_softened_answers(make, answers, inputs):
    teacher, temperature = make(MLP(depth=1, width=4)), 3.0
    objective = SoftAnswers(jnp.float32(temperature), teacher)
    seen, targets = objective.prepare(None, inputs, None, teacher.data.spec)
    theirs = np.asarray(answers(teacher), np.float64)
    np.testing.assert_allclose(targets, softmax(theirs / temperature), atol=1e-6)
    own = np.random.default_rng(0).normal(size=theirs.shape)
    exact = -(temperature**2) * (softmax(theirs / temperature) * np.log(softmax(own / temperature))).sum(-1)
    np.testing.assert_allclose(objective.losses(jnp.asarray(own, jnp.float32), targets), exact, rtol=1e-5)
    assert seen is inputs


def test_the_teachers_arrays_are_leaves(make):
    teacher = make(MLP(depth=0))
    leaves = jax.tree.leaves(SoftAnswers(jnp.float32(1), teacher))
    assert {leaf.shape for leaf in leaves} == {(), (64, 10), (10,)}


def test_a_student_of_the_size_asked_for_answers_as_its_teacher(make, work_on, answers):
    teacher = make(MLP(depth=1, width=32))
    work = work_on(teacher, duration=steps(150), optimizer=AdamW(learning_rate=1e-2))
    network = Distillation(flops=0.5).compress(work).network
    large, small = (size(each.model, teacher.data.spec, "FLOPs") for each in (teacher, network))
    assert small == pytest.approx(0.5 * large, rel=0.25)
    agree = np.mean(answers(network).argmax(-1) == answers(teacher).argmax(-1))
    assert agree >= 0.75  # by chance, 0.1


def test_a_model_without_a_field_for_it_is_told(make, work_on):
    work = work_on(make(MLP(depth=0)))
    (problem,) = Distillation(field="heads").unsuited(work)
    assert "no field heads" in problem
