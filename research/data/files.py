"""Data of the user's own: a folder of pictures for each class, arrays, a table.

Where files do not say which examples are for what, they are split here; where they do (folders or arrays called
train, validation, test), that is kept, and only what is missing is cut off the training split. What does not fit
`memory_gb` stays on disk and is read batch by batch.
"""

import csv
import dataclasses
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from research.config import config, structure
from research.data.base import SPLITS, Dataset, Loaded, Split, Streamed, assemble, check_finite, check_labels, complete
from research.data.pictures import SUFFIXES, assemble_pictures, decode, find_background, measure
from research.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import pandas

WORDS = {"train": ("train", "training"), "validation": ("validation", "valid", "val"), "test": ("test",)}
INPUTS = ("inputs", "x", "images", "data", "features")
TABLES = (".csv", ".tsv", ".txt")
COMPRESSED = (".gz", ".bz2", ".zip", ".xz", ".zst")
LARGEST_LABEL = 9999  # beyond it, a label larger than the number of examples is no class but a mistake
LABELS = ("labels", "y", "label", "targets", "target")
THREADS = 8  # Pillow decodes outside Python's lock


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


@config
class ImageFolder(Dataset):
    """Pictures in folders called by their class: path/CLASS/*.png, or path/{train,validation,test}/CLASS/*.png."""

    path: str = structure(doc="folder of the class folders")
    size: tuple[int, int] | None = structure(
        None, "height and width to fit pictures to; None: as they are", within="[1, inf)"
    )
    color: Literal["grey", "rgb"] = structure("rgb", "one feature or three")
    validation: float = structure(0.1, "fraction to choose by, where there is no such folder", within="(0, 1)")
    test: float = structure(0.2, "fraction to be judged by, where there is no such folder", within="(0, 1)")
    memory_gb: float = structure(
        4.0, "pictures that take more are read from disk as they are needed", within="[0, inf)"
    )

    def load(self) -> Loaded:
        root = Path(self.path).expanduser()
        if not root.is_dir():
            raise UserError(f"data.path: there is no folder {root}")
        found = {split: _classes(folder) for split, folder in _split_folders(root).items()}
        names = _in_order({name for classes in found.values() for name in classes})
        features = 1 if self.color == "grey" else 3
        size = self.size or _common_size(
            [path for classes in found.values() for paths in classes.values() for path in paths]
        )
        given = {
            split: _pictures(classes, names, (*size, features), fit=self.size is not None)
            for split, classes in found.items()
        }
        if sum(len(split) * math.prod(split.shape) for split in given.values()) <= self.memory_gb * 2**30:
            given = {name: Split(split.read(np.arange(len(split))), split.labels) for name, split in given.items()}
        splits = complete(given, test=self.test, validation=self.validation)
        return assemble_pictures("ImageFolder", splits, names)


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits; that of train, which is the whole one where pictures are not split."""
    found = {split: root / word for split, words in WORDS.items() for word in words if (root / word).is_dir()}
    return found if "train" in found else {"train": root}


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The pictures of each class, in the order of their names. Raises UserError for a class that has none."""
    folders = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if not folders:
        raise UserError(f"{folder}: has no folders; there must be one of pictures for each class")
    classes = {
        path.name: sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        for path in folders
    }
    empty = [str(folder / name) for name, paths in sorted(classes.items()) if not paths]
    if empty:
        raise UserError(*(f"{path}: a class folder without pictures ({', '.join(SUFFIXES)})" for path in empty))
    return classes


def _in_order(names: Iterable[str]) -> list[str]:
    """By number where all are numbers, else by the alphabet."""
    names = sorted(names)
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names


def _common_size(paths: list[Path]) -> tuple[int, int]:
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = list(pool.map(measure, paths))
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise UserError(f"{path}: {_by(size)} pixels, and {paths[0]} has {_by(sizes[0])}; set data.size")
    return sizes[0]


def _by(size: Iterable[int]) -> str:
    return "x".join(map(str, size))


def _pictures(classes: Mapping[str, list[Path]], names: list[str], shape: tuple[int, int, int], fit: bool) -> Streamed:
    paths = [path for name in names for path in classes.get(name, ())]
    labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(classes.get(name, ())) for name in names])
    return Streamed(labels, np.arange(len(paths)), shape, np.dtype(np.uint8), PictureReader(tuple(paths), shape, fit))


@dataclasses.dataclass(frozen=True)
class PictureReader:
    """Decodes pictures by their position in `paths`, several at a time, to `shape`; with `fit` of whatever size."""

    paths: tuple[Path, ...]
    shape: tuple[int, int, int]
    fit: bool

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        pictures = np.empty((len(rows), *self.shape), np.uint8)

        def read(place: int) -> None:
            path = self.paths[rows[place]]
            picture = decode(path, self.shape[-1], self.shape[:2] if self.fit else None)
            if picture.shape != self.shape:
                raise UserError(f"{path}: {_by(picture.shape[:2])} pixels, and {_by(self.shape[:2])} are expected")
            pictures[place] = picture

        with ThreadPoolExecutor(min(THREADS, (os.cpu_count() or 1) + 1)) as pool:
            list(pool.map(read, range(len(rows))))
        return pictures


# ---------------------------------------------------------------------------------------------------------------------
# Arrays


@config
class Arrays(Dataset):
    """An .npz file, or a folder of .npy files: inputs and labels, or x_train, y_train, x_test, y_test, and so on.

    Inputs are (examples, ..., features). uint8 of (examples, height, width), and what has four axes with 1, 3 or 4
    features, are pictures. Labels are whole numbers from 0 or names of classes.
    """

    path: str = structure(doc="the .npz file or the folder")
    inputs: str | None = structure(None, "what the inputs are called; None: inputs, x, images, data or features")
    labels: str | None = structure(None, "what the labels are called; None: labels, y, label, targets or target")
    names: tuple[str, ...] | None = structure(
        None, "of the classes, in the order of the labels; None: the labels themselves"
    )
    example: Literal["image", "array"] | None = structure(None, "what an example is; None: by its type and shape")
    validation: float = structure(0.1, "fraction to choose by, where the arrays are not split", within="(0, 1)")
    test: float = structure(0.2, "fraction to be judged by, where the arrays are not split", within="(0, 1)")
    memory_gb: float = structure(4.0, ".npy files that hold more are read as they are needed", within="[0, inf)")

    def load(self) -> Loaded:
        path = Path(self.path).expanduser()
        with _opened(path) as available:
            chosen = _choose(path, list(available.names), self.inputs, self.labels)
            large = sum(available.size(x) for x, _ in chosen.values()) > self.memory_gb * 2**30
            if large and path.is_file():
                raise UserError(f"{path}: holds more than data.memory_gb; save it as .npy files, which can be streamed")
            inputs = {split: available.read(x) for split, (x, _) in chosen.items()}
            labels = {split: np.asarray(available.read(y)) for split, (_, y) in chosen.items()}
        for split, (x, y) in chosen.items():
            if inputs[split].ndim == 0 or len(inputs[split]) != len(np.atleast_1d(labels[split])):
                raise UserError(f"{path}: {x} has shape {inputs[split].shape}, and {y} {labels[split].shape}")
        codes, names = encode_labels(str(path), labels, self.names)
        kind = self.example or _guess_kind(path, inputs["train"])
        given = {s: _examples(path, chosen[s][0], inputs[s], codes[s], kind, large) for s in chosen}
        splits = complete(given, test=self.test, validation=self.validation)
        return _assemble_arrays(splits, names, kind)


@dataclasses.dataclass(frozen=True)
class _Available:
    """Arrays that can be read by name, and how many bytes each is."""

    names: tuple[str, ...]
    read: Callable[[str], np.ndarray]
    size: Callable[[str], int]
    close: Callable[[], None]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _opened(path: Path) -> _Available:
    if path.is_dir():
        files = {file.stem: file for file in sorted(path.glob("*.npy"))}
        arrays = {name: _guarded(file, lambda file=file: np.load(file, mmap_mode="r")) for name, file in files.items()}
        return _Available(tuple(arrays), arrays.__getitem__, lambda name: arrays[name].nbytes, lambda: None)
    if not path.is_file():
        raise UserError(f"data.path: there is no file or folder {path}")
    if path.suffix == ".npy":
        raise UserError(f"data.path: {path} holds a single array; give the folder of the inputs' and the labels' file")
    if path.suffix.lower() in TABLES:
        raise UserError(f"data.path: {path} is read with Table(path=...); Arrays reads .npz files and folders of .npy")
    opened = path.open("rb")
    try:
        file = _guarded(path, lambda: np.load(opened, allow_pickle=False))
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise UserError(f"data.path: {path} is no .npz file")
    except UserError:
        opened.close()
        raise
    return _Available(
        tuple(file.files),
        lambda name: _guarded(path, lambda: file[name]),
        lambda name: file.zip.getinfo(f"{name}.npy").file_size,
        lambda: (file.close(), opened.close()),
    )


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except ValueError as error:
        if "Object arrays" in str(error) or "Array can't be memory-mapped" in str(error):
            raise UserError(f"{path}: holds Python objects, and only arrays of numbers or text are read") from None
        why = "" if "pickle" in str(error) else f" ({error})"  # advice that nobody should follow
        raise UserError(f"{path}: truncated, damaged or no NumPy file{why}") from None
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise UserError(f"{path}: truncated or damaged ({error})") from None


def _choose(path: Path, available: list[str], inputs: str | None, labels: str | None) -> dict[str, tuple[str, str]]:
    """Which arrays are inputs and labels of each split; of train alone where they are not split."""
    by_lower_case = {name.lower(): name for name in available}

    def pick(words: Iterable[str], split: str | None) -> str | None:
        candidates = [f"{a}_{b}" for w in words for s in WORDS[split] for a, b in ((w, s), (s, w))] if split else words
        return next((by_lower_case[c.lower()] for c in candidates if c.lower() in by_lower_case), None)

    remedy = "; name them as data.inputs and data.labels"
    xs, ys = ((inputs,) if inputs else INPUTS), ((labels,) if labels else LABELS)
    for splits in (SPLITS, (None,)):
        pairs = {split or "train": (pick(xs, split), pick(ys, split)) for split in splits}
        pairs = {split: pair for split, pair in pairs.items() if pair != (None, None)}
        for split, (x, y) in pairs.items():
            if "train" in pairs and None in (x, y):
                lacking = "inputs" if x is None else "labels"
                raise UserError(f"{path}: no {lacking} of {split} beside {x or y}; {_holds(available)}{remedy}")
        if "train" in pairs:
            return pairs
    raise UserError(f"{path}: no inputs and labels; {_holds(available)}{remedy}")


def _holds(available: list[str]) -> str:
    return f"it holds {', '.join(sorted(available)) or 'no arrays'}"


def _guess_kind(path: Path, inputs: np.ndarray) -> str:
    if inputs.ndim == 3 and inputs.dtype == np.uint8:
        return "image"
    if inputs.ndim == 4 and inputs.shape[-1] in (1, 3, 4):
        return "image"
    if inputs.ndim == 4 and inputs.shape[1] in (1, 3):
        raise UserError(
            f"{path}: inputs of shape {inputs.shape} seem to have their features first; transpose them to "
            f"(examples, height, width, features), or set data.example to 'array' if the last axis is the features"
        )
    return "array"


def _examples(path: Path, name: str, inputs: np.ndarray, labels: np.ndarray, kind: str, large: bool):
    allowed = np.issubdtype(inputs.dtype, np.number) and not np.issubdtype(inputs.dtype, np.complexfloating)
    if not (allowed or inputs.dtype == bool):
        raise UserError(f"{path}: {name} is of {inputs.dtype}, and numbers are needed")
    if inputs.ndim < 2 or (kind == "image" and inputs.ndim not in (3, 4)):
        axes = "(examples, height, width, features)" if kind == "image" else "(examples, ..., features)"
        raise UserError(f"{path}: {name} has shape {inputs.shape}, and {axes} is needed")
    reader = ArrayReader(inputs, add_feature=kind == "image" and inputs.ndim == 3, where=f"{path}: {name}")
    rows = np.arange(len(inputs))
    if large:
        one = reader(rows[:1])
        return Streamed(labels, rows, one.shape[1:], one.dtype, reader)
    return Split(reader(rows), labels)


@dataclasses.dataclass(frozen=True)
class ArrayReader:
    """Rows of an array, which may lie on disk, as uint8 (what is so stored) or float32."""

    inputs: np.ndarray
    add_feature: bool
    where: str

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        values = np.asarray(self.inputs[rows])
        if values.dtype != np.uint8:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is found below
                values = values.astype(np.float32)
        check_finite(self.where, values)
        return values[..., None] if self.add_feature else values


def _assemble_arrays(splits: Mapping[str, Split | Streamed], names: list[str], kind: str) -> Loaded:
    train = splits["train"]
    if train.dtype == np.uint8 and kind == "image":
        return assemble_pictures("Arrays", splits, names)
    scale = 1 / 255 if train.dtype == np.uint8 else 1.0
    if kind == "array":
        return assemble("Arrays", splits, names, kind="array", scale=scale)
    sample = train.read(np.arange(min(256, len(train))))
    maximum = float(sample.max()) if sample.min() >= 0 and sample.max() > 0 else None
    background = find_background(sample, maximum) if maximum else None
    return assemble("Arrays", splits, names, kind="image", scale=scale, background=background, maximum=maximum)


def encode_labels(
    where: str, labels: Mapping[str, np.ndarray], names: tuple[str, ...] | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Labels (examples,) of each split as int32 from 0, and the names of the classes.

    Labels are whole numbers of 0 or more, truth values or text; the classes are all that occur, in order, unless
    `names` are given. Raises UserError (beginning with `where`) for anything else, and for a number beyond both
    LARGEST_LABEL and the number of examples.
    """
    largest = max(LARGEST_LABEL, sum(map(len, map(np.atleast_1d, labels.values()))))
    plain = {split: _plain_labels(f"{where}: labels of {split}", values, largest) for split, values in labels.items()}
    types = {values.dtype.kind for values in plain.values()}
    if len(types) > 1:
        raise UserError(f"{where}: labels are text in one split and numbers in another")
    if names is None:
        classes = np.unique(np.concatenate(list(plain.values())))
        return {s: np.searchsorted(classes, v).astype(np.int32) for s, v in plain.items()}, [str(c) for c in classes]
    codes = {}
    for split, values in plain.items():
        if types == {"U"}:
            unknown = sorted(set(values) - set(names))
            if unknown:
                raise UserError(f"{where}: labels of {split}: no class '{unknown[0]}'{did_you_mean(unknown[0], names)}")
            values = np.array([names.index(value) for value in values])
        check_labels(f"{where}: labels of {split}", values, len(names))
        codes[split] = values.astype(np.int32)
    return codes, list(names)


def _plain_labels(where: str, values: np.ndarray, largest: int) -> np.ndarray:
    """(examples,) as int64, from 0 to `largest`, or text."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        hint = "; for one-hot labels take their argmax" if values.ndim == 2 else ""
        raise UserError(f"{where}: one label for each example is needed, and the shape is {values.shape}{hint}")
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind in "Ub":
        return values.astype(str)
    if values.dtype.kind not in "iuf":
        raise UserError(f"{where}: of {values.dtype}, and whole numbers or text are needed")
    wrong = np.flatnonzero(~(np.isfinite(values) & (values == np.floor(values)))) if values.dtype.kind == "f" else []
    if len(wrong):
        raise UserError(f"{where}: label {values[wrong[0]]} of example {wrong[0]} is no whole number")
    negative = np.flatnonzero(values < 0)
    if len(negative):
        raise UserError(f"{where}: label {values[negative[0]]} of example {negative[0]} is negative")
    large = np.flatnonzero(values > largest)
    if len(large):
        label = f"label {int(values[large[0]])} of example {large[0]}"
        raise UserError(f"{where}: {label} is beyond {largest}, too large for the number of a class; make it text")
    return values.astype(np.int64)


# ---------------------------------------------------------------------------------------------------------------------
# Tables


@config
class Table(Dataset):
    """A CSV file with a line of column names: one column is the label, the others numbers."""

    path: str = structure(doc="the CSV file")
    label: str = structure("label", "column of the class")
    features: tuple[str, ...] | None = structure(None, "columns that go in; None: all but the label")
    separator: str = structure(",", "between columns")
    validation: float = structure(0.1, "fraction to choose by", within="(0, 1)")
    test: float = structure(0.2, "fraction to be judged by", within="(0, 1)")

    def load(self) -> Loaded:
        path = Path(self.path).expanduser()
        table, lines = _read_csv(path, self.separator)
        columns = _columns(path, list(table.columns), self)
        problems = [*_column_problems(path, table, columns, lines), *_gaps(path, table, self.label, lines)]
        if problems:
            raise UserError(*problems)
        label = table[self.label]
        values = label.to_numpy() if label.dtype.kind in "iufb" else label.astype(str).to_numpy().astype(str)
        codes, names = encode_labels(f"{path}: column '{self.label}'", {"train": values}, None)
        everything = Split(table[columns].to_numpy(np.float32), codes["train"])
        splits = complete({"train": everything}, test=self.test, validation=self.validation)
        return assemble(str(path), splits, names, kind="table", scale=1.0)


def _read_csv(path: Path, separator: str) -> tuple["pandas.DataFrame", Sequence[int]]:
    """The table, and the line of the file that each of its rows is in."""
    import pandas

    if not path.is_file():
        raise UserError(f"data.path: there is no file {path}")
    try:
        table = pandas.read_csv(path, sep=separator, skipinitialspace=True)
    except (pandas.errors.EmptyDataError, pandas.errors.ParserError, ValueError, OSError) as error:
        if "fields in line" in str(error):
            _lines(path, separator)
        raise UserError(f"{path}: cannot be read as CSV ({str(error).strip()})") from None
    if table.empty:
        raise UserError(f"{path}: a table without lines")
    lines = _lines(path, separator)
    return table, lines if len(lines) == len(table) else range(2, len(table) + 2)


def _lines(path: Path, separator: str) -> Sequence[int]:
    """The line of each row, or none where only pandas can tell (compressed, or separated by an expression).

    Raises UserError for the first line that has more or fewer fields than the head: pandas would fill it up.
    """
    if len(separator) != 1 or path.suffix.lower() in COMPRESSED:
        return ()
    lines, head = [], 0
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file, delimiter=separator, skipinitialspace=True)
        try:
            for fields in rows:
                if len(fields) < 2 and not "".join(fields).strip():
                    continue  # a blank line, which pandas skips
                head = head or len(fields)
                if len(fields) != head:
                    has = f"{len(fields)} field{'s' if len(fields) > 1 else ''}"
                    raise UserError(f"{path}: line {rows.line_num} has {has}, and the head has {head}")
                lines.append(rows.line_num)
        except csv.Error as error:
            raise UserError(f"{path}: cannot be read as CSV (line {rows.line_num}: {error})") from None
    return lines[1:]


def _columns(path: Path, available: list[str], table: Table) -> list[str]:
    label, features = table.label, table.features
    if label not in available:
        raise UserError(f"data.label: {path} has no column '{label}'{did_you_mean(label, available)}")
    for feature in features or ():
        if feature not in available:
            raise UserError(f"data.features: {path} has no column '{feature}'{did_you_mean(feature, available)}")
    if label in (features or ()):
        raise UserError(f"data.features: '{label}' is the label")
    columns = [column for column in available if column != label] if features is None else list(features)
    if not columns:
        raise UserError(f"{path}: no column but the label '{label}'; is the separator '{table.separator}'?")
    return columns


def _column_problems(path: Path, table: "pandas.DataFrame", columns: list[str], lines: Sequence[int]) -> Iterable[str]:
    from pandas import to_numeric

    for column in columns:
        text = np.flatnonzero(to_numeric(table[column], errors="coerce").isna() & table[column].notna())
        if str(column).startswith("Unnamed: "):
            yield f"{path}: a column has no name (saved line numbers?); list the others as data.features"
        elif len(text):
            first = f"'{table[column].iloc[text[0]]}' in line {lines[text[0]]}"
            yield f"{path}: column '{column}' is text ({first}); make it numbers or leave it out of data.features"
        else:
            yield from _gaps(path, table, column, lines)
            yield from _beyond(path, table, column, lines)


def _gaps(path: Path, table: "pandas.DataFrame", column: str, lines: Sequence[int]) -> Iterable[str]:
    gaps = np.flatnonzero(table[column].isna().to_numpy())
    if len(gaps):
        more = f" (and {len(gaps) - 1} more)" if len(gaps) > 1 else ""
        yield f"{path}: column '{column}' has no value in line {lines[gaps[0]]}{more}"


def _beyond(path: Path, table: "pandas.DataFrame", column: str, lines: Sequence[int]) -> Iterable[str]:
    """What cannot be held in 32 bits: a value too large, or so little variation that it would be lost."""
    values = table[column].to_numpy(np.float64)
    large = np.flatnonzero(np.abs(values) > np.finfo(np.float32).max)
    if len(large):
        yield f"{path}: column '{column}' has {values[large[0]]} in line {lines[large[0]]}, which is too large"
    elif 0 < values.std() < 1e-6 * abs(values.mean()):
        spread = f"{values.mean():.6g}, deviation {values.std():.2g}"
        yield f"{path}: column '{column}' varies too little for its size ({spread}) for 32 bits; subtract an offset"
