"""Time of each formulation of convolution by shape, forward and both gradients, and of many models at once.

    python experiments/benchmarks/convolution.py                 all of them, some minutes on two cores
    python experiments/benchmarks/convolution.py images models   some: images, groups, signals, volumes, large, models

Everything runs in the body of a `fori_loop`, as in training, interleaved with what it is compared with. Printed are the
median milliseconds of what is chosen by default, and how many times as long the others take (the median of the ratios
of rounds). "JAX" is XLA's convolution with the gradients, and the rule for `vmap`, that JAX gives it; of many models
its gradients are left out, since they can take minutes to compile. The rules in `research/ops/convolution/choice.py`
rest on these figures.
"""

import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from core import interleaved, table

ROUNDS = 7
LONGEST = 1.0  # seconds a call, beyond which it is measured once
METHODS = ("chosen", "xla", "definition", "matrix product", "fourier", "pairs", "JAX")

# (inputs, kernel, arguments of convolve)
SHAPES = {
    "images": [
        ((100, 28, 28, 1), (5, 5, 1, 32), {}),
        ((128, 32, 32, 16), (3, 3, 16, 16), {}),
        ((128, 8, 8, 8), (3, 3, 8, 8), {}),
        ((128, 8, 8, 64), (3, 3, 64, 64), {}),
        ((64, 32, 32, 16), (3, 3, 16, 32), {"stride": 2}),
        ((64, 16, 16, 64), (1, 1, 64, 128), {}),
        ((64, 32, 32, 3), (4, 4, 3, 64), {"stride": 4, "padding": "VALID"}),
    ],
    "groups": [
        ((32, 32, 32, 32), (3, 3, 1, 32), {"groups": 32}),
        ((16, 28, 28, 48), (7, 7, 1, 48), {"groups": 48}),
        ((32, 16, 16, 64), (3, 3, 8, 64), {"groups": 8}),
    ],
    "signals": [((32, 1024, 16), (9, 16, 16), {}), ((8, 4096, 1), (255, 1, 1), {})],
    "volumes": [((8, 16, 16, 16, 4), (3, 3, 3, 4, 8), {}), ((8, 12, 12, 12, 16), (3, 3, 3, 16, 32), {})],
    "large": [
        ((8, 48, 48, 8), (7, 7, 8, 8), {}),
        ((8, 48, 48, 8), (11, 11, 8, 8), {}),
        ((8, 32, 32, 32), (11, 11, 32, 32), {}),
        ((4, 64, 64, 4), (31, 31, 4, 4), {}),
    ],
}
MODELS = [((4, 32, 14, 14, 16), (4, 3, 3, 16, 16), {}), ((4, 16, 14, 14, 32), (4, 3, 3, 1, 32), {"groups": 32})]


def main(names: list[str]) -> None:
    """Prints the sections asked for, or all."""
    for name in names or [*SHAPES, "models"]:
        shapes = MODELS if name == "models" else SHAPES[name]
        rows = [row for case in shapes for row in rows_of(*case, models=name == "models")]
        table(f"{name}: milliseconds, and times as long", ("inputs, kernel", "", *METHODS), rows)


def rows_of(inputs: tuple, kernel: tuple, arguments: dict, models: bool) -> list[tuple]:
    """A row for the outputs, one for each gradient."""
    import jax

    # Of a window of hundreds of positions, the definition and the patches take minutes to compile.
    methods = [
        m for m in METHODS if m not in ("definition", "matrix product") or math.prod(kernel[:-2]) < 250 or models
    ]
    over_models = jax.vmap if models else lambda function: function
    keys = jax.random.split(jax.random.key(0), 3)
    x, k = jax.random.normal(keys[0], inputs), jax.random.normal(keys[1], kernel)
    outputs = jax.eval_shape(over_models(computation("outputs", "xla", arguments)), x, k, x)
    g = jax.random.normal(keys[2], outputs.shape)

    titles = (str(inputs), f"  by {kernel}", "  " + ", ".join(f"{name} {value}" for name, value in arguments.items()))
    rows = []
    for title, result in zip(titles, ("outputs", "inputs", "kernel"), strict=True):
        functions = {
            method: over_models(computation(result, method, arguments))
            for method in methods
            if not (models and method == "JAX" and result != "outputs")
        }
        rows.append((title, result, *compared(functions, x, k, g)))
    return rows


def compared(functions: dict[str, Callable], x: Any, k: Any, g: Any) -> list[str]:
    """What the table says of each method."""
    timed, alone = {}, {}
    for method, function in functions.items():
        calls, seconds = looped(function, x, k, g)
        rounds = max(1, int(0.02 / seconds))
        if seconds > LONGEST and method != "chosen":
            alone[method] = seconds
        else:
            timed[method] = lambda calls=calls, rounds=rounds: calls(rounds)
    taken = dict(zip(timed, interleaved(*timed.values(), rounds=ROUNDS), strict=True))

    def cell(method: str) -> str:
        if method in alone:
            return f"{alone[method] / statistics.median(taken['chosen']):.0f}"
        if method not in taken:
            return ""
        if method == "chosen":
            return f"{1e3 * statistics.median(taken[method]):.3g}"
        return f"{statistics.median(own / best for own, best in zip(taken[method], taken['chosen'], strict=True)):.1f}"

    return [cell(method) for method in METHODS]


def looped(function: Callable, x: Any, k: Any, g: Any) -> tuple[Callable[[int], float], float]:
    """Seconds that a round of a loop over the function takes, given how many rounds; and those of one, compiled."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def loop(rounds, x, k, g):
        def body(_, carried):
            x, k, g, last = carried
            little = 1e-9 * last.ravel()[0]  # so that no round is like the one before
            return x + little, k + little, g + little, function(x, k, g)

        shape = jax.eval_shape(function, x, k, g).shape
        return jax.lax.fori_loop(0, rounds, body, (x, k, g, jnp.zeros(shape)))[-1]

    def calls(rounds: int) -> float:
        begun = time.perf_counter()
        loop(rounds, x, k, g).block_until_ready()
        return (time.perf_counter() - begun) / rounds

    calls(1)
    return calls, calls(1)


def computation(result: str, method: str, arguments: dict) -> Callable[[Any, Any, Any], Any]:
    """(inputs, kernel, outputs' gradient) -> the result."""
    import jax

    from research.ops.convolution import convolve
    from research.ops.convolution.formulations import by_xla
    from research.ops.convolution.geometry import geometry_of_convolution

    def forward(x, k):
        if method != "JAX":
            return convolve(x, k, **arguments, method=None if method == "chosen" else method)
        laid = {"stride": 1, "padding": "SAME", "dilation": 1, **arguments}
        groups = laid.pop("groups", 1)
        return by_xla(x, k, geometry_of_convolution("", x.shape[1:-1], k.shape[:-2], **laid), groups)

    return {
        "outputs": lambda x, k, g: forward(x, k),
        "inputs": lambda x, k, g: jax.vjp(lambda x: forward(x, k), x)[1](g)[0],
        "kernel": lambda x, k, g: jax.vjp(lambda k: forward(x, k), k)[1](g)[0],
    }[result]


if __name__ == "__main__":
    main(sys.argv[1:])
