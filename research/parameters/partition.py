"""Which parameters belong to which group: a partition is a list of rules, and every parameter meets exactly one.

    Partition(rules=(freeze("stage_.*"), train("(dense|head).*")))

A rule is a regular expression that must match a parameter's whole path. A rule that matches nothing, a parameter that
no rule matches and one that two rules match are errors, all told at once: a typo cannot freeze or train in silence.
From the groups follow two flat dicts, and from these everything else: gradients, optimizer state and averages are of
`trainable` alone, and `frozen` is never written.

    chosen = groups(partition, parameters)                  # {"stage_0/convolution_0/kernel": "freeze", ...}
    trainable, frozen = split(parameters, chosen)
    merge(trainable, frozen) == parameters
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from research.config import config, structure
from research.errors import UserError, did_you_mean

Group = Literal["train", "freeze"]

SHOWN = 8  # paths in one line of an error


@config
class Rule:
    """One rule of a partition: the parameters whose whole path matches the pattern, and what becomes of them."""

    pattern: str = structure(".*", "regular expression for whole paths")
    group: Group = structure("train", "whether these parameters are trained or frozen")

    def problems(self) -> Iterator[tuple[str, str]]:
        try:
            re.compile(self.pattern)
        except re.error as error:
            yield "pattern", f"'{self.pattern}' is no regular expression: {error}"

    def __str__(self) -> str:
        return f"{self.group}('{self.pattern}')"


def train(pattern: str) -> Rule:
    """Train the parameters whose whole path matches."""
    return Rule(pattern=pattern, group="train")


def freeze(pattern: str) -> Rule:
    """Keep the parameters whose whole path matches as they are."""
    return Rule(pattern=pattern, group="freeze")


@config
class Partition:
    """Which parameters are trained and which are frozen; by default all are trained."""

    rules: tuple[Rule, ...] = structure((train(".*"),), "rules of which every parameter meets exactly one")


def groups(partition: Partition, paths: Iterable[str]) -> dict[str, Group]:
    """The group of each parameter, {path: group}, in the order of `paths`.

    Raises UserError with a line for each rule that is no regular expression or matches nothing, for the parameters
    that no rule claims, for each two rules that claim the same parameters, and if nothing is left to train. What is
    unclaimed is told only where each rule matches something: a rule that does not may be meant for it.
    """
    paths, rules = list(paths), partition.rules
    problems = [
        f"partition.rules.{i}.{field}: {text}" for i, rule in enumerate(rules) for field, text in rule.problems()
    ]
    if problems:
        raise UserError(*problems)
    claims = {path: [i for i, rule in enumerate(rules) if re.fullmatch(rule.pattern, path)] for path in paths}

    dead = [rule for i, rule in enumerate(rules) if not any(i in claimed for claimed in claims.values())]
    for rule in dead:
        problems.append(f"partition: {rule} matches no parameter's whole path{_nearest(rule.pattern, paths)}")
    if not dead and (unclaimed := [path for path, claimed in claims.items() if not claimed]):
        problems.append(f"partition: no rule for {_listed(unclaimed)}")
    for i, j in itertools.combinations(range(len(rules)), 2):
        if shared := [path for path, claimed in claims.items() if i in claimed and j in claimed]:
            problems.append(f"partition: {rules[i]} and {rules[j]} both match {_listed(shared)}")
    if not dead and not any(rules[i].group == "train" for claimed in claims.values() for i in claimed):
        problems.append("partition: nothing is left to train")
    if problems:
        raise UserError(*problems)
    return {path: rules[claimed[0]].group for path, claimed in claims.items()}


def split(parameters: Mapping[str, Any], groups: Mapping[str, Group]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters as two flat dicts, (trainable, frozen). Raises KeyError for a parameter without a group."""
    trainable = {path: leaf for path, leaf in parameters.items() if groups[path] == "train"}
    frozen = {path: leaf for path, leaf in parameters.items() if groups[path] != "train"}
    return trainable, frozen


def merge(trainable: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters in one flat dict. Raises ValueError for a path that is in both."""
    if both := trainable.keys() & frozen.keys():
        raise ValueError(f"{_listed(sorted(both))} cannot be trainable and frozen at once")
    return {**trainable, **frozen}


def is_kernel(path: str) -> bool:
    """Whether weight decay, L1 and L2 apply by default: to kernels and embeddings, not to biases and scales."""
    return path.rpartition("/")[-1] in ("kernel", "embedding")


def _nearest(pattern: str, paths: list[str]) -> str:
    """The nearest of what could have been meant: a path, or all that lies under a layer."""
    layers = {path[: slash.start()] for path in paths for slash in re.finditer("/", path)}
    return did_you_mean(pattern, [*paths, *(f"{layer}/.*" for layer in layers)])


def _listed(paths: list[str]) -> str:
    more = len(paths) - SHOWN
    return ", ".join(paths[:SHOWN]) + (f" and {more} more" if more > 0 else "")
