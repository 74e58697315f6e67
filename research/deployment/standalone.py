"""Predictions with an exported network, without the package that it was trained with.

    python predict.py picture.png another.png                     with StableHLO: needs jax, flatbuffers, pillow
    python predict.py --with onnx picture.png                     with ONNX: needs onnxruntime, pillow
    python predict.py --inputs raw.npy --outputs likely.npy       raw inputs (examples, *shape) to probabilities

From Python:

    from predict import load
    predict = load("FOLDER")
    likely = predict(raw)                                         # (examples, classes)

Every file of the folder is checked against manifest.json before it is used.
"""

import argparse
import gc
import hashlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from research.data.inputs import Unreadable, find, read

MANIFEST, WEIGHTS = "manifest.json", "model.safetensors"
PROGRAMS = {"stablehlo": "program.stablehlo", "onnx": "model.onnx"}
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
    parser.add_argument("files", nargs="*", help="pictures, texts or sounds, .npy, or folders")
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
    if told.inputs:
        in_batches(predict, np.load(told.inputs, mmap_mode="r", allow_pickle=False), Path(told.outputs))
        return 0
    expected = json.loads((folder / "preprocessing.json").read_text())
    names = json.loads((folder / "labels.json").read_text())["names"]
    status = 0
    for file in (file for path in told.files for file in find(path, expected)):
        try:
            raw, notes = read(file, expected)
        except Unreadable as error:
            print(f"error: {error}", file=sys.stderr)
            status = 1
            continue
        likely = predict(raw).mean(0)
        if likely.ndim == 2:  # a language model: what comes after the last token
            likely = likely[-1]
        best = np.argsort(-likely, kind="stable")[: told.top]
        found = "  ".join(f"{names[index]} {100 * likely[index]:.2f} %" for index in best)
        print(f"{file}  {found}" + (f"  ({'; '.join(notes)})" if notes else ""))
    return status


if __name__ == "__main__":
    status = main()
    gc.freeze()  # what is imported need not be looked through as Python ends
    sys.exit(status)
