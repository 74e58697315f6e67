"""What the command line does with a lesson: computes its sections, shows each, and keeps them in a folder.

    runs/misconceptions/20260101-120000-3fa9c1/
      lesson.json                      the config, where it ran, and every section with the numbers of its table
      config.py                        the file that the lesson came from
      09_relu_on_the_logits.png        the figures, by the number and title of their section

There is no config.json in it: what looks for training runs does not meet lessons.
"""

import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from research.config import fingerprint, to_json
from research.jsonl import explained
from research.lessons.base import Lesson, Section
from research.training import display, folder

WIDEST = 88
"""Columns of a text, however wide the terminal is."""


def teach(
    lesson: Lesson,
    *,
    workdir: str = "runs",
    config_file: Path | None = None,
    command: Sequence[str] = (),
    changes: Sequence[str] = (),
) -> Path:
    """Computes and shows a lesson, and returns the folder it is kept in; of a lesson that fails nothing is kept."""
    console, began = display.console(), time.monotonic()
    run = folder.create(workdir, name(lesson), fingerprint(lesson))
    try:
        show_opening(console, lesson, changes)
        kept = []
        for number, section in enumerate(_computed(lesson, console), start=1):
            show_section(console, number, section)
            figure = None
            if section.figure is not None:
                figure = f"{number:02d}_{_slug(section.title)}.png"
                with explained(f"write {run.path / figure}"):
                    section.figure.savefig(run.path / figure, dpi=150)
            kept.append({**as_data(section), "figure": figure})
        seconds = time.monotonic() - began
        if config_file is not None and config_file.suffix == ".py":
            run.copy_config_file(config_file)
        told = {"config": to_json(lesson), "environment": folder.environment(command, config_file)}
        run.write_json("lesson.json", {**told, "seconds": seconds, "sections": kept})
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    show_end(console, run.path, seconds)
    return run.path


def show(lesson: Lesson, changes: Sequence[str] = ()) -> None:
    """Computes and shows a lesson, and keeps nothing of it."""
    console = display.console()
    show_opening(console, lesson, changes)
    for number, section in enumerate(_computed(lesson, console), start=1):
        show_section(console, number, section)


def tell(lesson: Lesson) -> list[dict[str, Any]]:
    """The sections of a lesson as plain data, computed and not kept."""
    return [as_data(section) for section in lesson.sections()]


def as_data(section: Section) -> dict[str, Any]:
    """A section as plain data, without its figure."""
    return {"title": section.title, "text": "\n\n".join(paragraphs(section)), "rows": section.data or section.rows}


def name(lesson: Lesson) -> str:
    """What a lesson's folder is called: its name if it has one, "residual_paths" for the class ResidualPaths."""
    return getattr(lesson, "name", "") or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(lesson).__name__).lower()


def _computed(lesson: Lesson, console: Console) -> Iterator[Section]:
    """The sections; a terminal is told that something is going on while the next is computed."""
    sections = iter(lesson.sections())
    while True:
        if console.is_interactive:
            with console.status("computing ..."):
                section = next(sections, None)
        else:
            section = next(sections, None)
        if section is None:
            return
        yield section


def paragraphs(section: Section) -> list[str]:
    """The paragraphs of a section's text, without the line breaks and indentation it was written with."""
    return [" ".join(paragraph.split()) for paragraph in section.text.split("\n\n")]


def _slug(title: str) -> str:
    return "_".join(re.findall(r"[a-z0-9]+", title.lower()))[:60]


# ---------------------------------------------------------------------------------------------------------------------
# Showing


def show_opening(console: Console, lesson: Lesson, changes: Sequence[str] = ()) -> None:
    """The lesson's name, what it is about, and what the command line changed."""
    about = (type(lesson).__doc__ or "").strip().partition("\n")[0]
    title = getattr(lesson, "name", "") or type(lesson).__name__
    console.print(Text.assemble((title, "bold"), f"  {about}"), width=_width(console))
    for change in changes:
        console.print(Text.assemble(("changed  ", "dim"), change), soft_wrap=True)


def show_section(console: Console, number: int, section: Section) -> None:
    """A section as a heading, its text and its table."""
    console.print()
    console.print(Text(f"{number}. {section.title}", style="bold cyan"), width=_width(console))
    console.print(Text("\n\n".join(paragraphs(section))), width=_width(console))
    if section.rows:
        console.print(Padding(_table(section.rows), (1, 0, 0, 2)))


def show_end(console: Console, path: Path, seconds: float) -> None:
    """Where the lesson is kept, and how long it took."""
    console.print()
    console.print(Text.assemble(("time    ", "dim"), display.duration(seconds)))
    console.print(Text.assemble(("kept in ", "dim"), (str(path), "cyan")), soft_wrap=True)


def _width(console: Console) -> int:
    return min(console.width, WIDEST)


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_header=any(rows[0]))
    for header in rows[0]:
        right = header.startswith(">") or all(_is_number(row[header]) for row in rows)
        justify = "right" if right else "left"
        table.add_column(header.removeprefix(">"), justify=justify, no_wrap=header.startswith(">"), overflow="fold")
    tall = any(np.ndim(value) > 1 for row in rows for value in row.values())
    for row in rows:
        table.add_row(*(Text(show_value(value)) for value in row.values()), end_section=tall)
        if tall and row is not rows[-1]:
            table.add_row()
    return table


def _is_number(value: Any) -> bool:
    return np.ndim(value) == 0 and not isinstance(value, bool | str | None)


def show_value(value: Any) -> str:
    """A value of a table: whole numbers with commas, others to four digits, arrays as a line for each row."""
    if value is None:
        return "-"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if np.ndim(value) == 0:
        number = np.asarray(value).item()
        return f"{number:,}" if isinstance(number, int) else f"{number:.4g}"
    lines = np.atleast_2d(np.asarray(value))
    cells = [[show_value(number) for number in line] for line in lines]
    width = max(len(cell) for line in cells for cell in line)
    return "\n".join(" ".join(cell.rjust(width) for cell in line) for line in cells)
