"""A mistake in a sweep is one clear line and status 2, and nothing is written; what can run does.

By the command, from a config file, as a user meets it. What each rule is in itself is tested where the rule is:
test_spaces, test_sweep, test_sweep_plan.
"""

import json

import pytest

import launch

FILE = """
from research.data import Digits
from research.models import MLP, ConvNet
from research.sweeps import *
from research.training import *


def never(values):
    return False


def get_config():
    base = Experiment(data=Digits(), model=MLP(depth=1, width=4), duration=steps(4), batch_size=32, devices=1,
                      evaluate_every=steps(4), norms="none")
    return Sweep(base=base, space={space}, judge=0{more})
"""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Writes swept.py with a space, runs it, and returns the status, what was printed, and the lines of errors."""
    monkeypatch.chdir(tmp_path)

    def run(space, more="", *flags):
        (tmp_path / "swept.py").write_text(FILE.replace("{space}", space).replace("{more}", more))
        status = launch.main(["launch.py", "--config", "swept.py", *flags])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


MISTAKES = {
    "a key that is no field": ('grid("model.dept", 1, 2)', "", ["model.dept: no such field", "did you mean 'depth'?"]),
    "a key of a part that is not there": ('grid("mdel.depth", 1)', "", ["mdel.depth: no such field", "'model'"]),
    "a key below a number": ('grid("model.depth.more", 1)', "", ["model.depth.more: no such field"]),
    "an empty key": ('grid("", 1)', "", [""]),
    "text for a number": ('grid("model.depth", 1, "two")', "", ["model.depth: 'two' is no whole number"]),
    "a fraction for a whole number": ('grid("model.depth", 1.5)', "", ["model.depth: 1.5 is no whole number"]),
    "nothing where something is needed": ('grid("model.depth", None)', "", ["model.depth: None is no"]),
    "a part of another kind": ('grid("optimizer", Digits())', "", ["optimizer: Digits"]),
    "an unknown kind": ('grid("optimizer", "adamx")', "", ["optimizer: no kind 'adamx'", "did you mean 'Adam'?"]),
    "a number out of range": ('grid("optimizer.learning_rate", -1.0)', "", ["optimizer.learning_rate: -1.0 is not in"]),
    "no values": ('grid("model.depth")', "", ["swept.py:15 in get_config: values: there is none to try"]),
    "no spaces": ("product()", "", ["swept.py:15 in get_config: spaces: there is none"]),
    "no space": ("None", "", ["space: None is no one of Grid"]),
    "values without a space": ('{"model.depth": (1, 2)}', "", ["space: "]),
    "a constraint that nothing meets": ('where(grid("seed", 1, 2), never)', "", ["never admits none of the 2 assign"]),
    "a metric that no trial logs": (
        'grid("seed", 1)', ', select="validation/acuracy"', ["select: 'validation/acuracy' is no one of"]
    ),
    "a metric of each trial that it does not log": ('grid("select", "validation/f1")', "", ["select: no metric"]),
    "all of it cannot be built": ('grid("batch_size", 5_000)', "", ["batch_size: 5000 is larger than the training"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_a_clear_line_and_nothing_is_written(name, command, tmp_path):
    space, more, told = MISTAKES[name]
    status, _, errors = command(space, more)
    assert status == 2
    assert len(errors) == 1 and errors[0].startswith("error: "), errors
    for part in told:
        assert part in errors[0], errors
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["swept.py"]


def test_duplicates_are_told_and_run_once(command, tmp_path):
    status, out, errors = command('grid("seed", 0, 1, 0, 1, 0)')
    assert (status, errors) == (0, [])
    assert "2 trials, 1 program; 3 duplicates left out" in out
    (folder,) = (tmp_path / "runs" / "swept").iterdir()
    rows = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    assert [row["values"]["seed"] for row in rows] == [0, 1]


def test_another_sweep_of_the_name_has_a_folder_of_its_own_and_the_first_is_as_it_was(command, tmp_path):
    assert command('grid("seed", 0)')[0] == 0
    (first,) = (tmp_path / "runs" / "swept").iterdir()
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert len(before) > 5
    status, out, errors = command('grid("seed", 0, 1)')
    assert (status, errors) == (0, [])
    assert "1 of 2 trials are done already" in out
    second = next(path for path in (tmp_path / "runs" / "swept").iterdir() if path != first)
    assert len((second / "trials.jsonl").read_text().splitlines()) == 2
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before


def test_a_file_where_the_folder_should_be_is_told(command, tmp_path):
    (tmp_path / "runs").write_text("a file")
    status, _, errors = command('grid("seed", 0)')
    assert status == 2
    assert len(errors) == 1 and "runs" in errors[0], errors
    assert (tmp_path / "runs").read_text() == "a file"


def test_a_trial_that_cannot_be_built_fails_with_its_reason_and_the_rest_runs(command, tmp_path):
    status, out, errors = command('grid("model", MLP(depth=1, width=4), ConvNet(features=(4,) * 5))')
    assert (status, errors) == (0, [])
    (folder,) = (tmp_path / "runs" / "swept").iterdir()
    rows = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    assert sorted(row["status"] for row in rows) == ["failed", "finished"]
    (failed,) = (row for row in rows if row["status"] == "failed")
    assert "stage_3 would pool" in failed["problems"][0]
    assert "stage_3 would pool" in (folder / "report.html").read_text()
    assert "1 (1 bad)" in out
