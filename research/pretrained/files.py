"""Files of tensors: `.safetensors`, alone or in a folder with a config.json, and `.npz`. No format that can run code.

A safetensors file is its header, which tells where each tensor lies, and the tensors. The header is checked whole when
the file is opened; the tensors are mapped into memory, so that each is read from the disk when it is used.
"""

import json
import math
import os
import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from research.errors import UserError, did_you_mean
from research.jsonl import explained, new_folder, sync, write_json

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
PREPROCESSING = "preprocessor_config.json"
SUFFIXES = (".safetensors", ".npz")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
CONVERSION = (
    "convert it where it comes from: safetensors.torch.save_file({k: v.contiguous() for k, v in "
    "torch.load(FILE, weights_only=True).items()}, 'model.safetensors')"
)
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class Source(NamedTuple):
    """What a file or folder holds: tensors by their names, in which file each is, and its config.json, {} if none."""

    path: Path
    tensors: Mapping[str, np.ndarray]
    settings: Mapping[str, Any]


def read_source(path: str | os.PathLike) -> Source:
    """The tensors of a file or folder. Raises UserError for what is no such file, damaged, or could run code."""
    path = Path(path)
    if path.is_dir():
        return Source(path, _read_folder(path), _read_settings(path / CONFIG))
    if not path.exists():
        near = did_you_mean(path.name, os.listdir(path.parent)) if path.parent.is_dir() else ""
        raise UserError(f"{path}: no such file or folder{near}")
    return Source(path, _read_file(path), _read_settings(path.parent / CONFIG))


def read_preprocessing(path: Path) -> dict[str, Any]:
    """What the preprocessor_config.json beside weights says of pictures, {} if there is none."""
    return _read_settings((path if path.is_dir() else path.parent) / PREPROCESSING)


def holds_weights(path: str | os.PathLike) -> bool:
    """Whether a path is that of a file, or of a folder with weights in it, be they such as cannot be read."""
    path = Path(path)
    if path.is_dir():
        return any(file.suffix in (*SUFFIXES, *PICKLES) or file.name == INDEX for file in path.iterdir())
    return path.exists() or path.suffix in (*SUFFIXES, *PICKLES)


def _read_folder(folder: Path) -> dict[str, np.ndarray]:
    if (folder / INDEX).exists():
        return _read_shards(folder)
    if (folder / WEIGHTS).exists():
        return _read_file(folder / WEIGHTS)
    found = sorted([*folder.glob("*.safetensors"), *folder.glob("*.npz")])
    if len(found) == 1:
        return _read_file(found[0])
    if found:
        raise UserError(f"{folder}: which of {', '.join(file.name for file in found)}? Give the path of the file")
    for file in sorted(folder.iterdir()):
        if file.suffix in PICKLES:
            raise _refused(file)
    raise UserError(f"{folder}: no {WEIGHTS} and no other file of weights in it")


def _read_shards(folder: Path) -> dict[str, np.ndarray]:
    index = _read_json(folder / INDEX)
    where = index.get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
        raise UserError(f"{folder / INDEX}: no index of weights, for it has no 'weight_map' {{tensor: file}}")
    tensors: dict[str, np.ndarray] = {}
    problems = []
    for name in sorted(set(where.values())):
        if Path(name).name != name:
            raise UserError(f"{folder / INDEX}: '{name}' is not in the folder")
        try:
            tensors |= _read_file(folder / name)
        except UserError as error:
            problems.extend(error.problems)
    if not problems and (missing := sorted(where.keys() - tensors.keys())):
        problems.append(f"{folder}: {', '.join(missing[:8])} are in {INDEX} and in none of its files")
    if problems:
        raise UserError(*problems)
    return tensors


def _read_file(path: Path) -> dict[str, np.ndarray]:
    with explained(f"read {path}"), open(path, "rb") as file:
        start = file.read(16)
    if start.startswith(b"version https://"):
        raise UserError(
            f"{path}: a pointer of Git LFS, not the file itself; `git lfs pull` where it was cloned gets that"
        )
    if start.lstrip()[:1] == b"<" and start[8:9] != b"{":  # a header of as many bytes may begin so too
        raise UserError(f"{path}: a web page, not weights; the download gave a page of the site in their place")
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix in PICKLES:
        raise _refused(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: no .safetensors or .npz file")
    if start[8:9] != b"{" and (start[:4] == b"PK\x03\x04" or start[:1] == b"\x80"):  # torch's zip, or a plain pickle
        raise _refused(path)
    return _read_safetensors(path)


def _refused(path: Path) -> UserError:
    return UserError(f"{path}: not read, since a pickle could run any code; {CONVERSION}")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise UserError(f"{path}: not read, for it holds Python objects, which could run any code") from None
        raise UserError(f"{path}: damaged or no .npz file ({error})") from None
    except (zipfile.BadZipFile, EOFError, KeyError, OSError, AttributeError, NotImplementedError) as error:
        raise UserError(f"{path}: damaged, cut off or no .npz file ({error})") from None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise UserError(f"{path}: damaged, cut off or no safetensors file ({reason})") from None
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    if unknown := sorted({about["dtype"] for about in header.values()} - DTYPES.keys()):
        raise UserError(f"{path}: tensors of {', '.join(unknown)}, which cannot be read here")
    empty = not any(map(_size, header.values()))  # which cannot be mapped
    content = None if empty else np.asarray(np.memmap(path, np.uint8, mode="r", offset=8 + length))
    return {name: _tensor(content, about) for name, about in header.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """What a `.safetensors` file tells beside its tensors; the file was read before, and so is whole."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length)).get("__metadata__", {})


def _size(about: Mapping) -> int:
    first, end = about["data_offsets"]
    return end - first


def _tensor(content: np.ndarray | None, about: Mapping) -> np.ndarray:
    first, end = about["data_offsets"]
    dtype, shape = np.dtype(DTYPES[about["dtype"]]), tuple(about["shape"])
    return np.zeros(shape, dtype) if not math.prod(shape) else content[first:end].view(dtype).reshape(shape)


def _read_settings(path: Path) -> dict[str, Any]:
    return _read_json(path) if path.exists() else {}


def _read_json(path: Path) -> dict[str, Any]:
    with explained(f"read {path}"):
        content = path.read_bytes()
    try:
        found = json.loads(content)
    except ValueError as error:
        raise UserError(f"{path}: damaged or cut off, for it is not valid JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: a JSON object is needed, and this is a {type(found).__name__}")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def write_file(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors to a `.safetensors` or `.npz` file, which is there whole or not at all. Raises UserError.

    metadata: what a `.safetensors` file tells beside them, see `read_metadata`.
    """
    beside = _beside(path)
    with explained(f"write {path}"):
        try:
            _write(beside, path.suffix, tensors, metadata)
            os.replace(beside, path)
            sync(path.parent)
        finally:
            beside.unlink(missing_ok=True)


def write_folder(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    settings: Mapping[str, Any] | None,
    preprocessing: Mapping[str, Any] | None = None,
) -> None:
    """Writes model.safetensors, config.json and preprocessor_config.json, of what there is, to a new folder.

    All or nothing. Raises UserError if the folder is there.
    """
    with new_folder(path) as beside, explained(f"write {path}"):
        _write(beside / WEIGHTS, ".safetensors", tensors)
        if settings is not None:
            write_json(beside / CONFIG, settings)
        if preprocessing is not None:
            write_json(beside / PREPROCESSING, preprocessing)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _write(
    path: Path, suffix: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    if suffix == ".npz":
        with open(path, "wb") as file:
            np.savez(file, **arrays)
    else:
        from safetensors.numpy import save_file

        told = {"format": "pt", **(metadata or {})}  # as torch wants it, which is how transformers asks
        save_file(arrays, path, metadata=told)
    sync(path)
