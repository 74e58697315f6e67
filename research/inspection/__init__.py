"""Depth, parameters and cost, read off a traced function: nothing that can be measured is declared."""

from research.inspection.comparison import Subject, compare
from research.inspection.costs import Cost
from research.inspection.inspecting import Depth, Inspection, Memory, inspect, inspect_module
from research.inspection.layers import Layer
from research.inspection.matching import match

__all__ = [
    "Cost",
    "Depth",
    "Inspection",
    "Layer",
    "Memory",
    "Subject",
    "compare",
    "inspect",
    "inspect_module",
    "match",
]
