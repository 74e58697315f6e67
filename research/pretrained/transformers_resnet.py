"""The residual network of transformers: `ResNetForImageClassification`, and `ResNetModel` without a head."""

from collections.abc import Iterator

from research.models import ResNet
from research.models.resnet import EXPANSION, LARGE
from research.pretrained.about import CALLED, About, labels
from research.pretrained.layout import BATCH_NORM, CONVOLUTION_WITHOUT_BIAS, DENSE, Layout, Row, layers
from research.spec import Spec

ENDS = {
    "resnet.embedder.embedder.convolution": ("stem/convolution", CONVOLUTION_WITHOUT_BIAS),
    "resnet.embedder.embedder.normalization": ("stem/norm", BATCH_NORM),
    "classifier.1": ("head", DENSE),
}
SHORTCUT = {
    "shortcut.convolution": ("shortcut/convolution", CONVOLUTION_WITHOUT_BIAS),
    "shortcut.normalization": ("shortcut/norm", BATCH_NORM),
}


def _convolution(index: int) -> dict:
    return {
        f"layer.{index}.convolution": (f"convolution_{index}", CONVOLUTION_WITHOUT_BIAS),
        f"layer.{index}.normalization": (f"norm_{index}", BATCH_NORM),
    }


def _rows(model: ResNet) -> Iterator[Row]:
    yield from layers(ENDS)
    depths, bottleneck = LARGE[model.depth]
    for stage, depth in enumerate(depths):
        for block in range(depth):
            theirs, ours = f"resnet.encoder.stages.{stage}.layers.{block}.", f"stage_{stage}/block_{block}/"
            if has_shortcut(model, stage, block):
                yield from layers(SHORTCUT, theirs, ours)
            for index in range(3 if bottleneck else 2):
                yield from layers(_convolution(index), theirs, ours)


def has_shortcut(model: ResNet, stage: int, block: int) -> bool:
    """Whether a block's input is projected, its size not being that of the output."""
    _, bottleneck = LARGE[model.depth]
    return block == 0 and (stage > 0 or bottleneck)


def depth_of(about: About, depths: tuple[int, ...], bottleneck: bool) -> int:
    """Our depth for so many blocks in each stage. Raises UserError where there is none."""
    found = [depth for depth, kind in LARGE.items() if kind == (depths, bottleneck)]
    if not found:
        kind = "bottleneck blocks" if bottleneck else "blocks of two convolutions"
        ours = ", ".join(map(str, LARGE))
        raise about.error(f"stages of {', '.join(map(str, depths))} {kind}; our ResNet has those of depth {ours}")
    return found[0]


def _read(about: About) -> tuple[ResNet, Spec]:
    about.needs({"downsample_in_bottleneck": False, "downsample_in_first_stage": False})
    kernel = "resnet.embedder.embedder.convolution.weight"
    width = about.whole("embedding_size", lambda: about.dimension(kernel, 0, 4))
    counted = tuple(about.count(f"resnet.encoder.stages.{stage}.layers.") for stage in range(4))
    about.agrees("depths", list(counted))
    third = "resnet.encoder.stages.0.layers.0.layer.2.convolution.weight"
    bottleneck = about.settings.get("layer_type", "bottleneck" if third in about.shapes else "basic") == "bottleneck"
    about.needs({"hidden_sizes": [width * 2**stage * (EXPANSION if bottleneck else 1) for stage in range(4)]})
    model = ResNet(
        depth=depth_of(about, counted, bottleneck), width=width, activation=about.activation("hidden_act", "relu")
    )
    channels = about.whole("num_channels", lambda: about.dimension(kernel, 1, 4))
    size = about.picture("image_size", lambda: 224)  # which it is trained on, though any other goes as well
    return model, about.pictures(size, channels, about.classes("classifier.1.weight"))


def _write(model: ResNet, spec: Spec) -> dict:
    depths, bottleneck = LARGE[model.depth]
    return {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "embedding_size": model.width,
        "hidden_sizes": [model.width * 2**stage * (EXPANSION if bottleneck else 1) for stage in range(4)],
        "depths": list(depths),
        "layer_type": "bottleneck" if bottleneck else "basic",
        "hidden_act": CALLED.get(model.activation, model.activation),
        "downsample_in_bottleneck": False,
        "downsample_in_first_stage": False,
        "num_channels": spec.shape[-1],
        **labels(spec),
    }


LAYOUT = Layout(
    name="transformers-resnet",
    rows=_rows,
    read=_read,
    write=_write,
    samples=(ResNet(depth=18), ResNet(depth=50)),
    model_types=("resnet",),
    root="resnet.",
    first="stem/convolution/kernel",
)
