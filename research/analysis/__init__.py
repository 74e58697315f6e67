"""Run folders in, DataFrames, figures and reports out; knows run folders and nothing else.

from research.analysis import draw_run, load_metrics, load_runs
"""

from research.analysis.figures import draw_run
from research.analysis.runs import load_metrics, load_runs

__all__ = ["draw_run", "load_metrics", "load_runs"]
