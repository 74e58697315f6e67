"""Files as they are found: names of other versions, trunks without a head, nothing beside the file, mapped memory."""

import json
import mmap

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from research.pretrained import read_pretrained


@pytest.fixture
def rewrite(save):
    """rewrite(layout, function of {name: array} to the like) -> the source as it is read then, and what was saved."""

    def rewritten(layout, function):
        path, (_, _, parameters, _) = save(layout)
        file = path / "model.safetensors"
        tensors = function(load_file(file))
        save_file(tensors, file)
        return read_pretrained(path), parameters

    return rewritten


def same(found, parameters):
    return found.keys() == parameters.keys() and all(np.array_equal(found[path], parameters[path]) for path in found)


def test_gpt_2_as_on_the_hub_has_no_prefix_but_masks(rewrite):
    def as_there(tensors):
        tensors = {name.removeprefix("transformer."): array for name, array in tensors.items()}
        masks = {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, 10, 10), np.float32)) for i in range(2)}
        return {**tensors, **masks}

    source, parameters = rewrite("transformers-gpt2", as_there)
    assert same(source.parameters, parameters)
    assert source.unused == ("h.0.attn.bias", "h.1.attn.bias")


def test_a_tied_head_may_be_there_twice(rewrite):
    source, parameters = rewrite("transformers-gpt2", lambda t: {**t, "lm_head.weight": t["transformer.wte.weight"]})
    assert same(source.parameters, parameters) and source.unused == ()


def test_bert_as_on_the_hub_has_old_names_and_several_heads(rewrite):
    def as_there(tensors):
        del tensors["classifier.weight"], tensors["classifier.bias"]
        tensors = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
            for name, array in tensors.items()
        }
        return {
            **tensors,
            "bert.embeddings.position_ids": np.arange(10)[None],
            "cls.predictions.bias": np.ones(23, np.float32),
            "cls.predictions.transform.dense.weight": np.ones((32, 32), np.float32),
            "cls.predictions.transform.dense.bias": np.ones(32, np.float32),
            "cls.predictions.transform.LayerNorm.gamma": np.ones(32, np.float32),
            "cls.predictions.transform.LayerNorm.beta": np.ones(32, np.float32),
            "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
            "cls.seq_relationship.weight": np.ones((2, 32), np.float32),
            "cls.seq_relationship.bias": np.ones(2, np.float32),
        }

    source, parameters = rewrite("transformers-bert", as_there)
    assert source.model.head == "tokens" and source.spec.classes == 23
    assert parameters.keys() - source.parameters.keys() == {"head/kernel", "head/bias"}
    more = source.parameters.keys() - parameters.keys()
    assert more == {"dense/kernel", "dense/bias", "head_norm/scale", "head_norm/bias", "bias"}
    both = source.parameters.keys() & parameters.keys()
    assert same({path: source.parameters[path] for path in both}, {path: parameters[path] for path in both})
    of_sentences = {"cls.seq_relationship.weight", "cls.seq_relationship.bias"}
    assert set(source.unused) == {"bert.embeddings.position_ids", *of_sentences}


@pytest.mark.parametrize(
    ("layout", "root", "head"),
    [
        ("transformers-vit", "vit.", "classifier."),
        ("transformers-bert", "bert.", "classifier."),
        ("transformers-resnet", "resnet.", "classifier."),
        ("timm-vit", "", "head."),
        ("torchvision-resnet", "", "fc."),
    ],
)
def test_a_trunk_without_a_head(layout, root, head, rewrite):
    def without(tensors):
        return {name.removeprefix(root): array for name, array in tensors.items() if not name.startswith(head)}

    source, parameters = rewrite(layout, without)
    assert (source.spec.classes, source.spec.names) == (0, ())
    assert parameters.keys() - source.parameters.keys() == {"head/kernel", "head/bias"}


@pytest.mark.parametrize(
    "layout", ["transformers-vit", "transformers-gpt2", "transformers-bert", "transformers-resnet"]
)
def test_without_config_json_the_tensors_tell(layout, save, monkeypatch):
    monkeypatch.setattr("research.pretrained.about.HEADS", {32: 4})
    path, (model, spec, parameters, _) = save(layout)
    (path / "config.json").unlink()
    file = path / "model.safetensors"
    if layout == "transformers-vit":  # whose pictures are square unless config.json says otherwise
        tensors = load_file(file)
        positions = tensors["vit.embeddings.position_embeddings"]
        save_file({**tensors, "vit.embeddings.position_embeddings": positions[:, :10].copy()}, file)
        parameters, spec = {**parameters, "positions": positions[0, :10]}, spec._replace(shape=(12, 12, 3))
    source = read_pretrained(file)
    assert (source.layout, source.model, source.spec.shape) == (layout, model, spec.shape)
    assert same(source.parameters, parameters)
    if layout != "transformers-resnet":
        assert source.notes == ("4 heads of 8 features, as is usual; no config.json says so",)


def test_a_timm_folder_is_told_by_its_architecture(save):
    path, _ = save("timm-resnet")
    assert read_pretrained(path).layout == "timm-resnet"
    settings = json.loads((path / "config.json").read_text())
    assert settings["architecture"] == "resnet50"
    (path / "config.json").unlink()
    assert read_pretrained(path).layout == "torchvision-resnet"


def test_tensors_are_mapped_and_not_read(save):
    path, _ = save("transformers-bert")
    for array in read_pretrained(path).parameters.values():
        while isinstance(array.base, np.ndarray):
            array = array.base
        assert isinstance(array.base, mmap.mmap) and not array.flags.writeable


@pytest.mark.parametrize("more", range(4))
def test_tensors_may_lie_at_any_address(more, save):
    path, (_, _, parameters, _) = save("transformers-vit")
    file = path / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip() + b" " * more
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    found = read_pretrained(path).parameters
    assert same(found, parameters)
    assert same({name: np.asarray(jnp.asarray(array)) for name, array in found.items()}, parameters)
