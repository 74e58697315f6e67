"""Predictions of a user's own files are those of the network on what the files hold, by a run or an exported folder."""

import csv
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from research.data.text import as_text
from research.deployment import exporting, predicting
from research.deployment.trained import probabilities, read_trained
from research.errors import UserError


def network_of(folder: str):
    """A run's probabilities of raw inputs, as an oracle."""
    trained = read_trained(folder)
    return trained, lambda raw: np.asarray(probabilities(trained, trained.parameters, trained.model_state, raw))


def likely(predictions, names) -> np.ndarray:
    """The probabilities (files, classes) in the order of the classes."""
    return np.array([[dict(prediction["classes"])[name] for name in names] for prediction in predictions])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 67 grey pictures of the size of digits, white on black, and what they hold."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (67, 8, 8), dtype=np.uint8)
    pixels[:, [0, -1]] = pixels[:, :, [0, -1]] = 0
    for index, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{index:02}.png")
    return folder, pixels


@pytest.fixture(scope="module")
def exported(trained_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "digits"
    exporting.export(trained_run("pictures"), folder, ["stablehlo"])
    return str(folder)


@pytest.mark.parametrize("by", ["run", "export"])
def test_pictures_of_a_folder_are_judged_as_the_network_judges_what_they_hold(trained_run, exported, pictures, by):
    run = trained_run("pictures")
    trained, network = network_of(run)
    told = []
    path = exported if by == "export" else run
    found = predicting.predict(path, [str(pictures[0])], lambda done, total: told.append((done, total)))
    expected = network(pictures[1][..., None].astype(np.float32) * np.float32(16 / 255))
    assert [prediction["file"] for prediction in found.predictions] == [str(p) for p in sorted(pictures[0].iterdir())]
    np.testing.assert_allclose(likely(found.predictions, trained.data.spec.names), expected, atol=1e-5)
    assert told == [(64, 67), (67, 67)]
    for prediction in found.predictions:
        values = [probability for _, probability in prediction["classes"]]
        assert values == sorted(values, reverse=True)


def test_what_cannot_be_read_is_named_and_the_rest_is_done(exported, pictures, tmp_path):
    shutil.copy(pictures[0] / "00.png", tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((pictures[0] / "01.png").read_bytes()[:40])
    (tmp_path / "empty").mkdir()
    files = [str(tmp_path / name) for name in ("b.png", "missing.png", "a.png", "empty")]
    found = predicting.predict(exported, files)
    assert [prediction["file"] for prediction in found.predictions] == [str(tmp_path / "a.png")]
    assert sorted(problem.split(":")[0] for problem in found.problems) == sorted([*files[:2], files[3]])


@pytest.mark.parametrize("by", ["run", "export"])
def test_each_example_of_an_array_is_judged_as_it_is_alone(trained_run, exported, tmp_path, by):
    trained, network = network_of(trained_run("pictures"))
    raw = np.random.default_rng(3).integers(0, 17, (70, 8, 8, 1)).astype(np.float32)
    np.save(tmp_path / "scan.npy", raw)
    np.save(tmp_path / "one.npy", raw[:1])
    np.save(tmp_path / "seven.npy", raw[7])
    path = exported if by == "export" else trained_run("pictures")
    found = predicting.predict(path, [str(tmp_path / name) for name in ("scan.npy", "one.npy", "seven.npy")])
    names = [f"scan.npy[{index}]" for index in range(70)] + ["one.npy", "seven.npy"]
    assert [prediction["file"] for prediction in found.predictions] == [str(tmp_path / name) for name in names]
    expected = np.concatenate([network(one[None]) for one in (*raw, raw[0], raw[7])])
    assert np.ptp(expected, axis=0).max() > 1e-2
    np.testing.assert_allclose(likely(found.predictions, trained.data.spec.names), expected, atol=1e-5)
    assert {prediction["note"] for prediction in found.predictions} == {None}


def test_predict_py_has_a_line_for_each_example_of_an_array(trained_run, exported, tmp_path, one_device):
    trained, network = network_of(trained_run("pictures"))
    raw = np.random.default_rng(4).integers(0, 17, (66, 8, 8, 1)).astype(np.float32)
    np.save(tmp_path / "scan.npy", raw)
    command = [sys.executable, f"{exported}/predict.py", "--top", "1", str(tmp_path / "scan.npy")]
    done = subprocess.run(command, capture_output=True, text=True, env=one_device, check=True)
    expected = network(raw)
    for index, line in enumerate(done.stdout.splitlines()):
        file, name, percent, _ = line.split()
        assert file == str(tmp_path / f"scan.npy[{index}]")
        assert name == trained.data.spec.names[expected[index].argmax()]
        assert float(percent) == pytest.approx(100 * expected[index].max(), abs=0.0101)
    assert index == 65


def test_a_text_is_the_mean_over_its_windows(trained_run, tmp_path):
    run = trained_run("texts")
    trained, network = network_of(run)
    windows = np.frombuffer(b"while the cat is out of the house, mice dance.", np.uint8)[:32].reshape(2, 16)
    (tmp_path / "a.txt").write_text(as_text(windows.reshape(-1)))
    (found,) = predicting.predict(run, [str(tmp_path)]).predictions
    expected = network(windows).mean(0, keepdims=True)
    np.testing.assert_allclose(likely([found], trained.data.spec.names), expected, atol=1e-5)
    assert found["note"] == "mean over 2 windows of 16 bytes"


def test_a_sound_is_judged_as_the_samples_it_holds(trained_run, tmp_path):
    run = trained_run("sounds")
    trained, network = network_of(run)
    samples = np.random.default_rng(0).integers(-9000, 9000, (128, 1), dtype=np.int16)
    wavfile.write(tmp_path / "a.wav", 4000, samples)
    (found,) = predicting.predict(run, [str(tmp_path / "a.wav")]).predictions
    np.testing.assert_allclose(likely([found], trained.data.spec.names), network(samples[None]), atol=1e-5)


def test_a_file_of_another_kind_is_refused(trained_run, pictures):
    found = predicting.predict(trained_run("sounds"), [str(pictures[0] / "00.png")])
    assert not found.predictions
    assert "no .wav file" in found.problems[0]


def test_an_export_that_was_changed_is_refused(exported, pictures, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(exported, folder)
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(UserError, match="model.safetensors: is not what was exported"):
        predicting.predict(str(folder), [str(pictures[0])])


def test_a_table_has_a_row_a_file_with_every_class():
    predictions = [
        {"file": "a, b.png", "classes": [["two", 0.75], ["one", 0.25]], "note": None},
        {"file": "c.png", "classes": [["one", 0.6], ["two", 0.4]], "note": "inverted"},
    ]
    rows = list(csv.DictReader(predicting.as_csv(predictions).splitlines()))
    assert [row["file"] for row in rows] == ["a, b.png", "c.png"]
    assert [row["class"] for row in rows] == ["two", "one"]
    assert [float(row["probability of one"]) for row in rows] == [0.25, 0.6]
    assert predicting.as_csv([]) == ""
