"""Datasets, and the batches that training makes of them.

`base` says what a dataset comes to; each other file is one kind: `digits`, `glyphs` and `text` work offline on any
machine, `idx` reads MNIST and its likes, `tfds` tensorflow-datasets, `files` the user's own, `few` takes some of the
examples of any, and `normalised` gives them other figures to be normalised by. `pictures` decodes picture files.
"""

from research.data.augmentation import Augmentation
from research.data.base import (
    Dataset,
    Description,
    Loaded,
    Normalisation,
    Split,
    Streamed,
    describe,
    fit,
    from_description,
    normalise,
)
from research.data.digits import Digits
from research.data.few import Few
from research.data.files import Arrays, ImageFolder, Table
from research.data.glyphs import Glyphs
from research.data.idx import KMNIST, MNIST, FashionMNIST
from research.data.normalised import Normalised
from research.data.pictures import read_picture
from research.data.text import ModuleText, PythonText, PythonTopics, Text
from research.data.tfds import TFDS
from research.data.tones import Tones
from research.data.volumes import Volumes

__all__ = [
    "KMNIST",
    "MNIST",
    "TFDS",
    "Arrays",
    "Augmentation",
    "Dataset",
    "Description",
    "Digits",
    "FashionMNIST",
    "Few",
    "Glyphs",
    "ImageFolder",
    "Loaded",
    "ModuleText",
    "Normalisation",
    "Normalised",
    "PythonText",
    "PythonTopics",
    "Split",
    "Streamed",
    "Table",
    "Text",
    "Tones",
    "Volumes",
    "describe",
    "fit",
    "from_description",
    "normalise",
    "read_picture",
]
