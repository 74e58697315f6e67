import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.data import base
from research.data.base import (
    Split,
    Streamed,
    assemble,
    complete,
    describe,
    fit,
    from_description,
    hashed,
    hold_out,
    normalise,
)
from research.errors import UserError


def streamed(inputs, labels):
    rows = np.arange(len(labels))
    return Streamed(labels, rows, inputs.shape[1:], inputs.dtype, lambda chosen: inputs[chosen])


def some_splits(seed=0, sizes=(30, 9, 12), classes=3, shape=(4, 4, 1)):
    random = np.random.default_rng(seed)
    return {
        name: Split(
            random.integers(0, 256, (size, *shape)).astype(np.uint8), (np.arange(size) % classes).astype(np.int32)
        )
        for name, size in zip(base.SPLITS, sizes, strict=True)
    }


def put_together(splits=None, names=("a", "b", "c"), **options):
    options = {"kind": "image", "scale": 1 / 255, **options}
    return assemble("Mine", some_splits() if splits is None else splits, names, **options)


# ---------------------------------------------------------------------------------------------------------------------


def test_hash_is_splitmix64():
    # the first outputs of SplitMix64 seeded with 0, as in its authors' reference implementation
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert hashed(np.arange(3)).tolist() == expected


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(4, 40), min_size=2, max_size=6),
    validation=st.floats(0.05, 0.2),
    test=st.floats(0.05, 0.3),
)
def test_splits_are_disjoint_complete_stratified_and_always_the_same(counts, validation, test):
    labels = np.random.default_rng(sum(counts)).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = hold_out(labels, test=test, validation=validation)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(len(labels)))
    for part, fraction in (("test", test), ("validation", validation)):
        assert len(rows[part]) == int(np.ceil(fraction * len(labels) - 1e-9))
        share = np.bincount(labels[rows[part]], minlength=len(counts))
        assert (np.abs(share - len(rows[part]) * np.array(counts) / len(labels)) < 1).all()
    assert (np.bincount(labels[rows["train"]], minlength=len(counts)) > 0).all()
    np.random.seed(len(labels))  # a generator that someone else has seeded changes nothing
    again = hold_out(labels, test=test, validation=validation)
    assert all((rows[part] == again[part]).all() for part in rows)


def test_the_test_split_does_not_depend_on_how_much_is_held_out_for_validation():
    labels = np.arange(200) % 7
    small, large = (hold_out(labels, test=0.2, validation=v)["test"] for v in (0.05, 0.4))
    assert (small == large).all()


def test_classes_of_one_example_stay_in_train():
    labels = np.array([0] * 10 + list(range(1, 9)))
    rows = hold_out(labels, test=0.3, validation=0.1)
    assert (len(rows["test"]), len(rows["validation"])) == (6, 2)
    assert set(range(10, 18)) <= set(rows["train"])


def test_what_is_held_out_is_spread_over_data_in_any_order():
    labels = np.arange(5000) % 5
    for part in ("test", "validation"):
        places = hold_out(labels, test=0.2, validation=0.2)[part] / 5000
        np.testing.assert_allclose(np.quantile(places, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.05)


def test_held_out_numbers_are_exact():
    rows = hold_out(np.arange(1000) % 10, validation=123)
    assert (len(rows["validation"]), len(rows["train"])) == (123, 877)


@pytest.mark.parametrize("held_out", [0, 0.0, -3, -0.1])
def test_a_split_of_zero_examples_is_refused_by_the_name_of_its_field(held_out):
    with pytest.raises(UserError, match=r"data\.test: .* a split of zero examples"):
        hold_out(np.arange(20) % 2, test=held_out)


@pytest.mark.parametrize(("held_out", "why"), [(1.0, "none for training"), (20, "none for training"), (19, "a class")])
def test_a_split_that_leaves_nothing_to_train_on_is_refused(held_out, why):
    with pytest.raises(UserError, match=rf"data\.test: .* examples leaves .*{why}"):
        hold_out(np.arange(20) % 2, test=held_out)


def test_only_missing_splits_are_cut_off_train():
    splits = some_splits()
    done = complete({"train": splits["train"], "test": splits["test"]}, test=0.5, validation=0.2)
    assert done["test"] is splits["test"]
    assert (len(done["train"]), len(done["validation"])) == (24, 6)
    assert complete(splits, test=0.5, validation=0.2) == splits


def test_streamed_and_in_memory_splits_hold_the_same_examples():
    split = some_splits()["train"]
    stream = streamed(split.inputs, split.labels)
    chosen, rows = np.array([5, 3, 20, 8]), np.array([2, 0, 2])
    assert (split.take(chosen).read(rows) == stream.take(chosen).read(rows)).all()
    assert (stream.take(chosen).labels == split.labels[chosen]).all()
    assert (len(stream), stream.shape, stream.dtype) == (len(split), split.shape, split.dtype)


# ---------------------------------------------------------------------------------------------------------------------


def test_normalisation_is_that_of_numpy_in_float64(monkeypatch):
    monkeypatch.setattr(base, "CHUNK_BYTES", 5000)  # several chunks, the last one partial
    inputs = np.random.default_rng(1).integers(0, 256, (123, 4, 5, 3)).astype(np.uint8)
    found = fit(Split(inputs, np.zeros(123, np.int32)), 1 / 255)
    scaled = inputs.reshape(-1, 3).astype(np.float64) / 255
    np.testing.assert_allclose(found.mean, scaled.mean(0), rtol=1e-7)
    np.testing.assert_allclose(found.deviation, scaled.std(0), rtol=1e-7)
    assert found.mean.dtype == found.deviation.dtype == np.float32


def test_normalisation_is_exact_far_from_zero():
    column = np.random.default_rng(2).normal(1e6, 1.0, (200_000, 1))
    found = fit(Split(column, np.zeros(200_000, np.int32)), 1.0)
    np.testing.assert_allclose(found.deviation, column.std(0), rtol=1e-6)


def test_a_constant_feature_becomes_zero():
    inputs = np.stack([np.full(1000, 0.1, np.float32), np.arange(1000, dtype=np.float32)], -1)
    found = fit(Split(inputs, np.zeros(1000, np.int32)), 1.0)
    assert found.deviation[0] == 1
    assert (normalise(found, inputs)[:, 0] == 0).all()


def test_normalisation_is_fitted_on_the_training_split_alone():
    splits = some_splits()
    wild = {**splits, "test": Split(splits["test"].inputs // 255, splits["test"].labels)}
    assert all(np.array_equal(a, b) for a, b in zip(fit_of(splits), fit_of(wild), strict=True))
    assert not np.array_equal(fit_of(splits)[1], fit_of({**splits, "train": wild["test"]})[1])


def fit_of(splits):
    return put_together(splits).normalisation


def test_a_normalised_training_split_has_mean_zero_and_deviation_one():
    loaded = put_together()
    inputs = normalise(loaded.normalisation, loaded.splits["train"].inputs)
    assert inputs.dtype == np.float32
    np.testing.assert_allclose([inputs.mean(), inputs.std()], [0, 1], atol=1e-5)


def test_normalisation_is_the_same_in_numpy_and_in_jax():
    loaded = put_together()
    inputs = loaded.splits["test"].inputs
    jitted = jax.jit(normalise)(loaded.normalisation, jnp.asarray(inputs))
    assert jitted.dtype == jnp.float32
    np.testing.assert_allclose(normalise(loaded.normalisation, inputs), jitted, rtol=1e-5, atol=1e-6)


def test_a_streamed_split_that_is_small_is_fitted_on_whole():
    split = some_splits()["train"]
    whole, stream = fit(split, 1 / 255), fit(streamed(split.inputs, split.labels), 1 / 255)
    np.testing.assert_allclose(whole.mean, stream.mean, rtol=1e-6)
    np.testing.assert_allclose(whole.deviation, stream.deviation, rtol=1e-6)


def test_a_large_streamed_split_is_fitted_on_a_fixed_sample(monkeypatch):
    monkeypatch.setattr(base, "SAMPLE", 500)
    inputs = np.random.default_rng(3).normal(3, 2, (5000, 2)).astype(np.float32)
    seen = []
    stream = Streamed(
        np.zeros(5000, np.int32), np.arange(5000), (2,), inputs.dtype, lambda r: seen.append(r) or inputs[r]
    )
    first, second = fit(stream, 1.0), fit(stream, 1.0)
    assert len(np.unique(np.concatenate(seen))) == 500
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    np.testing.assert_allclose(first.mean, 3, atol=0.5)


# ---------------------------------------------------------------------------------------------------------------------


def test_a_description_survives_json_to_the_last_bit():
    loaded = put_together(background="dark", maximum=16.0)
    read = from_description(json.loads(json.dumps(describe(loaded))))
    assert (read.spec, read.kind, read.background, read.maximum) == (loaded.spec, "image", "dark", 16.0)
    assert read.normalisation.scale == loaded.normalisation.scale
    assert np.array_equal(read.normalisation.mean, loaded.normalisation.mean)
    assert np.array_equal(read.normalisation.deviation, loaded.normalisation.deviation)
    assert read.normalisation.mean.dtype == np.float32


def test_a_description_says_how_many_examples_each_split_has():
    assert describe(put_together())["examples"] == {"train": 30, "validation": 9, "test": 12}


@pytest.mark.parametrize("break_it", [lambda d: d.pop("names"), lambda d: d.update(normalisation=3), dict.clear])
def test_a_damaged_description_is_refused(break_it):
    description = describe(put_together())
    break_it(description)
    with pytest.raises(UserError, match="description of its data cannot be read"):
        from_description(description)


@pytest.mark.parametrize("change", [{"classes": 4}, {"shape": [4, 4, 3]}, {"normalisation": None}, {"tokens": 9}])
def test_a_description_that_contradicts_itself_is_refused(change):
    with pytest.raises(UserError, match="contradicts itself"):
        from_description({**describe(put_together()), **change})


def with_split(name, inputs=None, labels=None):
    splits = some_splits()
    old = splits[name]
    return {**splits, name: Split(old.inputs if inputs is None else inputs, old.labels if labels is None else labels)}


def nan_at(example):
    inputs = np.zeros((12, 4, 4, 1), np.float32)
    inputs[example, 1, 2] = np.nan
    return inputs


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (with_split("test", labels=np.full(12, 3, np.int32)), "test: label 3 of example 0 is not one of 0 to 2"),
        (with_split("train", labels=np.arange(30, dtype=np.int32) % 3 - 1), "train: label -1 of example 0"),
        (with_split("train", labels=np.arange(30, dtype=np.int32) % 2), "no training examples of class c"),
        (with_split("validation", np.zeros((0, 4, 4, 1)), np.zeros(0, np.int32)), "validation split has no examples"),
        (with_split("validation", np.zeros((9, 4, 5, 1))), "validation examples are 4x5x1, those of train 4x4x1"),
        (with_split("test", nan_at(7)), "test: example 7 holds values that are not finite"),
        (with_split("test", np.zeros((11, 4, 4, 1))), "test: 11 inputs and 12 labels"),
    ],
)
def test_what_cannot_be_is_refused(splits, message):
    with pytest.raises(UserError, match=f"Mine: .*{message}"):
        put_together(splits)


def test_a_single_class_is_refused():
    splits = {name: Split(s.inputs, np.zeros_like(s.labels)) for name, s in some_splits().items()}
    with pytest.raises(UserError, match=r"a single class \(a\)"):
        put_together(splits, names=("a",))


def test_a_dataset_without_load_says_so():
    with pytest.raises(NotImplementedError, match=r"Dataset has no load\(\)"):
        base.Dataset().load()
