"""A source's weights in a model whose ends are of other sizes, stacked or not; what does not fit is told at once."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from research.errors import UserError
from research.models import network
from research.parameters import flatten, read, unflatten, views
from research.pretrained import fit, grid_of, read_pretrained
from research.pretrained.resizing import resize_positions


def shapes_of(model, spec):
    variables = jax.eval_shape(network(model, spec).init, jax.random.key(0))
    parameters = variables.pop("params")
    return {**flatten(parameters), **flatten(variables)}


def problems_of(*arguments, **how):
    with pytest.raises(UserError) as caught:
        fit(*arguments, **how)
    return caught.value.problems


@pytest.fixture
def source(save):
    return lambda layout: read_pretrained(save(layout)[0])


@pytest.mark.parametrize("layout", ["transformers-resnet", "timm-vit", "transformers-gpt2", "torchvision-vgg"])
def test_a_model_of_the_same_size_gets_everything_as_it_is(layout, source):
    found = source(layout)
    fitted = fit(found, shapes_of(found.model, found.spec))
    assert {**fitted.parameters, **fitted.state}.keys() == {**found.parameters, **found.state}.keys()
    for path, array in {**found.parameters, **found.state}.items():
        assert np.array_equal({**fitted.parameters, **fitted.state}[path], array), path
    assert (fitted.changed, fitted.reinitialised, fitted.unused) == ({}, (), ())


@pytest.mark.parametrize("layout", ["transformers-vit", "transformers-gpt2", "transformers-bert"])
def test_a_stacked_model_gets_the_same_and_gives_the_same(layout, source):
    found = source(layout)
    scanned = dataclasses.replace(found.model, scan=True)
    fitted = fit(found, shapes_of(scanned, found.spec), stacks=scanned.stacks())
    places = views(fitted.parameters, scanned.stacks())
    assert places.keys() == found.parameters.keys()
    for path, array in found.parameters.items():
        assert np.array_equal(read(fitted.parameters, path, scanned.stacks()), array), path
    inputs = np.ones((2, *found.spec.shape), np.float32 if found.spec.tokens is None else np.int32)
    ours, expected = (
        network(model, found.spec).apply({"params": unflatten(parameters)}, inputs, train=False)[0]
        for model, parameters in ((scanned, fitted.parameters), (found.model, found.parameters))
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_head_of_another_size_has_to_be_named(source):
    found = source("transformers-vit")
    shapes = shapes_of(found.model, found.spec._replace(classes=7, names=("",) * 7))
    lines = problems_of(found, shapes)
    assert len(lines) == 2
    assert lines[0].startswith("head/kernel: (32, 5) in ") or lines[1].startswith("head/kernel: (32, 5) in ")
    assert all("if it is to be drawn anew, reinitialise 'head/" in line for line in lines)
    fitted = fit(found, shapes, ["head/.*"])
    assert set(fitted.reinitialised) == {"head/kernel", "head/bias"} == shapes.keys() - fitted.parameters.keys()
    assert set(fitted.unused) == {"head/kernel", "head/bias"}


def test_without_a_head_in_the_source_it_has_to_be_named_too(save):
    path, _ = save("timm-vit")
    from safetensors.numpy import load_file, save_file

    file = path / "model.safetensors"
    save_file({name: array for name, array in load_file(file).items() if not name.startswith("head.")}, file)
    found = read_pretrained(path)
    assert found.spec.classes == 0
    shapes = shapes_of(found.model, found.spec._replace(classes=3))
    assert problems_of(found, shapes) == (f"head/bias, head/kernel: not in {path}",)
    assert set(fit(found, shapes, ["head/.*"]).reinitialised) == {"head/kernel", "head/bias"}


def test_a_pooler_of_a_model_for_tokens_serves_a_model_for_classes(small, tmp_path):
    from research.pretrained import save_pretrained

    model, spec, parameters, _ = small("transformers-bert")
    del parameters["head/kernel"], parameters["head/bias"]
    of_tokens, of = dataclasses.replace(model, head="tokens"), spec._replace(classes=spec.tokens)
    more = {
        path: np.ones(x.shape, np.float32) for path, x in shapes_of(of_tokens, of).items() if path not in parameters
    }
    save_pretrained(tmp_path / "both", "transformers-bert", of_tokens, of, {**parameters, **more})
    found = read_pretrained(tmp_path / "both")
    assert found.model.head == "tokens"
    fitted = fit(found, shapes_of(model, spec), ["head/.*"])
    assert fitted.parameters.keys() == parameters.keys()
    assert set(fitted.unused) == more.keys()


@pytest.mark.parametrize(("shape", "grid"), [((24, 24, 3), (6, 6)), ((8, 20, 3), (2, 5)), ((16, 12, 3), (4, 3))])
def test_positions_are_resized_and_the_class_token_kept(shape, grid, source):
    from PIL import Image

    found = source("transformers-vit")  # whose grid is 3 high and 4 wide
    spec = found.spec._replace(shape=shape)
    assert grid_of(found.model, spec) == grid
    fitted = fit(found, shapes_of(found.model, spec), grid=None if grid == (6, 6) else grid)
    rows, columns = grid
    old, new = found.parameters["positions"], fitted.parameters["positions"]
    np.testing.assert_array_equal(new[0], old[0])
    for feature in range(4):
        picture = Image.fromarray(old[1:, feature].reshape(3, 4))
        expected = np.asarray(picture.resize((columns, rows), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(new[1:, feature].reshape(rows, columns), expected, atol=1e-5)
    assert fitted.changed == {"positions": f"bicubic from 3x4 to {rows}x{columns}"}


def test_positions_that_are_no_square_need_a_grid(source):
    found = source("transformers-vit")
    (line,) = problems_of(found, shapes_of(found.model, found.spec._replace(shape=(8, 20, 3))))
    assert line == "positions: 11 positions are not 1 and a grid of 3x3; say which it is"


def test_resizing_keeps_a_constant_and_the_same_size():
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(13, 5)).astype(np.float32)
    np.testing.assert_allclose(resize_positions(positions, (3, 4), (3, 4), 1), positions, atol=1e-6)
    flat = np.broadcast_to(positions[:1], (13, 5))
    np.testing.assert_allclose(resize_positions(flat, (3, 4), (7, 2), 1), np.broadcast_to(flat[0], (15, 5)), rtol=1e-6)


@pytest.mark.peers
@pytest.mark.parametrize("new", [(6, 6), (2, 5), (1, 3), (9, 2)])
def test_resizing_is_torchs_antialiased_bicubic(new):
    torch = pytest.importorskip("torch")
    positions = np.random.default_rng(0).normal(size=(1 + 4 * 5, 7)).astype(np.float32)
    grid = torch.tensor(positions[1:].reshape(1, 4, 5, 7)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, size=new, mode="bicubic", antialias=True)
    found = resize_positions(positions, (4, 5), new, 1)[1:]
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1).reshape(-1, 7).numpy(), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
@pytest.mark.parametrize("layout", ["transformers-resnet", "timm-vit"])
def test_the_first_convolution_answers_grey_pictures_as_before(layout, channels, source):
    found = source(layout)
    spec = found.spec._replace(shape=(12, 16, channels))
    fitted = fit(found, shapes_of(found.model, spec))
    (path,) = fitted.changed
    old, new = found.parameters[path], fitted.parameters[path]
    assert new.shape == (*old.shape[:2], channels, old.shape[3])
    np.testing.assert_allclose(new.sum(axis=2), old.sum(axis=2), atol=1e-5)
    if channels == 1:
        np.testing.assert_allclose(new[:, :, 0], old.sum(axis=2), atol=1e-6)  # as timm does
        assert fitted.changed[path] == "averaged from 3 to 1 channels"
    if channels == 6:
        np.testing.assert_array_equal(new, np.concatenate([old, old], axis=2) / 2)  # as timm does
        assert fitted.changed[path] == "repeated from 3 to 6 channels"


def test_a_shorter_context_takes_the_first_positions(source):
    found = source("transformers-gpt2")
    short = dataclasses.replace(found.model, context=6)
    fitted = fit(found, shapes_of(short, found.spec._replace(shape=(6,))))
    np.testing.assert_array_equal(fitted.parameters["positions/embedding"], found.parameters["positions/embedding"][:6])
    assert fitted.changed == {"positions/embedding": "the first 6 of 10 positions"}
    longer = dataclasses.replace(found.model, context=11)
    (line,) = problems_of(found, shapes_of(longer, found.spec))
    assert line.startswith("positions/embedding: (10, 32) in ") and "and (11, 32) here" in line


def test_everything_that_does_not_fit_is_told_at_once(source):
    found = source("transformers-bert")
    shapes = shapes_of(dataclasses.replace(found.model, depth=1), found.spec._replace(classes=2))
    shapes["norm/scale"] = jax.ShapeDtypeStruct((32,), jnp.int32)
    shapes["segment/embedding"] = shapes.pop("segments/embedding")
    lines = problems_of(found, shapes, ["haed/.*", "pooler/(", "pooler/.*"])
    text = "\n".join(lines)
    assert len(lines) == 7
    assert "reinitialise: 'haed/.*' matches no parameter's whole path; did you mean 'head/.*'?" in lines
    assert (
        "reinitialise: 'pooler/(' is no regular expression: missing ), unterminated subpattern at position 7" in lines
    )
    assert "head/kernel: (32, 5) in " in text and "head/bias: (5,) in " in text
    assert f"norm/scale: float32 in {found.path}, and int32 here" in lines
    assert f"segment/embedding: not in {found.path}; did you mean 'segments/embedding'?" in lines
    assert "block_01/attention/query/kernel, " in text and "and not in the model" in text


def test_other_precisions_are_converted_and_told(source):
    found = source("transformers-vit")
    half = {path: array.astype(ml_dtypes.bfloat16) for path, array in found.parameters.items()}
    fitted = fit(found._replace(parameters=half), shapes_of(found.model, found.spec))
    assert {array.dtype.name for array in fitted.parameters.values()} == {"float32"}
    assert set(fitted.changed.values()) == {"bfloat16 to float32"} and fitted.changed.keys() == half.keys()


def test_some_blocks_of_a_stack_can_be_reinitialised(source):
    found = source("transformers-vit")
    scanned = dataclasses.replace(found.model, scan=True)
    shapes = shapes_of(scanned, found.spec)
    with pytest.raises(ValueError, match="only partly in the source: give its initial values"):
        fit(found, shapes, ["block_01/.*"], stacks=scanned.stacks())
    initial = {path: np.full(shape.shape, 7, np.float32) for path, shape in shapes.items()}
    fitted = fit(found, initial, ["block_01/.*", "head/bias"], stacks=scanned.stacks())
    kernel = fitted.parameters["block/attention/query/kernel"]
    np.testing.assert_array_equal(kernel[0], found.parameters["block_00/attention/query/kernel"])
    assert np.all(kernel[1] == 7)
    assert "head/bias" not in fitted.parameters
    assert {path.split("/")[0] for path in fitted.reinitialised} == {"block_01", "head"}


def test_state_is_fitted_only_where_it_is_asked_for(source):
    found = source("torchvision-resnet")
    shapes = shapes_of(found.model, found.spec)
    without = {path: shape for path, shape in shapes.items() if not path.startswith("batch_stats/")}
    assert fit(found, shapes).state.keys() == found.state.keys()
    assert fit(found, without).state == {}
    less = {path: shape for path, shape in shapes.items() if path != "batch_stats/stem/norm/mean"}
    (line,) = problems_of(found, less)
    assert line.startswith("batch_stats/stem/norm/mean: in ")
