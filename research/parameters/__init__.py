"""Functions of parameter trees, which are flat dicts {"block_00/dense/kernel": array}: paths, counts, partitions.

What a config file needs to say which parameters are trained is here by name:

    from research.parameters import Partition, freeze, last, others, train
"""

from research.parameters.adapters import LoRA
from research.parameters.counts import Count, by_path, by_prefix, total
from research.parameters.partition import (
    Partition,
    Rule,
    freeze,
    groups,
    is_kernel,
    labels,
    mask,
    merge,
    split,
    train,
)
from research.parameters.paths import View, cut, flatten, joined, read, unflatten, unstacked, views, write
from research.parameters.selectors import (
    Selector,
    below,
    but,
    either,
    first,
    last,
    of_adapters,
    of_kind,
    onwards,
    others,
)
from research.parameters.strategies import (
    full,
    gradual,
    head_then_all,
    last_blocks,
    layerwise_decay,
    linear_probe,
    norm_and_bias,
)

__all__ = [
    "Count",
    "LoRA",
    "Partition",
    "Rule",
    "Selector",
    "View",
    "below",
    "but",
    "by_path",
    "by_prefix",
    "cut",
    "either",
    "first",
    "flatten",
    "freeze",
    "full",
    "gradual",
    "groups",
    "head_then_all",
    "is_kernel",
    "joined",
    "labels",
    "last",
    "last_blocks",
    "layerwise_decay",
    "linear_probe",
    "mask",
    "merge",
    "norm_and_bias",
    "of_adapters",
    "of_kind",
    "onwards",
    "others",
    "read",
    "split",
    "total",
    "train",
    "unflatten",
    "unstacked",
    "views",
    "write",
]
