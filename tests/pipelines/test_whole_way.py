"""From data to what others use: what is exported is the smallest network that was good enough."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from research.config import ConfigError, validate
from research.data import Digits
from research.deployment import exporting, standalone
from research.deployment.compression import Int4, Int8, read_compressed
from research.deployment.compression.storage import seal
from research.deployment.trained import probabilities
from research.errors import UserError
from research.models import MLP
from research.pipelines import Compress, Export, Pipeline, Train
from research.pipelines import run as module
from research.training import Experiment, run, steps

SMALL = Experiment(
    data=Digits(), model=MLP(depth=1, width=8), duration=steps(80), evaluate_every=steps(40), devices=1, norms="none"
)


def whole_way(**compressing):
    options = {"methods": (Int8(), Int4()), "budget": 1.0, **compressing}
    return Pipeline(
        trained=Train(SMALL, gate="ece <= 1, parameters <= 1e4"),
        smaller=Compress(of="trained", **options),
        deployed=Export(of="smaller", gate="accuracy >= 0 on test, at most 1e-5 largest_difference"),
        name="whole",
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return module.run(whole_way(), workdir=str(tmp_path_factory.mktemp("runs")))


def last(told, number):
    return told["stages"][number]["attempts"][-1]


def test_what_goes_on_is_the_least_that_is_good_enough(told):
    assert told["reason"] == "finished"
    rows = last(told, 1)["compression"]["rows"][1:]
    chosen = min(rows, key=lambda row: row["bytes"])
    assert last(told, 1)["compression"]["chosen"] == chosen["network"]
    assert last(told, 1)["folder"] == chosen["folder"]


def test_what_is_exported_is_what_was_judged(told):
    network = read_compressed(last(told, 1)["folder"])
    raw = Digits().load().splits["test"].inputs
    ours = probabilities(network, network.parameters, network.model_state, raw)
    theirs = standalone.load(last(told, 2)["folder"])(raw)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    labels = Digits().load().splits["test"].labels
    assert last(told, 2)["figures"]["test"]["accuracy"] == pytest.approx(np.mean(theirs.argmax(1) == labels))


def test_nothing_of_it_is_done_twice(told):
    again = module.run(whole_way(), workdir=str(Path(told["folder"]).parent))
    assert all(attempt["was_done"] for stage in again["stages"] for attempt in stage["attempts"])
    assert last(again, 2)["folder"] == last(told, 2)["folder"]


def test_an_export_that_is_damaged_is_written_anew(told):
    file = Path(last(told, 2)["folder"], "labels.json")
    whole = file.read_bytes()
    file.write_bytes(whole[:-2])
    try:
        again = module.run(whole_way(), workdir=str(Path(told["folder"]).parent))
    finally:
        file.write_bytes(whole)
    assert not last(again, 2)["was_done"]
    assert last(again, 2)["folder"] != last(told, 2)["folder"]


DAMAGES = {
    "gone": shutil.rmtree,
    "weights": lambda folder: change_a_byte(folder / "weights.safetensors.gz"),
    "model": lambda folder: change_a_byte(folder / "model.json"),
    "data": lambda folder: change_a_byte(folder / "data.json"),
    "network": lambda folder: change_a_byte(folder / "network.json"),
}


def change_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_compression_that_is_damaged_is_made_anew(told, damage, tmp_path):
    networks = Path(last(told, 1)["compression"]["folder"], "networks")
    shutil.copytree(networks, tmp_path / "whole")
    DAMAGES[damage](Path(last(told, 1)["folder"]))
    try:
        again = module.run(whole_way(), workdir=str(Path(told["folder"]).parent))
    finally:
        shutil.rmtree(networks)
        shutil.copytree(tmp_path / "whole", networks)
    shutil.rmtree(last(again, 1)["compression"]["folder"])
    assert again["reason"] == "finished"
    assert last(again, 0)["was_done"] and not last(again, 1)["was_done"]
    assert last(again, 1)["folder"] != last(told, 1)["folder"]


@pytest.mark.parametrize("asked", [{"gate": "at most 10 bytes"}, {"gate": "accuracy > 1"}])
def test_nothing_is_exported_that_is_not_good_enough(told, asked):
    failed = module.run(whole_way(**asked), workdir=str(Path(told["folder"]).parent))
    assert failed["reason"] == "not good enough"
    assert [stage["name"] for stage in failed["stages"]] == ["trained", "smaller"]
    assert "smaller is not good enough" in json.dumps(module.page(failed["folder"]))


def test_a_network_that_loses_more_than_its_budget_on_the_test_split_is_not_exported(told, tmp_path):
    """Though it keeps within it on the validation split, by which it was chosen."""
    network = Path(last(told, 1)["folder"])
    shutil.copytree(network, tmp_path / "network")
    path = tmp_path / "network" / "network.json"
    about = json.loads(path.read_text())
    read = read_compressed(tmp_path / "network")
    labels = Digits().load().splits["test"].labels
    likely = probabilities(read, read.parameters, read.model_state, Digits().load().splits["test"].inputs)
    lost = run.evaluate(about["from"]["path"])["test"]["accuracy"] - np.mean(likely.argmax(1) == labels)
    for more, is_written in ((1e-4, True), (-1e-4, False)):
        about["compression"]["budget"] = float(lost + more)
        path.write_text(json.dumps(about | {"seal": seal(about)}))
        try:
            exporting.export(str(path.parent), tmp_path / f"export {more}", ["stablehlo"])
        except UserError as error:
            assert not is_written and f"loses {100 * lost:.2f} points of accuracy" in error.problems[0]
        else:
            assert is_written
        assert (tmp_path / f"export {more}").exists() == is_written


def test_an_export_whose_gate_does_not_hold_is_not_left_where_deployed_ones_are(tmp_path):
    """Nor stays there one that was good enough for a gate before; and it is not written a second time."""

    def asked(gate):
        pipeline = whole_way()
        *before, deployed = pipeline.stages
        stages = (*before, dataclasses.replace(deployed, gate=gate))
        return module.run(dataclasses.replace(pipeline, stages=stages), workdir=str(tmp_path))

    deployed, name = tmp_path / "whole" / "deployed", Path(last(asked("accuracy >= 0 on test"), 2)["folder"]).name
    assert [path.name for path in deployed.iterdir()] == [name]
    failed = asked("accuracy > 1 on test")
    assert failed["reason"] == "not good enough"
    assert not deployed.exists()
    assert Path(last(failed, 2)["folder"]).name == name
    assert standalone.checked(last(failed, 2)["folder"])
    held = asked("accuracy >= 0 on test")
    assert held["reason"] == "finished" and last(held, 2)["was_done"]
    assert [path.name for path in deployed.iterdir()] == [name]
    assert not (tmp_path / "whole" / "deployed_refused").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pipeline(a=Compress(of="b", methods=(Int8(),))), "stages.0: no stage 'b' comes before it"),
        (lambda: Pipeline(a=Export(of="a")), "stages.0: no stage 'a' comes before it"),
        (lambda: Pipeline(t=Train(SMALL), a=Compress(of="t")), "stages.1.methods: there is none"),
        (lambda: Pipeline(t=Train(SMALL), a=Export(of="t", gate="small")), "stages.1.gate: 'small' is no condition"),
    ],
)
def test_what_no_pipeline_can_be_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        validate(make())


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Compress(of="t", methods=(Int8(),), gate="byte <= 1"), "a: no figure 'byte'; did you mean 'bytes'"),
        (Export(of="t", gate="loss <= 1"), "a: no figure 'loss'; there is accuracy, bytes, largest_difference"),
        (Export(of="t", gate="accuracy >= 0.5"), "the accuracy is told on the test split; say accuracy on test"),
        (Export(of="t", gate="accuracy >= 0.5 on train"), "the accuracy is told on the test split"),
        (Export(of="t", gate="bytes <= 5 on test"), "bytes is of the network, on no split"),
        (Compress(of="t", methods=(Int8(),), gate="accuracy > 0.5 on test"), "told on the validation split"),
        (Train(SMALL, gate="robustness/rotation_16/accuracy > 0.5"), "did you mean 'robustness/rotation_15/accuracy'"),
    ],
)
def test_a_gate_on_what_its_stage_does_not_tell_is_refused(stage, message, tmp_path):
    with pytest.raises(UserError, match=message):
        module.run(Pipeline(t=Train(SMALL), a=stage), workdir=str(tmp_path))
