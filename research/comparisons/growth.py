"""How families of models grow with depth and with width: parameters, FLOPs, and memory to train.

    Growth(families=(Family(model=MLP(), inputs=(28, 28, 1), classes=10, depths=(2, 4, 8), widths=(64, 128, 256)),))

Each family is inspected at every depth, its other fields as they are, and then at every width. What it grows by is the
slope of a straight line through the figures on logarithmic axes: 1 doubles with a doubled size, 2 quadruples.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from research.config import config, edge, structure
from research.inspection.comparison import Subject, compare
from research.inspection.inspecting import Inspection
from research.inspection.matching import resized
from research.inspection.tables import si, size_of
from research.lessons import Lesson, Section
from research.models.base import Model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOMENTS = 2
"""Numbers that Adam keeps for each parameter."""


@config
class Family:
    """A kind of model, the data it is sized for, and the sizes at which it is looked at."""

    model: Model = structure(doc="at the depth at which width varies, and the width at which depth does")
    name: str = edge("", "what it is called; its kind if empty")
    inputs: tuple[int, ...] = structure(doc="shape of one example, without the batch")
    classes: int = structure(10, "logits", within="[1, inf)")
    tokens: int | None = structure(None, "how many there are, if inputs are tokens", within="[1, inf)")
    depth: str = structure("depth", "the field that makes it deeper")
    depths: tuple[int, ...] = structure(doc="its values")
    width: str = structure("width", "the field that makes it wider; a tuple keeps its proportions")
    widths: tuple[int, ...] = structure(doc="its values")

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in ("depths", "widths"):
            if len(set(getattr(self, name))) < 2:
                yield name, "at least two different values are needed to see what grows"

    def __str__(self) -> str:
        """What it is called."""
        return self.name or type(self.model).__name__

    def inspected(self, field: str, values: Sequence[int]) -> list[Inspection]:
        """The models with these values in a field."""
        shared = {"inputs": self.inputs, "classes": self.classes, "tokens": self.tokens}
        models = [resized(self.model, field, value) for value in values]
        subjects = [Subject(layer=model, name=f"{self} {value}") for value, model in zip(values, models, strict=True)]
        shape = shared.pop("inputs")
        return [one.inspection for one in compare(subjects, shape, **shared)]


@config
class Growth(Lesson):
    """How models grow with depth and with width: parameters, FLOPs and memory, without allocating one."""

    families: tuple[Family, ...] = structure(doc="the kinds of models")
    name: str = edge("", "what it is called; the config file's name if empty")
    batch: int = structure(32, "examples of a training step, for the memory", within="[1, inf)")

    def sections(self) -> Iterator[Section]:
        by_depth = [
            _line(family, family.inspected(family.depth, family.depths), self.batch) for family in self.families
        ]
        yield _section("With depth", "depth", by_depth, self.batch, "Depth is that of the longest path.")
        by_width = [
            _line(family, family.inspected(family.width, family.widths), self.batch, family.widths)
            for family in self.families
        ]
        section = _section("With width", "width", by_width, self.batch, "Width is the field that makes a family wider.")
        yield section._replace(figure=draw(by_depth, by_width, self.batch))


class Line(NamedTuple):
    """A family's figures at several sizes."""

    name: str
    sizes: tuple[int, ...]
    parameters: tuple[int, ...]
    multiply_adds: tuple[int, ...]
    flops: tuple[int, ...]
    memory: tuple[int, ...]


def _line(family: Family, found: Sequence[Inspection], batch: int, sizes: Sequence[int] | None = None) -> Line:
    return Line(
        str(family),
        tuple(sizes or (one.depth.longest for one in found)),
        tuple(one.parameters for one in found),
        tuple(one.forward.multiply_adds for one in found),
        tuple(one.forward.flops for one in found),
        tuple(training_bytes(one, batch) for one in found),
    )


def training_bytes(inspection: Inspection, batch: int) -> int:
    """Bytes of a training step with Adam: parameters, gradients, moments, and what is kept of a batch's activations.

    The inspection is that of one example.
    """
    memory = inspection.memory
    return memory.parameters + (1 + MOMENTS) * memory.gradients + batch * memory.activations


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """By which power of the sizes the values grow: the slope of the line nearest to them on logarithmic axes."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


_FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "parameters": ("parameters", lambda n: si(n).rstrip()),
    "flops": ("FLOP", lambda n: si(n).rstrip()),
    "memory": ("memory", size_of),
}


def _section(title: str, what: str, lines: Sequence[Line], batch: int, about: str) -> Section:
    rows, data = [], []
    for line in lines:
        row = {"": line.name, f">{what}": f"{line.sizes[0]}..{line.sizes[-1]}"}
        for name, (header, show) in _FIGURES.items():
            values = getattr(line, name)
            row |= {
                f">{header}": show(values[-1]),
                f">^{' ' * list(_FIGURES).index(name)}": f"{slope(line.sizes, values):.2f}",
            }
        rows.append(row)
        data.append(line._asdict() | {"slopes": {name: slope(line.sizes, getattr(line, name)) for name in _FIGURES}})
    text = f"""
        What the largest model has, and by which power (^) of the {what} it grows from the smallest to it: 1 doubles
        with a doubled {what}, 2 quadruples. {about}

        FLOP are those of the forward pass of one example, two for a multiply-add; memory is what a step of Adam on
        {batch} examples needs: parameters, gradients, two moments, and activations kept for the backward pass.
        """
    return Section(title, text, rows, data=data)


# ---------------------------------------------------------------------------------------------------------------------
# The figure


def draw(by_depth: Sequence[Line], by_width: Sequence[Line], batch: int) -> "Figure":
    """Parameters, FLOPs and memory, a row each, against depth and against width, a line for each family."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 10.5), layout="constrained")
    axes = figure.subplots(3, 2, sharey="row", sharex="col")
    titles = ("parameters", "FLOP, forward, one example", f"bytes to train, Adam, batch of {batch}")
    for row, (name, title) in enumerate(zip(_FIGURES, titles, strict=True)):
        for column, lines in enumerate((by_depth, by_width)):
            _panel(axes[row, column], lines, name)
        axes[row, 0].set_ylabel(title)
    axes[0, 0].set_title("deeper, at one width", loc="left", fontweight="bold")
    axes[0, 1].set_title("wider, at one depth", loc="left", fontweight="bold")
    axes[2, 0].set_xlabel("depth: contractions with a parameter on the longest path")
    axes[2, 1].set_xlabel("width: features")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
    return figure


def _panel(axes: "Axes", lines: Sequence[Line], name: str) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

    marks = "osD^vP*Xph"
    for place, line in enumerate(lines):
        style: dict[str, Any] = {"marker": marks[place % len(marks)], "color": colormaps["tab10"](place % 10)}
        axes.plot(
            line.sizes,
            getattr(line, name),
            label=line.name,
            linewidth=1.4,
            markersize=5,
            markerfacecolor="white",
            **style,
        )
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(EngFormatter(sep=" ", unit="B" if name == "memory" else ""))
    axes.grid(color="#e3e5e8", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
