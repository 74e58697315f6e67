"""What the rules of a partition make of a step: the optimizer, learning rate and clipping of each parameter.

Where no rule says anything of its own, all of this is the experiment's optimizer, schedule and `clip`, and costs what
they cost.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import ArrayLike

from research.ops.sums import sum_of_squares
from research.parameters.partition import Rule, Treatment
from research.training import schedules
from research.training.experiment import Experiment
from research.training.optimizers import Optimizer, by_group, transformation_for
from research.training.plan import Plan
from research.training.state import Parameters


def transformation(plan: Plan, experiment: Experiment) -> optax.GradientTransformation:
    """Gradients of the trained parameters to directions, each by the optimizer of its rule."""
    rules, treatments, stacks = experiment.rules.rules, dict(plan.layout.trained), dict(plan.layout.stacks)

    def decayed(path: str) -> bool | ArrayLike:
        treatment = treatments[path]
        share = rules[treatment.rule].decay
        return share if treatment.decayed and share is not None else treatment.decayed

    def by_optimizer_of(number: str) -> optax.GradientTransformation:
        optimizer = (rules[int(number)].optimizer if number else None) or experiment.optimizer
        return transformation_for(optimizer, decayed, stacks)

    stands_alone = [rule.optimizer is not None or rule.after is not None for rule in rules]
    if not any(stands_alone):
        return by_optimizer_of("")
    numbers = {path: str(t.rule) if stands_alone[t.rule] else "" for path, t in treatments.items()}
    return by_group(lambda path, _: numbers[path], by_optimizer_of)


def is_decayed(plan: Plan) -> dict[str, bool]:
    """Whether weight decay, L1 and L2 apply to each trained parameter."""
    return {path: treatment.decayed for path, treatment in plan.layout.trained}


def learning_rate(plan: Plan, experiment: Experiment, step: ArrayLike, rule: Rule | None = None) -> jax.Array:
    """The learning rate of a step, that of a rule's own optimizer and schedule if it has them; before any multiple."""
    optimizer: Optimizer = (rule and rule.optimizer) or experiment.optimizer
    schedule = (rule and rule.schedule) or experiment.schedule
    multiplier = schedules.multiplier(schedule, step, plan.steps, plan.steps_per_epoch(experiment))
    return optimizer.learning_rate * multiplier


def learning_rates(plan: Plan, experiment: Experiment, step: ArrayLike) -> dict[str, jax.Array]:
    """The learning rate of each trained parameter at a step: (), or of a stack whose blocks differ (blocks,)."""
    rules = experiment.rules.rules
    base = learning_rate(plan, experiment, step)
    own = {
        i: learning_rate(plan, experiment, step, rule)
        for i, rule in enumerate(rules)
        if rule.optimizer is not None or rule.schedule is not None
    }
    treatments, found = dict(plan.layout.trained), {}
    for path in plan.trainable:
        treatment = treatments[path]
        rate, multiple = own.get(treatment.rule, base), _multiple(treatment, rules)
        found[path] = rate if multiple is None else rate * multiple
    return found


def _multiple(treatment: Treatment, rules: tuple[Rule, ...]) -> ArrayLike | None:
    """What the rate of a parameter is multiplied by; of a stack whose blocks differ, (blocks,)."""

    def of_block(number: int, height: int) -> ArrayLike | None:
        rule = rules[number]
        by_depth = None if rule.by_depth is None else rule.by_depth**height
        if by_depth is None or rule.learning_rate is None:
            return rule.learning_rate if by_depth is None else by_depth
        return rule.learning_rate * by_depth

    pairs = list(zip(treatment.rules, treatment.heights, strict=True))
    differ = any(rules[number].by_depth is not None for number, _ in pairs) or len(set(treatment.rules)) > 1
    if len(pairs) == 1 or not differ:
        return of_block(*pairs[0])
    each = [of_block(*pair) for pair in pairs]
    return jnp.stack([jnp.float32(1.0 if multiple is None else multiple) for multiple in each])


def scaled(rates: dict[str, jax.Array], direction: Parameters) -> Parameters:
    """The update: each direction times its rate, against it."""
    return {
        path: -jnp.reshape(rates[path], (-1,) + (1,) * (value.ndim - 1)) * value
        if rates[path].ndim
        else -rates[path] * value
        for path, value in direction.items()
    }


def clipped(plan: Plan, experiment: Experiment, gradient: Parameters, norm: jax.Array) -> Parameters:
    """The gradient with its norm, or that of the parameters of a rule, no larger than it may be."""
    if experiment.clip is not None:
        return _shortened(gradient, experiment.clip, norm)
    treatments, found = dict(plan.layout.trained), dict(gradient)
    for number, rule in enumerate(experiment.rules.rules):
        members = {path: value for path, value in gradient.items() if treatments[path].rule == number}
        if rule.clip is not None and members:
            squares = sum(map(sum_of_squares, members.values()))
            found |= _shortened(members, rule.clip, jnp.sqrt(squares))
    return found


def _shortened(gradient: Parameters, most: ArrayLike, norm: jax.Array) -> Parameters:
    factor = jnp.minimum(1.0, most / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))
    return jax.tree.map(lambda g: g * factor, gradient)
