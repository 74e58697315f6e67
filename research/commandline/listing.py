"""The experiments there are, read from the docstrings of their files without running them.

'''A small convolutional network on scikit-learn's digits.

    python launch.py --config experiments/digits_cnn.py

Time: 20 s on two cores. Result: 98.7 % test accuracy (mean of five seeds).
'''
"""

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

INDENT = 2  # so little that a command with a variable before it is in one line of 80 columns
FOLDER = Path(__file__).resolve().parents[2] / "experiments"


class Listed(NamedTuple):
    """What an experiment's docstring says; a part that it does not say is empty."""

    name: str
    line: str
    command: str
    time: str
    result: str
    first: tuple[str, ...] = ()
    """The experiments whose runs it begins with: those whose commands come before its own."""


def find_experiments(folder: Path = FOLDER) -> list[Listed]:
    """Every experiment of a folder, by name; a leading underscore hides a file."""
    return [read_experiment(path) for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")]


def read_experiment(path: Path) -> Listed:
    """An experiment from the docstring of its file, which is not run."""
    command = f"python launch.py --config {path.parent.name}/{path.name}"
    try:
        docstring = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    except (OSError, SyntaxError, ValueError) as error:
        return Listed(path.stem, f"(cannot be read: {error})", command, "", "")
    commands = re.findall(r"^\s+((?:\w+=\S+ )*python launch\.py .*?)\s*$", docstring, re.MULTILINE)
    own = next((i for i, told in enumerate(commands) if re.search(rf"\b{path.stem}\.py\b", told)), 0)
    before = (re.search(rf"--config {path.parent.name}/(\w+)\.py$", told) for told in commands[:own])
    return Listed(
        name=path.stem,
        line=docstring.partition("\n")[0],
        command=(commands or [command])[own],
        first=tuple(found[1] for found in before if found),
        time=_after("Time", docstring),
        result=_after("Result", docstring),
    )


def _after(word: str, docstring: str) -> str:
    """What follows `Time:` or `Result:`, up to the other or the end of the paragraph, without the full stop."""
    found = re.search(rf"\b{word}:\s*(.*?)(?=\s*\b(?:Time|Result):|\n\s*\n|\Z)", docstring, re.DOTALL)
    return " ".join(found[1].split()).removesuffix(".") if found else ""


def show_experiments(experiments: Iterable[Listed]) -> RenderableType:
    """The list for a terminal, with how to go on."""
    shown = []
    for listed in experiments:
        text = Text(f"{listed.line}\n")
        text.append(listed.command, style="cyan")
        if expected := "; ".join(filter(None, (listed.time, listed.result))):
            text.append(f"\n{expected}", style="dim")
        shown += [Text(listed.name, style="bold"), Padding(text, (0, 0, 1, INDENT))]
    return Group(
        *shown,
        Text.assemble("See what one would do:   ", ("--mode inspect --config FILE", "cyan")),
        Text.assemble("Every field, and flag:   ", ("--help --config FILE", "cyan"), "  and  ", ("--help", "cyan")),
    )


def show_flags(values) -> RenderableType:
    """The page of --help: the flags with their meaning, and how a field is changed."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name in values:
        flag = values[name]
        if name == flag.short_name:
            continue
        meaning = (
            flag.help
            if flag.default in (None, False)
            else f"{flag.help} (default {flag.default if str(flag.default).strip() else repr(flag.default)})"
        )
        table.add_row(f"--{name}" if flag.boolean else f"--{name} {_PLACEHOLDER.get(name, 'TEXT')}", meaning)
    table.add_row("--config.PATH VALUE", "set a field of the config: --config.model.features 16 32")
    return Group(
        Text.assemble(("python launch.py", "bold"), " --config FILE [--config.PATH VALUE ...] [flags]"),
        Text.assemble(("python launch.py", "bold"), " --resume RUN"),
        Text.assemble(("python launch.py", "bold"), " --mode evaluate --run RUN [--split SPLIT]"),
        Text.assemble(("python launch.py", "bold"), " --mode predict --run RUN PICTURE ..."),
        Text.assemble(("python launch.py", "bold"), "   lists the experiments\n"),
        table,
        Text("\nThe fields of a config: python launch.py --config FILE --help"),
    )


_PLACEHOLDER = {
    "config": "FILE",
    "mode": "MODE",
    "resume": "RUN",
    "run": "RUN",
    "workdir": "FOLDER",
    "split": "SPLIT",
    "format": "FORMAT",
    "verbosity": "LEVEL",
}
