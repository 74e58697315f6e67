"""Checkpoints: what a run needs to go on, and what is worth using, each whole or not there.

    checkpoints/
      latest/300/  latest/400/    to resume from
      best/250/                   to use
      frozen/                     parameters that never change, saved once

A checkpoint is a folder. Orbax writes its arrays; `about.json` says what they are; `checksums.json`, written last,
holds the SHA-256 of every other file. All of it is made in a folder beside, forced to the disk, and only then given its
name, so that a process killed at any moment leaves complete checkpoints and, at worst, some rubbish with a dot before
its name. Orbax restores a flipped bit without a word; the checksums are what notices.

Saving copies the arrays and returns; one thread writes. Of a step that is the best so far, `best` is written before
`latest`: a run that resumes from `latest` finds the best it remembers.

    with Checkpoints(folder) as checkpoints:
        checkpoints.save(400, {"head/kernel": kernel}, {"epoch": 3}, best=True)
        step, arrays, about, notes = checkpoints.restore_latest()
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research.errors import UserError
from research.jsonl import encode, read_json, sync, write_json

ARRAYS, ABOUT, CHECKSUMS = "arrays", "about.json", "checksums.json"
UNFINISHED, REPLACED, REMOVED = ".saving-", ".replaced-", ".removed-"

REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR)
"""Errors of the system that are the disk's fault, not ours."""


class Checkpoint(NamedTuple):
    """A checkpoint as it was read; `notes` tell, a line each, of damaged ones that had to be passed over."""

    step: int
    arrays: dict[str, np.ndarray]
    about: dict[str, Any]
    notes: list[str]


class Checkpoints:
    """The checkpoints of one run, in `folder`. Only the process that holds the run's lock may save; any may restore."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder = Path(folder)
        self.keep = keep
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._pending: Future | None = None
        self._clean = False

    def save(self, step: int, arrays: Mapping[str, jax.Array | np.ndarray], about: dict, *, best: bool) -> None:
        """Copies `arrays` and returns; they are written behind the caller's back, who may donate them at once.

        `about` goes to JSON; a run that is to be bit for bit the same when resumed keeps the time of day out of it.
        A save that is still under way is waited for first, and raises here what went wrong in it.
        """
        self.wait()
        copies, about = _copy(arrays), encode(about)
        self._pending = self._worker.submit(self._save, step, copies, about, best)

    def save_frozen(self, arrays: Mapping[str, jax.Array | np.ndarray]) -> None:
        """Saves the parameters that never change, also where there are none; returns when they are on the disk."""
        self.wait()
        self._pending = self._worker.submit(self._save_frozen, _copy(arrays))
        self.wait()

    def wait(self) -> None:
        """Returns when all is on the disk. Raises UserError for a disk that is full or may not be written to."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except Exception as error:
            if (reason := _fault_of_the_disk(error)) is None:
                raise
            raise UserError(f"cannot save a checkpoint in {self.folder}: {reason}") from error

    def close(self) -> None:
        """Waits, as `wait` does, and lets the thread go. Without it, what is being written may be lost."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            self.close()
        except UserError as failure:
            if error is None:
                raise
            error.add_note(str(failure))  # what happened first is what to tell

    def steps(self, group: str = "latest") -> list[int]:
        """Steps of the checkpoints that are there, damaged ones included, in order. `group` may be "best"."""
        folder = self.folder / group
        names = [path.name.removeprefix(REPLACED) for path in folder.iterdir()] if folder.is_dir() else []
        return sorted({int(name) for name in names if name.isdigit()})

    def restore_latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None where nothing was saved. Raises UserError if all are damaged."""
        self.wait()
        return self._newest("latest", "going on from") if self.steps() else None

    def restore_best(self) -> Checkpoint:
        """The best checkpoint. Raises UserError where there is none that is whole."""
        self.wait()
        if not self.steps("best"):
            raise UserError(f"{self.folder / 'best'}: no best checkpoint has been saved yet")
        return self._newest("best", "using")

    def restore_frozen(self) -> dict[str, np.ndarray]:
        """The parameters that never change. Raises UserError where they are missing or damaged."""
        self.wait()
        try:
            return _read(self.folder / "frozen")[0]
        except Damaged as damage:
            raise UserError(f"{self.folder / 'frozen'}: the frozen parameters are damaged ({damage})") from damage

    def _newest(self, group: str, doing: str) -> Checkpoint:
        self.wait()
        damages: list[str] = []
        for step in reversed(self.steps(group)):
            folder = self.folder / group / str(step)
            try:
                arrays, about = _read(folder)
            except Damaged as damage:
                if not _present(folder).exists():  # the run goes on meanwhile, in another process, and has a newer one
                    return self._newest(group, doing)
                damages.append(f"checkpoint at step {step} is damaged ({damage})")
            else:
                return Checkpoint(step, arrays, about, [f"{damage}; {doing} step {step}" for damage in damages])
        nothing = [f"{damage}, and no older one is whole" for damage in damages] or ["the checkpoints are gone"]
        raise UserError(*(f"{self.folder / group}: {problem}" for problem in nothing))

    def _save(self, step: int, arrays: dict[str, np.ndarray], about: dict, best: bool) -> None:
        self._clean_up()
        if best:
            self._commit("best", step, arrays, about, keep=1)
        self._commit("latest", step, arrays, about, keep=self.keep)

    def _save_frozen(self, arrays: dict[str, np.ndarray]) -> None:
        self._clean_up()
        _replace(self.folder / "frozen", arrays, {})

    def _clean_up(self) -> None:
        """Removes what a killed process left. At the first save: who only reads must not touch what another writes."""
        if not self._clean:
            _remove_rubbish(self.folder)
            self._clean = True

    def _commit(self, group: str, step: int, arrays: dict[str, np.ndarray], about: dict, keep: int) -> None:
        _replace(self.folder / group / str(step), arrays, about)
        # A latest checkpoint past this step is a damaged one that was passed over, a best one of a run not yet resumed.
        steps = self.steps(group)
        kept = [known for known in steps if known <= step][-keep:]
        for old in set(steps) - set(kept):
            _remove(self.folder / group / str(old))


# ---------------------------------------------------------------------------------------------------------------------
# One checkpoint


class Damaged(Exception):
    """A checkpoint that is not what was saved; says which file, and how."""


def _copy(arrays: Mapping[str, jax.Array | np.ndarray]) -> dict[str, np.ndarray]:
    """Copies on the host. `np.asarray` would not do: on a CPU it is a view of a buffer that is about to be donated."""
    for array in arrays.values():
        if isinstance(array, jax.Array):
            array.copy_to_host_async()
    return {key: np.array(array, order="C", copy=True) for key, array in arrays.items()}


def _replace(folder: Path, arrays: dict[str, np.ndarray], about: dict) -> None:
    """Makes `folder` the checkpoint of `arrays` and `about`; where it is that already, it is left alone."""
    if not _holds(folder, arrays, about):
        _write(folder, arrays, about)


def _holds(folder: Path, arrays: dict[str, np.ndarray], about: dict) -> bool:
    try:
        there, about_there = _read(folder)
    except Damaged:
        return False
    same_about = json.dumps(encode(about_there), sort_keys=True) == json.dumps(about, sort_keys=True)
    return same_about and there.keys() == arrays.keys() and all(_same(there[key], arrays[key]) for key in arrays)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _write(folder: Path, arrays: dict[str, np.ndarray], about: dict) -> None:
    beside = folder.with_name(f"{UNFINISHED}{folder.name}")
    try:
        if beside.exists():
            shutil.rmtree(beside)
        beside.mkdir(parents=True)
        _make_sure_of_room(beside, arrays)
        _write_arrays(beside / ARRAYS, arrays)
        shapes = {key: {"shape": array.shape, "dtype": array.dtype.name} for key, array in arrays.items()}
        write_json(beside / ABOUT, {"about": about, "arrays": shapes})
        _sync_all(beside)
        write_json(beside / CHECKSUMS, {"sha256": _checksums(beside)})
        replaced = _replaced(folder)
        if folder.exists():
            os.rename(folder, replaced)  # it counts until the new one has its name
        os.rename(beside, folder)
        sync(folder.parent)
        sync(folder.parent.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except Exception:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _make_sure_of_room(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raises OSError where the disk has no room for the arrays: orbax would print pages of traces from its threads."""
    if not hasattr(os, "posix_fallocate"):  # not on macOS
        return
    room = folder / ".room"
    with open(room, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, sum(array.nbytes + 4096 for array in arrays.values()) + 65536)
    room.unlink()


def _replaced(folder: Path) -> Path:
    return folder.with_name(f"{REPLACED}{folder.name}")


def _present(folder: Path) -> Path:
    """The checkpoint, or the one that it was about to replace when the process was killed."""
    return folder if folder.exists() or not _replaced(folder).exists() else _replaced(folder)


def _write_arrays(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    stored = {key: array for key, array in arrays.items() if array.size}  # orbax refuses arrays of no elements
    if not stored:
        return
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(stored))
    if not folder.is_dir():
        raise RuntimeError(f"orbax saved nothing to {folder}")


def _read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and `about` of a checkpoint. Raises Damaged, or UserError where reading is not permitted."""
    folder = _present(folder)
    _verify(folder)
    content = read_json(folder / ABOUT)
    shapes = {key: (tuple(a["shape"]), jnp.dtype(a["dtype"])) for key, a in content["arrays"].items()}
    stored = _read_arrays(folder / ARRAYS, [key for key, (shape, _) in shapes.items() if 0 not in shape])
    arrays = {key: stored[key] if key in stored else np.zeros(*form) for key, form in shapes.items()}
    for key, form in shapes.items():
        if (arrays[key].shape, arrays[key].dtype) != form:
            raise Damaged(f"{key}: not of the shape and dtype it was saved with")
    return arrays, content["about"]


def _read_arrays(folder: Path, keys: list[str]) -> dict[str, np.ndarray]:
    if not keys:
        return {}
    import orbax.checkpoint as ocp

    as_numpy = {key: ocp.RestoreArgs(restore_type=np.ndarray) for key in keys}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def _verify(folder: Path) -> None:
    if not folder.is_dir():
        raise Damaged("it is missing")
    if not (folder / CHECKSUMS).exists():
        raise Damaged(f"{CHECKSUMS} is missing")
    try:
        checksums = dict(read_json(folder / CHECKSUMS)["sha256"])
    except (UserError, KeyError, TypeError, ValueError):
        raise Damaged(f"{CHECKSUMS} is damaged") from None
    if ABOUT not in checksums:
        raise Damaged(f"{CHECKSUMS} is damaged")
    for name, expected in checksums.items():
        try:
            found = _checksum(folder / name)
        except PermissionError as error:
            raise UserError(f"cannot read {folder / name}: {error.strerror}") from error
        except FileNotFoundError:
            raise Damaged(f"file {name} is missing") from None
        except OSError as error:
            raise Damaged(f"file {name}: {error.strerror}") from None
        if found != expected:
            raise Damaged(f"file {name}: checksum differs")


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _checksum(path) for path in files}


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_all(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        sync(path)


# ---------------------------------------------------------------------------------------------------------------------
# Rubbish and mishaps


def _remove(folder: Path) -> None:
    """Removes a checkpoint at one stroke, so that neither a kill nor who reads meanwhile finds half of it."""
    beside = folder.with_name(f"{REMOVED}{folder.name}")
    shutil.rmtree(beside, ignore_errors=True)
    os.rename(_present(folder), beside)
    shutil.rmtree(beside)


def _remove_rubbish(folder: Path) -> None:
    for prefix in (UNFINISHED, REPLACED, REMOVED):
        for path in [*folder.glob(f"{prefix}*"), *folder.glob(f"*/{prefix}*")]:
            whole = path.with_name(path.name.removeprefix(prefix))
            if prefix == REPLACED and not whole.exists():
                os.rename(path, whole)
            else:
                shutil.rmtree(path)


def _fault_of_the_disk(error: BaseException | None) -> str | None:
    """Why the disk could not be written to, or None for any other error. Orbax tells of it in text alone."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if error is None:
        return None
    for reason in map(os.strerror, REFUSALS):
        if reason in str(error):
            return reason
    return _fault_of_the_disk(error.__cause__)


# ---------------------------------------------------------------------------------------------------------------------
# Fitting


def match(
    arrays: Mapping[str, np.ndarray], template: Mapping[str, jax.ShapeDtypeStruct], where: str
) -> dict[str, np.ndarray]:
    """`arrays` in the order of `template`, if they are what it asks for: these keys, of these shapes and dtypes.

    Raises UserError with a line for what is missing, one for what is too much, and one for each that differs; `where`
    is what to call the checkpoint: "runs/digits/20260101-120000-3fa9c1".
    """
    problems = []
    if missing := [key for key in template if key not in arrays]:
        problems.append(f"without {_some(missing)}")
    if extra := [key for key in arrays if key not in template]:
        problems.append(f"with {_some(extra)}, which is not here")
    for key in (key for key in template if key in arrays):
        there, here = arrays[key], template[key]
        if tuple(there.shape) != tuple(here.shape):
            problems.append(f"{key} is {tuple(there.shape)} there and {tuple(here.shape)} here")
        elif there.dtype != here.dtype:
            problems.append(f"{key} is {there.dtype.name} there and {jnp.dtype(here.dtype).name} here")
    if problems:
        raise UserError(*(f"{where}: checkpoint of another model: {problem}" for problem in problems))
    return {key: arrays[key] for key in template}


def _some(keys: list[str], limit: int = 20) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
