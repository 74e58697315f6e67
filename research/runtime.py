"""What is set for a process before JAX starts, and never against what the user has set.

keep_memory()             # first of all: starts the program anew, with a C library that keeps what is freed
remember_programs()       # before jax is imported: what was compiled once is read from the disk
tune()                    # before jax computes: flags of XLA's with which networks train faster
set_flag("xla_cpu_…", …)  # before jax computes: one of them, in place of what it is
use_all_cores()           # before jax computes: a device for each core, for trials that are laid over devices
run_once(...)             # in the place of jax.jit: a program that is compiled quickly, for it runs once
knows("xla_cpu_…")        # whether a flag of XLA's may be set
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import mmap
import os
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


MOST_BYTES = 4 << 30
"""Of compiled programs that are kept; the oldest go."""
LIBRARIES = (".so", ".dylib", ".dll", ".pyd")
FUSIONS, ONEDNN = "xla_cpu_experimental_ynn_fusion_type", "xla_cpu_experimental_onednn_custom_call"
DEVICES = "xla_force_host_platform_device_count"
PRODUCTS = "LIBRARY_FUSION_TYPE_DOT"
HANDED = {
    "products to YNNPACK": {FUSIONS: PRODUCTS},
    "products, elementwise and sums to YNNPACK": {
        FUSIONS: f"{PRODUCTS},LIBRARY_FUSION_TYPE_ELTWISE,LIBRARY_FUSION_TYPE_REDUCE"
    },
    "products to YNNPACK, a device for each core": {FUSIONS: PRODUCTS, DEVICES: str(cores())},
    "products and convolutions to oneDNN": {FUSIONS: PRODUCTS, ONEDNN: "true"},
    "nothing": {FUSIONS: ""},
}
"""What of a program XLA may hand to a library on a CPU, and the flags that say so; the usual comes first.

jaxlib 0.10 and 0.11 hand all to YNNPACK by default, convolutions one by one included, which it computes slowly. With
products of matrices alone a ResNet-20 trains at 1.6 times the speed, a network of two convolutions at 1.8, and others
at 0.9 to 1.05 (`experiments/benchmarks/RESULTS.md`).

Where each core is a device, they share each batch that their number divides. That way a GPT trains at 1.12 to 1.16
times the speed, for all of it runs in parallel and not its products alone; networks of convolutions are slower.

With oneDNN, which jaxlib has since 0.11, convolutions are faster still where the processor has AVX-512. But a program
that it is in cannot be kept: it is compiled at each start, which is dear for all that is short.
"""
FLAGS = next(iter(HANDED.values()))
"""Of XLA's, what is better than its default. On a GPU or a TPU they change nothing."""
QUICKLY = {"xla_backend_optimization_level": 1}
"""Options for a program that takes longer to compile than to run."""
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "67108864"}
"""Variables by which glibc keeps what is freed; else large arrays are given back, and taken page by page, each step."""


def keep_memory() -> None:
    """Starts this program anew with `ALLOCATOR`, which is read when a process starts; once, and it does not return.

    Does nothing where the C library is another, or where the user has set any of its variables.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **ALLOCATOR})


def cache_folder() -> Path:
    """Where this user's caches of ours are."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "fathom")


def remember_programs() -> None:
    """Lets JAX keep compiled programs in the user's cache folder, unless its variables say otherwise.

    Only our own folder has a largest size. JAX writes nothing more, and warns each time, into a folder that has one and
    holds a program without the time of its last use: one that came there while the folder had none, as another's may,
    or whose process was killed in the midst of it. To such a program in our folder the earliest time is given.
    """
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = cache_folder() / "programs"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(MOST_BYTES))
    with contextlib.suppress(OSError):
        names = set(os.listdir(folder))
        for name in names:
            used = name.removesuffix("-cache") + "-atime"
            if name.endswith("-cache") and used not in names:
                (folder / used).touch()  # empty, JAX reads it as 0; left as it is if another process has written it


def tune() -> dict[str, str]:
    """Sets the flags of XLA's that make training faster, and returns those that it set.

    Left alone is what the user's XLA_FLAGS have a value for, and what the installed jaxlib does not know. To be called
    before JAX computes; after that it sets nothing, and warns.
    """
    given = os.environ.get("XLA_FLAGS", "")
    added = {name: value for name, value in FLAGS.items() if name not in given and _is_known(name)}
    if added and _has_begun():
        warnings.warn("JAX has computed already, and so its flags stay as they are; call tune() before", stacklevel=2)
        return {}
    if added:
        os.environ["XLA_FLAGS"] = " ".join([given, *(f"--{name}={value}" for name, value in added.items())]).strip()
    return added


def choices() -> dict[str, dict[str, str]]:
    """What of `HANDED` the installed jaxlib can do, and the user has not said otherwise."""
    version = tuple(map(int, re.findall(r"\d+", importlib.metadata.version("jaxlib"))[:2]))
    left_out = {ONEDNN} if version < (0, 11) else set()  # known before that, and idle
    if says_devices() or cores() == 1:
        left_out.add(DEVICES)
    return {name: flags for name, flags in HANDED.items() if not left_out & flags.keys() and all(map(_is_known, flags))}


def says_devices() -> bool:
    """Whether the environment says how many devices the processor is."""
    return DEVICES in os.environ.get("XLA_FLAGS", "") or "JAX_NUM_CPU_DEVICES" in os.environ


def hand(flags: Mapping[str, str]) -> None:
    """Sets which libraries XLA may use, as in `HANDED`, in place of what XLA_FLAGS says of that.

    To be called before JAX computes; after that it sets nothing, and warns.
    """
    if _has_begun():
        warnings.warn("JAX has computed already, and so its flags stay as they are", stacklevel=2)
        return
    os.environ["XLA_FLAGS"] = handing(os.environ.get("XLA_FLAGS", ""), flags)
    if ONEDNN in flags:  # JAX tries, fails, and goes on
        warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry")


def handing(xla_flags: str, flags: Mapping[str, str]) -> str:
    """What XLA_FLAGS says with these; of libraries that they do not tell of, jaxlib's default holds."""
    others = {FUSIONS, ONEDNN} | flags.keys()
    kept = [word for word in xla_flags.split() if word.removeprefix("--").partition("=")[0] not in others]
    return " ".join([*kept, *(f"--{name}={value}" for name, value in flags.items())])


def _has_begun() -> bool:
    """Whether JAX has a device at work, which is when XLA reads its flags."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    return getattr(bridge, "backends_are_initialized", lambda: False)()


def _is_known(flag: str) -> bool:
    """`knows`, remembered for the installed jaxlib: looking takes a moment."""
    spec = importlib.util.find_spec("jaxlib")
    if spec is None or spec.origin is None:
        return False
    path, at = cache_folder() / "flags.json", f"{spec.origin} {os.stat(spec.origin).st_mtime_ns} {flag}"
    try:
        known = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        known = {}
    if at not in known:
        known[at] = knows(flag)
        write_if_possible(path, json.dumps(known))
    return known[at] is True


def write_if_possible(path: Path, text: str) -> None:
    """Writes a file of a cache, whole or not at all; what cannot be remembered is found out again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        os.replace(name, path)
    except OSError:
        return


def use_all_cores() -> None:
    """Makes each core of the processor a device of JAX's, where none has computed yet and no flag says how many."""
    import jax

    if says_devices():
        return
    try:
        jax.config.update("jax_num_cpu_devices", cores())
    except RuntimeError:  # a device is at work already
        return


def run_once(static_argnums: int | tuple[int, ...]) -> Callable[[Callable], Callable]:
    """A decorator like `jax.jit`, for what is run once: on a CPU it is compiled with the least optimisation of LLVM's.

    The draws of a network's initial weights take LLVM three times as long at its usual level, longer than the program
    of a training step, and come out the same to the bit. Calls, and `lower`, are of the outermost program alone: within
    another, JAX takes no options. What `lower` compiles ahead of time a call finds on the disk (`remember_programs`),
    for in memory JAX keeps no program with options of its own.
    """

    def decorate(function: Callable) -> Callable:
        @functools.cache
        def program():
            import jax

            options = QUICKLY if jax.default_backend() == "cpu" else None
            return jax.jit(function, static_argnums=static_argnums, compiler_options=options)

        @functools.wraps(function)
        def call(*arguments, **named):
            return program()(*arguments, **named)

        call.lower = lambda *arguments: program().lower(*arguments)
        return call

    return decorate


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
