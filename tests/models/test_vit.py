"""The Vision Transformer: published counts, what it sees, errors, and Hugging Face's twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import validate
from research.errors import UserError
from research.models import ViT, network, vit
from research.parameters import flatten, total
from research.spec import Spec


def spec(shape, classes):
    return Spec(shape, classes, ("",) * classes)


def shapes(model, shape, classes):
    return flatten(jax.eval_shape(network(model, spec(shape, classes)).init, jax.random.key(0))["params"])


@pytest.mark.parametrize(
    ("size", "patch", "count"),
    [
        ("Ti", 16, 5_717_416),
        ("S", 16, 22_050_664),
        ("B", 16, 86_567_656),
        ("B", 32, 88_224_232),
        ("L", 16, 304_326_632),
        ("L", 32, 306_535_400),
    ],
)
def test_counts_are_the_published_ones(size, patch, count):
    assert total(shapes(vit(size, patch), (224, 224, 3), 1000)).parameters == count


def test_paths_are_as_documented():
    found = shapes(ViT(depth=1, width=4, heads=2, patch=2), (4, 4, 1), 3)
    assert {path for path in found if not path.endswith("/bias")} == {
        "embedding/kernel",
        "class_token",
        "positions",
        "block_00/norm_0/scale",
        "block_00/norm_1/scale",
        *(f"block_00/attention/{name}/kernel" for name in ("query", "key", "value", "output")),
        "block_00/dense_0/kernel",
        "block_00/dense_1/kernel",
        "norm/scale",
        "head/kernel",
    }
    assert found["positions"].shape == (5, 4)


@pytest.mark.parametrize("shape", [(6, 2), (4, 6, 1), (2, 4, 2, 1)], ids=["signal", "image", "volume"])
def test_signals_images_and_volumes_become_tokens(shape):
    net = network(ViT(depth=1, width=4, heads=2, patch=2, pooling="average"), spec(shape, 3))
    run = jax.jit(lambda key: net.apply(net.init(key), jnp.ones((2, *shape)), train=False, features=("norm",)))
    logits, changed = run(jax.random.key(0))
    assert logits.shape == (2, 3)
    assert changed["features"]["norm"].shape == (2, np.prod([n // 2 for n in shape[:-1]]), 4)


def test_a_patch_is_seen_whole_by_its_token_and_by_no_other():
    net = network(ViT(depth=1, width=4, heads=2, patch=2), spec((4, 4, 1), 3))
    variables = net.init(jax.random.key(0))
    inputs = np.zeros((1, 4, 4, 1), np.float32)
    inputs[0, 2, 1] = 1.0  # in the third of four patches

    def embedded(x):
        return net.apply(variables, x, train=False, features=("embedding",))[1]["features"]["embedding"].reshape(4, 4)

    changed = np.any(embedded(inputs) != embedded(0 * inputs), axis=-1)
    assert changed.tolist() == [False, False, True, False]


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"inputs of \(28, 30, 1\) do not fall into patches of 4 positions a side"):
        network(ViT(patch=4), spec((28, 30, 1), 3))
    with pytest.raises(UserError, match=r"these have \(64,\); use MLP"):
        network(ViT(), spec((64,), 3))
    with pytest.raises(UserError, match="heads: 5 heads do not divide the width of 192"):
        validate(ViT(heads=5))


@pytest.mark.peers
@pytest.mark.parametrize("scan", [False, True])
def test_logits_are_those_of_transformers(scan, copied_parameters):
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    twin = transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=128,
            image_size=12,
            patch_size=4,
            num_labels=5,
            layer_norm_eps=1e-12,
            attn_implementation="eager",
        )
    ).eval()
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            tensor.add_(0.2 * torch.randn_like(tensor))
    theirs = {name: tensor.numpy() for name, tensor in twin.state_dict().items()}

    layers = {
        "embedding": "vit.embeddings.patch_embeddings.projection",
        "norm": "vit.layernorm",
        "head": "classifier",
        "norm_0": "layernorm_before",
        "norm_1": "layernorm_after",
        "attention/query": "attention.q_proj",
        "attention/key": "attention.k_proj",
        "attention/value": "attention.v_proj",
        "attention/output": "attention.o_proj",
        "dense_0": "mlp.fc1",
        "dense_1": "mlp.fc2",
    }

    def array_of(path):
        if path in ("class_token", "positions"):
            name = {"class_token": "cls_token", "positions": "position_embeddings"}[path]
            array = theirs[f"vit.embeddings.{name}"][0]
            return array[0] if path == "class_token" else array
        layer, _, kind = path.rpartition("/")
        where = ""
        if layer.startswith("block_"):
            block, _, layer = layer.partition("/")
            where = f"vit.layers.{int(block.removeprefix('block_'))}."
        array = theirs[f"{where}{layers[layer]}.{'bias' if kind == 'bias' else 'weight'}"]
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T

    model = ViT(depth=3, width=32, heads=4, patch=4, scan=scan)
    net = network(model, spec((12, 12, 3), 5))
    inputs = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    with torch.no_grad():
        expected = twin(torch.tensor(inputs.transpose(0, 3, 1, 2).copy())).logits.numpy()
    ours = net.apply(copied_parameters(net, array_of), inputs, train=False)[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
