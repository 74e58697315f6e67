"""Functions of parameter trees, which are flat dicts {"block_00/dense/kernel": array}: paths, counts, partitions."""

from research.parameters.counts import Count, by_path, by_prefix, total
from research.parameters.partition import Partition, Rule, freeze, groups, is_kernel, merge, split, train
from research.parameters.paths import View, flatten, read, unflatten, views, write

__all__ = [
    "Count",
    "Partition",
    "Rule",
    "View",
    "by_path",
    "by_prefix",
    "flatten",
    "freeze",
    "groups",
    "is_kernel",
    "merge",
    "read",
    "split",
    "total",
    "train",
    "unflatten",
    "views",
    "write",
]
