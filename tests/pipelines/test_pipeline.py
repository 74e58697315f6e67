"""A pipeline does what its stages would do alone, each once, and nothing after a gate that does not hold."""

import contextlib
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

import launch
from research.analysis.pipeline_page import page, sentence
from research.config import ConfigError, from_json, to_json, validate
from research.data import Arrays, Digits
from research.errors import UserError
from research.models import MLP
from research.parameters import full, linear_probe
from research.pipelines import Pipeline, Result, Train, change
from research.pipelines import run as module
from research.sweeps import Sweep, grid
from research.training import Experiment, Finetuning, interruption, steps
from research.training import run as training

BEGIN = Experiment(data=Digits(), model=MLP(depth=1, width=8), duration=steps(20), evaluate_every=steps(10), devices=1)
GO_ON = dataclasses.replace(
    BEGIN, finetuning=Finetuning(source=Result("first"), partition=linear_probe(new_head=False)), duration=steps(1)
)


def two_stages(gate="accuracy >= 50 %, at most 1e6 parameters", **more):
    otherwise = (
        change("duration", steps(2)),
        change("finetuning.partition", full(), "duration", steps(60), "optimizer.learning_rate", 0.02),
    )
    second = Train(GO_ON, gate=gate, otherwise=otherwise)
    return Pipeline(first=Train(BEGIN), second=second, name="two", **more)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return module.run(two_stages(), workdir=str(tmp_path_factory.mktemp("runs")))


def attempts(told, stage):
    (found,) = (each["attempts"] for each in told["stages"] if each["name"] == stage)
    return found


def test_a_stage_is_changed_until_its_gate_holds(told):
    assert told["reason"] == "finished"
    assert [attempt["holds"] for attempt in attempts(told, "second")] == [False, False, True]
    assert [len(attempt["changes"]) for attempt in attempts(told, "second")] == [0, 1, 2]


def test_a_stage_is_its_experiment_run_alone(told, tmp_path):
    first = training.train(BEGIN, workdir=str(tmp_path))
    second = dataclasses.replace(
        GO_ON,
        finetuning=dataclasses.replace(GO_ON.finetuning, source=module.Pretrained(first["folder"]), partition=full()),
        optimizer=dataclasses.replace(GO_ON.optimizer, learning_rate=0.02),
        duration=steps(60),
    )
    alone = training.evaluate(training.train(second, workdir=str(tmp_path))["folder"], split="validation")
    last = attempts(told, "second")[-1]
    assert last["figures"]["validation"]["accuracy"] == alone["validation"]["accuracy"]
    assert last["figures"]["validation"]["loss"] == pytest.approx(alone["validation"]["loss"], rel=1e-6)


@pytest.fixture
def counted(monkeypatch):
    """The names of experiments that are trained or gone on with."""
    found, train, resume = [], training.train, training.resume

    def trained(experiment, **options):
        found.append(experiment.name)
        return train(experiment, **options)

    def resumed(path, **options):
        found.append("resumed")
        return resume(path, **options)

    monkeypatch.setattr(training, "train", trained)
    monkeypatch.setattr(training, "resume", resumed)
    return found


def workdir_of(told):
    return str(Path(told["folder"]).parent)


def test_what_is_done_is_not_run_again(told, counted):
    again = module.run(two_stages(), workdir=workdir_of(told))
    assert counted == []
    assert [each["folder"] for each in attempts(again, "second")] == [
        each["folder"] for each in attempts(told, "second")
    ]
    assert all(each["was_done"] for each in attempts(again, "second"))


def test_what_has_changed_is_run_and_what_comes_before_is_not(told, counted, tmp_path):
    pipeline = two_stages(third=Train(dataclasses.replace(BEGIN, seed=5)))
    module.run(pipeline, workdir=workdir_of(told))
    assert counted == ["third"]


def test_a_run_that_cannot_be_read_is_run_again(told, counted):
    file = Path(attempts(told, "second")[0]["folder"], "config.json")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    try:
        module.run(two_stages(), workdir=workdir_of(told))
    finally:
        file.write_bytes(whole)
    assert counted == ["second"]


def test_a_stage_is_run_again_when_its_data_has_changed(tmp_path, counted):
    random, file = np.random.default_rng(0), tmp_path / "examples.npz"

    def write(scale):
        np.savez(file, inputs=(scale * random.normal(size=(60, 4))).astype(np.float32), labels=np.arange(60) % 3)

    experiment = dataclasses.replace(BEGIN, data=Arrays(path=str(file)), duration=steps(2), batch_size=8)
    pipeline, workdir = Pipeline(only=Train(experiment), name="arrays"), str(tmp_path / "runs")
    write(1)
    first = module.run(pipeline, workdir=workdir)
    write(2)
    second = module.run(pipeline, workdir=workdir)
    assert counted == ["only", "only"]
    assert attempts(first, "only")[0]["folder"] != attempts(second, "only")[0]["folder"]


def test_an_interrupted_stage_goes_on(told, counted, tmp_path, monkeypatch):
    answers = iter([None, "SIGTERM"])
    with monkeypatch.context() as patched:
        patched.setattr(interruption, "signals", lambda: contextlib.nullcontext(lambda: next(answers, "SIGTERM")))
        stopped = module.run(two_stages(), workdir=str(tmp_path))
    assert stopped["reason"] == "interrupted"
    assert "Interrupted at first" in sentence(stopped)
    finished = module.run(two_stages(), workdir=str(tmp_path))
    assert counted[:2] == ["first", "resumed"]
    ours, theirs = (attempts(each, "second")[-1]["figures"] for each in (finished, told))
    assert ours == theirs


def test_nothing_comes_after_a_gate_that_does_not_hold(told, counted, tmp_path, capsys):
    pipeline = two_stages(gate="accuracy > 1 on test, at most 1e6 parameters", third=Train(BEGIN))
    failed = module.run(pipeline, workdir=workdir_of(told))
    assert failed["reason"] == "not good enough"
    assert [stage["name"] for stage in failed["stages"]] == ["first", "second"]
    said = sentence(failed)
    assert said.startswith("second is not good enough after 3 ways were tried: accuracy on test is ")
    assert "at least" not in said and "more than 100.00 % was asked for" in said
    text = page(failed["folder"])
    assert "a little too good" in text  # three ways were judged by the same test examples
    assert "stage ahead" in text


CONFIG = """
from tests.pipelines.test_pipeline import two_stages
def get_config():
    return two_stages(gate="{gate}")
"""


@pytest.mark.parametrize(("gate", "status"), [("accuracy >= 50 %, at most 1e6 parameters", 0), ("accuracy > 1", 1)])
def test_the_command_says_by_its_status_whether_the_gates_hold(told, tmp_path, capsys, gate, status):
    file = tmp_path / "two.py"
    file.write_text(CONFIG.format(gate=gate))
    command = ["launch.py", "--config", str(file), "--workdir", workdir_of(told)]
    assert launch.main(command) == status
    assert launch.main([*command, "--mode", "inspect", "--format", "json"]) == 0


def test_the_best_trial_of_a_sweep_is_trained(tmp_path):
    sweep = Sweep(base=BEGIN, space=grid("optimizer.learning_rate", 1e-5, 0.03), judge=0)
    told = module.run(Pipeline(only=Train(sweep, gate="accuracy >= 0"), name="swept"), workdir=str(tmp_path))
    (attempt,) = attempts(told, "only")
    assert attempt["sweep"]["values"] == {"optimizer.learning_rate": 0.03}
    config = json.loads(Path(attempt["folder"], "config.json").read_text())
    assert config["optimizer"]["learning_rate"] == 0.03
    assert module.run(Pipeline(only=Train(sweep, gate="accuracy >= 0"), name="swept"), workdir=str(tmp_path))["stages"][
        0
    ]["attempts"][0]["was_done"]


def test_a_pipeline_survives_json():
    pipeline = two_stages()
    assert from_json(json.loads(json.dumps(to_json(pipeline))), Pipeline) == pipeline


def test_its_page_needs_nothing_else(told):
    text = Path(told["folder"], "report.html").read_text()
    assert not re.search(r"(src|href)=['\"](http|/)", text)
    for stage in told["stages"]:
        assert stage["name"] in text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pipeline(), "stages: there are none"),
        (lambda: Pipeline(second=Train(GO_ON)), "stages.0: no stage 'first' comes before it"),
        (lambda: Pipeline(second=Train(GO_ON), first=Train(BEGIN)), "stages.0: no stage 'first' comes before it"),
        (lambda: Pipeline(frist=Train(BEGIN), second=Train(GO_ON)), "did you mean 'frist'"),
        (lambda: Pipeline((Train(BEGIN, name="a"), Train(BEGIN, name="a"))), "there is a stage 'a' already"),
        (lambda: Pipeline((Train(BEGIN),)), "stages.0.name: '' is no name of a stage"),
        (lambda: Pipeline(a=Train(BEGIN, gate="good")), "stages.0.gate: 'good' is no condition"),
        (lambda: Pipeline(a=Train(BEGIN, otherwise=(change("seed", 1),))), "otherwise: .* there is no gate"),
        (
            lambda: Pipeline(a=Train(BEGIN, gate="loss < 1", otherwise=(change("model.dept", 1),))),
            "stages.0.otherwise.0: model.dept: no such field; MLP has no 'dept'; did you mean 'depth'",
        ),
    ],
)
def test_what_no_pipeline_can_be_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        validate(make())


def test_a_gate_on_what_no_stage_tells_is_refused_before_anything_is_run(tmp_path, counted):
    with pytest.raises(UserError, match="a: no figure 'accurracy'; did you mean 'accuracy'"):
        module.run(Pipeline(a=Train(BEGIN, gate="accurracy >= 0.9")), workdir=str(tmp_path))
    assert counted == [] and not list(tmp_path.iterdir())


def test_an_experiment_in_the_place_of_a_stage_is_told_how_to_be_one():
    with pytest.raises(UserError, match=r"stages: a is Experiment; say a=Train\(Experiment\(...\)\)"):
        Pipeline(a=BEGIN)


def test_a_result_is_there_in_a_pipeline_alone(tmp_path):
    with pytest.raises(UserError, match="the result of the stage 'first' is there in a pipeline alone"):
        training.train(GO_ON, workdir=str(tmp_path))
