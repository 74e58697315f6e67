"""A trial in a sweep is the trial run alone, and nothing that happens to its neighbours touches it."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from research.config import override
from research.models import ConvNet
from research.sweeps import Sweep, grid, log_uniform, product, repeat, trials, where
from research.sweeps import run as module
from research.sweeps.fit import Edge, fit
from research.sweeps.lanes import advance, begin, make_lanes
from research.training import SGD, EarlyStopping, Momentum, run, steps
from research.training.evaluation import to_device
from research.training.loop import lengths
from research.training.plan import boundary, make_plan
from research.training.step import initial_state, train_chunk


@pytest.fixture
def base(base):
    return dataclasses.replace(base, duration=steps(20), log_every=steps(5), evaluate_every=steps(10))


def fitted(experiments, interrupted=lambda: None):
    """The rows of trials of one structure, and those of their metrics."""
    sweep = Sweep(base=experiments[0], space=grid("seed", 0))
    (trial,) = trials(sweep)
    members = [trial._replace(index=i, experiment=e) for i, e in enumerate(experiments)]
    loaded, written = experiments[0].data.load(), []
    edge = Edge(written.append, lambda *_: None, interrupted)
    return fit(make_plan(experiments[0], loaded), members, loaded, edge), written


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("mlp", [("optimizer.learning_rate", 0.03), ("optimizer.learning_rate", 0.3)]),
        ("mlp", [("data_seed", 0), ("data_seed", 5)]),
        ("mlp", [("seed", 3), ("seed", 3)]),  # lanes that are alike
        ("convnet", [("seed", 0), ("seed", 5)]),
    ],
)
def test_twenty_steps_side_by_side_are_those_of_each_alone(base, changes, model):
    if model == "convnet":
        convolutional = ConvNet(features=(4,), hidden=(), norm="batch", dropout=0.2)
        base = dataclasses.replace(base, model=convolutional, optimizer=Momentum(learning_rate=0.05))
    experiments = [override(base, path, value) for path, value in changes]
    loaded = base.data.load()
    plan = make_plan(base, loaded)
    data = to_device(plan, loaded.splits["train"], loaded.normalisation)
    lanes = make_lanes(plan, experiments)
    frozen, states = begin(lanes, len(experiments))
    states, _ = advance(lanes, frozen, states, data, lengths(0, [7, 20]))
    for i, experiment in enumerate(experiments):
        state, own = initial_state(plan, boundary(experiment))
        state, _ = train_chunk(plan, boundary(experiment), own, state, data, lengths(0, [20]))
        for path, value in {**state.trainable, **state.model_state}.items():
            together = {**states.trainable, **states.model_state}[path][i]
            np.testing.assert_allclose(together, value, atol=1e-5, err_msg=path)


def test_final_figures_are_those_of_the_solo_run(base, tmp_path):
    experiments = [override(base, "optimizer.learning_rate", rate) for rate in (0.01, 0.1)]
    rows, metrics = fitted(experiments)
    for i, experiment in enumerate(experiments):
        alone = run.train(dataclasses.replace(experiment, name=f"alone_{i}"), workdir=str(tmp_path))
        assert rows[i]["status"] == alone["reason"] == "finished"
        assert rows[i]["steps"] == 20
        assert rows[i]["best_step"] == alone["best"]["step"]
        assert rows[i]["validation"]["accuracy"] == pytest.approx(alone["best"]["value"])
        assert rows[i]["test"]["loss"] == pytest.approx(alone["test"]["loss"], abs=1e-5)
        told = read(Path(alone["folder"]), "metrics.jsonl")
        ours = [row for row in metrics if row["trial"] == i]
        assert [(row["step"], row["split"]) for row in ours] == [(row["step"], row["split"]) for row in told]
        for mine, its in zip(ours, told, strict=True):
            assert mine["loss"] == pytest.approx(its["loss"], abs=1e-5)


def test_a_trial_that_diverges_is_told_and_hurts_no_other(base):
    base = dataclasses.replace(base, optimizer=SGD(learning_rate=0.1), patience_nonfinite=3)
    wild = override(base, "optimizer.learning_rate", 1e30)
    (calm, diverged), metrics = fitted([base, wild])
    (alone,), _ = fitted([base])
    assert (calm["status"], diverged["status"]) == ("finished", "not finite")
    assert calm["test"]["loss"] == pytest.approx(alone["test"]["loss"], abs=1e-5)
    assert max(row["step"] for row in metrics if row["trial"] == 1) < 20
    assert max(row["step"] for row in metrics if row["trial"] == 0) == 20


def test_a_trial_that_runs_out_of_patience_stops_alone(base):
    base = dataclasses.replace(base, early_stopping=EarlyStopping(patience=1), evaluate_every=steps(2))
    base = dataclasses.replace(base, optimizer=SGD(learning_rate=0.1), select="validation/loss")
    still = override(base, "optimizer.learning_rate", 0.0)
    (moving, stopped), metrics = fitted([base, still])
    assert stopped["status"] == "stopped early"
    assert stopped["steps"] == 4  # the second evaluation is no better than the first
    assert max(row["step"] for row in metrics if row["trial"] == 1) == 4
    assert moving["steps"] > 4


def test_what_all_share_is_not_mapped_over(base):
    loaded = base.data.load()
    plan = make_plan(base, loaded)
    rates = [override(base, "optimizer.learning_rate", rate) for rate in (0.1, 0.2)]
    assert [leaf.shape for leaf in make_lanes(plan, rates).own] == [(2,)]
    assert not make_lanes(plan, rates).program.seeded
    assert make_lanes(plan, [override(base, "seed", seed) for seed in (1, 2)]).program.seeded


# ---------------------------------------------------------------------------------------------------------------------
# The whole sweep


@pytest.fixture
def sweep(base):
    space = product(
        grid("model.depth", 1, 2), log_uniform("optimizer.learning_rate", 0.01, 0.1, trials=2), repeat("seed", 2)
    )
    return Sweep(base=base, space=space, name="tiny")


def read(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_sweep_keeps_a_row_of_each_trial_and_finds_the_best(sweep, tmp_path):
    summary = module.run(sweep, workdir=str(tmp_path))
    (folder,) = (tmp_path / "tiny").iterdir()
    rows = read(folder, "trials.jsonl")
    assert [row["trial"] for row in rows] == list(range(8))
    assert {tuple(row["values"]) for row in rows} == {("model.depth", "optimizer.learning_rate", "seed")}
    best = max(rows, key=lambda row: (row["validation"]["accuracy"], -row["validation"]["loss"]))
    assert summary["best"]["trial"] == best["trial"]
    assert [program["done"] for program in summary["programs"]] == [4, 4]
    metrics = read(folder, "metrics.jsonl")
    assert {row["trial"] for row in metrics} == set(range(8))
    for name in ("sweep.json", "environment.json", "summary.json"):
        assert (folder / name).is_file()


def test_the_same_sweep_again_runs_nothing(sweep, tmp_path, monkeypatch):
    first = module.run(sweep, workdir=str(tmp_path))
    monkeypatch.setattr(module.fit, "fit", lambda *_: pytest.fail("a trial was run again"))
    assert module.run(sweep, workdir=str(tmp_path)) == first
    assert len(list((tmp_path / "tiny").iterdir())) == 1


def test_a_larger_sweep_runs_what_is_new_alone(sweep, tmp_path, monkeypatch):
    module.run(sweep, workdir=str(tmp_path))
    ran = []

    def watched(plan, trials, *rest):
        ran.extend(trial.assignment["seed"] for trial in trials)
        return fit(plan, trials, *rest)

    monkeypatch.setattr(module.fit, "fit", watched)
    larger = override(sweep, "space.spaces.2.times", 3)
    summary = module.run(larger, workdir=str(tmp_path))
    assert ran == [2] * 4
    assert summary["done"] == 12


def test_an_interrupted_sweep_goes_on_where_it_was(sweep, tmp_path, monkeypatch):
    whole = module.run(sweep, workdir=str(tmp_path / "whole"))
    calls = []

    def second_interrupted(*arguments):
        calls.append(1)
        return None if len(calls) == 2 else fit(*arguments)

    monkeypatch.setattr(module.fit, "fit", second_interrupted)
    stopped = module.run(sweep, workdir=str(tmp_path / "parts"))
    assert (stopped["reason"], stopped["done"]) == ("interrupted", 4)
    finished = module.run(sweep, workdir=str(tmp_path / "parts"))
    assert (finished["reason"], finished["done"]) == ("finished", 8)
    for a, b in zip(
        *(read(next((tmp_path / part / "tiny").iterdir()), "trials.jsonl") for part in ("whole", "parts")), strict=True
    ):
        assert a | {"seconds": 0} == b | {"seconds": 0}
    assert finished["best"]["trial"] == whole["best"]["trial"]


def test_rows_of_unfinished_trials_are_dropped_before_they_are_written_again(sweep, tmp_path):
    module.run(sweep, workdir=str(tmp_path))
    (folder,) = (tmp_path / "tiny").iterdir()
    lines = (folder / "trials.jsonl").read_text().splitlines(keepends=True)
    (folder / "trials.jsonl").write_text("".join(lines[:4]))  # as if it had been killed in the second program
    before = len(read(folder, "metrics.jsonl"))
    module.run(sweep, workdir=str(tmp_path))
    assert len(read(folder, "metrics.jsonl")) == before


def test_a_space_with_a_lambda_can_be_run(base, tmp_path):
    space = where(grid("model.depth", 1, 2), lambda values: values["model.depth"] < 2)
    summary = module.run(Sweep(base=base, space=space, name="lambda"), workdir=str(tmp_path))
    assert (summary["reason"], summary["done"]) == ("finished", 1)
    assert module.run(Sweep(base=base, space=space, name="lambda"), workdir=str(tmp_path)) == summary


def test_trials_are_cut_into_batches_that_fit(sweep, tmp_path, monkeypatch):
    sizes = []

    def watched(plan, trials, *rest):
        sizes.append(len(trials))
        return fit(plan, trials, *rest)

    monkeypatch.setattr(module.fit, "fit", watched)
    monkeypatch.setattr(module, "MOST_AT_ONCE", 3)
    module.run(sweep, workdir=str(tmp_path))
    assert sizes == [2, 2, 2, 2]  # of four, as equal as they come


def test_a_program_that_cannot_be_built_fails_alone(base, tmp_path):
    from research.models import BERT, MLP

    summary = module.run(
        Sweep(base=base, space=grid("model", MLP(depth=1, width=4), BERT(depth=1)), name="mixed"),
        workdir=str(tmp_path),
    )
    (folder,) = (tmp_path / "mixed").iterdir()
    statuses = {row["status"] for row in read(folder, "trials.jsonl")}
    assert statuses == {"finished", "failed"}
    assert summary["reason"] == "finished"
    assert jax.tree.leaves(summary["best"]["validation"])
