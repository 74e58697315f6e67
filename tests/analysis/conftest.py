"""Sweeps' folders with a known truth, written as `research.sweeps` writes them, but without training anything."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats

RATES = (0.001, 0.003, 0.01)


class Truth(NamedTuple):
    """A network, and what it is worth over all seeds and examples."""

    depth: int
    accuracy: float
    train: float | None = 0.05
    """Training loss."""
    test: float = 0.1
    """Test loss."""
    field: int = 9
    parameters: int | None = None
    multiply_adds: int | None = None
    values: dict[str, str] | None = None
    budgets: tuple[str, ...] = ("",)
    spread: float = 0.002
    """Of seeds' accuracies, as a standard deviation."""


def sweep_folder(
    path: Path,
    truths: Sequence[Truth],
    *,
    examples: int = 2_000,
    seeds: int = 5,
    fresh: bool = True,
    kept: bool = True,
    select: str = "validation/accuracy",
    seed: int = 0,
    rates: Sequence[float] = RATES,
    metrics: bool = True,
) -> Path:
    """A folder in which each network was tried at some learning rates, of which the middle one is the best."""
    generator = np.random.default_rng(seed)
    path.mkdir(parents=True)
    hardness = generator.normal(size=examples)
    best = sorted(rates)[len(rates) // 2]
    rows, programs, correct, losses = [], [], [], []

    def trial(program: int, truth: Truth, rate: float, number: int, stage: str) -> None:
        values = {p: json.loads(v) if v.isdigit() else v for p, v in (truth.values or {}).items()}
        values = values or {"model.convolutions": truth.depth - 1}
        values |= {"optimizer.learning_rate": rate, "seed": number}
        level = np.clip(truth.accuracy + truth.spread * generator.normal(), 1e-3, 1 - 1e-3)
        level -= 0.05 * abs(np.log10(rate / best))
        # An example that is hard is hard for most networks and seeds
        ability = np.sqrt(0.7) * hardness + np.sqrt(0.3) * generator.normal(size=examples)
        right = ability < stats.norm.ppf(level)
        correct.append(right.astype(np.uint8))
        losses.append((truth.test * generator.lognormal(-0.02, 0.2) * np.exp(hardness) / np.exp(0.5)).astype("f4"))
        train = {"loss": truth.train * generator.lognormal(0, 0.1), "accuracy": 0.99} if truth.train else None
        validation = float(np.clip(level + 0.002 * generator.normal(), 0, 1))
        rows.append(
            {
                "trial": len(rows),
                "fingerprint": f"{len(rows):016x}",
                "status": "finished",
                "stage": stage,
                "of": None if stage == "search" else 0,
                "program": program,
                "steps": 400,
                "best_step": 400,
                "validation": {"loss": 1 - validation, "accuracy": validation},
                "test": {"loss": float(losses[-1].mean()), "accuracy": float(right.mean())},
                "train": train,
                "seconds": 1.5,
                "values": values,
            }
        )

    for program, truth in enumerate(truths):
        for rate in rates:
            for number in range(2):
                trial(program, truth, rate, number, "search")
    for program, truth in enumerate(truths):
        for number in range(seeds if fresh else 0):
            trial(program, truth, best, 1_000 + number, "judgement")
    for program, truth in enumerate(truths):
        members = [row for row in rows if row["program"] == program and row["stage"] == "search"]
        size = truth.parameters or 500 * truth.depth
        work = truth.multiply_adds or 20_000 * truth.depth
        about = [{"index": r["trial"], "fingerprint": r["fingerprint"], "assignment": r["values"]} for r in members]
        programs.append(
            {
                "values": truth.values or {"model.convolutions": str(truth.depth - 1)},
                "trials": about,
                "budgets": list(truth.budgets),
                "depth": truth.depth,
                "parameters": size,
                "trainable": size,
                "multiply_adds": float(work),
                "flops": 2.0 * work,
                "receptive_field": [8, 8, 1],
                "field_before_pooling": [truth.field, truth.field, 1],
                "steps": 400,
                "batch_size": 64,
                "training_flops": 6 * work * 64 * 400,
                "memory_bytes": 10**6,
            }
        )
    base = {
        "kind": "Experiment",
        "seed": 0,
        "model": {"kind": "ConvNet", "convolutions": 1, "features": [16]},
        "optimizer": {"kind": "AdamW", "learning_rate": 0.001},
    }
    plan = {"name": "deep", "select": select, "base": base, "space": [], "programs": programs}
    data = {"shape": [8, 8, 1], "classes": 10}
    write(path / "sweep.json", {"fingerprint": "0", "sweep": None, "plan": plan, "data": data})
    write(path / "summary.json", {"name": "deep", "reason": "finished", "select": select, "trials": len(rows)})
    (path / "trials.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    if kept:
        (path / "examples").mkdir()
        for part in (slice(0, 1), slice(1, None)):
            numbers = np.arange(len(rows))[part]
            np.savez(
                path / "examples" / f"{numbers[0]}.npz",
                trials=numbers,
                correct=np.stack(correct[part]),
                losses=np.stack(losses[part]),
            )
    if metrics:
        (path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in _metrics(rows)))
    return path


def _metrics(rows: Sequence[dict[str, Any]]):
    for row in rows:
        for step in (100, 200, 300, 400):
            loss = row["validation"]["loss"] * (1 + 100 / step)
            yield {"trial": row["trial"], "step": step, "split": "train", "loss": loss, "accuracy": 1 - loss}
            yield {"trial": row["trial"], "step": step, "split": "validation", "loss": loss, "accuracy": 1 - loss}


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


# ---------------------------------------------------------------------------------------------------------------------
# What may be the reason


def by_field() -> list[Truth]:
    """Depth helps until a feature sees all of the input, and no longer."""
    train = {2: 1.3, 3: 0.4, 5: 0.05, 9: 0.05, 17: 0.05}
    levels = {2: 0.6, 3: 0.9, 5: 0.985, 9: 0.985, 17: 0.985}
    return [Truth(d, levels[d], train[d], 2 * train[d], field=2 * d - 1) for d in levels]


def degrading() -> list[Truth]:
    """Beyond five layers training fails to fit."""
    return [Truth(2, 0.9, 0.3), Truth(5, 0.985, 0.03), Truth(9, 0.96, 0.12), Truth(17, 0.93, 0.3)]


def overfitting() -> list[Truth]:
    """Beyond five layers the training data is fitted better, and the rest worse."""
    return [Truth(2, 0.9, 0.3), Truth(5, 0.985, 0.05), Truth(9, 0.96, 0.02), Truth(17, 0.93, 0.004)]


def all_alike() -> list[Truth]:
    """Depth makes no difference."""
    return [Truth(d, 0.985, spread=0.0) for d in (2, 5, 9)]


def of_kinds(**levels: float) -> list[Truth]:
    """Networks of one depth that differ in a kind, or in what they have that none has."""
    return [
        Truth(3, level, values={"model.dropout": "none"} if kind == "none" else {f"objective.{kind}": "0.1, 0.2"})
        for kind, level in levels.items()
    ]


def with_strengths(folder: Path) -> Path:
    """As if each kind but none had been tried at two strengths, of which the second is the better one."""
    for name in ("trials.jsonl", "sweep.json"):
        path = folder / name
        told = [json.loads(line) for line in path.read_text().splitlines()]
        for row in told[0]["plan"]["programs"] if name == "sweep.json" else []:
            for i, trial in enumerate(row["trials"]):
                strengthen(trial["assignment"], i)
        for i, row in enumerate(told if name == "trials.jsonl" else []):
            strengthen(row["values"], 1 if row["stage"] == "judgement" else i)
        path.write_text("".join(f"{json.dumps(row)}\n" for row in told))
    return folder


def strengthen(values: dict[str, Any], index: int) -> None:
    for path in values:
        if path.startswith("objective."):
            values[path] = (0.1, 0.2)[index % 2]
        if path == "model.dropout":
            values[path] = None


def by_size() -> list[Truth]:
    """With ten times the data, a depth more is best."""
    return [
        Truth(depth, 0.7 + 0.1 * size - 0.05 * abs(depth - 2 - size), values=values)
        for size, examples in enumerate(("100", "1000", "10000"))
        for depth in (2, 3, 4)
        if (values := {"data.examples": examples, "duration": "50 steps", "model.depth": str(depth - 1)})
    ]


class World(NamedTuple):
    """Makes sweeps' folders below a folder of the test."""

    path: Path

    def sweep(self, truths: Sequence[Truth], name: str = "deep", **about: Any) -> Path:
        """The folder of a sweep of these networks."""
        return sweep_folder(self.path / name / "20260101-000000-aaaaaa", truths, **about)

    truth = staticmethod(Truth)
    by_field = staticmethod(by_field)
    degrading = staticmethod(degrading)
    overfitting = staticmethod(overfitting)
    all_alike = staticmethod(all_alike)
    of_kinds = staticmethod(of_kinds)
    with_strengths = staticmethod(with_strengths)
    by_size = staticmethod(by_size)


@pytest.fixture
def world(tmp_path) -> World:
    """Folders whose truth is known."""
    return World(tmp_path)
