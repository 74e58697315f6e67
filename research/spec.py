"""What a dataset tells a model: the shape of one example and the classes to tell apart."""

from typing import NamedTuple


class Spec(NamedTuple):
    """Sizes the two ends of a model.

    shape: of one example, without the batch, features last: (28, 28, 1). For tokens: (positions,).
    classes: how many there are, and so how many logits.
    names: what they are called, in the order of the labels.
    tokens: where inputs are whole numbers that name tokens, how many tokens there are; None where inputs are numbers.
    """

    shape: tuple[int, ...]
    classes: int
    names: tuple[str, ...]
    tokens: int | None = None
