"""MNIST and the two sets published in its form: four idx files in a folder, or downloaded there with checksums.

An idx file is two zero bytes, a byte for the type, a byte for the number of axes, their lengths as big-endian 32-bit
integers, and the values (LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/). It may be gzipped, and its name
may have a dot for a hyphen (train-images.idx3-ubyte).
"""

import abc
import gzip
import hashlib
import http.client
import math
import os
import ssl
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research.config import config, structure
from research.data import cache
from research.data.base import Dataset, Loaded, Split, assemble, check_labels, complete, hold_out
from research.errors import UserError

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
TIMEOUT = 5  # seconds without an answer


class Published(NamedTuple):
    """Where the four files are to be had. Hashes are of the bytes as downloaded (md5) or unpacked (sha256)."""

    mirrors: tuple[str, ...]
    kind_of_hash: str
    hashes: tuple[str, str, str, str]
    variable: str
    names: tuple[str, ...]


@config
class _Idx(Dataset, abc.ABC):
    """Four idx files: images and labels of train and t10k."""

    folder: str | None = structure(
        None, "where the four files are; None: as the environment variable or the cache says"
    )
    download: bool = structure(True, "fetch files that are not there, checksums verified")
    validation: int = structure(5000, "how many training examples to hold out to choose by", within="[1, inf)")
    examples: int | None = structure(None, "how many of the others to train on; all if None", within="[1, inf)")

    @abc.abstractmethod
    def published(self) -> Published:
        """Where the files come from and what their classes are called."""

    def load(self) -> Loaded:
        name, source = type(self).__name__, self.published()
        folder = _folder(self.folder, source.variable, name)
        paths = [_find(folder, file) for file in FILES]
        if None in paths:
            _fetch(name, source, folder, self.download)
            paths = [_find(folder, file) for file in FILES]
        train, test = _read_pair(*paths[:2], len(source.names)), _read_pair(*paths[2:], len(source.names))
        splits = complete({"train": train, "test": test}, validation=self.validation)
        if self.examples is not None and self.examples < len(splits["train"]):
            rows = hold_out(splits["train"].labels, examples=self.examples)["examples"]
            splits["train"] = splits["train"].take(rows)
        return assemble(name, splits, source.names, kind="image", scale=1 / 255, background="dark", maximum=255.0)


@config
class MNIST(_Idx):
    """Handwritten digits, 28x28, 60 000 to train on and 10 000 to test on (LeCun, Cortes and Burges, 1998)."""

    def published(self) -> Published:
        return Published(
            mirrors=(
                "https://ossci-datasets.s3.amazonaws.com/mnist",
                "https://storage.googleapis.com/cvdf-datasets/mnist",
            ),
            kind_of_hash="sha256",
            hashes=(
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
            variable="MNIST_DIR",
            names=tuple("0123456789"),
        )


@config
class FashionMNIST(_Idx):
    """Pictures of clothing, 28x28, in MNIST's form (Xiao, Rasul and Vollgraf, 2017)."""

    def published(self) -> Published:
        return Published(
            mirrors=(
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
            ),
            kind_of_hash="md5",
            hashes=(
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
            variable="FASHION_MNIST_DIR",
            names=(
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
        )


@config
class KMNIST(_Idx):
    """Cursive hiragana of old Japanese books, 28x28, in MNIST's form (Clanuwat et al., 2018)."""

    def published(self) -> Published:
        return Published(
            mirrors=(
                "https://codh.rois.ac.jp/kmnist/dataset/kmnist",
                "http://codh.rois.ac.jp/kmnist/dataset/kmnist",
            ),
            kind_of_hash="md5",
            hashes=(
                "bdb82020997e1d708af4cf47b453dcf7",
                "e144d726b3acfaa3e44228e80efcd344",
                "5c965bf0a639b31b8f53240b1b52f4d7",
                "7320c461ea6c1c855c0b718fb2a4b134",
            ),
            variable="KMNIST_DIR",
            names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        )


# ---------------------------------------------------------------------------------------------------------------------
# Finding and fetching


def _folder(given: str | None, variable: str, name: str) -> Path:
    told = given or os.environ.get(variable)
    if not told:
        return cache.folder() / name.lower()
    folder = Path(told).expanduser()
    if not folder.is_dir():
        raise UserError(f"{'data.folder' if given else variable}: there is no folder {folder}")
    return folder


def _find(folder: Path, file: str) -> Path | None:
    spellings = (file, file.replace("-idx", ".idx"))
    candidates = (folder / f"{spelling}{end}" for spelling in spellings for end in (".gz", ""))
    return next((path for path in candidates if path.is_file()), None)


def _fetch(name: str, source: Published, folder: Path, allowed: bool) -> None:
    """Download the files that are not in `folder`; each is complete and verified, or not there."""
    missing = [(file, digest) for file, digest in zip(FILES, source.hashes, strict=True) if not _find(folder, file)]
    remedy = f"put the files, gzipped or not, into a folder and give it as data.folder or {source.variable}"
    listed = ", ".join(file for file, _ in missing)
    if not allowed:
        raise UserError(f"{name}: {folder} has no {listed}, and data.download is False; {remedy}")
    for file, digest in missing:
        content, failures = None, []
        for mirror in source.mirrors:
            url = f"{mirror}/{file}.gz"
            try:
                content = _verified(_download(url), source.kind_of_hash, digest)
                break
            except (OSError, EOFError, zlib.error, ValueError, http.client.HTTPException) as error:
                failures.append((url.split("/")[2], getattr(error, "reason", error)))
        if content is None:
            raise UserError(f"{name}: {folder} has no {listed}, nor can they be had ({_why(failures)}); {remedy}")
        try:
            cache.write_atomically(folder / f"{file}.gz", lambda out, content=content: out.write(content))
        except OSError as error:
            raise UserError(f"{name}: {folder} cannot be written ({error.strerror}); {remedy}") from None


def _why(failures: list[tuple[str, Any]]) -> str:
    """What each host answered, and which did not answer at all."""
    silent = [host for host, reason in failures if _is_silence(reason)]
    told = [f"{host}: {reason}" for host, reason in failures if not _is_silence(reason)]
    return "; ".join([*told, *([f"{' and '.join(silent)} cannot be reached"] if silent else [])])


def _is_silence(reason: Any) -> bool:
    """Whether it was the network that failed, and not what came over it."""
    from_system = isinstance(reason, OSError) and reason.errno is not None and not isinstance(reason, ssl.SSLError)
    return from_system or isinstance(reason, TimeoutError)


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        return answer.read()


def _verified(content: bytes, kind: str, digest: str) -> bytes:
    """The gzipped content as it came. Raises ValueError where its hash is another than `digest`."""
    hashing: Callable = {"sha256": hashlib.sha256, "md5": hashlib.md5}[kind]
    found = hashing(gzip.decompress(content) if kind == "sha256" else content).hexdigest()
    if found != digest:
        raise ValueError(f"its {kind} is {found} and not {digest}")
    return content


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def _read_pair(images: Path, labels: Path, classes: int) -> Split:
    inputs, targets = read_idx(images, axes=3), read_idx(labels, axes=1)
    if len(inputs) != len(targets):
        raise UserError(f"{images}: {len(inputs)} images, and {labels.name} beside it has {len(targets)} labels")
    check_labels(str(labels), targets, classes)
    return Split(inputs[..., None], targets.astype(np.int32))


def read_idx(path: Path, axes: int) -> np.ndarray:
    """The uint8 array with this many axes in an idx file, gzipped or not. Raises UserError saying what is damaged."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b" or path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in TYPES:
        raise UserError(f"{path}: no idx file; it begins with {content[:4].hex(' ') or 'nothing'}")
    if content[2] != 8 or content[3] != axes:
        found = f"{np.dtype(TYPES[content[2]]).name} values with {content[3]} axes"
        raise UserError(f"{path}: holds {found}, and uint8 values with {axes} are needed; is it another of the files?")
    start = 4 + 4 * axes
    shape = tuple(map(int, np.frombuffer(content[4:start], ">u4"))) if len(content) >= start else ()
    if len(content) != start + math.prod(shape) or not shape:
        raise UserError(
            f"{path}: truncated or damaged; it has {len(content)} bytes, "
            f"and {start + math.prod(shape)} are what its head says ({'x'.join(map(str, shape))})"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
