"""A lesson is a config whose sections are computed, shown, and kept: a text, a table, perhaps a figure.

    @config
    class Averages(Lesson):
        '''What a mean tells, and what it hides.'''
        count: int = structure(100, "numbers to draw")

        def sections(self):
            numbers = np.random.default_rng(0).lognormal(size=self.count)
            yield Section(
                "The mean is not the middle",
                "Of skewed numbers, most lie below their mean.",
                rows=[{"": "mean", "value": numbers.mean()}, {"": "median", "value": np.median(numbers)}],
            )

A config file that returns one, `def get_config(): return Averages()`, is run by `launch.py` like any other. A lesson
computes what it says with the functions that it is about, so that its numbers cannot drift away from the code.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Section(NamedTuple):
    """One thing to know.

    text: a paragraph or several, a blank line between two; wrapped to the terminal's width.
    rows: a table, each row {header: value} with the same headers. Values are numbers, texts, truth values, and small
        arrays, which are shown with a line for each of their rows. ">" before a header puts its column to the right.
    data: the same for other programs, in plain units, where the rows are made for people; kept in place of the rows.
    figure: a `matplotlib.figure.Figure`, saved as a PNG; matplotlib is imported by the sections that draw.
    """

    title: str
    text: str
    rows: Sequence[Mapping[str, Any]] = ()
    figure: "Figure | None" = None
    data: Sequence[Mapping[str, Any]] = ()


class Lesson:
    """Base of the configs of lessons: `@config class Mine(Lesson)` with a method `sections`."""

    def sections(self) -> Iterator[Section]:
        """The sections one after another; each is shown as soon as it is computed."""
        raise NotImplementedError(f"{type(self).__name__} has no method `sections(self)`")
