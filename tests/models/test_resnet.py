"""Residual networks: published counts, what a shortcut does, and Hugging Face's twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import validate
from research.errors import UserError
from research.models import ResNet, SmallResNet, network
from research.parameters import flatten, total, unflatten
from research.spec import Spec


def spec(shape, classes):
    return Spec(shape, classes, ("",) * classes)


def shapes(model, shape, classes):
    return flatten(jax.eval_shape(network(model, spec(shape, classes)).init, jax.random.key(0))["params"])


@pytest.mark.parametrize(
    ("depth", "shortcut", "count"),
    [
        (20, "pad", 269_722),
        (20, "project", 272_474),
        (20, None, 269_722),
        (32, "pad", 464_154),
        (56, "pad", 853_018),
        (110, "pad", 1_727_962),
    ],
)
def test_small_counts_are_the_published_ones(depth, shortcut, count):
    found = shapes(SmallResNet(depth=depth, shortcut=shortcut), (32, 32, 3), 10)
    assert total(found).parameters == count
    assert sum("kernel" in path for path in found if "shortcut" not in path) == depth


@pytest.mark.parametrize(
    ("depth", "count"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_large_counts_are_the_published_ones(depth, count):
    found = shapes(ResNet(depth=depth), (224, 224, 3), 1000)
    assert total(found).parameters == count
    assert sum("kernel" in path for path in found if "shortcut" not in path) == depth


def test_paths_are_as_documented():
    found = shapes(SmallResNet(depth=8, width=2, shortcut="project"), (8, 8, 1), 3)
    assert {path.rpartition("/")[0] for path in found} == {
        "stem/convolution",
        "stem/norm",
        *(f"stage_{s}/block_0/{kind}_{i}" for s in range(3) for kind in ("convolution", "norm") for i in range(2)),
        *(f"stage_{s}/block_0/shortcut/{kind}" for s in (1, 2) for kind in ("convolution", "norm")),
        "head",
    }


def test_the_stage_sizes_are_the_papers():
    net = network(ResNet(depth=18, width=2), spec((64, 64, 3), 5))
    paths = ("stem", "stage_0", "stage_1", "stage_2", "stage_3")
    apply = lambda key: net.apply(net.init(key), jnp.zeros((1, 64, 64, 3)), train=False, features=paths)  # noqa: E731
    _, changed = jax.eval_shape(apply, jax.random.key(0))
    assert [changed["features"][path].shape[1] for path in paths] == [16, 16, 8, 4, 2]


@pytest.mark.parametrize("shape", [(9, 2), (6, 4, 5, 1)], ids=["signal", "volume"])
def test_signals_and_volumes_are_welcome(shape):
    net = network(SmallResNet(depth=8, width=2), spec(shape, 3))
    run = lambda key: net.apply(net.init(key), jnp.ones((2, *shape)), train=True)[0]  # noqa: E731
    assert jax.eval_shape(run, jax.random.key(0)).shape == (2, 3)


def silent(model, shape=(6, 6, 2)):
    """Variables whose blocks all add nothing, and the outputs of stem and stages."""
    net = network(model, spec(shape, 3))
    variables = jax.jit(net.init)(jax.random.key(0))
    flat = flatten(variables["params"])
    last = {path: jnp.zeros_like(x) if "block" in path and "norm_1" in path else x for path, x in flat.items()}
    variables = {**variables, "params": unflatten(last)}
    inputs = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    paths = ("stem", "stage_0", "stage_1")
    return jax.jit(lambda v: net.apply(v, inputs, train=False, features=paths))(variables)[1]["features"]


def test_a_block_that_adds_nothing_is_its_shortcut():
    features = silent(SmallResNet(depth=8, width=2))
    np.testing.assert_array_equal(features["stage_0"], features["stem"])
    np.testing.assert_array_equal(features["stage_1"][..., :2], features["stem"][:, ::2, ::2])
    np.testing.assert_array_equal(features["stage_1"][..., 2:], 0)
    assert np.any(features["stem"] > 0)


def test_without_shortcuts_nothing_is_added():
    assert not np.any(silent(SmallResNet(depth=8, width=2, shortcut=None))["stage_0"])


def test_remat_changes_neither_values_nor_gradients():
    inputs = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    results = []
    for remat in (False, True):
        net = network(SmallResNet(depth=8, width=2, remat=remat), spec((8, 8, 1), 3))
        loss = lambda v: (net.apply(v, inputs, train=True)[0] ** 2).sum()  # noqa: B023, E731
        results.append(jax.jit(lambda key: jax.value_and_grad(loss)(net.init(key)))(jax.random.key(0)))  # noqa: B023
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *results)


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="depth: 18 is not 6 n \\+ 2, as 20 is"):
        validate(SmallResNet(depth=18))
    with pytest.raises(UserError, match="depth: 20 is none of 18, 34, 50, 101, 152"):
        validate(ResNet(depth=20))
    for model in (SmallResNet(), ResNet()):
        with pytest.raises(UserError, match=r"these have \(64,\); use MLP"):
            shapes(model, (64,), 3)


@pytest.mark.peers
@pytest.mark.parametrize("depth", [18, 50])
def test_logits_are_those_of_transformers(depth):
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    blocks, kind = ([2, 2, 2, 2], "basic") if depth == 18 else ([3, 4, 6, 3], "bottleneck")
    sizes = [8 * 2**i * (4 if kind == "bottleneck" else 1) for i in range(4)]
    twin = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=sizes, depths=blocks, layer_type=kind, num_labels=5, num_channels=3
        )
    ).eval()
    with torch.no_grad():
        for name, tensor in twin.state_dict().items():
            if "running_var" in name:
                tensor.uniform_(0.5, 2)
            elif "normalization" in name and tensor.is_floating_point():
                tensor.add_(0.2 * torch.randn_like(tensor))
    theirs = {name: tensor.numpy() for name, tensor in twin.state_dict().items()}

    def their_name(path):
        parts = path.split("/")
        kinds = {"scale": "weight", "kernel": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
        last = kinds[parts[-1]]
        if parts[0] == "head":
            return f"classifier.1.{last}"
        layer = "convolution" if parts[-2].startswith("convolution") else "normalization"
        if parts[0] == "stem":
            return f"resnet.embedder.embedder.{layer}.{last}"
        stage, block = parts[0][-1], parts[1].removeprefix("block_")
        inner = "shortcut" if parts[2] == "shortcut" else f"layer.{parts[2][-1]}"
        return f"resnet.encoder.stages.{stage}.layers.{block}.{inner}.{layer}.{last}"

    def copied(path, ours):
        array = theirs[their_name(path)]
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        assert array.shape == ours.shape, path
        return jnp.asarray(array)

    net = network(ResNet(depth=depth, width=8), spec((37, 40, 3), 5))
    variables = {
        kind: unflatten({path: copied(path, ours) for path, ours in flatten(tree).items()})
        for kind, tree in jax.eval_shape(net.init, jax.random.key(0)).items()
    }
    inputs = np.random.default_rng(0).normal(size=(2, 37, 40, 3)).astype(np.float32)
    with torch.no_grad():
        expected = twin(torch.tensor(inputs.transpose(0, 3, 1, 2).copy())).logits.numpy()
    ours = net.apply(variables, inputs, train=False)[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
