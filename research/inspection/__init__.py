"""Depth, parameters and cost, read off a traced function: nothing that can be measured is declared."""

from research.inspection.costs import Cost
from research.inspection.inspecting import Depth, Inspection, Layer, Memory, inspect, inspect_module

__all__ = ["Cost", "Depth", "Inspection", "Layer", "Memory", "inspect", "inspect_module"]
