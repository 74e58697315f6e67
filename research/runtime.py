"""What is set for a process before JAX starts, and never against what the user has set.

remember_programs()       # before jax is imported: what was compiled once is read from the disk
use_all_cores()           # before jax computes: a device for each core, for trials that are laid over devices
"""

import os
from pathlib import Path

MOST_BYTES = 4 << 30
"""Of compiled programs that are kept; the oldest go."""


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
