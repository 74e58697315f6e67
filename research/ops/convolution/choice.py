"""Which formulation is fastest on a CPU, and of many models at once on a GPU, by a few rules that were measured.

On two x86 cores, float32, jaxlib 0.10.2 with its default flags, in the body of a `fori_loop`; milliseconds for outputs,
inputs' gradient and kernel's gradient, medians (`experiments/benchmarks/convolution.py` measures yours):

                                               xla              definition        matrix product    fourier
    (64, 14, 14, 16) by 3x3, to 16             0.9   0.8   1.9   1.4   1.1   5.7   1.2   0.9   4.9
    (128, 8, 8, 64) by 3x3, to 64              7.9   3.7   6.4    12   4.6    22    16   5.5    12
    (64, 16, 16, 64) by 1x1, to 128            4.5    24    32   4.4   8.1    24   6.9    13    11
    (32, 32, 32, 32) by 3x3, depthwise          49    29    16   2.0   1.6   9.1
    (16, 28, 28, 48) by 7x7, depthwise                           1.6   9.4                           4.7   5.1
    (8, 16, 16, 16, 4) by 3x3x3, to 8           40    20    12   6.0   4.8   9.0   6.2   7.0   7.6
    (4, 64, 64, 4) by 31x31, to 4               74    77    75                                       3.9   4.3   3.0
    (8, 48, 48, 8) by 7x7, to 8                 13    14    10                                       4.5   8.3   4.3
    (8, 32, 32, 32) by 7x7, to 32               14   5.0    52                                        13   8.3    59

(That of a depthwise kernel by XLA is ours, each feature alone; by the definition, that in one pass.)

Of one input feature, with the flags of `runtime.FLAGS`: (64, 28, 28, 1) by 3x3 to 16 takes 3.0 ms by XLA, 1.4 by the
matrix product, and the network that begins with it trains at 1.3 times the speed. The definition takes 0.4 alone, but
in a network XLA computes it anew wherever it is read, as pooling does, and the whole is slower.

Of few features XLA's product of matrices is narrow. With two neighbouring outputs at once, outputs and inputs' gradient
are so many times as fast; the last column is the kernel's gradient as one product of shifted inputs and gradients:

    (16, 8, 8, 8) by 3x3, to 8             2.0   1.9   2.5
    (128, 8, 8, 12) by 3x3, to 12          1.3   1.4   1.5
    (128, 8, 8, 16) by 3x3, to 16          1.0   1.0   1.9
    (128, 28, 28, 8) by 3x3, to 8          1.6   1.3   0.9
    (128, 32, 32, 4) by 3x3, to 4          2.6   2.5
    (128, 32, 32, 3) by 3x3, to 16         1.4   1.7
    (128, 14, 14, 16) by 3x3, to 8         1.3   1.2   0.9
    (32, 256, 8) by 9, to 8                1.4   1.4
    (128, 32, 32, 16) by 3x3, to 16        1.0   1.0   0.9
"""

import math


def chosen(problem, result: str) -> str:
    """The name of a formulation for the "outputs", or for the gradient of the "inputs" or of the "kernel"."""
    window = math.prod(problem.window)
    features, out = problem.kernel_shape[-2:]
    if window == 1:
        return "matrix product"  # there is nothing to lay side by side
    if problem.depthwise and window <= 100:
        return "definition"
    # The transform does not see the size of the kernel, but multiplies at each frequency, which is slow for matrices;
    # and it cannot skip positions, as a stride does.
    if window > 40 * math.prod(problem.geometry.stride) and features * out // problem.groups <= 64:
        return "fourier"
    if result != "kernel" and len(problem.window) < 3 and window <= 9:
        if problem.features <= (1 if result == "outputs" else 3):
            return "matrix product"  # of patches that are still small
    if len(problem.window) == 3 and window <= 100:
        return "definition"  # XLA's is of another making in three dimensions
    least, most = sorted((problem.features, problem.out))
    if {*problem.geometry.stride, *problem.geometry.dilation} == {1} and problem.groups == 1:
        places = problem.sizes if result == "inputs" else problem.geometry.positions(problem.sizes, problem.window)
        if result == "kernel" and len(places) == 2 and math.prod(places) <= 64 and most <= 16:
            return "shifts"
        if result != "kernel" and len(places) < 3 and least <= 8 and problem.window[-1] >= 3 and places[-1] % 2 == 0:
            return "pairs"
    return "xla"


def for_many(problem) -> str:
    """The name of the formulation for many models at once, each with its own kernel, on an NVIDIA GPU.

    There XLA computes a grouped convolution. Milliseconds for the outputs and both gradients together on an H200, in a
    loop (jax 0.11.2), of 3x3 kernels:

                                           xla   definition   matrix product
        256 models, (64, 8, 8, 1) to 8     1.41         0.16             0.23
        256 models, (64, 4, 4, 8) to 16    0.85         0.39             0.28
        64 models, (64, 14, 14, 16) to 16  3.02         1.47             1.14
    """
    window, features = math.prod(problem.window), problem.features // problem.groups
    if window > 49:
        return "xla"  # which lays nothing side by side
    return "definition" if features == 1 else "matrix product"
