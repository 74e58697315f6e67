"""Pretrained weights: one file for each foreign layout, which tells which of its names goes to which of our paths."""

from research.pretrained.fitting import Fitted, fit, grid_of
from research.pretrained.layouts import LAYOUTS
from research.pretrained.reading import Pretrained, read_pretrained
from research.pretrained.writing import save_pretrained

__all__ = ["LAYOUTS", "Fitted", "Pretrained", "fit", "grid_of", "read_pretrained", "save_pretrained"]
