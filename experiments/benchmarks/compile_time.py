"""What depth costs before the first step: equations traced and seconds to compile, of stacks scanned and unrolled.

    python experiments/benchmarks/compile_time.py                    about half a minute on two cores
    python experiments/benchmarks/compile_time.py MLP --unrolled     some of the models, and unrolled as well

What is traced and compiled is the loss and its gradient. Depths take turns; printed are medians and, in brackets, the
spread, and the ratio of the deepest to the shallowest, round by round.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.extend.core  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from research.models import GPT, MLP, ViT, network  # noqa: E402
from research.spec import Spec  # noqa: E402

DEPTHS = (4, 64)
ROUNDS = 5
PICTURES = Spec((28, 28, 1), 10, ("",) * 10)
TEXT = Spec((64,), 256, ("",) * 256, tokens=256)
MODELS = {
    "MLP": (lambda depth, scan: MLP(depth=depth, width=128, norm="layer", residual=True, scan=scan), PICTURES),
    "ViT": (lambda depth, scan: ViT(depth=depth, width=64, heads=4, patch=7, scan=scan), PICTURES),
    "GPT": (lambda depth, scan: GPT(depth=depth, width=64, heads=4, context=64, scan=scan), TEXT),
}


def main(arguments: Sequence[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"some of {', '.join(MODELS)}")
    parser.add_argument("--unrolled", action="store_true", help="also without scan, which takes minutes")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.models) - set(MODELS):
        parser.error(f"no model {', '.join(sorted(unknown))}")
    jax.config.update("jax_enable_compilation_cache", False)  # what was compiled before is compiled again
    header = ("model", "depth", "equations", "traced, s", "compiled, s", "ratio")
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for name in asked.models or MODELS:
        for scan in (True, False) if asked.unrolled else (True,):
            for row in rows(name, scan):
                print(f"| {' | '.join(row)} |", flush=True)


class Measured(NamedTuple):
    """Of one program."""

    equations: int
    traced: float
    compiled: float


def rows(name: str, scan: bool) -> list[tuple[str, ...]]:
    """The table's rows of a model, one a depth."""
    measure(name, DEPTHS[0], scan)  # the first compilation of a process is slower
    rounds = [[measure(name, depth, scan) for depth in DEPTHS] for _ in range(ROUNDS)]
    found = []
    for index, depth in enumerate(DEPTHS):
        of_depth = [measured[index] for measured in rounds]
        ratio = statistics.median(m[index].compiled / m[0].compiled for m in rounds)
        times = (spread([m.traced for m in of_depth]), spread([m.compiled for m in of_depth]))
        label = f"{name}, {'scanned' if scan else 'unrolled'}"
        found.append((label, str(depth), f"{of_depth[0].equations:,}", *times, f"{ratio:.2f}"))
    return found


def spread(times: list[float]) -> str:
    """The median, the least and the most."""
    return f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"


def measure(name: str, depth: int, scan: bool) -> Measured:
    """One program traced and compiled, nothing of it kept from before."""
    make, spec = MODELS[name]
    net = network(make(depth, scan), spec)
    variables = jax.eval_shape(net.init, jax.random.key(0))
    inputs = jax.ShapeDtypeStruct((8, *spec.shape), jnp.float32 if spec.tokens is None else jnp.int32)

    def loss(parameters, inputs):
        outputs, _ = net.apply({**variables, "params": parameters}, inputs, train=True)
        return jnp.mean(outputs**2)

    jax.clear_caches()
    begun = time.perf_counter()
    traced = jax.jit(jax.grad(loss)).trace(variables["params"], inputs)
    after = time.perf_counter()
    traced.lower().compile()
    return Measured(equations(traced.jaxpr), after - begun, time.perf_counter() - after)


def equations(closed) -> int:
    """Equations of a program, those of its inner programs included."""
    return sum(
        1 + sum(equations(inner) for inner in jax.extend.core.jaxprs_in_params(equation.params))
        for equation in getattr(closed, "jaxpr", closed).eqns
    )


if __name__ == "__main__":
    main(sys.argv[1:])
