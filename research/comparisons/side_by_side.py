"""Two or more models or layers side by side, as tables and as a figure.

    Comparison(
        subjects=(Subject(layer=ResNet(depth=50)), Subject(layer=VGG(depth=16))),
        inputs=(224, 224, 3),
        classes=1000,
    )

A config file that returns one is run by `launch.py` like any other; `--mode inspect --format json` gives its figures to
other programs.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from research.config import config, edge, structure
from research.inspection.comparison import Compared, Subject, compare
from research.inspection.tables import si, size_of
from research.lessons import Lesson, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIRST, OTHERS, TEXT = "#d1495b", "#3b6fb6", "#33373d"


@config
class Comparison(Lesson):
    """Models or layers side by side: parameters, cost, depth, receptive field, and time."""

    subjects: tuple[Subject, ...] = structure(doc="what is compared; the others are compared with the first")
    name: str = edge("", "what it is called; the config file's name if empty")
    inputs: tuple[int, ...] = structure((), "shape of one example, without the batch; a subject may have its own")
    classes: int | None = structure(None, "logits of models; a subject may have its own", within="[1, inf)")
    tokens: int | None = structure(None, "how many there are, if inputs are tokens", within="[1, inf)")
    batch: int = structure(8, "examples in a call that is timed", within="[1, inf)")
    rounds: int = structure(0, "calls of each that are timed, all taking turns; 0 times nothing", within="[0, inf)")

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(self.subjects) < 2:
            yield "subjects", f"there {'is one' if self.subjects else 'are none'}; at least two can be compared"
        names = [str(subject) for subject in self.subjects]
        for twice in dict.fromkeys(name for name in names if names.count(name) > 1):
            yield "subjects", f"two are called '{twice}'; give one another name"

    def sections(self) -> Iterator[Section]:
        shared = {"classes": self.classes, "tokens": self.tokens}
        compared = compare(self.subjects, self.inputs, **shared, batch=self.batch, rounds=self.rounds)
        yield parameters(compared)
        yield costs(compared, self.batch, self.rounds)


def parameters(compared: Sequence[Compared]) -> Section:
    """How many parameters each has, and what they come from."""
    first, second = compared[:2]
    base = max(first.inspection.parameters, 1)
    rows = [
        {
            "": one.name,
            ">parameters": f"{one.inspection.parameters:,}",
            ">of the first": _ratio(one.inspection.parameters / base),
            ">bytes": size_of(one.inspection.memory.parameters),
            "from the sizes": one.formula,
        }
        for one in compared
    ]
    text = f"{_counted(first)}, {_counted(second)}{_times(first.inspection.parameters, second.inspection.parameters)}."
    return Section("Parameters", text, rows, data=_data(compared, ("name", "parameters", "bytes", "formula")))


def _data(compared: Sequence[Compared], names: Sequence[str]) -> list[dict[str, Any]]:
    return [{name: one.figures()[name] for name in names} for one in compared]


def _counted(one: Compared) -> str:
    return f"{one.name}: {one.inspection.parameters:,} parameters"


def _times(a: int, b: int) -> str:
    if not a or not b or a == b:
        return ""
    return f", {a / b:.1f} times fewer" if a > b else f", {b / a:.1f} times as many"


def _ratio(ratio: float) -> str:
    return f"{ratio:.3f}" if ratio < 10 else f"{ratio:,.0f}"


def costs(compared: Sequence[Compared], batch: int, rounds: int) -> Section:
    """What each computes for an example, how deep it is and how far it sees, and how long it takes."""
    rows = []
    for one in compared:
        found = one.inspection
        row = {
            "": one.name,
            ">multiply-adds": si(found.forward.multiply_adds) or "0",
            ">FLOP": si(found.forward.flops) or "0",
            ">depth": str(found.depth.longest),
            ">sees": _sees(found.field),
        }
        rows.append(row | ({">ms": _milliseconds(one)} if rounds else {}))
    text = """
        For the forward pass of one example, read off its trace: multiply-adds, and FLOP, which are two for a
        multiply-add and one for whatever else is computed. Depth counts contractions with a parameter one after
        another; what a layer sees are the positions of the input that an output in the midst hangs on.
        """
    notes = [f"{one.name}: {note}." for one in compared for note in one.inspection.notes]
    text += "\n\n".join(["", *notes]) if notes else ""
    if rounds:
        text += f"""

        Milliseconds are those of a jitted forward pass of a batch of {batch}, on this machine: the median of {rounds}
        calls, all taking turns, and half of what lies between the quartiles.
        """
    told = [name for name in compared[0].figures() if name not in ("parameters", "bytes", "formula")]
    return Section("What an example costs", text, rows, draw(compared, batch), _data(compared, told))


def _sees(field: Sequence[int] | None) -> str:
    return "-" if not field else "x".join(map(str, field[: max(len(field) - 1, 1)]))


def _milliseconds(one: Compared) -> str:
    if one.time is None:
        return "-"
    spread = (one.time.high - one.time.low) / 2
    return f"{1e3 * one.time.median:.2f} ± {1e3 * spread:.2f}"


# ---------------------------------------------------------------------------------------------------------------------
# The figure


def draw(compared: Sequence[Compared], batch: int) -> "Figure":
    """A bar for each subject, in panels of parameters, multiply-adds and time, all on logarithmic scales."""
    from matplotlib.figure import Figure

    panels = [
        ("parameters", [one.inspection.parameters for one in compared], lambda n: f"{n:,}"),
        (
            "multiply-adds of an example, forward",
            [one.inspection.forward.multiply_adds for one in compared],
            lambda n: si(n).rstrip() or "0",
        ),
    ]
    if any(one.time for one in compared):
        taken = [one.time and 1e3 * one.time.median for one in compared]
        panels.append((f"milliseconds, forward, batch of {batch}", taken, lambda n: f"{n:.3g}"))
    figure = Figure(figsize=(4.2 * len(panels) + 1.8, 0.34 * len(compared) + 1.1), layout="constrained")
    rows = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, values, show) in zip(rows, panels, strict=True):
        _bars(axes, title, values, show)
    rows[0].set_yticks(range(len(compared)), [one.name for one in compared])
    rows[0].set_ylim(len(compared) - 0.5, -0.5)
    return figure


def _bars(axes: "Axes", title: str, values: Sequence[Any], show: Any) -> None:
    there = [value for value in values if value]
    least, most = (min(there) / 3, max(there)) if there else (1, 1)
    colors = [FIRST] + [OTHERS] * (len(values) - 1)
    axes.barh(range(len(values)), [max(value or 0, least) - least for value in values], 0.7, least, color=colors)
    axes.set(xscale="log", xlim=(least, most * (most / least) ** 0.28))
    axes.set_title(title, loc="left", fontsize="medium")
    for place, value in enumerate(values):
        text = "not run" if value is None else show(value)
        axes.text(max(value or 0, least), place, f"  {text}", va="center", fontsize="small", color=TEXT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e3e5e8", linewidth=0.6)
    axes.set_axisbelow(True)
