"""A run explained from end to end: pictures with and without attention, tables, texts; and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from research.data import Digits, PythonText, PythonTopics, Table
from research.deployment.predicting import predict
from research.errors import UserError
from research.explanation.explaining import explain_run
from research.models import BERT, GPT, MLP, ConvNet, ViT
from research.training import AdamW, Experiment, NextToken, run, steps

IMAGE_METHODS = ["gradient x input", "integrated gradients", "SmoothGrad", "occlusion"]


def trained(tmp_path, **fields):
    fields = {"duration": steps(8), "optimizer": AdamW(learning_rate=1e-2), "devices": 1, "batch_size": 32} | fields
    return run.train(Experiment(**fields), workdir=str(tmp_path))["folder"]


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    model = ViT(depth=2, width=8, heads=2, patch=4, scan=True)
    folder = trained(tmp_path_factory.mktemp("runs"), data=Digits(), model=model)
    return folder, explain_run(folder)


@pytest.fixture(scope="module")
def convnet(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs"), data=Digits(), model=ConvNet(features=(4,), convolutions=1))


def test_a_vision_transformer_is_explained_by_attention_and_by_blocks_removed(vit):
    folder, told = vit
    assert told["methods"] == [*IMAGE_METHODS, "attention rollout"]
    assert [row["layer"] for row in told["removal"]] == ["", "embedding", "block_00", "block_01"]
    assert told["removal"][0]["accuracy"] == pytest.approx(run.evaluate(folder)["test"]["accuracy"])
    assert told["integrated_gradients"]["largest_gap"] < 1e-2
    assert len(told["examples"]) == 6 and any(row["label"] != row["says"] for row in told["examples"])
    assert set(told["sanity"]) == set(told["methods"])


def test_it_is_kept_beside_the_run(vit):
    folder, told = vit
    kept = json.loads((Path(folder) / "explanation.json").read_text())
    assert kept["examples"] == told["examples"] and all(Path(file).is_file() for file in told["files"])
    page = (Path(folder) / "explanation.html").read_text()
    assert "why does it say so?" in page and "Left out: Grad-CAM" in page
    assert page.count("data:image/png;base64,") >= 6 * 6


def test_pictures_of_ones_own_are_explained(convnet):
    told = explain_run(convnet, ["docs/seven.png"])
    assert told["methods"] == [*IMAGE_METHODS, "Grad-CAM"]
    (row,) = told["examples"]
    assert row["example"] == "docs/seven.png" and row["label"] is None
    likeliest, probability = predict(convnet, ["docs/seven.png"]).predictions[0]["classes"][0]
    assert (row["says"], row["probability"]) == (likeliest, pytest.approx(probability, abs=1e-5))
    assert "attention rollout: there is no attention" in told["left_out"]


@pytest.mark.parametrize(
    "files, split, said",
    [
        (["nowhere.png", "pyproject.toml"], "test", "nowhere.png: there is no such file"),
        ([], "tset", "no split 'tset'; did you mean 'test'?"),
    ],
)
def test_what_cannot_be_explained_is_refused_before_anything_is_written(convnet, files, split, said):
    with pytest.raises(UserError) as error:
        explain_run(convnet, files, split=split)
    assert said in error.value.problems[0] and len(error.value.problems) == max(1, len(files))


def test_a_table_is_explained_number_by_number(tmp_path):
    random = np.random.default_rng(0)
    rows = random.normal(size=(120, 3))
    lines = [f"{a:.3f},{b:.3f},{c:.3f},{'high' if b > 0 else 'low'}" for a, b, c in rows]
    (tmp_path / "made.csv").write_text("\n".join(["a,b,c,label", *lines]))
    folder = trained(
        tmp_path,
        data=Table(path=str(tmp_path / "made.csv"), label="label"),
        model=MLP(depth=2, width=16),
        optimizer=AdamW(learning_rate=3e-2),
        duration=steps(60),
    )
    told = explain_run(folder)
    assert told["methods"] == IMAGE_METHODS and "kernels and feature maps" in " ".join(told["left_out"])
    assert "Table" not in told["used"] and told["examples"][0]["says"] in ("high", "low")


def test_a_text_is_explained_byte_by_byte(tmp_path):
    model = BERT(depth=1, width=8, heads=2, context=32)
    folder = trained(tmp_path, data=PythonTopics(length=32), model=model)
    told = explain_run(folder)
    assert told["methods"] == [*IMAGE_METHODS, "attention rollout"]
    page = (Path(folder) / "explanation.html").read_text()
    assert page.count("<span style=") >= 32 * len(told["examples"])


def test_a_language_model_is_refused(tmp_path):
    model = GPT(depth=1, width=8, heads=2, context=8)
    folder = trained(tmp_path, data=PythonText(length=8, stride=400), model=model, objective=NextToken())
    with pytest.raises(UserError, match="is a language model"):
        explain_run(folder)
