"""The page of `--config FILE --help`: every field of a config with its type, value and meaning, part by part."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from research.config import Entry, describe, entries, kinds


class Part(NamedTuple):
    """A config within a config, with the fields it has itself."""

    path: str
    kind: str
    meaning: str
    others: tuple[str, ...]
    fields: tuple[Entry, ...]


def parts(config: Any, path: str = "", hint: Any = None) -> Iterator[Part]:
    """The config and every config in it, outermost first, each with its own fields.

    A config that can be read from text ("10 epochs") is a field of the part it is in.
    """
    prefix = f"{path}." if path else ""
    fields, inside = [], []
    for entry in entries(config, prefix):
        if "." in entry.path.removeprefix(prefix):
            continue  # told where its own part is
        if _is_part(entry.value):
            inside.append((entry.value, entry.path, entry.hint))
            continue
        fields.append(entry)
        if isinstance(entry.value, tuple):
            items = enumerate(entry.value)
            inside += [(item, f"{entry.path}.{index}", None) for index, item in items if _is_part(item)]
    yield Part(path, type(config).__name__, _first_line(type(config)), _others(hint, config), tuple(fields))
    for part in inside:
        yield from parts(*part)


def _is_part(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and not _reads_text(value)


def _reads_text(value: Any) -> bool:
    return hasattr(type(value), "from_text")


def _others(hint: Any, value: Any) -> tuple[str, ...]:
    """What may stand in a part's place: the kinds of config that its type admits, and none."""
    if hint is None:
        return ()
    names = [name for name, cls in kinds(hint).items() if cls is not type(value)]
    return (*names, *(["none"] if "None" in describe(hint).split(" or ") else []))


def _first_line(cls: type) -> str:
    """The first line of a class's docstring, unless it is the one that dataclasses write themselves."""
    line = (cls.__doc__ or "").strip().partition("\n")[0]
    return "" if line.startswith(f"{cls.__name__}(") else line


def as_typed(value: Any) -> str:
    """A value as it would be typed on the command line; of a part, its kind, or how it calls itself."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(map(as_typed, value))
    if isinstance(value, str):
        return value or "''"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
    if _reads_text(value):
        return str(value)
    if _is_part(value):
        return type(value).__name__ if type(value).__str__ is object.__str__ else str(value)
    return getattr(value, "__name__", str(value))


def changes(before: Any, after: Any, paths: Iterable[str]) -> list[str]:
    """What has become of the fields at `paths`, as it would be typed: ["duration: 40 epochs -> 1 epoch"]."""
    lines = []
    for path in dict.fromkeys(paths):
        now = as_typed(_value_at(after, path))
        try:
            was = as_typed(_value_at(before, path))
        except (AttributeError, IndexError):  # it came with a part that was replaced
            lines.append(f"{path}: {now}")
        else:
            lines += [f"{path}: {was} -> {now}"] if was != now else []
    return lines


def _value_at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = config[int(name)] if isinstance(config, tuple) else getattr(config, name)
    return config


LONGEST_PATH = 40
"""Of a field that is shown in one piece, whatever the width of the terminal."""


def show_fields(config: Any, source: str) -> RenderableType:
    """The page for a terminal; `source` is what --config was given."""
    shown: list[RenderableType] = [
        Text.assemble("The fields of ", (source, "bold"), ". Set any of them with --config.FIELD VALUE")
    ]
    for part in parts(config):
        heading = Text.assemble("\n", (f"{part.path}: " if part.path else "", "bold"), (part.kind, "bold cyan"))
        if part.meaning:
            heading.append(f"  {part.meaning}", style="dim")
        shown.append(heading)
        if part.others:
            shown.append(Text(f"or {', '.join(part.others)}", style="dim"))
        if part.fields:
            shown.append(_table(part))
    return Group(*shown)


def _table(part: Part) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), expand=False)
    longest = max(len(entry.path) for entry in part.fields)
    table.add_column(style="cyan", overflow="fold", min_width=min(max(24, longest), LONGEST_PATH))
    table.add_column(style="bold", overflow="fold", min_width=8, max_width=20)
    table.add_column(overflow="fold")
    for entry in part.fields:
        kind = f"{describe(entry.hint)}{f' in {entry.within}' if entry.within else ''}"
        meaning = Text(f"{entry.doc} " if entry.doc else "")
        meaning.append(f"({kind})", style="dim")
        table.add_row(entry.path, as_typed(entry.value), meaning)
    return table
