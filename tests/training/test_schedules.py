"""Schedules: equal to optax's on plain numbers, and, unlike those, good for traced ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.config import as_arrays, leaf, validate
from research.errors import UserError
from research.training import schedules
from research.training.duration import epochs, examples, percent, steps
from research.training.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseSquareRoot,
    Linear,
    OneCycle,
    StepDecay,
)

TOTAL = 200
STEPS = np.arange(TOTAL + 20)
ALL = (Constant, Cosine, Linear, StepDecay, Exponential, InverseSquareRoot, OneCycle)


def curve(schedule, total=TOTAL, steps_per_epoch=10.0):
    return np.asarray(
        jax.vmap(lambda step: schedules.multiplier(schedule, step, total, steps_per_epoch))(jnp.arange(total + 20))
    )


def with_warmup(schedule, length):
    """optax's schedule, begun `length` steps later, after a line that reaches 1 at the last step of the warm-up."""
    return np.array([(s + 1) / length if s < length else schedule(s - length) for s in STEPS])


@pytest.mark.parametrize("warmup", [None, steps(30)])
@pytest.mark.parametrize(
    ("ours", "optax_of"),
    [
        (Constant, lambda n: optax.constant_schedule(1.0)),
        (Cosine, lambda n: optax.cosine_decay_schedule(1.0, n)),
        (lambda **k: Cosine(final=0.1, **k), lambda n: optax.cosine_decay_schedule(1.0, n, alpha=0.1)),
        (Linear, lambda n: optax.linear_schedule(1.0, 0.0, n)),
        (lambda **k: Linear(final=0.3, **k), lambda n: optax.linear_schedule(1.0, 0.3, n)),
        (
            lambda **k: Exponential(final=0.02, **k),
            lambda n: optax.exponential_decay(1.0, n, 0.02, end_value=0.02),
        ),
    ],
)
def test_schedules_are_those_of_optax(ours, optax_of, warmup):
    length = 30 if warmup else 0
    want = with_warmup(optax_of(TOTAL - length), length)
    np.testing.assert_allclose(curve(ours(warmup=warmup)), want, atol=1e-6)


def test_step_decay_is_optax_piecewise_constant():
    ours = StepDecay(boundaries=(percent(25), epochs(9), steps(150)), factor=0.3)
    want = optax.piecewise_constant_schedule(1.0, {50: 0.3, 90: 0.3, 150: 0.3})
    np.testing.assert_allclose(curve(ours), [want(s) for s in STEPS], rtol=1e-5)
    assert (curve(ours) == 1).sum() == 50


def test_boundaries_of_step_decay_do_not_move_with_a_warm_up():
    plain, warmed = (curve(StepDecay(boundaries=(steps(60),), warmup=w)) for w in (None, steps(20)))
    np.testing.assert_array_equal(plain[20:], warmed[20:])


def test_one_cycle_is_that_of_optax():
    want = optax.cosine_onecycle_schedule(TOTAL, 1.0, pct_start=0.3, div_factor=25, final_div_factor=1e4)
    # optax's `final_div_factor` divides the initial rate.
    np.testing.assert_allclose(curve(OneCycle()), [want(min(s, TOTAL)) for s in STEPS], atol=1e-5)


def test_one_cycle_without_a_warm_up_only_falls():
    values = curve(OneCycle(warmup=None))
    assert values[0] == 1 and (np.diff(values[:TOTAL]) < 0).all()


def test_inverse_square_root_has_its_closed_form_and_that_of_vaswani():
    values = curve(InverseSquareRoot(timescale=steps(16)))
    np.testing.assert_allclose(values, np.sqrt(16 / (16 + STEPS)), rtol=1e-6)
    warmed = curve(InverseSquareRoot(warmup=steps(40), timescale=steps(40)))
    np.testing.assert_allclose(warmed[40:], np.sqrt(40 / STEPS[40:]), rtol=1e-6)
    np.testing.assert_allclose(warmed[:40], (STEPS[:40] + 1) / 40, rtol=1e-6)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("warmup", [None, steps(1), epochs(2), percent(5), percent(100), steps(1000)])
def test_multiples_stay_in_0_to_1_and_a_warm_up_wastes_no_step(kind, warmup):
    values = curve(kind(warmup=warmup))
    assert values.dtype == np.float32
    assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1 + 1e-6
    assert values[0] > 0
    if warmup == percent(5) and kind is not OneCycle:
        np.testing.assert_allclose(values[:10], np.arange(1, 11) / 10, rtol=1e-6)


@pytest.mark.parametrize("kind", ALL)
def test_a_changed_leaf_or_step_does_not_retrace_and_is_the_eager_value(kind):
    traces = []

    @jax.jit
    def run(schedule, step):
        traces.append(1)
        return schedules.multiplier(schedule, step, TOTAL, 10.0)

    names = [name for name in ("final", "factor", "initial") if hasattr(kind(), name)]
    for value in (0.5, 0.25):
        schedule = kind(**dict.fromkeys(names, value))
        for step in (0, 3, 77, 199):
            got = run(as_arrays(schedule), np.uint32(step))
            np.testing.assert_allclose(got, schedules.multiplier(schedule, step, TOTAL, 10.0), rtol=2e-6)
    assert len(traces) == 1


def test_leaves_may_be_stacked():
    finals = [0.0, 0.5, 1.0]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *[as_arrays(Cosine(final=f, warmup=steps(5))) for f in finals])
    together = jax.vmap(lambda schedule: schedules.multiplier(schedule, 120, TOTAL, 10.0))(stacked)
    alone = [schedules.multiplier(Cosine(final=f, warmup=steps(5)), 120, TOTAL, 10.0) for f in finals]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_durations_in_examples_are_refused():
    with pytest.raises(UserError, match="schedule: '100 examples'"):
        curve(Cosine(warmup=examples(100)))


def test_defaults_are_valid_and_a_schedule_of_ones_own_needs_one_method():
    for kind in ALL:
        validate(kind())

    @schedules.config
    class Halved(schedules.Schedule):
        warmup: None = None
        part: float = leaf(0.5)

        def after_warmup(self, step, total, in_steps):
            return jnp.where(step < total / 2, 1.0, self.part)

    np.testing.assert_array_equal(curve(Halved())[[0, 99, 100]], [1, 1, 0.5])
