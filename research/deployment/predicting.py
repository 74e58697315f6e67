"""Classes of a user's own files, by a run or by an exported network: pictures, texts, sounds, arrays.

    found = predict("runs/digits_cnn", ["scans", "seven.png"])           # folders are walked
    found.predictions     [{"file": "seven.png", "classes": [["7", 0.95], ...], "note": "inverted, ..."}, ...]
    found.problems        ["scans/3.png: truncated or damaged picture (...)"]

Files are read as `data.inputs` tells, in batches; the data that the network was trained on is not needed. One that
cannot be read is among the problems, and the rest are done.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research.data import inputs
from research.deployment import standalone
from research.errors import UserError
from research.jsonl import read_json

BATCH = 64
"""Windows that are judged at once, at most."""


class Network(NamedTuple):
    """What predictions are made with."""

    call: Callable[[np.ndarray], np.ndarray]
    """Raw inputs (batch, *shape) to probabilities (batch, classes)."""
    names: list[str]
    expected: dict[str, Any]
    """What raw inputs are, as `inputs.read` takes it."""


class Predicted(NamedTuple):
    """What was found out, file by file; of an array that holds several examples, one by one."""

    predictions: list[dict[str, Any]]
    """{"file", "classes": [[name, probability], ...], the likeliest first, "note": what was done to it, or None}"""
    problems: list[str]
    """A line for each file that could not be read."""


def predict(path: str, files: Sequence[str], progress: Callable[[int, int], None] | None = None) -> Predicted:
    """Predictions by the run, or the exported network, in the folder `path`.

    progress: told how many files are done, and of how many, after each batch.
    Raises UserError for a folder that is neither, for a network of another kind, and where there are no files.
    """
    network = open_network(path)
    found, problems = [], []
    for given in files:
        inside = inputs.find(given, network.expected)
        found += inside
        if not inside:
            problems.append(f"{given}: holds no file such as {', '.join(inputs.suffixes(network.expected))}")
    predictions: list[dict[str, Any]] = []
    for start, batch in _batches(found, network.expected, problems):
        predictions += _judged(network, batch)
        if progress is not None:
            progress(start, len(found))
    return Predicted(predictions, problems)


def open_network(path: str) -> Network:
    """The network in a folder. Raises UserError for one that is no run, or was changed, and for a language model."""
    folder = Path(path)
    if (folder / standalone.MANIFEST).is_file():
        try:
            call = standalone.load(folder)
        except standalone.Refused as error:
            raise UserError(str(error)) from None
        expected, names = read_json(folder / "preprocessing.json"), read_json(folder / "labels.json")["names"]
        _check(path, expected["tokens"], len(names))
        return Network(call, names, expected)
    import jax

    from research.deployment.exporting import preprocessing
    from research.deployment.program import read_program

    program = read_program(path)
    _check(path, program.data.spec.tokens, program.data.spec.classes)
    function = jax.jit(program.function)
    arrays = jax.device_put(program.arrays)
    names = list(program.data.spec.names)
    return Network(lambda raw: np.asarray(function(arrays, raw)), names, preprocessing(program.data))


def _check(path: str, tokens: int | None, classes: int) -> None:
    if tokens is not None and tokens == classes:
        raise UserError(f"{path}: tells what token comes next, and no classes; --mode sample has it write")


def _batches(
    files: Sequence[Path], expected: dict[str, Any], problems: list[str]
) -> Iterator[tuple[int, list[inputs.Example]]]:
    """How many files are read, and those that follow the last batch; what cannot be read goes to `problems`."""
    batch, windows = [], 0
    for done, file in enumerate(files, start=1):
        try:
            examples = inputs.examples(file, expected)
        except inputs.Unreadable as error:
            problems.append(str(error))
        else:
            batch += examples
            windows += sum(len(example.raw) for example in examples)
        if windows >= BATCH or done == len(files):
            yield done, batch
            batch, windows = [], 0


def _judged(network: Network, batch: Sequence[inputs.Example]) -> Iterator[dict[str, Any]]:
    if not batch:
        return
    windows = np.concatenate([example.raw for example in batch])
    likely = np.concatenate(
        [_padded(network.call, windows[start : start + BATCH]) for start in range(0, len(windows), BATCH)]
    )
    ends = np.cumsum([len(example.raw) for example in batch])
    for example, mine in zip(batch, np.split(likely, ends[:-1]), strict=True):
        pairs = zip(network.names, map(float, mine.mean(0)), strict=True)
        classes = sorted(([name, probability] for name, probability in pairs), key=lambda pair: -pair[1])
        yield {"file": example.name, "classes": classes, "note": "; ".join(example.notes) or None}


def _padded(call: Callable[[np.ndarray], np.ndarray], raw: np.ndarray) -> np.ndarray:
    """The probabilities of a batch, which is one or full: so two programs are compiled at most."""
    if len(raw) in (1, BATCH):
        return call(raw)
    full = np.concatenate([raw, np.repeat(raw[-1:], BATCH - len(raw), axis=0)])
    return call(full)[: len(raw)]


def as_csv(predictions: Sequence[dict[str, Any]]) -> str:
    """A row a prediction: its likeliest class, that one's probability, a note, and the probability of each class."""
    if not predictions:
        return ""
    names = sorted(name for name, _ in predictions[0]["classes"])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "class", "probability", "note", *(f"probability of {name}" for name in names)])
    for prediction in predictions:
        (first, probability), likely = prediction["classes"][0], dict(prediction["classes"])
        writer.writerow(
            [prediction["file"], first, probability, prediction["note"] or "", *(likely[name] for name in names)]
        )
    return text.getvalue()
