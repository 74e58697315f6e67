"""The Vision Transformer as Google published it: `.npz` files of google-research/vision_transformer.

Names are those of its Flax modules (vit_jax/models_vit.py); in some files they begin with "opt/target/" or "params/".
Attention has kernels (width, heads, features) and (heads, features, width). Activations are the approximate GELU,
Flax's default then, and norms have an epsilon of 1e-6. Files of big_vision, where some layers are numbered otherwise,
are read as well.

Files pretrained on ImageNet-21k have a layer `pre_logits` before the head, as our model has not: neither is loaded.
"""

from collections.abc import Iterator

import numpy as np

from research.models import ViT
from research.pretrained.about import About
from research.pretrained.layout import SAME, Arrays, Kind, Layout, Leaf, Pair, Row, blocks, layers, without_ones
from research.spec import Spec

EPSILON = 1e-6

INTO_HEADS = Pair(  # (..., heads, features of a head) to (..., features)
    lambda array, _: (array.reshape(*array.shape[:-2], -1),),
    lambda arrays, model: arrays[0].reshape(*arrays[0].shape[:-1], model.heads, -1),
)


def _out_of_heads_back(arrays: Arrays, model: ViT) -> np.ndarray:
    return arrays[0].reshape(model.heads, -1, arrays[0].shape[-1])


OUT_OF_HEADS = Pair(lambda array, _: (array.reshape(-1, array.shape[-1]),), _out_of_heads_back)

PLAIN: Kind = (Leaf("kernel", "kernel"), Leaf("bias", "bias"))
TO_HEADS: Kind = (Leaf("kernel", "kernel", INTO_HEADS), Leaf("bias", "bias", INTO_HEADS))
FROM_HEADS: Kind = (Leaf("kernel", "kernel", OUT_OF_HEADS), Leaf("bias", "bias", SAME))
NORM: Kind = (Leaf("scale", "scale"), Leaf("bias", "bias"))

ENDS = {
    "embedding": ("embedding", PLAIN),
    "Transformer/encoder_norm": ("norm", NORM),
    "head": ("head", PLAIN),
}
BLOCK = {
    "LayerNorm_0": ("norm_0", NORM),
    "MultiHeadDotProductAttention_1/query": ("attention/query", TO_HEADS),
    "MultiHeadDotProductAttention_1/key": ("attention/key", TO_HEADS),
    "MultiHeadDotProductAttention_1/value": ("attention/value", TO_HEADS),
    "MultiHeadDotProductAttention_1/out": ("attention/output", FROM_HEADS),
    "LayerNorm_2": ("norm_1", NORM),
    "MlpBlock_3/Dense_0": ("dense_0", PLAIN),
    "MlpBlock_3/Dense_1": ("dense_1", PLAIN),
}
BIG_VISION = {
    r"/LayerNorm_1/": "/LayerNorm_2/",
    r"/MultiHeadDotProductAttention_0/": "/MultiHeadDotProductAttention_1/",
    r"/MlpBlock_0/": "/MlpBlock_3/",
    r"^pos_embedding$": "Transformer/posembed_input/pos_embedding",
}
KERNEL = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"
POSITIONS = "Transformer/posembed_input/pos_embedding"


def _rows(model: ViT) -> Iterator[Row]:
    if model.pooling == "class":
        yield Row("cls", ("class_token",), without_ones(2))
    yield Row(POSITIONS, ("positions",), without_ones(1))
    yield from layers(ENDS, dot="/")
    for index, block in blocks(model.depth):
        yield from layers(BLOCK, f"Transformer/encoderblock_{index}/", f"{block}/", dot="/")


def _read(about: About) -> tuple[ViT, Spec]:
    has_token = "cls" in about.shapes
    width, patch = about.dimension("embedding/kernel", 3, 4), about.dimension("embedding/kernel", 0, 4)
    hidden = about.dimension("Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel", 1, 2)
    model = ViT(
        depth=about.depth("depth", "Transformer/encoderblock_"),
        width=width,
        heads=about.dimension(KERNEL, 1, 3),
        patch=patch,
        expansion=about.multiple("the hidden layer", hidden, width),
        pooling="class" if has_token else "average",
        activation="gelu_tanh",
        epsilon=EPSILON,
    )
    side = patch * about.side(about.dimension(POSITIONS, 1, 3) - has_token, POSITIONS)
    classes = about.dimension("head/kernel", 1, 2) if "head/kernel" in about.shapes else 0
    if "pre_logits/kernel" in about.shapes:
        about.notes.append("the head stands on a layer pre_logits, which our model has not: neither is loaded")
        about.left_out |= {"head/kernel", "head/bias"}
        classes = 0
    return model, about.pictures((side, side), about.dimension("embedding/kernel", 2, 4), classes)


LAYOUT = Layout(
    name="google-vit",
    rows=_rows,
    read=_read,
    samples=(ViT(depth=1), ViT(depth=1, pooling="average")),
    renamed=((r"^(opt/target|params)/", ""), *BIG_VISION.items()),
    unused=(r"pre_logits/.*",),
    first="embedding/kernel",
    positions="positions",
    suffix=".npz",
)
