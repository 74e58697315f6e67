"""research/config.py: a config is a pytree, and changes only in ways that its types allow."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.config import (
    ConfigError,
    absent,
    as_arrays,
    coerce,
    config,
    describe,
    differences,
    edge,
    entries,
    field_at,
    fingerprint,
    flat,
    from_json,
    kinds,
    leaf,
    make,
    override,
    structure,
    to_json,
    validate,
)
from research.errors import UserError, did_you_mean


class Tuner:
    """A kind that can be swapped."""


@config
class Slow(Tuner):
    """Small steps."""

    rate: float = leaf(0.001, "step size", within="[0, inf)")
    momentum: float | None = leaf(None, "share of the last step kept", within="[0, 1)")


@config
class FastTuner(Tuner):
    """Large steps."""

    rate: float = leaf(0.1, "step size", within="[0, inf)")
    nesterov: bool = structure(False, "look ahead")


@config
class Layer:
    width: int = structure(8, "features", within="[1, inf)")
    dropout: float | None = leaf(None, "rate", within="[0, 1)")


@config
class Study:
    name: str = edge("", "what it is called")
    seed: int = leaf(0, "of everything random")
    depth: int = structure(2, "layers", within="[1, 64]")
    features: tuple[int, ...] = structure((16, 32), "a stage each", within="[1, inf)")
    activation: Literal["relu", "gelu"] = structure("relu", "between layers")
    tuner: Tuner = structure(Slow(), "turns gradients into updates")
    layers: tuple[Layer, ...] = structure((), "one after the other")
    extra: Layer | None = structure(None, "on top")
    limit: int | float | None = structure(None, "either")

    def problems(self):
        if self.depth > 8 and self.activation == "relu":
            yield "activation", "relu does not go that deep"


@config
class Needs:
    width: int = structure(doc="no default")


class Net(nn.Module):
    """Somebody's own model."""

    features: int = 4
    activation: Any = nn.relu

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.features, name="dense")(self.activation(x))


class Idiomatic(nn.Module):
    """As modules are usually written."""

    widths: Sequence[int] = (8, 4)
    kernel_init: Callable = nn.initializers.he_normal()
    inner: nn.Module = nn.Dense(4)
    options: Any = None


@config
class WithNet:
    model: nn.Module = structure(Net(), "any module")
    dtype: Any = structure(jnp.float32, "of the computation")
    function: Any = structure(math.tanh, "named")


rates = st.floats(0, 10, allow_nan=False)
studies = st.builds(
    Study,
    name=st.text(max_size=5),
    seed=st.integers(0, 2**32 - 1),
    depth=st.integers(1, 8),
    features=st.lists(st.integers(1, 512), max_size=4).map(tuple),
    activation=st.sampled_from(["relu", "gelu"]),
    tuner=st.builds(Slow, rate=rates, momentum=st.none() | st.floats(0, 0.99))
    | st.builds(FastTuner, rate=rates, nesterov=st.booleans()),
    layers=st.lists(st.builds(Layer, width=st.integers(1, 9)), max_size=3).map(tuple),
    extra=st.none() | st.builds(Layer, dropout=st.none() | st.floats(0, 0.9)),
    limit=st.none() | st.integers(-5, 5) | st.floats(-5, 5),
)


# ---------------------------------------------------------------------------------------------------------------------
# A config is a pytree


def test_only_numbers_marked_as_leaves_are_leaves():
    assert jax.tree.leaves(Study()) == [0, 0.001]
    assert jax.tree.leaves(Study(tuner=Slow(momentum=0.9), extra=Layer(dropout=0.1))) == [0, 0.001, 0.9, 0.1]


@given(studies)
def test_a_config_taken_apart_and_put_together_is_the_same(study):
    leaves, treedef = jax.tree.flatten(study)
    assert jax.tree.unflatten(treedef, leaves) == study


alike = st.builds(
    Study,
    name=st.text(max_size=1),
    seed=st.integers(0, 9),
    depth=st.integers(1, 2),
    tuner=st.builds(Slow, rate=rates, momentum=st.none() | st.floats(0, 0.99)) | st.builds(FastTuner, rate=rates),
)


@given(alike, alike)
def test_the_structures_of_two_configs_are_equal_just_when_all_but_leaves_and_edges_is(a, b):

    def all_else(study):
        return {
            entry.path: type(entry.value) if dataclasses.is_dataclass(entry.value) else entry.value
            for entry in entries(study)
            if entry.role == "structure" or (entry.role == "leaf" and entry.value is None)
        }

    assert (jax.tree.structure(a) == jax.tree.structure(b)) == (all_else(a) == all_else(b))


def test_changing_leaves_and_edges_never_compiles_again_and_changing_structure_does():
    traces = []

    @jax.jit
    def program(study):
        traces.append(study)
        return study.tuner.rate * study.depth + study.seed

    for study in (
        Study(),
        Study(seed=7),
        Study(seed=2**32 - 1),
        Study(name="other"),
        Study(tuner=Slow(rate=1)),
        Study(tuner=Slow(rate=np.float32(0.1))),
    ):
        program(as_arrays(study))
    assert len(traces) == 1
    program(as_arrays(Study(depth=3)))
    program(as_arrays(Study(tuner=Slow(momentum=0.9))))
    program(as_arrays(Study(tuner=FastTuner())))
    assert len(traces) == 4


def test_leaves_become_float32_and_uint32_whatever_python_number_they_were():
    arrays = as_arrays(Study(seed=2**32 - 1, tuner=Slow(rate=1)))
    assert arrays.seed.dtype == np.uint32 and arrays.seed == 2**32 - 1
    assert arrays.tuner.rate.dtype == np.float32


def test_trials_of_one_structure_can_be_stacked():
    trials = [as_arrays(Study(seed=seed, tuner=Slow(rate=rate))) for seed, rate in ((1, 0.1), (2, 0.2), (3, 0.3))]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *trials)
    rates = jax.vmap(lambda study: study.tuner.rate * study.depth)(stacked)
    np.testing.assert_allclose(rates, [0.2, 0.4, 0.6], rtol=1e-6)


def test_configs_compare_hash_and_cannot_be_changed_in_place():
    assert Study(seed=3) == Study(seed=3) != Study(seed=4)
    assert len({Study(), Study(), Study(seed=1)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Study().seed = 3


def test_leaves_have_their_paths_as_names():
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(Study())]
    assert paths == [".seed", ".tuner.rate"]


# ---------------------------------------------------------------------------------------------------------------------
# Looking


def test_every_field_is_listed_by_its_path_in_the_order_of_declaration():
    found = flat(Study(layers=(Layer(), Layer(width=3))))
    assert list(found)[:7] == ["name", "seed", "depth", "features", "activation", "tuner", "tuner.rate"]
    assert found["tuner"] == "Slow" and found["layers.1.width"] == 3


def test_an_entry_tells_type_role_meaning_and_interval():
    entry = field_at(Study(), "tuner.rate")
    assert (entry.hint, entry.role, entry.doc, entry.within) == (float, "leaf", "step size", "[0, inf)")


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "whole number"),
        (float | None, "number or None"),
        (Literal["relu", "gelu"], "one of 'relu', 'gelu'"),
        (tuple[int, ...], "list of whole numbers"),
        (tuple[int, float], "(whole number, number)"),
        (tuple[Layer, ...], "list of Layer"),
        (tuple[()], "()"),
        (Callable[[int], int] | None, "function or None"),
        (bool, "True or False"),
        (Tuner, "one of FastTuner, Slow"),
        (Layer | None, "Layer or None"),
    ],
)
def test_types_are_described_in_words(hint, words):
    described = describe(hint)
    assert sorted(described.replace(",", "").split()) == sorted(words.replace(",", "").split())


def test_kinds_are_the_configs_below_a_declared_class():
    assert kinds(Tuner) == {"Slow": Slow, "FastTuner": FastTuner}
    assert kinds(Layer | None) == {"Layer": Layer}
    assert kinds(int) == {} == kinds(Any)


@given(studies, studies)
def test_differences_are_none_just_when_configs_are_equal(a, b):
    assert (differences(a, b) == []) == (a == b)
    assert differences(a, a) == []


def test_a_difference_reads_well():
    lines = [str(d) for d in differences(Study(), Study(seed=1, tuner=FastTuner()))]
    assert "seed: 0 -> 1" in lines and "tuner: Slow -> FastTuner" in lines
    assert any(d.path == "tuner.momentum" and d.right is absent for d in differences(Study(), Study(tuner=FastTuner())))


def test_a_truth_value_differs_from_the_number_it_equals():
    assert [d.path for d in differences(Study(limit=1), Study(limit=True))] == ["limit"]


# ---------------------------------------------------------------------------------------------------------------------
# Changing


@given(studies)
def test_setting_every_field_to_what_it_is_changes_nothing(study):
    for entry in entries(study):
        assert override(study, entry.path, entry.value) == study


@given(studies, rates)
def test_an_override_changes_one_path_and_leaves_the_rest(study, rate):
    changed = override(study, "tuner.rate", rate)
    assert changed.tuner.rate == rate
    assert {d.path for d in differences(study, changed)} <= {"tuner.rate"}


def test_a_part_is_replaced_by_a_kind_of_any_spelling_by_a_config_or_by_none():
    for name in ("FastTuner", "fasttuner", "fast_tuner", "fast-tuner", "FASTTUNER"):
        assert override(Study(), "tuner", name).tuner == FastTuner()
    assert override(Study(), "tuner", FastTuner(rate=3)).tuner.rate == 3.0
    assert override(Study(extra=Layer()), "extra", None).extra is None


def test_items_of_a_list_of_configs_are_reached_by_number():
    study = override(Study(layers=(Layer(), Layer())), "layers.1.width", 5)
    assert [layer.width for layer in study.layers] == [8, 5]


def test_integers_become_floats_and_lists_tuples_and_nothing_else_is_guessed():
    assert type(override(Study(), "tuner.rate", 1).tuner.rate) is float
    assert override(Study(), "features", [1, 2]).features == (1, 2)
    assert type(override(Study(), "limit", 2).limit) is int
    assert type(Slow(rate=1).rate) is float


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("tuner.rat", 1, "tuner.rat: no such field; Slow has no 'rat'; did you mean 'rate'?"),
        ("sede", 1, "sede: no such field; Study has no 'sede'; did you mean 'seed'?"),
        ("seed.deeper", 1, "seed.deeper: no such field; seed is 0, which has no fields"),
        ("layers.0.width", 1, "layers.0.width: no such field"),
        ("tuner.rate", "0.1", "tuner.rate: '0.1' is no number"),
        ("depth", 2.0, "depth: 2.0 is no whole number"),
        ("depth", True, "depth: True is no whole number"),
        ("depth", None, "depth: None is no whole number"),
        ("activation", "tanh", "activation: 'tanh' is no one of 'relu', 'gelu'"),
        ("features", (1, "x"), "features.1: 'x' is no whole number"),
        ("tuner", "fastuner", "tuner: no kind 'fastuner'; did you mean 'FastTuner'?"),
        ("tuner", Layer(), "tuner: Layer("),
        ("name", 3, "name: 3 is no text"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(path, value, message):
    with pytest.raises(ConfigError) as caught:
        override(Study(), path, value)
    assert len(caught.value.problems) == 1 and caught.value.problems[0].startswith(message)


def test_a_kind_without_defaults_cannot_be_made_from_its_name():
    with pytest.raises(ConfigError, match=r"part: Needs needs width"):
        make("needs", Needs, "part")


def test_a_flax_module_is_changed_by_path_like_a_config():
    changed = override(WithNet(), "model.features", 16)
    assert changed.model.features == 16 and type(changed.model) is Net
    assert "model.features" in flat(changed) and "model.parent" not in flat(changed)
    with pytest.raises(ConfigError, match="did you mean 'features'"):
        override(WithNet(), "model.featurs", 16)


def test_lists_and_sequences_are_tuples_whose_items_have_the_type_told_or_present():
    assert override(Idiomatic(), "widths", [1, 2]).widths == (1, 2)
    with pytest.raises(ConfigError, match=r"widths.1: 'x' is no whole number"):
        override(Idiomatic(), "widths", (1, "x"))
    assert override(Idiomatic(), "kernel_init", nn.initializers.zeros).kernel_init is nn.initializers.zeros

    class Bare(nn.Module):
        a: tuple = (1,)
        b: list | None = None
        c: Sequence = ("x", 2)

    assert [e.hint for e in entries(Bare())] == [tuple[int, ...], tuple[Any, ...] | None, tuple[str | int, ...]]


def test_a_fixed_length_is_kept():
    assert coerce([1, 2.5], tuple[int, float], "pair") == (1, 2.5)
    with pytest.raises(ConfigError, match=r"pair: \(1, 2, 3\) has 3 values, and 2 are needed"):
        coerce((1, 2, 3), tuple[int, float], "pair")


# ---------------------------------------------------------------------------------------------------------------------
# Checking


@given(studies)
def test_what_is_valid_passes_unchanged(study):
    assert validate(study) == study


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        validate(
            Study(depth=0, seed=-1, features=(4, 0), tuner=Slow(rate=-1.0, momentum=1.0), layers=(Layer(width=0),))
        )
    paths = [problem.partition(":")[0] for problem in caught.value.problems]
    assert sorted(paths) == ["depth", "features", "layers.0.width", "seed", "tuner.momentum", "tuner.rate"]


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (Study(depth="3"), "depth: '3' is no whole number"),
        (Study(depth=65), r"depth: 65 is not in \[1, 64\]"),
        (Study(seed=2**32), "seed: 4294967296 is not in"),
        (Study(tuner=Slow(rate=math.nan)), "tuner.rate: nan is not in"),
        (Study(tuner=Layer()), "tuner: Layer"),
        (Study(depth=9), "activation: relu does not go that deep"),
        (WithNet(dtype=[1]), r"^dtype: \[1\] is a list, which can be changed in place; write \(1,\)$"),
        (
            WithNet(model=Idiomatic(widths=[16, [8]])),
            r"^model.widths: \[16, \[8\]\] is a list, which can be changed in place; write \(16, \(8,\)\)$",
        ),
        (
            WithNet(model=Idiomatic(inner=Idiomatic(options=np.zeros((2, 1))))),
            r"^model.inner.options: array\(\[\[0.\], \[0.\]\]\) is a ndarray, which can be changed .*; use a tuple$",
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_path(study, message):
    with pytest.raises(ConfigError, match=message):
        validate(study)


def test_a_valid_config_is_not_looked_at_again_and_what_is_changed_in_one_is():
    valid = validate(Study(layers=(Layer(),)))
    assert validate(valid) is valid
    changed = [
        (dataclasses.replace(valid, depth=65), "depth"),
        (override(valid, "tuner", Slow(rate=math.nan)), "tuner.rate"),
        (dataclasses.replace(valid, layers=(*valid.layers, Layer(width=0))), "layers.1.width"),
        (jax.tree.map(lambda leaf: -1, valid), "seed"),
    ]
    for other, path in changed:
        with pytest.raises(ConfigError, match=path):
            validate(other)


def test_validation_puts_declared_types_in_place_of_what_python_let_through():
    assert validate(Study(features=[1, 2])) == Study(features=(1, 2))


# ---------------------------------------------------------------------------------------------------------------------
# JSON


@given(studies)
def test_json_gives_the_same_config_back(study):
    text = json.dumps(to_json(study))
    back = from_json(json.loads(text), Study)
    assert back == study
    assert jax.tree.structure(back) == jax.tree.structure(study)
    assert [type(x) for x in jax.tree.leaves(back)] == [type(x) for x in jax.tree.leaves(study)]


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=0))
def test_json_loses_no_bit_of_a_number(rate):
    back = from_json(json.loads(json.dumps(to_json(Slow(rate=rate)))), Slow)
    assert back.rate.hex() == float(rate).hex()


def test_modules_dtypes_and_named_functions_go_to_json_and_back():
    before = WithNet(model=Net(features=7, activation=nn.gelu))
    after = from_json(json.loads(json.dumps(to_json(before))), WithNet)
    assert after == before and after.dtype is jnp.float32 and after.function is math.tanh
    assert from_json({"kind": "WithNet", "dtype": {"dtype": "float16"}}, WithNet).dtype is np.float16


@pytest.mark.parametrize(
    "module",
    [
        Idiomatic(),
        Idiomatic(widths=(4,), inner=nn.Dense(6)),
        Idiomatic(inner=Idiomatic(inner=nn.Conv(3, (2, 2), kernel_init=nn.initializers.zeros))),
    ],
)
def test_a_flax_module_with_initialisers_and_modules_in_it_goes_to_json_and_back(module):
    before = WithNet(model=module)
    written = json.dumps(to_json(before))
    assert " at 0x" not in written and fingerprint(before) == fingerprint(WithNet(model=module.clone()))
    assert from_json(json.loads(written), WithNet) == before


def test_of_a_flax_module_what_has_no_name_must_be_its_default():
    with pytest.raises(ConfigError, match=r"^model.kernel_init: <function variance_scaling.<locals>.init> cannot"):
        to_json(WithNet(model=Idiomatic(kernel_init=nn.initializers.he_normal())))


def test_what_cannot_be_named_cannot_go_to_json():
    with pytest.raises(ConfigError, match="function: .*use a named function"):
        to_json(WithNet(function=lambda x: x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "Studdy"}, "no kind 'Studdy'; did you mean 'Study'?"),
        ({"sede": 1}, "sede: no such field; Study has no 'sede'; did you mean 'seed'?"),
        ({"depth": "deep"}, "depth: 'deep' is no whole number"),
        ({"tuner": {"kind": "Slw"}}, "tuner: no kind 'Slw'; did you mean 'Slow'?"),
        ({"tuner": {"rate": 1}}, "tuner: an object without a 'kind'"),
        ({"extra": {"kind": "Layer", "width": 0}}, "extra.width: 0 is not in"),
    ],
)
def test_json_that_is_no_config_is_refused_by_path(change, message):
    with pytest.raises(ConfigError) as caught:
        from_json(to_json(Study()) | change, Study)
    assert any(message in problem for problem in caught.value.problems)


def test_a_field_without_a_default_must_be_in_the_json():
    with pytest.raises(ConfigError, match="width: missing, and Needs has no default"):
        from_json({"kind": "Needs"}, Needs)


@given(studies, st.text(max_size=5))
def test_the_fingerprint_is_that_of_what_is_computed(study, name):
    assert fingerprint(dataclasses.replace(study, name=name)) == fingerprint(study)
    assert fingerprint(dataclasses.replace(study, seed=(study.seed + 1) % 2**32)) != fingerprint(study)


# ---------------------------------------------------------------------------------------------------------------------
# Errors


def test_the_nearest_name_is_offered_or_all_where_none_is_near():
    assert did_you_mean("dept", ["depth", "width"]) == "; did you mean 'depth'?"
    assert did_you_mean("DEPTH", ["depth", "width"]) == "; did you mean 'depth'?"
    assert did_you_mean("zzz", ["depth", "width"]) == "; there is depth, width"
    assert did_you_mean("zzz", map(str, range(100))) == ""
    assert did_you_mean("zzz", []) == ""


def test_a_user_error_keeps_its_problems_apart():
    error = UserError("a: wrong", "b: wrong too")
    assert error.problems == ("a: wrong", "b: wrong too") and str(error) == "a: wrong\nb: wrong too"


def test_a_field_that_json_needs_for_itself_is_refused():
    with pytest.raises(TypeError, match="Shape: .*'kind'"):

        @config
        class Shape:
            kind: str = structure("round")
