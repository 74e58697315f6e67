"""Run folders in, DataFrames, figures and reports out; knows run folders and nothing else.

from research.analysis import draw_run, draw_sweep, load_metrics, load_runs, load_trials
"""

from research.analysis.figures import draw_run
from research.analysis.runs import load_metrics, load_runs
from research.analysis.sweeps import draw_sweep, load_trials

__all__ = ["draw_run", "draw_sweep", "load_metrics", "load_runs", "load_trials"]
