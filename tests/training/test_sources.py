"""A run begins with what its source has, changes what it is to change, and leaves the rest as it was, to the bit."""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from research.config import config, structure
from research.errors import UserError
from research.jsonl import read_rows
from research.models import MLP
from research.parameters import (
    Partition,
    freeze,
    full,
    last_blocks,
    layerwise_decay,
    linear_probe,
    others,
    train,
)
from research.training import SGD, AdamW, Finetuning, Pretrained, run, step
from research.training.checkpoints import Checkpoints
from research.training.display import console, show_summary
from research.training.evaluation import to_device
from research.training.finetuning import Source
from research.training.folder import open_run
from research.training.inspecting import optimizer_bytes
from research.training.interpolation import between
from research.training.loop import lengths
from research.training.partitioned import folded, rows
from research.training.plan import boundary, make_plan, replicate
from research.training.reading import load_best, parameters_fingerprint
from research.training.sources import Weights, fit, read_source
from research.training.step import initial_state, train_chunk

MODEL = MLP(depth=3, width=8, norm="batch", scan=True)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A finished run, of a stack that is stored stacked, with running averages of its parameters."""
    from research.training import Experiment

    folder = tmp_path_factory.mktemp("source")

    def make(experiment: Experiment) -> Path:
        known = folder / experiment.name
        if not known.exists():
            run.train(experiment, workdir=str(folder))
        return next(known.iterdir())

    return make


@pytest.fixture
def source(tiny, pretrained):
    return pretrained(tiny(name="source", model=MODEL, average=0.9, optimizer=AdamW(learning_rate=0.02)))


def tuned(tiny, source, partition, **fields):
    tuning = {name: fields.pop(name) for name in ("no_decay", "stay_close", "interpolate") if name in fields}
    finetuning = Finetuning(source=Pretrained(str(source)), partition=partition, **tuning)
    return tiny(**{"model": MODEL, "optimizer": AdamW(), "name": "tuned", "finetuning": finetuning} | fields)


def begin(experiment):
    loaded = experiment.data.load()
    plan, leaves = make_plan(experiment, loaded), boundary(experiment)
    beginning = fit(plan, experiment, experiment.finetuning.source.read())
    state, frozen = replicate(plan, initial_state(plan, leaves, beginning.arrays))
    return plan, leaves, frozen, state, to_device(plan, loaded.splits["train"], loaded.normalisation), beginning


@pytest.mark.parametrize("scan", [False, True])
def test_a_run_begins_with_the_best_of_its_source_however_blocks_are_stored(tiny, source, scan):
    weights = read_source(str(source))
    model = dataclasses.replace(MODEL, scan=scan)
    plan, _, frozen, state, _, beginning = begin(tuned(tiny, source, last_blocks(1, new_head=True), model=model))
    assert beginning.unused == ("head/bias", "head/kernel")
    piece = "block[02:03]" if scan else "block_02"
    same = {
        f"{piece}/dense/kernel": weights.parameters["block_02/dense/kernel"],
        "block_00/dense/kernel": weights.parameters["block_00/dense/kernel"],
        f"batch_stats/{piece}/norm/mean": weights.model_state["batch_stats/block_02/norm/mean"],
        "batch_stats/block_00/norm/var": weights.model_state["batch_stats/block_00/norm/var"],
    }
    now = state.trainable | state.model_state | frozen
    for path, value in same.items():
        assert np.asarray(now[path]).reshape(value.shape).tobytes() == value.tobytes(), path
    assert not np.array_equal(now["head/kernel"], weights.parameters["head/kernel"])
    assert set(plan.begun) == set(beginning.arrays)


def test_what_is_read_are_the_averages_of_the_best_checkpoint(source):
    weights = read_source(str(source))
    with Checkpoints(source / "checkpoints") as checkpoints:
        best = checkpoints.restore_best().arrays
    np.testing.assert_array_equal(weights.parameters["head/kernel"], best["average/trainable/head/kernel"])
    second = best["average/trainable/block/dense/kernel"][1]
    np.testing.assert_array_equal(weights.parameters["block_02/dense/kernel"], second)
    assert not np.array_equal(weights.parameters["head/kernel"], best["trainable/head/kernel"])
    assert weights.about["path"] == str(source)
    assert weights.about["model"] == "MLP"
    assert weights.about["sha256"] == parameters_fingerprint(weights.parameters | weights.model_state)


def test_the_newest_run_of_a_name_may_be_named(source):
    assert read_source(str(source.parent)).about["path"] == str(source)


def problems(make):
    with pytest.raises(UserError) as caught:
        make()
    return caught.value.problems


def test_all_that_does_not_fit_is_told_at_once_and_nothing_is_begun(tiny, source, tmp_path):
    model = dataclasses.replace(MODEL, width=9, depth=4)
    experiment = tuned(tiny, source, linear_probe(new_head=False), model=model)
    lines = problems(lambda: run.train(experiment, workdir=str(tmp_path / "runs")))
    others = [
        f"{source}: {field} in the source's model, and {here} here"
        for field, here in (("depth is 3", 4), ("width is 8", 9))
    ]
    assert sorted(lines[:2]) == others
    assert lines[2].startswith(f"{source}: without block_03/dense/kernel, block_03/norm/")
    assert lines[2].endswith("which no rule reinitialises")
    assert lines[3].startswith(f"{source}: ")
    assert lines[3].endswith("; a rule with reinitialise=True would begin them anew")
    assert "block_01/dense/kernel is (8, 8) there and (9, 9) here" in lines[3]
    assert not (tmp_path / "runs").exists()


def test_a_partition_and_a_source_that_are_wrong_are_told_together(tiny, tmp_path):
    experiment = tuned(tiny, tmp_path / "nowhere", Partition(train("haed/.*")))
    lines = problems(lambda: run.train(experiment, workdir=str(tmp_path / "runs")))
    assert len(lines) == 2
    assert "did you mean 'head/.*'" in lines[0]
    assert "nowhere: there is no such run" in lines[1]
    assert not (tmp_path / "runs").exists()


def test_numbers_of_another_kind_are_refused(tiny, source):
    experiment = tuned(tiny, source, full())
    weights = read_source(str(source))
    weights.parameters["head/kernel"] = weights.parameters["head/kernel"].astype(np.int32)
    plan = make_plan(experiment, experiment.data.load())
    assert problems(lambda: fit(plan, experiment, weights)) == (
        f"{source}: head/kernel is int32 there and float32 here",
    )


def test_no_program_has_weights_for_constants(tiny, source):
    plan, leaves, frozen, state, data, beginning = begin(tuned(tiny, source, last_blocks(1)))
    program = jax.make_jaxpr(lambda *a: step.begin(plan, *a))(leaves, beginning.arrays)
    chunk = jax.make_jaxpr(lambda *a: train_chunk(plan, *a))(leaves, frozen, state, data, lengths(0, [1]))
    for closed in (program, chunk):
        assert sum(np.size(constant) for constant in closed.consts) < 8
    with pytest.raises(ValueError, match="a source"):
        initial_state(plan, leaves)


# ---------------------------------------------------------------------------------------------------------------------
# To the bit


ODD = np.array([0x80000000, 0x7FC12345, 0xFFA00001, 0x00000001, 0x807FFFFF, 0x3F800000], np.uint32).view(np.float32)
"""-0.0, a NaN with a message, a signalling NaN, the smallest and the largest denormal, 1.0."""


class Spare(nn.Module):
    """A layer, and parameters and state that nothing looks at."""

    classes: int | None = None

    @nn.compact
    def __call__(self, inputs):
        self.param("spare", nn.initializers.zeros, (6,))
        nn.BatchNorm(use_running_average=True, name="unused")(inputs)
        return nn.Dense(self.classes, name="head")(nn.Dense(6, name="hidden")(inputs))


@config
class Odd(Source):
    """Parameters whose bits are easily lost."""

    value: int = structure(0)

    def read(self):
        parameters = {
            "spare": ODD,
            "hidden/kernel": np.where(np.eye(6, dtype=bool), np.float32(1), np.float32(-0.0)),
            "hidden/bias": np.full(6, 1e-40, np.float32),
            "unused/scale": ODD,
            "unused/bias": ODD[::-1].copy(),
        }
        state = {"batch_stats/unused/mean": ODD, "batch_stats/unused/var": ODD}
        return Weights(parameters, state, {"path": "odd", "value": self.value})


@pytest.mark.parametrize("optimizer", [SGD(weight_decay=0.1), AdamW(weight_decay=0.1)])
def test_what_is_frozen_is_the_same_to_the_bit_at_the_end(tiny, tmp_path, optimizer):
    finetuning = Finetuning(source=Odd(), partition=linear_probe())
    experiment = tiny(model=Spare(), name="odd", finetuning=finetuning, optimizer=optimizer, average=0.5, clip=0.1)
    summary = run.train(experiment, workdir=str(tmp_path))
    path = open_run(summary["folder"])
    (note,) = path.read_json("inspection.json")["partition"]["notes"]
    odd = ("spare", "unused/bias", "unused/scale", "batch_stats/unused/mean", "batch_stats/unused/var")
    assert note == f"odd: {', '.join(odd)} hold numbers that are not finite"
    given = Odd().read()
    expected = given.parameters | given.model_state
    plan = make_plan(experiment, experiment.data.load())
    _, frozen = load_best(path, experiment, plan)
    assert frozen.keys() == expected.keys()
    for name, value in expected.items():
        assert np.asarray(frozen[name]).tobytes() == value.tobytes(), name
    assert summary["frozen"] == {"parameters": 60, "sha256": parameters_fingerprint(expected), "unchanged": True}
    again = read_source(summary["folder"])
    assert all(
        (again.parameters | again.model_state)[name].tobytes() == value.tobytes() for name, value in expected.items()
    )


def test_frozen_parameters_that_change_are_noticed(tiny, tmp_path, monkeypatch):
    fit_before = run.loop.fit

    def meddle(work, *arguments):
        found = fit_before(work, *arguments)
        work.frozen["block_00/dense/bias"] = -work.frozen["block_00/dense/bias"]  # 0.0 becomes -0.0
        return found

    monkeypatch.setattr(run.loop, "fit", meddle)
    with pytest.raises(RuntimeError, match="changed frozen parameters"):
        run.train(tiny(name="meddled", partition=Partition(train("head/.*"), freeze(others()))), workdir=str(tmp_path))


# ---------------------------------------------------------------------------------------------------------------------
# The plan


def test_the_plan_names_every_parameter_once_with_what_becomes_of_it(tiny, source, tmp_path, capsys):
    partition = Partition(
        train("head/.*", reinitialise=True),
        train("block_02/.*", learning_rate=0.1, decay=0.5),
        freeze("block_0[01]/.*"),
    )
    experiment = tuned(tiny, source, partition, optimizer=AdamW(learning_rate=0.02, weight_decay=0.3))
    summary = run.train(experiment, workdir=str(tmp_path))
    told = open_run(summary["folder"]).read_json("inspection.json")
    by_path = {row["path"]: row for row in told["layers"]}
    assert set(by_path) == set(read_source(str(source)).parameters)
    assert len(by_path) == len(told["layers"])
    kernel = by_path["block_02/dense/kernel"]
    assert kernel == {
        "path": "block_02/dense/kernel",
        "shape": [8, 8],
        "parameters": 64,
        "bytes": 256,
        "rule": "train('block_02/.*', learning_rate=0.1, decay=0.5)",
        "treatment": "train(learning_rate=0.1, decay=0.5)",
        "trainable": True,
        "begins": "loaded",
        "learning_rate": pytest.approx(0.002),
        "weight_decay": pytest.approx(0.15),
        "optimizer_bytes": 512,
    }
    assert by_path["head/bias"]["begins"] == "new"
    assert by_path["head/bias"]["weight_decay"] is None
    assert (
        by_path["block_01/norm/scale"] | {"trainable": False, "begins": "loaded", "learning_rate": None}
        == by_path["block_01/norm/scale"]
    )
    plan = make_plan(experiment, experiment.data.load())
    counted = optimizer_bytes(plan, experiment)
    assert sum(row["optimizer_bytes"] for row in told["layers"]) == sum(counted.values()) - counted[""]
    sums = told["partition"]["rules"][-1]
    assert (
        sums["trainable"] == told["trainable"] == sum(row["parameters"] for row in told["layers"] if row["trainable"])
    )
    assert told["partition"]["unused"] == ["head/bias", "head/kernel"]
    assert told["partition"]["source"]["path"] == str(source)
    said = capsys.readouterr().out
    assert "rule c" in said
    assert "not used    head/bias, head/kernel" in said
    assert said.index("parameter ") < said.index("step ")


def test_blocks_that_are_alike_are_shown_as_one(tiny):
    experiment = tiny(model=MLP(depth=6, width=4), partition=layerwise_decay(0.5))
    plan = make_plan(experiment, experiment.data.load())
    found = rows(plan, experiment)
    lines = {row["path"]: row for row in folded(found)}
    assert set(lines) == {
        "block_{00..05}/dense/bias",
        "block_00/dense/kernel",  # of another shape
        "block_{01..05}/dense/kernel",
        "head/bias",
        "head/kernel",
    }
    folded_kernel = lines["block_{01..05}/dense/kernel"]
    assert folded_kernel["parameters"] == 5 * 16
    assert folded_kernel["learning_rate"] == pytest.approx([0.1 * 0.5**5, 0.1 * 0.5])
    assert sum(row["parameters"] for row in lines.values()) == sum(row["parameters"] for row in found)
    apart = tiny(model=MLP(depth=6, width=4), partition=Partition(freeze("block_03/.*"), train(others())))
    names = {row["path"] for row in folded(rows(make_plan(apart, apart.data.load()), apart))}
    assert {f"{block}/dense/kernel" for block in ("block_{01..02}", "block_03", "block_{04..05}")} <= names


# ---------------------------------------------------------------------------------------------------------------------
# Staying close


def test_the_penalty_pulls_towards_the_source(tiny, source):
    """One step of gradient descent, with and without: they differ by rate * weight * (here - source)."""
    found = {}
    for weight in (0.0, 0.7):
        experiment = tuned(
            tiny, source, full(new_head=True), stay_close=weight, optimizer=SGD(learning_rate=0.1), seed=3
        )
        plan, leaves, frozen, state, data, _ = begin(experiment)
        state = dataclasses.replace(state, trainable=jax.tree.map(lambda x: x + 0.5, state.trainable))
        before = jax.device_get(state.trainable)
        state, _ = train_chunk(plan, leaves, frozen, state, data, lengths(0, [1]))
        found[weight] = jax.device_get(state.trainable)
    for path, value in before.items():
        moved = 0.0 if path.startswith("head") else 0.1 * 0.7 * 0.5
        np.testing.assert_allclose(found[0.0][path] - found[0.7][path], moved, atol=1e-5, err_msg=path)
        assert value.shape == found[0.0][path].shape


def test_the_line_from_the_source_ends_at_both_and_is_straight_between(tiny, source, tmp_path, capsys):
    experiment = tuned(tiny, source, layerwise_decay(0.5), interpolate=3, average=0.5)
    summary = run.train(experiment, workdir=str(tmp_path))
    curve = summary["interpolation"]
    assert [point["share"] for point in curve] == [0.0, 0.5, 1.0]
    began = run.evaluate(str(source), split="validation")["validation"]
    ended = run.evaluate(summary["folder"], split="validation")["validation"]
    for point, end in ((curve[0], began), (curve[2], ended)):
        assert (point["loss"], point["accuracy"]) == (end["loss"], end["accuracy"])
    assert curve == run.interpolate(summary["folder"], points=3)
    given = read_source(str(source))
    result = read_source(summary["folder"])
    plan = make_plan(experiment, experiment.data.load())
    state, frozen = load_best(open_run(summary["folder"]), experiment, plan)
    middle = between(fit(plan, experiment, given).arrays, state, 0.25)
    for path, value in plan.parameters(middle.trainable, frozen).items():
        expected = [0.75 * given.parameters[p] + 0.25 * result.parameters[p] for p in blocks(path)]
        np.testing.assert_allclose(np.reshape(value, np.shape(expected)), expected, atol=1e-6, err_msg=path)
    assert middle.model_state
    show_summary(console(), summary)
    assert "from source" in capsys.readouterr().out


def blocks(path):
    """The paths of blocks of a stored one."""
    return [path.replace("block/", f"block_{i:02d}/") for i in ((1, 2) if path.startswith("block/") else (0,))]


def test_there_is_no_line_without_a_source(tiny, tmp_path):
    folder = run.train(tiny(name="plain"), workdir=str(tmp_path))["folder"]
    (line,) = problems(lambda: run.interpolate(folder))
    assert line == f"{folder}: began with new values; there is no source to go back to"


# ---------------------------------------------------------------------------------------------------------------------
# Going on


def stopped(tiny, source, tmp_path, monkeypatch, **fields):
    """A fine-tuning run that was stopped in the middle."""

    def count():
        return sum(path.read_bytes().count(b"\n") for path in tmp_path.glob("runs/*/*/metrics.jsonl"))

    @contextlib.contextmanager
    def signals():
        yield lambda: "SIGTERM" if count() > 3 else None

    monkeypatch.setattr(run.interruption, "signals", signals)
    experiment = tuned(tiny, source, last_blocks(1, new_head=True), stay_close=0.1, **fields)
    summary = run.train(experiment, workdir=str(tmp_path / "runs"))
    monkeypatch.undo()
    assert summary["reason"] == "interrupted"
    return experiment, Path(summary["folder"])


def test_fine_tuning_goes_on_bit_for_bit_without_its_source(tiny, source, tmp_path, monkeypatch):
    own = tmp_path / "source" / "run"
    shutil.copytree(source, own)
    experiment, path = stopped(tiny, own, tmp_path, monkeypatch)
    whole = Path(run.train(experiment, workdir=str(tmp_path / "whole"))["folder"])
    shutil.rmtree(own)
    run.resume(str(path))
    timed = ("time", "examples_per_second")
    tables = [
        [{k: v for k, v in row.items() if k not in timed} for row in read_rows(folder / "metrics.jsonl")]
        for folder in (whole, path)
    ]
    assert tables[0] == tables[1]
    ends = [json.loads((folder / "summary.json").read_text()) for folder in (whole, path)]
    assert ends[0]["test"] == ends[1]["test"]
    assert ends[0]["frozen"] == ends[1]["frozen"]
    assert run.evaluate(str(path))["test"] == ends[0]["test"]


def test_a_changed_partition_is_refused_with_the_difference(tiny, source, tmp_path, monkeypatch):
    _, path = stopped(tiny, source, tmp_path, monkeypatch)
    told = json.loads((path / "config.json").read_text())
    told["finetuning"]["partition"]["rules"][0]["pattern"]["selector"]["blocks"] = 2
    (path / "config.json").write_text(json.dumps(told))
    (line,) = problems(lambda: run.resume(str(path)))
    assert line == (
        f"{path}: the partition has changed since the run began; block_01/dense/kernel, block_01/norm/bias, "
        "block_01/norm/scale: freeze() -> train()"
    )


def test_a_run_that_has_no_checkpoint_begins_again_with_the_same_source_only(tiny, source, tmp_path, monkeypatch):
    own = tmp_path / "source" / "run"
    shutil.copytree(source, own)
    _, path = stopped(tiny, own, tmp_path, monkeypatch)
    shutil.rmtree(path / "checkpoints")
    (path / "summary.json").unlink()
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    assert run.resume(str(copy))["reason"] == "finished"
    shutil.rmtree(own)
    other = run.train(tiny(name="other", model=MODEL, seed=7), workdir=str(tmp_path))["folder"]
    shutil.copytree(other, own)
    (line,) = problems(lambda: run.resume(str(path)))
    assert line == f"{path}: its source, {own}, has changed since the run began"
