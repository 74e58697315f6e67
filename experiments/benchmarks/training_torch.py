"""The networks of `training_subjects` in PyTorch, equal to ours, which can begin with our parameters.

    model = network(workload)                                    (batch, features, height, width) or tokens to logits
    model.load_state_dict(converted(model, our_parameters))

Layers have our paths for names, with dots. Ours have positions before features and inputs before outputs; and query,
key and value, which are one layer here, as the fastest PyTorch code has it.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training_subjects import Workload

GROUPS, NORM_EPSILON = 8, 1e-6  # of group norms


def network(workload: Workload) -> nn.Module:
    """The network of a workload, with new parameters."""
    families = {"convnet": ConvNet, "mlp": MLP, "resnet": ResNet, "gpt": GPT, "vit": ViT}
    return families[workload.family](shape=workload.shape, classes=workload.classes, **workload.sizes)


class MLP(nn.Module):
    """Dense layers of one width, each with ReLU, and the head."""

    def __init__(self, depth: int, width: int, shape: tuple[int, ...], classes: int):
        super().__init__()
        self.flattened = {"block_00.dense": shape}
        self.blocks = []
        for index in range(depth):
            block = nn.Module()
            block.dense = nn.Linear(width if index else math.prod(shape), width)
            self.add_module(f"block_{index:02d}", block)
            self.blocks.append(block)
        self.head = nn.Linear(width, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = inputs.flatten(1)
        for block in self.blocks:
            outputs = F.relu(block.dense(outputs))
        return self.head(outputs)


class ConvNet(nn.Module):
    """Convolutions, each with ReLU and pooling; dense layers with ReLU; and the head."""

    def __init__(self, features, kernel_size: int, hidden, shape: tuple[int, ...], classes: int):
        super().__init__()
        *sizes, before = shape
        self.stages, self.dense = [], []
        for index, after in enumerate(features):
            stage = nn.Module()
            stage.convolution_0 = nn.Conv2d(before, after, kernel_size, padding=kernel_size // 2)
            self.add_module(f"stage_{index}", stage)
            self.stages.append(stage)
            before, sizes = after, [size // 2 for size in sizes]
        self.flattened = {"dense_0": (*sizes, before)}
        before *= math.prod(sizes)
        for index, after in enumerate(hidden):
            dense = nn.Linear(before, after)
            self.add_module(f"dense_{index}", dense)
            self.dense.append(dense)
            before = after
        self.head = nn.Linear(before, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = inputs
        for stage in self.stages:
            outputs = F.max_pool2d(F.relu(stage.convolution_0(outputs)), 2)
        outputs = outputs.flatten(1)
        for dense in self.dense:
            outputs = F.relu(dense(outputs))
        return self.head(outputs)


class ResNet(nn.Module):
    """Of 6 n + 2 layers for small pictures, with group norms and shortcuts without parameters."""

    def __init__(self, depth: int, norm: str, shape: tuple[int, ...], classes: int, width: int = 16):
        super().__init__()
        assert norm == "group"
        self.stem = nn.Module()
        self.stem.convolution, self.stem.norm = _convolution(shape[-1], width), _group_norm(width)
        self.stages, before = [], width
        for index in range(3):
            stage = nn.Sequential()
            for block in range((depth - 2) // 6):
                after, stride = width << index, 2 if index and not block else 1
                stage.add_module(f"block_{block}", _Residual(before, after, stride))
                before = after
            self.add_module(f"stage_{index}", stage)
            self.stages.append(stage)
        self.head = nn.Linear(before, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = F.relu(self.stem.norm(self.stem.convolution(inputs)))
        for stage in self.stages:
            outputs = stage(outputs)
        return self.head(outputs.mean((2, 3)))


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.stride, self.more = stride, after - before
        self.convolution_0, self.norm_0 = _convolution(before, after, stride), _group_norm(after)
        self.convolution_1, self.norm_1 = _convolution(after, after), _group_norm(after)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = F.relu(self.norm_0(self.convolution_0(inputs)))
        outputs = self.norm_1(self.convolution_1(outputs))
        if self.more:
            inputs = F.pad(inputs[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return F.relu(inputs + outputs)


def _convolution(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)


def _group_norm(features: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, features), features, eps=NORM_EPSILON)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query_key_value, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, positions, width = tokens.shape
        by_head = self.query_key_value(tokens).view(batch, positions, 3, self.heads, width // self.heads)
        query, key, value = by_head.permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.output(read.transpose(1, 2).reshape(batch, positions, width))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, *, causal: bool, activation, epsilon: float):
        super().__init__()
        self.norm_0, self.norm_1 = nn.LayerNorm(width, eps=epsilon), nn.LayerNorm(width, eps=epsilon)
        self.attention, self.activation = _Attention(width, heads, causal), activation
        self.dense_0, self.dense_1 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm_0(tokens))
        return tokens + self.dense_1(self.activation(self.dense_0(self.norm_1(tokens))))


class _Transformer(nn.Module):
    def __init__(self, depth: int, width: int, heads: int, **how):
        super().__init__()
        self.blocks = [_Block(width, heads, **how) for _ in range(depth)]
        for index, block in enumerate(self.blocks):
            self.add_module(f"block_{index:02d}", block)
        self.norm = nn.LayerNorm(width, eps=how["epsilon"])

    def transformed(self, tokens: Tensor) -> Tensor:
        """Through all blocks."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class GPT(_Transformer):
    """GPT-2, its head tied to the embedding of tokens."""

    def __init__(self, depth: int, width: int, heads: int, context: int, shape: tuple[int, ...], classes: int):
        super().__init__(depth, width, heads, causal=True, activation=nn.GELU(approximate="tanh"), epsilon=1e-5)
        self.tokens, self.positions = nn.Embedding(classes, width), nn.Embedding(context, width)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        return F.linear(self.transformed(tokens), self.tokens.weight)


class ViT(_Transformer):
    """The Vision Transformer, with a class token."""

    def __init__(self, depth: int, width: int, heads: int, patch: int, shape: tuple[int, ...], classes: int):
        super().__init__(depth, width, heads, causal=False, activation=nn.GELU(), epsilon=1e-12)
        *sizes, features = shape
        self.embedding = nn.Conv2d(features, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(0.02 * torch.randn(1 + math.prod(size // patch for size in sizes), width))
        self.head = nn.Linear(width, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        patches = self.embedding(inputs).flatten(2).transpose(1, 2)
        token = self.class_token.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat([token, patches], dim=1) + self.positions
        return self.head(self.transformed(tokens)[:, 0])


# ---------------------------------------------------------------------------------------------------------------------
# Our parameters


def converted(model: nn.Module, ours: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Parameters by our paths as the network has them, by its names. What has no name there keeps its own."""
    joined = {}
    for path in ours:
        if "/attention/key/" in path or "/attention/value/" in path:
            continue
        parts = [ours[path]]
        if "/attention/query/" in path:
            parts += [ours[path.replace("/query/", name)] for name in ("/key/", "/value/")]
        joined[path.replace("/query/", "/query_key_value/")] = np.concatenate(parts, axis=-1)
    return dict(_converted(model, path, value) for path, value in joined.items())


def _converted(model: nn.Module, path: str, value: np.ndarray) -> tuple[str, Tensor]:
    layer, _, name = path.replace("/", ".").rpartition(".")
    if name == "kernel" and value.ndim == 4:  # height, width, inputs, outputs
        value = value.transpose(3, 2, 0, 1)
    elif name == "kernel":
        shape = getattr(model, "flattened", {}).get(layer)
        if shape is not None:  # features come first here
            value = np.moveaxis(value.reshape(*shape, -1), len(shape) - 1, 0).reshape(value.shape)
        value = value.T
    name = "weight" if name in ("kernel", "scale", "embedding") else name
    return f"{layer}.{name}".lstrip("."), torch.from_numpy(np.ascontiguousarray(value))


def is_decayed(name: str, value: Tensor) -> bool:
    """Whether weight decay applies: to kernels and embeddings, as in ours."""
    return name.endswith("weight") and value.ndim > 1
