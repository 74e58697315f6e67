"""The order of examples as a keyed bijection: any position of the stream, at once, without building a permutation.

Training reads a stream of positions 0, 1, 2, ...; the batch at a step is the next `batch_size` of them. Position p is
place p % examples of epoch p // examples, and every epoch shows every example once, in an order of its own:

    indices(seed=7, step=1000, batch_size=64, examples=60000)    # 64 numbers below 60000, and nothing to look up

The order within an epoch is a Feistel network on Z_a x Z_b, where a * b is `examples` or a little more: a number is
split in two digits, and each digit in turn is shifted by a keyed hash of the other. Each such round can be undone, so
that the whole is a bijection; a result that is no example is put through again until it is one (cycle walking).

Everything is arithmetic on 32 bits, the same for NumPy on the host (streaming) and jax.numpy in a program.

Sources: Black and Rogaway, "Ciphers with arbitrary finite domains" (2002); the mixer is "lowbias32" by Chris Wellons.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Int32, UInt32

from research.errors import UserError
from research.ops.once import computed_once

LARGEST_EXAMPLES = 2**31 - 1
ROUNDS = 8  # that are written out; more are a loop of so many


def indices(seed: ArrayLike, step: ArrayLike, *, batch_size: int, examples: int) -> Int32[ArrayLike, "batch"]:
    """Which examples make the batch of a step: (batch_size,) int32 in [0, examples).

    seed: in [0, 2**32). step: from 0, below `last_step(...)`. NumPy gives NumPy; a jax array, traced or not, as either
    gives a jax array of the same integers. Raises UserError for sizes that cannot be, and for a step that is known (not
    traced) and too large.
    """
    epoch, place = positions(step, batch_size=batch_size, examples=examples)
    return shuffled(seed, epoch, place, examples=examples)


def interleaved(
    seed: ArrayLike, step: ArrayLike, *, batch_size: int, examples: Sequence[int]
) -> Int32[ArrayLike, "batch*sets"]:
    """The batch of a step of several sets that follow one another, `batch_size` of each: the first of every set, ...

    Of each set they are those that `indices` gives of it alone; a smaller set comes round more often. Any part of the
    batch that a number of sets divides has as many of each.
    """
    starts = np.cumsum([0, *examples[:-1]]).astype(np.int32)
    each = [indices(seed, step, batch_size=batch_size, examples=count) for count in examples]
    xp = _namespace(*each)
    return xp.stack([start + found for start, found in zip(starts, each, strict=True)], axis=1).reshape(-1)


def last_step(*, batch_size: int, examples: int) -> int:
    """The number of steps that positions can be told for: 2**32, or fewer where 32 bits would overflow.

    Only where the least common multiple of `batch_size` and `examples` is beyond 2**32 does the limit lie lower, at
    2**32 positions: for 5 000 001 examples in batches of 1024, at 4 194 304 steps, which is 858 epochs.
    """
    fits = math.lcm(batch_size, examples) <= 2**32
    return 2**32 if fits else 2**32 // batch_size


def positions(
    step: ArrayLike, *, batch_size: int, examples: int
) -> tuple[UInt32[ArrayLike, "batch"], UInt32[ArrayLike, "batch"]]:
    """The epoch and the place in it, in [0, examples), of each example of a step's batch."""
    _check(step, batch_size, examples)
    xp = _namespace(step)
    # After `cycle` steps the stream stands at the start of an epoch again, so only the rest need be multiplied.
    common = math.gcd(batch_size, examples)
    cycle, epochs_a_cycle = examples // common, batch_size // common
    step = xp.asarray(step).astype(np.uint32)
    within = step % np.uint32(cycle) * np.uint32(batch_size)
    epoch = step // np.uint32(cycle) * np.uint32(epochs_a_cycle) + within // np.uint32(examples)
    place = within % np.uint32(examples) + np.arange(batch_size, dtype=np.uint32)
    is_next = place >= np.uint32(examples)
    return epoch + is_next.astype(np.uint32), xp.where(is_next, place - np.uint32(examples), place)


def shuffled(
    seed: ArrayLike, epoch: UInt32[ArrayLike, "..."], place: UInt32[ArrayLike, "..."], *, examples: int
) -> Int32[ArrayLike, "..."]:
    """The example at each place of its epoch: for one seed and epoch, a bijection of [0, examples)."""
    xp = _namespace(seed, epoch, place)
    high, low = _digits(examples)
    keys = _keys(xp.asarray(seed).astype(np.uint32), xp.asarray(epoch))
    permute = functools.partial(_permute, xp, keys, high, low, _rounds(examples))
    found = permute(xp.asarray(place))
    if high * low == examples:
        found = found.astype(np.int32)
        # Not in one kernel with what gathers by it: LLVM's time for a chain like this one doubles with every operation
        # where the result is an address, so that it did not come to an end (jaxlib 0.11).
        return computed_once(found) if xp is jnp else found

    def is_outside(numbers):
        return (numbers >= np.uint32(examples)).any()

    def walk(numbers):
        return xp.where(numbers >= np.uint32(examples), permute(numbers), numbers)

    if xp is jnp:
        found = jax.lax.while_loop(is_outside, walk, found)
    else:
        while is_outside(found):
            found = walk(found)
    return found.astype(np.int32)


def _check(step, batch_size, examples):
    if not 0 < examples <= LARGEST_EXAMPLES:
        raise UserError(f"examples: {examples} is not in [1, {LARGEST_EXAMPLES}]")
    if not 0 < batch_size <= examples:
        raise UserError(f"batch_size: {batch_size} is not in [1, {examples}], the number of training examples")
    if not isinstance(step, jax.core.Tracer):
        steps = last_step(batch_size=batch_size, examples=examples)
        if not 0 <= int(step) < steps:
            raise UserError(f"step: {step} is not in [0, {steps}) (batches of {batch_size} from {examples} examples)")


def _namespace(*values):
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


@functools.cache
def _digits(examples: int) -> tuple[int, int]:
    """a <= b, of similar size, such that a * b >= examples with as little to spare as there is."""
    root = math.isqrt(examples)
    smallest = max(2, -(-2 * root // 3))
    candidates = [(a, -(-examples // a)) for a in range(max(2, root), smallest - 1, -1)]
    return min(candidates, key=lambda ab: ab[0] * ab[1])


def _rounds(examples: int) -> int:
    """Enough that any pair of places is equally likely to hold any pair of examples; tiny digits mix slowly."""
    return ROUNDS if examples >= 128 else 4 * ROUNDS


def _keys(seed, epoch):
    """Two words for each epoch of each seed; for one seed, no two epochs have the same."""
    first = _mix(epoch ^ _mix(seed + np.uint32(0x9E3779B9)))
    second = _mix(epoch + _mix(seed ^ np.uint32(0x85EBCA6B)))
    return first, second | np.uint32(1)


def _permute(xp, keys, high, low, rounds, numbers):
    """One pass of the network over Z_high x Z_low."""
    first, second = keys

    def several(index, digits):
        left, right = digits
        start = xp.asarray(index).astype(np.uint32) * np.uint32(ROUNDS)
        for number in range(0, ROUNDS, 2):
            left = _shift(xp, left, right ^ (first + (start + np.uint32(number)) * second), high)
            right = _shift(xp, right, left ^ (first + (start + np.uint32(number + 1)) * second), low)
        return left, right

    digits = numbers // np.uint32(low), numbers % np.uint32(low)
    if rounds == ROUNDS:
        left, right = several(0, digits)
    elif xp is jnp:  # a loop, since LLVM's time for a chain of these doubles with every operation (jaxlib 0.11)
        left, right = jax.lax.fori_loop(0, rounds // ROUNDS, several, digits)
    else:
        left, right = functools.reduce(lambda digits, index: several(index, digits), range(rounds // ROUNDS), digits)
    return left * np.uint32(low) + right


def _shift(xp, digit, message, size):
    """digit + hash(message) modulo size; `size` is below 2**16, so the product's high word fits in 32-bit steps."""
    size, half = np.uint32(size), np.uint32(16)
    noise = _mix(message)
    shift = ((noise >> half) * size + ((noise & np.uint32(0xFFFF)) * size >> half)) >> half
    moved = digit + shift
    return xp.where(moved >= size, moved - size, moved)


def _mix(x):
    """A bijection of 32-bit words in which every bit of the result hangs on every bit of the argument."""
    with np.errstate(over="ignore"):  # NumPy warns where a scalar wraps round, and wrapping is the point
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
        return x ^ (x >> np.uint32(16))
