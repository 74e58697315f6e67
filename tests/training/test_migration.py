"""A run that goes on with another partition, in a new folder: what was trained goes on as if nothing had happened."""

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from research.errors import UserError
from research.models import MLP
from research.parameters import (
    Partition,
    freeze,
    full,
    gradual,
    last,
    last_blocks,
    linear_probe,
    others,
    train,
    unstacked,
)
from research.training import SGD, AdamW, Finetuning, Momentum, Muon, Pretrained, run, steps
from research.training.checkpoints import Checkpoints
from research.training.groups import transformation
from research.training.migration import Before, apart, migrated
from research.training.phases import plan_at
from research.training.plan import boundary, make_plan
from research.training.state import as_flat
from research.training.step import initial_state, state_shapes

MODEL = MLP(depth=4, width=8, norm="batch")
BLOCKS = {f"block_{i:02d}" for i in range(4)}


def contents(folder):
    files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file() and path.name != "lock")
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def stopped(tiny, tmp_path, monkeypatch):
    """stopped(partition, ...): the folder of a run that was interrupted half-way through its twenty steps."""

    def make(partition, **fields):
        def rows():
            return sum(path.read_bytes().count(b"\n") for path in tmp_path.glob("runs/*/*/metrics.jsonl"))

        with monkeypatch.context() as patched:
            told = contextlib.nullcontext(lambda: "SIGTERM" if rows() > 3 else None)
            patched.setattr(run.interruption, "signals", lambda: told)
            tuning = {name: fields.pop(name) for name in ("source", "stay_close") if name in fields}
            finetuning = Finetuning(partition=partition, **tuning)
            usual = {"model": MODEL, "optimizer": AdamW(learning_rate=0.01), "average": 0.9, "name": "old"}
            experiment = tiny(finetuning=finetuning, **usual | fields)
            summary = run.train(experiment, workdir=str(tmp_path / "runs"))
        assert summary["reason"] == "interrupted"
        assert 0 < summary["steps"] < 20
        return summary["folder"]

    return make


def with_partition(partition):
    return lambda experiment: dataclasses.replace(
        experiment, finetuning=dataclasses.replace(experiment.finetuning, partition=partition)
    )


def latest(folder):
    with Checkpoints(Path(folder) / "checkpoints") as checkpoints:
        return checkpoints.restore_latest()


def end(folder):
    summary = json.loads((Path(folder) / "summary.json").read_text())
    return latest(folder).arrays, summary["test"]


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert np.asarray(one[key]).tobytes() == np.asarray(other[key]).tobytes(), key


@pytest.mark.parametrize("scan", [False, True])
def test_the_same_partition_in_other_words_changes_nothing(stopped, scan):
    folder = stopped(full(), model=dataclasses.replace(MODEL, scan=scan))
    before = contents(folder)
    other = Partition(train("head/.*"), train(others()))
    new = run.migrate(folder, with_partition(other))
    assert contents(folder) == before
    told = json.loads((Path(new["folder"]) / "inspection.json").read_text())
    assert told["goes_on_from"] == {"run": folder, "step": latest(folder).step}
    assert {row["begins"] for row in told["layers"]} == {"loaded"}
    run.resume(folder)
    for one, two in zip(end(folder), end(new["folder"]), strict=True):
        if isinstance(one, dict) and "step" in one:
            assert_same(one, two)
        else:
            assert one == two


def test_a_run_that_was_migrated_can_itself_be_interrupted_and_resumed(stopped, monkeypatch, tmp_path):
    folder = stopped(full())
    whole = run.migrate(folder, with_partition(last_blocks(1)))["folder"]
    with monkeypatch.context() as patched:
        patched.setattr(run.interruption, "signals", lambda: contextlib.nullcontext(lambda: "SIGTERM"))
        parts = run.migrate(folder, with_partition(last_blocks(1)))
    assert parts["reason"] == "interrupted"
    run.resume(parts["folder"])
    assert_same(end(whole)[0], end(parts["folder"])[0])
    assert end(whole)[1] == end(parts["folder"])[1]
    assert run.evaluate(whole)["test"] == end(whole)[1]


def states(tiny, partition, other, *, optimizer, scan, steps=3):
    """What there was, and the plan, experiment, state and frozen parameters after; all numbers differ."""
    model = dataclasses.replace(MODEL, scan=scan)

    def make(rules):
        return tiny(model=model, optimizer=optimizer, average=0.9, finetuning=Finetuning(partition=rules))

    one, two = make(partition), make(other)
    loaded = one.data.load()
    plan, random = make_plan(one, loaded), np.random.default_rng(0)

    def numbers(leaf):
        return (
            random.uniform(1, 2, leaf.shape).astype(leaf.dtype)
            if leaf.dtype == np.float32
            else np.full(leaf.shape, steps, leaf.dtype)
        )

    state, frozen = jax.tree.map(numbers, initial_state(plan, boundary(one)))
    before = Before(plan, one, state, frozen)
    two = apart(before, make_plan(two, loaded), two)
    after = make_plan(two, loaded)
    return before, (after, two, *migrated(before, after, two))


def of_block(flat, kind, number, name="dense/kernel"):
    """The array of a kind ("mu") of a block in a flat state, however it is stored."""
    for key, value in flat.items():
        if f"/{kind}/block_{number:02d}/{name}" in f"/{key}":
            return np.asarray(value)
        for first, stop in (
            (int(a), int(b)) for a, b in [part.split("]")[0].split(":") for part in key.split("block[")[1:]]
        ):
            if f"/{kind}/block[" in f"/{key}" and key.endswith(f"]/{name}") and first <= number < stop:
                return np.asarray(value[number - first])
        if number and f"/{kind}/block/{name}" in f"/{key}":
            return np.asarray(value[number - 1])  # the first block is apart
    return None


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(("optimizer", "kind"), [(AdamW(), "mu"), (Momentum(), "trace"), (Muon(), "mu")])
@pytest.mark.parametrize(
    ("partition", "other", "carried"),
    [
        (full(), last_blocks(2), {2, 3}),
        (last_blocks(2), full(), {2, 3}),
        (last_blocks(1), last_blocks(3), {3}),
        (linear_probe(new_head=False), full(), set()),
        (Partition(freeze(last(1)), train(others())), last_blocks(2), {2}),
    ],
)
def test_moments_go_with_their_parameters(tiny, partition, other, carried, optimizer, kind, scan):
    (_, _, state, frozen), (plan, experiment, new, kept) = states(
        tiny, partition, other, optimizer=optimizer, scan=scan
    )
    forms, _ = state_shapes(plan_at(plan, 3), boundary(experiment))
    _, frozen_forms = state_shapes(plan, boundary(experiment))
    shape_of = lambda tree: {key: (leaf.shape, leaf.dtype) for key, leaf in as_flat(tree).items()}  # noqa: E731
    assert shape_of(new) == shape_of(forms)
    assert shape_of(kept) == shape_of(frozen_forms)
    values = [as_flat({"p": tree}) for tree in ({**frozen, **state.trainable}, {**kept, **new.trainable})]
    moments = [as_flat(tree.optimizer_state) for tree in (state, new)]
    averages = [as_flat({"p": tree.average["trainable"]}) for tree in (state, new)]
    for number in range(4):
        np.testing.assert_array_equal(of_block(values[0], "p", number), of_block(values[1], "p", number))
        now = of_block(moments[1], kind, number)
        if number in carried:
            np.testing.assert_array_equal(now, of_block(moments[0], kind, number))
            np.testing.assert_array_equal(of_block(averages[0], "p", number), of_block(averages[1], "p", number))
        elif now is not None:
            assert not now.any()
            np.testing.assert_array_equal(of_block(averages[1], "p", number), of_block(values[0], "p", number))
    assert (int(new.step), int(new.skipped)) == (3, 3)
    counts = [np.unique(value).tolist() for key, value in moments[1].items() if key.endswith("count")]
    assert all(value in ([0], [3]) for value in counts)
    assert not carried or not counts or [3] in counts


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(
    "other",
    [full(), last_blocks(3), Partition(train(".*", learning_rate=0.5)), Partition(train("head/.*"), train(others()))],
)
def test_what_is_new_takes_the_steps_of_a_new_run(tiny, other, scan):
    """And what goes on those that its moments and its count tell, by the formulas of Adam."""
    optimizer = AdamW(weight_decay=None)
    before, (plan, experiment, new, _) = states(tiny, last_blocks(1), other, optimizer=optimizer, scan=scan)
    phase, leaves = plan_at(plan, 3), boundary(experiment)
    gradient = jax.tree.map(lambda value: np.full(value.shape, 0.7, np.float32), new.trainable)
    direction, _ = transformation(phase, leaves).update(gradient, new.optimizer_state, new.trainable)
    moved = unstacked(direction, phase.stacks_of(direction))
    assert len(moved) > len(before.plan.trainable)
    old = as_flat(before.state.optimizer_state)
    for path, value in moved.items():
        mu, nu = (
            of_block(old, kind, int(path[6:8]), path[9:]) if path.startswith("block") else None for kind in ("mu", "nu")
        )
        if path.startswith("head"):
            mu, nu = (np.asarray(old[f"1/{kind}/{path}"]) for kind in ("mu", "nu"))
        if mu is None:
            np.testing.assert_allclose(value, 1, rtol=1e-4, err_msg=path)
        else:
            mean = (0.9 * mu + 0.1 * 0.7) / (1 - 0.9**4)
            root = np.sqrt((0.999 * nu + 0.001 * 0.7**2) / (1 - 0.999**4))
            np.testing.assert_allclose(value, mean / root, rtol=1e-4, err_msg=path)


def test_the_config_of_the_new_run_says_what_began_later(stopped):
    folder = stopped(last_blocks(1))
    new = run.migrate(folder, with_partition(full()))
    told = json.loads((Path(new["folder"]) / "inspection.json").read_text())
    by_path = {row["path"]: row["treatment"] for row in told["layers"]}
    step = latest(folder).step
    assert by_path["block_03/dense/kernel"] == by_path["head/bias"] == "train()"
    assert by_path["block_00/dense/kernel"] == f"train(after={step} steps)"
    again = run.migrate(folder, with_partition(last_blocks(1)))
    assert "after" not in json.dumps(json.loads((Path(again["folder"]) / "inspection.json").read_text())["layers"])


def test_what_begins_later_has_a_count_of_its_own(tiny):
    partition = Partition(train("head/.*"), train("block_03/.*", after=steps(2)), freeze(others()))
    _, (_, _, new, kept) = states(tiny, linear_probe(new_head=False), partition, optimizer=AdamW(), scan=False)
    counts = {key: int(value) for key, value in as_flat(new.optimizer_state).items() if key.endswith("count")}
    assert sorted(counts.values()) == [0, 3]
    assert "block_03/dense/kernel" in new.trainable
    assert "block_03/dense/kernel" in kept  # of the phase in which the run would begin


@pytest.mark.parametrize("other", [last_blocks(1), gradual(2, steps(6)), full()])
def test_it_stays_close_to_the_source_it_had(tiny, tmp_path, stopped, other):
    source = run.train(tiny(name="source", model=MODEL), workdir=str(tmp_path))["folder"]
    folder = stopped(last_blocks(2), source=Pretrained(str(source)), stay_close=0.1)
    summary = run.migrate(folder, with_partition(other))
    assert summary["reason"] == "finished"
    begun = {path: value for path, value in latest_frozen(folder).items()}
    for path, value in latest_frozen(summary["folder"]).items():
        name = path.removeprefix("source/")
        if path != name:
            assert np.asarray(begun.get(path, begun.get(name))).tobytes() == np.asarray(value).tobytes(), path


def latest_frozen(folder):
    with Checkpoints(Path(folder) / "checkpoints") as checkpoints:
        return checkpoints.restore_frozen()


def test_what_cannot_go_on_is_told_and_nothing_is_made(stopped, tiny, tmp_path):
    folder = stopped(full())
    before = contents(tmp_path / "runs")

    def problem(path, change):
        with pytest.raises(UserError) as caught:
            run.migrate(path, change)
        return str(caught.value)

    seed = lambda experiment: dataclasses.replace(experiment, seed=3)  # noqa: E731
    assert "seed: of a run that goes on the partition alone may be changed" in problem(folder, seed)
    assert "did you mean 'head/.*'" in problem(folder, with_partition(Partition(train("haed/.*"), freeze(others()))))
    assert contents(tmp_path / "runs") == before
    done = run.train(tiny(name="done"), workdir=str(tmp_path / "done"))["folder"]
    change = lambda experiment: dataclasses.replace(experiment, partition=last_blocks(1))  # noqa: E731
    assert "has come to its end, step 20" in problem(done, change)


def test_sgd_has_no_state_to_carry(stopped):
    summary = run.migrate(stopped(full(), optimizer=SGD(learning_rate=0.1)), with_partition(last_blocks(1)))
    assert summary["reason"] == "finished"
    assert summary["frozen"]["unchanged"]


def test_the_command_line_says_the_partition(stopped, capsys):
    import launch

    folder = stopped(full())
    command = ["launch.py", "--tune=false", "--resume", folder]
    assert launch.main([*command, "--config.finetuning.partition", "last_blocks(1)", "--config.seed", "3"]) == 2
    assert "--config.seed: a run's config is fixed but for its partition" in capsys.readouterr().err
    assert launch.main([*command, "--config.finetuning.partition", "last_blocks(1)"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"going on from step {latest(folder).step} of {folder}, which stays as it is" in told
    assert "finished, after 20 steps" in told
