"""The learning rate over time, as a multiple in [0, 1] of the optimizer's own.

Every schedule may rise from near 0 to 1 over a warm-up before it takes its course over the steps that remain:

    Cosine(warmup=percent(5), final=0.01)
    multiplier(schedule, step, total_steps=1000, steps_per_epoch=22.5)

Plain functions of a step that may be traced, with leaves that may be traced, which several schedules of optax are not.
During a warm-up of w steps, step s (from 0) has (s + 1) / w: no step is wasted on a rate of 0, and the last has 1.
A schedule that falls to `final` would have it at step `total_steps`, the first that is not taken.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from research.config import config, leaf, structure
from research.parameters.partition import OwnSchedule
from research.training.duration import Duration, percent, to_scheduled_steps

InSteps = Callable[[Duration], int]


class Schedule(OwnSchedule):
    """Base of the configs of schedules. A subclass has a field `warmup` and says how the rate goes on after it."""

    warmup: Duration | None

    def multiplier(self, step: Float[Array, ""], total: int, in_steps: InSteps) -> Float[Array, ""]:
        """The multiple at a step, of `total` steps; `in_steps` turns durations into steps."""
        if self.warmup is None:
            return self.after_warmup(step, total, in_steps)
        warmup = in_steps(self.warmup)
        later = self.after_warmup(jnp.maximum(step - warmup, 0), max(total - warmup, 1), in_steps)
        return jnp.where(step < warmup, (step + 1) / warmup, later)

    def after_warmup(self, step: Float[Array, ""], total: int, in_steps: InSteps) -> Float[Array, ""]:
        """The multiple `step` steps after the warm-up, after which there are `total` steps."""
        raise NotImplementedError(f"{type(self).__name__} has no after_warmup()")


def multiplier(schedule: Schedule, step: ArrayLike, total_steps: int, steps_per_epoch: float) -> Float[Array, ""]:
    """What the learning rate is multiplied by at a step (from 0): a float32 scalar in [0, 1].

    Raises UserError for durations in examples.
    """

    def in_steps(duration: Duration) -> int:
        return to_scheduled_steps(duration, steps_per_epoch=steps_per_epoch, total=total_steps)

    # Steps up to 2**24 (16 million) are exact in float32, and further ones to 1 in 16 million.
    step = jnp.asarray(step).astype(jnp.float32)
    return jnp.asarray(schedule.multiplier(step, total_steps, in_steps), jnp.float32)


def _warmup() -> Any:
    return structure(None, "rise to the full rate over this long at the start")


def _progress(step, total):
    """From 0 at the first step to 1 at `total`, and 1 from there on."""
    return jnp.clip(step / total, 0, 1)


@config
class Constant(Schedule):
    """The same rate throughout."""

    warmup: Duration | None = _warmup()

    def after_warmup(self, step, total, in_steps):
        return jnp.ones_like(step)


@config
class Cosine(Schedule):
    """Half a cosine from 1 to `final` (Loshchilov and Hutter, 2017, without restarts)."""

    warmup: Duration | None = _warmup()
    final: float = leaf(0.0, "multiple at the end", within="[0, 1]")

    def after_warmup(self, step, total, in_steps):
        return self.final + (1 - self.final) * _fall(_progress(step, total))


@config
class Linear(Schedule):
    """A straight line from 1 to `final`."""

    warmup: Duration | None = _warmup()
    final: float = leaf(0.0, "multiple at the end", within="[0, 1]")

    def after_warmup(self, step, total, in_steps):
        return 1 + (self.final - 1) * _progress(step, total)


@config
class StepDecay(Schedule):
    """Multiplied by `factor` at each of some moments, which are counted from the start of training."""

    warmup: Duration | None = _warmup()
    boundaries: tuple[Duration, ...] = structure((percent(50), percent(75)), "when the rate falls")
    factor: float = leaf(0.1, "what it is multiplied by each time", within="[0, 1]")

    def after_warmup(self, step, total, in_steps):
        warmup = 0 if self.warmup is None else in_steps(self.warmup)
        fallen = sum((step + warmup >= in_steps(boundary) for boundary in self.boundaries), start=jnp.zeros(()))
        return jnp.asarray(self.factor) ** fallen


@config
class Exponential(Schedule):
    """Falls by the same factor every step, from 1 to `final`."""

    warmup: Duration | None = _warmup()
    final: float = leaf(0.01, "multiple at the end", within="(0, 1]")

    def after_warmup(self, step, total, in_steps):
        return jnp.asarray(self.final) ** _progress(step, total)


@config
class InverseSquareRoot(Schedule):
    """sqrt(t / (t + steps since the warm-up)), which needs no end (Zhai et al., 2022, for t the `timescale`).

    With a timescale equal to the warm-up it is the schedule of Vaswani et al. (2017).
    """

    warmup: Duration | None = _warmup()
    timescale: Duration = structure(percent(10), "how long until the rate has fallen by a factor of 1.4")

    def after_warmup(self, step, total, in_steps):
        timescale = in_steps(self.timescale)
        return jnp.sqrt(timescale / (timescale + step))


@config
class OneCycle(Schedule):
    """Half a cosine up from `initial` over the warm-up, and half a cosine down to `final` (Smith, 2018)."""

    warmup: Duration | None = structure(percent(30), "how long the rate rises; None is from the full rate down")
    initial: float = leaf(0.04, "multiple at the start", within="[0, 1]")
    final: float = leaf(4e-6, "multiple at the end", within="[0, 1]")

    def multiplier(self, step, total, in_steps):
        warmup = 0 if self.warmup is None else in_steps(self.warmup)
        rising = 1 + (self.initial - 1) * _fall(_progress(step, max(warmup, 1)))
        falling = self.final + (1 - self.final) * _fall(_progress(step - warmup, max(total - warmup, 1)))
        return jnp.where(step < warmup, rising, falling)


def _fall(progress):
    """Half a cosine from 1 to 0."""
    return (1 + jnp.cos(jnp.pi * progress)) / 2
