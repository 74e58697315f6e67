"""Networks that differ in depth alone are trained by one program, and come out as each by itself."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import depth_sweep
from research.data import Few
from research.jsonl import read_rows
from research.models import MLP, ConvNet, ViT
from research.parameters.partition import Partition, freeze, train
from research.sweeps import TPE, Halving, Sweep, depths, grid, log_uniform, product, repeat
from research.sweeps import run as module
from research.sweeps.depths import join
from research.sweeps.lanes import advance, begin, make_lanes, make_program
from research.sweeps.plan import make_plan
from research.training import Adafactor, AdamW, CrossEntropy, Momentum, Muon, steps
from research.training.evaluation import to_device
from research.training.loop import lengths
from research.training.plan import boundary
from research.training.plan import make_plan as plan_of
from research.training.step import initial_state, train_chunk


@pytest.fixture
def base(base):
    model = ConvNet(features=(4,), norm="batch", pooling=None, head="average")
    more = {"duration": steps(20), "log_every": steps(5), "evaluate_every": steps(5), "norms": "none"}
    return dataclasses.replace(base, model=model, **more)


@pytest.fixture
def sweep(base):
    space = product(
        grid("model.convolutions", 1, 2, 4), grid("model.residual", False, True), grid("optimizer.learning_rate", 0.003)
    )
    return Sweep(base=base, space=product(space, repeat("seed", 2)), judge=1, name="tiny")


def joined(sweep):
    """The depths that each program has."""
    return [tuple(row.group.experiment.model.convolutions for row in each.rows) for each in join(make_plan(sweep))]


def test_those_that_differ_in_depth_alone_are_one_program_the_deepest_first(sweep):
    assert joined(sweep) == [(4, 2, 1), (4, 2, 1)]
    first, second = join(make_plan(sweep))
    assert (first.numbers, second.numbers) == ((4, 2, 0), (5, 3, 1))
    assert first.values == {"model.convolutions": "1 to 4", "model.residual": "false"}
    structures = {jax.tree.structure(experiment) for experiment in first.experiments()}
    assert structures == {first.structure()}
    assert first.structure() != second.structure()


ALONE = [(1,), (1,), (2,), (2,), (4,), (4,)]


@pytest.mark.parametrize(
    "changes",
    [
        {"norms": "activations"},
        {"objective": CrossEntropy(l2=1e-4)},
        {"objective": CrossEntropy(l1=1e-4)},
        {"partition": Partition(rules=(freeze("stage_0/convolution_0/.*"), train("(?!stage_0/convolution_0/).*")))},
        {"model": ConvNet(features=(4,), padding="VALID", pooling=None)},
    ],
    ids=str,
)
def test_what_looks_at_all_parameters_keeps_them_apart(sweep, changes):
    changed = dataclasses.replace(sweep, base=dataclasses.replace(sweep.base, **changes), join_depths=True)
    assert sorted(joined(changed)) == ALONE


def test_they_are_apart_where_that_is_asked_for_or_some_leave_or_come_later(sweep, monkeypatch):
    assert sorted(joined(dataclasses.replace(sweep, join_depths=False))) == ALONE
    assert sorted(joined(dataclasses.replace(sweep, halving=Halving()))) == ALONE
    space = product(grid("model.convolutions", 1, 2), log_uniform("optimizer.learning_rate", 0.01, 0.1, trials=2))
    assert set(joined(dataclasses.replace(sweep, space=space, search=TPE(trials=4, batch=4)))) == {(1,), (2,)}
    monkeypatch.setattr(depths.fit, "default_how", lambda: "vmap")
    assert sorted(joined(sweep)) == ALONE


def test_they_are_apart_where_training_takes_longer_than_compiling(sweep):
    longer = dataclasses.replace(sweep, base=dataclasses.replace(sweep.base, duration=steps(1_000_000)))
    assert sorted(joined(longer)) == ALONE
    assert joined(dataclasses.replace(longer, join_depths=True)) == [(4, 2, 1), (4, 2, 1)]


README = Path(__file__).parents[2] / "README.md"
CONV = ConvNet(features=(4, 6), norm="batch", head="average")


def test_the_sweep_of_the_readme_is_compiled_as_it_says(monkeypatch):
    monkeypatch.setattr(depths.runtime, "cores", lambda: 2)
    told = re.search(r"^compiled +as (\d+) programs", README.read_text(), re.MULTILINE)
    assert len(join(make_plan(depth_sweep.get_config()))) == int(told[1])


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        (CONV, AdamW()),
        (dataclasses.replace(CONV, residual=True), Momentum(learning_rate=0.05)),
        (MLP(width=8, residual=True, norm="batch", dropout=0.2), Momentum(learning_rate=0.05)),
        (MLP(width=8, dropout=0.2), AdamW()),
        (MLP(width=8), Muon()),
        (ViT(width=8, heads=2, patch=4), Adafactor()),
    ],
    ids=["convolutions", "residual ones", "residual mlp", "mlp", "by muon", "transformer"],
)
def test_twenty_steps_in_one_program_are_those_of_each_alone(base, model, optimizer):
    base = dataclasses.replace(base, model=model, optimizer=optimizer, clip=1.0, average=0.9)
    sweep = Sweep(base=base, space=grid(f"model.{model.counted()}", 1, 2, 4), judge=0, join_depths=True)
    (together,) = join(make_plan(sweep))
    loaded = base.data.load()
    plan = together.deepest.plan
    program = make_program(plan, together.experiments(), jax.devices()[:2], "map")
    lanes = make_lanes(program, together.experiments())
    frozen, states = begin(lanes)
    data = to_device(plan, loaded.splits["train"], loaded.normalisation)
    states, _ = advance(lanes, frozen, states, jax.device_put(data, program.everywhere()), lengths(0, [7, 20]))
    for place, row in zip(lanes.places, together.rows, strict=True):
        experiment = row.group.experiment
        own = plan_of(experiment, loaded)
        state, kept = initial_state(own, boundary(experiment))
        state, _ = train_chunk(own, boundary(experiment), kept, state, data, lengths(0, [20]))
        found = [{**tree.trainable, **tree.model_state, **tree.average["trainable"]} for tree in (state, states)]
        for path, value in found[0].items():
            np.testing.assert_allclose(found[1][path][place], value, atol=1e-5, err_msg=f"{row.values} {path}")


def same_trials(a, b):
    """Whether two sweeps tell the same of each trial, to float rounding."""
    rows = [{row["trial"]: row for row in read_rows(folder / "trials.jsonl")} for folder in (a, b)]
    assert rows[0].keys() == rows[1].keys()
    for trial, told in rows[0].items():
        other = rows[1][trial]
        for name in ("fingerprint", "values", "program", "status", "steps", "ended"):
            assert told.get(name) == other.get(name), name
        for split in ("validation", "test", "train"):
            assert (told[split] is None) is (other[split] is None), split
            if told[split]:
                assert told[split]["loss"] == pytest.approx(other[split]["loss"], abs=2e-3)
    examples = [dict(_examples(folder)) for folder in (a, b)]
    assert examples[0].keys() == examples[1].keys()
    metrics = [sorted(read_rows(folder / "metrics.jsonl"), key=_place) for folder in (a, b)]
    for told, other in zip(*metrics, strict=True):  # norms of the layers that each network has, too
        assert told.keys() == other.keys()
        assert _place(told) == _place(other)
        for name in told.keys() - {"split"}:
            assert told[name] == pytest.approx(other[name], rel=2e-2, abs=2e-3), name
    for trial, losses in examples[0].items():
        np.testing.assert_allclose(losses, examples[1][trial], atol=2e-2)


def _place(row):
    return row["trial"], row["step"], row["split"]


def _examples(folder):
    for path in (folder / "examples").glob("*.npz"):
        with np.load(path) as arrays:
            yield from zip(arrays["trials"].tolist(), arrays["losses"], strict=True)


def test_a_sweep_comes_out_as_without(sweep, tmp_path, packs):
    sweep = dataclasses.replace(sweep, base=dataclasses.replace(sweep.base, norms="layers"), tested="chosen")
    apart = module.run(dataclasses.replace(sweep, join_depths=False), workdir=str(tmp_path / "apart"))
    assert list(map(len, packs)) == [2] * 6 + [1] * 6
    packs.clear()
    summary = module.run(sweep, workdir=str(tmp_path / "joined"))
    assert packs[:2] == [[8, 9, 4, 5, 0, 1], [10, 11, 6, 7, 2, 3]]
    assert list(map(len, packs[2:])) == [3, 3]
    same_trials(Path(apart["folder"]), Path(summary["folder"]))
    for program, other in zip(summary["programs"], apart["programs"], strict=True):
        assert program["values"] == other["values"]
        assert program["chosen"]["values"] == other["chosen"]["values"]
    rows = {row["trial"]: row for row in read_rows(Path(summary["folder"], "trials.jsonl"))}
    assert rows[8]["seconds"] == pytest.approx(4 * rows[0]["seconds"])  # the deeper take more of the time


@pytest.mark.parametrize("after", [2, 5])
def test_interrupted_it_goes_on_where_it_was(sweep, tmp_path, interrupted_after, after):
    whole = module.run(sweep, workdir=str(tmp_path / "whole"))
    interrupted_after(after)
    stopped = module.run(sweep, workdir=str(tmp_path / "parts"))
    assert stopped["reason"] == "interrupted"
    interrupted_after(1000)
    finished = module.run(sweep, workdir=str(tmp_path / "parts"))
    assert finished["done"] == whole["done"]
    same_trials(Path(whole["folder"]), Path(finished["folder"]))


def test_what_was_under_way_apart_is_begun_again(sweep, tmp_path, interrupted_after):
    interrupted_after(2)
    alone = dataclasses.replace(sweep, join_depths=False)
    stopped = module.run(alone, workdir=str(tmp_path))
    (folder,) = Path(stopped["folder"], "checkpoints").iterdir()
    interrupted_after(1000)
    finished = module.run(sweep, workdir=str(tmp_path))
    assert finished["folder"] == stopped["folder"]
    assert (finished["reason"], folder.exists()) == ("finished", False)
    rows = read_rows(Path(finished["folder"], "trials.jsonl"))
    assert len(rows) == len({row["trial"] for row in rows}) == 12 + 6
    metrics = read_rows(Path(finished["folder"], "metrics.jsonl"))
    steps_told = list(map(_place, metrics))
    assert len(steps_told) == len(set(steps_told))


def test_trials_of_other_examples_are_other_packs(sweep, tmp_path, packs):
    base = dataclasses.replace(sweep.base, data=Few(sweep.base.data, 50))
    space = product(grid("model.convolutions", 1, 2), repeat("data.seed", 2))
    module.run(dataclasses.replace(sweep, base=base, space=space, judge=0), workdir=str(tmp_path))
    assert packs == [[2, 0], [3, 1]]
