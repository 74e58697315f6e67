"""Where everything that is shown goes: the terminal, or the pipe, file or CI log that stands in its place."""

import re
import sys
from typing import TextIO

from rich.console import Console


def console() -> Console:
    """The terminal, or whatever stands in its place."""
    interactive = sys.stdout.isatty()  # FORCE_COLOR makes a pipe colourful, but no terminal
    file = sys.stdout if interactive else Trimmed(sys.stdout)
    return Console(file=file, highlight=False, emoji=False, markup=False, force_interactive=interactive)


class Trimmed:
    """A text file without the blanks that rich fills the lines of a table up with."""

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, text: str) -> int:
        """Writes lines, of which rich never gives a part."""
        return self._file.write(re.sub(r" +$", "", text, flags=re.MULTILINE))

    def __getattr__(self, name: str):
        return getattr(self._file, name)
