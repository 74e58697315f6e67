"""The run folder: everything that a run leaves behind, readable without this package.

    runs/NAME/20260101-120000-3fa9c1/
      config.json  config.py  environment.json  inspection.json  data.json  metrics.jsonl  checkpoints/  summary.json

The name of the last folder is the time the run began (UTC) and the beginning of its config's fingerprint. A folder is
a run's if it holds `config.json`. One process at a time may write to it, the one that holds the lock; any may read.

    run = create("runs", "digits_cnn", fingerprint(experiment))
    with run.lock():
        run.write_json("config.json", to_json(experiment))
"""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from research.errors import UserError, did_you_mean
from research.jsonl import explained, folders_holding, read_json, sync, write_atomically, write_json

PACKAGES = ("fathom", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class RunFolder(NamedTuple):
    """A run's folder and what is done with it. Made by `create` and `open_run`."""

    path: Path

    @property
    def name(self) -> str:
        """What the experiment is called."""
        return self.path.absolute().parent.name

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints are."""
        return self.path / "checkpoints"

    def has(self, name: str) -> bool:
        """Whether the file `name` is there: "summary.json"."""
        return (self.path / name).is_file()

    def read_json(self, name: str) -> Any:
        """The content of the file `name`. Raises UserError where it is missing, cut off or damaged."""
        return read_json(self.path / name)

    def write_json(self, name: str, data: Any) -> None:
        """Writes the file `name`, which is whole at any moment. Raises UserError (disk full)."""
        write_json(self.path / name, data)

    def copy_config_file(self, source: Path) -> None:
        """Keeps the config file that the run came from, as config.py. Raises UserError."""
        with explained(f"copy {source} to {self.path}"):
            content = Path(source).read_bytes()
        write_atomically(self.path / "config.py", content)

    def copy_module(self, name: str, source: Path) -> None:
        """Keeps a module that the config file imported from beside it, at the same place beside the copy."""
        with explained(f"copy {source} to {self.path}"):
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            content = source.read_bytes()
        write_atomically(self.path / name, content)

    def append_environment(self, began_in: dict[str, Any], resumed_in: dict[str, Any]) -> None:
        """Adds the environment that the run is resumed in to environment.json. Raises UserError."""
        resumed = [*began_in.get("resumed", []), resumed_in]
        self.write_json("environment.json", {**began_in, "resumed": resumed})

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the run for this process, which a second one is refused: UserError with the first one's number.

        The system lets go of the lock when the process ends, however it ends.
        """
        import fcntl  # not on Windows

        with explained(f"lock {self.path}"):
            file = open(self.path / ".lock", "a+")  # noqa: SIM115 (closed below; "w" would wipe the holder's number)
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip()
                who = f"process {holder}" if holder else "another process"
                raise UserError(f"{self.path}: {who} is writing to this run; wait for it or stop it") from None
            except OSError as error:
                raise UserError(f"cannot lock {self.path}: {error.strerror}") from error
            with explained(f"lock {self.path}"):
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
            yield


# ---------------------------------------------------------------------------------------------------------------------
# Making and finding


def create(workdir: Path | str, name: str, fingerprint: str) -> RunFolder:
    """A new, empty run folder workdir/name/ID that no other process has. Raises UserError where it cannot be made."""
    if not name or name in (".", "..") or "/" in name or os.sep in name or name.startswith("."):
        raise UserError(f"name: {name!r} cannot be the name of a folder")
    group = Path(workdir) / name
    began = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    with explained(f"make a run folder in {workdir}"):
        group.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            path = group / f"{began}-{fingerprint[:6]}{f'-{attempt}' if attempt > 1 else ''}"
            with contextlib.suppress(FileExistsError):
                path.mkdir()  # of two processes, it succeeds in one
                sync(group)
                return RunFolder(path)
    raise UserError(f"cannot make a run folder in {group}: a thousand of this second are there already")


def open_run(path: Path | str) -> RunFolder:
    """The run folder at `path`, or the newest of the runs that lie in it: "runs/digits_cnn" is the last of that name.

    Raises UserError for anything else, with the nearest run.
    """
    path = Path(path)
    if (path / "config.json").is_file():
        return RunFolder(path)
    if path.is_dir() and (inside := sorted(path.glob("*/config.json"))):
        return RunFolder(inside[-1].parent)  # a run's name begins with the time
    if not path.exists():
        raise UserError(f"{path}: there is no such run{_nearest(path)}")
    raise UserError(f"{path} is no run folder, for it holds no config.json{_nearest(path)}")


def _nearest(path: Path) -> str:
    if inside := folders_holding("config.json", path):
        return f"; did you mean '{inside[-1]}'?"  # the newest
    for parent in path.parents[:2]:
        if parent != Path() and (around := folders_holding("config.json", parent)):
            return did_you_mean(str(path), map(str, around[-100:]))
    return ""


# ---------------------------------------------------------------------------------------------------------------------
# Where it ran


def environment(command: Sequence[str] = (), config_file: Path | None = None) -> dict[str, Any]:
    """What a run's result may depend on besides its config, for environment.json. Never fails.

    The revision is that of the repository which the config file is in, or else the working folder.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "versions": {package: _version(package) for package in PACKAGES},
        "devices": [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()],
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "allocator": {name: value for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")},
        "git": _git(Path(config_file).parent if config_file else Path()),
        "command": list(command),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(folder: Path) -> dict[str, Any] | None:
    """The revision that `folder` is at, and whether files were changed since; None outside a repository."""
    revision = _ask_git(folder, "rev-parse", "HEAD")
    changes = _ask_git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"revision": revision, "changed": changes != ""} if revision and changes is not None else None


def _ask_git(folder: Path, *words: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
