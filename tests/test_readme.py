"""Every command and every piece of Python in the README works as it stands.

The two set-up commands are run by `.ci/run`. Training is cut short by overrides at the end of the command; nothing else
is changed.
"""

import ast
import dataclasses
import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SHORT = '--config.duration "30 steps" --config.evaluate_every "15 steps"'


def blocks(language: str) -> list[str]:
    """The contents of the README's blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    """Every command line but those of the two set-up blocks."""
    lines = [line for block in blocks("bash")[2:] for line in block.splitlines() if line.strip()]
    assert len(lines) > 8
    return lines


def shortened(line: str) -> str:
    """The command, cut short if it trains."""
    if "--config " not in line or any(word in line for word in ("--help", "--mode", "misconceptions", "_parameters")):
        return line
    if "compress" in line:
        return line.replace("compress_digits.py", "compress_digits.py:int8") + " --config.budget 1 --config.rounds 1"
    if "finetune_digits" in line:
        once = " ".join(f"--config.space.spaces.2.spaces.{i}.times 1" for i in (0, 1))
        short = f"{SHORT.replace('config.', 'config.base.')} --config.judge 1 --config.space.spaces.1.values 0.01"
        return f"{line} {short} {once}"
    if "sweep" in line:
        short = SHORT.replace("--config.", "--config.base.") + " --config.base.data.test 200 --config.judge 1"
        few = "--config.space.spaces.1.values 0.01 --config.space.spaces.2.times 1"
        parts = "--config.space.spaces.0.spaces"
        if ":matched" in line:
            return f"{line} {short} {few} {parts}.0.spaces.1.values 1 2"
        return f"{line} {short} {few} {parts}.0.spaces.1.values 1 2 {parts}.1.spaces.1.values 4"
    return f"{line} {SHORT}" + (" --config.data.validation 40" if "mnist" in line else "")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder like a fresh checkout, with a tiny MNIST where MNIST_DIR says."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copy(ROOT / "launch.py", folder)
    for name in ("experiments", "docs"):
        shutil.copytree(ROOT / name, folder / name)
    random = np.random.default_rng(0)
    (folder / "mnist").mkdir()
    for part, count in (("train", 400), ("t10k", 60)):
        pictures = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for name, array in (("images-idx3", pictures), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            (folder / "mnist" / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes(), 1))
    return folder


@pytest.fixture(scope="module")
def run(checkout, one_device):
    """Runs a command line in the checkout."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **one_device,
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "MNIST_DIR": str(checkout / "mnist"),
    }

    def run(line):
        done = subprocess.run(
            ["bash", "-c", line], cwd=checkout, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    return run


RUNS = "digits_cnn|gpt|compress_digits|pretrain_glyphs|finetune_digits"


def uses_runs(line: str) -> bool:
    """Whether a command is about the runs of others before it, or is one that they are about."""
    named = rf"experiments/(({RUNS})\.py(:hundred| --config\S*|$)|digits_mlp)"
    return "runs/" in line or "exports/" in line or bool(re.search(named, line))


def test_commands_about_runs_follow_one_another(run):
    for line in commands():
        if uses_runs(line):
            run(shortened(line))
    (analysis,) = (piece for piece in blocks("python") if "load_runs" in piece)
    assert "digits_cnn" in run(f"python -c '{analysis}'")


def test_the_main_job_leaves_a_report(run, checkout):
    assert "best" in run(shortened(blocks("bash")[0].split("&&")[1].strip()))
    assert list(checkout.glob("runs/depth_sweep/*/report.html"))


# What the growth of families comes to has its own test, of fewer sizes: tests/comparisons.
ALONE = [line for line in commands() if not uses_runs(line) and "depth_parameters" not in line]


@pytest.mark.parametrize("line", ALONE)
def test_other_commands_run_by_themselves(run, line):
    run(shortened(line))


def test_the_model_of_ones_own_is_that_of_the_experiment():
    source = (ROOT / "experiments" / "own_model.py").read_text()
    code = "\n".join(source.splitlines()[ast.parse(source).body[0].end_lineno :])
    assert code.strip() in [piece.strip() for piece in blocks("python")]


@pytest.mark.parametrize("piece", [piece for piece in blocks("python") if "load_runs" not in piece])
def test_the_pieces_of_python_run(piece):
    namespace = {"__name__": "readme"}
    exec(compile(piece, "README.md", "exec"), namespace)
    if "get_config" in namespace:
        from research.config import validate

        assert validate(namespace["get_config"]())
    else:
        assert len(namespace) > 3


def test_the_partition_fits_the_run_that_it_begins_with():
    from research.data import Digits
    from research.training.plan import make_plan

    (piece,) = (piece for piece in blocks("python") if "no_decay" in piece)
    namespace = {"__name__": "readme"}
    exec(compile(piece, "README.md", "exec"), namespace)
    exec(compile((ROOT / "experiments" / "glyphs_cnn.py").read_text(), "glyphs_cnn.py", "exec"), namespace)
    experiment, finetuning = namespace["get_config"](), dataclasses.replace(namespace["finetuning"], source=None)
    experiment = dataclasses.replace(experiment, data=Digits(), finetuning=finetuning)
    plan = make_plan(experiment, experiment.data.load())
    assert {path.partition("/")[0] for path in plan.trainable} == {"stage_1", "head"}
