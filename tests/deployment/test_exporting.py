"""An exported folder gives what the run gives, without this package, or is not there."""

import ast
import dataclasses
import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.commandline.loading import load_config
from research.data.base import Description, Normalisation
from research.deployment import exporting, formats, standalone
from research.deployment.card import wilson
from research.deployment.program import Program
from research.errors import UserError
from research.models.base import network
from research.spec import Spec
from research.training import Experiment, evaluation, sources
from research.training.folder import open_run
from research.training.plan import boundary
from research.training.reading import load_best, load_for, read_experiment

SPEC = Spec((6,), 3, ("a", "b", "c"))


@pytest.fixture(scope="module")
def run(trained_run):
    return trained_run("pictures")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """A folder, and what was told of it."""
    folder = tmp_path_factory.mktemp("exports") / "digits"
    return folder, exporting.export(run, folder, ["stablehlo"])


@pytest.fixture(scope="module")
def evaluated(run):
    """Raw test inputs, and the probabilities that the run's own evaluation gives."""
    folder = open_run(run)
    experiment = read_experiment(folder)
    loaded, plan = load_for(folder, experiment)
    state, frozen = load_best(folder, experiment, plan)
    raw, normalisation = loaded.splits["test"].inputs, evaluation.as_float32(loaded.normalisation)
    return raw, np.asarray(
        evaluation.probabilities(plan, boundary(experiment), frozen, *state.used(), raw, normalisation)
    )


def program_of(function, arrays) -> Program:
    """A program of raw inputs (batch, 6) of nothing in particular."""
    normalisation = Normalisation(1.0, np.zeros(6, np.float32), np.ones(6, np.float32))
    return Program(function, arrays, Description(SPEC, normalisation, "table", None, None, (9,)), {})


def called(content: bytes, arrays, raw, platforms=None) -> np.ndarray:
    """What a program in StableHLO gives; of one for several platforms as if they stood in another order."""
    program = jax.export.deserialize(bytearray(content))
    if platforms is not None:
        program = dataclasses.replace(program, platforms=platforms)
    return np.asarray(program.call(arrays, raw))


def problems(action) -> tuple[str, ...]:
    with pytest.raises(UserError) as raised:
        action()
    return raised.value.problems


# ---------------------------------------------------------------------------------------------------------------------
# What is exported


def test_an_exported_network_gives_the_probabilities_of_the_evaluated_one(exported, evaluated):
    folder, told = exported
    raw, expected = evaluated
    np.testing.assert_allclose(standalone.load(folder)(raw), expected, atol=1e-5)
    assert told["largest difference"]["stablehlo"] <= 1e-5
    assert told["examples"] == len(raw)


def test_its_accuracy_is_that_of_the_run(run, exported):
    assert exported[1]["accuracy"] == pytest.approx(open_run(run).read_json("summary.json")["test"]["accuracy"])


def test_batches_of_any_size_go_through_one_program(exported, evaluated):
    predict = standalone.load(exported[0])
    for size in (1, 3, 17):
        np.testing.assert_allclose(predict(evaluated[0][:size]), evaluated[1][:size], atol=1e-5)
    with pytest.raises(ValueError, match="raw inputs"):
        predict(evaluated[0][0])


@pytest.mark.parametrize("order", [("tpu", "cpu", "cuda"), ("cuda", "tpu", "cpu")])
def test_the_programs_for_other_platforms_are_right_as_well(exported, evaluated, order):
    content = (exported[0] / "program.stablehlo").read_bytes()
    weights = standalone.read_weights(exported[0] / "model.safetensors")
    assert jax.export.deserialize(bytearray(content)).platforms == ("cpu", "cuda", "tpu")
    # This CPU, standing where another platform stood, runs the other's program.
    found = called(content, weights, evaluated[0].astype(np.float32), order)
    np.testing.assert_allclose(found, evaluated[1], atol=1e-5)


def test_predict_py_needs_nothing_of_ours_and_says_what_the_network_says(exported, evaluated, tmp_path, one_device):
    folder, _ = exported
    names = [
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse((folder / "predict.py").read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    outside = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert outside == {"numpy", "jax", "onnxruntime", "PIL", "ml_dtypes"}
    np.save(tmp_path / "one.npy", evaluated[0][0])
    (tmp_path / "two.png").write_bytes(b"no picture")
    script = ",".join(exporting.KEPT_AWAY["stablehlo"]), str(folder / "predict.py"), "--top", "1"
    done = subprocess.run(
        [sys.executable, "-P", "-c", exporting.TRY, *script, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**one_device, "JAX_ENABLE_COMPILATION_CACHE": "0"},  # JAX warns of what another test is writing
    )
    best = evaluated[1][0].argmax()
    assert done.stdout.split() == [str(tmp_path / "one.npy"), str(best), f"{100 * evaluated[1][0, best]:.2f}", "%"]
    assert done.stderr == f"error: {tmp_path / 'two.png'}: not a picture, or one of an unknown kind\n"
    assert done.returncode == 1


def test_the_folder_is_a_config_and_a_source_of_weights(run, exported):
    folder = str(exported[0])
    assert load_config(folder, (Experiment,)).config == load_config(run, (Experiment,)).config
    there, here = sources.read_source(folder), sources.read_source(run)
    for kind in ("parameters", "model_state"):
        assert getattr(there, kind).keys() == getattr(here, kind).keys()
        for path, array in getattr(here, kind).items():
            np.testing.assert_array_equal(getattr(there, kind)[path], array)


def test_the_card_tells_where_it_comes_from_and_how_good_it_is(run, exported):
    card = (exported[0] / "README.md").read_text()
    for said in (run, "1,257 train", f"{exported[1]['accuracy']:.2%} (95 % interval", "python predict.py picture.png"):
        assert said in card


@pytest.mark.parametrize(("right", "examples"), [(0, 10), (7, 10), (10, 10), (93, 360)])
def test_the_interval_of_a_share_is_that_of_scipy(right, examples):
    from scipy.stats import binomtest

    expected = binomtest(right, examples).proportion_ci(method="wilson")
    assert wilson(right, examples) == pytest.approx((expected.low, expected.high), abs=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Other programs


def test_arrays_of_eight_bits_stay_what_they_are(tmp_path):
    values = np.random.default_rng(0).integers(-127, 128, (6, 3), dtype=np.int8)
    arrays = {"kernel": values, "scale": jnp.asarray([0.5, 1.0, 2.0], jnp.bfloat16)}
    function = lambda arrays, raw: jax.nn.softmax(raw @ (arrays["kernel"] * arrays["scale"].astype(jnp.float32)))  # noqa: E731
    program = program_of(function, arrays)
    exporting.write_file(tmp_path / "w.safetensors", jax.device_get(arrays))
    read = standalone.read_weights(tmp_path / "w.safetensors")
    assert {name: array.dtype.name for name, array in read.items()} == {"kernel": "int8", "scale": "bfloat16"}
    raw = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    logits = raw.astype(np.float64) @ (values * np.array([0.5, 1.0, 2.0]))
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(called(formats.stablehlo(program, np.float32), read, raw), expected, atol=1e-5)


def test_a_model_that_counts_its_examples_is_exported_too():
    class Counting(nn.Module):
        classes: int | None = None

        @nn.compact
        def __call__(self, inputs):
            return nn.Dense(self.classes, name="head")(inputs.reshape(len(inputs), -1) + np.zeros((len(inputs), 1)))

    net = network(Counting(), SPEC)
    variables = net.init(jax.random.key(0))
    kernel = variables["params"]["head"]["kernel"]
    function = lambda arrays, raw: net.apply({"params": {"head": arrays}}, raw, train=False)[0]  # noqa: E731
    program = program_of(function, variables["params"]["head"])
    raw = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    found = called(formats.stablehlo(program, np.float32), variables["params"]["head"], raw)
    np.testing.assert_allclose(found, raw @ np.asarray(kernel), atol=1e-5)


def test_an_operation_that_a_target_does_not_support_is_named_in_a_line():
    def function(arrays, raw):
        shape = jax.ShapeDtypeStruct(raw.shape, raw.dtype)
        return jax.pure_callback(lambda x: x, shape, raw, vmap_method="sequential")

    (line,) = problems(lambda: formats.stablehlo(program_of(function, {}), np.float32))
    assert line.startswith("stablehlo: ")
    assert "callback" in line
    assert "\n" not in line


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize("name", ["program.stablehlo", "model.safetensors", "labels.json", "predict.py", "README.md"])
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_file_that_is_not_what_was_exported_is_refused(exported, name, damage):
    path = exported[0] / name
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(standalone.Refused, match=name):
            standalone.load(exported[0])
    finally:
        path.write_bytes(whole)
    standalone.checked(exported[0])


@pytest.mark.parametrize("manifest", [b"", b"{}", b"[1]", b'{"files": 3}', b'{"files": {"../x": {"sha256": ""}}}'])
def test_a_damaged_manifest_is_refused(tmp_path, manifest):
    (tmp_path / "manifest.json").write_bytes(manifest)
    with pytest.raises(standalone.Refused):
        standalone.load(tmp_path)


def test_a_program_that_gives_something_else_is_not_left_behind(run, tmp_path, monkeypatch):
    def wrong(program, dtype):
        off = program._replace(function=lambda arrays, raw: program.function(arrays, raw) + 2e-5)
        return formats.stablehlo(off, dtype)

    monkeypatch.setitem(exporting.FORMATS, "stablehlo", wrong)
    (line,) = problems(lambda: exporting.export(run, tmp_path / "e", ["stablehlo"]))
    assert (
        line
        == "stablehlo: a probability of the test split is off by 2.0e-05, and 1e-05 is the most; nothing was written"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_is_exported_is_held_against_evaluation_and_not_against_itself(run, tmp_path, monkeypatch):
    """Faithfully written, and yet not what was evaluated: read with another normalisation."""
    read = exporting.read_program

    def misread(path):
        program = read(path)
        return program._replace(function=lambda arrays, raw: program.function(arrays, raw * 1.01))

    monkeypatch.setattr(exporting, "read_program", misread)
    (line,) = problems(lambda: exporting.export(run, tmp_path / "e", ["stablehlo"]))
    assert "a probability of the test split is off by" in line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_and_a_format_that_is_not_are_refused(run, exported, tmp_path):
    (line,) = problems(lambda: exporting.export(run, exported[0], ["stablehlo"]))
    assert "exists already" in line
    (line,) = problems(lambda: exporting.export(run, tmp_path / "e", ["stablehl"]))
    assert line == "--formats: no format 'stablehl'; did you mean 'stablehlo'?"


def test_without_the_extra_onnx_is_refused_with_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "has_onnx", lambda: False)
    (line,) = problems(lambda: exporting.export(run, tmp_path / "e", ["onnx"]))
    assert 'pip install -e ".[onnx]"' in line
    assert exporting.known(None) == ("stablehlo",)


def test_the_manifest_tells_of_every_file(exported):
    manifest = json.loads((exported[0] / "manifest.json").read_text())
    assert set(manifest["files"]) | {"manifest.json"} == {path.name for path in exported[0].iterdir()}
