"""Few labelled examples: what another dataset comes to where most of its labels are not known.

    Few(Digits(), examples=100)              ten of each class
    Few(Digits(), examples=100, seed=1)      ten others

Classes take turns, so that each has its share to one example, and asking for more keeps those that were there. What is
chosen and judged by stays as it is, so that figures for different numbers of examples can be compared.

Which of them is a leaf, for it changes no shape: a sweep can repeat trials with labels of their own, in one program,
    zipped(repeat("seed", 10), repeat("data.seed", 10))
"""

import numpy as np

from research.config import config, leaf, structure
from research.data.base import Dataset, Loaded, fit, hashed
from research.errors import UserError


@config
class Few(Dataset):
    """Some of the training examples of another dataset, of each class alike; its other splits are the same."""

    data: Dataset = structure(doc="whose training examples are taken")
    examples: int | None = structure(None, "how many are labelled; all if None", within="[1, inf)")
    seed: int = leaf(0, "which of them", within="[0, 4294967295]")

    def __init__(self, data: Dataset, examples: int | None = None, seed: int = 0):
        for name, value in (("data", data), ("examples", examples), ("seed", seed)):
            object.__setattr__(self, name, value)
        self.__post_init__()

    def load(self) -> Loaded:
        """Raises UserError as the dataset itself does, and for more examples than it has or fewer than classes."""
        loaded = self.data.load()
        if self.examples is None:
            return loaded
        train, spec, kind = loaded.splits["train"], loaded.spec, type(self.data).__name__
        if spec.tasks:
            raise UserError("data.data: has several tasks; take few of each: Task(Few(...))")
        if self.examples > len(train):
            raise UserError(f"data.examples: {self.examples} are asked for, and {kind} has {len(train)} to train on")
        classes = len(np.unique(train.labels))
        if self.examples < classes:
            raise UserError(f"data.examples: {self.examples} are fewer than the {classes} classes of {kind}")
        few = train.take(np.sort(in_turns(train.labels, self.seed)[: self.examples]))
        normalisation = loaded.normalisation and fit(few, loaded.normalisation.scale)
        return loaded._replace(splits=loaded.splits | {"train": few}, normalisation=normalisation)


def in_turns(labels: np.ndarray, seed: int) -> np.ndarray:
    """All positions of `labels` (examples,), the first of each class, the second of each, and so on."""
    keys = hashed(hashed(np.arange(len(labels))) ^ hashed(seed))
    shuffled = np.argsort(keys, kind="stable")
    turn = np.zeros(len(labels), int)
    for label in np.unique(labels):
        of_class = shuffled[labels[shuffled] == label]
        turn[of_class] = np.arange(len(of_class))
    return np.lexsort((keys, turn))
