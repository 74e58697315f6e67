"""Where everything that is shown goes: the terminal, or the pipe, file or CI log that stands in its place."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

from rich.console import Console


def console() -> Console:
    """The terminal, or whatever stands in its place."""
    interactive = sys.stdout.isatty()  # FORCE_COLOR makes a pipe colourful, but no terminal
    file = sys.stdout if interactive else Trimmed(sys.stdout)
    return Console(file=file, highlight=False, emoji=False, markup=False, force_interactive=interactive)


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """What to tell how many are done, and of how many, for a line on the terminal; None where there is none."""
    if not sys.stderr.isatty():
        yield None
        return

    def show(done: int, total: int) -> None:
        print(f"\r{done:,} of {total:,} {what}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


class Trimmed:
    """A text file without the blanks that rich fills the lines of a table up with."""

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, text: str) -> int:
        """Writes lines, of which rich never gives a part."""
        return self._file.write(re.sub(r" +$", "", text, flags=re.MULTILINE))

    def __getattr__(self, name: str):
        return getattr(self._file, name)
