"""JSON on disk: files and folders that are whole or not there, and tables with a row a line that survive a crash.

What is written is strict JSON, which any language reads. JSON has no NaN and no infinity, so these are written as the
strings "NaN", "Infinity" and "-Infinity", and are numbers again when read here (pandas reads them as numbers, too).

    {"step": 100, "split": "train", "time": 1.5, "loss": 0.25}
    {"step": 200, "split": "train", "time": 2.9, "loss": "NaN"}
    {"step": 300, "split": "tra                                       <- cut off by a crash: no row, and no error
"""

import contextlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from research.errors import UserError

NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@contextlib.contextmanager
def explained(action: str) -> Iterator[None]:
    """Tells an error of the operating system (disk full, no permission) as a UserError: "cannot `action`: why"."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot {action}: {error.strerror or error}") from error


# ---------------------------------------------------------------------------------------------------------------------
# Values


def encode(value: Any) -> Any:
    """`value` as strict JSON has it: tuples as lists, NumPy and JAX arrays as numbers and lists, NaN as "NaN"."""
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return encode(value.tolist())
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")


def decode(value: Any) -> Any:
    """What `encode` made a string of is a number again."""
    if isinstance(value, dict):
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode(item) for item in value]
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value


# ---------------------------------------------------------------------------------------------------------------------
# Whole files


def write_json(path: Path, data: Any) -> None:
    """Writes `data` to `path`, which holds the old content or the new at any moment. Raises UserError (disk full)."""
    text = json.dumps(encode(data), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces the file at `path` at one stroke, and only when the new content is on the disk. Raises UserError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with explained(f"write {path}"):
        try:
            with open(beside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
            sync(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write into, which takes its place if all goes well, and is gone if not.

    Raises UserError where something is there already, but for an empty folder, and where it cannot be written.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: exists already; give the path of a new folder")
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with explained(f"write {path}"):
            beside.mkdir(parents=True)
        yield beside
        with explained(f"write {path}"):
            sync(beside)
            if path.exists():
                path.rmdir()
            os.rename(beside, path)
            sync(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any:
    """What `write_json` wrote. Raises UserError for a file that is missing, cut off or damaged."""
    with explained(f"read {path}"):
        content = path.read_bytes()
    try:
        return decode(json.loads(content))
    except ValueError as error:
        raise UserError(f"{path}: damaged or cut off, for it is not valid JSON ({error})") from error


def folders_holding(name: str, folder: Path) -> list[Path]:
    """The folders at or below `folder` with a file called `name`, sorted; not looked for in hidden ones."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [inner for inner in folders if not inner.startswith(".")]
        if name in files:
            found.append(Path(parent))
    return sorted(found)


# ---------------------------------------------------------------------------------------------------------------------
# A row a line


def row(values: Mapping[str, Any]) -> bytes:
    """A row as the line that stands for it, with its end."""
    return json.dumps(encode(values), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Every complete line of a table with the row it holds; a last line without an end was cut off and is left out.

    Raises UserError for a file that cannot be read and for a line that is no row, by its number.
    """
    with explained(f"read {path}"):
        *lines, _cut_off = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            values = decode(json.loads(line))
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise UserError(f"{path}, line {number}: damaged, for it is no JSON object: {_short(line)}")
        found.append((line + b"\n", values))
    return found


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table. Raises as `read_lines` does."""
    return [values for _, values in read_lines(path)]


def _short(line: bytes) -> str:
    text = line.decode(errors="replace")
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
