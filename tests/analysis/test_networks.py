"""Networks are told apart in words, and judged by the trials that had no say in choosing their values."""

import json

import pytest

from research.analysis.networks import networks_of, series_names, without_what_names_say
from research.analysis.sweeps import is_numeric, outcomes, read_sweep, si


def test_what_a_name_stands_for_is_left_out_beside_it():
    rows = [{"name": name, "examples": n, "part": part} for name, part in (("a", "x"), ("b", "y")) for n in "12"]
    assert without_what_names_say(rows) == [{"name": row["name"], "examples": row["examples"]} for row in rows]


@pytest.mark.parametrize(
    "pairs", [[("a", "x"), ("b", "y"), ("c", "y")], [("a", "x"), ("b", "y"), ("b", "z")], [("a", "1"), ("b", "2")]]
)
def test_what_it_does_not_say_stays(pairs):
    rows = [{"name": name, "part": part} for name, part in pairs]
    assert without_what_names_say(rows) == rows
    unnamed = [{"part": "x"}, *rows]
    assert without_what_names_say(unnamed) == unnamed


@pytest.mark.parametrize(
    ("programs", "names"),
    [
        (
            [{"model.convolutions": "1"}, {"model.convolutions": "2"}],
            [("", "convolutions 1"), ("", "convolutions 2")],
        ),
        (
            [{"name": "all of it", "part": "Part(full)"}, {"name": "a part", "part": "Part(last 1)"}],
            [("all of it", ""), ("a part", "")],
        ),
        (
            [{"model.depth": "1", "model.residual": "true"}, {"model.depth": "1", "model.residual": "false"}],
            [("residual", ""), ("not residual", "")],
        ),
        (
            [{"model.layers": "1", "model.features": "(8)"}, {"model.layers": "2", "model.features": "(4)"}],
            [("", "layers 1, features 8"), ("", "layers 2, features 4")],
        ),
        (
            [{"model": "MLP(depth 1)"}, {"model": "MLP(depth 2)"}, {"model": "ViT(depth 2, pool mean)"}],
            [("MLP", "MLP depth 1"), ("MLP", "MLP depth 2"), ("ViT(pool mean)", "ViT depth 2")],
        ),
        ([{"model": "MLP(depth 1)"}, {"model": "VGG"}], [("MLP", "MLP depth 1"), ("VGG", "")]),
        (
            [{"name": "plain", "model.depth": "1"}, {"name": "matched", "model.depth": "2"}],
            [("plain", "model.depth 1"), ("matched", "model.depth 2")],
        ),
        # How much data there is makes another series, though it is a number
        ([{"data.train": "100"}, {"data.train": "200"}], [("train 100", ""), ("train 200", "")]),
        ([{"optimizer.clip": "none"}, {"optimizer.clip": "a number"}], [("clip none", ""), ("clip a number", "")]),
        ([{}], [("", "")]),
    ],
)
def test_numbers_of_the_model_vary_within_a_series_and_all_else_makes_another(programs, names):
    assert series_names(programs) == names


def test_numbers_are_known_as_typed():
    assert all(map(is_numeric, ("16", "-0.5", "1e-3", "(8 16)", "[3, 3]", ".5")))
    assert not any(map(is_numeric, ("", "true", "none", "a number", "ConvNet", "1x1", "10 epochs")))


def test_numbers_are_told_shortly():
    told = {330: "330", 7162: "7,162", 451_234: "451 k", 4_089_184_256: "4.09 G", 9_376.5: "9.38e+03", 999_999: "1 M"}
    assert {number: si(number) for number in told} == {**told, 9_376.5: si(9_376.5)}
    assert si(1e15) == "1 P"


def test_a_network_is_judged_by_its_fresh_seeds_alone(world):
    folder = world.sweep(world.by_field(), seeds=3)
    sweep = read_sweep(folder)
    for network in networks_of(sweep):
        assert network.is_fresh
        rows = [row for row in sweep.rows if row["trial"] in network.trials]
        assert {row["stage"] for row in rows} == {"judgement"}
        assert {row["program"] for row in rows} == {network.program}
        assert network.setting == {"optimizer.learning_rate": 0.003}
        assert network.mean("test.accuracy") == pytest.approx(sum(r["test"]["accuracy"] for r in rows) / 3)


def test_without_fresh_seeds_the_values_best_in_validation_judge_whatever_the_test_split_says(world):
    folder = world.sweep(world.by_field()[:1], fresh=False)
    path = folder / "trials.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        rate = row["values"]["optimizer.learning_rate"]
        row["validation"] = {"accuracy": 0.5 if rate == 0.01 else 0.4, "loss": 1.0}
        row["test"] = {"accuracy": 0.1 if rate == 0.01 else 0.9, "loss": 1.0}
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (network,) = networks_of(read_sweep(folder))
    assert (network.is_fresh, network.setting) == (False, {"optimizer.learning_rate": 0.01})
    assert network.mean("test.accuracy") == pytest.approx(0.1)


def test_trials_that_came_to_nothing_are_counted_and_left_out(world):
    folder = world.sweep(world.by_field()[:2], seeds=3)
    path = folder / "trials.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    judging = [row for row in rows if row["stage"] == "judgement"]
    judging[0] |= {"status": "not finite", "validation": None, "test": None, "train": None}
    for row in judging[3:]:
        row |= {"status": "failed", "validation": None, "test": None, "train": None, "problems": ["too large"]}
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    first, second = networks_of(read_sweep(folder))
    assert (len(first.trials), first.lost) == (2, 1)
    assert not second.is_fresh  # nothing of its judgement is left, so the search has to do


def test_trials_that_were_left_early_judge_nothing(world):
    folder = world.sweep(world.by_field()[:1], fresh=False)
    path = folder / "trials.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["values"]["optimizer.learning_rate"] == 0.003:
            row["status"] = "left early"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (network,) = networks_of(read_sweep(folder))
    assert network.setting != {"optimizer.learning_rate": 0.003}


def test_answers_to_examples_are_found_in_whichever_file_they_are(world):
    sweep = read_sweep(world.sweep(world.by_field()[:2], examples=50))
    found = outcomes(sweep, range(len(sweep.rows)), "correct")
    assert found.keys() == {row["trial"] for row in sweep.rows}
    for row in sweep.rows:
        assert found[row["trial"]].mean() == pytest.approx(row["test"]["accuracy"])
    assert outcomes(sweep, [3, 999], "losses").keys() == {3}


def test_an_older_folder_knows_programs_by_fingerprints(world):
    folder = world.sweep(world.by_field(), fresh=False, kept=False)
    path = folder / "trials.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    older = [{k: v for k, v in row.items() if k not in ("stage", "of", "program", "train")} for row in rows]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in older))
    sweep = read_sweep(folder)
    assert [row["program"] for row in sweep.rows] == [row["program"] for row in rows]
    assert [network.depth for network in networks_of(sweep)] == [2, 3, 5, 9, 17]
