"""Unfreezing on a schedule: a run in phases, in each of which more is trained, and the rest costs what frozen costs.

    Partition(train("head/.*"), train("stage_1/.*", after=epochs(2)), train(others(), after=epochs(4)))

Phases differ in what is trained alone: parameters are stored for all of them, and those of a rule that begins later
have an optimizer state of their own, with a count of steps of its own. So what is trained already goes on as if nothing
had happened, moments and all, and what is new begins as in a new run.

A checkpoint has the parameters that are trained in its phase; the others are among those that were frozen when the run
began.
"""

import dataclasses
from collections.abc import Collection

import jax.numpy as jnp

from research.training import groups
from research.training.experiment import Experiment
from research.training.plan import Plan, in_phase
from research.training.state import Parameters, State
from research.training.step import SOURCE


def plan_at(plan: Plan, step: int) -> Plan:
    """The plan of the phase that takes the step which comes after `step` steps."""
    return in_phase(plan, step)


def plan_of(plan: Plan, step: int, arrays: Collection[str]) -> Plan:
    """The plan of the phase that a checkpoint of a step is of, which holds arrays by these names.

    That is the phase which took the step; or, where a run was stopped as another one began, that one.
    """
    before, after = plan_at(plan, step - 1), plan_at(plan, step)
    held = {name for name in arrays if name.startswith("trainable/")}
    return after if held == {f"trainable/{path}" for path in after.trainable} else before


def last_plan(plan: Plan) -> Plan:
    """The plan of the last phase, in which most is trained."""
    return in_phase(plan, plan.steps)


def all_plans(plan: Plan) -> list[Plan]:
    """The plans of all phases, from that of the first."""
    found = [plan]
    while found[-1].until < plan.steps:
        found.append(in_phase(plan, found[-1].until))
    return found


def enter(plan: Plan, experiment: Experiment, state: State, frozen: Parameters) -> tuple[State, Parameters]:
    """A state and what is frozen, from the phase before, as the phase of the plan goes on with them.

    `frozen` may hold more than was frozen last: what was at the beginning.
    """
    known = {**frozen, **state.trainable, **state.model_state}
    new = tuple(path for path in plan.trainable if path not in state.trainable)
    if not new:
        return state, remaining(plan, experiment, frozen)
    trainable = {path: known[path] if path in state.trainable else jnp.copy(known[path]) for path in plan.trainable}
    moving = (path for path in plan.state if path not in plan.fixed)
    model_state = {path: known[path] if path in state.model_state else jnp.copy(known[path]) for path in moving}
    average = state.average
    if average is not None:
        average = {
            "trainable": {path: average["trainable"].get(path, jnp.copy(value)) for path, value in trainable.items()},
            "model_state": {p: average["model_state"].get(p, jnp.copy(value)) for p, value in model_state.items()},
        }
    fresh = groups.transformation(plan, experiment).init(trainable)
    entered = dataclasses.replace(
        state,
        trainable=trainable,
        model_state=model_state,
        optimizer_state={**fresh, **state.optimizer_state},
        average=average,
    )
    return entered, remaining(plan, experiment, frozen)


def remaining(plan: Plan, experiment: Experiment, frozen: Parameters) -> Parameters:
    """Of what was frozen when the run began, or in a phase before, what no step of this phase changes."""
    kept = {path: frozen[path] for path in (*plan.frozen, *plan.fixed)}
    if plan.stays_close(experiment):
        close = (path for path in plan.trainable if path in plan.begun)
        kept |= {SOURCE + path: frozen[SOURCE + path] if SOURCE + path in frozen else frozen[path] for path in close}
    return kept


def widened(plan: Plan, used: tuple[Parameters, Parameters], frozen: Parameters) -> tuple[Parameters, Parameters]:
    """Parameters and model state to use, from a phase before, with what was frozen then and is not in the plan's."""
    trainable, model_state = used
    moving = (path for path in plan.state if path not in plan.fixed)
    return (
        {path: trainable[path] if path in trainable else frozen[path] for path in plan.trainable},
        {path: model_state[path] if path in model_state else frozen[path] for path in moving},
    )


def to_use(plan: Plan, state: State, frozen: Parameters) -> tuple[State, Parameters]:
    """What there is to use of a later phase, in the places that the first phase, whose plan it is, has for it.

    Optimizer state and what there is to stay close to are left out: it is there to be evaluated, not to go on with.
    """
    trainable, model_state = state.used()
    known = {**frozen, **trainable, **model_state}
    used = dataclasses.replace(
        state,
        trainable={path: known[path] for path in plan.trainable},
        model_state={path: known[path] for path in plan.state if path not in plan.fixed},
        optimizer_state=(),
        average=None,
    )
    return used, {path: known[path] for path in (*plan.frozen, *plan.fixed)}
