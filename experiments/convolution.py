"""Convolution from first principles: the sum, kernels over a photograph, shifts, sizes and costs, times.

    python launch.py --config experiments/convolution.py

Time: about 20 s on two cores. Result: a table for each section, and a figure of what famous kernels make of
a photograph.
"""

from research.lessons.convolution import Convolutions


def get_config() -> Convolutions:
    return Convolutions()
