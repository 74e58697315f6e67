import io
from typing import Literal

import flax.linen as nn
import pytest
from rich.console import Console

from research.commandline.arguments import Override
from research.commandline.fields import as_typed, changes, parts, show_fields
from research.commandline.overrides import apply, parse
from research.config import config, entries, field_at, is_config, leaf, structure


class Solver:
    """A kind."""


@config
class Fast(Solver):
    """Takes large steps.

    And more that nobody needs here.
    """

    rate: float = leaf(0.1, "size of a step", within="[0, inf)")


@config
class Slow(Solver):
    rate: float = leaf(0.001, "size of a step")


@config
class Span:
    steps: int = structure(3)

    def __str__(self):
        return f"{self.steps} steps"

    @classmethod
    def from_text(cls, text):
        return cls(steps=int(text.removesuffix(" steps")))


@config
class Block:
    width: int = structure(4, "features of it")


class Net(nn.Module):
    features: int = 3


@config
class Rule:
    pattern: str = structure(".*", "regular expression, " + "whose meaning takes several lines to tell " * 4)

    def __str__(self):
        return f"train('{self.pattern}')"


@config
class Job:
    """What the tests run."""

    seed: int = leaf(0, "of everything random")
    rate: float | None = leaf(None, "of something")
    features: tuple[int, ...] = structure((16, 32), "one a stage")
    activation: Literal["relu", "gelu"] = structure("relu", "between layers")
    solver: Solver = structure(Fast(), "turns gradients into updates")
    other: Solver | None = structure(None, "a second one")
    extra: Block | None = structure(Block(), "on top")
    length: Span = structure(Span(), "how long")
    blocks: tuple[Block, ...] = structure((Block(), Block(width=5)), "in a row")
    model: nn.Module = structure(Net(), "any module")
    rules_of_the_whole_partition: tuple[Rule, ...] = structure((Rule(),), "one after the other, each for some")


def page(config, width=80):
    file = io.StringIO()
    Console(file=file, width=width).print(show_fields(config, "exp.py"))
    return file.getvalue()


def test_every_field_is_on_the_page_once_with_its_value():
    lines = page(Job(), width=200).splitlines()
    for entry in entries(Job()):
        if entry.path.startswith("length."):
            continue
        is_part = (is_config(entry.value) and not hasattr(entry.value, "from_text")) or entry.path == "model"
        starts = f"{entry.path}: {type(entry.value).__name__}" if is_part else entry.path
        (line,) = (line for line in lines if line.startswith((f"{starts} ", f"{starts}\n")) or line == starts)
        assert is_part or as_typed(entry.value) in line


def test_a_field_has_its_type_interval_and_meaning():
    text = " ".join(page(Job()).split())
    assert "solver.rate 0.1 size of a step (number in [0, inf))" in text
    assert "rate none of something (number or None)" in text
    assert "activation relu between layers (one of 'relu', 'gelu')" in text
    assert "length 3 steps how long (Span)" in text


def test_a_part_has_its_meaning_and_what_may_replace_it():
    text = page(Job())
    assert "solver: Fast  Takes large steps.\nor Slow\n" in text
    assert "And more" not in text
    assert "extra: Block\nor none\n" in text


def test_a_kind_may_stand_where_nothing_is():
    (line,) = (line for line in page(Job(), width=120).splitlines() if line.startswith("other"))
    assert "Fast" in line
    assert "Slow" in line


def test_a_list_of_parts_shows_what_they_call_themselves_and_paths_are_never_broken():
    text = page(Job())
    assert "rules_of_the_whole_partition  train('.*')" in text
    assert "(list of Rule)" in text
    assert "rules_of_the_whole_partition.0.pattern  .*" in text


def test_parts_come_outermost_first_with_what_is_theirs():
    found = [(part.path, [field.path for field in part.fields]) for part in parts(Job())]
    assert found[0][0] == ""
    assert found[1:] == [
        ("solver", ["solver.rate"]),
        ("extra", ["extra.width"]),
        ("blocks.0", ["blocks.0.width"]),
        ("blocks.1", ["blocks.1.width"]),
        ("model", ["model.features"]),
        ("rules_of_the_whole_partition.0", ["rules_of_the_whole_partition.0.pattern"]),
    ]


def test_nothing_is_wider_than_the_terminal():
    assert max(len(line.rstrip()) for line in page(Job()).splitlines()) <= 80


@pytest.mark.parametrize(
    "path", ["seed", "rate", "features", "activation", "solver.rate", "other", "length", "blocks.1.width"]
)
def test_a_value_is_shown_as_it_is_typed(path):
    entry = field_at(Job(), path)
    typed = tuple(as_typed(entry.value).split())
    assert apply(Job(), [Override(path, typed)]) == Job()
    assert parse(typed, entry.hint, path) in (entry.value, as_typed(entry.value))


def test_changes_are_told_as_they_are_typed():
    overrides = [
        Override("solver", ("slow",)),
        Override("seed", ("7",)),
        Override("length", ("9", "steps")),
        Override("features", ("4",)),
        Override("blocks.1.width", ("5",)),
        Override("extra", ("none",)),
    ]
    after = apply(Job(), overrides)
    assert changes(Job(), after, [path for path, _ in overrides]) == [
        "solver: Fast -> Slow",
        "seed: 0 -> 7",
        "length: 3 steps -> 9 steps",
        "features: 16 32 -> 4",
        "extra: Block -> none",
    ]
    back = apply(after, [Override("extra", ("block",)), Override("extra.width", ("6",))])
    assert changes(after, back, ["extra", "extra.width"]) == ["extra: none -> Block", "extra.width: 6"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "true"),
        (1e-5, "1e-05"),
        (0.1 + 0.2, "0.30000000000000004"),
        (3, "3"),
        ("", "''"),
        (1.0, "1"),
    ],
)
def test_values_are_typed_without_loss(value, text):
    assert as_typed(value) == text
