"""What is set for a process before JAX starts, and never against what the user has set.

remember_programs()       # before jax is imported: what was compiled once is read from the disk
use_all_cores()           # before jax computes: a device for each core, for trials that are laid over devices
knows("xla_cpu_…")        # whether a flag of XLA's may be set
"""

import importlib.util
import mmap
import os
from pathlib import Path

MOST_BYTES = 4 << 30
"""Of compiled programs that are kept; the oldest go."""
LIBRARIES = (".so", ".dylib", ".dll", ".pyd")


def remember_programs() -> None:
    """Lets JAX keep compiled programs in the user's cache folder, unless its variables say otherwise."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(Path(home, "fathom", "programs")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(MOST_BYTES),
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> None:
    """Makes each core of the processor a device of JAX's, where none has computed yet and no flag says how many."""
    import jax

    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    if "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    try:
        jax.config.update("jax_num_cpu_devices", cores())
    except RuntimeError:  # a device is at work already
        return


def knows(flag: str) -> bool:
    """Whether the installed jaxlib has a flag of XLA's, by its name: one that it does not know ends the process.

    The name is looked for in the library, for asking XLA would take a process that may end.
    """
    spec = importlib.util.find_spec("jaxlib")
    folders = spec.submodule_search_locations if spec else None
    found = [path for folder in folders or () for path in Path(folder).rglob("*") if path.suffix in LIBRARIES]
    by_size = sorted((path for path in found if path.stat().st_size), key=lambda path: -path.stat().st_size)
    return any(_holds(path, f"{flag}\0".encode()) for path in by_size)


def _holds(path: Path, wanted: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(wanted) >= 0
