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

With adapters, what has none is frozen unless a rule trains it:

    Finetuning(
        source=Pretrained("vit-base-patch16-224"),
        partition=linear_probe(),
        adapters=(LoRA("attention/(query|value)/kernel", rank=8),))

It stands apart from the rest of an experiment, and holds a partition of its own, so that the same experiment without it
is the one that trains from scratch.
"""

from typing import Any

from research.config import config, edge, leaf, structure
from research.data.base import Dataset
from research.parameters.adapters import LoRA
from research.parameters.partition import Partition, freeze, train
from research.parameters.selectors import OfAdapters, of_adapters, others


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

    path: str = structure(
        "", "folder of a run, runs/glyphs_cnn for the newest; or a .safetensors or .npz file, or the folder of one"
    )

    def __init__(self, path: str = ""):
        object.__setattr__(self, "path", path)

    def read(self):
        from research.training import sources  # which knows experiments, of which this is a part

        return sources.read_source(self.path)


@config
class Adapted(Source):
    """A base with the adapters that another run trained for it: Adapted(Pretrained("vit"), "flowers.safetensors")."""

    base: Source = structure(Pretrained(), "what the adapters belong to")
    path: str = structure("", "file of adapters, as `training.exporting.export_adapters` saves it")

    def __init__(self, base: Source = Pretrained(), path: str = ""):  # noqa: B008 (frozen)
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "path", path)

    def read(self):
        from research.training import sources

        return sources.with_adapters(self.base.read(), self.path)


@config
class Finetuning:
    """What is different when training does not begin from nothing."""

    source: Source | None = structure(None, "what the parameters begin as; new values if None")
    partition: Partition = structure(Partition(), "which parameters are trained, and how")
    adapters: tuple[LoRA, ...] = structure((), "low-rank adapters, which are trained in the place of their kernels")
    no_decay: tuple[str, ...] | None = structure(
        None, "ends of the paths of parameters without weight decay; if None, of all but kernels and embeddings"
    )
    stay_close: float | None = leaf(
        None, "weight of half the squared distance from the source, added to the loss (L2-SP)", within="[0, inf)"
    )
    interpolate: int | None = edge(
        None, "at how many points between source and result the accuracy is measured at the end", within="[2, inf)"
    )
    earlier: Dataset | None = structure(
        None, "data that the source knows: on it, and on the new, source and result are compared at the end"
    )

    @property
    def rules(self) -> Partition:
        """The partition that holds: without a word on what has no adapter, that is frozen, and adapters are trained."""
        if not self.adapters:
            return self.partition
        rules = (freeze(others()),) if _says_nothing(self.partition) else self.partition.rules
        if not any(isinstance(rule.pattern, OfAdapters) for rule in rules):
            rules = (*rules, train(of_adapters()))
        return Partition(rules=rules)


def _says_nothing(partition: Partition) -> bool:
    """Whether it is as by default: all is trained alike. Its leaves may be traced, and are not looked at."""
    (rule, *more), treatment = partition.rules, ("learning_rate", "by_depth")
    is_default = rule.pattern == ".*" and rule.group == "train" and not rule.is_apart and not rule.reinitialise
    return is_default and not more and all(getattr(rule, name) is None for name in treatment)
