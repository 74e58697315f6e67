"""Every experiment trains, two steps of it, of a sweep its first and its last trial; and the command that runs them
all writes its table.

What is in the README is run by its own test, and what lessons and comparisons compute by theirs. Compiling is what
takes the time, so networks have fewer layers here, each of them as its experiment has it.
"""

import dataclasses
import importlib.util
import math
import re
from pathlib import Path

import pytest

from research.commandline.listing import read_experiment
from research.commandline.loading import load_config
from research.data import MNIST, Glyphs
from research.errors import UserError
from research.models import BERT, GPT, ConvNet, SmallResNet
from research.sweeps import Space, Sweep, chain, grid, groups, product, trials
from research.sweeps import run as sweep_run
from research.training import Experiment, run, steps

ROOT = Path(__file__).parents[1]
FILES = sorted(path for path in (ROOT / "experiments").glob("*.py") if not path.name.startswith("_"))
IN_THE_README = set(re.findall(r"launch\.py --config experiments/(\w+)\.py", (ROOT / "README.md").read_text()))


def load(file: Path):
    return load_config(str(file), (object,)).config


SHALLOW = {GPT: {"depth": 1}, BERT: {"depth": 1}, SmallResNet: {"depth": 8}, ConvNet: {"convolutions": 1}}


def shortened(experiment: Experiment) -> Experiment:
    """Two steps of it, on few examples where their number can be chosen, with few layers."""
    data = experiment.data
    if isinstance(data, MNIST):
        data = Glyphs(size=28)  # of the same shape, on any machine
    sizes = {"examples": 64, "validation": 40, "test": 40}
    if hasattr(data, "examples"):
        data = dataclasses.replace(data, **sizes)
    model = experiment.model
    model = dataclasses.replace(model, **SHALLOW.get(type(model), {}))
    short = {"batch_size": 8, "duration": steps(2), "evaluate_every": steps(2), "devices": 1, "norms": "none"}
    return dataclasses.replace(experiment, data=data, model=model, **short)


@pytest.mark.parametrize("file", [file for file in FILES if file.stem not in IN_THE_README], ids=lambda file: file.stem)
def test_an_experiment_trains(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in read_experiment(file).first:  # whose runs it begins with
        first = file.with_stem(name)
        run.train(shortened(load(first)), config_file=first)
    config = load(file)
    if not isinstance(config, Experiment):
        return
    summary = run.train(shortened(config), workdir=str(tmp_path), config_file=file)
    assert (summary["reason"], summary["steps"]) == ("finished", 2)
    assert math.isfinite(summary["test"]["loss"])
    assert (tmp_path / file.stem).is_dir()


# ---------------------------------------------------------------------------------------------------------------------
# Sweeps

SWEEPS = [file for file in FILES if file.stem.startswith("depth_") and "parameters" not in file.stem]
SWEEPS += [file for file in FILES if file.stem.endswith("_sweep") and file not in SWEEPS]
SMALL = {
    "duration": lambda duration: steps(2 + int(duration.amount > 500)),
    "data.examples": lambda examples: 40 + int(examples > 1_000),
    "model.depth": lambda depth: min(depth, 2),
    "model.convolutions": lambda count: min(count, 2),
}
"""What a trial has in place of a large value."""


def ends(space: Space) -> Space:
    """The first and the last assignment of a space, made small."""
    points = (space.points()[0], space.points()[-1])
    return chain(*(product(*(grid(p, SMALL.get(p, lambda v: v)(v)) for p, v in point.items())) for point in points))


@pytest.mark.parametrize(
    "file", [file for file in SWEEPS if file.stem not in IN_THE_README], ids=lambda file: file.stem
)
def test_a_sweep_runs_to_its_report(file, tmp_path):
    sweep = load(file)
    assert isinstance(sweep, Sweep)
    short = dataclasses.replace(sweep, base=shortened(sweep.base), space=ends(sweep.space), judge=0, name=file.stem)
    summary = sweep_run.run(short, workdir=str(tmp_path), config_file=file)
    assert (summary["reason"], summary["done"]) == ("finished", 2)
    assert summary["verdict"]
    assert "<svg" in (Path(summary["folder"]) / "report.html").read_text()


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_variant_that_a_sweep_tells_of_can_be_planned(file):
    told = re.findall(rf"{file.name}:(\w+)", file.read_text())
    assert told or "variant" not in file.read_text()
    for variant in ("", *(f":{name}" for name in told)):
        sweep = load_config(f"{file}{variant}", (Sweep,)).config
        found = groups(trials(dataclasses.replace(sweep, base=with_small_data(sweep.base))))
        assert len(found) > 1
        assert variant or sweep.judge_most >= len(found)


def with_small_data(experiment: Experiment) -> Experiment:
    return dataclasses.replace(experiment, data=shortened(experiment).data)


def test_a_variant_that_is_not_there_is_told():
    with pytest.raises(UserError, match="'none' is none of the variants matched and mlp"):
        load_config(f"{ROOT}/experiments/depth_mnist.py:none", (Sweep,))


def test_without_mnist_the_sweep_over_it_ends_with_one_line(tmp_path, monkeypatch, capsys):
    import launch

    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "nowhere"))
    file = str(ROOT / "experiments" / "depth_mnist.py")
    assert launch.main(["launch.py", "--config", file, "--workdir", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err == f"error: MNIST_DIR: there is no folder {tmp_path / 'nowhere'}\n"
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------------------------------------------------------------
# All of them by one command

TRAINS = '''"""Trains.

    python launch.py --config experiments/small.py
"""

from research.data import Digits
from research.models import MLP
from research.training import Experiment, epochs


def get_config():
    return Experiment(data=Digits(), model=MLP(depth=1, width=4), duration=epochs(1000))
'''


@pytest.fixture(scope="module")
def command():
    """The module of experiments/benchmarks/experiments.py."""
    spec = importlib.util.spec_from_file_location("run_all", ROOT / "experiments" / "benchmarks" / "experiments.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Experiments of which one trains, one fails and one wants data that is not there."""
    monkeypatch.delenv("NOT_THERE_DIR", raising=False)
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "small.py").write_text(TRAINS)
    (folder / "fails.py").write_text('"""Fails."""\n\n\ndef get_config():\n    raise RuntimeError("as it must")\n')
    wants = '"""Wants data.\n\n    NOT_THERE_DIR=path python launch.py --config experiments/wants.py\n"""\n'
    (folder / "wants.py").write_text(wants)
    return folder


def test_all_are_run_though_one_fails_and_the_table_says_what_they_came_to(command, folder, capsys, tmp_path):
    out = tmp_path / "RESULTS.md"
    status = command.main(["--folder", str(folder), "--steps", "2", "--out", str(out)])
    printed, errors = capsys.readouterr()
    assert status == 1
    assert "wants: skipped, since NOT_THERE_DIR is not set" in printed
    assert "as it must" in errors
    assert "failed: fails" in errors
    rows = command.read_table(out)
    assert sorted(rows) == ["fails", "small"]
    assert rows["fails"]["test split"] == "failed"
    assert (rows["small"]["model"], rows["small"]["parameters"], rows["small"]["steps"]) == ("MLP", "310", "2")
    assert re.fullmatch(r"\d+\.\d\d %", rows["small"]["test split"])
    assert "jax " in rows["small"]["versions"]


def test_rows_of_others_stay_when_some_are_run(command, folder, tmp_path, monkeypatch):
    out = tmp_path / "RESULTS.md"
    row = dict.fromkeys(command.HEADER, "x")
    monkeypatch.setattr(command, "run", lambda listed, *_: row | {"experiment": f"`{listed.name}`", "seconds": "3"})
    out.write_text(command.show_table({"other": row | {"experiment": "`other`", "seconds": "7"}}))
    assert command.main(["--folder", str(folder), "--only", "small", "--out", str(out)]) == 0
    assert {name: row["seconds"] for name, row in command.read_table(out).items()} == {"other": "7", "small": "3"}


def test_an_experiment_that_is_not_there_is_named(command, folder, capsys):
    assert command.main(["--folder", str(folder), "--only", "smal"]) == 2
    assert "--only: no experiment smal" in capsys.readouterr().err


def test_figures_are_those_of_the_kind_of_model(command, tmp_path):
    assert command.show_figures({"accuracy": 0.98765, "loss": 0.1}) == "98.77 %"
    language = {"accuracy": 0.5, "loss": 1.4, "perplexity": 4.06, "bits_per_byte": 2.0197}
    assert command.show_figures(language) == "2.020 bits per byte, perplexity 4.06, 50.00 %"
    assert command.figures(tmp_path, "any") == {"test split": "no training"}


def test_what_begins_with_the_run_of_another_comes_after_it(command):
    experiments = command.find_experiments()
    names = [listed.name for listed in command.in_order(experiments, [])]
    assert sorted(names) == sorted(listed.name for listed in experiments)
    assert names.index("pretrain_glyphs") < names.index("finetune_digits")
    assert names.index("gpt") < names.index("finetune_gpt")
    assert [listed.name for listed in command.in_order(experiments, ["finetune_gpt"])] == ["gpt", "finetune_gpt"]


@pytest.mark.parametrize(("name", "first"), [("finetune_digits", "pretrain_glyphs"), ("finetune_gpt", "gpt")])
def test_without_the_run_it_begins_with_an_experiment_says_which_command_makes_it(name, first, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        load(ROOT / "experiments" / f"{name}.py")
    (line,) = caught.value.problems
    assert f"runs/{first}: there is no such run yet; first: python launch.py --config experiments/{first}.py" in line
