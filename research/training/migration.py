"""A run that goes on with another partition: what was trained keeps its moments, what is new begins as in a new run.

    experiment = apart(before, plan, experiment)    # what is new to training has rules of its own
    state, frozen = migrated(before, make_plan(experiment, loaded), experiment)

Parameters, averages and moments are carried over by path, block by block where they are stacked: another partition may
cut stacks elsewhere. Nothing begins anew, whatever a rule says of that; what is frozen from now on stays what training
has made of it.

An optimizer corrects its moments by the steps that it counts. What is new to it must not share the count of what goes
on: Adam's steps would be up to six times too long for hundreds of steps. So it begins `after` the steps so far, as in
gradual unfreezing, which the config of the new run then says.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research.errors import UserError
from research.parameters import Partition, but, paths
from research.parameters.selectors import Matching, Others, is_adapter
from research.training import groups, phases, step
from research.training.duration import steps
from research.training.experiment import Experiment
from research.training.plan import Plan, boundary
from research.training.state import Parameters, State, as_flat, from_flat
from research.training.step import SOURCE


class Before(NamedTuple):
    """Where a run had come."""

    plan: Plan
    """Of the phase that it was in."""
    experiment: Experiment
    state: State
    frozen: Parameters
    """What was frozen when it began."""


def apart(before: Before, plan: Plan, experiment: Experiment) -> Experiment:
    """The experiment, whose plan it is, with rules of their own for what has not been trained before, if some has been.

    Raises UserError for a rule of adapters of which some were trained and others were not.
    """
    trained, now = set(_by_view(before.plan, before.state.trainable)), int(before.state.step)
    members = _members_of_rules(plan, experiment)
    rules, found = experiment.rules.rules, []
    if not any(rule.group == "train" and trained.intersection(members[i]) for i, rule in enumerate(rules)):
        return experiment
    for i, rule in enumerate(rules):
        new = [path for path in members[i] if path not in trained]
        if rule.group == "freeze" or not new or plan.starts[i] > now:
            found.append(rule)
        elif len(new) == len(members[i]):
            found.append(dataclasses.replace(rule, after=steps(now)))
        elif any(map(is_adapter, new)):
            raise UserError(
                f"partition: {rule} has adapters that were trained and others that were not; give each a rule"
            )
        else:
            own = Matching(pattern="|".join(map(re.escape, new)))
            rest = rule.pattern if isinstance(rule.pattern, Others) else but(rule.pattern, own)
            found.append(dataclasses.replace(rule, pattern=rest))
            found.append(dataclasses.replace(rule, pattern=own, after=steps(now)))
    partition = Partition(rules=tuple(found))
    if experiment.finetuning is None:
        return dataclasses.replace(experiment, partition=partition)
    return dataclasses.replace(experiment, finetuning=dataclasses.replace(experiment.finetuning, partition=partition))


def _members_of_rules(plan: Plan, experiment: Experiment) -> dict[int, list[str]]:
    """The paths of the parameters that each rule claims, those of blocks where they are stacked."""
    last = phases.last_plan(plan)
    state, frozen = step.state_shapes(last, boundary(experiment))
    stored = state.trainable | {path: frozen[path] for path in last.frozen}
    of = dict(plan.layout.frozen) | {path: treatment.rules for path, treatment in plan.layout.trained}
    members: dict[int, list[str]] = {i: [] for i in range(len(experiment.rules.rules))}
    for path, (leaf, index) in paths.views(stored, plan.stacks_of(stored)).items():
        members[of[leaf][index or 0]].append(path)
    return members


def migrated(before: Before, plan: Plan, experiment: Experiment) -> tuple[State, Parameters]:
    """The state, and what is frozen when the run begins anew, as the experiment's plan wants them."""
    leaves, state = boundary(experiment), before.state
    phase = phases.plan_at(plan, int(state.step))
    forms, _ = step.state_shapes(phase, leaves)
    _, frozen_forms = step.state_shapes(plan, leaves)
    beginning = {path: value for path, value in before.frozen.items() if not path.startswith(SOURCE)}
    now = _by_view(before.plan, beginning | state.trainable | state.model_state)
    source = beginning | {p.removeprefix(SOURCE): v for p, v in before.frozen.items() if p.startswith(SOURCE)}
    source = _by_view(before.plan, source)
    close = {path.removeprefix(SOURCE): form for path, form in frozen_forms.items() if path.startswith(SOURCE)}
    kept = {path: form for path, form in frozen_forms.items() if not path.startswith(SOURCE)}
    frozen = _stored(plan, kept, now)
    frozen |= {SOURCE + path: value for path, value in _stored(plan, close, now | source).items()}
    parts = {name: _stored(phase, getattr(forms, name), now) for name in ("trainable", "model_state")}
    average = None
    if forms.average is not None:
        averages = now if state.average is None else now | _averages(before)
        average = {name: _stored(phase, forms.average[name], averages) for name in parts}
    return State(
        step=state.step,
        optimizer_state=_optimizer_state(before, phase, experiment, parts["trainable"]),
        average=average,
        skipped=state.skipped,
        skipped_in_row=state.skipped_in_row,
        **parts,
    ), frozen


def _averages(before: Before) -> dict[str, Any]:
    return {
        path: value for part in before.state.average.values() for path, value in _by_view(before.plan, part).items()
    }


def _by_view(plan: Plan, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays as a plan stores them, by the paths of blocks."""
    return paths.unstacked(arrays, plan.stacks_of(arrays))


def _stored(plan: Plan, forms: Mapping[str, Any], by_view: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays by the paths of blocks as a plan stores them; copies, since a state is donated."""
    members: dict[str, list[Any]] = {}
    stacked = set()
    for path, (leaf, index) in paths.views(forms, plan.stacks_of(forms)).items():
        members.setdefault(leaf, []).append(by_view[path])
        stacked |= {leaf} if index is not None else set()
    return {leaf: jnp.stack(each) if leaf in stacked else jnp.copy(each[0]) for leaf, each in members.items()}


# ---------------------------------------------------------------------------------------------------------------------
# The optimizer's state


class _Entry(NamedTuple):
    """One array of an optimizer's state."""

    key: str
    part: str
    """Of the state, which may have one for each of several optimizers."""
    kind: str
    """What it is: mu, nu, count."""
    path: str | None
    """Of the parameter that it is of, if it is of one."""


def _entries(flat: Mapping[str, Any], trainable: Mapping[str, Any]) -> Iterator[_Entry]:
    for key in flat:
        path = max((path for path in trainable if key.endswith(f"/{path}")), key=len, default=None)
        around = key if path is None else key.removesuffix(f"/{path}")
        part, _, kind = around.rpartition("/")
        yield _Entry(key, part, kind, path)


def _optimizer_state(before: Before, plan: Plan, experiment: Experiment, trainable: Parameters) -> Any:
    """A new one, with what the old one has for parameters that were trained before."""
    fresh = jax.jit(groups.transformation(plan, boundary(experiment)).init)(trainable)
    found, old = as_flat(fresh), as_flat(before.state.optimizer_state)
    moments: dict[str, dict[str, Any]] = {}
    for entry in _entries(old, before.state.trainable):
        if entry.path is not None and old[entry.key].shape == before.state.trainable[entry.path].shape:
            moments.setdefault(entry.kind, {})[entry.path] = old[entry.key]
    known = {kind: _by_view(before.plan, arrays) for kind, arrays in moments.items()}
    counts = _counts(before)
    for entry in list(_entries(found, trainable)):
        new = found[entry.key]
        if entry.path is None:
            found[entry.key] = _count(new, counts.get(entry.kind, {}), _members(found, plan, trainable, entry.part))
        elif new.shape == trainable[entry.path].shape:
            own = _by_view(plan, {entry.path: new}) | known.get(entry.kind, {})
            found[entry.key] = _stored(plan, {entry.path: new}, own)[entry.path]
    return from_flat(found, fresh)


def _members(flat: Mapping[str, Any], plan: Plan, trainable: Parameters, part: str) -> dict[str, paths.View]:
    """Where the parameters of a part of an optimizer's state are stored, by the paths of blocks."""
    entries = _entries(flat, trainable)
    members = {entry.path: trainable[entry.path] for entry in entries if entry.path is not None and entry.part == part}
    return paths.views(members, plan.stacks_of(members))


def _counts(before: Before) -> dict[str, dict[str, Any]]:
    """What an optimizer counted for each parameter, {kind: {path of a block's: number}}."""
    flat, trainable = as_flat(before.state.optimizer_state), before.state.trainable
    found: dict[str, dict[str, Any]] = {}
    for entry in _entries(flat, trainable):
        if entry.path is None:
            value = flat[entry.key]
            for path, (_, index) in _members(flat, before.plan, trainable, entry.part).items():
                found.setdefault(entry.kind, {})[path] = value if index is None or not value.ndim else value[index]
    return found


def _count(new: jax.Array, known: Mapping[str, Any], members: Mapping[str, paths.View]) -> jax.Array:
    """The most that was counted for any of the parameters that share a count; of a stack, block by block."""
    if not new.ndim:
        return jnp.stack([new, *(known[path] for path in members if path in known)]).max()
    for index in range(len(new)):
        several = [known[path] for path, view in members.items() if view.index == index and path in known]
        new = new.at[index].max(jnp.stack(several).max()) if several else new
    return new
