"""Unfreezing on a schedule: what is trained goes on undisturbed, what is new begins anew, a run can stop anywhere."""

import contextlib
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.config import from_json, to_json
from research.errors import UserError
from research.jsonl import read_rows
from research.models import MLP
from research.parameters import Partition, freeze, gradual, head_then_all, others, train
from research.training import AdamW, Experiment, Finetuning, Muon, Pretrained, epochs, run, steps
from research.training.evaluation import to_device
from research.training.loop import lengths
from research.training.phases import enter, last_plan, plan_at
from research.training.plan import boundary, make_plan, replicate
from research.training.state import as_flat
from research.training.step import batch_at, initial_state, train_chunk

MODEL = MLP(depth=4, width=6, residual=True, scan=True)


def tuned(tiny, partition, **fields):
    tuning = {name: fields.pop(name) for name in ("source", "stay_close") if name in fields}
    finetuning = Finetuning(partition=partition, **tuning)
    return tiny(**{"model": MODEL, "optimizer": AdamW(learning_rate=0.01), "finetuning": finetuning} | fields)


def begin(experiment):
    loaded = experiment.data.load()
    plan, leaves = make_plan(experiment, loaded), boundary(experiment)
    state, frozen = replicate(plan, initial_state(plan, leaves))
    return plan, leaves, frozen, state, to_device(plan, loaded.splits["train"], loaded.normalisation)


def train_through(experiment, stops=()):
    """The states at the ends of all phases, and at some steps between."""
    plan, leaves, frozen, state, data = begin(experiment)
    found = []
    while int(state.step) < plan.steps:
        phase = plan_at(plan, int(state.step))
        state, frozen = enter(phase, experiment, state, frozen)
        end = min([phase.until, *(stop for stop in stops if stop > int(state.step))])
        state, _ = train_chunk(phase, leaves, frozen, state, data, lengths(int(state.step), [end]))
        found.append((phase, jax.device_get(state), jax.device_get(frozen)))
    return found


def by_hand(experiment, begins):
    """Adam for each group from its own first step on, with optax: {path: value}. begins: step by path's group."""
    plan, leaves, frozen, state, data = begin(experiment)
    parameters = jax.tree.map(jnp.copy, {**state.trainable, **frozen})
    group = {path: begins(path) for path in parameters}
    adam = optax.chain(
        optax.scale_by_adam(eps=1e-8),
        optax.add_decayed_weights(0.01, lambda tree: {path: path.endswith("kernel") for path in tree}),
        optax.scale(-0.01),
    )

    @jax.jit
    def gradient(parameters, number):
        batch = batch_at(plan, leaves, data, number, jnp.uint32(0))

        def loss(parameters):
            logits, _ = plan.network(leaves).apply(plan.merge(parameters, {}, {}), batch["inputs"], train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()

        return jax.grad(loss)(parameters)

    plan = dataclasses.replace(plan, frozen=(), fixed=())
    states = {}
    for number in range(plan.steps):
        found = gradient(parameters, jnp.uint32(number))
        for start in set(group.values()):
            members = {path: value for path, value in parameters.items() if group[path] == start}
            if start == number:
                states[start] = adam.init(members)
            if start <= number:
                own = {path: found[path] for path in members}
                updates, states[start] = adam.update(own, states[start], members)
                parameters |= optax.apply_updates(members, updates)
    return parameters


def test_each_group_is_trained_as_if_it_began_alone_when_it_does(tiny):
    partition = Partition(train("head/.*"), train("block_03/.*", after=steps(4)), train(others(), after=steps(9)))
    experiment = tuned(tiny, partition, duration=steps(14))
    *_, (_, state, _) = train_through(experiment)

    def begins(path):
        return 0 if path.startswith("head") else 4 if "[03:04]" in path else 9

    expected = by_hand(experiment, begins)
    assert state.trainable.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(state.trainable[path], value, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("optimizer", [AdamW(), Muon()])
def test_what_waits_is_frozen_and_costs_nothing_until_it_begins(tiny, optimizer):
    fields = {"optimizer": optimizer, "model": dataclasses.replace(MODEL, norm="batch"), "average": 0.9}
    experiment = tuned(tiny, head_then_all(steps(5)), **fields)
    (first, before, frozen), (second, after, left) = train_through(experiment)
    assert (first.until, second.until) == (5, 20)
    assert set(before.trainable) == {"head/kernel", "head/bias"}
    assert not any("block" in key for key in as_flat(before))
    assert set(frozen) == {path for path in (*second.stored, *second.state) if not path.startswith("head")}
    assert left == {}
    assert set(after.trainable) == set(second.stored)
    assert set(after.model_state) == set(second.state)
    initial = jax.device_get(begin(experiment)[2])
    assert all(frozen[path].tobytes() == initial[path].tobytes() for path in initial)


def test_where_a_chunk_ends_does_not_matter(tiny):
    experiment = tuned(tiny, gradual(2, steps(4)), duration=steps(18))
    (*_, (_, whole, _)), (*_, (_, parts, _)) = train_through(experiment), train_through(experiment, (2, 6, 7, 15))
    for (path, a), b in zip(as_flat(whole).items(), as_flat(parts).values(), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path


def test_gradual_unfreezing_goes_from_the_head_down(tiny):
    plan = begin(tuned(tiny, gradual(2, steps(4)), duration=steps(18)))[0]
    layers = {step: {path.split("/")[0] for path in plan_at(plan, step).trainable} for step in (0, 3, 4, 8, 12)}
    assert layers[0] == layers[3] == {"head"}
    assert layers[4] == {"head", "block[03:04]"}
    assert layers[8] == {"head", "block[03:04]", "block[02:03]"}
    assert layers[12] == {"head", "block[03:04]", "block[02:03]", "block[01:02]", "block_00"}
    assert plan_at(plan, 12) == last_plan(plan)
    assert plan_at(plan, 0) == plan


def test_one_that_begins_after_the_end_or_with_nothing_is_told(tiny):
    with pytest.raises(UserError) as caught:
        make_plan(tuned(tiny, head_then_all(steps(20))), tiny().data.load())
    assert caught.value.problems == ("partition: train(others(), after=20 steps) would begin at step 20; there are 20",)
    with pytest.raises(UserError, match="nothing is trained from the start"):
        make_plan(tuned(tiny, Partition(train(".*", after=steps(3)))), tiny().data.load())
    frozen = dataclasses.replace(freeze(others()), after=steps(3))
    with pytest.raises(UserError, match="what is frozen is not trained"):
        make_plan(tuned(tiny, Partition(train("head/.*"), frozen)), tiny().data.load())


def test_a_schedule_survives_json(tiny):
    experiment = tuned(tiny, gradual(2, epochs(1)))
    assert from_json(to_json(experiment), Experiment) == experiment


# ---------------------------------------------------------------------------------------------------------------------
# Runs


@pytest.fixture
def source(tiny, tmp_path):
    return run.train(tiny(model=MODEL, name="source", seed=4), workdir=str(tmp_path / "source"))["folder"]


def scheduled(tiny, source, **fields):
    second, third = train("block_03/.*", after=steps(7)), train(others(), after=steps(12))
    partition = Partition(train("head/.*", reinitialise=True), second, third)
    tuning = {"source": Pretrained(source), "stay_close": 0.1}
    return tuned(tiny, partition, name="scheduled", average=0.9, **tuning, **fields)


def stop_after(rows, folder, monkeypatch):
    def count():
        return sum(path.read_bytes().count(b"\n") for path in folder.glob("runs/*/*/metrics.jsonl"))

    @contextlib.contextmanager
    def signals():
        yield lambda: "SIGTERM" if count() > rows else None

    monkeypatch.setattr(run.interruption, "signals", signals)


@pytest.mark.parametrize("rows", [1, 4, 6])
def test_a_run_stopped_in_any_phase_goes_on_bit_for_bit(tiny, source, tmp_path, monkeypatch, rows):
    experiment = scheduled(tiny, source)
    whole = Path(run.train(experiment, workdir=str(tmp_path / "whole"))["folder"])
    stop_after(rows, tmp_path, monkeypatch)
    stopped = run.train(experiment, workdir=str(tmp_path / "runs"))
    monkeypatch.undo()
    assert stopped["reason"] == "interrupted"
    run.resume(stopped["folder"])
    timed = ("time", "examples_per_second")
    tables = [
        [{k: v for k, v in row.items() if k not in timed} for row in read_rows(folder / "metrics.jsonl")]
        for folder in (whole, Path(stopped["folder"]))
    ]
    assert tables[0] == tables[1]
    assert [row["step"] for row in tables[0] if row["split"] == "validation"] == [7, 10, 12, 20]
    ends = [json.loads((folder / "summary.json").read_text()) for folder in (whole, Path(stopped["folder"]))]
    assert ends[0]["test"] == ends[1]["test"]


def test_the_best_of_any_phase_can_be_used(tiny, source, tmp_path):
    """What comes after the first phase is torn apart, so that the best is of the first."""
    experiment = scheduled(tiny, source, select="validation/loss")
    torn = dataclasses.replace(experiment, finetuning=dataclasses.replace(experiment.finetuning, stay_close=None))
    rules = torn.rules.rules
    wild = tuple(dataclasses.replace(rule, learning_rate=1e7) if rule.after else rule for rule in rules)
    torn = dataclasses.replace(torn, finetuning=dataclasses.replace(torn.finetuning, partition=Partition(*wild)))
    summary = run.train(torn, workdir=str(tmp_path))
    assert summary["best"]["step"] == 7
    found = run.evaluate(summary["folder"], split="validation")
    assert found["step"] == 7
    assert found["validation"]["loss"] == pytest.approx(summary["best"]["value"], rel=1e-6)
    assert run.evaluate(summary["folder"])["test"] == summary["test"]
    usual = run.train(experiment, workdir=str(tmp_path))
    assert run.evaluate(usual["folder"])["test"] == usual["test"]


def test_the_plan_tells_of_all_phases(tiny, source, tmp_path, capsys):
    summary = run.train(scheduled(tiny, source), workdir=str(tmp_path))
    told = json.loads((Path(summary["folder"]) / "inspection.json").read_text())
    by_path = {row["path"]: row for row in told["layers"]}
    assert by_path["block_00/dense/kernel"]["treatment"] == "train(after=12 steps)"
    assert by_path["block_00/dense/kernel"]["optimizer_bytes"] == 2 * by_path["block_00/dense/kernel"]["bytes"]
    assert told["trainable"] == told["parameters"]
    assert "train('block_03/.*', after=7 steps)" in capsys.readouterr().out
    assert "frozen" not in summary or summary["frozen"]["parameters"] == 0
