"""Networks as ONNX give in onnxruntime what they give here."""

import jax
import numpy as np
import pytest

from research.data.base import Description, Normalisation
from research.deployment import exporting, formats, standalone
from research.deployment.program import program_of
from research.deployment.trained import Trained
from research.errors import UserError
from research.models import GPT, MLP, ConvNet, SmallResNet, TextCNN, ViT
from research.models.base import network
from research.parameters import paths
from research.spec import Spec

pytestmark = [pytest.mark.onnx, pytest.mark.filterwarnings("ignore")]  # those of others' code are theirs

PICTURES = Spec((8, 8, 1), 3, ("a", "b", "c"))
TOKENS = Spec((8,), 256, ("",) * 256, 256)
TEXTS = Spec((8,), 3, ("a", "b", "c"), 256)
MODELS = {
    "MLP": (MLP(depth=2, width=4, residual=True), PICTURES),
    "ConvNet": (ConvNet(features=(4, 4), hidden=(4,), norm="batch"), PICTURES),
    "SmallResNet": (SmallResNet(depth=8, width=2), PICTURES),
    "ViT": (ViT(depth=1, width=8, heads=2, patch=4), PICTURES),
    "GPT": (GPT(depth=1, width=8, heads=2), TOKENS),
    "TextCNN": (TextCNN(width=4, windows=(2,), features=4), TEXTS),
}


def program_with(model, spec: Spec):
    """A network with its first values, which no training changed."""
    variables = network(model, spec).init(jax.random.key(0))
    parameters = paths.flatten(variables.pop("params"))
    normalisation = None if spec.tokens else Normalisation(1 / 255, np.float32([0.3]), np.float32([0.2]))
    data = Description(spec, normalisation, "image", None, 255.0, (9,))
    return program_of(Trained(model, data, parameters, paths.flatten(variables), {}))


@pytest.mark.parametrize("name", MODELS)
def test_probabilities_are_the_same_for_batches_of_any_size(name):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, spec = MODELS[name]
    program = program_with(model, spec)
    session = onnxruntime.InferenceSession(formats.onnx(program, np.uint8))
    for size in (1, 5):
        raw = np.random.default_rng(size).integers(0, 256, (size, *spec.shape), dtype=np.uint8)
        (found,) = session.run(None, {"raw": raw})
        np.testing.assert_allclose(found, jax.jit(program.function)(program.arrays, raw), atol=1e-5)


def test_a_folder_holds_it_beside_stablehlo_and_its_process_has_no_jax(trained_run, tmp_path):
    told = exporting.export(trained_run("pictures"), tmp_path / "e")
    assert told["formats"] == ["stablehlo", "onnx"]
    assert max(told["largest difference"].values()) <= 1e-5
    assert "jax" in exporting.KEPT_AWAY["onnx"]
    raw = np.random.default_rng(0).integers(0, 17, (5, 8, 8, 1)).astype(np.float32)
    by = [standalone.load(tmp_path / "e", runtime)(raw) for runtime in ("stablehlo", "onnx")]
    np.testing.assert_allclose(*by, atol=1e-5)


def test_an_operation_that_it_lacks_is_named_in_a_line():
    spec = Spec((4, 4, 4, 1), 3, ("a", "b", "c"))
    with pytest.raises(UserError) as raised:
        formats.onnx(program_with(ConvNet(features=(2,)), spec), np.uint8)  # over volumes
    (line,) = raised.value.problems
    assert line.startswith("onnx: does not support the operation 'conv_general_dilated' here: ")
    assert "\n" not in line
