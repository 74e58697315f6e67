"""A compressed network on the disk: what it is, in JSON, and its arrays in one file.

    networks/int8_weights/
      model.json               the model's config, such as Quantized of ConvNet
      data.json                what its inputs and classes are, and how inputs are normalised
      network.json             where it comes from, what was done to it, the SHA-256 of its arrays and other files
      weights.safetensors.gz   the arrays by path; what `gunzip` makes of it any reader of safetensors takes
      config.py                the file of a model of the user's own, with what it imports from beside it

An array that is mostly zeros is kept as what is not 0 and a bit for each position:

    {"head/kernel": array}    ->    {"head/kernel#values": (count,), "head/kernel#bits": (ceil(size / 8),) uint8}

It is read as the trained network that it is:

    network = read_compressed("runs/compress_digits/.../networks/int8_weights")
    outputs = logits(network, network.parameters, network.model_state, inputs)
"""

import gzip
import hashlib
import json
import math
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from research.commandline.loading import load_config
from research.config import to_json
from research.data import base
from research.deployment.standalone import sha256
from research.deployment.trained import Trained
from research.errors import UserError, did_you_mean
from research.jsonl import encode, explained, read_json, write_atomically, write_json
from research.models.base import Altered, Model
from research.training.folder import RunFolder
from research.training.reading import parameters_fingerprint

WEIGHTS = "weights.safetensors.gz"
VALUES, BITS, SHAPES = "#values", "#bits", "shapes"
STATE = "state/"
"""What comes before the path of a part of the model state."""
SPARSE = 0.25
"""From this share of zeros on, an array is kept without them."""


def packed(network: Trained) -> bytes:
    """The content of the file of a network's arrays."""
    return gzip.compress(serialised(network), compresslevel=9, mtime=0)


def serialised(network: Trained) -> bytes:
    """The arrays of a network as safetensors."""
    from safetensors.numpy import save

    tensors, shapes = {}, {}
    for path, array in stored(network).items():
        array = np.ascontiguousarray(array)
        if np.issubdtype(array.dtype, np.floating) and array.size and np.mean(array == 0) >= SPARSE:
            is_there = (array != 0).ravel()
            tensors |= {path + VALUES: array.ravel()[is_there], path + BITS: np.packbits(is_there)}
            shapes[path] = list(array.shape)
        else:
            tensors[path] = array
    return save(tensors, {SHAPES: json.dumps(shapes)} if shapes else None)


def stored(network: Trained) -> dict[str, Any]:
    """All arrays of a network, by path; those of the model state after "state/"."""
    return {**network.parameters, **{STATE + path: array for path, array in network.model_state.items()}}


def unpacked(content: bytes) -> dict[str, np.ndarray]:
    """The arrays that were packed, by path. Raises ValueError where they are not whole."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        plain = gzip.decompress(content)
        tensors = load(plain)
    except (OSError, EOFError, zlib.error, SafetensorError) as error:
        raise ValueError(str(error)) from None
    header = json.loads(plain[8 : 8 + int.from_bytes(plain[:8], "little")])
    found = {path: array for path, array in tensors.items() if not path.endswith((VALUES, BITS))}
    for path, shape in json.loads(header.get("__metadata__", {}).get(SHAPES, "{}")).items():
        is_there = np.unpackbits(tensors[path + BITS], count=math.prod(shape)).astype(bool)
        array = np.zeros(math.prod(shape), tensors[path + VALUES].dtype)
        array[is_there] = tensors[path + VALUES]
        found[path] = array.reshape(shape)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Folders


def write_compressed(folder: Path, network: Trained, told: Mapping[str, Any], run: RunFolder) -> None:
    """Writes a network to a new folder; what describes its data is that of the run it was made of. Raises UserError."""
    with explained(f"write {folder}"):
        folder.mkdir(parents=True)
        for source in run.path.rglob("*.py"):
            copy = folder / source.relative_to(run.path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    write_json(folder / "model.json", to_json(network.model))
    write_json(folder / "data.json", run.read_json("data.json"))
    with explained(f"write {folder}"):
        files = {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
        write_atomically(folder / WEIGHTS, packed(network))
    about = {**told, "from": network.about, "sha256": parameters_fingerprint(stored(network)), "files": files}
    write_json(folder / "network.json", about | {"seal": seal(about)})


def seal(about: Mapping[str, Any]) -> str:
    """The SHA-256 of what network.json tells, but for the seal itself."""
    rest = {name: value for name, value in about.items() if name != "seal"}
    return hashlib.sha256(json.dumps(encode(rest), sort_keys=True).encode()).hexdigest()


def read_about(folder: Path) -> dict[str, Any]:
    """What network.json tells. Raises UserError where it, or a file that it tells of, is not what was written."""
    about = read_json(folder / "network.json")
    if not isinstance(about, dict) or not {"from", "sha256"} <= about.keys():
        raise UserError(f"{folder / 'network.json'}: damaged, for it does not tell of a network")
    if "files" in about and about.get("seal") != seal(about):
        raise UserError(f"{folder / 'network.json'}: damaged, for it is not what was written")
    for name, expected in about.get("files", {}).items():
        with explained(f"read {folder / name}"):
            found = sha256(folder / name)
        if found != expected:
            raise UserError(f"{folder / name}: damaged, for it is not what was written")
    return about


def read_compressed(path: str | Path) -> Trained:
    """The compressed network in a folder. Raises UserError where there is none, or it is damaged."""
    folder = Path(path)
    if not (folder / "network.json").is_file():
        inside = [str(each.parent) for each in sorted(folder.glob("**/network.json"))]
        raise UserError(f"{folder}: holds no compressed network{did_you_mean(str(folder), inside)}")
    about = read_about(folder)
    model = load_config(str(folder / "model.json"), (Altered, Model, object)).config  # object: a Flax module's class
    data = base.from_description(read_json(folder / "data.json"))
    with explained(f"read {folder}"):
        content = (folder / WEIGHTS).read_bytes()
    try:
        arrays = unpacked(content)
    except (ValueError, KeyError) as error:
        raise UserError(f"{folder / WEIGHTS}: damaged or cut off ({error})") from None
    if parameters_fingerprint(arrays) != about["sha256"]:
        raise UserError(f"{folder / WEIGHTS}: damaged, for its arrays are not those that were written")
    parameters = {name: array for name, array in arrays.items() if not name.startswith(STATE)}
    state = {name.removeprefix(STATE): array for name, array in arrays.items() if name.startswith(STATE)}
    return Trained(model, data, parameters, state, {**about["from"], "compressed": str(folder)})
