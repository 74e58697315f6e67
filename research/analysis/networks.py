"""The networks that a sweep compares: one a program, each at the values that validation chose for it.

A network is judged by trials on fresh seeds where the sweep had any, and else by the search trials with its best
values, which are a little flattered by the choice. Networks of a series differ in numbers of the model alone, such as
how many layers or features it has: they are what a depth is chosen from.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from research.analysis.sweeps import SweepFolder, is_numeric, plain, setting, short

SWEPT = "(swept)"
"""In the place of a value that is swept within a program: only that there is one tells it from others."""
NONE = "none"


class Network(NamedTuple):
    """A program at its best values."""

    program: int
    """Its index in the plan."""
    series: str
    """What it shares with the networks that it is compared with by depth, in words; "" if all do."""
    label: str
    """In which numbers it differs from these."""
    values: dict[str, str]
    """What tells its program from others, by path, as typed; SWEPT for what its trials have several values of."""
    budgets: tuple[str, ...]
    """At what the plan matched it, "5,000 parameters"; "" for as it is."""
    data: str
    """The data it learns and is judged on, where that is swept."""
    setting: dict[str, Any]
    """The values that were chosen for it."""
    is_fresh: bool
    """Whether its trials are on seeds that had no say in choosing the values."""
    trials: tuple[int, ...]
    """By which it is judged, one a seed."""
    others: tuple[int, ...]
    """Trials of the search with the same values, where it is judged on fresh seeds: they tell how much seeds differ."""
    lost: int
    """Trials besides these that came to no figure, such as for a loss that was not finite."""
    figures: dict[str, np.ndarray]
    """"test.accuracy" and so on: (seeds,), of what all of its trials have."""
    depth: int
    parameters: int
    trainable: int
    multiply_adds: float
    """Of an example, forward."""
    training_flops: float | None
    """Of a trial."""
    field: tuple[int, ...] | None
    """How much of the input a feature sees before anything is pooled over all of it, along each axis."""
    optimizer_bytes: int | None
    activation_bytes: int | None
    """Kept for the backward pass of a batch."""
    seconds: float
    """Of a trial, in the mean of all of its program."""

    def mean(self, figure: str) -> float | None:
        """Over seeds; None if it has no such figure."""
        values = self.figures.get(figure)
        return None if values is None else float(values.mean())

    @property
    def name(self) -> str:
        """Depth and numbers: "depth 5 (convolutions 4)"."""
        return f"depth {self.depth}" + (f" ({self.label})" if self.label else "")

    @property
    def variant(self) -> str:
        """What it is called where depth is not what is compared: "Cosine(warmup 10%)", "none"."""
        return ", ".join(filter(None, (self.series, self.label))) or self.name


def networks_of(sweep: SweepFolder) -> list[Network]:
    """The networks with at least one trial that came to a figure, in the order of the plan."""
    told = [_telling(program) for program in sweep.programs]
    names = series_names(told)
    by_program: dict[int, list[dict[str, Any]]] = {}
    for row in sweep.rows:
        by_program.setdefault(row["program"], []).append(row)
    found = []
    for index, (program, (series, label)) in enumerate(zip(sweep.programs, names, strict=True)):
        rows = by_program.get(index, [])
        if program.get("depth") is None or not any(_has_come(row) for row in rows):
            continue
        chosen, is_fresh = _judging(sweep, rows)
        good = [row for row in chosen if _has_come(row)]
        # Fields that tell programs apart are in the label already.
        fixed = {path for path, value in told[index].items() if value != SWEPT}
        values = {path: value for path, value in setting(good[0]["values"]).items() if path not in fixed}
        field = program.get("field_before_pooling") or program.get("receptive_field")
        network = Network(
            program=index,
            series=series,
            label=label,
            values=told[index],
            budgets=tuple(program.get("budgets") or ("",)),
            data=program["values"].get("data", ""),
            setting=values,
            is_fresh=is_fresh,
            trials=tuple(row["trial"] for row in good),
            others=tuple(row["trial"] for row in rows if _is_like(row, good[0])) if is_fresh else (),
            lost=len(chosen) - len(good),
            figures=_figures(good),
            depth=program["depth"],
            parameters=program["parameters"],
            trainable=program.get("trainable", program["parameters"]),
            multiply_adds=program["multiply_adds"],
            training_flops=program.get("training_flops"),
            field=tuple(field) if field else None,
            optimizer_bytes=program.get("optimizer_bytes"),
            activation_bytes=program.get("activation_bytes"),
            seconds=float(np.mean([row["seconds"] for row in rows if _has_come(row)])),
        )
        found.append(network)
    return found


def _telling(program: Mapping[str, Any]) -> dict[str, str]:
    """The values that tell a program from others, without those that its own trials differ in."""
    assigned = [trial.get("assignment") or {} for trial in program.get("trials", ())]

    def is_swept(path: str) -> bool:
        return len({repr(values[path]) for values in assigned if path in values}) > 1

    return {path: SWEPT if is_swept(path) else value for path, value in program["values"].items()}


def _has_come(row: Mapping[str, Any]) -> bool:
    """Whether a trial has come to figures, and to its end."""
    return bool(row.get("validation") and row.get("test")) and row["status"] != "left early"


def _is_like(row: Mapping[str, Any], judging: Mapping[str, Any]) -> bool:
    """Whether a trial of the search has the values of a trial that judges, and came to figures."""
    return row["stage"] == "search" and _has_come(row) and setting(row["values"]) == setting(judging["values"])


def _judging(sweep: SweepFolder, rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
    """The trials that a program is judged by, and whether they are on fresh seeds."""
    fresh = [row for row in rows if row["stage"] == "judgement"]
    if any(_has_come(row) for row in fresh):
        return fresh, True
    tried: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["stage"] == "search":
            tried.setdefault(repr(setting(row["values"])), []).append(row)

    def merit(members: Sequence[dict[str, Any]]) -> tuple[float, float]:
        good = [row["validation"][sweep.measure] for row in members if _has_come(row)]
        return len(good) / len(members), sweep.sign * float(np.mean(good)) if good else -np.inf

    return max(tried.values(), key=merit), False


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The figures that all of some trials have."""
    found = {}
    for split in ("validation", "test", "train"):
        told = [row.get(split) for row in rows]
        if all(told):
            for name in told[0]:
                if all(isinstance(each.get(name), int | float) for each in told):
                    found[f"{split}.{name}"] = np.array([each[name] for each in told], np.float64)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Series


def series_names(programs: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """For each program, by the fields that tell it from others: its series, and what it is within it, in words.

    Numbers of the model vary within a series, also those in a kind of model ("MLP(depth 2)"); all else, such as the
    kind of model, whether it is residual, or how much data there is, makes another series.
    """
    programs = without_what_names_say(programs)
    paths = list(dict.fromkeys(path for values in programs for path in values))
    parts = [{path: _split(path, value) for path, value in values.items()} for values in programs]
    told = []
    for which in (0, 1):
        words = [{path: part[which] for path, part in each.items() if part[which]} for each in parts]
        telling = [path for path in paths if len({each.get(path) for each in words}) > 1]
        told.append([_words(each, telling, paths) for each in words])
    return list(zip(*told, strict=True))


def without_what_names_say(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The values that tell programs apart, without the parts that differ just where the experiment's `name` does.

    Numbers stay: a name hardly says them.
    """
    paths = dict.fromkeys(path for row in rows for path in row if path != "name")
    said = {path for path in paths if all({"name", path} <= row.keys() for row in rows) and _names_say(rows, path)}
    return [{path: value for path, value in row.items() if path not in said} for row in rows]


def _names_say(rows: Sequence[Mapping[str, str]], path: str) -> bool:
    pairs = {(row["name"], row[path]) for row in rows}
    names, values = map(set, zip(*pairs, strict=True))
    return len(pairs) == len(names) == len(values) and not any(map(is_numeric, values))


def _words(values: Mapping[str, str], telling: Sequence[str], paths: Sequence[str]) -> str:
    """The telling ones of some values. What lacks the parts that others have, and has none of its own, is "none"."""
    told = [path for path in telling if path in values]
    if told and len(told) < len(telling) and all(values[path] == NONE for path in told):
        return NONE
    return ", ".join(_word(path, values[path], paths) for path in told)


def _split(path: str, value: str) -> tuple[str, str]:
    """Of a value as typed, what makes a series and what varies within one."""
    if value == SWEPT:
        return value, ""
    if path.startswith("model.") and is_numeric(value):
        return "", value
    kind = re.fullmatch(r"(\w+)\((.*)\)", value)
    if not kind or is_numeric(value):
        return value, ""
    name, arguments = kind[1], kind[2].split(", ")
    numbers = [each for each in arguments if is_numeric(each.rpartition(" ")[2])]
    others = [each for each in arguments if each not in numbers]
    return (f"{name}({', '.join(others)})" if others else name), f"{name} {', '.join(numbers)}" if numbers else ""


def _word(path: str, value: str, paths: Sequence[str]) -> str:
    """A value with the name of its field, unless it speaks for itself."""
    name = short(path, paths)
    name = path if name == "depth" else name  # the depth that is measured counts a head as well
    if value == SWEPT:
        return name
    if path == "name" or ("." not in path and not is_numeric(value)):
        return value  # a label, a kind of model, the numbers within one
    if value.lower() in ("true", "false"):
        return f"{'' if value.lower() == 'true' else 'not '}{name}"
    return f"{name} {value.strip('()')}"


def in_words(values: Mapping[str, Any]) -> str:
    """Some values by the names of their fields: "learning_rate 0.003"."""
    return ", ".join(f"{short(path, values)} {plain(value)}" for path, value in values.items())
