"""What differs between two experiments or runs, as the command line tells it."""

import json

import pytest

import launch

EXPERIMENT = '''"""An experiment of a second."""

from research.data import Digits
from research.models import MLP
from research.training import SGD, Experiment, steps


def get_config(depth: int = 1):
    return Experiment(
        data=Digits(),
        model=MLP(depth=depth, width=8),
        optimizer=SGD(learning_rate=0.1),
        duration=steps(2),
        batch_size=32,
        evaluate_every=steps(1),
        devices=1,
    )
'''


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "exp.py").write_text(EXPERIMENT)

    def run(*tokens):
        status = launch.main(["launch.py", *map(str, tokens)])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


def what(out):
    return [(layer["what"], layer["before"], layer["after"]) for layer in json.loads(out)["layers"]]


def test_two_configs_are_compared_by_fields_and_by_layers(command):
    status, out, err = command("--mode", "diff", "--config", "exp.py", "--against", "exp.py:3", "--config.seed", 4)
    assert (status, err) == (0, [])
    lines = out.splitlines()
    assert "model.depth: 1 -> 3" in lines
    assert "seed: 4 -> 0" in lines
    text = " ".join(out.split())
    assert "new block_01,02/dense x2 144" in text
    assert "same 2 layers 610 610" in text
    assert "parameters in all 610 754" in text
    assert max(map(len, lines)) <= 80


def test_a_part_of_another_kind_is_told_without_the_fields_it_takes_along(command):
    _, out, _ = command("--mode", "diff", "--config", "exp.py", "--against", "exp.py", "--config.optimizer", "adamw")
    assert "optimizer: AdamW -> SGD" in out.splitlines()
    assert "optimizer.beta1" not in out
    _, out, _ = command(
        "--mode", "diff", "--config", "exp.py", "--against", "exp.py", "--config.optimizer", "adamw", "--format", "json"
    )
    fields = {field["path"]: (field["before"], field["after"]) for field in json.loads(out)["fields"]}
    assert fields["optimizer"] == ("AdamW", "SGD")
    assert fields["optimizer.beta1"][1] is None


def test_runs_are_compared_by_their_numbers_and_with_a_config_by_shapes(command, tmp_path):
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        status, _, err = command("--config", "exp.py", "--config.name", name, "--config.seed", seed)
        assert status == 0, "\n".join(err)  # all of it, should it come again
    diff = ("--mode", "diff", "--format", "json", "--config", "runs/one", "--against")
    _, out, _ = command(*diff, "runs/again")
    assert json.loads(out)["of"] == "numbers"
    assert {change for change, *_ in what(out)} == {"same"}
    _, out, _ = command(*diff, "runs/other")
    assert {change for change, *_ in what(out)} == {"changed"}
    _, out, _ = command(*diff, "exp.py")
    assert json.loads(out)["of"] == "shapes"
    assert {change for change, *_ in what(out)} == {"same"}
    assert {field["path"] for field in json.loads(out)["fields"]} == {"name"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "--mode diff --config exp.py",
            "--mode diff: say with what it is compared, as in --config ONE.py --against OTHER.py",
        ),
        ("--mode diff --against exp.py", "--mode diff: say which config with --config FILE"),
        ("--config exp.py --against exp.py", "--against: goes with --mode diff or evaluate, and this is --mode train"),
        ("--mode diff --config exp.py --against exq.py", "exq.py: no such file; did you mean 'exp.py'?"),
        (
            "--mode diff --run x --config exp.py --against exp.py",
            "--run: goes with --mode evaluate, explain, predict, sample or export; to compare runs: --config RUN "
            "--against RUN",
        ),
    ],
)
def test_what_is_missing_is_told(command, line, problem):
    status, _, err = command(*line.split())
    assert (status, err) == (2, [f"error: {problem}"])
