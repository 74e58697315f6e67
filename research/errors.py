"""Mistakes of the user's, told in the user's words.

A `UserError` is one short line for each problem: what and where, what is accepted, the nearest name.
`launch.py` prints the lines and exits with status 2; a traceback is for a bug.

    raise UserError(f"model.dept: no such field{did_you_mean('dept', ['depth', 'width'])}")
    # model.dept: no such field; did you mean 'depth'?
"""

import difflib
from collections.abc import Iterable

LONGEST_LIST = 240
"""Characters in which names are listed where none is near."""


class UserError(Exception):
    """Something the user can put right. `problems` holds one line for each thing that is wrong."""

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of an error line: the nearest of `names`, or all of them where none is near and that is not long."""
    names = sorted(map(str, names))
    by_lower_case = {known.lower(): known for known in names}
    near = difflib.get_close_matches(str(name).lower(), by_lower_case, n=1)
    if near:
        return f"; did you mean '{by_lower_case[near[0]]}'?"
    listed = ", ".join(names)
    return f"; there is {listed}" if names and len(listed) <= LONGEST_LIST else ""
