"""Pipelines: from data to what is deployed, with gates between.

What a config file needs is here by name:

    from research.pipelines import Pipeline, Result, Train, change
"""

from research.pipelines.pipeline import Change, Compress, Export, Pipeline, Result, Stage, Train, change

__all__ = ["Change", "Compress", "Export", "Pipeline", "Result", "Stage", "Train", "change"]
