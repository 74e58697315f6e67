"""VGG of torchvision without batch norm, torchvision/models/vgg.py.

Its layers are numbered together with the activations, pooling and dropout between them. It flattens features before
positions and ours the other way round, so the first dense layer is permuted. It averages features down to 7x7, which
changes nothing at 224x224, what our model is for.

Those with batch norm are refused: a convolution has a bias there, which the norm after it takes away again, and none
in ours.
"""

from collections.abc import Iterator

import numpy as np

from research.models import VGG
from research.models.vgg import STAGES, WIDER
from research.pretrained.about import About
from research.pretrained.layout import CONVOLUTION, DENSE, SAME, Arrays, Layout, Pair, Row, layers
from research.spec import Spec


def _flattened_here(array: np.ndarray, model: VGG) -> Arrays:
    """(out, features x positions) to (positions x features, out)."""
    features = model.width * WIDER[-1]
    apart = array.reshape(array.shape[0], features, -1)
    return (apart.transpose(2, 1, 0).reshape(-1, array.shape[0]),)


def _flattened_back(arrays: Arrays, model: VGG) -> np.ndarray:
    features = model.width * WIDER[-1]
    apart = arrays[0].reshape(-1, features, arrays[0].shape[1])
    return apart.transpose(2, 1, 0).reshape(arrays[0].shape[1], -1)


FLATTENED = Pair(_flattened_here, _flattened_back)


def _rows(model: VGG) -> Iterator[Row]:
    number = 0
    for stage, count in enumerate(STAGES[model.depth]):
        for index in range(count):
            yield from layers({f"features.{number}": (f"stage_{stage}/convolution_{index}", CONVOLUTION)})
            number += 2  # with the activation after it
        number += 1  # the pooling
    names = [f"dense_{index}" for index in range(len(model.hidden))]
    for index, name in enumerate([*names, "head"]):
        theirs = f"classifier.{3 * index}"  # with the activation and dropout after it
        if index == 0:
            yield Row(f"{theirs}.weight", (f"{name}/kernel",), FLATTENED)
            yield Row(f"{theirs}.bias", (f"{name}/bias",), SAME)
        else:
            yield from layers({theirs: (name, DENSE)})


def _read(about: About) -> tuple[VGG, Spec]:
    if any(name.endswith("running_mean") for name in about.shapes):
        raise about.error("a VGG with batch norm, whose convolutions have biases as ours have not")
    convolutions = sum(name.startswith("features.") and name.endswith(".weight") for name in about.shapes)
    dense = [name for name in about.shapes if name.startswith("classifier.") and name.endswith(".weight")]
    found = [depth for depth, stages in STAGES.items() if sum(stages) == convolutions]
    if not found:
        raise about.error(
            f"{convolutions} convolutions; our VGG has {', '.join(str(sum(stages)) for stages in STAGES.values())}"
        )
    hidden = tuple(about.dimension(f"classifier.{3 * index}.weight", 0, 2) for index in range(len(dense) - 1))
    model = VGG(depth=found[0], width=about.dimension("features.0.weight", 0, 4), hidden=hidden)
    positions = about.dimension("classifier.0.weight", 1, 2) // (model.width * WIDER[-1])
    side = 2 ** len(WIDER) * about.side(positions, "classifier.0.weight")
    channels = about.dimension("features.0.weight", 1, 4)
    return model, about.pictures((side, side), channels, about.classes(f"classifier.{3 * len(hidden)}.weight"))


LAYOUT = Layout(
    name="torchvision-vgg",
    rows=_rows,
    read=_read,
    samples=(VGG(),),
    first="stage_0/convolution_0/kernel",
)
