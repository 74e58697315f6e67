"""The figures that gates are about, as plain numbers by name.

    of_run("runs/digits_cnn", gate)
    # {None: {"parameters": 99370.0, "multiply_adds": ..., ...}, "validation": {"accuracy": 0.9861, "loss": ...}}

Loss and accuracy are always there. What takes longer, such as robustness/rotation_15/accuracy, is measured where a gate
asks for it; its names are those of `--mode evaluate --thorough`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from research.analysis import judgement
from research.data import corruptions
from research.pipelines.gates import Condition, check
from research.training import folder, judging, metrics, run
from research.training.experiment import Experiment

OF_NETWORKS = ("parameters", "trainable", "bytes", "multiply_adds", "depth", "steps")
"""What is of no split."""
OF_SPLITS = ("accuracy", "loss")


def unknown(experiment: Experiment, gate: Iterable[Condition]) -> list[str]:
    """A line for each condition on what no run of an experiment tells, with the nearest name."""
    plain = {*OF_NETWORKS, *OF_SPLITS, *(f"{task.name}/{name}" for task in experiment.tasks for name in OF_SPLITS)}
    more = [condition for condition in gate if condition.name not in plain]
    return check(more, {*plain, *_thorough(experiment)}) if more else []


def _thorough(experiment: Experiment) -> Iterator[str]:
    """The names of what takes longer, which depend on the data."""
    if experiment.objective.of_tokens:
        yield from metrics.of_language(0.0, "byte")
        return
    loaded = experiment.data.load()
    yield from judgement.FIGURES
    yield from (f"class/{name}/accuracy" for name in loaded.spec.names)
    for each in corruptions.corruptions(loaded):
        yield from (f"robustness/{each.name}_{strength}/accuracy" for strength in each.strengths)
    yield from ("robustness/mean_accuracy", "robustness/least_accuracy")


def of_run(path: str, gate: Iterable[Condition] = ()) -> dict[str | None, dict[str, float]]:
    """The figures of a run by split, that a gate is about or else validation; at None the network's."""
    told = folder.open_run(path).read_json("inspection.json")
    network = {name: float(told[name]) for name in OF_NETWORKS if name in told}
    network["multiply_adds"] = float(told["network"]["forward"]["multiply_adds"])
    found: dict[str | None, dict[str, float]] = {None: network}
    asked: dict[str, list[str]] = {}
    for condition in gate:
        if condition.name not in OF_NETWORKS:
            asked.setdefault(condition.split or "validation", []).append(condition.name)
    for split, names in (asked or {"validation": []}).items():
        found[split] = _of_split(path, split, names)
    return found


def _of_split(path: str, split: str, names: Sequence[str]) -> dict[str, float]:
    """Loss and accuracy, of all examples and of each task, and what else is asked for."""
    told = run.evaluate(path, split=split)[split]
    plain = _plain(told)
    for task, own in told.get("tasks", {}).items():
        plain |= {f"{task}/{name}": value for name, value in _plain(own).items()}
    more = [name for name in names if name not in plain]
    if not more:
        return plain
    harder = any(name.startswith("robustness/") for name in more)
    thorough = judging.figures_of(path, split, harder=harder)
    return plain | {name: float(thorough[name]) for name in more if name in thorough}


def _plain(figures: dict[str, Any]) -> dict[str, float]:
    return {name: float(figures[name]) for name in OF_SPLITS if figures.get(name) is not None}
