"""A trial in a sweep is the trial run alone, and nothing that happens to its neighbours touches it."""

import dataclasses
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest

from research.config import override
from research.data import Digits
from research.data.base import Streamed
from research.jsonl import read_rows
from research.models import ConvNet
from research.parameters.partition import Partition, freeze, train
from research.sweeps import Sweep, grid, trials
from research.sweeps.fit import Edge, Pack, Setting
from research.sweeps.lanes import _advance, advance, begin, make_lanes, make_program
from research.training import SGD, EarlyStopping, Momentum, run, steps
from research.training.checkpoints import Checkpoints
from research.training.evaluation import to_device
from research.training.loop import lengths
from research.training.plan import boundary, make_plan
from research.training.step import initial_state, train_chunk


@pytest.fixture
def base(base):
    return dataclasses.replace(base, duration=steps(20), log_every=steps(5), evaluate_every=steps(10))


def pack_of(experiments, how="map", devices=2, capacity=0):
    """A pack of trials of one structure."""
    sweep = Sweep(base=experiments[0], space=grid("seed", 0))
    (trial,) = trials(sweep)
    members = [trial._replace(index=i, experiment=e) for i, e in enumerate(experiments)]
    loaded = experiments[0].data.load()
    program = make_program(make_plan(experiments[0], loaded), experiments, jax.devices()[:devices], how)
    return Pack(program, members, loaded, capacity)


def quiet(written, interrupted=lambda: None, **more):
    return Edge(written.append, lambda *_: None, interrupted, **more)


def fitted(experiments, **how):
    """The rows of trials of one structure, and those of their metrics."""
    pack, written = pack_of(experiments, **how), []
    assert pack.advance(pack.plan.steps, quiet(written))
    return pack.finish().rows, written


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("mlp", [("optimizer.learning_rate", 0.03), ("optimizer.learning_rate", 0.3)]),
        ("mlp", [("data_seed", 0), ("data_seed", 5)]),
        ("mlp", [("seed", 3), ("seed", 3)]),  # lanes that are alike
        ("convnet", [("seed", 0), ("seed", 5)]),
    ],
)
@pytest.mark.parametrize(("how", "devices"), [("map", 1), ("map", 2), ("vmap", 1)])
def test_twenty_steps_together_are_those_of_each_alone(base, changes, model, how, devices):
    if model == "convnet":
        convolutional = ConvNet(features=(4,), hidden=(), norm="batch", dropout=0.2)
        base = dataclasses.replace(base, model=convolutional, optimizer=Momentum(learning_rate=0.05))
    experiments = [override(base, path, value) for path, value in changes]
    loaded = base.data.load()
    plan = make_plan(base, loaded)
    data = to_device(plan, loaded.splits["train"], loaded.normalisation)
    lanes = make_lanes(make_program(plan, experiments, jax.devices()[:devices], how), experiments, capacity=4)
    frozen, states = begin(lanes)
    data = jax.device_put(data, lanes.program.everywhere())
    states, _ = advance(lanes, frozen, states, data, lengths(0, [7, 20]))
    data = to_device(plan, loaded.splits["train"], loaded.normalisation)
    for place, experiment in zip(lanes.places, experiments, strict=True):
        state, own = initial_state(plan, boundary(experiment))
        state, _ = train_chunk(plan, boundary(experiment), own, state, data, lengths(0, [20]))
        for path, value in {**state.trainable, **state.model_state}.items():
            together = {**states.trainable, **states.model_state}[path][place]
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
        told = read_rows(Path(alone["folder"], "metrics.jsonl"))
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
    plan = make_plan(base, base.data.load())
    rates = [override(base, "optimizer.learning_rate", rate) for rate in (0.1, 0.2)]
    program = make_program(plan, rates, jax.devices()[:1], "map")
    assert [leaf.shape for leaf in make_lanes(program, rates).own] == [(2,)]
    assert not program.seeded
    assert make_program(plan, [override(base, "seed", seed) for seed in (1, 2)], jax.devices()[:1], "map").seeded


@pytest.mark.parametrize("at", [1, 3])
def test_a_pack_saved_and_restored_goes_on_bit_for_bit(base, tmp_path, at):
    base = dataclasses.replace(base, log_every=steps(1), evaluate_every=steps(5))
    experiments = [override(base, "optimizer.learning_rate", rate) for rate in (0.01, 0.1, 0.3)]
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
def test_those_that_stay_are_not_touched_when_others_leave(base, how):
    """With parameters frozen that each trial has of its own, and more devices than trials stay."""
    base = dataclasses.replace(base, partition=Partition(rules=(freeze("block_00/.*"), train("head/.*"))))
    experiments = [override(base, "seed", seed) for seed in range(5)]
    pack = pack_of(experiments, how=how)
    assert pack.advance(10, quiet([]))
    (gone, *_) = pack.narrow([4, 1, 3])
    assert (gone["trial"], gone["status"], gone["test"], gone["ended"]) == (0, "left early", None, False)
    assert pack.advance(20, quiet([]))
    rows, _ = fitted(experiments, how=how)
    for row in pack.finish().rows:
        assert row["validation"]["loss"] == pytest.approx(rows[row["trial"]]["validation"]["loss"], abs=1e-6)
        assert row["test"]["loss"] == pytest.approx(rows[row["trial"]]["test"]["loss"], abs=1e-6)


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_only_the_best_setting_may_be_tested_and_its_figures_are_the_same(base, how):
    base = dataclasses.replace(base, partition=Partition(rules=(freeze("block_00/.*"), train("head/.*"))))
    rates = (0.0, 0.03, 0.0, 0.03, float("inf"))
    experiments = [
        override(override(base, "seed", seed), "optimizer.learning_rate", rate) for seed, rate in enumerate(rates)
    ]
    pack = pack_of(experiments, how=how)
    assert pack.advance(20, quiet([]))
    whole, some = pack.finish(), pack.finish([Setting(0, str(rate)) for rate in rates])
    means = {
        rate: np.mean([row["validation"]["accuracy"] for row in whole.rows if rates[row["trial"]] == rate])
        for rate in rates[:2]
    }
    assert means[0.03] > means[0.0]
    for row, full in zip(some.rows, whole.rows, strict=True):
        assert (row["status"], row["validation"], row["ended"]) == (full["status"], full["validation"], True)
        is_best = rates[row["trial"]] == 0.03
        assert (row["test"] is not None, row["train"] is not None) == (is_best, is_best)
        if is_best:
            assert row["test"] == pytest.approx(full["test"], abs=1e-6)
            assert row["train"] == pytest.approx(full["train"], abs=1e-6)
    assert some.examples["trials"].tolist() == [1, 3]
    np.testing.assert_allclose(some.examples["losses"], whole.examples["losses"][[1, 3]], rtol=1e-5, atol=1e-6)


def test_what_a_trial_made_of_each_test_example_adds_up_to_its_figures(base):
    pack = pack_of([override(base, "seed", seed) for seed in range(3)])
    assert pack.advance(20, quiet([]))
    rows, examples = pack.finish()
    assert examples["trials"].tolist() == [0, 1, 2]
    for row, correct, losses in zip(rows, examples["correct"], examples["losses"], strict=True):
        assert correct.mean() == pytest.approx(row["test"]["accuracy"])
        assert losses.mean() == pytest.approx(row["test"]["loss"], rel=1e-6)
    assert examples["losses"].std() > 0


def test_streamed_data_gives_the_figures_of_data_in_memory(base, monkeypatch):
    experiments = [override(base, "optimizer.learning_rate", rate) for rate in (0.01, 0.1)]
    in_memory, _ = fitted(experiments)
    load = Digits.load

    def streamed(self):
        loaded = load(self)
        splits = {
            name: Streamed(split.labels, np.arange(len(split)), split.shape, split.dtype, split.inputs.__getitem__)
            for name, split in loaded.splits.items()
        }
        return loaded._replace(splits=splits)

    monkeypatch.setattr(Digits, "load", streamed)
    assert make_plan(base, base.data.load()).streamed
    for ours, theirs in zip(fitted(experiments)[0], in_memory, strict=True):
        assert ours["test"] == pytest.approx(theirs["test"], abs=1e-6)
        assert ours["validation"] == pytest.approx(theirs["validation"], abs=1e-6)


def test_one_compiled_program_serves_any_number_of_trials(base):
    experiments = [override(base, "seed", seed) for seed in range(6)]
    program = make_program(make_plan(base, base.data.load()), experiments, jax.devices()[:2], "map")
    _advance.clear_cache()  # of other tests, which may have the same program
    for count in (6, 1, 3):
        lanes = make_lanes(program, experiments[:count], capacity=6)
        frozen, states = begin(lanes)
        data = jax.device_put(to_device(program.plan, *loaded_train(base)), program.everywhere())
        advance(lanes, frozen, states, data, lengths(0, [1]))
    assert _advance._cache_size() == 1


def loaded_train(base):
    loaded = base.data.load()
    return loaded.splits["train"], loaded.normalisation


@pytest.mark.parametrize(("how", "devices"), [("map", 2), ("map", 1), ("vmap", 1)])
def test_what_is_compiled_ahead_is_what_is_run(base, caplog, how, devices):
    pack, written = pack_of([override(base, "seed", seed) for seed in (0, 1, 2)], how=how, devices=devices), []
    pack.compile_ahead()
    with jax.log_compiles():
        assert pack.advance(pack.plan.steps, quiet(written))
        pack.finish()
        jax.jit(lambda x: x + 1)(np.arange(7))
    compiled = [message.split()[1] for message in caplog.messages if message.startswith("Compiling")]
    assert "jit(<lambda>)" in compiled  # it would be told
    # `_begin` is found on the disk alone (see `runtime.run_once`).
    assert not {"jit(_advance)", "jit(_evaluate)"} & set(compiled)
