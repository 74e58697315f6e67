"""A run as a folder that others use without this package: programs, weights, labels, preprocessing, a model card.

    export("runs/digits_cnn", "exports/digits_cnn")

    program.stablehlo    raw inputs to probabilities, on CPU, CUDA and TPU, in batches of any size (see `formats`)
    model.onnx           the same with its weights, where the extra `onnx` is installed
    model.safetensors    the weights by our paths, the argument of program.stablehlo
    config.json          the experiment: `launch.py --config FOLDER` trains the network again
    labels.json  preprocessing.json  predict.py  README.md
    manifest.json        the SHA-256 of each of the files, which whatever reads the folder checks

The folder is written beside its place and each program tried there: in a new process, from which this package is kept
away, on every example of the test split. Unless it gives the probabilities that evaluation comes to, to 1e-5, nothing
is left behind. Of a compressed network, which evaluation does not know, they are its own; and unless that keeps within
its budget on the test split, against the run it was made of, nothing is left behind either.
"""

import dataclasses
import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.data import base, inputs
from research.data.base import Description, Split, Streamed
from research.deployment import formats, standalone
from research.deployment.card import write_card
from research.deployment.program import Program, read_program
from research.errors import UserError, did_you_mean
from research.jsonl import encode, new_folder, write_json
from research.parameters import counts
from research.pretrained.files import write_file
from research.training import evaluation, folder
from research.training.experiment import Experiment
from research.training.objective import NextToken, Objective
from research.training.plan import Plan, boundary, replicate
from research.training.reading import load_best, load_for, read_experiment

FORMATS = {"stablehlo": formats.stablehlo, "onnx": formats.onnx}
TOLERANCE = 1e-5
"""How far a probability may be from that of the network that was exported."""
RAW = "raw.npy"
KEPT_AWAY = {
    "stablehlo": ("research", "flax", "optax", "orbax", "safetensors"),
    "onnx": ("research", "flax", "optax", "orbax", "safetensors", "jax", "jaxlib", "jax2onnx"),
}
"""What the process that tries a program cannot import."""
TRY = "import runpy, sys; sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(',')))\n"
TRY += "script = sys.argv.pop(1); sys.argv[0] = script; runpy.run_path(script, run_name='__main__')"


def export(path: str, to: str | os.PathLike | None = None, asked: Sequence[str] | None = None) -> dict[str, Any]:
    """Writes a run to a new folder, exports/NAME if none is given; tells what was written, as plain data.

    asked: of FORMATS; all that are installed if None, and of these only those that have words for the network.
    Raises UserError for a folder that is there, for what a format that is asked for does not support, and for a program
    that does not give what the network gives.
    """
    names = known(asked)
    program = read_program(path)
    run = folder.open_run(program.about["path"])
    experiment = dataclasses.replace(read_experiment(run), devices=1)
    loaded, plan = load_for(run, experiment)
    to = Path(to) if to is not None else Path("exports", run.name)
    test, evaluate = loaded.splits["test"], _of_evaluation(run, experiment, plan)
    with new_folder(to) as new:
        own = _of_program(program) if "compressed" in program.about else evaluate
        tells = what_it_tells(program.data, experiment.objective)
        told = _write(program, run, test, tells, new, names, own, is_asked=asked is not None)
        if "compressed" in program.about:
            _check_budget(program, told["accuracy"], test, evaluate)
    return {"folder": str(run.path), "step": program.about.get("step"), "to": str(to), **told}


def known(asked: Sequence[str] | None) -> tuple[str, ...]:
    """The formats to write. Raises UserError for one that there is not, or that is not installed."""
    if asked is None:
        return ("stablehlo", "onnx") if formats.has_onnx() else ("stablehlo",)
    problems = [f"--formats: no format '{name}'{did_you_mean(name, FORMATS)}" for name in asked if name not in FORMATS]
    if "onnx" in asked and not formats.has_onnx():
        problems.append('--formats onnx: needs jax2onnx and onnxruntime: pip install -e ".[onnx]"')
    if problems:
        raise UserError(*problems)
    return tuple(name for name in FORMATS if name in asked)


def _write(
    program: Program,
    run: folder.RunFolder,
    test: Split | Streamed,
    tells: str,
    new: Path,
    names: Sequence[str],
    evaluate: Callable[[np.ndarray], np.ndarray],
    *,
    is_asked: bool,
) -> dict[str, Any]:
    dtype = jax.dtypes.canonicalize_dtype(test.dtype)
    left_out = _write_programs(program, dtype, new, names, is_asked)
    write_file(new / standalone.WEIGHTS, jax.device_get(program.arrays))
    (new / standalone.WEIGHTS).chmod(0o644)  # it is for others
    write_json(new / "labels.json", labels(program.data))
    write_json(new / "preprocessing.json", {**preprocessing(program.data, dtype), "tells": tells})
    (new / "predict.py").write_text(standalone_source())
    for name in ("config.json", "config.py"):
        if run.has(name):
            shutil.copyfile(run.path / name, new / name)
    about = {
        "inputs": {"dtype": dtype.name, "shape": list(program.data.spec.shape)},
        "network": encode(program.about),
        "versions": folder.environment()["versions"],
    }
    _write_manifest(new, about)
    written = [name for name in names if name not in left_out]
    tried, accuracy = try_out(program.data, new, written, test, evaluate)
    about["tried"] = {"examples": len(test), "tolerance": TOLERANCE, "largest difference": tried, "accuracy": accuracy}
    parameters = counts.total(program.arrays).parameters
    told = {"formats": written, "left_out": left_out, "parameters": parameters, **about["tried"]}
    (new / "README.md").write_text(write_card(program, run, {**about, **told}))
    _write_manifest(new, about)
    return told


def _write_programs(program: Program, dtype: Any, new: Path, names: Sequence[str], is_asked: bool) -> dict[str, str]:
    """Why a format was left out, of those that nobody asked for. Raises UserError for those somebody did."""
    left_out, problems = {}, []
    for name in names:
        try:
            (new / standalone.PROGRAMS[name]).write_bytes(FORMATS[name](program, dtype))
        except UserError as error:
            if is_asked or name == "stablehlo":
                problems += error.problems
            else:
                left_out[name] = "; ".join(error.problems)
    if problems:
        raise UserError(*problems)
    return left_out


def _write_manifest(new: Path, about: dict[str, Any]) -> None:
    files = sorted(path for path in new.iterdir() if path.name != standalone.MANIFEST)
    sums = {path.name: {"bytes": path.stat().st_size, "sha256": standalone.sha256(path)} for path in files}
    write_json(new / standalone.MANIFEST, {"version": 1, **about, "files": sums})


def labels(data: Description) -> dict[str, Any]:
    """What the classes are called, in the order of the probabilities, and which of them belong to which task."""
    tasks = [{"name": name, "classes": classes} for name, classes in data.spec.tasks]
    return {"names": list(data.spec.names), "tasks": tasks}


def what_it_tells(data: Description, objective: Objective) -> str:
    """What probabilities are of: classes, or tokens, the next one or those that are hidden."""
    if data.spec.tokens is None or data.spec.tokens != data.spec.classes:
        return standalone.CLASSES
    return standalone.NEXT if isinstance(objective, NextToken) else standalone.HIDDEN


def preprocessing(data: Description, dtype: Any = None) -> dict[str, Any]:
    """What raw inputs are, as `inputs.read` takes it, and what is done to them within the program."""
    scale, inside = 1.0, None
    if data.normalisation is not None:
        scale = data.normalisation.scale
        inside = {"formula": "(raw * scale - mean) / deviation", **data.normalisation._asdict()}
    return {
        "kind": data.kind,
        "shape": list(data.spec.shape),
        "dtype": None if dtype is None else dtype.name,
        "background": data.background,
        "maximum": data.maximum,
        "scale": scale,
        "tokens": data.spec.tokens,
        "within the program": inside,
    }


def standalone_source() -> str:
    """predict.py: `standalone`, and what it needs of `inputs`, in one file that imports nothing of ours."""
    whole = inspect.getsource(standalone)
    end = whole.index('"""', 3) + len('"""\n')
    head, rest = whole[:end], whole[end:]
    reading = inspect.getsource(inputs)
    reading = reading[reading.index('"""', 3) + len('"""\n') :]
    pieces = [
        re.sub(r"^(from research.*|import .*|from [\w.]+ import .*)\n", "", each, flags=re.M)
        for each in (reading, rest)
    ]
    imports = sorted({*re.findall(r"^(?:import .*|from (?!research)[\w.]+ import .*)$", reading + rest, flags=re.M)})
    return head + "\n" + "\n".join(imports) + "\n\n" + "\n\n\n".join(piece.strip() for piece in pieces) + "\n"


# ---------------------------------------------------------------------------------------------------------------------
# Trying


def _of_program(program: Program) -> Callable[[np.ndarray], np.ndarray]:
    """Probabilities of raw inputs by the network that is exported."""
    call, arrays = jax.jit(program.function), jax.device_put(program.arrays)
    return lambda raw: np.asarray(call(arrays, raw))


def _of_evaluation(run: folder.RunFolder, experiment: Experiment, plan: Plan) -> Callable[[np.ndarray], np.ndarray]:
    """The same by the best checkpoint of a run, on the way that `--mode evaluate` takes."""
    (state, frozen), leaves = load_best(run, experiment, plan), replicate(plan, boundary(experiment))
    normalisation = evaluation.as_float32(base.from_description(run.read_json("data.json")).normalisation)

    def call(raw: np.ndarray) -> np.ndarray:
        inputs = replicate(plan, raw)
        return np.asarray(evaluation.probabilities(plan, leaves, frozen, *state.used(), inputs, normalisation))

    return call


def _check_budget(
    program: Program, accuracy: float | None, test: Split | Streamed, evaluate: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Raises UserError where a compressed network loses more on the test split than its budget allows."""
    from research.deployment.compression.storage import read_about  # few need it

    about = read_about(Path(program.about["compressed"]))
    budget = about.get("compression", {}).get("budget")  # older ones do not tell
    if budget is None or accuracy is None:
        return
    with tempfile.TemporaryDirectory(prefix="fathom-") as scratch:
        likely = _likely(test, evaluate, Path(scratch))
        lost = _accuracy(program.data, likely, test.labels) - accuracy
    if lost > budget + 1e-9:
        told = f"{about['method']} loses {100 * lost:.2f} points of accuracy on the test split"
        raise UserError(f"{told}, and its budget is {100 * budget:.3g}; nothing was written")


def try_out(
    data: Description,
    new: Path,
    names: Sequence[str],
    test: Split | Streamed,
    evaluate: Callable[[np.ndarray], np.ndarray],
) -> tuple[dict[str, float], float | None]:
    """The largest difference of a probability by format, and the accuracy, if there are labels, as exported.

    evaluate: raw inputs (batch, *shape) to the probabilities that are wanted.
    Raises UserError if a difference is more than TOLERANCE, or a program cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="fathom-") as scratch:
        expected = _likely(test, evaluate, Path(scratch))
        differences = {name: _difference(new, name, Path(scratch, RAW), expected, Path(scratch)) for name in names}
        return differences, _accuracy(data, expected, test.labels)


def _likely(test: Split | Streamed, evaluate: Callable[[np.ndarray], np.ndarray], scratch: Path) -> np.ndarray:
    """The probabilities of a split, in a file; its raw inputs lie beside them, in RAW."""
    _write_raw(test, scratch / RAW)
    standalone.in_batches(evaluate, np.load(scratch / RAW, mmap_mode="r"), scratch / "likely.npy")
    return np.load(scratch / "likely.npy", mmap_mode="r")


def _write_raw(test: Split | Streamed, into: Path) -> None:
    dtype = jax.dtypes.canonicalize_dtype(test.dtype)
    raw = np.lib.format.open_memmap(into, mode="w+", dtype=dtype, shape=(len(test), *test.shape))
    for start in range(0, len(test), 1024):
        indices = np.arange(start, min(start + 1024, len(test)))
        raw[indices] = test.read(indices)
    raw.flush()


def _difference(new: Path, name: str, raw: Path, expected: np.ndarray, scratch: Path) -> float:
    found = scratch / f"{name}.npy"
    command = [sys.executable, "-P", "-c", TRY, ",".join(KEPT_AWAY[name]), str(new.absolute() / "predict.py")]
    command += ["--with", name, "--inputs", str(raw), "--outputs", str(found)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["without a word"]
        raise UserError(f"{name}: the program that was written cannot be run: {lines[-1][:300]}")
    outputs, largest = np.load(found, mmap_mode="r"), 0.0
    if outputs.shape != expected.shape:
        raise UserError(f"{name}: gives {outputs.shape} where the network gives {expected.shape}; nothing was written")
    for start in range(0, len(expected), 1024):
        of_block = np.abs(outputs[start : start + 1024].astype(np.float64) - expected[start : start + 1024])
        largest = max(largest, float(of_block.max()) if np.isfinite(of_block).all() else np.inf)
    if largest > TOLERANCE:
        told = f"a probability of the test split is off by {largest:.1e}, and {TOLERANCE:.0e} is the most"
        raise UserError(f"{name}: {told}; nothing was written")
    return largest


def _accuracy(data: Description, likely: np.ndarray, labels: np.ndarray) -> float | None:
    """How many of the examples are right, each within the classes of its task; None where there are no labels."""
    if likely.ndim != 2 or (labels < 0).any():
        return None
    right = np.zeros(len(labels), bool)
    for classes in data.spec.blocks().values() or [slice(0, data.spec.classes)]:
        mine = (labels >= classes.start) & (labels < classes.stop)
        right[mine] = likely[mine][:, classes].argmax(1) + classes.start == labels[mine]
    return float(right.mean())
