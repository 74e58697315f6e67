"""Arrays that are slow to make are made once: kept under a folder of the user's, and made again when damaged.

The folder is that of the environment variable FATHOM_CACHE, or else ~/.cache/fathom. A cache is a convenience: where
it cannot be written everything works without it, only slower.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]


def folder() -> Path:
    """Where things are kept between runs."""
    return Path(os.environ.get("FATHOM_CACHE") or Path("~/.cache/fathom").expanduser())


def cached(key: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays kept under `key`, which says all that they depend on; `make()`, kept for next time, where none are."""
    path = folder() / "arrays" / f"{key}.npz"
    arrays = _read(path)
    if arrays is None:
        arrays = make()
        _keep(path, arrays)
    return arrays


def _read(path: Path) -> Arrays | None:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}  # zip's checksums are verified on the way
    except Exception:  # a damaged zip can raise nearly anything, and any of it means: make them again
        return None


def _keep(path: Path, arrays: Arrays) -> None:
    with contextlib.suppress(OSError):
        write_atomically(path, lambda file: np.savez(file, **arrays))


def write_atomically(path: Path, write: Callable) -> None:
    """Make a file that is whole or not there at all, whatever else writes it or stops this process.

    `write` is given the open binary file. Raises OSError where the folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
