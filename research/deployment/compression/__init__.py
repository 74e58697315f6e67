"""Compression: smaller networks made of a trained one, checked against a budget.

    Compression(run="runs/digits_cnn", methods=(Int8(), MagnitudePruning(sparsity=0.8)), budget=0.003)

`run` has what the command line does with it; each method stands in a file of its own.
"""

from research.deployment.compression.base import Compressed, Method, Work
from research.deployment.compression.compression import Compression
from research.deployment.compression.distillation import Distillation
from research.deployment.compression.factors import Factorization
from research.deployment.compression.features import FeaturePruning
from research.deployment.compression.magnitude import MagnitudePruning
from research.deployment.compression.retraining import Retraining
from research.deployment.compression.storage import read_compressed
from research.deployment.compression.whole_numbers import Int4, Int8, Int8Activations, QuantizationAware

__all__ = [
    "Compressed",
    "Compression",
    "Distillation",
    "Factorization",
    "FeaturePruning",
    "Int4",
    "Int8",
    "Int8Activations",
    "MagnitudePruning",
    "Method",
    "QuantizationAware",
    "Retraining",
    "Work",
    "read_compressed",
]
