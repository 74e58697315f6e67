"""Fine-tuning: where training begins, what of it is trained, and how close it stays to where it began.

    Experiment(
        data=Digits(),
        model=ConvNet(),
        finetuning=Finetuning(
            source=Pretrained("runs/glyphs_cnn"),
            partition=Partition(
                train("head/.*", reinitialise=True),
                train("stage_1/.*", learning_rate=0.1),
                freeze("stage_0/.*")),
            no_decay=("bias", "norm/scale")))

It stands apart from the rest of an experiment, and holds a partition of its own, so that the same experiment without it
is the one that trains from scratch.
"""

from typing import Any

from research.config import config, edge, leaf, structure
from research.parameters.partition import Partition


class Source:
    """Base of the configs of what training may begin with."""

    def read(self) -> Any:
        """The `training.sources.Weights` that it stands for. Raises UserError."""
        raise NotImplementedError(f"{type(self).__name__} has no method `read(self)`")

    @staticmethod
    def from_text(text: str) -> "Pretrained":
        """What the command line makes of a path."""
        return Pretrained(text)


@config
class Pretrained(Source):
    """The best checkpoint of a run, or weights in a file or folder."""

    path: str = structure("", "folder of a run, runs/glyphs_cnn/... or runs/glyphs_cnn for the newest")

    def __init__(self, path: str = ""):
        object.__setattr__(self, "path", path)

    def read(self):
        from research.training import sources  # which knows experiments, of which this is a part

        return sources.read_source(self.path)


@config
class Finetuning:
    """What is different when training does not begin from nothing."""

    source: Source | None = structure(None, "what the parameters begin as; new values if None")
    partition: Partition = structure(Partition(), "which parameters are trained, and how")
    no_decay: tuple[str, ...] | None = structure(
        None, "ends of the paths of parameters without weight decay; if None, of all but kernels and embeddings"
    )
    stay_close: float | None = leaf(
        None, "weight of half the squared distance from the source, added to the loss (L2-SP)", within="[0, inf)"
    )
    interpolate: int | None = edge(
        None, "at how many points between source and result the accuracy is measured at the end", within="[2, inf)"
    )
