"""The Vision Transformer of timm, timm/models/vision_transformer.py, with a class token and a head on it.

Queries, keys and values are one layer. Norms have an epsilon of 1e-6, and the activation is the exact GELU.
Without a class token ("global_pool" is "avg", "fc_norm" false) the head sees the mean, as in ours. Those that have
other parts too (registers, layer scale, a norm after pooling) are refused, since their names are not in the table.
"""

from collections.abc import Iterator

from research.models import ViT
from research.pretrained.about import About
from research.pretrained.layout import (
    CONVOLUTION,
    DENSE,
    NORM,
    SAME,
    TRANSPOSED,
    Layout,
    Row,
    blocks,
    in_thirds,
    layers,
    without_ones,
)
from research.pretrained.timm import architecture, read_settings
from research.spec import Spec

EPSILON = 1e-6

ENDS = {
    "patch_embed.proj": ("embedding", CONVOLUTION),
    "norm": ("norm", NORM),
    "head": ("head", DENSE),
}
BLOCK = {
    "norm1": ("norm_0", NORM),
    "attn.proj": ("attention/output", DENSE),
    "norm2": ("norm_1", NORM),
    "mlp.fc1": ("dense_0", DENSE),
    "mlp.fc2": ("dense_1", DENSE),
}
ARCHITECTURES = r"(vit|deit)_[a-z]+_patch\d+_\d+(_in21k)?"
NAMES = {
    (12, 192): "vit_tiny_patch16_224",
    (12, 384): "vit_small_patch16_224",
    (24, 1024): "vit_large_patch16_224",
    (32, 1280): "vit_huge_patch14_224",
}
"""The architecture of a depth and width; of any other it is the base, whose arguments say what is different."""


def _rows(model: ViT) -> Iterator[Row]:
    if model.pooling == "class":
        yield Row("cls_token", ("class_token",), without_ones(2))
    yield Row("pos_embed", ("positions",), without_ones(1))
    yield from layers(ENDS)
    for index, block in blocks(model.depth):
        yield from layers(BLOCK, f"blocks.{index}.", f"{block}/")
        for theirs, ours, pair in (("weight", "kernel", TRANSPOSED), ("bias", "bias", SAME)):
            paths = tuple(f"{block}/attention/{name}/{ours}" for name in ("query", "key", "value"))
            yield Row(f"blocks.{index}.attn.qkv.{theirs}", paths, in_thirds(0, pair))


def _read(about: About) -> tuple[ViT, Spec]:
    has_token = "cls_token" in about.shapes
    only = {"global_pool": "token", "no_embed_class": False}
    if not has_token:
        only = {"global_pool": "avg", "fc_norm": False}
    size = read_settings(about, ARCHITECTURES, only)
    width = about.dimension("pos_embed", 2, 3)
    patch = about.dimension("patch_embed.proj.weight", 2, 4)
    model = ViT(
        depth=about.depth("depth", "blocks."),
        width=width,
        heads=about.heads("num_heads", width),
        patch=patch,
        expansion=about.multiple("the hidden layer", about.dimension("blocks.0.mlp.fc1.weight", 0, 2), width),
        pooling="class" if has_token else "average",
        activation=about.activation("act_layer", "gelu"),
        epsilon=EPSILON,
    )
    positions = about.dimension("pos_embed", 1, 3) - has_token
    if size is None or (size[0] // patch) * (size[1] // patch) != positions:
        size = (patch * about.side(positions, "pos_embed"),) * 2
    channels = about.dimension("patch_embed.proj.weight", 1, 4)
    return model, about.pictures(size, channels, about.classes("head.weight"))


def _write(model: ViT, spec: Spec) -> dict:
    name = NAMES.get((model.depth, model.width), "vit_base_patch16_224")
    height, width = spec.shape[:2]
    arguments = {
        "img_size": height if height == width else [height, width],
        "patch_size": model.patch,
        "embed_dim": model.width,
        "depth": model.depth,
        "num_heads": model.heads,
        "mlp_ratio": float(model.expansion),
    }
    if model.activation != "gelu":
        arguments["act_layer"] = model.activation
    pooling = "token" if model.pooling == "class" else "avg"
    if model.pooling != "class":
        arguments |= {"global_pool": "avg", "class_token": False, "fc_norm": False}
    return architecture(name, pooling, model.width, spec, arguments)


LAYOUT = Layout(
    name="timm-vit",
    rows=_rows,
    read=_read,
    write=_write,
    samples=(ViT(depth=1), ViT(depth=1, pooling="average")),
    first="embedding/kernel",
    positions="positions",
)
