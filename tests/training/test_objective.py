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
from research.spec import Spec
from research.training.objective import CrossEntropy, MaskedToken, NextToken, Objective, example_losses

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


# ---------------------------------------------------------------------------------------------------------------------
# Language

WORDS = Spec((6,), 7, ("",) * 7, 7)
TEXTS = RNG.integers(1, 7, (4, 6)).astype(np.int32)
KEYS = jax.random.split(jax.random.key(0), 4)
TOKEN_LOGITS = (RNG.normal(size=(4, 6, 7)) * 4).astype(np.float32)


def in_numpy(logits, targets):
    """The loss of each token that counts, in float64, and 0 of the others."""
    log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    return np.array(
        [[-log_p[i, j, t] if t >= 0 else 0.0 for j, t in enumerate(row)] for i, row in enumerate(np.asarray(targets))]
    )


def test_next_tokens_are_those_one_to_the_right():
    inputs, targets = NextToken().prepare(KEYS, jnp.asarray(TEXTS), jnp.zeros(4), WORDS)
    np.testing.assert_array_equal(inputs, TEXTS)
    np.testing.assert_array_equal(targets[:, :-1], TEXTS[:, 1:])
    assert (targets[:, -1] == -1).all()
    losses = NextToken().losses(TOKEN_LOGITS, targets)
    np.testing.assert_allclose(losses, in_numpy(TOKEN_LOGITS, targets), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(example_losses(losses, targets), in_numpy(TOKEN_LOGITS, targets).sum(1) / 5, rtol=1e-5)


def test_only_masked_tokens_count():
    inputs, targets = MaskedToken(rate=0.5).prepare(KEYS, jnp.asarray(TEXTS), jnp.zeros(4), WORDS)
    is_masked = np.asarray(targets) >= 0
    assert 0 < is_masked.sum() < is_masked.size
    np.testing.assert_array_equal(np.asarray(targets)[is_masked], TEXTS[is_masked])
    np.testing.assert_array_equal(np.asarray(inputs)[~is_masked], TEXTS[~is_masked])
    losses = MaskedToken().losses(TOKEN_LOGITS, targets)
    expected = in_numpy(TOKEN_LOGITS, targets)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    means = example_losses(losses, targets)
    np.testing.assert_allclose(means, expected.sum(1) / np.maximum(1, is_masked.sum(1)), rtol=1e-5)
    assert example_losses(jnp.zeros((1, 6)), jnp.full((1, 6), -1)) == 0


def test_masks_are_as_frequent_as_berts():
    spec = Spec((500,), 50, ("",) * 50, 50)
    tokens = jnp.full((200, 500), 7, jnp.int32)
    keys = jax.random.split(jax.random.key(1), 200)
    inputs, targets = MaskedToken(rate=0.15, mask=3).prepare(keys, tokens, jnp.zeros(200), spec)
    is_chosen = np.asarray(targets) >= 0
    assert is_chosen.mean() == pytest.approx(0.15, abs=0.004)
    shown = np.bincount(np.asarray(inputs)[is_chosen], minlength=50) / is_chosen.sum()
    assert shown[3] == pytest.approx(0.8 + 0.1 / 50, abs=0.015) and shown[7] == pytest.approx(0.1 + 0.1 / 50, abs=0.01)
    others = np.delete(shown, [3, 7])
    assert (others > 0).all() and others.sum() == pytest.approx(0.1 * 48 / 50, abs=0.01)


def test_a_mask_follows_from_the_key_of_its_example_alone_and_spares_what_is_kept():
    objective = MaskedToken(rate=0.5, kept=(1, 2))
    inputs, targets = objective.prepare(KEYS, jnp.asarray(TEXTS), jnp.zeros(4), WORDS)
    alone, _ = objective.prepare(KEYS[2:3], jnp.asarray(TEXTS[2:3]), jnp.zeros(1), WORDS)
    np.testing.assert_array_equal(alone[0], inputs[2])
    assert not np.isin(targets, (1, 2)).any() and (np.asarray(targets) >= 3).any()
    everything, _ = MaskedToken(rate=1.0).prepare(KEYS, jnp.asarray(TEXTS), jnp.zeros(4), WORDS)
    traced = jax.jit(lambda o: o.prepare(KEYS, jnp.asarray(TEXTS), jnp.zeros(4), WORDS)[0])
    np.testing.assert_array_equal(traced(as_arrays(MaskedToken(rate=1.0))), everything)


@pytest.mark.peers
def test_losses_of_tokens_and_their_gradients_are_those_of_torch():
    import torch

    _, targets = MaskedToken(rate=0.5).prepare(KEYS, jnp.asarray(TEXTS), jnp.zeros(4), WORDS)
    logits = torch.tensor(TOKEN_LOGITS, requires_grad=True)
    want = torch.nn.functional.cross_entropy(
        logits.permute(0, 2, 1), torch.tensor(np.asarray(targets, np.int64)), ignore_index=-1, reduction="none"
    )
    want.sum().backward()
    np.testing.assert_allclose(MaskedToken().losses(TOKEN_LOGITS, targets), want.detach().numpy(), rtol=2e-6, atol=1e-7)
    gradient = jax.grad(lambda x: MaskedToken().losses(x, targets).sum())(jnp.asarray(TOKEN_LOGITS))
    np.testing.assert_allclose(gradient, logits.grad.numpy(), atol=1e-6)


def test_what_is_no_language_is_refused():
    pictures = Spec((8, 8, 1), 3, ("a", "b", "c"))
    for objective in (NextToken(), MaskedToken()):
        name = type(objective).__name__
        with pytest.raises(UserError, match=rf"^objective: {name} is about tokens \(positions,\); these are numbers"):
            objective.prepare(KEYS, jnp.zeros((4, 8, 8, 1)), jnp.zeros(4), pictures)
        with pytest.raises(UserError, match=rf"^objective: {name} needs logits for each token.* gives \(12, 5\)"):
            objective.losses(jnp.asarray(LOGITS), jnp.zeros((12, 6), jnp.int32))
    with pytest.raises(UserError, match=r"^objective: CrossEntropy is about one class .* logits \(4, 6, 7\)"):
        CrossEntropy().losses(jnp.asarray(TOKEN_LOGITS), jnp.zeros(4, jnp.int32))
    for field in ({"mask": 7}, {"kept": (3, 7)}):
        with pytest.raises(UserError, match=rf"^objective\.{next(iter(field))}: 7 is no token; there are 7, from 0"):
            MaskedToken(**field).prepare(KEYS, jnp.asarray(TEXTS), jnp.zeros(4), WORDS)
