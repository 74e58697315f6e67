"""Run folders in, DataFrames, figures and reports out; knows run folders and nothing else.

from research.analysis import load_metrics, load_runs
"""

from research.analysis.runs import load_metrics, load_runs

__all__ = ["load_metrics", "load_runs"]
