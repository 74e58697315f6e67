"""The Vision Transformer of transformers: `ViTForImageClassification`, and `ViTModel` without a head.

The names are those of its files. In memory transformers 5 calls some layers otherwise, and so does a file that was
saved from a `state_dict()` of it; both are read, the former is written.
"""

from collections.abc import Iterator

from research.models import ViT
from research.pretrained.about import CALLED, About, labels
from research.pretrained.layout import CONVOLUTION, DENSE, NORM, Layout, Row, blocks, layers, without_ones
from research.spec import Spec

ENDS = {
    "vit.embeddings.patch_embeddings.projection": ("embedding", CONVOLUTION),
    "vit.layernorm": ("norm", NORM),
    "classifier": ("head", DENSE),
}
BLOCK = {
    "layernorm_before": ("norm_0", NORM),
    "attention.attention.query": ("attention/query", DENSE),
    "attention.attention.key": ("attention/key", DENSE),
    "attention.attention.value": ("attention/value", DENSE),
    "attention.output.dense": ("attention/output", DENSE),
    "layernorm_after": ("norm_1", NORM),
    "intermediate.dense": ("dense_0", DENSE),
    "output.dense": ("dense_1", DENSE),
}
IN_MEMORY = {
    r"layers\.(\d+)\.attention\.q_proj": r"encoder.layer.\1.attention.attention.query",
    r"layers\.(\d+)\.attention\.k_proj": r"encoder.layer.\1.attention.attention.key",
    r"layers\.(\d+)\.attention\.v_proj": r"encoder.layer.\1.attention.attention.value",
    r"layers\.(\d+)\.attention\.o_proj": r"encoder.layer.\1.attention.output.dense",
    r"layers\.(\d+)\.mlp\.fc1": r"encoder.layer.\1.intermediate.dense",
    r"layers\.(\d+)\.mlp\.fc2": r"encoder.layer.\1.output.dense",
    r"(^|vit\.)layers\.(\d+)\.layernorm": r"\1encoder.layer.\2.layernorm",
}


def _rows(model: ViT) -> Iterator[Row]:
    yield Row("vit.embeddings.cls_token", ("class_token",), without_ones(2))
    yield Row("vit.embeddings.position_embeddings", ("positions",), without_ones(1))
    yield from layers(ENDS)
    for index, block in blocks(model.depth):
        yield from layers(BLOCK, f"vit.encoder.layer.{index}.", f"{block}/")


def _read(about: About) -> tuple[ViT, Spec]:
    about.needs({"qkv_bias": True})
    kernel, tokens = "vit.embeddings.patch_embeddings.projection.weight", "vit.embeddings.position_embeddings"
    width = about.whole("hidden_size", lambda: about.dimension("vit.embeddings.cls_token", 2, 3))
    hidden = about.whole(
        "intermediate_size", lambda: about.dimension("vit.encoder.layer.0.intermediate.dense.weight", 0, 2)
    )
    patch = about.whole("patch_size", lambda: about.dimension(kernel, 2, 4))
    model = ViT(
        depth=about.depth("num_hidden_layers", "vit.encoder.layer."),
        width=width,
        heads=about.heads("num_attention_heads", width),
        patch=patch,
        expansion=about.multiple("the hidden layer", hidden, width),
        activation=about.activation("hidden_act", "gelu"),
        epsilon=about.number("layer_norm_eps", 1e-12),
    )
    size = about.picture("image_size", lambda: patch * about.side(about.dimension(tokens, 1, 3) - 1, tokens))
    channels = about.whole("num_channels", lambda: about.dimension(kernel, 1, 4))
    return model, about.pictures(size, channels, about.classes("classifier.weight"))


def _write(model: ViT, spec: Spec) -> dict:
    height, width, channels = spec.shape
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "intermediate_size": model.width * model.expansion,
        "hidden_act": CALLED.get(model.activation, model.activation),
        "hidden_dropout_prob": model.dropout or 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": model.epsilon,
        "image_size": height if height == width else [height, width],
        "patch_size": model.patch,
        "num_channels": channels,
        "qkv_bias": True,
        **labels(spec),
    }


LAYOUT = Layout(
    name="transformers-vit",
    rows=_rows,
    read=_read,
    write=_write,
    samples=(ViT(depth=1),),
    model_types=("vit",),
    root="vit.",
    renamed=tuple(IN_MEMORY.items()),
    unused=(r"vit\.pooler\..*",),
    first="embedding/kernel",
    positions="positions",
)
