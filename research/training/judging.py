"""A run judged for a decision: is it good enough? Its best checkpoint on a split, and on the split made harder.

    judged = judge_run("runs/digits_cnn")                          # plain data, as evaluation.json holds it
    figure(figures_of("runs/digits_cnn", "test"), "accuracy")      # what a gate asks
    compare_runs("runs/digits_cnn", "runs/digits_mlp")             # paired, example by example

The figures are `analysis.judgement`'s, on probabilities that the run's own network gives, in its own precision.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research.analysis import judgement
from research.analysis.evaluation_figures import draw_all, save_figures
from research.analysis.evaluation_page import evaluation_page
from research.analysis.judgement import figure
from research.data import corruptions
from research.data.base import SPLITS, Loaded
from research.errors import UserError, did_you_mean
from research.jsonl import write_atomically
from research.parameters import counts
from research.training import evaluation, folder, loop
from research.training.folder import RunFolder
from research.training.plan import boundary, replicate, shapes
from research.training.reading import data_fingerprint, load_best, load_for, read_experiment

__all__ = ["compare_runs", "figure", "figures_of", "judge_run", "write_judgement"]

BATCH = 256
"""Examples judged at once."""


class Opened(NamedTuple):
    """A run as it is judged."""

    run: RunFolder
    work: loop.Work
    state: Any
    step: int

    @property
    def loaded(self) -> Loaded:
        """Its data."""
        return self.work.loaded


def open_best(path: str, split: str = "test") -> Opened:
    """A run at its best checkpoint. Raises UserError, also for a split that is not there."""
    if split not in SPLITS:
        raise UserError(f"no split '{split}'{did_you_mean(split, SPLITS)}")
    run = folder.open_run(path)
    experiment = read_experiment(run)
    loaded, plan = load_for(run, experiment)
    state, frozen = load_best(run, experiment, plan)
    return Opened(run, loop.Work(experiment, plan, loaded, frozen), state, int(state.step))


def figures_of(path: str, split: str = "test", *, harder: bool = True) -> dict[str, float]:
    """Every figure of a run that something can be decided by, on a split, by name.

    accuracy, worst_class_accuracy, loss, nll, brier, ece, macro_f1, class/NAME/accuracy, parameters, and with `harder`
    robustness/rotation_15/accuracy and so on. A language model has loss, accuracy, perplexity and bits a token.
    Raises UserError.
    """
    return judge_run(path, split, harder=harder)["figures"]


def judge_run(path: str, split: str = "test", *, harder: bool = True, against: str | None = None) -> dict[str, Any]:
    """All that there is to tell of a run on a split, as plain data; `harder`: on examples made harder as well.

    Raises UserError, also where the run that it is compared with saw other data.
    """
    opened = open_best(path, split)
    other = None if against is None else _open_other(opened, against, split)
    plain = loop.report(opened.work, opened.state, split)
    about = {"folder": str(opened.run.path), "name": opened.run.name, "step": opened.step, "split": split}
    parameters = counts.total(shapes(opened.work.experiment, opened.work.plan.spec)[0]).parameters
    if loop.token_unit(opened.work) is not None:
        told = _of_language(opened, split, plain)
    else:
        told = _of_classes(opened, split, plain, harder)
    told["figures"]["parameters"] = parameters
    if other is not None:
        told["against"] = _compared(opened, other, split)
    return about | told


def _of_language(opened: Opened, split: str, plain: dict[str, Any]) -> dict[str, Any]:
    """Of a language model: figures of its tokens, and intervals by drawing its sequences anew."""
    sums = outcomes(opened, split)
    figures = {name: float(value) for name, value in plain.items() if name != "tokens"}
    count = sums["count"].astype(np.float64)
    intervals = {
        name: judgement.interval_of_ratio(sums[total].astype(np.float64), count)
        for name, total in (("loss", "loss"), ("accuracy", "correct"))
    }
    return {
        "examples": len(count),
        "tokens": plain["tokens"],
        "figures": figures,
        "intervals": intervals,
        "left_out": ["calibration, classes and examples made harder: this is a language model, which tells tokens"],
    }


def _of_classes(opened: Opened, split: str, plain: dict[str, Any], harder: bool) -> dict[str, Any]:
    loaded, spec = opened.loaded, opened.loaded.spec
    labels = np.asarray(loaded.splits[split].labels)
    changes = corruptions.corruptions(loaded) if harder else ()
    changed = {
        f"{change.name}_{strength}": probabilities(opened, split, change, strength)
        for change in changes
        for strength in change.strengths
    }
    told = judgement.judge(probabilities(opened, split), labels, spec.names, changed, spec.blocks())
    told["figures"] = {"accuracy": told["figures"].pop("accuracy"), "loss": plain["loss"], **told["figures"]}
    harder_ones = [{"name": each.name, "strengths": list(each.strengths), "per": each.per} for each in changes]
    left_out = [] if harder else ["examples made harder: they were not asked for"]
    if harder and changes is not corruptions.OF_PICTURES:
        left_out = ["rotation, shift, blur and contrast: these are no pictures"]
    return {"examples": len(labels), "names": list(spec.names), **told, "harder": harder_ones, "left_out": left_out}


def probabilities(
    opened: Opened, split: str, change: corruptions.Corruption | None = None, strength: float = 0
) -> np.ndarray:
    """(examples, classes) float32 of a split, made harder if `change` says how; 0 for the classes of other tasks."""
    plan, experiment, loaded = opened.work.plan, opened.work.experiment, opened.loaded
    labels = np.asarray(loaded.splits[split].labels)
    leaves, normalisation = replicate(plan, boundary(experiment)), evaluation.as_float32(loaded.normalisation)
    found = []
    for first, indices in _batches(len(labels)):
        raw = loaded.splits[split].read(indices)
        if change is not None:
            raw = corruptions.corrupt(change, strength, loaded, raw, labels[indices], first)
        likely = evaluation.probabilities(
            plan, leaves, opened.work.frozen, *opened.state.used(), replicate(plan, raw), normalisation
        )
        found.append(np.asarray(likely))
    likely = np.concatenate(found)[: len(labels)]
    if loaded.spec.tasks:
        of_class = loaded.spec.task_of(np.arange(loaded.spec.classes))
        likely = np.where(of_class == loaded.spec.task_of(labels)[:, None], likely, 0)
    return likely


def _batches(examples: int) -> Iterator[tuple[int, np.ndarray]]:
    """Where batches begin, and the places of their examples; all are of one size, the last repeats its end."""
    size = min(BATCH, examples)
    for first in range(0, examples, size):
        yield first, np.minimum(np.arange(first, first + size), examples - 1)


def outcomes(opened: Opened, split: str) -> dict[str, np.ndarray]:
    """What each example of a split comes to: {"loss", "correct", "count"}, (examples,) each."""
    plan, loaded = opened.work.plan, opened.loaded
    leaves, examples = replicate(plan, boundary(opened.work.experiment)), loaded.splits[split]
    found = []
    for first, indices in _batches(len(examples)):
        data = evaluation.to_device(plan, examples.take(indices), loaded.normalisation)
        judged = evaluation.evaluate_examples(
            plan, leaves, opened.work.frozen, *opened.state.used(), data, np.int32(first)
        )
        found.append({name: np.asarray(column) for name, column in judged.items()})
    return {name: np.concatenate([each[name] for each in found])[: len(examples)] for name in found[0]}


# ---------------------------------------------------------------------------------------------------------------------
# Two runs


def compare_runs(path: str, against: str, split: str = "test") -> dict[str, Any]:
    """Two runs on the same examples: {"folder", "sentence", "difference", "low", "high", "p", ...}.

    Raises UserError where they saw different data.
    """
    opened = open_best(path, split)
    return _compared(opened, _open_other(opened, against, split), split)


def _open_other(opened: Opened, against: str, split: str) -> Opened:
    other = open_best(against, split)
    one, two = (_fingerprint(each.loaded, split) for each in (opened, other))
    if one != two or opened.loaded.spec.names != other.loaded.spec.names:
        raise UserError(
            f"--against {against}: was judged on other data; the {split} examples of {opened.run.path} are not its own"
        )
    return other


def _fingerprint(loaded: Loaded, split: str) -> str:
    return data_fingerprint(loaded._replace(splits={split: loaded.splits[split]}))


def _compared(opened: Opened, other: Opened, split: str) -> dict[str, Any]:
    both = [outcomes(each, split) for each in (opened, other)]
    one, two = (each["correct"] / np.maximum(each["count"], 1) for each in both)
    names = [each.run.name for each in (opened, other)]
    if names[0] == names[1]:
        names = [f"{each.run.name}/{each.run.path.name}" for each in (opened, other)]
    about = {"folder": str(other.run.path), "name": names[1], "accuracy": float(two.mean())}
    if loop.token_unit(opened.work) is not None:
        return about | judgement.compare_shares(one, two, *names)
    pair = judgement.compare(one > 0, two > 0)
    return about | {"sentence": judgement.sentence(pair, *names), **pair._asdict()}


# ---------------------------------------------------------------------------------------------------------------------
# What is kept


def write_judgement(judged: dict[str, Any]) -> dict[str, Any]:
    """Keeps a judgement in the run's folder, as plain data and as a page; the judgement with where they are."""
    run, split = RunFolder(Path(judged["folder"])), judged["split"]
    stem = "evaluation" if split == "test" else f"evaluation_{split}"
    loaded, _ = load_for(run, read_experiment(run))
    run.write_json(f"{stem}.json", judged)
    shown = {row["example"] for rows in ("hardest", "confidently_wrong") for row in judged.get(rows, ())}
    chosen = np.array(sorted(shown), int)
    pictures = dict(zip(chosen.tolist(), loaded.splits[split].read(chosen), strict=True)) if shown else {}
    drawn = draw_all(judged)
    page = evaluation_page(judged, pictures, drawn=drawn, kind=loaded.kind, maximum=loaded.maximum)
    write_atomically(run.path / f"{stem}.html", page.encode())
    named = {f"{stem}_{name}": figure for name, figure in drawn.items()}
    figures = save_figures(named, run.path / "figures") if named else []
    return judged | {"files": [str(file) for file in (run.path / f"{stem}.json", run.path / f"{stem}.html", *figures)]}
