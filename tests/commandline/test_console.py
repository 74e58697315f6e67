import io
import sys

import pytest
from rich.table import Table

from research.commandline.console import console


class Terminal(io.StringIO):
    def isatty(self):
        return True


def table():
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for row in (("a  b", "long"), ("longer", "x")):
        table.add_row(*row)
    return table


@pytest.mark.parametrize("style", ["", "bold"])
def test_lines_in_a_pipe_end_where_their_words_do(monkeypatch, style):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    console().print(table(), style=style)
    console().print("", "x ", sep="")
    assert sys.stdout.getvalue() == "a  b    long\nlonger  x\nx\n"
    assert not console().is_interactive


def test_a_terminal_is_told_whole_lines(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    console().print(table())
    assert sys.stdout.getvalue().splitlines()[1] == "longer  x     "
    assert console().is_interactive
