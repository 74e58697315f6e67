"""Layouts of libraries that are not installed here, against small models written anew with the names of theirs.

The names are those of torchvision/models/resnet.py and vgg.py and timm/models/vision_transformer.py (PyTorch), and of
google-research/vision_transformer, vit_jax/models_vit.py (Flax), whose published files number the layers of a block
through: LayerNorm_0, MultiHeadDotProductAttention_1, LayerNorm_2, MlpBlock_3.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import VGG, ResNet, ViT, network, vit
from research.parameters import flatten, unflatten
from research.pretrained import read_pretrained, save_pretrained
from research.pretrained.layouts import named
from research.pretrained.reading import expected, shape_there
from research.spec import Spec

CLASSES = 5


# ---------------------------------------------------------------------------------------------------------------------
# torch


def _torch_resnet(depths, bottleneck, width=8):
    """torchvision's ResNet, of another width."""
    import torch
    from torch import nn as tnn

    class Block(tnn.Module):
        def __init__(self, before, planes, stride):
            super().__init__()
            after = planes * (4 if bottleneck else 1)
            sizes = [(before, planes, 3, stride), (planes, planes, 3, 1)]
            if bottleneck:
                sizes = [(before, planes, 1, 1), (planes, planes, 3, stride), (planes, after, 1, 1)]
            for i, (into, out, kernel, step) in enumerate(sizes, 1):
                setattr(self, f"conv{i}", tnn.Conv2d(into, out, kernel, step, kernel // 2, bias=False))
                setattr(self, f"bn{i}", tnn.BatchNorm2d(out))
            self.layers, self.downsample = len(sizes), None
            if stride != 1 or before != after:
                self.downsample = tnn.Sequential(
                    tnn.Conv2d(before, after, 1, stride, bias=False), tnn.BatchNorm2d(after)
                )

        def forward(self, x):
            out = x
            for i in range(1, self.layers + 1):
                out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
                out = torch.relu(out) if i < self.layers else out
            return torch.relu(out + (x if self.downsample is None else self.downsample(x)))

    class Net(tnn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = tnn.Conv2d(3, width, 7, 2, 3, bias=False), tnn.BatchNorm2d(width)
            before = width
            for stage, depth in enumerate(depths):
                blocks = []
                for i in range(depth):
                    blocks.append(Block(before, width * 2**stage, 2 if stage and i == 0 else 1))
                    before = width * 2**stage * (4 if bottleneck else 1)
                setattr(self, f"layer{stage + 1}", tnn.Sequential(*blocks))
            self.fc = tnn.Linear(before, CLASSES)

        def forward(self, x):
            x = torch.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.fc(x.mean((2, 3)))

    return Net()


def _torch_vgg():
    """torchvision's VGG-11 of another width, at 64x64, where its average pooling would be left out."""
    import torch
    from torch import nn as tnn

    class Net(tnn.Module):
        def __init__(self):
            super().__init__()
            layers, before = [], 3
            for size in (2, "M", 4, "M", 8, 8, "M", 16, 16, "M", 16, 16, "M"):
                if size == "M":
                    layers.append(tnn.MaxPool2d(2))
                else:
                    layers += [tnn.Conv2d(before, size, 3, padding=1), tnn.ReLU()]
                    before = size
            self.features = tnn.Sequential(*layers)
            sizes = [(16 * 2 * 2, 12), (12, 7)]
            hidden = [layer for size in sizes for layer in (tnn.Linear(*size), tnn.ReLU(), tnn.Dropout())]
            self.classifier = tnn.Sequential(*hidden, tnn.Linear(7, CLASSES))

        def forward(self, x):
            return self.classifier(torch.flatten(self.features(x), 1))

    return Net()


def _torch_timm_vit(has_token, width=32, heads=4, patch=4, grid=3):
    """timm's VisionTransformer with `global_pool` "token", or "avg" without a class token and without `fc_norm`."""
    import torch
    from torch import nn as tnn

    class Attention(tnn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.proj = tnn.Linear(width, 3 * width), tnn.Linear(width, width)

        def forward(self, x):
            batch, tokens, _ = x.shape
            q, k, v = self.qkv(x).reshape(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            x = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            return self.proj(x.transpose(1, 2).reshape(batch, tokens, width))

    class Mlp(tnn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = tnn.Linear(width, 3 * width), tnn.Linear(3 * width, width)

        def forward(self, x):
            return self.fc2(torch.nn.functional.gelu(self.fc1(x)))

    class Block(tnn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.attn = tnn.LayerNorm(width, eps=1e-6), Attention()
            self.norm2, self.mlp = tnn.LayerNorm(width, eps=1e-6), Mlp()

        def forward(self, x):
            x = x + self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    class PatchEmbed(tnn.Module):
        def __init__(self):
            super().__init__()
            self.proj = tnn.Conv2d(3, width, patch, patch)

    class Net(tnn.Module):
        def __init__(self):
            super().__init__()
            if has_token:
                self.cls_token = tnn.Parameter(torch.randn(1, 1, width))
            self.pos_embed = tnn.Parameter(torch.randn(1, grid**2 + has_token, width))
            self.patch_embed = PatchEmbed()
            self.blocks = tnn.Sequential(Block(), Block())
            self.norm, self.head = tnn.LayerNorm(width, eps=1e-6), tnn.Linear(width, CLASSES)

        def forward(self, x):
            x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
            if has_token:
                x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
            x = self.norm(self.blocks(x + self.pos_embed))
            return self.head(x[:, 0] if has_token else x.mean(1))

    return Net()


def _twin(kind):
    """(layout, the torch model, the size of its pictures)."""
    match kind:
        case "torchvision resnet18":
            return "torchvision-resnet", _torch_resnet((2, 2, 2, 2), False), 40
        case "torchvision resnet50":
            return "torchvision-resnet", _torch_resnet((3, 4, 6, 3), True), 40
        case "torchvision vgg11":
            return "torchvision-vgg", _torch_vgg(), 64
        case "timm vit":
            return "timm-vit", _torch_timm_vit(True), 12
        case "timm vit, average":
            return "timm-vit", _torch_timm_vit(False), 12


TWINS = ["torchvision resnet18", "torchvision resnet50", "torchvision vgg11", "timm vit", "timm vit, average"]


@pytest.fixture
def torch_twin(request):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layout, twin, size = _twin(request.param)
    with torch.no_grad():
        for name, tensor in twin.state_dict().items():
            if "running_var" in name:
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point() and tensor.ndim < 4:
                tensor.add_(0.1 * torch.randn_like(tensor))
    return layout, twin.eval(), size


def _compare(source, twin, size):
    import torch

    inputs = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    variables = {"params": unflatten(source.parameters), **unflatten(source.state)}
    net = network(source.model, source.spec._replace(shape=(size, size, 3)))
    ours = jax.jit(lambda v: net.apply(v, inputs, train=False)[0])(variables)
    with torch.no_grad():
        theirs = twin(torch.tensor(inputs.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * max(1, np.abs(theirs).max()))


@pytest.mark.peers
@pytest.mark.parametrize("torch_twin", TWINS, indirect=True)
def test_their_weights_give_the_same_logits_in_ours(torch_twin, tmp_path):
    from safetensors.torch import save_file

    layout, twin, size = torch_twin
    save_file(twin.state_dict(), tmp_path / "model.safetensors")
    if layout == "timm-vit":
        (tmp_path / "config.json").write_text(
            '{"architecture": "vit_base_patch16_224", "model_args": {"num_heads": 4}}'
        )
    source = read_pretrained(tmp_path)
    assert (source.layout, source.unused) == (layout, ())
    _compare(source, twin, size)


@pytest.mark.peers
@pytest.mark.parametrize("torch_twin", TWINS, indirect=True)
def test_our_weights_give_the_same_logits_in_theirs(torch_twin, tmp_path):
    from safetensors.torch import load_file

    layout, twin, size = torch_twin
    model, spec = {
        "torchvision-resnet": (ResNet(depth=50 if "layer1.0.conv3.weight" in twin.state_dict() else 18, width=8), 224),
        "torchvision-vgg": (VGG(depth=11, width=2, hidden=(12, 7)), 64),
        "timm-vit": (ViT(depth=2, width=32, heads=4, patch=4, expansion=3, epsilon=1e-6), 12),
    }[layout]
    if layout == "timm-vit" and "cls_token" not in twin.state_dict():
        model = dataclasses.replace(model, pooling="average")
    spec = Spec((spec, spec, 3), CLASSES, tuple(map(str, range(CLASSES))))
    rng = np.random.default_rng(0)
    arrays = {
        path: np.float32(rng.uniform(0.5, 2, x.shape) if path.endswith("var") else 0.2 * rng.normal(size=x.shape))
        for path, x in expected(model, spec).items()
    }
    state = {path: array for path, array in arrays.items() if path.startswith("batch_stats/")}
    parameters = {path: array for path, array in arrays.items() if path not in state}
    save_pretrained(tmp_path / "ours.safetensors", layout, model, spec, parameters, state)
    twin.load_state_dict(load_file(tmp_path / "ours.safetensors"), strict=True)
    save_pretrained(tmp_path / "ours", layout, model, spec, parameters, state)
    source = read_pretrained(tmp_path / "ours")
    assert source.model == model
    _compare(source, twin.eval(), size)


# ---------------------------------------------------------------------------------------------------------------------
# Google's


class MlpBlock(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        hidden = nn.gelu(nn.Dense(self.hidden)(x))
        return nn.Dense(x.shape[-1])(hidden)


class _Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        normed = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=4)(normed, normed)
        return x + MlpBlock(96)(nn.LayerNorm()(x))


class _Positions(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + self.param("pos_embedding", nn.initializers.normal(1.0), (1, *x.shape[1:]))


class _Encoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = _Positions(name="posembed_input")(x)
        for index in range(2):
            x = _Block(name=f"encoderblock_{index}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class _Google(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(32, (4, 4), strides=(4, 4), padding="VALID", name="embedding")(x)
        x = x.reshape(len(x), -1, 32)
        token = self.param("cls", nn.initializers.normal(1.0), (1, 1, 32))
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], axis=1)
        return nn.Dense(CLASSES, name="head")(_Encoder(name="Transformer")(x)[:, 0])


PUBLISHED = {
    "LayerNorm_1": "LayerNorm_2",
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "MlpBlock_0": "MlpBlock_3",
}


def _google():
    """Their twin's random parameters by the names of Flax, inputs and logits."""
    inputs = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    shapes = flatten(jax.eval_shape(_Google().init, jax.random.key(0), inputs)["params"])
    rng = np.random.default_rng(1)
    arrays = {path: np.float32(0.2 * rng.normal(size=shape.shape)) for path, shape in shapes.items()}
    return arrays, inputs, _Google().apply({"params": unflatten(arrays)}, inputs)


def _published(name):
    for flax, there in PUBLISHED.items():
        name = name.replace(f"/{flax}/", f"/{there}/")
    return name


@pytest.mark.parametrize("prefix", ["", "opt/target/", "params/"])
@pytest.mark.parametrize("numbered", ["as published", "as Flax does", "as big_vision does"])
def test_googles_weights_give_the_same_logits_in_ours(prefix, numbered, tmp_path):
    arrays, inputs, expected_logits = _google()
    if numbered == "as published":
        arrays = {_published(name): array for name, array in arrays.items()}
    if numbered == "as big_vision does":
        arrays["pos_embedding"] = arrays.pop("Transformer/posembed_input/pos_embedding")
    np.savez(tmp_path / "vit.npz", **{f"{prefix}{name}": array for name, array in arrays.items()})
    source = read_pretrained(tmp_path / "vit.npz")
    assert (source.layout, source.unused) == ("google-vit", ())
    assert source.model == ViT(depth=2, width=32, heads=4, patch=4, expansion=3, activation="gelu_tanh", epsilon=1e-6)
    logits, _ = network(source.model, source.spec).apply({"params": unflatten(source.parameters)}, inputs, train=False)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-5, atol=1e-5)


def test_our_weights_are_saved_as_google_published_its_own(tmp_path):
    arrays, _, _ = _google()
    np.savez(tmp_path / "vit.npz", **arrays)
    source = read_pretrained(tmp_path / "vit.npz")
    save_pretrained(tmp_path / "ours.npz", "google-vit", source.model, source.spec, source.parameters)
    saved = dict(np.load(tmp_path / "ours.npz"))
    assert saved.keys() == {_published(name) for name in arrays}
    assert all(np.array_equal(saved[_published(name)], array) for name, array in arrays.items())


def test_a_head_on_a_representation_layer_is_left_out(tmp_path):
    arrays, _, _ = _google()
    more = {"pre_logits/kernel": np.zeros((32, 32), np.float32), "pre_logits/bias": np.zeros(32, np.float32)}
    np.savez(tmp_path / "vit.npz", **arrays, **more)
    source = read_pretrained(tmp_path / "vit.npz")
    assert source.spec.classes == 0 and "head/kernel" not in source.parameters
    assert set(source.unused) == {*more, "head/kernel", "head/bias"}
    assert "pre_logits" in source.notes[0]


# ---------------------------------------------------------------------------------------------------------------------
# Published sizes


@pytest.mark.parametrize(
    ("layout", "model", "shapes", "count"),
    [
        (
            "torchvision-resnet",
            ResNet(depth=50),
            {
                "conv1.weight": (64, 3, 7, 7),
                "layer1.0.downsample.0.weight": (256, 64, 1, 1),
                "layer2.0.conv2.weight": (128, 128, 3, 3),
                "layer4.2.bn3.running_var": (2048,),
                "fc.weight": (1000, 2048),
            },
            320,
        ),
        (
            "torchvision-vgg",
            VGG(depth=16),
            {
                "features.0.weight": (64, 3, 3, 3),
                "features.28.weight": (512, 512, 3, 3),
                "classifier.0.weight": (4096, 25088),
                "classifier.3.bias": (4096,),
                "classifier.6.weight": (1000, 4096),
            },
            32,
        ),
        (
            "timm-vit",
            vit("B"),
            {
                "cls_token": (1, 1, 768),
                "pos_embed": (1, 197, 768),
                "patch_embed.proj.weight": (768, 3, 16, 16),
                "blocks.11.attn.qkv.weight": (2304, 768),
                "blocks.11.mlp.fc2.weight": (768, 3072),
                "head.bias": (1000,),
            },
            152,
        ),
        (
            "google-vit",
            vit("B"),
            {
                "cls": (1, 1, 768),
                "Transformer/posembed_input/pos_embedding": (1, 197, 768),
                "embedding/kernel": (16, 16, 3, 768),
                "Transformer/encoderblock_11/MultiHeadDotProductAttention_1/query/bias": (12, 64),
                "Transformer/encoderblock_11/MultiHeadDotProductAttention_1/out/kernel": (12, 64, 768),
                "head/kernel": (768, 1000),
            },
            200,
        ),
    ],
)
def test_names_and_shapes_at_published_sizes(layout, model, shapes, count):
    ours = expected(model, Spec((224, 224, 3), 1000, ("",) * 1000))
    rows = {row.theirs: row for row in named(layout).rows(model)}
    assert len(rows) == count
    assert {name: shape_there(rows[name], model, ours) for name in shapes} == shapes
    used = [path for row in rows.values() for path in row.ours]
    assert sorted(used) == sorted(ours)
