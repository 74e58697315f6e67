"""The model card of an exported network: what it is, how good, what it is not for, and how to make it again.

After Mitchell et al., Model Cards for Model Reporting (2019), as far as a run's folder can tell; of a compressed
network, its own folder as well, so that no figure of the run passes for one of what it became.
"""

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.deployment.program import Program
from research.jsonl import read_json
from research.training.folder import RunFolder

Z = 1.959964  # of a 95 % interval


def write_card(program: Program, run: RunFolder, told: Mapping[str, Any]) -> str:
    """The card, in Markdown. told: what the manifest tells, and what was written."""
    data, config = program.data, run.read_json("config.json")
    described = run.read_json("data.json")
    environment = run.read_json("environment.json") if run.has("environment.json") else {}
    smaller = _compressed(program)
    parts = [
        f"# {run.name}" + (f", {smaller['method']}" if smaller else ""),
        _opening(program, config, told, smaller),
        *(["## How it was made smaller\n\n" + _made_smaller(smaller)] if smaller else []),
        "## Use\n\n" + _use(program, told),
        "## Data\n\n" + _data(config, described, program),
        "## How good it is\n\n" + _metrics(run, told, smaller),
        "## Limits\n\n" + _limits(data),
        "## Made again by\n\n" + _again(environment, smaller),
        "## What was checked\n\n" + _checked(told),
    ]
    return "\n\n".join(parts) + "\n"


def _compressed(program: Program) -> dict[str, Any] | None:
    """What the folder of a compressed network tells of it; None of a run's own network."""
    if folder := program.about.get("compressed"):
        return read_json(Path(folder) / "network.json")
    return None


def wilson(right: int, examples: int) -> tuple[float, float]:
    """The 95 % interval of a share, by Wilson's score (1927)."""
    share, spread = right / examples, Z**2 / examples
    middle = share + spread / 2
    half = Z * math.sqrt(share * (1 - share) / examples + spread / (4 * examples))
    return (middle - half) / (1 + spread), (middle + half) / (1 + spread)


def _opening(
    program: Program, config: Mapping[str, Any], told: Mapping[str, Any], smaller: Mapping[str, Any] | None
) -> str:
    spec, about = program.data.spec, program.about
    shape = " × ".join(map(str, spec.shape))
    what = f"the next of {spec.tokens} tokens" if spec.tokens == spec.classes else f"one of {spec.classes} classes"
    kind = config["model"]["kind"]
    kind = f"{kind}, **compressed** ({smaller['method']})" if smaller else kind
    source = ["It was made of the network of this run:", ""] if smaller else []
    lines = [
        f"{kind}, {told['parameters']:,} numbers, that tells {what} from {shape} inputs ({told['inputs']['dtype']}).",
        "",
        *source,
        *(f"- {name}: {about[name]}" for name in ("path", "step", "sha256") if about.get(name) is not None),
    ]
    return "\n".join(lines)


def _made_smaller(smaller: Mapping[str, Any]) -> str:
    lines = [f"- method: {smaller['method']}"]
    lines += [f"- {name}: {_in_words(name, value)}" for name, value in smaller.get("told", {}).items() if value]
    if judged := smaller.get("judged"):
        config = smaller["compression"]
        low, high = (f"{100 * judged[name]:+.2f}" for name in ("lost_low", "lost_high"))
        lines += [
            f"- budget: {100 * config['budget']:.3g} points of accuracy, on the {config['split']} split",
            f"- lost: {100 * judged['lost'] + 0.0:.2f} points (95 % interval {low} to {high}), from"
            f" {judged['original accuracy']:.2%} to {judged['accuracy']:.2%}",
            f"- file: {judged['times_smaller']:.2f} times smaller, both gzipped; {judged['times_smaller_plain']:.2f}"
            f" times, if neither is",
        ]
        if judged["times_cheaper"] > 1.05:
            lines.append(f"- FLOPs: {1 / judged['times_cheaper']:.1%} of the original's")
    return "\n".join(lines)


def _in_words(name: str, value: Any) -> str:
    """What a method tells of itself; layers that have the same number of bits stand together."""
    if not isinstance(value, Mapping):
        return str(value)
    if name == "bits":
        each = {bits: [layer for layer, its in value.items() if its == bits] for bits in sorted(set(value.values()))}
        return "; ".join(f"{bits} for the weights of {', '.join(layers)}" for bits, layers in each.items())
    numbers = {key: f"{item:.3g}" if isinstance(item, float) else str(item) for key, item in value.items()}
    return ", ".join(f"{key} {item}" for key, item in numbers.items())


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


def _metrics(run: RunFolder, told: Mapping[str, Any], smaller: Mapping[str, Any] | None) -> str:
    rows = []
    if told["accuracy"] is not None:
        examples = told["examples"]
        low, high = wilson(round(told["accuracy"] * examples), examples)
        rows.append(("accuracy", f"{told['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%})"))
    summary = run.read_json("summary.json") if run.has("summary.json") and not smaller else {}  # of another network
    figures = summary.get("test", {})
    names = ("loss", "precision", "recall", "f1", "perplexity", "bits_per_byte")
    rows += [(f"{name}, of the run", f"{figures[name]:.4f}") for name in names if isinstance(figures.get(name), float)]
    if not rows:
        return "Nothing was measured but that its programs give what the network gives."
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


def _again(environment: Mapping[str, Any], smaller: Mapping[str, Any] | None) -> str:
    trained = _trained_again(environment)
    if not smaller:
        return trained
    steps = ["First the network that it was made of is trained:", trained, "Then that is made smaller."]
    if config := smaller.get("compression"):
        steps[-1] = (
            "Then that is made smaller, by this in a file smaller.json, whose `run` names the folder of that run:"
        )
        steps += [
            f"```json\n{json.dumps(config, indent=2)}\n```",
            "```bash\npython launch.py --config smaller.json\n```",
        ]
    if command := smaller.get("command"):
        steps.append(f"It was made by `{shlex.join(['python', *map(str, command)])}`.")
    return "\n\n".join(steps)


def _trained_again(environment: Mapping[str, Any]) -> str:
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
