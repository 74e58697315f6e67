"""The trained digits network made smaller, each way there is: whole numbers, fewer weights, fewer features, a student.

    python launch.py --config experiments/compress_digits.py

Time: two minutes on two cores. Result: a table and a page; 4 times smaller as int8, and half the FLOPs, for at most 0.3
points.

It compresses the newest run of digits_cnn, which must be there:

    python launch.py --config experiments/digits_cnn.py
    python launch.py --config experiments/compress_digits.py --config.run runs/digits_cnn/20260101-120000-6d0230
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
)


def get_config() -> Compression:
    return Compression(
        run="runs/digits_cnn",
        methods=(
            Int8(),
            Int8Activations(),
            Int4(),
            QuantizationAware(dense=4),
            MagnitudePruning(sparsity=0.8),
            MagnitudePruning(sparsity=0.9, stages=4),
            FeaturePruning(flops=0.5),
            Factorization(energy=0.9),
            Distillation(flops=0.25),
        ),
        budget=0.003,
    )
