"""Tasks side by side learn what the definition says, and each is what it is alone where the others do not reach it."""

import dataclasses
import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import ConfigError, config, from_json, override, structure, to_json, validate
from research.data import Augmentation, Digits, PythonTopics, order
from research.data.base import Dataset, Loaded, Normalisation, Split, Streamed
from research.errors import UserError
from research.jsonl import read_rows
from research.models import MLP
from research.parameters.partition import Partition, freeze, train
from research.spec import Spec
from research.sweeps import Sweep, grid
from research.sweeps import run as sweep_run
from research.training import (
    SGD,
    AdamW,
    CrossEntropy,
    Experiment,
    NextToken,
    Task,
    Tasks,
    evaluation,
    features,
    loop,
    run,
    steps,
)
from research.training.checkpoints import Checkpoints
from research.training.plan import boundary, make_plan, replicate
from research.training.step import accumulated, batch_at, initial_state, train_chunk

SMOOTH = CrossEntropy(label_smoothing=0.1, l2=0.01)


@config
class Points(Dataset):
    """Points around one centre a class, as bytes or as numbers; of each kind another normalisation."""

    classes: int = structure(3)
    train: int = structure(50)
    held_out: int = structure(23)
    numbers: int = structure(6)
    as_bytes: bool = structure(False)
    labelled: bool = structure(True)
    streamed: bool = structure(False)

    def load(self) -> Loaded:
        random = np.random.default_rng(self.classes)
        centres = random.normal(size=(self.classes, self.numbers))

        def split(count):
            labels = random.integers(0, self.classes, count).astype(np.int32)
            inputs = centres[labels] + 0.8 * random.normal(size=(count, self.numbers))
            inputs = np.clip(40 * inputs + 128, 0, 255).astype(np.uint8) if self.as_bytes else inputs.astype(np.float32)
            labels = labels if self.labelled else np.full_like(labels, -1)
            if self.streamed:
                return Streamed(labels, np.arange(count), inputs.shape[1:], inputs.dtype, inputs.__getitem__)
            return Split(inputs, labels)

        splits = {"train": split(self.train), "validation": split(self.held_out), "test": split(self.held_out + 4)}
        scale, mean, deviation = (1 / 255, 0.5, 0.2) if self.as_bytes else (1.0, 0.1, 1.5)
        fitted = (np.full(self.numbers, value, np.float32) for value in (mean, deviation))
        spec = Spec((self.numbers,), self.classes, tuple(map(str, range(self.classes))))
        return Loaded(spec, splits, Normalisation(scale, *fitted), kind="table")


LARGE, SMALL = Points(), Points(classes=4, train=20, held_out=11, as_bytes=True)


def both(weights=(1.0, 0.5), **fields) -> Experiment:
    """An experiment of two tasks; keyword arguments replace its fields."""
    tasks = Tasks(large=Task(LARGE, weight=weights[0]), small=Task(SMALL, objective=SMOOTH, weight=weights[1]))
    how = {"model": MLP(depth=2, width=8), "optimizer": SGD(learning_rate=0.1), "duration": steps(20), "batch_size": 16}
    often = {"log_every": steps(4), "evaluate_every": steps(10), "devices": 1}
    return Experiment(**({"data": tasks, **how, **often} | fields))


def alone(experiment: Experiment, task: Task) -> Experiment:
    """The experiment of one of its tasks."""
    return dataclasses.replace(experiment, data=task.data, objective=task.objective)


def begin(experiment):
    """What a chunk takes, and the data."""
    loaded = experiment.data.load()
    plan, leaves = make_plan(experiment, loaded), boundary(experiment)
    state, frozen = replicate(plan, initial_state(plan, leaves))
    data = evaluation.to_device(plan, loaded.splits["train"], loaded.normalisation)
    return plan, leaves, frozen, state, data, loaded


def of_task(parameters, name):
    """The trunk and the head of one task, as they are called where it is alone."""
    own = {path.replace(f"head/{name}/", "head/"): value for path, value in parameters.items()}
    return {path: value for path, value in own.items() if not (path.startswith("head/") and path.count("/") == 2)}


def with_parameters(state, parameters):
    """A state with copies of these, which may be donated."""
    return dataclasses.replace(state, trainable={path: jnp.copy(parameters[path]) for path in state.trainable})


def trained(begun, count):
    plan, leaves, frozen, state, data, _ = begun
    state, logged = train_chunk(plan, leaves, frozen, state, data, loop.lengths(0, [count]))
    return state, {name: float(values[0]) for name, values in logged.items()}


def assert_close(a, b, **tolerance):
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_allclose(a[path], b[path], err_msg=path, **tolerance)


# ---------------------------------------------------------------------------------------------------------------------
# A step


def test_each_task_is_seen_in_its_own_order_and_the_smaller_comes_round_more_often():
    sizes, seen = (50, 20), []
    for step in range(10):
        host = order.interleaved(7, step, batch_size=10, examples=sizes)
        device = jax.jit(lambda step: order.interleaved(7, step, batch_size=10, examples=sizes))(step)
        np.testing.assert_array_equal(host, device)
        large, small = host.reshape(10, 2).T
        np.testing.assert_array_equal(large, order.indices(7, step, batch_size=10, examples=50))
        np.testing.assert_array_equal(small - 50, order.indices(7, step, batch_size=10, examples=20))
        seen.append(host)
    np.testing.assert_array_equal(np.bincount(np.concatenate(seen)), [2] * 50 + [5] * 20)


@pytest.mark.parametrize(("accumulate", "devices"), [(1, 1), (2, 1), pytest.param(1, 8, marks=pytest.mark.devices(8))])
def test_the_gradient_is_the_weighted_sum_of_those_of_the_tasks_alone(accumulate, devices):
    experiment = both(accumulate=accumulate, devices=devices)

    def gradient(begun, state):
        plan, leaves, frozen, _, data, _ = begun
        batch = batch_at(plan, leaves, data, jnp.uint32(3), jnp.uint32(0))
        return accumulated(plan, leaves, frozen, state, batch)[:2]

    begun = begin(experiment)
    loss, found = gradient(begun, begun[3])
    total, expected = 0.0, {path: 0.0 for path in found}
    for task in experiment.tasks:
        single = begin(alone(experiment, task))
        own_loss, own = gradient(single, with_parameters(single[3], of_task(begun[3].trainable, task.name)))
        total += task.weight * own_loss
        for path, value in own.items():
            expected[path.replace("head/", f"head/{task.name}/")] += task.weight * value
    np.testing.assert_allclose(loss, total, rtol=1e-5)
    assert_close(found, expected, atol=1e-6)


@pytest.mark.parametrize("optimizer", [SGD(learning_rate=0.1), AdamW(learning_rate=0.01, weight_decay=0.0)])
def test_a_task_of_weight_zero_leaves_its_head_and_the_other_task_alone(optimizer):
    experiment = both(weights=(1.0, 0.0), optimizer=optimizer)
    begun, single = begin(experiment), begin(alone(experiment, experiment.tasks[0]))
    start = jax.device_get(begun[3].trainable)
    single = (*single[:3], with_parameters(single[3], of_task(begun[3].trainable, "large")), *single[4:])
    (state, logged), (own, of_own) = trained(begun, 20), trained(single, 20)
    for path in ("head/small/kernel", "head/small/bias"):
        assert np.asarray(state.trainable[path]).tobytes() == start[path].tobytes()
    assert np.abs(state.trainable["head/large/kernel"] - start["head/large/kernel"]).max() > 0.01
    assert_close(of_task(state.trainable, "large"), own.trainable, atol=1e-5)
    for name in ("loss", "correct", "count"):
        assert logged[f"large/{name}"] == pytest.approx(of_own[name], rel=1e-5)
    assert logged["objective"] == pytest.approx(of_own["objective"], rel=1e-5)


def test_no_weight_causes_a_second_trace():
    begun = begin(both())
    trained(begun, 3)
    before = train_chunk._cache_size()
    for weights in ((2, 0), (0.1, 7.0)):
        again = begin(both(weights=weights))
        assert again[0] == begun[0]
        trained(again, 3)
    assert train_chunk._cache_size() == before


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation


def test_evaluation_by_task_equals_evaluating_each_alone():
    experiment = both()
    plan, leaves, frozen, state, _, loaded = begin(experiment)
    found = evaluation.evaluate_split(plan, leaves, frozen, state.used(), loaded.splits["test"], loaded.normalisation)
    inputs = {}
    for task, block in zip(experiment.tasks, loaded.spec.blocks().values(), strict=True):
        single, own_leaves, _, own, _, data = begin(alone(experiment, task))
        used = with_parameters(own, of_task(state.trainable, task.name)).used()
        sums = evaluation.evaluate_split(single, own_leaves, {}, used, data.splits["test"], data.normalisation)
        for name in ("loss", "correct", "count"):
            np.testing.assert_allclose(found[f"{task.name}/{name}"], sums[name], rtol=1e-5, err_msg=name)
        np.testing.assert_array_equal(found["confusion"][block, block], sums["confusion"])
        inputs[task.name] = data.splits["test"].inputs.astype(np.float32) * np.float32(data.normalisation.scale)
        likely = evaluation.probabilities(
            plan, leaves, frozen, *state.used(), jnp.asarray(inputs[task.name]), loaded.normalisation
        )
        its_own = evaluation.probabilities(
            single, own_leaves, {}, *used, jnp.asarray(data.splits["test"].inputs), data.normalisation
        )
        np.testing.assert_allclose(likely[:, block], its_own, atol=1e-6)
    for name in ("loss", "correct", "count"):
        assert found[name] == pytest.approx(found[f"large/{name}"] + found[f"small/{name}"], rel=1e-6)
    assert found["confusion"].sum() == found["count"] == 27 + 15


def test_the_gap_is_to_as_many_training_examples_of_each_task():
    experiment = both()
    plan, leaves, frozen, state, _, loaded = begin(experiment)
    watched = loop._watched(loop.Work(experiment, plan, loaded, frozen))
    of = loaded.spec.task_of(np.asarray(watched["train"].labels))
    np.testing.assert_array_equal(np.bincount(of), [23, 11])
    row = loop.evaluate(loop.Work(experiment, plan, loaded, frozen), leaves, state, watched)
    assert row["small/gap_accuracy"] == row["small/accuracy"] - row["small/train_accuracy"]


def test_the_best_is_best_at_the_metric_that_is_stated():
    experiment = both(select="validation/small/loss")
    progress = loop.Progress()
    rows = [(10, 0.5, 2.0), (20, 0.1, 3.0), (30, 0.9, 1.0)]
    for step, loss, of_small in rows:
        loop.judge(experiment, progress, {"step": step, "loss": loss, "small/loss": of_small})
    assert (progress.best_step, progress.best, progress.stale) == (30, 1.0, 0)


# ---------------------------------------------------------------------------------------------------------------------
# Runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never disturbed."""
    return Path(run.train(both(name="whole"), workdir=str(tmp_path_factory.mktemp("whole")))["folder"])


def without_times(folder):
    timed = ("time", "examples_per_second")
    return [{k: v for k, v in row.items() if k not in timed} for row in read_rows(folder / "metrics.jsonl")]


def latest(folder):
    with Checkpoints(folder / "checkpoints") as checkpoints:
        return checkpoints.restore_latest()


def test_a_run_that_is_resumed_is_the_run_never_stopped_bit_for_bit(whole, tmp_path, monkeypatch):
    def fails(work, leaves, state, watched, evaluate=loop.evaluate):
        if int(state.step) == 20:
            raise RuntimeError("stopped")
        return evaluate(work, leaves, state, watched)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", fails)
        with pytest.raises(RuntimeError, match="stopped"):
            run.train(both(name="whole"), workdir=str(tmp_path))
    (folder,) = (tmp_path / "whole").iterdir()
    assert latest(folder).step == 10
    run.resume(str(folder))
    assert without_times(folder) == without_times(whole)
    ours, theirs = latest(folder).arrays, latest(whole).arrays
    assert ours.keys() == theirs.keys()
    assert all(np.asarray(ours[key]).tobytes() == np.asarray(theirs[key]).tobytes() for key in ours)


def test_a_run_tells_of_each_task(whole):
    rows, summary = without_times(whole), json.loads((whole / "summary.json").read_text())
    for row in rows:  # of each task a step has as many examples
        weights = (1, 1) if row["split"] == "train" else (23, 11)
        mean = np.average([row["large/loss"], row["small/loss"]], weights=weights)
        assert row["loss"] == pytest.approx(mean, rel=1e-5)
    tasks = summary["test"]["tasks"]
    assert [tasks[name]["examples"] for name in ("large", "small")] == [27, 15]
    assert [row["name"] for row in tasks["small"]["classes"]] == ["0", "1", "2", "3"]
    told = run.evaluate(str(whole), split="validation")["validation"]
    best = next(row for row in rows if row["split"] == "validation" and row["step"] == summary["best"]["step"])
    assert told["tasks"]["small"]["accuracy"] == pytest.approx(best["small/accuracy"])
    plan = json.loads((whole / "inspection.json").read_text())
    assert [(task["name"], task["classes"], task["train"]) for task in plan["data"]["tasks"]] == [
        ("large", 3, 50),
        ("small", 4, 20),
    ]
    assert {row["path"] for row in plan["layers"] if row["path"].startswith("head/")} == {
        f"head/{task}/{name}" for task in ("large", "small") for name in ("bias", "kernel")
    }


def test_a_frozen_trunk_trains_the_heads_alone_on_features_computed_once():
    heads = Partition(train("head/.*"), freeze("(?!head/).*"))
    experiment = both(partition=heads)
    begun = begin(experiment)
    plan, leaves, frozen, state, _, loaded = begun
    start = {path: jnp.copy(value) for path, value in state.trainable.items()}  # it is donated
    assert set(plan.trainable) == {f"head/{t}/{name}" for t in ("large", "small") for name in ("bias", "kernel")}
    cut = features.find_cut(plan, experiment, loaded)
    assert cut.layer == "head"
    on_features, seen = features.on_features(plan, experiment, loaded, cut, state, frozen)
    data = evaluation.to_device(on_features, seen.splits["train"], None)
    again = (on_features, leaves, frozen, initial_state(plan, leaves)[0], data, seen)
    (slow, _), (quick, _) = trained(begun, 20), trained(again, 20)
    assert_close(slow.trainable, quick.trainable, atol=1e-6)
    single = begin(alone(experiment, experiment.tasks[1]))
    own = with_parameters(single[3], of_task(start, "small"))
    trunk = {path: frozen[path] for path in single[0].frozen}
    halved = dataclasses.replace(single[1], optimizer=SGD(learning_rate=np.float32(0.05)))  # a loss of weight 0.5
    of_small, _ = trained((single[0], halved, trunk, own, *single[4:]), 20)
    assert_close(of_task(slow.trainable, "small"), of_small.trainable, atol=1e-5)


def test_a_rule_may_be_about_one_head():
    experiment = both(partition=Partition(train("head/small/.*"), freeze("(?!head/small/).*")))
    plan, *_ = begun = begin(experiment)
    assert plan.trainable == ("head/small/bias", "head/small/kernel")
    state, _ = trained(begun, 3)
    assert set(state.trainable) == set(plan.trainable)


def test_weights_are_swept_in_one_program_and_each_trial_is_its_run_alone(tmp_path):
    base = both(name="swept")
    sweep = Sweep(base=base, space=grid("data.tasks.1.weight", 0.0, 2.0), judge=0, name="weights")
    summary = sweep_run.run(sweep, workdir=str(tmp_path))
    folder = Path(summary["folder"])
    rows = read_rows(folder / "trials.jsonl")
    assert {row["program"] for row in rows} == {0}
    for row, weight in zip(rows, (0.0, 2.0), strict=True):
        own = run.train(override(base, "data.tasks.1.weight", weight), workdir=str(tmp_path / "alone"))
        assert row["best_step"] == own["best"]["step"]
        assert row["test"]["loss"] == pytest.approx(own["test"]["loss"], rel=1e-5)
        for task, figures in own["test"]["tasks"].items():
            assert row["test"][f"{task}/accuracy"] == pytest.approx(figures["accuracy"])
            assert row["test"][f"{task}/loss"] == pytest.approx(figures["loss"], rel=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be


def test_tasks_survive_json():
    experiment = both()
    assert from_json(json.loads(json.dumps(to_json(experiment))), Experiment) == experiment


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": Tasks()}, "data.tasks: there are none"),
        ({"data": Tasks((Task(LARGE, name="a"), Task(SMALL, name="a")))}, "data.tasks: 2 are called 'a'"),
        ({"data": Tasks(a=Task(LARGE, weight=-1))}, r"data.tasks.0.weight: -1.0 is not in \[0, inf\)"),
        ({"data": Tasks(a=Task(LARGE, weight=0), b=Task(SMALL, weight=0))}, "all have the weight 0"),
        (
            {"data": Tasks(a=Task(LARGE, objective=NextToken()))},
            "objective: NextToken makes its targets .* CrossEntropy",
        ),
        ({"data": Tasks(a=Task(Tasks(b=Task(LARGE))))}, "data.tasks.0.data: is tasks again"),
        ({"data": Tasks((Task(LARGE),))}, "data.tasks.0.name: '' is no name"),
        ({"data": Tasks(**{"a/b": Task(LARGE)})}, "data.tasks.0.name: 'a/b' is no name"),
        ({"objective": SMOOTH}, "objective: each task has its own"),
        ({"augmentation": Augmentation(mixup=0.2)}, "augmentation.mixup: would mix examples of different tasks"),
        ({"select": "validation/smal/loss"}, "select: no metric .*; did you mean 'validation/small/loss'"),
    ],
)
def test_what_no_experiment_can_be_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        validate(both(**fields))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (Tasks(a=Task(LARGE), b=Task(Points(numbers=5))), "tasks: examples of b are 5, those of a 6; one trunk"),
        (Tasks(a=Task(LARGE), b=Task(Digits())), "examples of b are 8x8x1, those of a 6"),
        (Tasks(a=Task(LARGE), b=Task(Digits())), "examples of b are of the kind image, those of a of the kind table"),
        (Tasks(a=Task(LARGE), b=Task(PythonTopics())), "examples of b are of the kind bytes, of 256 tokens"),
        (Tasks(a=Task(LARGE), b=Task(Points(labelled=False))), "tasks: examples of b have no labels"),
        (Tasks(a=Task(LARGE), b=Task(Points(streamed=True))), "examples of b are read from the disk in every step"),
    ],
)
def test_data_that_cannot_stand_side_by_side_is_refused(tasks, message):
    with pytest.raises(UserError, match=message):
        tasks.load()


def test_a_batch_larger_than_a_task_names_the_task():
    experiment = both(batch_size=32)
    with pytest.raises(UserError, match="batch_size: 32 is larger than the training split of small, which has 20"):
        make_plan(experiment, experiment.data.load())


def test_a_dataset_in_the_place_of_a_task_is_told_how_to_be_one():
    with pytest.raises(UserError, match=r"tasks: digits is Digits; say digits=Task\(Digits\(...\)\)"):
        Tasks(digits=Digits())


class Headless(nn.Module):
    classes: int | None = None

    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(self.classes, name="last")(inputs)


def test_a_model_without_a_head_is_refused():
    experiment = both(model=Headless())
    with pytest.raises(UserError, match="model: Headless has no head; for several tasks it needs a dense layer 'head'"):
        make_plan(experiment, experiment.data.load())
