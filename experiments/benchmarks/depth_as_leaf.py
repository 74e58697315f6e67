"""Depth as a number: one program for all depths, or one for each? Seconds, compilation included.

    python experiments/benchmarks/depth_as_leaf.py              about four minutes on two cores
    python experiments/benchmarks/depth_as_leaf.py --quick      a few steps: does it run?

Residual MLPs of width 64 at depths 1, 2, 4, 8 and 16 are trained on digits, trials one after another in one program:

    own      a program for each depth, its blocks scanned
    leaf     one program: 16 blocks scanned, those beyond the trial's depth skipped by a `cond` on a value

Both take turns in one process that keeps no compiled programs. A trial's parameters come out the same, which is checked
first. Printed are medians, with the least and the most in brackets, of compiling, of a step by trial once compiled, and
of all together for 8 trials of each depth; ratios are taken round by round.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from core import table  # noqa: E402

DEPTHS, WIDTH, BATCH, TRIALS = (1, 2, 4, 8, 16), 64, 64, 8


def initial(depth: int, seed: int) -> dict[str, jax.Array]:
    """Parameters; a block's are the same at every depth that has it."""
    key = jax.random.key(seed)
    normal = lambda i, *shape: jax.random.normal(jax.random.fold_in(key, i), shape) / np.sqrt(shape[0])  # noqa: E731
    blocks = jnp.stack([0.3 * normal(2 + i, WIDTH, WIDTH) for i in range(depth)])
    return {"first": normal(0, 64, WIDTH), "blocks": blocks, "head": normal(1, WIDTH, 10)}


def loss(parameters: dict[str, jax.Array], depth: jax.Array | None, inputs: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean loss of a network; of its first `depth` blocks, where that is a value."""

    def block(outputs: jax.Array, kernel: jax.Array) -> jax.Array:
        return outputs + jax.nn.relu(outputs @ kernel)

    def body(outputs: jax.Array, numbered: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        index, kernel = numbered
        if depth is None:
            return block(outputs, kernel), None
        return jax.lax.cond(index < depth, block, lambda outputs, _: outputs, outputs, kernel), None

    blocks = parameters["blocks"]
    outputs, _ = jax.lax.scan(body, inputs @ parameters["first"], (jnp.arange(len(blocks)), blocks))
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs @ parameters["head"], labels)
    return losses.mean()


def program(most: int, is_leaf: bool) -> Callable[..., Any]:
    """(depths, rates, inputs, labels, steps) -> what becomes of trials, one after another."""

    def trial(depth: jax.Array, rate: jax.Array, inputs: jax.Array, labels: jax.Array, steps: jax.Array):
        optimizer = optax.scale_by_adam()
        parameters = initial(most, 0)
        value = depth if is_leaf else None

        def step(i: jax.Array, carry: Any) -> Any:
            parameters, moments = carry
            at = (i * BATCH + jnp.arange(BATCH)) % len(labels)
            gradient = jax.grad(loss)(parameters, value, inputs[at], labels[at])
            updates, moments = optimizer.update(gradient, moments)
            return jax.tree.map(lambda p, u: p - rate * u, parameters, updates), moments

        return jax.lax.fori_loop(0, steps, step, (parameters, optimizer.init(parameters)))[0]

    def trials(depths, rates, inputs, labels, steps):
        return jax.lax.map(lambda each: trial(*each, inputs, labels, steps), (depths, rates))

    return trials


def run(is_leaf: bool, data: tuple[jax.Array, jax.Array], steps: int) -> tuple[float, float, dict[int, Any]]:
    """Seconds to compile, and to train the trials of all depths; what became of those."""
    rates = jnp.geomspace(1e-4, 1e-2, TRIALS)
    groups = [DEPTHS] if is_leaf else [(depth,) for depth in DEPTHS]
    compiling, training, found = 0.0, 0.0, {}
    for depths in groups:
        arguments = (jnp.repeat(jnp.array(depths), TRIALS), jnp.tile(rates, len(depths)), *data, jnp.int32(steps))
        begun = time.perf_counter()
        compiled = jax.jit(program(max(depths), is_leaf)).lower(*arguments).compile()
        compiling += time.perf_counter() - begun
        begun = time.perf_counter()
        trained = jax.block_until_ready(compiled(*arguments))
        training += time.perf_counter() - begun
        for number, depth in enumerate(depths):
            own = slice(number * TRIALS, (number + 1) * TRIALS)
            found[depth] = {name: np.asarray(value[own]) for name, value in trained.items()}
    return compiling, training, found


def check(data: tuple[jax.Array, jax.Array]) -> None:
    """Both ways come to the same parameters."""
    (*_, own), (*_, leaf) = run(False, data, 5), run(True, data, 5)
    for depth in DEPTHS:
        for name, value in own[depth].items():
            other = leaf[depth][name]
            other = other[:, :depth] if name == "blocks" else other
            np.testing.assert_allclose(value, other, atol=1e-5, err_msg=f"depth {depth}: {name}")


def spread(values: list[float], unit: float = 1.0) -> str:
    """Median, least and most."""
    return f"{statistics.median(values) * unit:.3g} ({min(values) * unit:.3g} to {max(values) * unit:.3g})"


def main(arguments: list[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round of a few steps")
    quick = parser.parse_args(arguments).quick
    from research.data import Digits

    train = Digits().load().splits["train"]
    inputs = jnp.asarray(train.inputs.reshape(len(train), -1), jnp.float32) / 16
    data = inputs, jnp.asarray(train.labels, jnp.int32)
    check(data)
    rounds, steps = (1, 20) if quick else (7, 600)
    times: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for _ in range(rounds):
        for is_leaf, taken in times.items():
            taken.append(run(is_leaf, data, steps)[:2])
    rows, count = [], len(DEPTHS) * TRIALS * steps
    for is_leaf, taken in times.items():
        pairs = zip(taken, times[False], strict=True)
        rows.append(
            (
                "leaf" if is_leaf else "own",
                spread([compiling for compiling, _ in taken]),
                spread([training for _, training in taken], 1e6 / count),
                spread([sum(both) for both in taken]),
                spread([sum(both) / sum(own) for both, own in pairs]),
            )
        )
    table("depth as a number", ("program", "compiling, s", "a step, us", "together, s", "to own"), rows)


if __name__ == "__main__":
    main(sys.argv[1:])
