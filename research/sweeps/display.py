"""A sweep in the terminal: its plan before it runs, how far it is, and what came of it."""

import math
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from research.analysis.networks import without_what_names_say
from research.commandline.console import console
from research.inspection.roofline import Rates
from research.inspection.tables import si, size_of
from research.sweeps import plain
from research.sweeps.expectation import Expectation
from research.sweeps.plan import Row, SweepPlan
from research.sweeps.search import repeats
from research.sweeps.sweep import Sweep

__all__ = ["Progress", "console", "show", "show_start", "show_summary"]

ROWS_SHOWN = 24
"""Of a table that is not unfolded."""
WIDTH_OF_FIGURES = 57
"""What the columns of figures take, without the least time."""


def show(
    console: Console,
    plan: SweepPlan,
    *,
    changes: Sequence[str] = (),
    unfold: bool = False,
    rates: Rates | None = None,
    expected: Expectation | None = None,
    compiled: int | None = None,
) -> None:
    """The base, the space, a row for each program, and what they come to; `compiled`, how many these are together."""
    if plan.sweep.name:
        console.print(Text(plan.sweep.name, style="bold"))
    console.print(_pairs(_heading(plan, changes)))
    console.print()
    console.print(_table(plan, unfold, rates, console.width))
    console.print()
    console.print(_pairs(_totals(plan, rates, expected, compiled)))


def _pairs(rows: Iterator[tuple[str, Any]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _heading(plan: SweepPlan, changes: Sequence[str]) -> Iterator[tuple[str, Any]]:
    sweep = plan.sweep
    base = sweep.base
    parts = (base.model, base.data, base.optimizer)
    model, data, optimizer = (type(part).__name__ for part in parts)
    yield "base", f"{model} on {data}, {optimizer}, {base.duration} of batches of {base.batch_size:,}"
    space = Table.grid(padding=(0, 2, 0, 0))
    space.add_column(no_wrap=True)
    space.add_column(overflow="fold")
    for indentation, path, text in plain.lines(sweep):
        space.add_row(f"{'  ' * indentation}{path or text}", text if path else "")
    yield "space", space
    if sweep.search is not None:
        yield "search", _search_in_words(sweep)
    yield "best by", sweep.select if sweep.cost is None else f"{sweep.select}, and few {_unit(sweep.cost)}"
    for number, change in enumerate(changes):
        yield "changed" if number == 0 else "", change
    again = f"; {_count(plan.duplicates, 'duplicate')} left out" if plan.duplicates else ""
    first = "" if sweep.search is None else "first batch: "
    yield "plan", f"{first}{_count(len(plan.trials), 'trial')}, {_count(len(plan.rows), 'program')}{again}"


def _search_in_words(sweep: Sweep) -> str:
    sizes, seeds = sweep.search.batches(), repeats(sweep.space)
    text = f"{type(sweep.search).__name__}: {_count(sweep.search.trials, 'point')} in "
    text += "a batch" if len(sizes) == 1 else f"{len(sizes):,} batches of {sizes[0]:,}"
    return text if seeds == 1 else f"{text}, each run {seeds:,} times: {sweep.search.trials * seeds:,} trials"


def _unit(cost: str) -> str:
    return cost.replace("_", "-")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _table(plan: SweepPlan, unfold: bool, rates: Rates | None, width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    titles, names = _names(plan, width - (WIDTH_OF_FIGURES if rates is None else WIDTH_OF_FIGURES + 8))
    for title in titles:
        table.add_column(title, overflow="fold", min_width=len(title))
    for title in ("trials", "depth", "parameters", "multiply-\nadds", "FLOP\na trial", "memory"):
        table.add_column(title, justify="right", no_wrap=True)
    if rates is not None:
        table.add_column("least\ntime", justify="right", no_wrap=True)
    hidden = 0 if unfold else max(len(plan.rows) - ROWS_SHOWN, 0)
    first = (len(plan.rows) - hidden + 1) // 2
    for number, row in enumerate(plan.rows):
        if hidden and number == first:
            table.add_row(f"... {hidden} more (--unfold)", style="dim")
        if number < first or number >= first + hidden:
            table.add_row(*names[number], *_cells(row, rates))
    return table


def _names(plan: SweepPlan, width: int) -> tuple[list[str], list[list[str]]]:
    """What programs are distinguished by: titles of columns and each row's cells; one column where space is short."""
    shown = without_what_names_say([row.values for row in plan.rows])
    paths = list(dict.fromkeys(path for values in shown for path in values))
    short = {path: _short(path, paths) for path in paths}
    wide = [max(len(short[path]), *(len(values.get(path, "")) for values in shown)) + 2 for path in paths]
    if paths and sum(wide) <= width and all(len(values) == len(paths) for values in shown):
        return list(short.values()), [[values[path] for path in paths] for values in shown]
    told = [", ".join(f"{short[path]} {value}" for path, value in values.items()) for values in shown]
    return ["program"], [[text or "all of one"] for text in told]


def _cells(row: Row, rates: Rates | None) -> Iterator[str]:
    """What follows the distinguishing values in a row."""
    yield f"{len(row.group.trials):,}"
    found = row.inspection
    if found is None:
        yield "fails"
        return
    yield str(found.depth.longest)
    yield f"{found.parameters:,}"
    yield si(found.forward.multiply_adds / found.batch)
    yield si(row.training_flops)
    yield size_of(found.memory.total)
    if rates is not None:
        yield _seconds(row.least_seconds(rates))


def _short(path: str, paths: Sequence[str]) -> str:
    """The last name of a path, with as much before it as tells it from the others."""
    names = path.split(".")
    for count in range(1, len(names)):
        end = ".".join(names[-count:])
        if sum(other == end or other.endswith(f".{end}") for other in paths) == 1:
            return end
    return path


def _totals(
    plan: SweepPlan, rates: Rates | None, expected: Expectation | None, compiled: int | None
) -> Iterator[tuple[str, Any]]:
    runnable = sum(len(row.group.trials) for row in plan.built)
    ends = "at most, for trials may stop early" if _may_stop(plan) else "forward and backward"
    yield (
        "in all" if plan.sweep.search is None else "first batch",
        f"{_count(runnable, 'trial')}, {si(plan.training_flops)}FLOP {ends}",
    )
    if compiled is not None and compiled < len(plan.rows):
        yield "compiled", f"as {_count(compiled, 'program')}, where depth is a number"
    if expected is not None:
        yield "expected", f"{_seconds(expected.seconds)}, {expected.by}"
    if rates is not None:
        yield (
            "least time",
            f"{_seconds(plan.least_seconds(rates))} one after another, at {si(rates.flops)}FLOP/s and "
            f"{si(rates.bandwidth)}B/s",
        )
    yield "", "Multiply-adds are those of an example, forward; memory is that of a trial's step."
    for row in plan.rows:
        which = ", ".join(f"{path} {value}" for path, value in row.values.items())
        for i, problem in enumerate(row.problems):
            first = not i or not which
            yield "fails" if first else "", Text(f"{which}: {problem}" if which and first else problem, style="red")
    for note in dict.fromkeys(note for row in plan.built for note in row.inspection.notes):
        yield "note", note


def _may_stop(plan: SweepPlan) -> bool:
    return any(row.group.experiment.early_stopping is not None for row in plan.built)


def _seconds(seconds: float) -> str:
    """A time for people: 350 us, 12 s, 3.5 h."""
    for size, unit in ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


# ---------------------------------------------------------------------------------------------------------------------
# While it goes on, and after it


LONGEST_VALUE = 40
"""Characters of a value in a line of progress: a partition's rules may be a paragraph."""


def _cut(value: str) -> str:
    return value if len(value) <= LONGEST_VALUE else f"{value[: LONGEST_VALUE - 3]}..."


class Progress:
    """One line while a sweep goes on, rewritten on a terminal; in a pipe a line for each batch of trials."""

    def __init__(self, console: Console, trials: int, done: int, measure: str = "accuracy", token: str = ""):
        self._console, self._trials, self._done = console, trials, done
        self._measure, self._token = measure, token
        self._begun, self._new = time.monotonic(), 0
        self._where, self._at = "", (0, 1)
        self._count = 0
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_interactive else None

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def expect(self, trials: int, done: int) -> None:
        """A round of so many trials, of which some are done."""
        self._trials, self._done = trials, done

    def note(self, line: str) -> None:
        """Something to be told in between."""
        self._console.print(line, soft_wrap=True)

    def begin(self, number: int, programs: int, values: Mapping[str, str], count: int) -> None:
        """Some trials of a program are begun."""
        told = ", ".join(f"{path.rpartition('.')[2]} {_cut(value)}" for path, value in values.items())
        self._where = f"program {number} of {programs}{f' ({told})' if told else ''}: {_count(count, 'trial')}"
        self._count, self._at = count, (0, 1)
        self._show(f"{self._where}, compiling ...")

    def update(self, step: int, steps: int, best: Mapping[str, float]) -> None:
        """They have come to a step, with best figures by name."""
        self._at = step, steps
        self._show(f"{self._where}, step {step:,} of {steps:,}, best {self._told(best)}; {self._left()}")

    def end(self, rows: Sequence[Mapping[str, Any]], best: Mapping[str, float] | None) -> None:
        """Some are done."""
        self._done += len(rows)
        self._new += len(rows)
        bad = sum(told["status"] == "not finite" for told in rows)
        diverged = f", {bad} not finite" if bad else ""
        line = f"{self._where}, best {self._told(best)}{diverged}; {self._done:,} of {self._trials:,} trials done"
        self._console.print(line, soft_wrap=True)

    def _told(self, best: Mapping[str, float] | None) -> str:
        return show_figure((best or {}).get(self._measure), self._measure, self._token)

    def _left(self) -> str:
        share = self._new + self._count * self._at[0] / self._at[1]
        rest = (self._trials - self._done + self._new - share) * (time.monotonic() - self._begun) / max(share, 1e-9)
        return f"about {_seconds(rest)} left"

    def _show(self, line: str) -> None:
        if self._live is not None:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)


KEPT = {"accuracy": "accuracies", "loss": "losses"}
"""What the figures of the seeds that judge are called in a summary."""


def show_figure(value: float | None, measure: str, token: str = "") -> str:
    """An accuracy, or a loss; of a language model in bits for each token: 92.16 %, 0.2456, 2.13 bits."""
    if value is None:
        return "-"
    if measure == "accuracy":
        return f"{100 * value:.2f} %"
    return f"{value / math.log(2):.3f} bits" if token else f"{value:.4f}"


def show_start(console: Console, folder: Path, *, done: int, trials: int) -> None:
    """Where the sweep is kept, and how much of it is done already."""
    console.print()
    console.print(Text.assemble(("sweep ", "bold"), str(folder)), soft_wrap=True)
    if done:
        console.print(f"{done:,} of {trials:,} trials are done already", soft_wrap=True)


def show_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """The best values of each program, their mean on fresh seeds where they were judged, and the verdict."""
    shown = without_what_names_say([program["values"] for program in summary["programs"]])
    paths = list(dict.fromkeys(path for values in shown for path in values))
    in_columns = paths and all(len(values) == len(paths) for values in shown)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in [_short(path, paths) for path in paths] if in_columns else ["program"]:
        table.add_column(title, overflow="fold")
    is_judged = any(program["judged"]["accuracies"] for program in summary["programs"])
    measure, token = summary["select"].rpartition("/")[2], summary.get("token", "")
    best_with = [
        _with(program["chosen"]["values"], program["values"]) if program["chosen"] else ""
        for program in summary["programs"]
    ]
    for title in ("trials", "validation", "fresh seeds" if is_judged else "test"):
        table.add_column(title, justify="right", overflow="fold")
    if any(best_with):
        table.add_column("best with", overflow="fold")
    merits = [program["chosen"]["value"] for program in summary["programs"] if program["chosen"]]
    best = (min if measure == "loss" else max)(merits, default=None)
    for program, values, numbers in zip(summary["programs"], shown, best_with, strict=True):
        chosen = program["chosen"]
        told = ", ".join(f"{_short(path, paths)} {value}" for path, value in values.items()) or "all of one"
        names = list(values.values()) if in_columns else [told]
        bad = program["not finite"] + program["failed"]
        count = f"{program['done']:,}" + (f" ({bad} bad)" if bad else "")
        if chosen is None:
            table.add_row(*names, count)
            continue
        judged = program["judged"][KEPT[measure]]
        tested = sum(judged) / len(judged) if judged else None if is_judged else (chosen["test"] or {}).get(measure)
        figures = show_figure(chosen["value"], measure, token), show_figure(tested, measure, token)
        is_best = chosen["value"] == best
        row = (*names, count, *figures, numbers) if any(best_with) else (*names, count, *figures)
        table.add_row(*row, style="bold" if is_best else None)
    console.print()
    console.print(table)
    if summary["front"]:
        console.print()
        console.print(f"none has less {_unit(summary['cost'])} and is as good:")
        console.print(_front(summary))
    console.print()
    if summary.get("verdict"):
        console.print(summary["verdict"], highlight=False)
        console.print()
    console.print(Text.assemble(("kept in ", "bold"), summary["folder"]), soft_wrap=True)
    if summary.get("verdict"):
        console.print(Text.assemble(("open    ", "bold"), f"{summary['folder']}/report.html"), soft_wrap=True)
    if summary["reason"] == "interrupted":
        console.print("interrupted; the same command goes on", soft_wrap=True)


def _front(summary: Mapping[str, Any]) -> Table:
    """The Pareto front; the test figure is the mean on the fresh seeds, where it was judged."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    metric, token = summary["select"].removeprefix("validation/"), summary.get("token", "")
    for title in (_unit(summary["cost"]), "validation", "test", "with"):
        table.add_column(title, justify="left" if title == "with" else "right", overflow="fold")
    for entry in summary["front"]:
        value = show_figure(entry["value"], metric, token)
        judged = summary["programs"][entry["program"]]["judged"][KEPT[metric]]
        test = show_figure(sum(judged) / len(judged) if judged else None, metric, token)
        table.add_row(si(entry["cost"]), value, test, _with(entry["values"], ()))
    return table


def _with(values: Mapping[str, Any], without: Container[str]) -> str:
    """The values of a trial, but for those that its program tells."""
    paths = list(values)
    told = (
        f"{_short(p, paths)} {v:.3g}" if isinstance(v, float) else f"{_short(p, paths)} {v}"
        for p, v in values.items()
        if p not in without
    )
    return ", ".join(told)
