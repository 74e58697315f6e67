"""From a config file to a folder: what is kept, what is refused, and what is told."""

import csv
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import launch
from research.config import from_json, to_json, validate
from research.data import Digits
from research.deployment.compression import (
    Compression,
    Distillation,
    FeaturePruning,
    Int4,
    Int8,
    MagnitudePruning,
    Retraining,
    read_compressed,
)
from research.deployment.compression.measuring import counted, judge
from research.deployment.compression.run import check, check_budget, compress, open_run, read_work
from research.deployment.compression.sentences import verdict
from research.deployment.trained import probabilities, read_trained
from research.errors import UserError
from research.models import MLP
from research.training import AdamW, Experiment, NextToken, run, steps

BLIND = MagnitudePruning(sparsity=0.99, retraining=None)


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    experiment = Experiment(
        data=Digits(),
        model=MLP(depth=2, width=16),
        optimizer=AdamW(learning_rate=1e-2),
        duration=steps(150),
        norms="none",
    )
    return run.train(experiment, workdir=str(tmp_path_factory.mktemp("runs")))["folder"]


@pytest.fixture(scope="module")
def done(trained_run, tmp_path_factory):
    """Two methods, one of which keeps within the budget."""
    few = {"split": "test", "batch": 8, "rounds": 2}
    config = Compression(run=trained_run, name="small", methods=(Int8(), BLIND), budget=0.02, **few)
    return compress(config, workdir=str(tmp_path_factory.mktemp("compressed")))


def test_each_network_has_a_row(done):
    original, int8, blind = done["rows"]
    assert [row["network"] for row in done["rows"]] == ["original", "int8 weights", "pruned 99 %"]
    assert original["parameters"] == int8["parameters"] == 64 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10
    assert blind["nonzeros"] == 42 + 1440 - int(0.99 * 1440)  # biases were trained, and are not pruned
    assert original["multiply_adds"] == int8["multiply_adds"] == 1440
    assert all(row["milliseconds"] > 0 for row in done["rows"])


@pytest.mark.parametrize("name", ["int8 weights", "pruned 99 %"])
def test_files_are_compared_with_the_originals_written_alike(done, trained_run, name):
    trained = read_trained(trained_run)
    plain = save({path: np.asarray(array) for path, array in trained.parameters.items()})
    original, row = done["rows"][0], next(row for row in done["rows"] if row["network"] == name)
    assert original["bytes_plain"] == len(plain)
    assert original["bytes"] == pytest.approx(len(gzip.compress(plain)), rel=0.02)
    assert row["times_smaller"] == original["bytes"] / row["bytes"]
    assert row["times_smaller_plain"] == original["bytes_plain"] / row["bytes_plain"]
    told = " ".join(verdict(done))
    assert (f"{row['times_smaller']:.2f} times smaller than the original, both gzipped" in told) == row["within"]


def test_what_is_written_is_what_was_counted(done):
    row = done["rows"][1]
    zipped = (Path(row["folder"]) / "weights.safetensors.gz").read_bytes()
    assert (len(zipped), len(gzip.decompress(zipped))) == (row["bytes"], row["bytes_plain"])


def test_what_keeps_within_the_budget_can_be_read_and_what_does_not_is_not_there(done, trained_run):
    _, int8, blind = done["rows"]
    assert (int8["within"], blind["within"], blind["folder"]) == (True, False, None)
    network, trained, loaded = read_compressed(int8["folder"]), read_trained(trained_run), Digits().load()
    raw, labels = loaded.splits["test"].inputs, loaded.splits["test"].labels
    likely = np.asarray(probabilities(network, network.parameters, network.model_state, raw))
    assert np.mean(likely.argmax(-1) == labels) == int8["accuracy"]
    np.testing.assert_allclose(likely, probabilities(trained, trained.parameters, trained.model_state, raw), atol=0.2)


def test_the_folder_holds_the_table_and_the_page(done):
    folder = Path(done["folder"])
    assert [path.name for path in sorted((folder / "networks").iterdir())] == ["int8_weights"]
    told = json.loads((folder / "compression.json").read_text())
    with open(folder / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == [row["accuracy"] for row in told["rows"]]
    page = (folder / "report.html").read_text()
    assert "int8 weights" in page and "Not kept, for they lose more: pruned 99 %." in page
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / "config.json").exists()  # it is no training run


def test_if_nothing_keeps_within_the_budget_nothing_is_handed_on(trained_run, tmp_path):
    config = Compression(run=trained_run, methods=(BLIND,), budget=0.0, batch=8, rounds=1)
    told = compress(config, workdir=str(tmp_path))
    with pytest.raises(UserError, match="no network keeps within 0 points") as error:
        check_budget(told)
    folder = tmp_path / "compression" / re.search(r"compression/(\S+)", str(error.value))[1]
    assert (folder / "table.csv").exists() and not (folder / "networks").exists()


def test_methods_that_do_not_apply_are_named_before_anything_is_done(trained_run, tmp_path):
    methods = (
        Int4(skip=("block_00/dense", "block_01/dense", "head")),
        FeaturePruning(flops=0.01),
        Distillation(field="x"),
    )
    with pytest.raises(UserError) as error:
        compress(Compression(run=trained_run, methods=methods), workdir=str(tmp_path))
    assert [problem.split(": MLP ")[0] for problem in error.value.problems] == [
        "methods.0: int4 dense weights",
        "methods.1: features for 1 % FLOPs",
        "methods.2: distilled, 25 % FLOPs",
    ]
    assert not list(tmp_path.iterdir())


def test_soft_answers_need_one_class_an_example(trained_run):
    work = read_work(open_run(trained_run))
    of_tokens = work._replace(experiment=Experiment(data=Digits(), model=MLP(), objective=NextToken()))
    methods = (Distillation(), MagnitudePruning(retraining=Retraining(temperature=2.0)))
    with pytest.raises(UserError) as error:
        check(Compression(run="x", methods=methods), of_tokens)
    assert all("does not tell one class an example" in problem for problem in error.value.problems)
    assert len(error.value.problems) == 2


def test_a_run_that_is_not_there_is_told_with_the_command_that_makes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "digits.py").touch()
    (tmp_path / "compress.py").write_text(
        "from research.deployment.compression import Compression, Int8\n"
        "def get_config():\n    return Compression(run='runs/digits', methods=(Int8(),))\n"
    )
    assert launch.main(["launch.py", "--config", "compress.py"]) == 2
    assert (
        capsys.readouterr().err.strip()
        == "error: run: runs/digits: there is no such run; train it first: python launch.py "
        "--config experiments/digits.py"
    )
    with pytest.raises(UserError, match="runs/other: there is no such run"):
        open_run("runs/other")


def test_a_config_says_what_is_wrong_with_it():
    for methods, message in (((), "there is none"), ((Int8(), Int8()), "two are called 'int8 weights'")):
        with pytest.raises(UserError, match=message):
            validate(Compression(run="x", methods=methods))


def test_a_config_survives_json():
    config = Compression(run="x", methods=(Int8(skip=("head",)), MagnitudePruning(sparsity=0.5), Distillation()))
    assert from_json(json.loads(json.dumps(to_json(config))), Compression) == config


def test_what_is_lost_is_paired_over_examples():
    right = np.array([1.0] * 95 + [0.0] * 5)
    worse = np.array([0.0] * 2 + [1.0] * 93 + [0.0] * 5)
    accuracy, lost = judge(right, worse)
    assert (accuracy.value, lost.value) == (0.93, pytest.approx(0.02))
    assert lost.low < 0.02 < lost.high < 0.08 and accuracy.low < 0.93 < accuracy.high
    same = judge(right, right).lost
    assert same.value == 0 and same.low < 0 < same.high


def test_whole_numbers_in_half_bytes_are_counted_one_by_one(trained_run):
    work = read_work(open_run(trained_run))
    original, int4 = counted(work.trained), counted(Int4().compress(work).network)
    assert int4.parameters == original.parameters
    kernels = {path: k for path, k in work.trained.parameters.items() if path.endswith("kernel")}
    zeros = sum(int((np.round(k / (np.abs(k).max(0) / 7)) == 0).sum()) for k in kernels.values())
    assert int4.nonzeros == original.nonzeros - zeros


def rows_of(**figures):
    """What was told of an original and a network that has some figures of its own."""
    row = {"network": "it", "within": True, "lost": 0.0, "lost_low": -0.01, "lost_high": 0.01, "bytes": 1}
    row |= {"flops": 1, "milliseconds": 1.0, **{f"times_{n}": 1.0 for n in ("smaller", "smaller_plain", "cheaper")}}
    row |= {"times_faster": 1.0}
    return {"rows": [row, row | figures], "budget": 0.003, "split": "test", "examples": 360}


@pytest.mark.parametrize(
    ("figures", "word", "is_said"),
    [
        ({"times_cheaper": 1.002}, "FLOPs", False),
        ({"times_cheaper": 2.0}, "2.00 times fewer FLOPs", True),
        ({"times_faster": 1.15}, "fastest", False),
        ({"times_faster": 1.5}, "fastest, by 1.50 times", True),
    ],
)
def test_only_what_differs_is_said(figures, word, is_said):
    assert (word in " ".join(verdict(rows_of(**figures)))) == is_said


@pytest.mark.parametrize(
    ("budget", "examples", "said"),
    [
        (0.003, 360, "one is 0.28 points: the budget is 1 example."),
        (0.003, 100, "one is 1 point: the budget is less than 1 example."),
        (0.02, 360, "the budget is 7 examples."),
        (0.29, 100, "the budget is 29 examples."),
    ],
)
def test_it_is_told_how_fine_the_examples_can_tell(budget, examples, said):
    assert said in " ".join(verdict(rows_of() | {"budget": budget, "examples": examples}))


def test_the_page_tells_on_which_examples_it_rests(done):
    page = (Path(done["folder"]) / "report.html").read_text()
    assert "It rests on the 360 examples of the test split" in page
