"""The order of examples: a bijection for every epoch, uniform, and the same integers on host and device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from research.data import order
from research.errors import UserError

PRIMES = (53, 101, 127, 131, 997, 1009)


def permutation(seed, epoch, examples):
    places = np.arange(examples, dtype=np.uint32)
    return order.shuffled(seed, np.full_like(places, epoch), places, examples=examples)


def many(count, places, examples, epoch=0):
    """What stands at `places` for seeds 0 to count - 1: (count, len(places))."""
    seeds = np.repeat(np.arange(count, dtype=np.uint32)[:, None], len(places), axis=1)
    places = np.broadcast_to(np.asarray(places, np.uint32), seeds.shape)
    return order.shuffled(seeds, np.full_like(seeds, epoch), places, examples=examples)


@pytest.mark.parametrize("examples", [*range(1, 51), *PRIMES, 1437, 60000])
def test_an_epoch_holds_every_example_once(examples):
    for seed, epoch in ((0, 0), (1, 7), (2**32 - 1, 2**32 - 1)):
        np.testing.assert_array_equal(np.sort(permutation(seed, epoch, examples)), np.arange(examples))


@pytest.mark.parametrize("examples", [2**31 - 1, 2_000_000_011])
def test_orders_of_billions_are_evaluated_in_place(examples):
    places = np.r_[0:500, examples - 500 : examples].astype(np.uint32)
    found = order.shuffled(5, np.zeros_like(places), places, examples=examples)
    assert found.min() >= 0 and found.max() < examples
    assert len(np.unique(found)) == len(places)


def test_digits_leave_little_to_spare():
    for examples in (*range(2, 2000), 60000, 2**31 - 1):
        a, b = order._digits(examples)
        assert examples <= a * b < 2 * examples or examples < 4
        assert max(a, b) <= 2**16


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.sampled_from([(64, 1437), (7, 60000), (3, 20), (5, 5)]))
def test_numpy_and_jax_agree_to_the_bit(seed, step, sizes):
    batch_size, examples = sizes
    host = order.indices(seed, step, batch_size=batch_size, examples=examples)
    indices = jax.jit(order.indices, static_argnames=("batch_size", "examples"))
    device = indices(np.uint32(seed), np.uint32(step), batch_size=batch_size, examples=examples)
    assert isinstance(host, np.ndarray) and isinstance(device, jax.Array)
    assert host.dtype == device.dtype == np.int32
    np.testing.assert_array_equal(host, device)


def test_numpy_scalars_and_eager_jax_arrays_are_the_same_too():
    want = order.indices(3, 4, batch_size=8, examples=100)
    for seed, step in ((np.uint32(3), np.int64(4)), (3, jnp.int32(4)), (jnp.uint32(3), 4)):
        np.testing.assert_array_equal(order.indices(seed, step, batch_size=8, examples=100), want)


def test_a_vmap_over_seeds_gives_each_its_own_order():
    seeds = jnp.arange(5, dtype=jnp.uint32)
    together = jax.vmap(lambda seed: order.indices(seed, jnp.uint32(9), batch_size=16, examples=101))(seeds)
    for seed in range(5):
        np.testing.assert_array_equal(together[seed], order.indices(seed, 9, batch_size=16, examples=101))


@pytest.mark.parametrize(("batch_size", "examples"), [(7, 20), (64, 1437), (20, 20), (1, 3), (6, 8)])
def test_the_stream_is_the_epochs_one_after_the_other_whatever_the_batch_size(batch_size, examples):
    steps = -(-3 * examples // batch_size)
    stream = [order.indices(11, step, batch_size=batch_size, examples=examples) for step in range(steps)]
    want = np.concatenate([permutation(11, epoch, examples) for epoch in range(4)])
    stream = np.concatenate(stream)
    np.testing.assert_array_equal(stream, want[: len(stream)])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_positions_are_those_of_unbounded_integers(data):
    examples = data.draw(st.integers(1, 2**31 - 1) | st.integers(1, 100_000))
    batch_size = data.draw(st.integers(1, min(examples, 4096)))
    step = data.draw(st.integers(0, order.last_step(batch_size=batch_size, examples=examples) - 1))
    epoch, place = order.positions(step, batch_size=batch_size, examples=examples)
    first = step * batch_size
    want = [(first + j) % examples for j in (0, batch_size - 1)]
    assert [int(place[0]), int(place[-1])] == want
    assert [int(epoch[0]), int(epoch[-1])] == [(first + j) // examples % 2**32 for j in (0, batch_size - 1)]


def test_steps_are_limited_only_where_32_bits_are_too_few():
    assert order.last_step(batch_size=128, examples=60000) == 2**32
    few = order.last_step(batch_size=1024, examples=5_000_001)
    assert few == 2**32 // 1024
    order.indices(0, few - 1, batch_size=1024, examples=5_000_001)
    with pytest.raises(UserError, match=r"step: 4194304 is not in \[0, 4194304\)"):
        order.indices(0, few, batch_size=1024, examples=5_000_001)


@pytest.mark.parametrize(
    ("batch_size", "examples", "step", "message"),
    [
        (101, 100, 0, "batch_size: 101 is not in"),
        (0, 100, 0, "batch_size: 0 is not in"),
        (1, 0, 0, "examples: 0 is not in"),
        (1, 2**31, 0, "examples: 2147483648 is not in"),
        (1, 10, -1, "step: -1 is not in"),
    ],
)
def test_sizes_that_cannot_be_are_refused(batch_size, examples, step, message):
    with pytest.raises(UserError, match=message):
        order.indices(0, step, batch_size=batch_size, examples=examples)


# ---------------------------------------------------------------------------------------------------------------------
# Statistics: seeds are fixed, so these pass or fail once and for all. A fair order fails one in 10 000.


@pytest.mark.parametrize("examples", [2, 3, 5, 7, 10, 16, 23, 40, 127, 128])
def test_every_place_is_equally_likely_to_hold_every_example(examples):
    found, count = many(20_000, range(examples), examples), 20_000
    table = np.stack([np.bincount(column, minlength=examples) for column in found.T])
    statistic = np.square(table - count / examples).sum() / (count / examples)
    assert stats.chi2.sf(statistic, (examples - 1) ** 2) > 1e-4


@pytest.mark.parametrize("examples", [3, 4, 5, 6, 7, 8, 10, 12, 17, 31, 64, 128])
def test_pairs_of_places_are_equally_likely_to_hold_every_pair_of_examples(examples):
    count = 20 * examples**2 + 20_000
    row = order._digits(examples)[1]
    for pair in {(0, 1), (0, min(row, examples - 1)), (0, examples - 1), (examples // 2, examples - 1)}:
        found = many(count, pair, examples).astype(int)
        table = np.bincount(found[:, 0] * examples + found[:, 1], minlength=examples**2).reshape(examples, examples)
        expected = count / (examples * (examples - 1))
        statistic = np.square(table[~np.eye(examples, dtype=bool)] - expected).sum() / expected
        assert stats.chi2.sf(statistic, examples * (examples - 1) - 1) > 1e-4


def test_all_orders_of_four_examples_are_equally_likely():
    found = many(24_000, range(4), 4) @ np.array([64, 16, 4, 1])
    counts = np.unique(found, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("examples", [1437, 9973])
def test_places_epochs_and_seeds_are_not_correlated(examples):
    orders = {(seed, epoch): permutation(seed, epoch, examples) for seed in range(6) for epoch in range(6)}
    orders[-1, 0] = np.arange(examples)
    table = np.corrcoef(np.stack(list(orders.values())))
    off_diagonal = table[np.triu_indices(len(table), 1)]
    assert np.abs(off_diagonal).max() < 4.5 / np.sqrt(examples)
    assert off_diagonal.std() == pytest.approx(1 / np.sqrt(examples), rel=0.1)
    neighbours = [np.corrcoef(p[:-1], p[1:])[0, 1] for key, p in orders.items() if key != (-1, 0)]
    assert np.abs(neighbours).max() < 4.5 / np.sqrt(examples)


def test_orders_of_other_epochs_and_seeds_agree_no_more_often_than_by_chance():
    orders = [permutation(seed, epoch, 1000) for seed in range(12) for epoch in range(12)]
    agreements = [(a == b).sum() for i, a in enumerate(orders) for b in orders[:i]]
    counts = np.bincount(np.minimum(agreements, 5), minlength=6)
    poisson = np.append(stats.poisson.pmf(range(5), 1), stats.poisson.sf(4, 1))
    assert stats.chisquare(counts, poisson * len(agreements)).pvalue > 1e-4


def test_batches_hold_every_part_of_the_data_evenly():
    shares = [(order.indices(0, step, batch_size=64, examples=60000) < 30000).mean() for step in range(900)]
    assert np.std(shares) == pytest.approx(0.5 / 8, rel=0.1)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of LLVM, which compiles for the CPU")
@pytest.mark.parametrize("examples", [1437, 60000])
def test_the_order_is_no_part_of_what_gathers_by_it(examples):
    """As it does not, in one kernel, come to an end of being compiled (jaxlib 0.11)."""

    def batch(labels, step):
        return labels[order.indices(jnp.uint32(0), step, batch_size=8, examples=examples)]

    program = jax.jit(batch).lower(jnp.zeros((examples, 1)), jnp.uint32(0)).compile().as_text()
    gathers = [part for part in program.split("\n\n") if " gather(" in part or "dynamic-slice(" in part]
    assert gathers
    assert not any("shift-right-logical(" in part for part in gathers)
