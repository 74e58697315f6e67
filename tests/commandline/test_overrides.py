import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.commandline.arguments import Override
from research.commandline.overrides import apply, parse
from research.config import ConfigError, config, leaf, structure


class Solver:
    """A kind."""


@config
class Adam(Solver):
    rate: float = leaf(0.001, within="[0, inf)")


@config
class Sgd(Solver):
    rate: float = leaf(0.1, within="[0, inf)")
    momentum: float | None = leaf(None, within="[0, 1)")


@config
class Span:
    """Reads itself from text, as durations do."""

    steps: int = structure(1)

    @classmethod
    def from_text(cls, text: str) -> "Span":
        number, _, _ = text.partition(" ")
        if not number.isdigit():
            raise ValueError(f"'{text}' is no span; say it as 5 or 5 steps")
        return cls(steps=int(number))


@config
class Block:
    width: int = structure(4, within="[1, inf)")


class Net(nn.Module):
    features: int = 3
    scale: float = 1.0
    dtype: Any = None
    activation: Callable = nn.relu
    widths: tuple = (32, 16)
    kernel: Sequence[int] = (3, 3)
    padding: str | list[int] = "SAME"
    anything: list | None = None
    gate: Callable[[Any], Any] | None = None
    init: Any = nn.initializers.he_normal()
    inner: nn.Module | None = None
    dense: nn.Module = nn.Dense(2)


@config
class Job:
    name: str = structure("job")
    nickname: str | None = structure(None)
    seed: int = leaf(0)
    rate: float | None = leaf(0.5)
    deep: bool = structure(False)
    maybe: bool | None = structure(None)
    features: tuple[int, ...] = structure((16, 32), within="[1, inf)")
    sizes: tuple[int, ...] | None = structure(None)
    pair: tuple[int, float] = structure((1, 2.0))
    words: tuple[str, ...] = structure(())
    activation: Literal["relu", "gelu"] = structure("relu")
    limit: float | Literal["auto"] = structure("auto")
    solver: Solver = structure(Adam())
    other: Solver | None = structure(None)
    length: Span = structure(Span())
    blocks: tuple[Block, ...] = structure((Block(), Block()))
    model: Any = structure(Net())

    def problems(self):
        if len(self.features) > 3:
            yield "features", "too many"


def changed(*tokens):
    """Job after overrides such as "seed 7"."""
    return apply(Job(), [Override(path, tuple(values)) for path, *values in map(str.split, tokens)])


def problems(*tokens):
    with pytest.raises(ConfigError) as caught:
        changed(*tokens)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("token", "value"),
    [
        ("seed 7", 7),
        ("rate 3e-3", 0.003),
        ("rate 1", 1.0),
        ("rate none", None),
        ("rate None", None),
        ("deep true", True),
        ("deep False", False),
        ("deep", True),
        ("maybe false", False),
        ("maybe none", None),
        ("features 16", (16,)),
        ("features 4 5 6", (4, 5, 6)),
        ("features 4,5", (4, 5)),
        ("features (4, 5)", (4, 5)),
        ("features [4,5]", (4, 5)),
        ("features", ()),
        ("sizes 1 2", (1, 2)),
        ("sizes none", None),
        ("pair 3 4", (3, 4.0)),
        ("words a b", ("a", "b")),
        ("activation gelu", "gelu"),
        ("limit auto", "auto"),
        ("limit 0.25", 0.25),
        ("name -odd", "-odd"),
        ("name none", "none"),
        ("nickname none", None),
        ("nickname x", "x"),
        ("solver sgd", Sgd()),
        ("other Adam", Adam()),
        ("other none", None),
        ("length 10 steps", Span(steps=10)),
        ("blocks block", (Block(),)),
    ],
)
def test_texts_are_read_as_the_declared_type(token, value):
    before = getattr(changed(token), token.split()[0])
    assert before == value
    assert type(before) is type(value)


def test_fields_of_parts_lists_and_flax_modules_are_reached():
    job = changed("solver.rate 0.2", "blocks.1.width 9", "model.features 8", "model.scale 2", "model.dtype float16")
    assert job.solver == Adam(rate=0.2)
    assert job.blocks == (Block(), Block(width=9))
    assert (job.model.features, job.model.scale, job.model.dtype) == (8, 2.0, "float16")
    assert type(job.model.scale) is float


@pytest.mark.parametrize(
    ("token", "value"),
    [
        ("widths 16 8", (16, 8)),
        ("widths (4,)", (4,)),
        ("kernel 5", (5,)),
        ("kernel 5 7", (5, 7)),
        ("padding VALID", "VALID"),
        ("padding 1 2", (1, 2)),
        ("anything 1 x", (1, "x")),
        ("anything none", None),
        ("activation flax.linen:gelu", nn.gelu),
        ("activation flax.linen:Dense", nn.Dense),
        ("gate flax.linen:tanh", nn.tanh),
        ("gate none", None),
        ("init flax.linen.initializers:zeros", nn.initializers.zeros),
        ("inner none", None),
    ],
)
def test_the_fields_of_a_flax_module_take_lists_and_functions(token, value):
    found = getattr(changed(f"model.{token}").model, token.split()[0])
    assert found == value
    assert type(found) is type(value)


def test_functions_within_a_module_of_flax_are_set_by_name():
    dense = changed("model.dense.kernel_init flax.linen.initializers:ones", "model.dense.features 3").model.dense
    assert dense == nn.Dense(3, kernel_init=nn.initializers.ones)
    (line,) = problems("model.dense.kernel_init ones")
    assert line.startswith("model.dense.kernel_init: 'ones' is no function; name one as module:name")


def test_overrides_hold_in_any_order():
    tokens = ["solver sgd", "solver.rate 1", "solver.momentum 0.9", "blocks block", "blocks.0.width 7"]
    results = [changed(*order) for order in itertools.permutations(tokens)]
    assert all(result == results[0] for result in results)
    assert results[0].solver == Sgd(rate=1.0, momentum=0.9)
    assert results[0].blocks == (Block(width=7),)


def test_of_two_values_for_one_field_the_later_holds():
    assert changed("seed 1", "seed 2").seed == 2


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("sede 1", "sede: no such field; Job has no 'sede'; did you mean 'seed'?"),
        ("solver.rat 1", "solver.rat: no such field; Adam has no 'rat'; did you mean 'rate'?"),
        ("other.rate 1", "other.rate: no such field; other is None, which has no fields"),
        ("model.featres 1", "model.featres: no such field; Net has no 'featres'; did you mean 'features'?"),
        ("blocks.2.width 1", "blocks.2.width: no such field; blocks has the indices 0 to 1"),
        ("seed abc", "seed: 'abc' is no whole number"),
        ("seed 1e3", "seed: '1e3' is no whole number; write 1000"),
        ("seed 2.5", "seed: '2.5' is no whole number"),
        ("seed 1 2", "seed: '1 2' is no whole number"),
        ("seed --help", "seed: '--help' is no whole number"),
        ("seed", "seed: needs a value"),
        ("rate abc", "rate: 'abc' is no number or None"),
        ("deep maybe", "deep: 'maybe' is no True or False"),
        ("features 4 x", "features: '4 x' is no list of whole numbers"),
        ("features none", "features: 'none' is no list of whole numbers"),
        ("features 4 0", "features: 0 is not in [1, inf)"),
        ("features 1 1 1 1", "features: too many"),
        ("pair 3", "pair: '3' is no (whole number, number)"),
        ("activation Gelu", "activation: 'Gelu' is no choice; did you mean 'gelu'?"),
        ("activation none", "activation: 'none' is no choice; there is gelu, relu"),
        ("name a b", "name: 'a b' is no text"),
        ("solver sgdd", "solver: no kind 'sgdd'; did you mean 'Sgd'?"),
        ("solver none", "solver: no kind 'none'; there is Adam, Sgd"),
        ("length soon", "length: 'soon' is no span; say it as 5 or 5 steps"),
        ("model.features x", "model.features: 'x' is no whole number"),
        ("model.widths 4 x", "model.widths: '4 x' is no list of whole numbers"),
        ("model.kernel x", "model.kernel: 'x' is no list of whole numbers"),
        (
            "model.activation tanh",
            "model.activation: 'tanh' is no function; name one as module:name (flax.linen:relu), "
            "or set it in the config file",
        ),
        (
            "model.gate flax.linen:rellu",
            "model.gate: 'flax.linen:rellu' is no function; did you mean 'flax.linen:relu'?",
        ),
        (
            "model.init zeros",
            "model.init: 'zeros' is no function; name one as module:name (flax.linen:relu), "
            "or set it in the config file",
        ),
        ("model.inner Dense", "model.inner: 'Dense' is no Module or None; it can only be set in the config file"),
        ("seed -1", "seed: -1 is not in [0, 4294967295]"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(token, message):
    assert problems(token) == [message]


def test_all_problems_are_told_together_and_nothing_is_applied():
    found = problems("sede 1", "seed abc", "solver.rate -1", "activation gelu")
    assert [problem.partition(":")[0] for problem in found] == ["sede", "seed", "solver.rate"]


@config
class Checked:
    width: int = structure(2)

    def __post_init__(self):
        if self.width == 3:
            raise ValueError("three is too many")


def test_a_class_that_checks_itself_is_heard():
    with pytest.raises(ConfigError, match="width: three is too many"):
        apply(Checked(), [Override("width", ("3",))])


@given(st.floats(allow_nan=False))
def test_numbers_are_read_to_the_last_bit(number):
    found = parse((repr(number),), float, "rate")
    assert math.copysign(1, found) == math.copysign(1, number)
    assert found == number


@given(st.lists(st.integers()))
def test_lists_are_read_as_they_are_written(numbers):
    assert parse(tuple(map(str, numbers)), tuple[int, ...], "features") == tuple(numbers)
    if numbers:
        assert parse((str(numbers),), tuple[int, ...], "features") == tuple(numbers)


@settings(max_examples=25)  # tyro takes its time to refuse
@given(st.text(max_size=8).filter(lambda text: text.lower() not in ("none", "null")))
def test_any_text_is_a_text_and_no_text_escapes_as_another_error(text):
    assert parse((text,), str | None, "name") == text
    for hint in (int, float, bool, tuple[int, ...], Literal["a"], int | None, float | Literal["auto"]):
        try:
            parse((text,), hint, "field")
        except ConfigError as error:
            assert len(error.problems) == 1
