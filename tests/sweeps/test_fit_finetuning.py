"""Trials that begin with the weights of a source, or train more and more, are their runs alone as well."""

import contextlib
import dataclasses
import itertools
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from research.config import override
from research.jsonl import read_rows
from research.models import MLP
from research.parameters import Partition, freeze, full, gradual, last_blocks, linear_probe, others, train
from research.sweeps import Sweep, chain, grid, product, repeat, trials
from research.sweeps import run as sweeps
from research.sweeps.fit import Edge, Pack
from research.sweeps.lanes import make_program
from research.training import Finetuning, Momentum, Pretrained, features, interruption, run, sources, steps
from research.training.checkpoints import Checkpoints
from research.training.plan import make_plan

MODEL = MLP(depth=2, width=6, norm="batch", dropout=0.1)
AFTER = Partition(train("head/.*", reinitialise=True), train("block_01/.*", after=steps(7)), freeze(others()))
LATER = Partition(train("head/.*"), train("block_01/.*", after=steps(7)), train(others(), after=steps(14)))


@pytest.fixture
def base(base):
    return dataclasses.replace(
        base,
        model=MODEL,
        optimizer=Momentum(learning_rate=0.02),  # Adam makes steps of rounding, where a norm makes gradients vanish
        batch_size=64,  # each example is seen once, so that features pay
        duration=steps(20),
        log_every=steps(5),
        evaluate_every=steps(10),
    )


@pytest.fixture(scope="module")
def sources_made(tmp_path_factory):
    return tmp_path_factory.mktemp("sources")


@pytest.fixture
def source(base, sources_made, tmp_path, monkeypatch):
    """The folder of a run that was trained before, under a short name."""
    known = list(sources_made.glob("before/*"))
    if not known:
        run.train(dataclasses.replace(base, name="before", seed=7), workdir=str(sources_made))
    monkeypatch.chdir(tmp_path)
    Path("before").symlink_to(next(sources_made.glob("before/*")))
    return "before"


def tuned(base, source, partition, stay_close=None, **fields):
    finetuning = Finetuning(source=source and Pretrained(source), partition=partition, stay_close=stay_close)
    return dataclasses.replace(base, finetuning=finetuning, **fields)


def of_seeds(experiment, count=3):
    return [override(experiment, "seed", seed) for seed in range(count)]


def pack_of(experiments, how="map", devices=2, capacity=0):
    (trial,) = trials(Sweep(base=experiments[0], space=grid("seed", 0)))
    members = [trial._replace(index=i, experiment=e) for i, e in enumerate(experiments)]
    loaded = experiments[0].data.load()
    program = make_program(make_plan(experiments[0], loaded), experiments, jax.devices()[:devices], how)
    return Pack(program, members, loaded, capacity)


def quiet(written, interrupted=lambda: None):
    return Edge(written.append, lambda *_: None, interrupted)


def check_against_runs_alone(experiments, folder, ways=(("map", 2), ("vmap", 1))):
    alone = []
    for i, experiment in enumerate(experiments):
        summary = run.train(dataclasses.replace(experiment, name=f"alone_{i}"), workdir=str(folder))
        alone.append((summary, read_rows(Path(summary["folder"], "metrics.jsonl"))))
    for how, devices in ways:
        pack, written = pack_of(experiments, how, devices), []
        assert pack.advance(pack.plan.steps, quiet(written))
        for row, (summary, told) in zip(pack.finish().rows, alone, strict=True):
            assert (row["status"], row["best_step"]) == ("finished", summary["best"]["step"])
            assert row["test"]["loss"] == pytest.approx(summary["test"]["loss"], rel=1e-5, abs=1e-5)
            ours = [entry for entry in written if entry["trial"] == row["trial"]]
            assert [(entry["step"], entry["split"]) for entry in ours] == [(e["step"], e["split"]) for e in told]
            for mine, its in zip(ours, told, strict=True):
                assert mine["loss"] == pytest.approx(its["loss"], rel=1e-5, abs=1e-5), (how, mine["step"])


@pytest.mark.parametrize(
    ("partition", "fields"),
    [
        (full(), {"stay_close": 0.3}),
        (last_blocks(1, new_head=True), {"average": 0.9}),
        (linear_probe(), {}),
    ],
    ids=["close", "last", "probe"],
)
def test_trials_that_begin_with_a_source_are_their_runs_alone(base, source, tmp_path, partition, fields):
    check_against_runs_alone(of_seeds(tuned(base, source, partition, **fields), 2), tmp_path)


@pytest.mark.parametrize("begins_with", ["source", "new values"])
def test_trials_that_train_more_and_more_are_their_runs_alone(base, source, tmp_path, begins_with):
    if begins_with == "source":
        experiment = tuned(base, source, LATER, stay_close=0.1, average=0.9)
    else:
        experiment = dataclasses.replace(base, partition=gradual(1, steps(6)))
    ways = [("map", 2)] if begins_with == "source" else [("vmap", 2)]
    check_against_runs_alone(of_seeds(experiment, 2), tmp_path, ways)


def test_the_distance_that_is_kept_may_differ_between_trials(base, source, tmp_path):
    experiment = tuned(base, source, full(), stay_close=0.0)
    experiments = [override(experiment, "finetuning.stay_close", weight) for weight in (0.0, 1.0)]
    check_against_runs_alone(experiments, tmp_path, [("map", 1)])


def test_the_best_of_an_earlier_phase_is_what_is_judged(base, source, tmp_path):
    """What comes after the first phase is torn apart."""
    rules = tuple(dataclasses.replace(rule, learning_rate=300.0) if rule.after else rule for rule in LATER.rules)
    experiment = tuned(base, source, Partition(*rules), select="validation/loss")
    check_against_runs_alone(of_seeds(experiment, 2), tmp_path, [("map", 2)])
    pack = pack_of(of_seeds(experiment, 2))
    pack.advance(20, quiet([]))
    assert {row["best_step"] for row in pack.finish().rows} == {7}


def test_what_comes_of_the_source_and_is_frozen_is_there_once(base, source):
    pack = pack_of(of_seeds(tuned(base, source, AFTER, stay_close=0.1)))
    assert pack.advance(5, quiet([]))
    shapes = {path: value.shape for path, value in pack._frozen.items()}
    assert shapes["block_00/dense/kernel"] == (64, 6)
    assert shapes["block_01/dense/kernel"] == (6, 6)
    assert not any(path.startswith("head") for path in shapes)  # trained
    new = dataclasses.replace(base, partition=linear_probe(new_head=False))
    pack = pack_of(of_seeds(new), devices=1)
    assert pack.advance(5, quiet([]))
    assert pack._frozen["block_00/dense/kernel"].shape == (3, 64, 6)


def test_features_are_computed_once_for_all_trials_where_they_are_the_same(base, source, monkeypatch):
    made, make = [], features.on_features
    monkeypatch.setattr(features, "on_features", lambda *arguments: made.append(arguments[3].layer) or make(*arguments))
    pack = pack_of(of_seeds(tuned(base, source, linear_probe())))
    assert pack.advance(20, quiet([]))
    assert made == ["head"]
    made.clear()
    own = [override(e, "model.dropout", 0.1 * i) for i, e in enumerate(of_seeds(tuned(base, source, linear_probe())))]
    assert pack_of(own).advance(20, quiet([]))
    new = of_seeds(dataclasses.replace(base, partition=linear_probe(new_head=False)))
    assert pack_of(new).advance(20, quiet([]))
    assert not made


@pytest.mark.parametrize("partition", [LATER, linear_probe()], ids=["later", "probe"])
def test_what_was_compiled_ahead_is_what_is_called(base, source, caplog, partition):
    pack = pack_of(of_seeds(tuned(base, source, partition, stay_close=0.1)), capacity=4)
    with jax.log_compiles():
        assert pack.compile_ahead() > 0
        ahead = compiled(caplog)
        caplog.clear()
        assert pack.advance(20, quiet([]))
        pack.finish()
    assert {"_begin", "_advance", "_evaluate"} <= ahead
    assert compiled(caplog).isdisjoint({"_begin", "_enter", "_advance", "_evaluate"})


def compiled(caplog):
    """The functions that XLA was given, by name."""
    found = (re.match(r"Compiling (?:jit\()?(\w+)", record.getMessage()) for record in caplog.records)
    return {match[1] for match in found if match}


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_pack_stopped_in_any_phase_goes_on_bit_for_bit(base, source, tmp_path, at):
    experiments = of_seeds(tuned(base, source, LATER, stay_close=0.1, average=0.9), 2)
    whole, written = pack_of(experiments), []
    assert whole.advance(20, quiet(written))
    left = itertools.chain([None] * at, itertools.repeat("SIGTERM"))
    stopped = pack_of(experiments)
    assert not stopped.advance(20, quiet([], lambda: next(left)))
    assert 0 < stopped.step < 20
    with Checkpoints(tmp_path) as checkpoints:
        stopped.save(checkpoints)
    resumed, again = pack_of(experiments), []
    resumed.restore(Checkpoints(tmp_path).restore_latest())
    assert resumed.advance(20, quiet(again))
    assert [row for row in written if row["step"] > stopped.step] == again
    a, b = whole.finish(), resumed.finish()
    assert [row | {"seconds": 0} for row in a.rows] == [row | {"seconds": 0} for row in b.rows]
    np.testing.assert_array_equal(a.examples["losses"], b.examples["losses"])


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_those_that_stay_are_not_touched_when_others_leave(base, source, how):
    experiments = of_seeds(tuned(base, source, LATER, stay_close=0.1))
    pack = pack_of(experiments, how)
    assert pack.advance(10, quiet([]))
    pack.narrow([2, 0])
    assert pack.advance(20, quiet([]))
    whole = pack_of(experiments, how)
    assert whole.advance(20, quiet([]))
    rows = whole.finish().rows
    for row in pack.finish().rows:
        assert row["test"]["loss"] == pytest.approx(rows[row["trial"]]["test"]["loss"], abs=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Whole sweeps


def strategies(source):
    return {
        "scratch": None,
        "probe": Finetuning(source=Pretrained(source), partition=linear_probe()),
        "last": Finetuning(source=Pretrained(source), partition=last_blocks(1, new_head=True)),
        "gradual": Finetuning(source=Pretrained(source), partition=LATER),
    }


def test_strategies_are_swept_and_the_source_is_read_once(base, source, tmp_path, monkeypatch):
    read, reader = [], sources.read_source
    monkeypatch.setattr(sources, "read_source", lambda path: read.append(path) or reader(path))
    space = product(
        grid("finetuning", *strategies(source).values()), grid("optimizer.learning_rate", 0.01, 0.02), repeat("seed", 2)
    )
    summary = sweeps.run(Sweep(base=base, space=space, judge=1, name="strategies"), workdir=str(tmp_path))
    assert (summary["reason"], summary["done"], len(summary["programs"])) == ("finished", 16, 4)
    assert read == [source]
    rows = read_rows(Path(summary["folder"], "trials.jsonl"))
    assert {row["status"] for row in rows} == {"finished"}
    names = [program["values"]["finetuning"] for program in summary["programs"]]
    assert len(set(names)) == 4


def test_fields_of_the_partition_may_be_swept(base, source, tmp_path):
    base = tuned(base, source, Partition(train("head/.*", learning_rate=1.0), freeze(others())))
    space = chain(
        product(grid("finetuning.partition.rules.0.learning_rate", 0.5, 2.0), repeat("seed", 2)),
        grid("finetuning.partition", full(), linear_probe()),
        grid("finetuning.stay_close", 0.1, 0.2),
        grid("finetuning.source", None),
    )
    plan = sweeps.make_plan(Sweep(base=base, space=space, judge=0, name="fields"))
    assert sorted(len(row.group.trials) for row in plan.rows) == [1, 1, 1, 2, 4]
    assert not any(row.problems for row in plan.rows)
    summary = sweeps.run(Sweep(base=base, space=space, judge=0, name="fields"), workdir=str(tmp_path))
    assert summary["done"] == 9
    first = read_rows(Path(summary["folder"], "trials.jsonl"))
    rate = "finetuning.partition.rules.0.learning_rate"
    of_rates = [(row["values"][rate], row["test"]["loss"]) for row in first if rate in row["values"]]
    assert len(of_rates) == 4
    assert len(set(of_rates)) == 2  # all begin with the source, and what is frozen drops nothing


def test_another_source_of_the_same_name_makes_other_trials(base, source, tmp_path):
    sweep = Sweep(base=tuned(base, source, linear_probe()), space=repeat("seed", 2), judge=1, name="again")
    first = sweeps.run(sweep, workdir=str(tmp_path / "runs"))
    assert sweeps.run(sweep, workdir=str(tmp_path / "runs"))["folder"] == first["folder"]
    run.train(dataclasses.replace(base, name="anew", seed=8), workdir=str(tmp_path))
    Path("before").unlink()
    Path("before").symlink_to(next(tmp_path.glob("anew/*")))
    second = sweeps.run(sweep, workdir=str(tmp_path / "runs"))
    assert second["folder"] != first["folder"]
    marks = [{row["fingerprint"] for row in read_rows(Path(s["folder"], "trials.jsonl"))} for s in (first, second)]
    assert len(marks[0]) == len(marks[1]) == 3
    assert marks[0].isdisjoint(marks[1])


def test_a_source_that_does_not_fit_fails_its_program_alone(base, source, tmp_path):
    nowhere = Finetuning(source=Pretrained("nowhere"))
    fitting = Finetuning(source=Pretrained(source), partition=linear_probe())
    space = chain(grid("finetuning", None, nowhere), product(grid("finetuning", fitting), grid("model.width", 6, 9)))
    summary = sweeps.run(Sweep(base=base, space=space, judge=0, name="unfit"), workdir=str(tmp_path / "runs"))
    rows = read_rows(Path(summary["folder"], "trials.jsonl"))
    assert [row["status"] for row in rows] == ["finished", "failed", "finished", "failed"]
    assert "nowhere: there is no such run" in rows[1]["problems"][0]
    assert "block_00/dense/kernel is (64, 6) there and (64, 9) here" in rows[3]["problems"][1]


def test_an_interrupted_sweep_goes_on_in_the_phase_it_was_in(base, source, tmp_path, monkeypatch):
    space = product(grid("finetuning", *list(strategies(source).values())[2:]), repeat("seed", 2))
    sweep = Sweep(base=base, space=space, judge=0, name="stopped")
    whole = sweeps.run(sweep, workdir=str(tmp_path / "whole"))
    for after in (5, 1000):
        answers = itertools.chain([None] * after, itertools.repeat("SIGTERM"))
        told = contextlib.nullcontext(lambda answers=answers: next(answers))
        monkeypatch.setattr(interruption, "signals", lambda told=told: told)
        parts = sweeps.run(sweep, workdir=str(tmp_path / "parts"))
    assert parts["reason"] == "finished"
    tables = [json.loads(json.dumps(s["programs"])) for s in (whole, parts)]
    for program in (*tables[0], *tables[1]):
        program["best"].pop("seconds")
    assert tables[0] == tables[1]
