"""Comparisons: models and layers side by side, inspected and never trained; shown and kept as lessons are."""

from research.comparisons.growth import Family, Growth
from research.comparisons.side_by_side import Comparison
from research.inspection.comparison import Subject

__all__ = ["Comparison", "Family", "Growth", "Subject"]
