"""A search: what is asked next follows from what was told, and is better than chance."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from research.config import from_json, to_json, validate
from research.errors import UserError
from research.models import MLP, ConvNet
from research.sweeps import (
    TPE,
    Halving,
    Sweep,
    batches,
    chain,
    choice,
    derived,
    grid,
    integers,
    log_uniform,
    prefix,
    product,
    repeat,
    sobol,
    subsample,
    uniform,
    where,
    zipped,
)
from research.sweeps import run as module
from research.sweeps.display import show
from research.sweeps.lanes import _advance
from research.sweeps.plan import make_plan
from research.sweeps.search import Told, ask, assignments, pareto, repeats
from research.training import SGD

UP = ("up",)
WIDTHS = 2, 8, 16


def searched(search, space, function, goals=UP):
    """All that is told: a point and what `function` makes of its first assignment, which may be None."""
    told = []
    while len(told) < search.trials:
        points = ask(search, space, told, goals)
        told += [Told(point, function(assignments(space, point)[0])) for point in points]
    return told


def asked(space, trials=32):
    """The assignments of some points, with nothing told in between that matters."""
    told = searched(TPE(trials=trials, batch=8), space, lambda _: (0.0,))
    return [assignments(space, point) for point, _ in told]


# ---------------------------------------------------------------------------------------------------------------------
# Better than chance


def bowl(values):
    return (-((values["x"] - 1.3) ** 2) - 4 * (values["y"] + 2.1) ** 2,)


def test_the_optimum_of_a_function_is_found_better_than_at_random():
    space = product(uniform("x", -5, 5), uniform("y", -5, 5))
    distances = {}
    for name, startup in (("search", 10), ("random", 1000)):
        runs = [searched(TPE(seed=seed, startup=startup), space, bowl) for seed in range(5)]
        distances[name] = [-max(values[0] for _, values in told) for told in runs]
    assert np.mean(distances["search"]) < 0.3 * np.mean(distances["random"])
    assert max(distances["search"]) < 0.5


def test_the_best_of_values_without_an_order_is_found():
    space = product(grid("kind", *"abcdefgh"), choice("other", None, True, 3))

    def function(values):
        return (1.0 * (values["kind"] == "f") + (values["other"] is True),)

    told = searched(TPE(trials=20, batch=4), space, function)
    assert max(values for _, values in told) == (2.0,)


def test_with_two_goals_the_points_gather_at_the_front():
    """Of x to be large and x + y^2 to be small, the front is y = 0."""
    space = product(uniform("x", 0, 1), uniform("y", -1, 1))

    def function(values):
        return values["x"], values["x"] + values["y"] ** 2

    told = searched(TPE(trials=96, batch=16), space, function, ("up", "down"))
    off = [abs(assignments(space, point)[0]["y"]) for point, _ in told]
    assert np.mean(off[48:]) < 0.6 * np.mean(off[:16])
    assert np.ptp([assignments(space, point)[0]["x"] for point, _ in told[48:]]) > 0.5  # and not at one end of it


def test_where_points_fail_the_search_stays_away():
    space = uniform("x", 0, 1)
    told = searched(TPE(trials=64), space, lambda values: None if values["x"] < 0.5 else (0.0,))
    failed = [values is None for _, values in told]
    assert sum(failed[:16]) > 4
    assert np.mean(failed[32:]) < 0.6 * np.mean(failed[:16])


@pytest.mark.parametrize("goals", [UP, ("up", "down")])
def test_a_search_in_which_everything_fails_goes_on(goals):
    assert len(searched(TPE(trials=40, batch=8), uniform("x", 0, 1), lambda _: None, goals)) == 40


# ---------------------------------------------------------------------------------------------------------------------
# Batches


def test_a_batch_follows_from_what_was_told():
    search, space = TPE(trials=40, batch=16, startup=4), product(uniform("x", 0, 1), choice("kind", "a", "b"))
    first = ask(search, space, [], UP)
    assert first == ask(search, space, [], UP)
    assert first != ask(dataclasses.replace(search, seed=1), space, [], UP)
    told = [Told(point, (point["x"],)) for point in first]
    second = ask(search, space, told, UP)
    assert second == ask(search, space, told, UP)
    assert second != ask(search, space, [Told(point, (-point["x"],)) for point in first], UP)
    assert second != first


def test_the_last_batch_is_what_is_left():
    search = TPE(trials=40, batch=16)
    assert search.batches() == [16, 16, 8]
    told = searched(search, uniform("x", 0, 1), lambda _: (0.0,))
    assert len(told) == 40
    assert ask(search, uniform("x", 0, 1), told, UP) == []


def test_no_point_is_asked_for_twice_while_there_are_others():
    space = product(grid("a", 1, 2, 3), grid("b", "x", "y"))
    told = searched(TPE(trials=6, batch=3, startup=1), space, lambda values: (values["a"],))
    assert len({tuple(point.items()) for point, _ in told}) == 6
    assert len(searched(TPE(trials=12, batch=3), space, lambda values: (values["a"],))) == 12


# ---------------------------------------------------------------------------------------------------------------------
# Spaces


def test_values_are_of_their_distributions():
    space = product(
        log_uniform("rate", 1e-4, 1e-1, trials=3), integers("depth", 1, 4), choice("kind", "a", None), grid("w", 8, 64)
    )
    found = [each for (each,) in asked(space)]
    assert all(1e-4 <= each["rate"] <= 1e-1 for each in found)
    assert np.median([each["rate"] for each in found]) < 0.02  # as many below a hundredth as there should be
    assert {each["depth"] for each in found} == {1, 2, 3, 4}
    assert {each["kind"] for each in found} == {"a", None}
    assert {each["w"] for each in found} == {8, 64}


def test_a_point_is_run_with_every_seed():
    seeds = zipped(repeat("seed", 3), repeat("data_seed", 3))
    space = product(uniform("x", 0, 1), seeds, repeat("other", 2))
    for several in asked(space, 8):
        assert len({each["x"] for each in several}) == 1
        assert [(each["seed"], each["data_seed"], each["other"]) for each in several] == [
            (seed, seed, other) for seed in range(3) for other in range(2)
        ]
    assert repeats(space) == 6


def test_prefixes_and_what_is_computed_are_those_of_the_space():
    computed = derived("model.width", len)
    for (each,) in asked(product(prefix("model", prefix("inner", integers("depth", 1, 2))), computed), 8):
        assert each == {"model.inner.depth": each["model.inner.depth"], "model.width": computed}


def test_of_a_chain_one_space_is_chosen_with_what_it_has_inside():
    space = chain(
        product(grid("kind", "a"), uniform("x", 0, 1)),
        product(grid("kind", "b"), uniform("x", 2, 3), repeat("seed", 2)),
    )
    found = asked(space)
    assert {each[0]["kind"] for each in found} == {"a", "b"}
    for several in found:
        low = {"a": 0, "b": 2}[several[0]["kind"]]
        assert all(low <= each["x"] <= low + 1 for each in several)
        assert len(several) == {"a": 1, "b": 2}[several[0]["kind"]]


def test_what_is_zipped_or_drawn_of_a_space_is_chosen_as_it_is():
    together = zipped(grid("a", 1, 2, 3), grid("b", "x", "y", "z"))
    assert {tuple(each.values()) for (each,) in asked(together)} == {(1, "x"), (2, "y"), (3, "z")}
    some = subsample(product(grid("a", *range(10)), grid("b", *range(10))), 5)
    assert {tuple(each.items()) for (each,) in asked(some)} == {tuple(each.items()) for each in some}


def test_the_distributions_of_a_sobol_sequence_are_searched():
    space = sobol(uniform("x", 0, 1), integers("n", 1, 3), trials=4)
    assert {each["n"] for (each,) in asked(space)} == {1, 2, 3}


def test_constraints_hold():
    space = where(
        product(uniform("x", 0, 1, trials=4), uniform("y", 0, 1, trials=4), repeat("seed", 2)),
        lambda values: values["x"] < values["y"],
    )
    found = asked(space)
    assert all(each["x"] < each["y"] for several in found for each in several)
    assert all(len(several) == 2 for several in found)


def test_constraints_that_next_to_nothing_meets_are_told():
    space = where(uniform("x", 0, 1, trials=10000), lambda values: values["x"] < 0.001)
    with pytest.raises(UserError, match="admitted none of 100 points"):
        asked(space, 8)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5))))
def test_the_front_is_of_those_that_nothing_beats(entries):
    costs, scores = [cost for cost, _ in entries], [score for _, score in entries]
    found = pareto(costs, scores)

    def beats(a, b):
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    assert {entries[i] for i in found} == {b for b in entries if not any(beats(a, b) for a in entries)}
    assert len({entries[i] for i in found}) == len(found)
    assert sorted(found, key=lambda i: costs[i]) == found


# ---------------------------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": product(repeat("seed", 3), derived("model.width", len))}, "search: the space has nothing to choose"),
        ({"search": TPE(trials=4, batch=8)}, "search.batch: 8 points cannot be asked for at once"),
        ({"search": TPE(trials=0)}, "search.trials: 0 is not in"),
        ({"halving": Halving()}, "halving: it compares all trials"),
    ],
)
def test_a_search_that_cannot_be_is_refused(base, change, message):
    given = {"space": integers("model.depth", 1, 2), "search": TPE(), **change}
    with pytest.raises(UserError, match=message):
        validate(Sweep(base=base, **given))


def test_a_wrong_key_is_told_before_anything_runs(base):
    with pytest.raises(UserError, match="optimizer.learning_rat: no such field.*learning_rate"):
        make_plan(Sweep(base=base, space=uniform("optimizer.learning_rat", 0, 1), search=TPE()))


def test_a_sweep_with_a_search_is_written_as_json(base):
    sweep = Sweep(base=base, space=integers("model.depth", 1, 2), search=TPE(seed=3), cost="multiply_adds")
    assert from_json(json.loads(json.dumps(to_json(sweep))), Sweep) == sweep


# ---------------------------------------------------------------------------------------------------------------------
# In a sweep


@pytest.fixture
def sweep(base):
    space = product(
        integers("model.depth", 1, 3), log_uniform("optimizer.learning_rate", 0.001, 0.1), repeat("seed", 2)
    )
    search = TPE(trials=6, batch=2, startup=2)
    return Sweep(base=base, space=space, search=search, judge=0, name="hunt")


def read(summary, name):
    return [json.loads(line) for line in Path(summary["folder"], name).read_text().splitlines()]


def test_the_points_of_a_search_are_run_and_kept(sweep, tmp_path):
    _advance.clear_cache()  # of other tests, which may have the same programs
    summary = module.run(sweep, workdir=str(tmp_path))
    rows = read(summary, "trials.jsonl")
    assert [row["trial"] for row in rows] == list(range(12))
    assert summary["done"] == summary["trials"] == 12
    points = [point for batch in read(summary, "search.jsonl") for point in batch["points"]]
    depths = [point["model.depth"] for point in points]
    assert [row["values"]["model.depth"] for row in rows] == [depth for depth in depths for _ in range(2)]
    assert [row["values"]["seed"] for row in rows] == [0, 1] * 6
    plan = json.loads(Path(summary["folder"], "sweep.json").read_text())["plan"]
    for row in rows:
        program = plan["programs"][row["program"]]
        assert row["fingerprint"] in {trial["fingerprint"] for trial in program["trials"]}
    assert len(plan["programs"]) == len(set(depths)) > 1
    assert _advance._cache_size() == len(set(depths))  # later batches find what was compiled


def test_what_is_asked_for_next_hangs_on_what_came_of_the_trials(sweep, tmp_path, monkeypatch):
    told, original = [], batches.ask
    monkeypatch.setattr(batches, "ask", lambda s, space, t, goals: told.append(list(t)) or original(s, space, t, goals))
    summary = module.run(dataclasses.replace(sweep, cost="parameters"), workdir=str(tmp_path))
    rows = read(summary, "trials.jsonl")
    assert [len(each) for each in told] == [0, 2, 4]
    plan = json.loads(Path(summary["folder"], "sweep.json").read_text())["plan"]
    for number, (_, (accuracy, cost)) in enumerate(told[-1]):
        of_point = rows[2 * number : 2 * number + 2]
        assert accuracy == pytest.approx(np.mean([row["validation"]["accuracy"] for row in of_point]))
        assert cost == pytest.approx(np.log(plan["programs"][of_point[0]["program"]]["parameters"]))


@pytest.mark.parametrize("after", [1, 3, 6])
def test_an_interrupted_search_goes_on_as_the_whole_one(sweep, tmp_path, interrupted_after, after):
    whole = module.run(sweep, workdir=str(tmp_path / "whole"))
    interrupted_after(after)
    stopped = module.run(sweep, workdir=str(tmp_path / "parts"))
    assert stopped["reason"] == "interrupted"
    interrupted_after(1000)
    finished = module.run(sweep, workdir=str(tmp_path / "parts"))
    assert finished["folder"] == stopped["folder"]
    for name in ("trials.jsonl", "search.jsonl"):
        a, b = ([row | {"seconds": 0} for row in read(summary, name)] for summary in (whole, finished))
        assert a == b
    plans = [json.loads(Path(summary["folder"], "sweep.json").read_text())["plan"] for summary in (whole, finished)]
    assert plans[0] == plans[1]


def test_a_search_that_is_done_asks_nothing(sweep, tmp_path, monkeypatch):
    first = module.run(sweep, workdir=str(tmp_path))
    monkeypatch.setattr(batches, "ask", None)
    assert module.run(sweep, workdir=str(tmp_path)) == first


def test_a_longer_search_goes_on_with_what_a_shorter_one_found(sweep, tmp_path, monkeypatch):
    first = module.run(sweep, workdir=str(tmp_path))
    longer = dataclasses.replace(sweep, search=TPE(trials=8, batch=2, startup=2))
    second = module.run(longer, workdir=str(tmp_path))
    rows = [read(summary, "trials.jsonl") for summary in (first, second)]
    assert [row["fingerprint"] for row in rows[1][:12]] == [row["fingerprint"] for row in rows[0]]
    assert [row["seconds"] for row in rows[1][:12]] == [row["seconds"] for row in rows[0]]  # they were not run again


def test_points_that_fail_hurt_no_other(base, tmp_path):
    base = dataclasses.replace(base, optimizer=SGD(), patience_nonfinite=1)
    space = product(
        grid("model", MLP(depth=1, width=4), ConvNet(features=(4,) * 5)),  # the second pools more than there is
        log_uniform("optimizer.learning_rate", 1e-3, 1e36),
    )
    search = TPE(trials=12, batch=4, startup=4)
    summary = module.run(Sweep(base=base, space=space, search=search, judge=0, name="wild"), workdir=str(tmp_path))
    statuses = {row["status"] for row in read(summary, "trials.jsonl")}
    assert statuses == {"finished", "not finite", "failed"}
    assert summary["reason"] == "finished"


def test_a_point_that_makes_no_experiment_is_left_out(base, tmp_path, capsys):
    """None of the first batch, which would be told before anything runs."""
    search = TPE(trials=3, batch=1, seed=3)
    sweep = Sweep(base=base, space=grid("accumulate", 1, 2, 3), search=search, judge=0, name="odd")
    summary = module.run(sweep, workdir=str(tmp_path))
    assert [row["values"]["accumulate"] for row in read(summary, "trials.jsonl")] in ([1, 2], [2, 1])
    assert "a point of the search is left out: accumulate: 3 does not divide" in capsys.readouterr().out


def test_the_front_is_told_and_judged_first(base, tmp_path):
    space = product(grid("model.width", *WIDTHS), repeat("seed", 2))
    sweep = Sweep(base=base, space=space, cost="parameters", judge=1, judge_most=1, name="front")
    summary = module.run(sweep, workdir=str(tmp_path))
    rows = read(summary, "trials.jsonl")
    means = [np.mean([row["validation"]["accuracy"] for row in rows[i : i + 2]]) for i in range(0, 6, 2)]
    best = [i for i in range(3) if all(means[i] > mean for mean in means[:i])]
    assert [entry["program"] for entry in summary["front"]] == best
    assert [entry["value"] for entry in summary["front"]] == pytest.approx([means[i] for i in best])
    assert [entry["cost"] for entry in summary["front"]] == [65 * WIDTHS[i] + (WIDTHS[i] + 1) * 10 for i in best]
    (judged,) = (row for row in rows if row["stage"] == "judgement")
    assert judged["program"] in best


def test_the_plan_of_a_search_is_shown_with_its_first_batch(sweep):
    file = io.StringIO()
    show(Console(file=file, width=80), make_plan(dataclasses.replace(sweep, cost="multiply_adds")))
    text = file.getvalue()
    assert "optimizer.learning_rate  between 0.001 and 0.1, log-uniformly" in text
    assert "search   TPE: 6 points in 3 batches of 2, each run 2 times: 12 trials" in text
    assert "best by  validation/accuracy, and few multiply-adds" in text
    assert "plan     first batch: 4 trials" in text
    assert "first batch  4 trials" in text
