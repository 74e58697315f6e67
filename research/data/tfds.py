"""Any classification set of tensorflow-datasets, read into arrays once.

What is prepared as array_record is read without TensorFlow; TFRecord files, and preparing a set, need it. Both give
the same examples in the same order. A set is looked for in the folder alone, and the network is tried before
tensorflow-datasets may: offline, it would for minutes. Reading 60 000 pictures through it takes half a minute, so the
arrays are kept in the cache.
"""

import hashlib
import importlib.util
import json
import os
import re
import socket
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np

from research.config import config, structure
from research.data import cache
from research.data.base import SPLITS, Dataset, Loaded, Split, assemble, complete
from research.data.pictures import assemble_pictures, fit_to
from research.errors import UserError, did_you_mean

READER = 2  # raised whenever the arrays change, so that none are taken from an old cache
TENSORFLOW = "pip install 'fathom[tensorflow]'"
PORTS = {"http": 80, "ftp": 21}  # and 443 for the rest


@config
class TFDS(Dataset):
    """A classification set of tensorflow-datasets, with an image (or numbers) and a class label."""

    name: str = structure(doc="of the set: mnist, emnist/letters, cifar10:3.0.2")
    data_dir: str | None = structure(None, "where sets are prepared; None: TFDS_DATA_DIR or ~/tensorflow_datasets")
    splits: tuple[str, ...] | None = structure(
        None, "splits or slices to train on, choose by and be judged by; None: by name"
    )
    validation: float = structure(
        0.1, "fraction of train to choose by, where the set has no such split", within="(0, 1)"
    )
    test: float = structure(0.1, "fraction of train to be judged by, where the set has no such split", within="(0, 1)")
    size: tuple[int, int] | None = structure(None, "height and width that pictures are fitted to", within="[1, inf)")
    download: bool = structure(False, "fetch and prepare a set that is not there; needs TensorFlow")

    def load(self) -> Loaded:
        root = Path(self.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
        folder = find_prepared(root, self.name)
        if folder is None:
            folder = _prepare(self, root)
        parts = _parts(self, _information(folder))
        key = [READER, *_files(folder), parts, self.size]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        arrays = cache.cached(f"tfds-{digest}", lambda: read_prepared(folder, parts, self.size))
        given = {s: Split(arrays[f"{s}_inputs"], arrays[f"{s}_labels"]) for s in SPLITS if f"{s}_inputs" in arrays}
        splits = complete(given, test=self.test, validation=self.validation)
        names = [str(name) for name in arrays["names"]]
        if arrays["image"]:
            return assemble_pictures(f"TFDS {self.name}", splits, names)
        return assemble(f"TFDS {self.name}", splits, names, kind="array", scale=1.0)


# ---------------------------------------------------------------------------------------------------------------------
# Looking


def find_prepared(root: Path, name: str) -> Path | None:
    """The folder of a prepared set under `root`: of the version asked for, or the highest. None where there is none.

    Raises UserError where several configurations are prepared and none is asked for.
    """
    known, colon, version = name.partition(":")
    if colon and not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise UserError(f"data.name: '{name}': after the colon a version such as 1.0.0 is needed")
    base = root / known
    found = [p.parent for pattern in ("*/dataset_info.json", "*/*/dataset_info.json") for p in base.glob(pattern)]
    found = [path for path in found if _version(path) and version in ("", path.name)]
    configurations = sorted({str(path.parent.relative_to(root)) for path in found})
    if len(configurations) > 1:
        raise UserError(f"data.name: '{name}' is prepared in several configurations: {', '.join(configurations)}")
    return max(found, key=_version, default=None)


def _version(folder: Path) -> tuple[int, ...]:
    parts = folder.name.split(".")
    return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else ()


def _information(folder: Path) -> dict:
    path = folder / "dataset_info.json"
    try:
        information = json.loads(path.read_text())
        return {
            "format": information.get("fileFormat", "tfrecord"),
            "splits": [split["name"] for split in information["splits"]],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error}); prepare the set again") from None


def _files(folder: Path) -> list:
    """What tells one preparation of a set from another."""
    return [str(folder.resolve()), *sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir())]


def _parts(dataset: TFDS, information: dict) -> dict[str, str]:
    """Which split, or slice, of the set is which of ours."""
    known = information["splits"]
    if dataset.splits is None:
        parts = {split: split for split in SPLITS if split in known}
    elif 1 <= len(dataset.splits) <= 3:
        roles = {1: ("train",), 2: ("train", "test"), 3: SPLITS}[len(dataset.splits)]
        parts = dict(zip(roles, dataset.splits, strict=True))
    else:
        raise UserError("data.splits: one (train), two (train, test) or three (train, validation, test) are needed")
    if "train" not in parts:
        raise UserError(f"data.splits: the set has no split 'train'; say which of {', '.join(known)} to use")
    for part in parts.values():
        for term in part.split("+"):
            split = term.partition("[")[0].strip()
            if split not in known:
                raise UserError(f"data.splits: {dataset.name} has no split '{split}'{did_you_mean(split, known)}")
    return parts


def _prepare(dataset: TFDS, root: Path) -> Path:
    """The folder of a set that tensorflow-datasets fetched and prepared.

    Raises UserError, at once where it is certain to fail: without TensorFlow, for an unknown set, and offline.
    """
    tfds = _import_tfds()
    prepared = [path.name for path in root.glob("*") if path.is_dir() and path.name != "downloads"]
    known = {*prepared, *tfds.list_builders(with_community_datasets=False)}
    lacking = f"data.name: '{dataset.name}' is not prepared in {root}"
    name = re.split("[/:]", dataset.name)[0]
    if name not in known:
        raise UserError(f"{lacking}, and tensorflow-datasets knows no such set{did_you_mean(name, known)}")
    if not dataset.download:
        raise UserError(f"{lacking}; prepare it (tfds build, array_record) or set data.download to True")
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(f"{lacking}; preparing it needs TensorFlow: {TENSORFLOW}")
    try:
        builder = tfds.builder(dataset.name, data_dir=str(root))
        offline = _find_offline(builder.url_infos or {}, root / "downloads")
        if offline is None:
            builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # whatever it is, there is no data
        raise UserError(f"{lacking}, and preparing it failed ({_reason(error)})") from error
    if offline is not None:
        raise UserError(f"{lacking}, and {offline}")
    return Path(builder.data_dir)


def _find_offline(urls, downloads: Path, most: int = 3) -> str | None:
    """Why none of a set's addresses can be reached; None where one can, or where that need not be.

    What was downloaded before, or put there by hand, may be enough; what asks through a proxy cannot be told.
    """
    parts = [urllib.parse.urlsplit(url) for url in urls]
    hosts = list(dict.fromkeys((part.hostname, part.port or PORTS.get(part.scheme, 443)) for part in parts))
    if {"http", "https", "all"} & set(urllib.request.getproxies()) or any(
        path.is_file() for path in downloads.rglob("*")
    ):
        return None
    why = None
    for host, port in hosts[:most]:
        try:
            socket.create_connection((host, port), timeout=3).close()
            return None
        except OSError as error:
            why = why or f"{host} cannot be reached ({error})"
    return why


def _import_tfds():
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(
            f"TFDS: needs tensorflow-datasets ({error}): pip install tensorflow-datasets importlib_resources"
        ) from None
    return tensorflow_datasets


def _reason(error: Exception) -> str:
    """In one line, what lies at the root of an error that tensorflow-datasets wrapped in others."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def read_prepared(folder: Path, parts: dict[str, str], size: tuple[int, int] | None) -> dict[str, np.ndarray]:
    """The splits of a prepared set: "train_inputs" (examples, *shape), "train_labels" int32, ..., "names", "image"."""
    if _information(folder)["format"] != "array_record" and importlib.util.find_spec("tensorflow") is None:
        raise UserError(f"{folder}: prepared as TFRecord, which needs TensorFlow: {TENSORFLOW} (or use array_record)")
    tfds = _import_tfds()
    try:
        builder = tfds.builder_from_directory(str(folder))
        inputs, label, image = _keys(tfds, builder.info, folder)
        arrays = {"names": np.array(builder.info.features[label].names), "image": np.array(image)}
        for split, part in parts.items():
            examples = [(np.asarray(x), int(code)) for x, code in _examples(tfds, builder, part, inputs, label)]
            if image and size is not None:
                examples = [(fit_to(picture, size), code) for picture, code in examples]
            arrays[f"{split}_inputs"] = _stack(f"{folder}: {part}", [x for x, _ in examples], image)
            arrays[f"{split}_labels"] = np.array([code for _, code in examples], np.int32)
    except UserError:
        raise
    except Exception as error:  # a damaged record can raise nearly anything, down to errors of C++
        raise UserError(f"{folder}: cannot be read ({_reason(error)})") from error
    return arrays


def _examples(tfds, builder, part: str, inputs: str, label: str):
    """Pairs of what goes in and its label, in the order of the files, whatever their format.

    TensorFlow by itself would mix the files of a split, and decode JPEG up to a few grey levels otherwise.
    """
    if _information(Path(builder.data_dir))["format"] == "array_record":
        yield from ((example[inputs], example[label]) for example in builder.as_data_source(part))
        return
    examples = builder.as_dataset(
        part,
        decoders={inputs: tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    feature = builder.info.features[inputs]
    for example in tfds.as_numpy(examples):
        yield feature.decode_example_np(example[inputs]), example[label]


def _keys(tfds, info, folder: Path) -> tuple[str, str, bool]:
    """The names of what goes in and of the label, and whether what goes in is a picture."""
    features = info.features
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    told = info.supervised_keys
    inputs, label = told if told and len(told) == 2 else ((images or [None])[0], (labels or [None])[0])
    numbers = inputs in features and type(features[inputs]) is tfds.features.Tensor
    if label not in labels or not (inputs in images or numbers):
        raise UserError(f"{folder}: no classification of images or numbers; it has {', '.join(features)}")
    return inputs, label, inputs in images


def _stack(where: str, examples: list[np.ndarray], image: bool) -> np.ndarray:
    shapes = sorted({example.shape for example in examples})
    if len(shapes) > 1:
        few = " and ".join("x".join(map(str, shape)) for shape in shapes[:2])
        raise UserError(f"{where}: examples of different sizes ({few}); set data.size")
    stacked = np.stack(examples) if examples else np.zeros((0, 1))
    if image and stacked.dtype != np.uint8:
        raise UserError(f"{where}: pictures of {stacked.dtype}, and uint8 is needed")
    return stacked if image else stacked.astype(np.float32).reshape(len(stacked), *(stacked.shape[1:] or (1,)))
