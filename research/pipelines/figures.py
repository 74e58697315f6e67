"""The figures of a run that gates are about, as plain numbers by name.

figures_of("runs/digits_cnn", ("validation",))
# {None: {"parameters": 99370.0, "multiply_adds": ..., ...}, "validation": {"accuracy": 0.9861, "loss": ...}}
"""

from collections.abc import Iterable
from typing import Any

from research.pipelines.gates import Condition
from research.training import folder, run
from research.training.experiment import Experiment

OF_NETWORKS = ("parameters", "trainable", "bytes", "multiply_adds", "depth", "steps")
"""What is of no split."""
OF_SPLITS = ("accuracy", "loss")


def known(experiment: Experiment) -> tuple[str, ...]:
    """The names of all figures of an experiment's runs."""
    tasks = [f"{task.name}/{name}" for task in experiment.tasks for name in OF_SPLITS]
    return (*OF_NETWORKS, *OF_SPLITS, *tasks)


def splits(gate: Iterable[Condition]) -> tuple[str, ...]:
    """The splits that a gate is about, the first one of all that is not told another."""
    found = ((condition.split or "validation") for condition in gate if condition.name not in OF_NETWORKS)
    return tuple(dict.fromkeys(found))


def figures_of(path: str, of_splits: Iterable[str] = ("validation",)) -> dict[str | None, dict[str, float]]:
    """The figures of a run by split; those of the network at None."""
    told = folder.open_run(path).read_json("inspection.json")
    network = {name: float(told[name]) for name in OF_NETWORKS if name in told}
    network["multiply_adds"] = float(told["network"]["forward"]["multiply_adds"])
    found: dict[str | None, dict[str, float]] = {None: network}
    for split in of_splits:
        found[split] = _flat(run.evaluate(path, split=split)[split])
    return found


def _flat(figures: dict[str, Any]) -> dict[str, float]:
    """Loss and accuracy of all examples, and of each task."""
    flat = {name: float(figures[name]) for name in OF_SPLITS if figures.get(name) is not None}
    for task, own in figures.get("tasks", {}).items():
        flat |= {f"{task}/{name}": float(own[name]) for name in OF_SPLITS if own.get(name) is not None}
    return flat
