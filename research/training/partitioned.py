"""What becomes of each parameter, told before the first step: every one once, by the path that rules know it by.

A row is a parameter, or those of neighbouring blocks that are alike in all that is told: block_{00..09}/dense/kernel.
"""

import itertools
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from research.inspection.tables import size_of
from research.parameters import counts, paths
from research.parameters.depth import block_of
from research.parameters.partition import listed
from research.training.experiment import Experiment
from research.training.inspecting import optimizer_bytes
from research.training.phases import last_plan
from research.training.plan import Plan
from research.training.step import state_shapes

SUMMED = ("parameters", "bytes", "trainable", "loaded", "optimizer_bytes")


def rows(plan: Plan, experiment: Experiment, fitted: Mapping[str, str] = MappingProxyType({})) -> list[dict[str, Any]]:
    """A row of plain data for each parameter.

    path, shape, parameters, bytes; rule, and treatment, which is what it says without the pattern; trainable; begins
    ("loaded", "fitted" where it is loaded and made of another size, or "new"); learning_rate (before the schedule) and
    weight_decay, None if there is none; optimizer_bytes. fitted: what was done to those that were made of another size.
    """
    plan = last_plan(plan)
    state, frozen = state_shapes(plan, experiment)
    stored = state.trainable | {path: frozen[path] for path in plan.frozen}
    rules, treatments, unchanged = experiment.rules.rules, dict(plan.layout.trained), dict(plan.layout.frozen)
    of_optimizer, begun = optimizer_bytes(plan, experiment), set(plan.begun)
    found = []
    for path, (leaf, index) in sorted(paths.views(stored, plan.stacks_of(stored)).items()):
        block, shape = index or 0, stored[leaf].shape if index is None else stored[leaf].shape[1:]
        count = counts.by_path({path: stored[leaf].update(shape=shape)})[path]
        treatment = treatments.get(leaf)
        number = (treatment.rules if treatment else unchanged[leaf])[block]
        rate = decay = None
        if treatment:
            rule = rules[number]
            optimizer = rule.optimizer or experiment.optimizer
            share = 1.0 if rule.decay is None else rule.decay
            decay = getattr(optimizer, "weight_decay", None) if treatment.decayed else None
            decay = decay and decay * share
            rate = optimizer.learning_rate * (1.0 if rule.learning_rate is None else rule.learning_rate)
            rate *= 1.0 if rule.by_depth is None else rule.by_depth ** treatment.heights[block]
        found.append(
            {
                "path": path,
                "shape": list(shape),
                "parameters": count.parameters,
                "bytes": count.bytes,
                "rule": str(rules[number]),
                "treatment": rules[number].treatment,
                "trainable": treatment is not None,
                "begins": "new" if leaf not in begun else "fitted" if path in fitted else "loaded",
                "learning_rate": rate,
                "weight_decay": decay,
                "optimizer_bytes": of_optimizer.get(leaf, 0) // (1 if index is None else stored[leaf].shape[0]),
            }
        )
    return found


def totals(found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sums by rule and of all, which comes last: of parameters, those trained and loaded, and of bytes."""
    sums: dict[str, dict[str, Any]] = {}
    for row in found:
        for name in (row["rule"], "all"):
            of_rule = sums.setdefault(name, {"rule": name, **dict.fromkeys(SUMMED, 0)})
            of_rule["parameters"] += row["parameters"]
            of_rule["bytes"] += row["bytes"]
            of_rule["trainable"] += row["parameters"] * row["trainable"]
            of_rule["loaded"] += row["parameters"] * (row["begins"] != "new")
            of_rule["optimizer_bytes"] += row["optimizer_bytes"]
    return [of_rule for name, of_rule in sums.items() if name != "all"] + [sums["all"]]


def is_plain(experiment: Experiment) -> bool:
    """Whether all parameters are new and trained alike, so that there is nothing to tell of each."""
    return experiment.finetuning is None and all(
        rule.group == "train" and rule.learning_rate is None and rule.by_depth is None and not rule.is_apart
        for rule in experiment.rules.rules
    )


# ---------------------------------------------------------------------------------------------------------------------
# For people


def folded(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of neighbouring blocks that are alike in all but their rate as one; sizes are those of all.

    The learning rate is a list, of the first block's and the last's if they differ; `block` is how the path begins.
    """
    lines: dict[tuple, list[tuple[str, Mapping[str, Any]]]] = {}
    for row in found:
        name, number = _without_number(row["path"])
        alike = (name, *(str(row[key]) for key in ("shape", "rule", "begins", "weight_decay")))
        if alike in lines and int(number) != int(lines[alike][-1][0]) + 1:
            members = lines.pop(alike)  # others are between them
            lines[(*alike, members[0][0])] = members
        lines.setdefault(alike, []).append((number, row))
    result = []
    for (name, *_), members in lines.items():
        (start, first), (stop, last) = members[0], members[-1]
        path = name.replace("*", start if len(members) == 1 else f"{{{start}..{stop}}}")
        sums = {key: sum(row[key] for _, row in members) for key in ("parameters", "bytes", "optimizer_bytes")}
        rates = list(dict.fromkeys((first["learning_rate"], last["learning_rate"])))
        block = path[: len(path) - len(name.partition("*")[2])] if "*" in name else ""
        result.append({**first, "path": path, "block": block, "learning_rate": rates, **sums})
    return result


def _without_number(path: str) -> tuple[str, str]:
    """("block_*/dense/kernel", "03") of block_03/dense/kernel; what is in no block has no number."""
    block = block_of(path)
    if block is None:
        return path, ""
    number = re.search(r"\d+$", block)
    return f"{block[: number.start()]}*{path.removeprefix(block)}", number[0]


def show(console: Console, found: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> None:
    """The rules, every parameter with what becomes of it, the totals, and what of the source is not used.

    found: as `rows` gives them. told: {"rules": as `totals` gives them, "source", "unused",
    "fitted": {path: how}, "notes"}.
    """
    letters = {of_rule["rule"]: letter for of_rule, letter in zip(told["rules"][:-1], _letters(), strict=False)}
    for rule, letter in letters.items():
        console.print(Text.assemble((f"rule {letter:<7}", "dim"), rule), soft_wrap=True)
    if told.get("source"):
        words = listed(told["unused"]) or "nothing"
        console.print(Text.assemble(("source      ", "dim"), told["source"]["path"]), soft_wrap=True)
        console.print(Text.assemble(("not used    ", "dim"), words), soft_wrap=True)
        for path, how in told.get("fitted", {}).items():
            console.print(Text.assemble(("fitted      ", "dim"), f"{path}: {how}"), soft_wrap=True)
        for note in told.get("notes", ()):
            console.print(Text.assemble(("note        ", "dim"), note), soft_wrap=True)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("parameter", overflow="fold")
    for name in (">numbers", "begins", "rule", ">rate", ">decay", ">optimizer"):
        table.add_column(name.removeprefix(">"), justify="right" if name[0] == ">" else "left", no_wrap=True)
    around = ""
    for row in folded(found):
        if row["block"] and row["block"] != around:
            table.add_row(Text(row["block"]))
        around = row["block"]
        trained = (" to ".join(map(_number, row["learning_rate"])), _number(row["weight_decay"]))
        cells = (*trained, size_of(row["optimizer_bytes"])) if row["trainable"] else ("frozen", "", "")
        style = "" if row["trainable"] else "dim"
        path = Text("  " * bool(around) + row["path"].removeprefix(f"{around}/"))
        table.add_row(path, f"{row['parameters']:,}", row["begins"], letters[row["rule"]], *cells, style=style)
    table.add_section()
    for of_rule in told["rules"]:
        trained = f"{of_rule['trainable']:,} trained" if of_rule["trainable"] else "frozen"
        name, letter = (
            ("in all", "")
            if of_rule["rule"] == "all"
            else (f"by rule {letters[of_rule['rule']]}", letters[of_rule["rule"]])
        )
        cells = (
            f"{of_rule['parameters']:,}",
            _begun(of_rule),
            letter,
            trained,
            "",
            size_of(of_rule["optimizer_bytes"]),
        )
        table.add_row(name, *cells)
    console.print(table)


def _letters() -> Iterator[str]:
    """a, b, ..., z, aa, ab, ..."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_lowercase, repeat=length))


def _begun(of_rule: Mapping[str, Any]) -> str:
    if of_rule["loaded"] in (0, of_rule["parameters"]):
        return "loaded" if of_rule["loaded"] else "new"
    return "both"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
