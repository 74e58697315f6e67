"""What a dataset tells a model: the shape of one example and the classes to tell apart."""

from typing import Any, NamedTuple


class Spec(NamedTuple):
    """Sizes the two ends of a model.

    shape: of one example, without the batch, features last: (28, 28, 1). For tokens: (positions,).
    classes: how many there are, and so how many logits.
    names: what they are called, in the order of the labels.
    tokens: where inputs are whole numbers that name tokens, how many tokens there are; None where inputs are numbers.
    tasks: (name, classes) of each, where there are several. Their classes follow one another, those of the first from
        0, so that a label says whose it is.
    """

    shape: tuple[int, ...]
    classes: int
    names: tuple[str, ...]
    tokens: int | None = None
    tasks: tuple[tuple[str, int], ...] = ()

    def blocks(self) -> dict[str, slice]:
        """Which of the classes are those of each task."""
        found, start = {}, 0
        for name, classes in self.tasks:
            found[name] = slice(start, start + classes)
            start += classes
        return found

    def task_of(self, labels: Any) -> Any:
        """The index of the task that each label is of: integers of NumPy or JAX, of the same shape."""
        return sum((labels >= block.start for block in list(self.blocks().values())[1:]), start=0 * labels)
