"""Another dataset, normalised by given figures in the place of those of its own training split.

    Normalised(ImageFolder(path="pictures"), mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))

A pretrained network has learned from inputs that were normalised in one way, and what is frozen of it still expects
them so. Outermost, around `Few`, which would fit figures of its own.
"""

import math
from collections.abc import Iterator

import numpy as np

from research.config import config, structure
from research.data.base import Dataset, Loaded
from research.errors import UserError


@config
class Normalised(Dataset):
    """The examples of another dataset; of inputs scaled as there (pictures to 0..1), a mean is taken off, and so on."""

    data: Dataset = structure(doc="whose examples they are")
    mean: tuple[float, ...] = structure((0.5,), "taken off each feature, or all of them")
    deviation: tuple[float, ...] = structure((0.5,), "what each feature, or all of them, is divided by then")

    def __init__(self, data: Dataset, mean: tuple[float, ...] = (0.5,), deviation: tuple[float, ...] = (0.5,)):
        for name, value in (("data", data), ("mean", mean), ("deviation", deviation)):
            object.__setattr__(self, name, value)
        self.__post_init__()

    def problems(self) -> Iterator[tuple[str, str]]:
        if not all(math.isfinite(value) for value in self.mean):
            yield "mean", f"{self.mean} are no finite numbers"
        if not all(math.isfinite(value) and value > 0 for value in self.deviation):
            yield "deviation", f"{self.deviation}: each needs to be above 0"

    def load(self) -> Loaded:
        """Raises UserError as the dataset itself does, and for inputs with another number of features."""
        loaded = self.data.load()
        if loaded.normalisation is None or loaded.spec.tasks:
            what = (
                "tokens, which are not normalised" if loaded.normalisation is None else "several tasks; normalise each"
            )
            raise UserError(f"data.data: {type(self.data).__name__} has {what}")
        features = loaded.spec.shape[-1]
        told = {name: np.asarray(getattr(self, name), np.float32) for name in ("mean", "deviation")}
        if wrong := [name for name, values in told.items() if len(values) not in (1, features)]:
            kind = type(self.data).__name__
            raise UserError(*(f"data.{n}: {len(told[n])} are given, and {kind} has {features} features" for n in wrong))
        told = {name: np.broadcast_to(values, features).copy() for name, values in told.items()}
        return loaded._replace(normalisation=loaded.normalisation._replace(**told))
