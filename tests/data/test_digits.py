import importlib.machinery
import importlib.util

import numpy as np
import pytest

from research.config import override, validate
from research.data import Digits
from research.data.digits import read_digits
from research.errors import UserError
from research.spec import Spec


def test_pictures_and_labels_are_scikit_learns():
    from sklearn.datasets import load_digits

    theirs = load_digits()
    inputs, labels = read_digits()
    assert np.array_equal(inputs[..., 0], theirs.images)
    assert np.array_equal(labels, theirs.target)
    assert (inputs.dtype, labels.dtype) == (np.float32, np.int32)


def test_a_fifth_is_for_the_test_and_every_split_has_every_class():
    loaded = Digits().load()
    assert {name: len(split) for name, split in loaded.splits.items()} == {
        "train": 1257,
        "validation": 180,
        "test": 360,
    }
    assert loaded.spec == Spec((8, 8, 1), 10, tuple("0123456789"))
    assert (loaded.kind, loaded.background, loaded.maximum) == ("image", "dark", 16.0)
    whole = np.bincount(read_digits()[1]) / 1797
    for split in loaded.splits.values():
        assert (np.abs(np.bincount(split.labels) - whole * len(split)) < 1.5).all()


def test_normalised_white_is_one_before_standardising():
    assert Digits().load().normalisation.scale * 16 == 1


def test_fractions_beyond_zero_and_one_are_refused_by_name():
    with pytest.raises(UserError, match=r"test: 1\.5 is not in \(0, 1\)"):
        validate(Digits(test=1.5))
    with pytest.raises(UserError, match=r"data\.validation: 0\.0 .* zero examples"):
        Digits(validation=0.0).load()
    with pytest.raises(UserError, match="did you mean 'validation'"):
        override(Digits(), "valdation", 0.2)


def pretend_sklearn_is_in(folder, monkeypatch):
    spec = importlib.machinery.ModuleSpec("sklearn", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


def test_where_the_packaged_file_has_moved_scikit_learn_is_asked(tmp_path, monkeypatch):
    expected = read_digits()
    pretend_sklearn_is_in(tmp_path, monkeypatch)
    assert all(np.array_equal(a, b) for a, b in zip(read_digits(), expected, strict=True))


def test_a_damaged_packaged_file_is_named(tmp_path, monkeypatch):
    path = tmp_path / "datasets" / "data" / "digits.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x1f\x8bnot gzip")
    pretend_sklearn_is_in(tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"digits\.csv\.gz is damaged .* reinstall scikit-learn"):
        read_digits()


def test_without_scikit_learn_the_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        Digits().load()
