"""What a method of compression is: a config that makes a smaller network of a trained one.

    @config
    class Halved(Method):
        def compress(self, work):
            parameters = {path: value.astype("float16") for path, value in work.trained.parameters.items()}
            return Compressed(work.trained._replace(parameters=parameters))

A compressed network is a trained network like any other: a model, which may be `Altered`, and its arrays by path. So
whatever takes the one takes the other.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from research.config import config, edge
from research.data.base import Loaded
from research.deployment.trained import Trained
from research.training.experiment import Experiment


class Work(NamedTuple):
    """What a method works on."""

    trained: Trained
    experiment: Experiment
    """That it was trained by, with its blocks unrolled."""
    loaded: Loaded
    """The examples that it was trained on."""


class Compressed(NamedTuple):
    """What a method made."""

    network: Trained
    told: dict[str, Any] = {}  # noqa: RUF012 (never written)
    """What people may want to know of it, as plain data: the sparsity of each layer, ranks, sizes."""


@config
class Method:
    """Base of the configs of methods."""

    name: str = edge("", "what it is called in the table; what it does if empty")

    @property
    def title(self) -> str:
        """What it is called."""
        return self.name or self.does()

    def does(self) -> str:
        """What it does in few words, which is also the name of a folder: int8, pruned 80 %."""
        raise NotImplementedError(f"{type(self).__name__} has no method `does(self)`")

    def unsuited(self, work: Work) -> Iterator[str]:
        """Why it does not apply to a network, if it does not; nothing is computed."""
        yield from ()

    def compress(self, work: Work) -> Compressed:
        """The compressed network."""
        raise NotImplementedError(f"{type(self).__name__} has no method `compress(self, work)`")
