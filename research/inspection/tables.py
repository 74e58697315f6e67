"""An inspection for people, and for other programs: a table, plain data, CSV, a page.

Equal blocks that follow one another are folded into one, "block_00..11 x12", with the numbers of a single one of them;
`unfold` shows each. Costs are those of one example; layers that compute elementwise alone are in the sums.
"""

import csv
import html
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from research.inspection.costs import Cost
from research.inspection.inspecting import Inspection
from research.inspection.layers import Layer, block_of
from research.inspection.roofline import Rates, intensity, least_seconds

WIDTH_OF_TEXT = 100


class Fold(NamedTuple):
    """Layers that follow one another: those of equal blocks, or one that is in none."""

    name: str
    """What the blocks are called together, "block_00..11"; "" for a layer in no block."""
    times: int
    layers: tuple[Layer, ...]
    """Of the first block."""
    block: str
    """The path of the first block."""


def folds(layers: Sequence[Layer], *, unfold: bool = False) -> Iterator[Fold]:
    """The layers block by block, equal blocks folded."""
    blocks = list(_blocks(layers))
    i = 0
    while i < len(blocks):
        name, members = blocks[i]
        j = i + 1
        while not unfold and name and j < len(blocks) and _alike(blocks[i], blocks[j]):
            j += 1
        yield Fold(_range(name, blocks[j - 1][0]) if j - i > 1 else name, j - i, tuple(members), name)
        i = j


def _blocks(layers: Sequence[Layer]) -> Iterator[tuple[str, list[Layer]]]:
    """The layers, those of the same numbered block together: (block or "", layers)."""
    names = {block_of(layer.path) for layer in layers}
    current, members = "", []
    for layer in layers:
        block = layer.path if layer.path in names else block_of(layer.path) or ""
        if members and (block != current or not block):
            yield current, members
            members = []
        current = block
        members.append(layer)
    if members:
        yield current, members


def _alike(a: tuple[str, list[Layer]], b: tuple[str, list[Layer]]) -> bool:
    kin = re.sub(r"\d+", "", a[0]) == re.sub(r"\d+", "", b[0]) and a[0].rpartition("/")[0] == b[0].rpartition("/")[0]
    return kin and [_signature(a[0], layer) for layer in a[1]] == [_signature(b[0], layer) for layer in b[1]]


def _signature(block: str, layer: Layer) -> tuple:
    """What equal blocks have in common: all but where they stand, and that the first may get no gradient to pass on."""
    own = layer._replace(path=layer.path.removeprefix(block), depth=0, field=None, backward=None, activation_bytes=0)
    return tuple(own)


def _range(first: str, last: str) -> str:
    return f"{first}..{re.search(r'[0-9]+', last[::-1])[0][::-1]}"


# ---------------------------------------------------------------------------------------------------------------------
# A table


def as_text(inspection: Inspection, width: int = WIDTH_OF_TEXT, **options: Any) -> str:
    """The table and its totals as plain text."""
    console = Console(file=io.StringIO(), width=width)
    console.print(show(inspection, width, **options))
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def show(inspection: Inspection, width: int, *, unfold: bool = False, rates: Rates | None = None) -> RenderableType:
    """The layers, the kinds, and what they come to, in as many columns as are wide enough for."""
    parts: list[RenderableType] = [_layer_table(inspection, width, unfold), _sums_table(inspection, "kind")]
    if unfold:
        parts.append(_sums_table(inspection, "depth"))
    parts.append(_totals(inspection, rates))
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts))


def _layer_table(inspection: Inspection, width: int, unfold: bool) -> Table:
    columns = _columns(inspection, width)
    rows = [
        (name, style, layer and [cell(layer) for _, _, cell in columns[1:]])
        for name, style, layer in _rows(inspection, unfold)
    ]
    widths = [
        max(len(title), *(len(cells[i]) for _, _, cells in rows if cells))
        for i, (title, _, _) in enumerate(columns[1:])
    ]
    while sum(widths) + 2 * len(columns) + min(max(len(name) for name, _, _ in rows), 24) > width and len(columns) > 3:
        gone = next(i for i, (title, _, _) in enumerate(columns) if title in ("output", "multiply-adds"))
        columns.pop(gone), widths.pop(gone - 1), [cells.pop(gone - 1) for _, _, cells in rows if cells]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("layer", no_wrap=True, overflow="ellipsis")
    for (title, justify, _), wide in zip(columns[1:], widths, strict=True):
        table.add_column(title, justify=justify, no_wrap=True, min_width=wide)
    for name, style, cells in rows:
        table.add_row(Text(name), *(cells or ()), style=style)
    return table


def _rows(inspection: Inspection, unfold: bool) -> Iterator[tuple[str, str | None, Layer | None]]:
    """(name, style, layer) of each line; of a block's heading without a layer. What is elementwise is left out."""
    for fold in folds(inspection.layers, unfold=unfold):
        if fold.name:
            yield f"{fold.name} x{fold.times}" if fold.times > 1 else fold.name, "cyan", None
        for layer in fold.layers:
            if layer.kind != "elementwise":
                name = layer.path.removeprefix(fold.block).lstrip("/") or "(between its layers)"
                yield f"  {name}" if fold.name else name, "dim" if layer.kind == "products" else None, layer


def _columns(inspection: Inspection, width: int):
    """(title, justification, what a layer's cell says) of those that fit in a width, the most telling first."""
    total, batch = max(inspection.parameters, 1), inspection.batch
    chosen = [
        ("layer", "left", None),
        ("kind", "left", lambda layer: layer.kind),
        ("output", "right", lambda layer: _shape(layer.output)),
        ("parameters", "right", lambda layer: f"{layer.parameters:,}" if layer.parameters else ""),
        ("multiply-adds", "right", lambda layer: si(layer.forward.multiply_adds / batch)),
    ]
    if width >= 100:
        share = lambda layer: f"{layer.parameters / total:.1%}" if layer.parameters else ""  # noqa: E731
        chosen.insert(4, ("share", "right", share))
        chosen.append(("backward", "right", lambda layer: si(layer.backward.multiply_adds / batch)))
    if width >= 130:
        chosen.insert(2, ("input", "right", lambda layer: _shape(layer.input)))
        chosen.insert(5, ("parameters as", "left", lambda layer: layer.formula))
    if width >= 150:
        chosen.append(("field", "right", lambda layer: _positions(layer.field)))
        chosen.append(("depth", "right", lambda layer: str(layer.depth or "")))
    if inspection.trainable != inspection.parameters:
        chosen.insert(2, ("", "left", _left_out))
    return chosen


def _left_out(layer: Layer) -> str:
    """What of a layer's parameters is not trained, in a word."""
    if not layer.parameters or layer.trainable == layer.parameters:
        return ""
    return "in part" if layer.trainable else "frozen"


def _sums_table(inspection: Inspection, of: str) -> Table:
    """What the layers of each kind, or at each depth, come to."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(of)
    for title in ("layers", "parameters", "share", "multiply-adds", "share"):
        table.add_column(title, justify="right")
    total, products = max(inspection.parameters, 1), max(inspection.forward.multiply_adds, 1)
    for row in by_kind(inspection) if of == "kind" else by_depth(inspection):
        table.add_row(
            str(row[of]),
            f"{row['layers']:,}",
            f"{row['parameters']:,}",
            f"{row['parameters'] / total:.1%}",
            si(row["multiply_adds"] / inspection.batch),
            f"{row['multiply_adds'] / products:.1%}",
        )
    table.add_row("in all", "", f"{inspection.parameters:,}", "", si(products / inspection.batch), "", style="bold")
    return table


def _totals(inspection: Inspection, rates: Rates | None) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in totals(inspection, rates):
        table.add_row(name, text)
    return table


def totals(inspection: Inspection, rates: Rates | None = None) -> Iterator[tuple[str, str]]:
    """What a network comes to, in words: (of what, how much)."""
    depth, memory, batch = inspection.depth, inspection.memory, inspection.batch
    count = sum(depth.paths.values())
    if count > 1:
        paths = f"{count:,}" if count < 1e6 else f"{float(count):.1e}"
        spread = f", {depth.shortest} on the shortest; {paths} paths, {depth.mean():.1f} on their mean"
    else:
        spread = ", the only one"
    yield "depth", f"{depth.longest} contractions with a parameter on the longest path{spread}"
    blocks = f"{depth.blocks} blocks, " if depth.blocks else ""
    yield "", f"{depth.with_norms} with norms counted; {blocks}{depth.operations:,} operations one after another"
    if inspection.field:
        yield "receptive field", f"{_positions(inspection.field)} positions of the input"
    trained = "all trained"
    if inspection.trainable != inspection.parameters:
        trained = f"{inspection.trainable:,} trained, {inspection.parameters - inspection.trainable:,} frozen"
    yield "parameters", f"{inspection.parameters:,} ({size_of(memory.parameters)}), {trained}"
    forward, backward = inspection.forward, inspection.backward
    yield (
        "forward",
        f"{si(forward.multiply_adds / batch)} multiply-adds an example, {si(forward.flops / batch)}FLOP in all",
    )
    if backward.flops:
        ratio = backward.flops / max(forward.flops, 1)
        text = f"{si(backward.multiply_adds / batch)} multiply-adds, {si(backward.flops / batch)}FLOP"
        yield "backward", f"{text}: {ratio:.2f} times the forward pass"
        yield (
            "memory",
            f"{size_of(memory.total)} to train with {batch:,} at once: {size_of(memory.parameters)} parameters, "
            f"{size_of(memory.gradients)} gradients, {size_of(memory.optimizer)} optimizer, "
            f"{size_of(memory.activations)} activations (asked to be kept: {size_of(memory.residuals)})",
        )
    whole = forward + backward
    yield "intensity", f"{intensity(whole):.1f} FLOP for each byte moved"
    if rates is not None:
        yield (
            "least time",
            f"{least_seconds(inspection, rates) * 1e3:.3g} ms a step at {si(rates.flops)}FLOP/s and "
            f"{si(rates.bandwidth)}B/s",
        )
    for note in inspection.notes:
        yield "note", f"{note}: a lower bound" if "iteration" in note else note


def _shape(shape: Sequence[int] | None) -> str:
    return "" if not shape else "x".join(map(str, shape))


def _positions(field: Sequence[int] | None) -> str:
    """A receptive field without the features."""
    return "" if field is None else _shape(field[:-1] or field)


def si(number: float) -> str:
    """Three digits and a prefix of the SI: 4.09 G."""
    if not number:
        return ""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{_three(number / factor)} {prefix}"
    return f"{_three(number)} "


def _three(number: float) -> str:
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}" if number % 1 else f"{number:.0f}"


def size_of(count: float) -> str:
    """Bytes for people: 102 MB."""
    return f"{si(count).rstrip() or '0'}{'' if count >= 1e3 else ' '}B"


# ---------------------------------------------------------------------------------------------------------------------
# Plain data


def by_kind(inspection: Inspection) -> list[dict[str, Any]]:
    """What the layers of each kind come to, the one with the most parameters first."""
    rows = [_summed("kind", kind, layers) for kind, layers in inspection.by("kind").items()]
    return sorted(rows, key=lambda row: (-row["parameters"], -row["multiply_adds"]))


def by_depth(inspection: Inspection) -> list[dict[str, Any]]:
    """What the layers at each depth come to, from the input on."""
    return [_summed("depth", depth, layers) for depth, layers in sorted(inspection.by("depth").items())]


def _summed(name: str, value: Any, layers: Sequence[Layer]) -> dict[str, Any]:
    return {
        name: value,
        "layers": len(layers),
        "parameters": sum(layer.parameters for layer in layers),
        "trainable": sum(layer.trainable for layer in layers),
        "multiply_adds": sum(layer.forward.multiply_adds for layer in layers),
        "flops": sum(layer.forward.flops for layer in layers),
        "backward_flops": sum(layer.backward.flops for layer in layers),
    }


def layer_rows(inspection: Inspection) -> list[dict[str, Any]]:
    """A row for each layer, every figure in it; costs are those of an example, bytes those of the whole batch."""
    total, batch = max(inspection.parameters, 1), inspection.batch
    return [
        {
            "layer": layer.path,
            "kind": layer.kind,
            "input": layer.input and list(layer.input),
            "output": layer.output and list(layer.output),
            "parameters": layer.parameters,
            "weights": layer.weights,
            "biases": layer.biases,
            "formula": layer.formula,
            "bytes": layer.bytes,
            "trainable": layer.trainable,
            "share": layer.parameters / total,
            "depth": layer.depth,
            "receptive_field": layer.field and list(layer.field),
            "multiply_adds": _each(layer.forward.multiply_adds, batch),
            "flops": _each(layer.forward.flops, batch),
            "backward_multiply_adds": _each(layer.backward.multiply_adds, batch),
            "backward_flops": _each(layer.backward.flops, batch),
            "bytes_moved": layer.forward.moved + layer.backward.moved,
            "optimizer_bytes": layer.optimizer_bytes,
            "activation_bytes": layer.activation_bytes,
        }
        for layer in inspection.layers
    ]


def as_json(inspection: Inspection) -> dict[str, Any]:
    """Everything, as plain data: multiply-adds and FLOPs are those of an example, bytes those of the whole batch."""
    depth = inspection.depth._asdict() | {"mean": inspection.depth.mean()}
    return {
        "name": inspection.name,
        "batch": inspection.batch,
        "depth": depth | {"paths": {str(length): count for length, count in inspection.depth.paths.items()}},
        "receptive_field": inspection.field and list(inspection.field),
        "parameters": inspection.parameters,
        "trainable": inspection.trainable,
        "forward": _cost(inspection.forward, inspection.batch),
        "backward": _cost(inspection.backward, inspection.batch),
        "memory": inspection.memory._asdict() | {"total": inspection.memory.total},
        "by_kind": [_of_example(row, inspection.batch) for row in by_kind(inspection)],
        "by_depth": [_of_example(row, inspection.batch) for row in by_depth(inspection)],
        "layers": layer_rows(inspection),
        "notes": list(inspection.notes),
    }


def _each(number: int, batch: int) -> int | float:
    """An example's share; that of the work on parameters need not be whole."""
    return number / batch if number % batch else number // batch


def _cost(cost: Cost, batch: int) -> dict[str, Any]:
    shares = {"multiply_adds": _each(cost.multiply_adds, batch), "flops": _each(cost.flops, batch)}
    return shares | {"bytes_moved": cost.moved}


def _of_example(row: dict[str, Any], batch: int) -> dict[str, Any]:
    return row | {name: _each(row[name], batch) for name in ("multiply_adds", "flops", "backward_flops")}


def as_csv(inspection: Inspection) -> str:
    """A line for each layer, below one with the names of the columns."""
    rows, text = layer_rows(inspection), io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["layer"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _shape(value) if isinstance(value, list) else value for name, value in row.items()})
    return text.getvalue()


# ---------------------------------------------------------------------------------------------------------------------
# A page

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1a1c20 }
h1 { font-size: 1.5rem; margin: 0 0 .2rem } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e6e8eb }
th { color: #555; font-weight: 600; border-bottom: 2px solid #c9ccd1 }
th:first-child, td:first-child, td.kind, th.kind { text-align: left }
td.formula, th.formula { text-align: left; color: #555 }
tr.block td { font-weight: 600; background: #f3f5f7 } tr.inner td:first-child { padding-left: 1.8rem }
td.share { min-width: 9rem } td.bars { min-width: 20rem }
.bar { display: inline-block; height: .7em; background: #3b6fb6; margin-right: .5em }
dl { display: grid; grid-template-columns: max-content auto; gap: .2rem 1.2rem }
dt { font-weight: 600 } dd { margin: 0 }
.wide { overflow-x: auto }
"""


def as_html(inspection: Inspection, *, unfold: bool = False, rates: Rates | None = None) -> str:
    """A page that needs nothing else."""
    rows = []
    heads = ("layer", "kind", "input", "output", "parameters", "as", "share", "multiply-adds", "backward", "field")
    classes = {"kind": "kind", "as": "formula"}
    for name, _, layer in _rows(inspection, unfold):
        if layer is None:
            rows.append(f'<tr class="block"><td colspan="{len(heads)}">{html.escape(name)}</td></tr>')
            continue
        share = layer.parameters / max(inspection.parameters, 1)
        cells = (
            f"<td>{html.escape(name)}</td>",
            f'<td class="kind">{layer.kind}</td>',
            *(f"<td>{_shape(shape)}</td>" for shape in (layer.input, layer.output)),
            f"<td>{layer.parameters:,}</td>" if layer.parameters else "<td></td>",
            f'<td class="formula">{layer.formula}</td>',
            f'<td class="share"><span class="bar" style="width:{6 * share:.2f}rem"></span>{share:.1%}</td>'
            if layer.parameters
            else "<td></td>",
            *(f"<td>{si(cost.multiply_adds / inspection.batch)}</td>" for cost in (layer.forward, layer.backward)),
            f"<td>{_positions(layer.field)}</td>",
        )
        rows.append(f'<tr class="{"inner" if name.startswith("  ") else ""}">{"".join(cells)}</tr>')
    header = "".join(f'<th class="{classes.get(title, "")}">{title}</th>' for title in heads)
    facts = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in totals(inspection, rates)
    )
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(inspection.name)}</title>'
        f"<style>{_STYLE}</style>\n<h1>{html.escape(inspection.name)}</h1>\n<dl>{facts}</dl>\n"
        f'<h2>Layers</h2><div class="wide"><table><tr>{header}</tr>\n{chr(10).join(rows)}</table></div>\n'
        f"{_sums_html('Kinds', 'kind', by_kind(inspection), inspection)}"
        f"{_sums_html('Depths', 'depth', by_depth(inspection), inspection)}</html>\n"
    )


def _sums_html(title: str, of: str, rows: Sequence[dict[str, Any]], inspection: Inspection) -> str:
    """A table of sums with a bar for each share of the parameters."""
    lines = []
    for row in rows:
        share = row["parameters"] / max(inspection.parameters, 1)
        lines.append(
            f"<tr><td>{row[of]}</td><td>{row['layers']:,}</td><td>{row['parameters']:,}</td>"
            f'<td class="share bars"><span class="bar" style="width:{16 * share:.2f}rem"></span>{share:.1%}</td>'
            f"<td>{si(row['multiply_adds'] / inspection.batch)}</td></tr>"
        )
    heads = f"<th>{of}</th><th>layers</th><th>parameters</th><th>share</th><th>multiply-adds</th>"
    return f"<h2>{title}</h2><table><tr>{heads}</tr>{''.join(lines)}</table>\n"
