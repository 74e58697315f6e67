"""What all tests share: a cache of compiled programs, quick compilation, and eight devices where there is only a CPU.

All are settings of JAX's that must be in the environment before it is imported; programs that tests start inherit
them. The cache is in pytest's own (`pytest --cache-clear` empties it), or where FATHOM_CACHE says.
"""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from research import runtime

MAPS = Path("/proc/self/maps")
MOST_MAPS = 20_000
CACHE = Path(os.environ.get("FATHOM_CACHE") or Path(__file__).parents[1] / ".pytest_cache") / "jax"

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# Tests compile thousands of tiny programs and run each of them a few times: what XLA does to make programs fast would
# be most of their time.
FLAGS = {
    "xla_force_host_platform_device_count": "8",
    "xla_backend_optimization_level": "0",
    "xla_cpu_use_fusion_emitters": "false",
    **runtime.FLAGS,  # what a user's programs are compiled with
}
given = os.environ.get("XLA_FLAGS", "")
added = [f"--{name}={value}" for name, value in FLAGS.items() if name not in given and runtime.knows(name)]
os.environ["XLA_FLAGS"] = " ".join([*given.split(), *added])

settings.register_profile("fathom", deadline=None)  # the first example of a test may compile
settings.load_profile("fathom")


def pytest_runtest_setup(item):
    """Leaves out what needs more devices than there are: `@pytest.mark.devices(8)`."""
    for mark in item.iter_markers("devices"):
        import jax

        if jax.device_count() < mark.args[0]:
            pytest.skip(f"needs {mark.args[0]} devices, and there are {jax.device_count()}")


@pytest.fixture(scope="module", autouse=True)
def memory_maps():
    """Forgets the compiled programs of a long session before the kernel's limit of memory maps ends it.

    Each program takes some maps; a process may have 65,530 of them (`vm.max_map_count`), and XLA ends in a segmentation
    fault where it gets no more.
    """
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        import jax

        jax.clear_caches()


@pytest.fixture(scope="session")
def one_device() -> dict[str, str]:
    """For programs that a test starts: the environment of the tests, but with one device, as a user's CPU is."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    return {**os.environ, "XLA_FLAGS": " ".join(flags)}
