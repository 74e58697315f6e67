"""Predictions with an exported network, without the package that it was trained with.

    python predict.py picture.png another.png                     with StableHLO: needs jax, flatbuffers, pillow
    python predict.py --with onnx picture.png                     with ONNX: needs onnxruntime, pillow
    python predict.py --inputs raw.npy --outputs likely.npy       raw inputs (examples, *shape) to probabilities

From Python:

    from predict import load
    predict = load("FOLDER")
    likely = predict(raw)                                         # (examples, classes)

Of a language model it tells what follows the last byte of a text, and of an array of several examples each by itself.
Every file of the folder is checked against manifest.json before it is used.
"""

import argparse
import gc
import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.data.inputs import SPACE, Example, Unreadable, examples, find, prompts, suffixes

MANIFEST, WEIGHTS = "manifest.json", "model.safetensors"
PROGRAMS = {"stablehlo": "program.stablehlo", "onnx": "model.onnx"}
CLASSES, NEXT, HIDDEN = "classes", "next token", "hidden token"
BATCH = 64
DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1"}
DTYPES |= {"U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?"}


class Refused(ValueError):
    """Why a folder is not used, in a line that begins with its path."""


def checked(folder: str | Path) -> dict[str, Any]:
    """The manifest of an exported folder, every file of which is there and whole. Raises Refused."""
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{folder / MANIFEST}: missing or damaged ({error})") from None
    for name, told in files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise Refused(f"{path}: is in {MANIFEST} and not in the folder")
        if sha256(path) != told["sha256"]:
            raise Refused(f"{path}: is not what was exported, for its SHA-256 is not that in {MANIFEST}")
    return manifest


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(folder: str | Path, runtime: str = "stablehlo") -> Callable[[np.ndarray], np.ndarray]:
    """The exported network as a function of raw inputs (examples, *shape) that gives probabilities. Raises Refused."""
    folder, manifest = Path(folder), checked(folder)
    if PROGRAMS[runtime] not in manifest["files"]:
        raise Refused(f"{folder}: was exported without {PROGRAMS[runtime]}")
    run = (_load_stablehlo if runtime == "stablehlo" else _load_onnx)(folder)
    dtype, shape = np.dtype(manifest["inputs"]["dtype"]), tuple(manifest["inputs"]["shape"])

    def predict(raw: np.ndarray) -> np.ndarray:
        raw = np.asarray(raw)
        if raw.shape[1:] != shape or not len(raw):
            raise ValueError(f"raw inputs {raw.shape} are not (examples, *{shape})")
        if np.issubdtype(dtype, np.integer):
            raw = np.rint(raw).clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
        return run(np.ascontiguousarray(raw, dtype))

    return predict


def _load_stablehlo(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    import jax
    import jax.export

    program = jax.export.deserialize(bytearray((folder / PROGRAMS["stablehlo"]).read_bytes()))
    weights = jax.device_put(read_weights(folder / WEIGHTS))
    call = jax.jit(program.call)
    return lambda raw: np.asarray(call(weights, raw))


def _load_onnx(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / PROGRAMS["onnx"]), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda raw: session.run(None, {name: raw})[0]


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file: the length of a header in JSON, the header, the arrays one after another."""
    content = np.memmap(path, np.uint8, mode="r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())
    return {name: _array(content[start:], told) for name, told in header.items() if name != "__metadata__"}


def _array(content: np.ndarray, told: dict[str, Any]) -> np.ndarray:
    first, end = told["data_offsets"]
    if told["dtype"] == "BF16":
        import ml_dtypes

        dtype = np.dtype(ml_dtypes.bfloat16)
    else:
        dtype = np.dtype(DTYPES[told["dtype"]])
    if not math.prod(told["shape"]):
        return np.zeros(told["shape"], dtype)
    return np.frombuffer(content[first:end].tobytes(), dtype).reshape(told["shape"])


def in_batches(predict: Callable[[np.ndarray], np.ndarray], raw: np.ndarray, into: Path) -> None:
    """Writes the probabilities of raw inputs to a .npy file, batch by batch: both may be larger than memory."""
    outputs = None
    for start in range(0, len(raw), BATCH):
        found = predict(np.asarray(raw[start : start + BATCH]))
        if outputs is None:
            shape = (len(raw), *found.shape[1:])
            outputs = np.lib.format.open_memmap(into, mode="w+", dtype=found.dtype, shape=shape)
        outputs[start : start + BATCH] = found
    outputs.flush()


def main() -> int:
    """Runs the command line, and returns its exit status: 1 if a file could not be read, 2 if nothing could be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="pictures, texts, sounds, .npy of one or several examples, or folders")
    parser.add_argument("--with", dest="runtime", choices=PROGRAMS, default="stablehlo", help="what runs the network")
    parser.add_argument("--inputs", help="a .npy file of raw inputs (examples, *shape)")
    parser.add_argument("--outputs", help="the .npy file that the probabilities of --inputs are written to")
    parser.add_argument("--top", type=int, default=3, help="how many of the likeliest classes are printed")
    told = parser.parse_args()
    if bool(told.inputs) != bool(told.outputs) or bool(told.inputs) == bool(told.files):
        parser.error("give files, or --inputs and --outputs")
    folder = Path(__file__).parent
    try:
        predict = load(folder, told.runtime)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    expected = json.loads((folder / "preprocessing.json").read_text())
    if told.inputs:
        try:
            in_batches(predict, open_inputs(told.inputs, told.outputs, tuple(expected["shape"])), Path(told.outputs))
        except Unreadable as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            print(f"error: {told.outputs}: cannot be written ({error.strerror})", file=sys.stderr)
            return 2
        return 0
    names = json.loads((folder / "labels.json").read_text())["names"]
    if expected["tells"] == HIDDEN:
        what = "tells which tokens are hidden in a text, and no classes; give raw inputs with --inputs and --outputs"
        print(f"error: {folder}: {what}", file=sys.stderr)
        return 2
    in_file = prompts if expected["tells"] == NEXT else examples
    status = 0
    files = [(path, find(path, expected)) for path in told.files]
    for path in (path for path, inside in files if not inside):
        print(f"error: {path}: holds no file such as {', '.join(suffixes(expected))}", file=sys.stderr)
        status = 1
    for file in (file for _, inside in files for file in inside):
        try:
            found = in_file(file, expected)
        except Unreadable as error:
            print(f"error: {error}", file=sys.stderr)
            status = 1
            continue
        for example, likely in zip(found, judged(predict, found, expected["shape"][0]), strict=True):
            print(in_words(example, likely, names, told.top))
    return status


def open_inputs(path: str, outputs: str, shape: tuple[int, ...]) -> np.ndarray:
    """The raw inputs (examples, *shape) in a .npy file, on disk. Raises Unreadable."""
    if not Path(path).is_file():
        raise Unreadable(f"{path}: there is no such file")
    if Path(outputs).exists() and Path(outputs).samefile(path):
        raise Unreadable(f"{path}: holds the inputs, and cannot be that of the outputs as well")
    try:
        raw = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Unreadable(f"{path}: damaged or no .npy file ({error})") from None
    if not isinstance(raw, np.ndarray):
        raise Unreadable(f"{path}: holds several arrays, and is no .npy file")
    if raw.ndim == 0 or raw.shape[1:] != shape or not len(raw):
        raise Unreadable(f"{path}: holds an array {raw.shape}, and (examples, {', '.join(map(str, shape))}) is needed")
    if raw.dtype.kind not in "biuf":
        raise Unreadable(f"{path}: holds {raw.dtype}, and numbers are needed")
    return raw


def judged(predict: Callable[[np.ndarray], np.ndarray], found: Sequence[Example], length: int) -> list[np.ndarray]:
    """The probabilities (classes,) of each example: the mean over its windows.

    length: along the first axis of an example, to which the text for a language model is filled up. What stands after
    a token changes nothing at its position.
    """
    raw = np.concatenate([example.raw for example in found])
    last = raw.shape[1] - 1
    if raw.shape[1] < length:
        raw = np.pad(raw, ((0, 0), (0, length - raw.shape[1])), constant_values=SPACE)
    likely = np.concatenate([predict(raw[start : start + BATCH]) for start in range(0, len(raw), BATCH)])
    if likely.ndim == 3:  # a language model: what comes after the last token
        likely = likely[:, last]
    ends = np.cumsum([len(example.raw) for example in found])
    return [mine.mean(0) for mine in np.split(likely, ends[:-1])]


def in_words(example: Example, likely: np.ndarray, names: Sequence[str], most: int) -> str:
    """A line with the likeliest classes of an example, and what was done to it."""
    best = np.argsort(-likely, kind="stable")[:most]
    found = "  ".join(f"{names[index]} {100 * likely[index]:.2f} %" for index in best)
    return f"{example.name}  {found}" + (f"  ({'; '.join(example.notes)})" if example.notes else "")


if __name__ == "__main__":
    status = main()
    gc.freeze()  # what is imported need not be looked through as Python ends
    sys.exit(status)
