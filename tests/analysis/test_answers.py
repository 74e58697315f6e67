"""What was put into a folder is what is found in it: which depth, why, how sure, and when nothing can be said."""

import itertools
import json
import re

import numpy as np
import pytest

from research.analysis import load_networks, verdict
from research.analysis.answers import Compared, _smallest, answers, importances, moves, pareto, scaling
from research.analysis.statistics import holm
from research.analysis.sweeps import read_sweep
from research.analysis.words import about, caveats, movement, sentence


def found_in(folder):
    return answers(read_sweep(folder))


# ---------------------------------------------------------------------------------------------------------------------
# Causes


def test_depth_is_enough_where_a_feature_sees_all_of_the_input(world):
    found = found_in(world.sweep(world.by_field()))
    (series,) = found.series
    assert (series.finding, series.enough.depth, series.covers, series.is_by_field) == ("told", 5, 5, True)
    assert series.decline is None
    assert found.smallest.depth == 5
    told = sentence(found)
    assert told.startswith("Depth 5 (convolutions 4) is ")
    assert "only from depth 5 on does a feature see all of the 8 × 8 input" in told
    assert "degradation" not in told and "overfitting" not in told


def test_the_smallest_is_none_that_the_fewer_networks_of_its_series_tell_to_be_worse(world):
    found = found_in(world.sweep(world.by_field()))
    (series,) = found.series
    lax = {program: told._replace(is_worse=False, is_as_good=True) for program, told in found.compared.items()}
    assert _smallest(found.networks, lax, series).depth == 5
    assert _smallest(found.networks, lax, series._replace(compared=lax)).depth == min(n.depth for n in found.networks)


def test_a_receptive_field_that_always_covers_the_input_is_no_reason(world):
    always = [truth._replace(field=9) for truth in world.by_field()]
    found = found_in(world.sweep(always))
    assert found.series[0].covers is None
    assert "a feature see" not in sentence(found)
    assert "it fits the training data less well" in sentence(found)


def test_a_receptive_field_is_no_reason_where_less_is_as_good(world):
    late = [truth._replace(field=7 if truth.depth < 9 else 9) for truth in world.by_field()]
    (series,) = found_in(world.sweep(late)).series
    assert (series.covers, series.enough.depth, series.is_by_field) == (9, 5, False)


def test_training_loss_that_rises_with_depth_is_degradation(world):
    found = found_in(world.sweep(world.degrading()))
    (series,) = found.series
    assert (series.finding, series.best.depth, series.decline.cause) == ("told", 5, "degradation")
    assert series.decline.network.depth == 17
    assert "by degradation, for its training loss is higher as well" in sentence(found)


def test_training_loss_that_falls_while_answers_get_worse_is_overfitting(world):
    found = found_in(world.sweep(world.overfitting()))
    assert found.series[0].decline.cause == "overfitting"
    assert "by overfitting, for its training loss is lower" in sentence(found)


def test_without_training_figures_the_cause_is_said_to_be_unknown(world):
    found = found_in(world.sweep([truth._replace(train=None) for truth in world.degrading()]))
    assert found.series[0].decline.cause == "unmeasured"
    assert "not known without training figures" in sentence(found)


def test_training_loss_that_does_not_change_tells_no_cause(world):
    found = found_in(world.sweep([truth._replace(train=0.1) for truth in world.degrading()]))
    assert found.series[0].decline.cause == "unexplained"
    assert "its training loss tells no cause" in sentence(found)


def test_where_depths_are_alike_and_examples_many_there_is_nothing_to_choose(world):
    found = found_in(world.sweep(world.all_alike(), examples=20_000))
    (series,) = found.series
    assert (series.finding, series.enough.depth) == ("no difference", 2)
    assert "Depth makes no difference worth having from 2 to 9" in sentence(found)


def test_where_depths_are_alike_and_examples_few_the_evidence_is_too_thin(world):
    found = found_in(world.sweep(world.all_alike(), examples=360, seeds=10, seed=1))
    (series,) = found.series
    assert series.finding == "too thin"
    assert series.missing.examples > 2 * 360
    told = sentence(found)
    assert told.startswith("The evidence is too thin to name a depth")
    assert re.search(
        r"about [\d,]+ test examples( or about [\d,]+ seeds of each network)? would tell a difference", told
    )


def test_seeds_that_differ_widely_make_thin_evidence_whatever_the_number_of_examples(world):
    wild = [world.truth(2, 0.93, spread=0.03), world.truth(5, 0.94, spread=0.03)]
    found = found_in(world.sweep(wild, examples=5_000, seeds=3))
    assert found.series[0].finding == "too thin"
    assert found.series[0].missing.examples is None
    assert "seeds" in sentence(found)


def test_one_depth_says_nothing_of_depth(world):
    found = found_in(world.sweep([world.truth(5, 0.97)]))
    assert found.series[0].finding == "one depth"
    assert "Nothing can be said of depth" in sentence(found)


def test_a_depth_at_the_edge_is_said_to_be_one(world):
    growing = [world.truth(2, 0.8), world.truth(5, 0.9), world.truth(9, 0.97)]
    assert "no deeper one was tried, and it might be better still" in sentence(found_in(world.sweep(growing, "up")))
    falling = [world.truth(2, 0.97), world.truth(5, 0.9), world.truth(9, 0.8)]
    assert "it is the shallowest that was tried" in sentence(found_in(world.sweep(falling, "down")))


# ---------------------------------------------------------------------------------------------------------------------
# Words


@pytest.mark.parametrize("case", ["by_field", "degrading", "overfitting"])
def test_every_figure_in_the_verdict_is_one_that_was_computed(world, case):
    found = found_in(world.sweep(getattr(world, case)()))
    (series,) = found.series
    known = {str(network.depth) for network in found.networks} | {str(n.depth - 1) for n in found.networks}
    known |= {
        "95",
        "8",
        "0.001",
        "100",
        "60",
        "40",
        "180",
        "340",
        "000",
        *(f"{n.parameters:,}" for n in found.networks),
    }
    known |= {f"{network.multiply_adds / 1e3:.3g}" for network in found.networks}
    for network in found.networks:
        known |= {f"{100 * each:.1f}" for each in found.interval(network)}
    for told in series.compared.values():
        known |= {f"{abs(100 * each):.1f}" for each in told.difference[:3]} | {f"{told.p:.2g}"}
    losses = [*(series.decline.train if series.decline else ()), *(series.underfits or ())]
    known |= {f"{each:.3g}" for each in losses}
    known.add(f"{series.best.multiply_adds / series.enough.multiply_adds:.2g}")
    assert set(re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", sentence(found))) <= known


def test_what_weakens_the_verdict_is_said(world):
    told = verdict(world.sweep(world.by_field(), "old", fresh=False, kept=False))
    assert "Without trials on fresh seeds" in told
    assert "not kept, so intervals know of seeds alone" in told
    assert "one seed only" in verdict(world.sweep(world.by_field(), "one", seeds=1))
    assert caveats(found_in(world.sweep(world.by_field(), "whole"))) == []


def test_trials_that_are_missing_are_counted(world):
    folder = world.sweep(world.by_field())
    lines = (folder / "trials.jsonl").read_text().splitlines(keepends=True)
    (folder / "trials.jsonl").write_text("".join(lines[:20]))
    assert "Only 20 of 30 trials are done." in caveats(found_in(folder))


def test_a_folder_without_a_plan_has_no_verdict(world):
    folder = world.sweep(world.by_field())
    (folder / "sweep.json").unlink()
    assert "Nothing can be said of depth" in verdict(folder)


# ---------------------------------------------------------------------------------------------------------------------
# Series, budgets, comparisons


def two_series(world, **changes):
    """Plain networks, and residual ones that keep what depth gives."""
    plain, residual = world.degrading(), [world.truth(d, 0.94 + 0.002 * d, 0.05) for d in (2, 5, 9, 17)]
    return [
        truth._replace(values={"model.residual": kind, "model.convolutions": str(truth.depth - 1)}, **changes)
        for kind, truths in (("false", plain), ("true", residual))
        for truth in truths
    ]


def test_each_series_has_its_own_answer_the_one_with_the_best_first(world):
    found = found_in(world.sweep(two_series(world)))
    assert [series.name for series in found.series] == ["not residual", "residual"]
    assert [series.best.depth for series in found.series] == [5, 17]
    assert found.best is found.series[0].best
    assert about(found, found.series[1]).startswith("Residual: depth ")


@pytest.mark.parametrize(
    ("changes", "budget"),
    [
        ({}, "as it is"),
        ({"parameters": 5_000}, "at matched parameters"),
        ({"multiply_adds": 10**6}, "at matched FLOPs"),
        ({"parameters": 5_000, "multiply_adds": 10**6}, "at matched parameters and FLOPs"),
    ],
)
def test_a_series_whose_budgets_are_equal_is_matched(world, changes, budget):
    found = found_in(world.sweep([truth._replace(**changes) for truth in world.by_field()]))
    assert found.series[0].budget == budget
    if changes:
        assert sentence(found).startswith(f"A{budget[1:]}: depth 5")


def test_each_budget_of_the_plan_is_a_series_and_a_network_may_be_in_several(world):
    def values(depth, width):
        return {"model.convolutions": str(depth - 1), "model.features": str(width)}

    as_it_is = [truth._replace(values=values(truth.depth, 8)) for truth in world.by_field()]
    as_it_is[-1] = as_it_is[-1]._replace(budgets=("", "5,000 parameters"))
    narrow = [
        truth._replace(values=values(truth.depth, 9 + i), budgets=("5,000 parameters",))
        for i, truth in enumerate(world.by_field()[:-1])
    ]
    found = found_in(world.sweep([*as_it_is, *narrow]))
    assert {(series.name, series.budget) for series in found.series} == {
        ("as it is", "as it is"),
        ("at 5,000 parameters", "at 5,000 parameters"),
    }
    assert [len(series.by_depth) for series in found.series] == [len(as_it_is)] * 2
    assert found.budget(found.networks[0]) == "as it is"
    shared = next(n for n in found.networks if len(n.budgets) == 2)
    assert set(found.budget(shared).split(", ")) == {"as it is", "at 5,000 parameters"}
    matched = next(series for series in found.series if series.budget != "as it is")
    assert about(found, matched).startswith("At 5,000 parameters: depth")


def test_budgets_within_a_tenth_are_matched(world):
    def budget(*sizes):
        truths = [t._replace(parameters=size) for t, size in zip(world.by_field(), sizes, strict=False)]
        return found_in(world.sweep(truths, f"{sizes}")).series[0].budget

    assert budget(1_000, 1_050, 1_099) == "at matched parameters"
    assert budget(1_000, 1_050, 1_110) == "as it is"


def test_p_values_are_corrected_for_all_comparisons_with_the_best(world):
    found = found_in(world.sweep(two_series(world), examples=300))
    raw = [found.compared[n.program].difference.p for n in found.networks if n is not found.best]
    adjusted = [found.compared[n.program].p for n in found.networks if n is not found.best]
    assert adjusted == pytest.approx(holm(raw))
    assert len(raw) == 7
    assert any(a > r for a, r in zip(adjusted, raw, strict=True))


def test_validation_chooses_the_best_and_not_the_test_split(world):
    folder = world.sweep(world.all_alike())
    path = folder / "trials.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["validation"]["accuracy"] = 0.9 if row["program"] == 1 else 0.8
        row["test"]["accuracy"] = 0.1 if row["program"] == 1 else 0.99
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert found_in(folder).best.program == 1


def test_losses_judge_where_the_sweep_selects_by_loss(world):
    truths = [world.truth(2, 0.9, test=1.0), world.truth(5, 0.97, test=0.1)]
    found = found_in(world.sweep(truths, select="validation/loss"))
    assert found.measure == "loss"
    assert found.best.depth == 5
    told = found.compared[0]
    assert isinstance(told, Compared) and told.is_worse and told.difference.value > 0
    assert "a test loss of" in sentence(found)
    assert found.chances[1] > 0.99


def test_networks_of_other_data_are_not_compared(world):
    truths = [
        t._replace(values={"data": kind, "model.convolutions": str(t.depth - 1)})
        for kind in ("Digits", "Glyphs")
        for t in world.by_field()[:3]
    ]
    found = found_in(world.sweep(truths))
    assert {series.name for series in found.series} == {"Digits", "Glyphs"}
    assert len(found.compared) == 2
    assert set(found.chances) == {n.program for n in found.networks if n.data == found.best.data}


def test_the_front_is_what_nothing_beats_in_both(world):
    merits = {1: 0.5, 2: 0.4, 3: 0.7, 4: 0.7, 5: 0.9}
    networks = [
        n._replace(program=i + 1, multiply_adds=i)
        for i, n in enumerate(found_in(world.sweep(world.by_field())).networks)
    ]
    assert [n.program for n in pareto(networks, "multiply_adds", lambda n: merits[n.program])] == [1, 3, 5]


def test_networks_are_a_table_with_their_intervals(world):
    folder = world.sweep(world.by_field())
    table, found = load_networks(folder), found_in(folder)
    assert table["depth"].tolist() == [2, 3, 5, 9, 17]
    assert (table["test.accuracy.low"] < table["test.accuracy"]).all()
    assert (table["test.accuracy"] < table["test.accuracy.high"]).all()
    assert table["is_best"].sum() == table["is_smallest"].sum() == 1
    assert table["optimizer.learning_rate"].eq(0.003).all()
    assert table.loc[0, "p"] == pytest.approx(found.compared[0].p)
    assert table["best_in"].sum() == pytest.approx(1)


# ---------------------------------------------------------------------------------------------------------------------
# Scaling and importance


def test_a_series_has_a_curve_where_its_losses_fall_as_a_power(world):
    truths = [world.truth(d, 0.9, test=0.05 + 2 / d, parameters=100 * d, spread=0.0) for d in (2, 3, 5, 9, 17, 33)]
    found = found_in(world.sweep(truths, seeds=9))
    size, curve = scaling(found, found.series[0])
    assert (size, curve.problem) == ("parameters", None)
    assert curve.exponent.low < 1 < curve.exponent.high
    few = found_in(world.sweep(truths[:4], "few"))
    assert "too few" in scaling(few, few.series[0])[1].problem


def test_what_matters_is_told_from_what_does_not(world):
    told = importances(read_sweep(world.sweep(world.by_field())))
    assert next(iter(told)) == "model.convolutions"
    assert told["model.convolutions"] > 0.8
    assert told["seed"] < 0.05
    assert sum(told.values()) == pytest.approx(1)
    alike = importances(read_sweep(world.sweep(world.all_alike(), "alike")))
    assert next(iter(alike)) == "optimizer.learning_rate"


def test_a_field_that_follows_from_another_has_no_importance_of_its_own(world):
    truths = [
        t._replace(values={"model.convolutions": str(t.depth - 1), "model.features": f"{100 - t.depth}"})
        for t in world.by_field()
    ]
    assert "model.features" not in importances(read_sweep(world.sweep(truths)))


def test_too_few_trials_tell_no_importance(world):
    assert importances(read_sweep(world.sweep([world.truth(2, 0.9)], rates=(0.01,)))) == {}


def test_kinds_and_absent_values_have_importances_too(world):
    folder = world.sweep(world.by_field())
    path = folder / "trials.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for i, row in enumerate(rows):
        row["values"] |= {"optimizer": "SGD" if i // 2 % 2 else "AdamW", "clip": None if i % 3 else 1.0}
        if i // 2 % 2:
            row["values"]["optimizer.momentum"] = 0.9
        row["validation"]["accuracy"] = 0.5 + 0.4 * (i // 2 % 2) + 0.001 * np.sin(i)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    told = importances(read_sweep(folder))
    assert next(iter(told)) == "optimizer" and told["optimizer"] > 0.9
    assert "optimizer.momentum" not in told  # it follows from the kind


# ---------------------------------------------------------------------------------------------------------------------
# Few seeds


def test_what_cannot_be_told_but_may_be_much_worse_is_open_and_not_enough(world):
    truths = [world.truth(2, 0.5), world.truth(3, 0.85, spread=0.07), world.truth(9, 0.96)]
    found = found_in(world.sweep(truths, seeds=2, rates=(0.003,), seed=3))
    (series,) = found.series
    told = series.compared[1]
    assert not told.is_worse and not told.is_as_good
    assert (series.enough.depth, found.smallest.depth) == (9, 9)
    assert "whether depth 3 would do is open" in sentence(found)
    assert "depth 2 is worse by" in sentence(found)


def test_seeds_of_the_search_with_the_same_values_tell_how_much_seeds_differ(world):
    folder = world.sweep(world.by_field(), seeds=2)
    found = found_in(folder)
    judged = found.judged["accuracy"][""]
    assert judged.drawn.freedom.tolist() == [2] * 5  # two fresh ones, and two of the search
    assert all(len(network.trials) == len(network.others) == 2 for network in found.networks)
    rows = {row["trial"]: row for row in found.sweep.rows}
    for network in found.networks:
        assert judged.drawn.means[network.program] == pytest.approx(network.mean("test.accuracy"))
        assert {rows[trial]["stage"] for trial in network.others} == {"search"}
        assert {rows[trial]["values"]["optimizer.learning_rate"] for trial in network.others} == {0.003}


def test_networks_that_learned_from_the_same_draws_are_compared_draw_by_draw(world):
    folder = world.sweep(world.by_field(), seeds=4)
    assert not found_in(folder).judged["accuracy"][""].drawn.paired  # of `seed` alone they have nothing in common
    rows = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    for row in rows:
        other = row["program"] == 2 and row["values"]["seed"] == 1_000
        row["values"]["data.seed"] = 77 if other else row["values"]["seed"]
    (folder / "trials.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = found_in(folder)
    drawn = found.judged["accuracy"][""].drawn
    assert drawn.paired.keys() == set(itertools.permutations((0, 1, 3, 4), 2))
    assert {freedom for _, freedom in drawn.paired.values()} == {3}
    assert all(len(network.trials) == 4 for network in found.networks)


# ---------------------------------------------------------------------------------------------------------------------
# Where depth is not what differs


@pytest.fixture
def kinds(world):
    """l1 helps much, l2 a little, smoothing harms, against none; and half does nothing."""
    truths = world.of_kinds(none=0.8, l1=0.9, l2=0.83, label_smoothing=0.75, half=0.8)
    return found_in(world.with_strengths(world.sweep(truths, examples=4_000, rates=(0.003,), seeds=6)))


def test_kinds_are_named_by_what_they_have_and_told_at_the_strength_that_was_chosen(kinds):
    assert not kinds.is_about_depth
    assert [network.variant for network in kinds.networks] == ["none", "l1", "l2", "label_smoothing", "half"]
    assert kinds.none is kinds.networks[0]
    assert [network.setting.get("objective.l1") for network in kinds.networks[:3]] == [None, 0.2, None]


def test_kinds_are_compared_with_none(kinds):
    told = sentence(kinds)
    assert re.match(r"L1 \(l1 0.2, learning_rate 0.003\) is best: 9\d\.\d % right", told)
    better, alike, worse = told.split("; ")[1:]
    assert re.match(r"better than none are l1 \(by \d+\.\d points, p < 0.001\) and l2 \(by", better)
    assert alike == "half cannot be told from none"
    assert worse.startswith("worse than none is label_smoothing (by")
    raw = [kinds.from_none[n.program].difference.p for n in kinds.networks[1:]]
    assert [kinds.from_none[n.program].p for n in kinds.networks[1:]] == pytest.approx(holm(raw))
    for words in ("depth", "shallow", "deeper"):
        assert words not in told


def test_where_nothing_helps_none_is_best(world):
    truths = world.of_kinds(none=0.9, l1=0.8, l2=0.89)
    told = sentence(found_in(world.with_strengths(world.sweep(truths, examples=4_000, rates=(0.003,), seeds=6))))
    assert told.startswith("Nothing that was tried helps: none is best, with ")
    assert "worse than it" in told and "l1 (by" in told


def test_kinds_without_a_none_are_compared_with_the_best(world):
    truths = [
        world.truth(3, level, values={"schedule": kind})
        for kind, level in {"Cosine": 0.95, "Linear": 0.95, "Constant": 0.85}.items()
    ]
    told = sentence(found_in(world.sweep(truths, examples=4_000)))
    assert re.match(r"(Cosine|Linear) \(learning_rate 0.003\) is best: 9\d\.\d % right", told)
    assert "cannot be told from it (" in told
    assert re.search(r"worse is Constant \(by \d+\.\d points, p < 0.001\)", told)


def test_fields_that_no_trial_has_together_have_no_importances(kinds):
    assert importances(kinds.sweep) == {}


# ---------------------------------------------------------------------------------------------------------------------
# What moves the best depth


def test_the_best_depth_is_told_for_each_size_of_the_data(world):
    found = found_in(world.sweep(world.by_size(), examples=3_000))
    path, (line,) = moves(found)
    assert path == "data.examples"
    assert [(number, series.best.depth) for number, series in line.points] == [(100, 2), (1_000, 3), (10_000, 4)]
    assert movement(found) == "Best depth by examples: 2 at 100, 3 at 1,000, 4 at 10,000."
    assert movement(found) in verdict(found)


def test_each_duration_has_a_line_of_its_own(world):
    other = [
        t._replace(values=t.values | {"duration": "500 steps"}, accuracy=t.accuracy + 0.05) for t in world.by_size()
    ]
    path, lines = moves(found_in(world.sweep([*world.by_size(), *other])))
    assert (path, {line.name for line in lines}) == ("data.examples", {"50 steps", "500 steps"})
    assert [len(line.points) for line in lines] == [3, 3]


def test_without_such_a_number_nothing_moves(world):
    assert moves(found_in(world.sweep(two_series(world)))) is None
    assert movement(found_in(world.sweep(world.by_field(), "plain"))) == ""


# ---------------------------------------------------------------------------------------------------------------------
# Language


def of_language(folder):
    path = folder / "trials.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["test"]["bits_per_byte"] = row["test"]["loss"] / np.log(2)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_losses_of_language_models_are_told_in_bits(world):
    truths = [world.truth(5, 0.5, train=1.5, test=2.0), world.truth(9, 0.6, train=1.0, test=1.5)]
    folder = of_language(world.sweep(truths, select="validation/loss"))
    found = found_in(folder)
    value = found.interval(found.best).value
    told = sentence(found)
    assert f"{value / np.log(2):.3f} bits per byte of the test split" in told
    assert re.search(r"depth 5 by \d\.\d+ bits", told)
    assert "training loss" not in told or "bits)" in told
    table = load_networks(folder)
    assert table.loc[1, "test.loss"] == pytest.approx(value, rel=1e-3)  # in nats, as everywhere in tables
