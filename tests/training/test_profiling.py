"""A profile accounts for the time of a step, layer by layer, and leaves no run behind."""

import gzip
import json
from pathlib import Path

import pytest

import launch
from research.data import Digits, PythonText
from research.models import GPT, MLP, ConvNet
from research.training import NextToken
from research.training.profiling import profile


def test_the_time_is_told_by_part_layer_and_operation_and_adds_up(tiny, tmp_path):
    told = profile(tiny(model=MLP(depth=3, width=8)), workdir=str(tmp_path))
    assert told["steps"] >= 1 and told["ms"] > 0
    assert sum(told["parts"].values()) == pytest.approx(told["operations_ms"])
    assert sum(row["ms"] for row in told["operations"]) == pytest.approx(told["operations_ms"])
    assert 0 < told["busy_ms"] <= 1.001 * min(told["operations_ms"], told["ms"])
    assert all(told["parts"][part] > 0 for part in ("batch", "forward", "backward", "update"))
    of_layers = sum(row["forward_ms"] + row["backward_ms"] for row in told["layers"])
    assert of_layers == pytest.approx(told["parts"]["forward"] + told["parts"]["backward"])
    assert {"block_00/dense", "block_01/dense", "block_02/dense", "head"} <= {row["layer"] for row in told["layers"]}
    assert not list(tmp_path.rglob("config.json"))  # it is no run
    trace = next(Path(told["trace"]).rglob("perfetto_trace.json.gz"))
    assert json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]


def test_the_layer_that_computes_most_comes_first(tiny, tmp_path):
    told = profile(tiny(data=Digits(), model=ConvNet(features=(2, 128), kernel_size=5)), workdir=str(tmp_path))
    assert told["layers"][0]["layer"] == "stage_1/convolution_0"
    assert told["layers"][0]["flops_per_second"] > 0


def test_blocks_in_a_scan_are_told_as_one_with_the_cost_of_all(tiny, tmp_path):
    model = GPT(depth=2, width=16, heads=2, context=16, scan=True)
    experiment = tiny(data=PythonText(length=16), model=model, objective=NextToken(), select="validation/loss")
    told = profile(experiment, workdir=str(tmp_path))
    rates = {row["layer"]: row["flops_per_second"] for row in told["layers"]}
    assert rates["block/dense_0"] > 0


def test_the_command_prints_it_and_keeps_the_trace(tmp_path, capsys):
    file = tmp_path / "exp.py"
    file.write_text(
        "from research.data import Digits\nfrom research.models import MLP\nfrom research.training import *\n"
        "def get_config():\n    return Experiment(data=Digits(), model=MLP(depth=1, width=8), duration=steps(9))\n"
    )
    command = ["launch.py", "--config", str(file), "--mode", "profile", "--workdir", str(tmp_path / "runs")]
    assert launch.main(command) == 0
    told = capsys.readouterr().out
    assert "block_00/dense" in told and "forward, ms" in told and "perfetto_trace.json.gz" in told
    assert launch.main([*command, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"]


def test_a_sweep_has_no_profile(tmp_path, capsys):
    assert launch.main(["launch.py", "--config", "experiments/depth_sweep.py", "--mode", "profile"]) == 2
    assert "returns a Sweep, for which there is no such mode" in capsys.readouterr().err
