"""Gates are read as they are meant, and judge nothing that is not there."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from research.errors import UserError
from research.pipelines.gates import Condition, check, judge, read_gate


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("", []),
        ("accuracy >= 0.97", [("accuracy", ">=", 0.97, None)]),
        ("accuracy >= 97 % on test", [("accuracy", ">=", 0.97, "test")]),
        ("accuracy on test >= 97%", [("accuracy", ">=", 0.97, "test")]),
        ("at least 97 % accuracy on validation", [("accuracy", ">=", 0.97, "validation")]),
        (
            "accuracy >= 0.97 on test, at most 1e6 parameters",
            [("accuracy", ">=", 0.97, "test"), ("parameters", "<=", 1e6, None)],
        ),
        ("loss < .5 and parameters <= 100,000", [("loss", "<", 0.5, None), ("parameters", "<=", 1e5, None)]),
        ("robustness/rotation_15/accuracy > -1e-3", [("robustness/rotation_15/accuracy", ">", -1e-3, None)]),
        ("At Most 1_000 multiply_adds; ece <= 5 %", [("multiply_adds", "<=", 1e3, None), ("ece", "<=", 0.05, None)]),
    ],
)
def test_a_gate_is_read_as_it_is_meant(text, conditions):
    found = [tuple(condition) for condition in read_gate(text)]
    assert [each[:2] + each[3:] for each in found] == [each[:2] + each[3:] for each in conditions]
    assert [each[2] for each in found] == pytest.approx([each[2] for each in conditions])


@given(
    some.from_regex(r"[a-z_]{1,10}(/[a-z_]{1,10})?", fullmatch=True).filter(lambda name: name not in ("at", "and")),
    some.sampled_from((">=", "<=", ">", "<")),
    some.floats(-1e9, 1e9).map(lambda bound: float(f"{bound:.10g}")),
    some.sampled_from((None, "test", "validation", "train")),
)
def test_a_condition_is_read_back_from_what_it_is_shown_as(name, sign, bound, split):
    condition = Condition(name, sign, bound, split)
    (again,) = read_gate(str(condition))
    assert again._replace(bound=0.0) == condition._replace(bound=0.0)
    assert again.bound == pytest.approx(bound, rel=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accuracy = 0.9", "'accuracy = 0.9' is no condition; say one as accuracy >= 0.97"),
        ("good, accuracy >= 1", "'good' is no condition"),
        ("accuracy >= high", "is no condition"),
        ("accuracy >= 0.9 on tests", "no split 'tests'; did you mean 'test'"),
    ],
)
def test_what_is_no_gate_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        read_gate(text)


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(UserError) as caught:
        read_gate("good, fast, accuracy >= 1")
    assert len(caught.value.problems) == 2


FIGURES = {None: {"parameters": 50.0}, "validation": {"accuracy": 0.9}, "test": {"accuracy": 0.8, "loss": float("nan")}}


def test_each_condition_is_judged_on_its_own_split():
    found = judge(read_gate("accuracy >= 0.85, accuracy >= 0.85 on test, at most 50 parameters"), FIGURES)
    assert [(each.value, each.holds) for each in found] == [(0.9, True), (0.8, False), (50.0, True)]


@pytest.mark.parametrize("sign", [">=", "<=", ">", "<"])
def test_what_is_no_number_holds_nothing(sign):
    (found,) = judge(read_gate(f"loss {sign} 1 on test"), FIGURES)
    assert not found.holds


@pytest.mark.parametrize(("sign", "held"), [(">=", True), ("<=", True), (">", False), ("<", False)])
def test_a_bound_is_in_or_out(sign, held):
    (found,) = judge(read_gate(f"parameters {sign} 50"), FIGURES)
    assert found.holds == held


def test_a_figure_that_is_not_there_is_told_with_the_nearest():
    gate = read_gate("acuracy >= 0.9, parameters <= 1")
    assert check(gate, ("accuracy", "parameters")) == ["no figure 'acuracy'; did you mean 'accuracy'?"]
    with pytest.raises(UserError, match="no figure 'acuracy'; did you mean 'accuracy'"):
        judge(gate, FIGURES)
    with pytest.raises(UserError, match="no figure 'parameters' on test"):  # it is of no split
        judge(read_gate("parameters <= 1 on test"), FIGURES)
