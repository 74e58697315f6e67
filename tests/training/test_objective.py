"""Cross-entropy and penalties against closed forms, optax and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from research.config import as_arrays, config, validate
from research.data import Augmentation
from research.errors import UserError
from research.training.objective import CrossEntropy, Objective

RNG = np.random.default_rng(0)
LOGITS = (RNG.normal(size=(12, 5)) * 4).astype(np.float32)
LABELS = RNG.integers(0, 5, 12).astype(np.int32)
ROWS = RNG.dirichlet(np.ones(5), 12).astype(np.float32)
PARAMETERS = {
    "a/kernel": RNG.normal(size=(3, 4)).astype(np.float32),
    "a/bias": RNG.normal(size=4).astype(np.float32),
    "b/kernel": RNG.normal(size=(2, 2, 3, 4)).astype(np.float32),
}


def is_kernel(path):
    return path.endswith("kernel")


def closed_form(logits, targets):
    return -(targets * scipy.special.log_softmax(logits.astype(np.float64), axis=1)).sum(1)


@pytest.mark.parametrize("smoothing", [None, 0.0, 0.1, 0.9])
@pytest.mark.parametrize("labels", [LABELS, ROWS], ids=["classes", "probabilities"])
def test_losses_have_their_closed_form(labels, smoothing):
    targets = np.eye(5)[labels] if labels.ndim == 1 else labels
    targets = (1 - (smoothing or 0)) * targets + (smoothing or 0) / 5
    losses = CrossEntropy(label_smoothing=smoothing).losses(jnp.asarray(LOGITS), jnp.asarray(labels))
    assert losses.shape == (12,)
    np.testing.assert_allclose(losses, closed_form(LOGITS, targets), rtol=1e-5)


def test_losses_are_those_of_optax():
    want = optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS)
    np.testing.assert_allclose(CrossEntropy().losses(LOGITS, LABELS), want, rtol=1e-6)
    want = optax.softmax_cross_entropy(LOGITS, optax.smooth_labels(jax.nn.one_hot(LABELS, 5), 0.2))
    np.testing.assert_allclose(CrossEntropy(label_smoothing=0.2).losses(LOGITS, LABELS), want, rtol=1e-6)


@pytest.mark.peers
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("labels", [LABELS, ROWS], ids=["classes", "probabilities"])
def test_losses_and_gradients_are_those_of_torch(labels, smoothing):
    import torch

    logits = torch.tensor(LOGITS, requires_grad=True)
    targets = torch.tensor(labels if labels.ndim > 1 else labels.astype(np.int64))
    want = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    want.mean().backward()
    objective = CrossEntropy(label_smoothing=smoothing)
    np.testing.assert_allclose(objective.losses(LOGITS, labels), want.detach().numpy(), rtol=2e-6)
    gradient = jax.grad(lambda x: objective.losses(x, labels).mean())(jnp.asarray(LOGITS))
    np.testing.assert_allclose(gradient, logits.grad.numpy(), atol=1e-7)


def test_large_logits_and_low_precision_give_finite_float32():
    losses = CrossEntropy(label_smoothing=0.1).losses(jnp.array([[3e4, -3e4]], jnp.bfloat16), jnp.array([1]))
    assert losses.dtype == jnp.float32 and np.isfinite(losses).all()
    assert CrossEntropy().losses(jnp.zeros((2, 4), jnp.float16), jnp.array([0, 3])) == pytest.approx(np.log(4))


def test_penalties_are_sums_over_kernels_alone():
    kernels = [PARAMETERS[path].astype(np.float64) for path in ("a/kernel", "b/kernel")]
    l1, l2 = sum(np.abs(k).sum() for k in kernels), sum(np.square(k).sum() for k in kernels) / 2
    for given, want in (({}, 0), ({"l1": 0.3}, 0.3 * l1), ({"l2": 0.2}, 0.2 * l2), ({"l1": 1.0, "l2": 1.0}, l1 + l2)):
        penalty = CrossEntropy(**given).penalty(PARAMETERS, is_kernel)
        assert penalty.shape == () and penalty.dtype == jnp.float32
        np.testing.assert_allclose(penalty, want, rtol=1e-6)
    assert CrossEntropy(l1=1.0, l2=1.0).penalty(PARAMETERS, lambda path: False) == 0


def test_the_gradient_of_l2_is_the_kernel_itself():
    gradient = jax.grad(lambda p: CrossEntropy(l2=0.5).penalty(p, is_kernel))(PARAMETERS)
    np.testing.assert_allclose(gradient["b/kernel"], 0.5 * PARAMETERS["b/kernel"], rtol=1e-6)
    assert not gradient["a/bias"].any()


def test_strengths_do_not_retrace_and_absence_costs_nothing():
    traces = []

    @jax.jit
    def run(objective):
        traces.append(1)
        return objective.losses(LOGITS, LABELS).mean() + objective.penalty(PARAMETERS, is_kernel)

    values = [float(run(as_arrays(CrossEntropy(label_smoothing=s, l1=s, l2=s)))) for s in (0.0, 0.1, 0.2)]
    assert len(traces) == 1 and len(set(values)) == 3
    assert not jax.make_jaxpr(lambda p: CrossEntropy().penalty(p, is_kernel))(PARAMETERS).eqns


@config
class Hinge(Objective):
    def losses(self, logits, labels):
        correct = jnp.take_along_axis(logits, labels[:, None], axis=1)
        return jnp.maximum(0, 1 + logits - correct).sum(1) - 1


@config
class Brier(Objective):
    takes_probabilities = True

    def losses(self, logits, labels):
        targets = labels if labels.ndim == 2 else jax.nn.one_hot(labels, logits.shape[1])
        return jnp.square(jax.nn.softmax(logits) - targets).sum(1)


def test_mixup_needs_an_objective_that_takes_probabilities(tiny):
    mixed = Augmentation(mixup=0.2)
    with pytest.raises(UserError, match=r"^augmentation\.mixup: makes probabilities .* Hinge takes classes"):
        validate(tiny(objective=Hinge(), augmentation=mixed))
    fine = (Hinge(), Augmentation()), (Hinge(), None), (Brier(), mixed), (CrossEntropy(), mixed)
    for objective, augmentation in fine:
        assert validate(tiny(objective=objective, augmentation=augmentation)).objective == objective


def test_an_objective_of_ones_own_needs_one_method():
    assert Hinge().losses(jnp.array([[3.0, 0.5, 2.5]]), jnp.array([0])) == pytest.approx(0.5)
    assert Hinge().penalty(PARAMETERS, is_kernel) == 0
