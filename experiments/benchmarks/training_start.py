"""From nothing to 99 % on MNIST: seconds from the start of a process to its end, of launch.py and of plain PyTorch.

    found = measure(rounds=3, epochs=3)      # {"ours, cold": [(seconds, test accuracy), ...], ...}

Where the files of MNIST are, MNIST_DIR says. `training.py` prints the table.
"""

import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from training_rows import EAGER, OURS  # noqa: E402


def measure(rounds: int, epochs: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds and test accuracy of each, which take turns; PyTorch where it is installed."""
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            turns = {
                f"{OURS}, cold": functools.partial(launched, cache, epochs),
                f"{OURS}, compiled before": functools.partial(launched, cache, epochs),
            }
            if importlib.util.find_spec("torch"):
                turns[EAGER] = functools.partial(scripted, epochs)
            for name, turn in turns.items():
                found.setdefault(name, []).append(turn())
    return found


def launched(cache: str, epochs: int) -> tuple[float, float]:
    """launch.py with `training_mnist.py`: (seconds, test accuracy). `cache` keeps what is compiled."""
    with tempfile.TemporaryDirectory() as folder:
        config = f"{HERE / 'training_mnist.py'}:{epochs}"
        seconds, _ = process("launch.py", "--config", config, "--workdir", folder, JAX_COMPILATION_CACHE_DIR=cache)
        (path,) = Path(folder).rglob("summary.json")
        return seconds, json.loads(path.read_text())["test"]["accuracy"]


def scripted(epochs: int) -> tuple[float, float]:
    """The plain PyTorch script: (seconds, test accuracy)."""
    seconds, told = process(str(HERE / "training_mnist_torch.py"), str(epochs))
    return seconds, float(told)


def process(*command: str, **environment: str) -> tuple[float, str]:
    """Seconds that a script takes, and what it prints."""
    begun = time.perf_counter()
    python = [sys.executable, *command]
    done = subprocess.run(python, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"{' '.join(python)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return seconds, done.stdout
