"""The model card of an exported network: what it is, how good, what it is not for, and how to make it again.

After Mitchell et al., Model Cards for Model Reporting (2019), as far as a run's folder can tell.
"""

import math
import shlex
from collections.abc import Mapping
from typing import Any

from research.deployment.program import Program
from research.training.folder import RunFolder

Z = 1.959964  # of a 95 % interval


def write_card(program: Program, run: RunFolder, told: Mapping[str, Any]) -> str:
    """The card, in Markdown. told: what the manifest tells, and what was written."""
    data, config = program.data, run.read_json("config.json")
    described = run.read_json("data.json")
    environment = run.read_json("environment.json") if run.has("environment.json") else {}
    parts = [
        f"# {run.name}",
        _opening(program, config, told),
        "## Use\n\n" + _use(program, told),
        "## Data\n\n" + _data(config, described, program),
        "## How good it is\n\n" + _metrics(run, told),
        "## Limits\n\n" + _limits(data),
        "## Made again by\n\n" + _again(environment),
        "## What was checked\n\n" + _checked(told),
    ]
    return "\n\n".join(parts) + "\n"


def wilson(right: int, examples: int) -> tuple[float, float]:
    """The 95 % interval of a share, by Wilson's score (1927)."""
    share, spread = right / examples, Z**2 / examples
    middle = share + spread / 2
    half = Z * math.sqrt(share * (1 - share) / examples + spread / (4 * examples))
    return (middle - half) / (1 + spread), (middle + half) / (1 + spread)


def _opening(program: Program, config: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    spec, about = program.data.spec, program.about
    shape = " × ".join(map(str, spec.shape))
    what = f"the next of {spec.tokens} tokens" if spec.tokens == spec.classes else f"one of {spec.classes} classes"
    lines = [
        f"{config['model']['kind']}, {told['parameters']:,} numbers, that tells {what} from {shape} inputs"
        f" ({told['inputs']['dtype']}).",
        "",
        *(f"- {name}: {about[name]}" for name in ("path", "step", "sha256") if about.get(name) is not None),
    ]
    return "\n".join(lines)


def _use(program: Program, told: Mapping[str, Any]) -> str:
    if program.data.spec.classes == program.data.spec.tokens:
        files = "raw.npy"
    else:
        files = {"image": "picture.png", "bytes": "text.txt", "array": "sound.wav"}.get(program.data.kind, "raw.npy")
    commands = [f"python predict.py {files}                  # needs jax, flatbuffers, numpy, pillow"]
    if "onnx" in told["formats"]:
        commands.append(f"python predict.py --with onnx {files}      # needs onnxruntime, numpy, pillow")
    return (
        f"```bash\n{chr(10).join(commands)}\n```\n\n"
        "`predict.load(folder)` is the same as a function of raw inputs (examples, *shape), as the data set stores"
        " them; scaling and normalisation are inside the programs. The program in `program.stablehlo` takes the"
        " weights, a dictionary of the arrays in `model.safetensors`, and raw inputs. Probabilities are in the order"
        " of `labels.json`."
    )


def _data(config: Mapping[str, Any], described: Mapping[str, Any], program: Program) -> str:
    sizes = ", ".join(f"{count:,} {split}" for split, count in described["examples"].items())
    names = list(program.data.spec.names)
    lines = [f"- {config['data']['kind']}: {sizes} examples"]
    if program.data.spec.tokens != program.data.spec.classes:
        lines.append(
            f"- classes: {', '.join(names[:20])}" + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        )
    if "fingerprint" in described:
        lines.append(f"- fingerprint: {described['fingerprint']}")
    return "\n".join(lines)


def _metrics(run: RunFolder, told: Mapping[str, Any]) -> str:
    rows = []
    if told["accuracy"] is not None:
        examples = told["examples"]
        low, high = wilson(round(told["accuracy"] * examples), examples)
        rows.append(("accuracy", f"{told['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%})"))
    summary = run.read_json("summary.json") if run.has("summary.json") else {}
    figures = summary.get("test", {})
    names = ("loss", "precision", "recall", "f1", "perplexity", "bits_per_byte")
    rows += [(f"{name}, of the run", f"{figures[name]:.4f}") for name in names if isinstance(figures.get(name), float)]
    table = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return f"On the {told['examples']:,} examples of the test split, which were not trained on:\n\n" + "\n".join(table)


def _limits(data: Any) -> str:
    lines = ["- It was judged on the test split of its own data alone; on data of another kind it may be worse."]
    if data.spec.tokens != data.spec.classes:
        lines.append("- It tells its classes apart and nothing else: whatever it is given, it calls one of them.")
    lines.append("- Its probabilities were not calibrated after training.")
    lines.append(
        f"- It takes inputs of {' × '.join(map(str, data.spec.shape))} alone; `predict.py` brings files to that."
    )
    return "\n".join(lines)


def _again(environment: Mapping[str, Any]) -> str:
    lines = [
        "```bash",
        "python launch.py --config FOLDER",
        "```",
        "",
        "with this folder, whose config.json is the run's.",
    ]
    if command := environment.get("command"):
        lines.append(f"The run was begun by `{shlex.join(['python', *map(str, command)])}`")
        git = environment.get("git")
        lines[-1] += f", at revision {git['revision'][:12]}." if git else "."
    return "\n".join(lines)


def _checked(told: Mapping[str, Any]) -> str:
    differences = told["largest difference"]
    lines = [
        f"- {name}: no probability of the test split is off by more than {difference:.1e}, in a process of its own"
        for name, difference in differences.items()
    ]
    lines += [f"- left out: {reason}" for reason in told["left_out"].values()]
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items() if version)
    return "\n".join([*lines, "- the SHA-256 of each file is in manifest.json", f"- written with {versions}"])
