"""What the trials of a sweep have in common and is made once: data, above all."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from research.data.base import Dataset, Loaded
from research.errors import UserError

T = TypeVar("T")


class Shelf:
    """Things by their keys, each made when it is first asked for; a UserError, too, is kept and raised again."""

    def __init__(self):
        self._things: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gave when it was called for this key first."""
        if key not in self._things:
            try:
                self._things[key] = make()
            except UserError as error:
                self._things[key] = error
        thing = self._things[key]
        if isinstance(thing, UserError):
            raise thing
        return thing

    def load(self, data: Dataset) -> Loaded:
        """The data of a config. Raises UserError as its `load` does."""
        return self.once(data, data.load)
