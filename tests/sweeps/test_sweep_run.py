"""A sweep from its config to its folder: what is done is not done again, whatever ended it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from research.config import override
from research.data import Digits, Few
from research.models import BERT, MLP
from research.sweeps import Halving, Sweep, grid, log_uniform, product, repeat, rounds, where, zipped
from research.sweeps import run as module
from research.sweeps.fit import Pack
from research.training import steps
from research.training.run import train


@pytest.fixture
def base(base):
    return dataclasses.replace(base, duration=steps(20), log_every=steps(5), evaluate_every=steps(5))


@pytest.fixture
def sweep(base):
    space = product(
        grid("model.depth", 1, 2), log_uniform("optimizer.learning_rate", 0.01, 0.1, trials=2), repeat("seed", 2)
    )
    return Sweep(base=base, space=space, judge=0, name="tiny", join_depths=False)  # for several programs


def read(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def only_folder(parent):
    (folder,) = parent.iterdir()
    return folder


def without_times(rows):
    return [row | {"seconds": 0} for row in rows]


def same_tables(a, b):
    assert without_times(read(a, "trials.jsonl")) == without_times(read(b, "trials.jsonl"))
    by_trial = [sorted(read(folder, "metrics.jsonl"), key=lambda row: (row["trial"], row["step"])) for folder in (a, b)]
    assert by_trial[0] == by_trial[1]
    assert examples_of(a).keys() == examples_of(b).keys()
    for trial, losses in examples_of(a).items():
        np.testing.assert_array_equal(losses, examples_of(b)[trial])


def examples_of(folder):
    found = {}
    for path in (folder / "examples").glob("*.npz"):
        with np.load(path) as arrays:
            found |= dict(zip(arrays["trials"].tolist(), arrays["losses"], strict=True))
    return found


def test_a_sweep_keeps_a_row_of_each_trial_and_finds_the_best(sweep, tmp_path):
    summary = module.run(sweep, workdir=str(tmp_path))
    folder = only_folder(tmp_path / "tiny")
    rows = read(folder, "trials.jsonl")
    assert [row["trial"] for row in rows] == list(range(8))
    assert {tuple(row["values"]) for row in rows} == {("model.depth", "optimizer.learning_rate", "seed")}
    best = max(rows, key=lambda row: (row["validation"]["accuracy"], -row["validation"]["loss"]))
    assert summary["best"]["trial"] == best["trial"]
    assert [program["done"] for program in summary["programs"]] == [4, 4]
    assert {row["trial"] for row in read(folder, "metrics.jsonl")} == set(range(8))
    assert examples_of(folder).keys() == set(range(8))
    for name in ("sweep.json", "environment.json", "summary.json", "report.html"):
        assert (folder / name).is_file()
    assert not list((folder / "checkpoints").glob("*"))


def test_the_best_of_each_program_is_judged_on_fresh_seeds(sweep, tmp_path):
    summary = module.run(dataclasses.replace(sweep, judge=2), workdir=str(tmp_path))
    rows = read(only_folder(tmp_path / "tiny"), "trials.jsonl")
    search, judged = ([row for row in rows if row["stage"] == stage] for stage in ("search", "judgement"))
    assert (len(search), len(judged)) == (8, 4)
    assert {row["values"]["seed"] for row in judged}.isdisjoint({row["values"]["seed"] for row in search})
    for number in (0, 1):
        means = {}
        for row in search:
            if row["program"] == number:
                means.setdefault(row["values"]["optimizer.learning_rate"], []).append(row["validation"]["accuracy"])
        chosen = max(means, key=lambda rate: np.mean(means[rate]))
        of_program = [row for row in judged if row["program"] == number]
        assert {row["values"]["optimizer.learning_rate"] for row in of_program} == {chosen}
        accuracies = [row["test"]["accuracy"] for row in of_program]
        assert summary["programs"][number]["judged"]["accuracies"] == accuracies
        assert {row["of"] for row in of_program} <= {row["trial"] for row in search}


def test_what_validation_did_not_choose_may_go_without_test_figures(sweep, tmp_path, packs):
    some = dataclasses.replace(sweep, judge=2, tested="chosen")
    ours = module.run(some, workdir=str(tmp_path / "some"))
    whole = module.run(dataclasses.replace(some, tested="all"), workdir=str(tmp_path / "all"))
    for program, other in zip(ours["programs"], whole["programs"], strict=True):
        assert program["chosen"]["values"] == other["chosen"]["values"]
        assert program["judged"]["accuracies"] == other["judged"]["accuracies"]
        assert program["chosen"]["test"]["loss"] == pytest.approx(other["chosen"]["test"]["loss"])
    assert ours["verdict"] == whole["verdict"]
    assert ours["best"]["trial"] == whole["best"]["trial"]

    folder = only_folder(tmp_path / "some" / "tiny")
    rows = read(folder, "trials.jsonl")
    judged_at = {(row["program"], row["values"]["optimizer.learning_rate"]) for row in rows[8:]}
    for row in rows:
        is_chosen = (row["program"], row["values"]["optimizer.learning_rate"]) in judged_at
        assert (row["test"] is not None) == is_chosen
        assert row["validation"]
    assert set(examples_of(folder)) == {row["trial"] for row in rows if row["test"]}
    assert "values validation chose" in (folder / "report.html").read_text()

    packs.clear()  # a sweep that wants the others' figures as well runs those again, and no more
    again = module.run(dataclasses.replace(some, tested="all"), workdir=str(tmp_path / "some"))
    assert sorted(trial for pack in packs for trial in pack) == [row["trial"] for row in rows if not row["test"]]
    assert again["programs"][0]["judged"] == ours["programs"][0]["judged"]


def test_a_draw_of_the_data_is_repeated_as_a_seed_is_in_one_program(sweep, tmp_path, packs):
    base = dataclasses.replace(sweep.base, data=Few(Digits(), 40))
    pairs = zipped(repeat("seed", 2), repeat("data.seed", 2))
    space = product(grid("optimizer.learning_rate", 0.01, 0.1), pairs)
    summary = module.run(dataclasses.replace(sweep, base=base, space=space, judge=2), workdir=str(tmp_path))
    rows = read(only_folder(tmp_path / "tiny"), "trials.jsonl")
    assert {row["program"] for row in rows} == {0}
    assert packs == [[0, 2], [1, 3], [4], [5]]  # lanes of a pack read the same examples

    (program,), of_rate = summary["programs"], {}
    for row in rows[:4]:
        of_rate.setdefault(row["values"]["optimizer.learning_rate"], []).append(row["validation"]["accuracy"])
    chosen = max(of_rate, key=lambda rate: np.mean(of_rate[rate]))
    assert [row["values"] for row in rows[4:]] == [
        {"optimizer.learning_rate": chosen, "seed": seed, "data.seed": seed} for seed in (2, 3)
    ]
    assert program["judged"]["accuracies"] == [row["test"]["accuracy"] for row in rows[4:]]
    assert program["chosen"]["values"] == {"optimizer.learning_rate": chosen}
    assert program["chosen"]["value"] == pytest.approx(np.mean(of_rate[chosen]))
    tested = [row["test"]["loss"] for row in rows[:4] if row["values"]["optimizer.learning_rate"] == chosen]
    assert program["chosen"]["test"]["loss"] == pytest.approx(np.mean(tested))

    last = base
    for path, value in rows[5]["values"].items():
        last = override(last, path, value)
    alone = train(last, workdir=str(tmp_path / "alone"))  # with nothing of the sweep but its values
    assert rows[5]["test"]["loss"] == pytest.approx(alone["test"]["loss"], abs=1e-4)


def test_the_same_sweep_again_runs_nothing(sweep, tmp_path, packs):
    sweep = dataclasses.replace(sweep, judge=1)
    first = module.run(sweep, workdir=str(tmp_path))
    packs.clear()
    assert module.run(sweep, workdir=str(tmp_path)) == first
    assert not packs
    only_folder(tmp_path / "tiny")


def test_a_larger_sweep_runs_what_is_new_alone_and_keeps_all(sweep, tmp_path, packs):
    module.run(sweep, workdir=str(tmp_path / "a"))
    larger = override(sweep, "space.spaces.2.times", 3)
    whole = module.run(larger, workdir=str(tmp_path / "b"))
    packs.clear()
    summary = module.run(larger, workdir=str(tmp_path / "a"))
    assert packs == [[2, 5], [8, 11]]
    assert summary["done"] == 12
    same_tables(Path(whole["folder"]), Path(summary["folder"]))


def test_what_another_sweep_searched_is_judged_by_and_what_it_judged_is_searched(sweep, tmp_path, packs):
    few = dataclasses.replace(sweep, judge=2)  # judged on seeds 2 and 3
    more = dataclasses.replace(override(sweep, "space.spaces.2.times", 3), judge=2)  # on 3 and 4; 2 is of the search
    more = override(more, "space.spaces.0.values", (2, 1))  # so that programs have other numbers
    alone = module.run(more, workdir=str(tmp_path / "alone"))
    module.run(few, workdir=str(tmp_path / "after"))
    packs.clear()
    summary = module.run(more, workdir=str(tmp_path / "after"))
    assert sum(map(len, packs)) < 16  # some were known
    same_tables(Path(alone["folder"]), Path(summary["folder"]))


@pytest.mark.parametrize("after", [0, 2, 4, 7])
def test_an_interrupted_sweep_goes_on_where_it_was(sweep, tmp_path, interrupted_after, after):
    whole = module.run(sweep, workdir=str(tmp_path / "whole"))
    interrupted_after(after)
    stopped = module.run(sweep, workdir=str(tmp_path / "parts"))
    assert stopped["reason"] == "interrupted"
    assert stopped["done"] < 8
    interrupted_after(1000)
    finished = module.run(sweep, workdir=str(tmp_path / "parts"))
    assert (finished["reason"], finished["done"]) == ("finished", 8)
    same_tables(Path(whole["folder"]), Path(finished["folder"]))
    assert finished["best"]["trial"] == whole["best"]["trial"]


def test_what_is_under_way_is_not_begun_again(sweep, tmp_path, interrupted_after, monkeypatch):
    interrupted_after(2)  # in the middle of the first program
    stopped = module.run(sweep, workdir=str(tmp_path))
    assert len(list(Path(stopped["folder"], "checkpoints").iterdir())) == 1
    began, restore = [], Pack.restore
    monkeypatch.setattr(Pack, "restore", lambda self, saved: (began.append(saved.about["step"]), restore(self, saved)))
    interrupted_after(1000)
    module.run(sweep, workdir=str(tmp_path))
    assert began == [10]


def test_a_damaged_checkpoint_begins_again(sweep, tmp_path, interrupted_after):
    whole = module.run(sweep, workdir=str(tmp_path / "whole"))
    interrupted_after(2)
    stopped = module.run(sweep, workdir=str(tmp_path / "parts"))
    for path in Path(stopped["folder"], "checkpoints").rglob("checksums.json"):
        path.unlink()
    interrupted_after(1000)
    finished = module.run(sweep, workdir=str(tmp_path / "parts"))
    same_tables(Path(whole["folder"]), Path(finished["folder"]))


def test_rows_of_unfinished_trials_are_dropped_before_they_are_written_again(sweep, tmp_path):
    module.run(sweep, workdir=str(tmp_path))
    folder = only_folder(tmp_path / "tiny")
    lines = (folder / "trials.jsonl").read_text().splitlines(keepends=True)
    (folder / "trials.jsonl").write_text("".join(lines[:4]) + lines[4][:20])  # as if killed in the second program
    before = len(read(folder, "metrics.jsonl"))
    module.run(sweep, workdir=str(tmp_path))
    assert len(read(folder, "metrics.jsonl")) == before
    assert len(read(folder, "trials.jsonl")) == 8


def test_trials_are_cut_into_packs_that_fit(sweep, tmp_path, monkeypatch, packs):
    monkeypatch.setattr(rounds, "MOST_AT_ONCE", 3)
    module.run(sweep, workdir=str(tmp_path))
    assert list(map(len, packs)) == [2, 2, 2, 2]  # of four, as equal as they come


def test_a_pack_that_runs_out_of_memory_is_halved(sweep, tmp_path, monkeypatch, packs):
    whole = module.run(sweep, workdir=str(tmp_path / "whole"))
    packs.clear()
    advance = Pack.advance

    def too_much(self, until, edge):
        if len(self.trials) > 2:
            advance(self, 5, edge)  # it comes in the midst
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
        return advance(self, until, edge)

    monkeypatch.setattr(Pack, "advance", too_much)
    halved = module.run(sweep, workdir=str(tmp_path / "halved"))
    assert list(map(len, packs)) == [4, 4, 2, 2, 2, 2]
    same_tables(Path(whole["folder"]), Path(halved["folder"]))


def test_a_trial_that_does_not_fit_alone_fails_and_the_rest_runs(sweep, tmp_path, monkeypatch):
    advance = Pack.advance

    def too_much(self, until, edge):
        if any(trial.index == 1 for trial in self.trials):
            raise MemoryError
        return advance(self, until, edge)

    monkeypatch.setattr(Pack, "advance", too_much)
    summary = module.run(sweep, workdir=str(tmp_path))
    rows = read(Path(summary["folder"]), "trials.jsonl")
    assert [row["trial"] for row in rows if row["status"] == "failed"] == [1]
    assert "memory" in next(row["problems"][0] for row in rows if row["status"] == "failed")
    assert sum(row["status"] == "finished" for row in rows) == 7


def test_a_program_that_cannot_be_built_fails_alone(base, tmp_path):
    space = grid("model", MLP(depth=1, width=4), BERT(depth=1))
    summary = module.run(Sweep(base=base, space=space, judge=1, name="mixed"), workdir=str(tmp_path))
    rows = read(only_folder(tmp_path / "mixed"), "trials.jsonl")
    assert [row["status"] for row in rows] == ["finished", "failed", "finished"]
    assert summary["reason"] == "finished"
    assert jax.tree.leaves(summary["best"]["validation"])


def test_a_space_with_a_lambda_can_be_run(base, tmp_path):
    space = where(grid("model.depth", 1, 2), lambda values: values["model.depth"] < 2)
    sweep = Sweep(base=base, space=space, judge=0, name="lambda")
    summary = module.run(sweep, workdir=str(tmp_path))
    assert (summary["reason"], summary["done"]) == ("finished", 1)
    assert module.run(sweep, workdir=str(tmp_path)) == summary


# ---------------------------------------------------------------------------------------------------------------------
# Successive halving


@pytest.fixture
def halved(sweep):
    return dataclasses.replace(sweep, halving=Halving(first=0.25, factor=2))


def test_at_each_rung_the_worse_half_leaves(halved, tmp_path):
    full = module.run(dataclasses.replace(halved, halving=None), workdir=str(tmp_path / "full"))
    summary = module.run(halved, workdir=str(tmp_path / "halved"))
    rows = read(Path(summary["folder"]), "trials.jsonl")
    assert sorted(row["steps"] for row in rows) == [5] * 4 + [10] * 2 + [20] * 2
    assert [row["status"] == "finished" for row in rows] == [row["steps"] == 20 for row in rows]
    at_five = {row["trial"]: row for row in read(Path(full["folder"]), "metrics.jsonl") if row["step"] == 5}
    ranked = sorted(at_five, key=lambda trial: -at_five[trial]["accuracy"])
    worst_that_stayed = min(at_five[row["trial"]]["accuracy"] for row in rows if row["steps"] > 5)
    best_that_left = max(at_five[row["trial"]]["accuracy"] for row in rows if row["steps"] == 5)
    assert worst_that_stayed >= best_that_left
    assert len(ranked) == 8
    alone = {row["trial"]: row for row in read(Path(full["folder"]), "trials.jsonl")}
    for row in rows:
        if row["status"] == "finished":
            assert row["test"]["loss"] == pytest.approx(alone[row["trial"]]["test"]["loss"], abs=1e-5)
    for number, program in enumerate(summary["programs"]):  # what left is not what is best
        came = [row for row in rows if row["program"] == number and row["status"] == "finished"]
        assert (program["best"] is None, program["chosen"] is None) == (not came, not came)
        assert not came or program["best"]["trial"] in {row["trial"] for row in came}


@pytest.mark.parametrize("after", [1, 3, 5, 7])
def test_an_interrupted_halving_decides_as_the_whole_one(halved, tmp_path, interrupted_after, after):
    whole = module.run(halved, workdir=str(tmp_path / "whole"))
    interrupted_after(after)
    assert module.run(halved, workdir=str(tmp_path / "parts"))["reason"] == "interrupted"
    interrupted_after(1000)
    finished = module.run(halved, workdir=str(tmp_path / "parts"))
    same_tables(Path(whole["folder"]), Path(finished["folder"]))


# ---------------------------------------------------------------------------------------------------------------------
# Killed

CONFIG = """
import dataclasses
from research.data import Digits
from research.models import MLP
from research.sweeps import *
from research.training import *

def get_config():
    base = Experiment(data=Digits(), model=MLP(depth=1, width=4), duration=steps(600), batch_size=32,
                      log_every=steps(50), evaluate_every=steps(50), norms="none")
    return Sweep(base=base, space=product(grid("model.depth", 1, 2), repeat("seed", 2)), judge=0)
"""


def test_a_sweep_that_is_killed_goes_on(tmp_path, one_device):
    config = tmp_path / "killed.py"
    config.write_text(CONFIG)
    script = tmp_path / "program.py"
    script.write_text(
        "import sys\nfrom research.sweeps import rounds\nrounds.SAVE_EVERY = 0.0\n"
        "import launch\nsys.exit(launch.main(['launch.py', *sys.argv[1:]]))\n"
    )
    root = Path(__file__).parents[2]
    environment = {**one_device, "PYTHONPATH": str(root)}

    def command(workdir):
        return [sys.executable, str(script), "--config", str(config), "--workdir", str(workdir)]

    subprocess.run(command(tmp_path / "whole"), env=environment, check=True, capture_output=True, cwd=root)
    process = subprocess.Popen(command(tmp_path / "parts"), env=environment, stdout=subprocess.DEVNULL, cwd=root)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "parts").glob("killed/*/checkpoints/*/latest/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (only_folder(tmp_path / "parts" / "killed") / "summary.json").exists()
    subprocess.run(command(tmp_path / "parts"), env=environment, check=True, capture_output=True, cwd=root)
    same_tables(only_folder(tmp_path / "whole" / "killed"), only_folder(tmp_path / "parts" / "killed"))
