"""Ctrl-C and SIGTERM, noted rather than obeyed, so that a run can be saved before it ends."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], str | None]]:
    """While open, SIGINT and SIGTERM are noted; the function given tells the first one's name, or None.

    A second SIGINT ends the process at once, with status 130 and nothing more saved: to raise KeyboardInterrupt in the
    middle of a compilation would crash it.
    """
    caught: list[str] = []

    def note(number, frame):
        if caught and number == signal.SIGINT:
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # a live line of progress has hidden the cursor
            os._exit(128 + number)
        caught.append(signal.Signals(number).name)
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), b"\nstopping after the steps under way; Ctrl-C again ends at once, unsaved\n")

    try:
        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, as in some notebooks: signals stay as they are
        previous = {}
    try:
        yield lambda: caught[0] if caught else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
