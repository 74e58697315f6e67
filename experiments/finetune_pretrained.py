"""A network that others trained, such as a downloaded ViT or ResNet, on pictures of your own.

    python launch.py --config experiments/finetune_pretrained.py
    ... experiments/finetune_pretrained.py:path=vit-base-patch16-224,data=pictures
    ... experiments/finetune_pretrained.py:path=resnet-50,data=tfds:cifar10,size=64

`path` is a folder or file that `research.pretrained` reads: safetensors as transformers, timm and torchvision lay them
out, or Google's ViT as .npz. `data` is a folder with a folder of pictures for each class, or a set of
tensorflow-datasets. Pictures are fitted to the size that the network was trained with, or to `size`: its position
embeddings are fitted to that. The first convolution is fitted to grey pictures with `color=grey`. They are normalised
as a preprocessor_config.json beside the weights says, or else by the training split's own mean and deviation.

A new head and the last two blocks are trained; the rest is frozen and costs no backward pass. Other strategies:

    ... --config.finetuning.partition linear-probe
    ... --config.finetuning.partition "layerwise_decay(0.75, new_head=True)" --config.optimizer.learning_rate 1e-4

Time: about half a minute on two cores without an argument. Result: about 88 % test accuracy.

That is a small ViT with new values on handwritten digits, so that the file can be tried without a download. With one,
`--mode inspect` tells beforehand what the network costs on your pictures.
"""

import dataclasses
from pathlib import Path

from research.data import TFDS, Augmentation, Dataset, Digits, ImageFolder, Normalised
from research.errors import UserError, did_you_mean
from research.models import ViT
from research.parameters import last_blocks
from research.pretrained import read_pretrained
from research.pretrained.files import read_preprocessing
from research.training import AdamW, Cosine, Experiment, Finetuning, Pretrained, epochs, percent

NAMES = ("path", "data", "size", "color")


def get_config(argument: str = "") -> Experiment:
    chosen = dict(part.partition("=")[::2] for part in argument.split(",") if part)
    if unknown := [name for name in chosen if name not in NAMES]:
        raise UserError(*(f"{name}: no such argument{did_you_mean(name, NAMES)}" for name in unknown))
    if not chosen:
        data, model = Digits(), ViT(depth=4, width=64, heads=4, patch=2, expansion=2, scan=True)
        finetuning = Finetuning(partition=last_blocks(4))
    elif "path" not in chosen or "data" not in chosen:
        raise UserError("both are needed: path=FOLDER_OF_WEIGHTS,data=FOLDER_OF_PICTURES")
    else:
        source = read_pretrained(chosen["path"])
        if len(source.spec.shape) != 3:
            raise UserError(
                f"{chosen['path']}: {type(source.model).__name__} reads text; a network of pictures is needed"
            )
        size = (side(chosen["size"]),) * 2 if "size" in chosen else source.spec.shape[:2]
        data, model = pictures(chosen["data"], size, chosen.get("color", "rgb")), source.model
        data = normalised_as(Path(chosen["path"]), data, chosen.get("color", "rgb"))
        if hasattr(model, "scan"):
            model = dataclasses.replace(model, scan=True)  # compiled once for any depth
        finetuning = Finetuning(source=Pretrained(chosen["path"]), partition=last_blocks(2, new_head=True))
    return Experiment(
        data=data,
        model=model,
        finetuning=finetuning,
        augmentation=None if isinstance(data, Digits) else Augmentation(flip=0.5),
        optimizer=AdamW(learning_rate=1e-3, weight_decay=1e-2),
        schedule=Cosine(warmup=percent(10)),
        duration=epochs(10),
        batch_size=32,
        norms="none",
    )


def normalised_as(path: Path, data: Dataset, color: str) -> Dataset:
    """The pictures as the network has learned to see them, where a preprocessor_config.json tells."""
    told = read_preprocessing(path)
    mean, deviation = (tuple(told.get(name) or ()) for name in ("image_mean", "image_std"))
    if not mean or not deviation:
        return data
    if color == "grey":
        mean, deviation = ((sum(values) / len(values),) for values in (mean, deviation))
    return Normalised(data, mean, deviation)


def side(size: str) -> int:
    """Pixels a side, as typed."""
    if not size.isdecimal() or int(size) == 0:
        raise UserError(f"size: '{size}' is no number of pixels a side; say size=224")
    return int(size)


def pictures(where: str, size: tuple[int, int], color: str) -> ImageFolder | TFDS:
    """A folder of pictures, or tfds:NAME."""
    if where.startswith("tfds:"):
        return TFDS(name=where.removeprefix("tfds:"), size=size)
    return ImageFolder(path=where, size=size, color=color)
