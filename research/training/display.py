"""What a person sees of a run: the plan before it, one line of progress while it goes on, a short table after it.

On a terminal the line of progress is rewritten in place. In a pipe, a file or CI it becomes plain lines, about twenty a
run and one more for an evaluation now and then. No line needs more than 80 columns or anything beyond ASCII, but for
the names that the user gave.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from research.commandline.console import console
from research.inspection.tables import size_of
from research.training import partitioned

LINES = 20
"""Lines of progress in a pipe, for a whole run; evaluations may add more."""
SECONDS_BETWEEN_EVALUATIONS = 5.0
"""At least, between two lines in a pipe of which the later is there for an evaluation alone."""
SECONDS_BETWEEN_FRAMES = 0.1
CLASSES_SHOWN = 20
"""Of more classes than this, only those with the lowest F1 are shown."""


def note(text: str) -> None:
    """A line that something of interest has happened."""
    console().print(_noted(text), soft_wrap=True)


def _noted(text: str) -> Text:
    return Text.assemble(("note: ", "yellow"), text)


# ---------------------------------------------------------------------------------------------------------------------
# Before


def show_plan(console: Console, plan: Mapping[str, Any]) -> None:
    """What a run will do, as `run.inspect` tells it."""
    data, table = plan["data"], pairs()
    table.add_row("model", Text.assemble((plan["model"], "bold"), f", {_parameters(plan)}"))
    splits = ", ".join(f"{data[name]:,} {name}" for name in ("train", "validation", "test") if name in data)
    shape = " x ".join(map(str, data["shape"]))
    table.add_row("data", Text.assemble((data["kind"], "bold"), f", {shape}{_told_apart(data)}: {splits}"))
    for task in data.get("tasks", ()):
        sizes = ", ".join(f"{task[name]:,} {name}" for name in ("train", "validation", "test"))
        about = f"{task['classes']:,} classes: {sizes}; {task['objective']}, weight {task['weight']:g}"
        table.add_row("task", Text.assemble((task["name"], "bold"), f", {task['kind']}, {about}"))
    each = " of each task" if data.get("tasks") else ""
    size, epochs = f"{plan['batch_size']:,}{each}", f"{plan['epochs']:.3g} epochs"
    table.add_row("training", f"{plan['steps']:,} steps of {size} ({epochs})")
    if plan.get("features"):
        shape = " x ".join(map(str, plan["features"]["shape"]))
        table.add_row("features", f"{shape} to {plan['features']['layer']}, computed once")
    table.add_row("device", plan["device"])
    for number, change in enumerate(plan.get("changes", ())):
        table.add_row("changed" if number == 0 else "", change)
    if plan.get("name"):
        console.print(Text(plan["name"], style="bold"))
    console.print(table)
    if plan.get("partition"):
        console.print()
        partitioned.show(console, plan["layers"], plan["partition"])
        console.print()
    if "folder" in plan:
        _print_path(console, "run", plan["folder"])


def _told_apart(data: Mapping[str, Any]) -> str:
    """How many classes there are, and of tokens how many: in models of language they are the same."""
    tokens = data.get("tokens")
    of_tokens = "" if tokens is None else f" of {tokens:,} tokens"
    return of_tokens if data["classes"] == tokens else f"{of_tokens}, {data['classes']:,} classes"


def _parameters(plan: Mapping[str, Any]) -> str:
    depth = f"depth {plan['depth']}, " if plan.get("depth") is not None else ""
    total, trainable = plan["parameters"], plan["trainable"]
    frozen = "" if trainable == total else f", of which {trainable:,} are trained"
    return f"{depth}{total:,} parameters{frozen}"


def show_compiled(console: Console, plan: Mapping[str, Any]) -> None:
    """What XLA says of a chunk of training, where it was asked."""
    if "compiled" not in plan:
        return
    table = pairs()
    words = {
        "argument_bytes": "state and data that go in",
        "output_bytes": "state and metrics that come out",
        "shared_bytes": "of these in the same place",
        "temporary_bytes": "beside them, at the most",
    }
    for name, count in plan["compiled"].items():
        table.add_row(words[name], f"{size_of(count)}")
    if not plan["compiled"]:
        table.add_row("", "XLA tells nothing on this platform")
    console.print(Text("XLA on the memory of a chunk of steps", style="bold"))
    console.print(table)


# ---------------------------------------------------------------------------------------------------------------------
# While it goes on


class Progress:
    """The line of progress of a run, which is a context manager.

        with Progress(total_steps=3000, first_step=0) as progress:
            progress.update({"step": 100, "split": "train", "loss": 0.3, "examples_per_second": 45_000})
            progress.update({"step": 100, "split": "validation", "loss": 0.4, "accuracy": 0.9})

    It takes the rows that are written to metrics.jsonl. A row whose `split` is not "train" is an evaluation.
    """

    def __init__(
        self,
        total_steps: int,
        first_step: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._console = console or globals()["console"]()
        self._clock = clock
        self._total, self._step, self._first = total_steps, first_step, first_step
        self._shown: dict[str, Any] = {}
        self._began: tuple[int, float] | None = None  # the first row's step and time: compilation is over by then
        self._line_at, self._line_step = -math.inf, -math.inf
        self._is_last_due = False  # the last step's line waits for its evaluation
        self._frame_at = -math.inf
        self._live: Live | None = None

    def __enter__(self) -> "Progress":
        if self._console.is_interactive:
            self._live = Live(
                Text("compiling ..."), console=self._console, auto_refresh=False, redirect_stdout=True, transient=False
            )
            self._live.start(refresh=True)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.update(self._line(), refresh=True)
            self._live.stop()
            self._live = None
        elif self._is_last_due:
            self._console.print(self._line(), soft_wrap=True)

    def note(self, text: str) -> None:
        """A line of its own, above the line of progress."""
        self._console.print(_noted(text), soft_wrap=True)

    def update(self, row: Mapping[str, Any]) -> None:
        """Takes a row of metrics, and shows it where it is time to."""
        now, evaluation = self._clock(), row.get("split", "train") != "train"
        self._step = row["step"]
        if self._began is None:
            self._began = self._step, now
        if evaluation:
            self._shown |= {"validation": _in_bits(row) or _percent(row["accuracy"]), "validated": row["step"]}
        else:
            self._shown |= {name: row[name] for name in ("loss", "examples_per_second") if name in row}
        if self._live is not None:
            self._refresh(now)
        elif self._is_due(now, evaluation):
            self._line_at, self._line_step = now, self._step
            self._console.print(self._line(), soft_wrap=True)

    def _refresh(self, now: float) -> None:
        last = self._step >= self._total
        if last or now - self._frame_at >= SECONDS_BETWEEN_FRAMES:
            self._frame_at = now
            self._live.update(self._line(), refresh=True)

    def _is_due(self, now: float, evaluation: bool) -> bool:
        """Whether a pipe is given another line."""
        self._is_last_due = not evaluation and self._step >= self._total
        if self._is_last_due:
            return False
        if evaluation and (now - self._line_at >= SECONDS_BETWEEN_EVALUATIONS or self._step >= self._total):
            return True
        return not evaluation and self._step - self._line_step >= (self._total - self._first) / LINES

    def _line(self) -> Text:
        """ "step 1200/3000  loss 0.0123  validation 98.61 %  45,210 examples/s  0:12 left"."""
        parts = [Text(f"step {self._step:>{len(str(self._total))}}/{self._total}")]
        if "loss" in self._shown:
            parts.append(Text.assemble("loss ", (f"{self._shown['loss']:.4f}", "bold")))
        if "validation" in self._shown:
            parts.append(Text.assemble("validation ", (self._shown["validation"], "bold green"), self._validated_at()))
        if "examples_per_second" in self._shown:
            parts.append(Text(f"{_rate(self._shown['examples_per_second'])} examples/s"))
        if (left := self._seconds_left()) is not None:
            parts.append(Text(f"{math.ceil(left)} s left" if left < 60 else f"{duration(left)} left"))
        line = Text("  ", no_wrap=True, overflow="ellipsis").join(parts)
        line.no_wrap, line.overflow = True, "ellipsis"
        return line

    def _validated_at(self) -> str:
        """For a pipe, at which step the figure was found if not at this one; a terminal is shown that as it comes."""
        is_old = self._live is None and self._shown["validated"] != self._step
        return f" at {self._shown['validated']}" if is_old else ""

    def _seconds_left(self) -> float | None:
        if self._began is None or self._step >= self._total or self._step <= self._began[0]:
            return None
        step, began = self._began
        return (self._clock() - began) / (self._step - step) * (self._total - self._step)


# ---------------------------------------------------------------------------------------------------------------------
# After


def show_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """How a run ended: its test figures, class by class too, and where its folder is."""
    console.print()
    if "test" in summary:
        _show_report(console, "test", summary["test"])
    table = pairs()
    table.add_row("ended", f"{summary['reason']}, after {summary['steps']:,} steps")
    if summary.get("best", {}).get("value") is not None:
        best = summary["best"]
        value = _percent(best["value"]) if best["metric"].endswith("accuracy") else f"{best['value']:.4f}"
        table.add_row("best", f"{best['metric']} {value} at step {best['step']:,}")
    if "interpolation" in summary:
        points = (f"{point['share']:.2g}: {_percent(point['accuracy'])}" for point in summary["interpolation"])
        table.add_row("from source", ", ".join(points))
    for row in summary.get("forgetting", ()):
        before, after = (_in_bits(row[end]) or _percent(row[end]["accuracy"]) for end in ("before", "after"))
        table.add_row(f"{row['data']} data", f"{before} before, {after} after")
    if "adapters" in summary:
        table.add_row("adapters", f"{size_of(summary['adapters'])}, adapters.safetensors in the run's folder")
    if summary.get("skipped"):
        table.add_row("skipped", f"{summary['skipped']:,} steps, for a loss or gradient that was not finite")
    table.add_row("wall time", duration(summary["wall_time"]))
    console.print(table)
    _print_path(console, "run", summary["folder"])
    if "resume" in summary:
        _print_path(console, "go on with", summary["resume"])


def show_evaluation(console: Console, evaluation: Mapping[str, Any]) -> None:
    """Figures of a run's best checkpoint on a split."""
    split = evaluation["split"]
    _show_report(console, split, evaluation[split])
    if "against" in evaluation:
        console.print(f"\n{evaluation['against']['sentence']}")
    _print_path(console, "run", f"{evaluation['folder']}, step {evaluation['step']:,}")


def _show_report(console: Console, split: str, report: Mapping[str, Any]) -> None:
    if "classes" in report:
        _show_classes(console, split, report)
    figures = pairs()
    if (bits := _in_bits(report)) is not None:
        figures.add_row(split, Text.assemble((bits, "bold green"), f", over {report['tokens']:,} tokens"))
        figures.add_row("perplexity", f"{report['perplexity']:.4g}")
    figures.add_row("accuracy", Text(_percent(report["accuracy"]), style="" if bits else "bold green"))
    figures.add_row("loss", f"{report['loss']:.4f}")
    for task, of_task in report.get("tasks", {}).items():
        told = f" {_percent(of_task['accuracy'])}, loss {of_task['loss']:.4f}, over {of_task['examples']:,} examples"
        figures.add_row("task", Text.assemble((task, "bold"), told))
    console.print(figures)


def _show_classes(console: Console, split: str, report: Mapping[str, Any]) -> None:
    table = grid(split, ">precision", ">recall", ">F1", ">examples")
    rows, hidden = report["classes"], 0
    if len(rows) > CLASSES_SHOWN:
        rows = sorted(rows, key=lambda row: row["f1"])[:CLASSES_SHOWN]
        hidden = len(report["classes"]) - CLASSES_SHOWN
    for row in rows:
        cells = (_percent(row[name]) for name in ("precision", "recall", "f1"))
        table.add_row(str(row["name"]), *cells, f"{row['support']:,}")
    if hidden:
        table.add_row(f"... {hidden} with a higher F1 ...", "", "", "", "", style="dim")
    support = sum(row["support"] for row in report["classes"])
    cells = (_percent(report[name]) for name in ("precision", "recall", "f1"))
    table.add_section()
    table.add_row("macro average", *cells, f"{support:,}", style="bold")
    console.print(table)
    console.print()


def show_sample(console: Console, sampled: Mapping[str, Any]) -> None:
    """A prompt and how a language model goes on from it."""
    console.print(Text.assemble((sampled["prompt"], "bold"), sampled["text"]), soft_wrap=True)


def show_prompt(console: Console, prompt: str) -> None:
    """A prompt that a language model is about to go on from."""
    console.print(Text(prompt, "bold"), end="", soft_wrap=True)


def show_export(console: Console, told: Mapping[str, Any]) -> None:
    """What was saved of a run, as `exporting` tells it."""
    table = pairs()
    table.add_row("run", f"{told['folder']}, step {told['step']:,}")
    table.add_row("layout", told.get("layout", f"adapters of {told.get('base', {}).get('path')}"))
    table.add_row("parameters", f"{told['parameters']:,}")
    console.print(table)
    _print_path(console, "saved", told["to"])


# ---------------------------------------------------------------------------------------------------------------------
# Words and tables


def pairs() -> Table:
    """A table of names and what they are."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True, min_width=10)
    table.add_column(overflow="fold")
    return table


def _print_path(console: Console, name: str, path: Any) -> None:
    """A row of a table of `_pairs` that is never broken, so that it can be copied."""
    console.print(Text.assemble((f"{name:<12}", "dim"), (str(path), "cyan")), soft_wrap=True)


def grid(*headers: str) -> Table:
    """A table with a line of headers and no rules; ">" before a header puts its column to the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for header in headers:
        justify = "right" if header.startswith(">") else "left"
        table.add_column(header.removeprefix(">"), justify=justify, no_wrap=justify == "right", overflow="fold")
    return table


def duration(seconds: float) -> str:
    """Seconds as people say them: "8.3 s" below a minute, then "1:05" and "2:00:07"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _in_bits(figures: Mapping[str, Any]) -> str | None:
    """ "2.345 bits/byte", of what tells language; None of what does not."""
    found = [(name, value) for name, value in figures.items() if name.startswith("bits_per_")]
    return f"{found[0][1]:.3f} bits/{found[0][0].removeprefix('bits_per_')}" if found else None


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
