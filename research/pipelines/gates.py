"""A gate: what has to hold of a result before it goes on, in words.

    gate = read_gate("accuracy >= 97 % on test, at most 1e6 parameters")
    judge(gate, figures)        == [Judged("accuracy on test >= 0.97", 0.981, True), ...]

A condition is NAME >= NUMBER, or the same with >, <= and <, or "at least NUMBER NAME" and "at most NUMBER NAME". What
is measured on examples is measured on those of the validation split, unless it says "on test": a gate decides, and what
was decided by test examples is no longer judged by them.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from research.errors import UserError, did_you_mean

COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
SPLITS = ("validation", "test", "train")
NUMBER = r"(?P<number>[-+]?[\d_,]*\.?\d+(?:e[-+]?\d+)?)\s*(?P<percent>%?)"
NAME, ON = r"(?P<name>[A-Za-z_][\w/.-]*)", r"(?:\s+on\s+(?P<split>\w+))?"
FORMS = (
    re.compile(rf"{NAME}{ON}\s*(?P<sign>>=|<=|>|<)\s*{NUMBER}(?:\s+on\s+(?P<late>\w+))?", re.IGNORECASE),
    re.compile(rf"at\s+(?P<sign>least|most)\s+{NUMBER}\s*{NAME}{ON}(?P<late>)", re.IGNORECASE),
)
SIGNS = {"least": ">=", "most": "<="}


class Condition(NamedTuple):
    """That a figure is at least, at most, more or less than a bound."""

    name: str
    sign: str
    bound: float
    split: str | None
    """Of which split's examples; None where it was not said."""

    def __str__(self) -> str:
        on = f" on {self.split}" if self.split else ""
        return f"{self.name}{on} {self.sign} {self.bound:.10g}"


class Judged(NamedTuple):
    """A condition, and what came of it."""

    condition: str
    value: float
    holds: bool


def read_gate(text: str) -> tuple[Condition, ...]:
    """The conditions of a gate; none for an empty text. Raises UserError with a line for each that is none."""
    found, problems = [], []
    for part in filter(None, (part.strip() for part in re.split(r",(?!\d)|\band\b|;", text))):
        try:
            found.append(_condition(part))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return tuple(found)


def _condition(text: str) -> Condition:
    match = next(filter(None, (form.fullmatch(text) for form in FORMS)), None)
    if match is None:
        raise UserError(f"'{text}' is no condition; say one as accuracy >= 0.97 on test, or at most 1e6 parameters")
    bound = float(re.sub("[_,]", "", match["number"])) / (100 if match["percent"] else 1)
    split = match["split"] or match["late"] or None
    if split is not None and split not in SPLITS:
        raise UserError(f"'{text}': no split '{split}'{did_you_mean(split, SPLITS)}")
    return Condition(match["name"], SIGNS.get(match["sign"].lower(), match["sign"]), bound, split)


def check(gate: Iterable[Condition], known: Iterable[str]) -> list[str]:
    """A line for each condition on what nothing tells, with the nearest name."""
    known = sorted(known)
    return [
        f"no figure '{condition.name}'{did_you_mean(condition.name, known)}"
        for condition in gate
        if condition.name not in known
    ]


def judge(gate: Iterable[Condition], figures: Mapping[str | None, Mapping[str, float]]) -> list[Judged]:
    """Each condition with the value that it is about; a value that is not a number holds nothing.

    figures: by split, and those that are of no split at None. Raises UserError for what is not there.
    """
    found, problems = [], []
    for condition in gate:
        own = figures.get(condition.split or SPLITS[0], {})
        there = figures[None] | own if condition.split is None else own
        if condition.name not in there:
            on = f" on {condition.split}" if condition.split else ""
            problems.append(f"gate: no figure '{condition.name}'{on}{did_you_mean(condition.name, there)}")
            continue
        value = float(there[condition.name])
        found.append(Judged(str(condition), value, not math.isnan(value) and _holds(condition, value)))
    if problems:
        raise UserError(*problems)
    return found


def _holds(condition: Condition, value: float) -> bool:
    return COMPARE[condition.sign](value, condition.bound)
