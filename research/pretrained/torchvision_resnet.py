"""The residual network of torchvision, torchvision/models/resnet.py, and of timm, timm/models/resnet.py.

timm began as a copy of torchvision's, so that the names are the same; only the config.json of a folder, which has an
"architecture", tells a timm model. Theirs that have other layers too (deep stems, groups, squeeze and excitation) are
refused, since names or shapes do not fit.
"""

from collections.abc import Iterator

from research.models import ResNet
from research.models.resnet import LARGE
from research.pretrained.about import About
from research.pretrained.layout import BATCH_NORM, CONVOLUTION_WITHOUT_BIAS, DENSE, Layout, Row, layers
from research.pretrained.timm import architecture, read_settings
from research.pretrained.transformers_resnet import depth_of, has_shortcut
from research.spec import Spec

ENDS = {
    "conv1": ("stem/convolution", CONVOLUTION_WITHOUT_BIAS),
    "bn1": ("stem/norm", BATCH_NORM),
    "fc": ("head", DENSE),
}
SHORTCUT = {
    "downsample.0": ("shortcut/convolution", CONVOLUTION_WITHOUT_BIAS),
    "downsample.1": ("shortcut/norm", BATCH_NORM),
}
ARCHITECTURES = r"(tv_|ssl_|swsl_)?resnet\d+|gluon_resnet\d+_v1b"


def _convolution(index: int) -> dict:
    return {
        f"conv{index + 1}": (f"convolution_{index}", CONVOLUTION_WITHOUT_BIAS),
        f"bn{index + 1}": (f"norm_{index}", BATCH_NORM),
    }


def _rows(model: ResNet) -> Iterator[Row]:
    yield from layers(ENDS)
    depths, bottleneck = LARGE[model.depth]
    for stage, depth in enumerate(depths):
        for block in range(depth):
            theirs, ours = f"layer{stage + 1}.{block}.", f"stage_{stage}/block_{block}/"
            if has_shortcut(model, stage, block):
                yield from layers(SHORTCUT, theirs, ours)
            for index in range(3 if bottleneck else 2):
                yield from layers(_convolution(index), theirs, ours)


def _read(about: About) -> tuple[ResNet, Spec]:
    depths = tuple(about.count(f"layer{stage}.") for stage in (1, 2, 3, 4))
    model = ResNet(
        depth=depth_of(about, depths, "layer1.0.conv3.weight" in about.shapes),
        width=about.dimension("conv1.weight", 0, 4),
    )
    channels = about.dimension("conv1.weight", 1, 4)
    return model, about.pictures((224, 224), channels, about.classes("fc.weight"))


def _read_timm(about: About) -> tuple[ResNet, Spec]:
    size = read_settings(about, ARCHITECTURES, {"global_pool": "avg", "act_layer": "relu", "output_stride": 32})
    model, spec = _read(about)
    return model, about.pictures(size or spec.shape[:2], spec.shape[-1], spec.classes)


def _write_timm(model: ResNet, spec: Spec) -> dict:
    _, bottleneck = LARGE[model.depth]
    wide = {} if model.width == 64 else {"channels": [model.width * 2**stage for stage in range(4)]}
    return architecture(f"resnet{model.depth}", "avg", model.width * (32 if bottleneck else 8), spec, wide)


LAYOUT = Layout(
    name="torchvision-resnet",
    rows=_rows,
    read=_read,
    samples=(ResNet(depth=18), ResNet(depth=50)),
    first="stem/convolution/kernel",
)
TIMM = LAYOUT._replace(name="timm-resnet", read=_read_timm, write=_write_timm)
