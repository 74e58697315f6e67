"""The trained digits network made smaller in each way there is, and what that costs in accuracy.

    python launch.py --config experiments/digits_cnn.py
    python launch.py --config experiments/compress_digits.py
    python launch.py --config experiments/compress_digits.py:int8

Time: about four minutes on two cores. Result: 3.8 times smaller as whole numbers of 8 bits, with nothing lost; 4.6
times with 4 bits in dense layers; 4.3 times with 80 % of the weights gone; half the FLOPs in three stages, and 2.3
times smaller, where cutting at once loses 0.6 points.

That is the gzipped file against the gzipped file of the original; if neither is gzipped, it is 3.9, 4.7, 4.1 and 2.3
times. Of the 360 test examples one is 0.28 points, so that the budget of 0.3 points is one example.

It compresses the newest run of digits_cnn, which must be there; `--config.run` names another.
"""

from research.deployment.compression import (
    Compression,
    Distillation,
    Factorization,
    FeaturePruning,
    Int4,
    Int8,
    Int8Activations,
    MagnitudePruning,
    QuantizationAware,
    Retraining,
)
from research.errors import UserError, did_you_mean
from research.training import epochs

LONG = Retraining(duration=epochs(20), learning_rate=2e-3, temperature=2.0)
SHORT = Retraining(duration=epochs(8), learning_rate=2e-3, temperature=2.0)

METHODS = {
    "int8": Int8(),
    "int8_activations": Int8Activations(),
    "int4": Int4(),
    "quantization_aware": QuantizationAware(dense=4, retraining=SHORT),
    "pruned": MagnitudePruning(sparsity=0.8, retraining=LONG),
    "gradually": MagnitudePruning(sparsity=0.9, stages=4, retraining=SHORT),
    "features": FeaturePruning(flops=0.5, retraining=LONG),
    "features_gradually": FeaturePruning(flops=0.5, stages=3, retraining=LONG),
    "low_rank": Factorization(energy=0.9, retraining=SHORT),
    "distilled": Distillation(flops=0.25),
}


def get_config(method: str = "all") -> Compression:
    if method != "all" and method not in METHODS:
        raise UserError(f"'{method}' is no method here{did_you_mean(method, METHODS)}")
    methods = tuple(METHODS.values()) if method == "all" else (METHODS[method],)
    return Compression(run="runs/digits_cnn", methods=methods, budget=0.003)
