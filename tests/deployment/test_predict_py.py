"""The predict.py of an exported folder: what it says, and what it refuses, in a line."""

import runpy
import subprocess
import sys

import jax
import numpy as np
import pytest

from research.deployment import exporting
from research.deployment.trained import read_trained
from research.models import GPT
from research.models.sampling import sample
from research.parameters import unflatten


@pytest.fixture(scope="module")
def exported(trained_run, tmp_path_factory):
    """The exported folder of a run of a kind."""
    made = {}

    def make(kind: str) -> str:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("exports") / kind
            exporting.export(trained_run(kind), made[kind], ["stablehlo"])
        return str(made[kind])

    return make


@pytest.fixture
def predict_py(exported, one_device):
    """Runs the predict.py of a kind: exit status, lines of output and of errors."""

    def call(kind: str, *arguments):
        command = [sys.executable, f"{exported(kind)}/predict.py", *map(str, arguments)]
        environment = {**one_device, "JAX_ENABLE_COMPILATION_CACHE": "0"}  # JAX warns of what another test is writing
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()

    return call


def test_a_language_model_tells_what_follows_a_text_as_it_would_write_on(trained_run, predict_py, tmp_path):
    trained = read_trained(trained_run("language"))
    texts = ["if x", "y", "  return self", "def __init__(self, name, other=None)", "0123456789abcdef"]
    for index, text in enumerate(texts):
        (tmp_path / f"{index}.txt").write_text(text)
    status, lines, _ = predict_py("language", "--top", 1, tmp_path)
    assert (status, len(lines)) == (0, len(texts))
    model, parameters = GPT(depth=1, width=16, heads=2, context=17), unflatten(trained.parameters)
    embedding = np.asarray(
        parameters["positions"]["embedding"]
    )  # a position more, so that the longest can be gone on from
    parameters["positions"]["embedding"] = np.concatenate([embedding, embedding[:1]])
    for text, line in zip(texts, lines, strict=True):
        prompt = np.frombuffer(text.encode()[-16:], np.uint8)[None]
        token = sample(model, trained.data.spec, parameters, prompt, jax.random.key(0), count=1, temperature=0)
        assert f".txt  {trained.data.spec.names[token.item()]} " in line
        assert ("what follows the last 16 of 36 bytes" in line) == (len(text) == 36)


def test_the_arrays_of_a_language_model_are_examples_of_the_whole_length(predict_py, tmp_path):
    tokens = np.frombuffer(b"0123456789abcdefwhile True: pass", np.uint8).reshape(2, 16)
    np.save(tmp_path / "a.npy", tokens)
    for index, text in enumerate(tokens):
        (tmp_path / f"{index}.txt").write_bytes(bytes(text))
    _, lines, _ = predict_py("language", *(tmp_path / name for name in ("a.npy", "0.txt", "1.txt")))
    of_arrays = [line.removeprefix(str(tmp_path / f"a.npy[{index}]")) for index, line in enumerate(lines[:2])]
    assert of_arrays == [line.removeprefix(str(tmp_path / f"{index}.txt")) for index, line in enumerate(lines[2:])]
    assert of_arrays[0] != of_arrays[1]


def test_a_network_of_hidden_tokens_tells_no_next_one(predict_py, tmp_path):
    (tmp_path / "a.txt").write_text("while")
    status, lines, errors = predict_py("hidden", tmp_path / "a.txt")
    assert (status, lines, len(errors)) == (2, [], 1)
    assert "hidden in a text, and no classes" in errors[0]
    np.save(tmp_path / "raw.npy", np.zeros((3, 16), np.int32))
    assert predict_py("hidden", "--inputs", tmp_path / "raw.npy", "--outputs", tmp_path / "out.npy") == (0, [], [])
    assert np.load(tmp_path / "out.npy").shape == (3, 16, 256)


def test_a_folder_without_inputs_is_told(predict_py, tmp_path):
    (tmp_path / "notes.txt").touch()
    status, lines, errors = predict_py("pictures", tmp_path)
    assert (status, lines, len(errors)) == (1, [], 1)
    assert errors[0].startswith(f"error: {tmp_path}: holds no file such as .png, ")


@pytest.mark.parametrize(
    ("content", "outputs", "message"),
    [
        (None, "out.npy", "raw.npy: there is no such file"),
        (b"no array", "out.npy", "raw.npy: damaged or no .npy file"),
        (b"", "out.npy", "raw.npy: damaged or no .npy file"),
        (np.zeros((5, 7, 8, 1)), "out.npy", r"raw.npy: holds an array (5, 7, 8, 1), and (examples, 8, 8, 1) is needed"),
        (np.zeros((8, 8, 1)), "out.npy", "raw.npy: holds an array (8, 8, 1), and"),
        (np.zeros((0, 8, 8, 1)), "out.npy", "raw.npy: holds an array (0, 8, 8, 1), and"),
        (np.zeros(()), "out.npy", "raw.npy: holds an array (), and"),
        (np.full((1, 8, 8, 1), "a"), "out.npy", "raw.npy: holds <U1, and numbers are needed"),
        (np.full((1, 8, 8, 1), None), "out.npy", "raw.npy: damaged or no .npy file"),
        (np.zeros((1, 8, 8, 1)), "raw.npy", "raw.npy: holds the inputs, and cannot be that of the outputs"),
        (np.zeros((1, 8, 8, 1)), "none/out.npy", "none/out.npy: cannot be written (No such file or directory)"),
    ],
)
def test_raw_inputs_of_another_kind_are_refused_in_a_line(
    exported, tmp_path, capsys, monkeypatch, content, outputs, message
):
    raw = tmp_path / "raw.npy"
    if isinstance(content, bytes):
        raw.write_bytes(content)
    elif content is not None:
        np.save(raw, content, allow_pickle=True)
    folder = exported("pictures")
    monkeypatch.setattr(sys, "argv", ["predict.py", "--inputs", str(raw), "--outputs", str(tmp_path / outputs)])
    before = raw.read_bytes() if raw.exists() else None
    capsys.readouterr()  # what training and exporting told
    status = runpy.run_path(f"{folder}/predict.py")["main"]()
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {tmp_path}/{message}")
    assert before == (raw.read_bytes() if raw.exists() else None)
