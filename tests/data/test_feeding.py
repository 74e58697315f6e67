"""Feeding: what is streamed is what is gathered, from any step, with any number of threads."""

import functools
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.data import order
from research.data.base import Split, Streamed
from research.data.feeding import gather, stream
from research.errors import UserError

EXAMPLES = 101
SPLIT = Split(np.arange(EXAMPLES * 6, dtype=np.uint16).reshape(EXAMPLES, 2, 3), np.arange(EXAMPLES, dtype=np.int32) % 7)


def streamed(reader=None):
    """The same examples from a source that holds them backwards."""
    backwards = SPLIT.inputs[::-1]
    rows = np.arange(EXAMPLES)[::-1]
    return Streamed(SPLIT.labels, rows, (2, 3), np.dtype(np.uint16), reader or backwards.__getitem__)


@functools.partial(jax.jit, static_argnames="batch_size")
def gathered(step, batch_size, seed=3):
    arrays = {"inputs": jnp.asarray(SPLIT.inputs), "labels": jnp.asarray(SPLIT.labels)}
    return gather(arrays, order.indices(jnp.uint32(seed), step, batch_size=batch_size, examples=EXAMPLES))


def assert_same(batch, want):
    assert set(batch) == {"inputs", "labels"}
    for name in batch:
        assert batch[name].dtype == want[name].dtype
        np.testing.assert_array_equal(batch[name], want[name])


@pytest.mark.parametrize("threads", [0, 1, 5])
@pytest.mark.parametrize("split", [SPLIT, streamed()], ids=["in memory", "streamed"])
def test_streamed_batches_are_the_gathered_ones_from_any_step(split, threads):
    ahead = 4 if threads else 0
    batches = list(stream(split, seed=3, first_step=9, steps=20, batch_size=8, threads=threads, ahead=ahead))
    assert len(batches) == 20
    for step, batch in enumerate(batches, 9):
        assert_same(batch, gathered(step, 8))


def test_slow_reads_do_not_disturb_the_order():
    rng = np.random.default_rng(0)

    def slow(rows):
        time.sleep(rng.random() * 0.01)
        return SPLIT.inputs[::-1][rows]

    for step, batch in enumerate(stream(streamed(slow), seed=3, first_step=0, steps=12, batch_size=16, threads=6)):
        assert_same(batch, gathered(step, 16))


def test_each_batch_is_read_at_once():
    calls = []

    def count(rows):
        calls.append(len(rows))
        return SPLIT.inputs[::-1][rows]

    list(stream(streamed(count), seed=0, first_step=0, steps=5, batch_size=16))
    assert calls == [16] * 5


def test_a_reader_that_fails_is_heard_once_at_its_step_and_ends_the_stream():
    bad = 50
    at = next(s for s in range(99) if bad in order.indices(3, s, batch_size=8, examples=EXAMPLES))
    assert at > 0

    def damaged(rows):
        if EXAMPLES - 1 - bad in rows:
            raise UserError("picture_50.png: the file is damaged")
        return SPLIT.inputs[::-1][rows]

    batches = stream(streamed(damaged), seed=3, first_step=0, steps=99, batch_size=8)
    for step in range(at):
        assert_same(next(batches), gathered(step, 8))
    with pytest.raises(UserError) as caught:
        next(batches)
    assert caught.value.problems == ("picture_50.png: the file is damaged",)
    assert next(batches, None) is None


def test_closing_early_ends_the_threads():
    before = set(threading.enumerate())
    batches = stream(streamed(), seed=0, first_step=0, steps=10_000, batch_size=8)
    next(batches)
    started = set(threading.enumerate()) - before
    assert started
    batches.close()
    for thread in started:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in started)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match="batch_size: 102 is not in"):
        next(stream(SPLIT, seed=0, first_step=0, steps=1, batch_size=102))
