"""A set prepared here, as array_record with pictures as PNG bytes: the one way that needs no TensorFlow.

Where TensorFlow is installed (the extra `tensorflow`), the same set is read from TFRecord files as well.
"""

import importlib.util
import io
import json
import shutil
import socket
import sys
import urllib.request

import numpy as np
import pytest

from research.data import TFDS
from research.data import tfds as room
from research.data.tfds import find_prepared
from research.errors import UserError
from research.spec import Spec

pytestmark = pytest.mark.filterwarnings("ignore")  # those of tensorflow-datasets and of what it imports
SIZES = {"train": 40, "test": 12}
needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="the extra `tensorflow` is not installed"
)


def picture(index):
    return np.random.default_rng(index).integers(0, 256, (6, 5, 1)).astype(np.uint8)


def make_builder(sizes, shape=(6, 5, 1), label=lambda i: i % 3, encoding="PNG"):
    """A set "toy": without `shape`, pictures have different sizes; without `encoding`, they are numbers."""
    import tensorflow_datasets as tfds
    from PIL import Image

    class Toy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Image(shape=shape or (None, None, 1))
            features = tfds.features.FeaturesDict(
                {
                    "image": image if encoding else tfds.features.Tensor(shape=shape, dtype=np.uint8),
                    "label": tfds.features.ClassLabel(names=["ant", "bee", "cat"]),
                    "note": tfds.features.Text(),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

        def _split_generators(self, dl_manager):
            starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
            return {name: self._generate_examples(starts[name], count) for name, count in sizes.items()}

        def _generate_examples(self, start, count):
            for index in range(start, start + count):
                yield int(index), {"image": self._encode(index), "label": label(index), "note": "a note"}

        def _encode(self, index):
            if not encoding:
                return picture(index)
            file = io.BytesIO()
            pixels = picture(index)[..., 0]
            image = Image.fromarray(pixels if shape else pixels[: 5 + index % 2])
            image.convert("RGB" if shape and shape[-1] == 3 else "L").save(file, encoding)
            return file.getvalue()

    return Toy


def prepare(folder, sizes, *, file_format="array_record", shards=1, **options):
    """Write the set "toy" under `folder`."""
    import tensorflow_datasets as tfds

    builder = make_builder(sizes, **options)(data_dir=str(folder), file_format=file_format)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=shards))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    prepare(folder, SIZES)
    return folder


def toy(folder, **options):
    return TFDS(**{"name": "toy", "data_dir": str(folder), **options})


def test_a_prepared_set_is_read_without_tensorflow(prepared):
    before = "tensorflow" in sys.modules  # of a test before this one
    loaded = toy(prepared).load()
    assert ("tensorflow" in sys.modules) == before
    assert loaded.spec == Spec((6, 5, 1), 3, ("ant", "bee", "cat"))
    assert {name: len(split) for name, split in loaded.splits.items()} == {"train": 36, "validation": 4, "test": 12}
    expected = {picture(i).tobytes(): i % 3 for i in range(52)}
    for split in loaded.splits.values():
        assert split.inputs.dtype == np.uint8
        assert [expected[x.tobytes()] for x in split.inputs] == split.labels.tolist()
    everything = np.concatenate([s.inputs for s in loaded.splits.values()])
    assert len({x.tobytes() for x in everything}) == 52
    assert (loaded.kind, loaded.maximum, loaded.background) == ("image", 255.0, None)


@pytest.mark.parametrize("name", ["toy", "toy:1.0.0"])
def test_the_version_may_be_named(prepared, name):
    assert find_prepared(prepared, name) == prepared / "toy" / "1.0.0"


def test_the_folder_may_come_from_the_environment(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(TFDS(name="toy").load().splits["test"]) == 12


def test_splits_and_slices_may_be_named(prepared):
    loaded = toy(prepared, splits=("train[:30]", "train[30:]", "test")).load()
    assert [len(s) for s in loaded.splits.values()] == [30, 10, 12]
    loaded = toy(prepared, splits=("test",), test=0.25, validation=0.25).load()
    assert [len(s) for s in loaded.splits.values()] == [6, 3, 3]


def test_arrays_are_kept_and_read_without_tensorflow_datasets(prepared, monkeypatch):
    first = toy(prepared).load()
    monkeypatch.setattr(room, "_import_tfds", lambda: pytest.fail("read again"))
    again = toy(prepared).load()
    assert np.array_equal(first.splits["train"].inputs, again.splits["train"].inputs)
    with pytest.raises(pytest.fail.Exception):
        toy(prepared, size=(8, 8)).load()


def test_a_set_prepared_anew_is_read_anew(prepared, tmp_path):
    folder = tmp_path / "sets"
    shutil.copytree(prepared, folder)
    assert len(toy(folder).load().splits["test"]) == 12
    shutil.rmtree(folder / "toy")
    prepare(folder, {"train": 40, "test": 15})
    assert len(toy(folder).load().splits["test"]) == 15


def test_pictures_of_different_sizes_need_a_size(tmp_path):
    prepare(tmp_path, {"train": 30}, shape=None)
    with pytest.raises(UserError, match=r"train: examples of different sizes \(5x5x1 and 6x5x1\); set data.size"):
        toy(tmp_path).load()
    assert toy(tmp_path, size=(6, 6)).load().spec.shape == (6, 6, 1)


@needs_tensorflow
@pytest.mark.parametrize(
    "options",
    [{}, {"shards": 2}, {"shape": (6, 5, 3), "encoding": "JPEG"}, {"encoding": None}],
    ids=["PNG", "several files", "JPEG", "numbers"],
)
def test_tfrecord_files_give_the_same_as_array_record(tmp_path, options):
    for file_format in ("tfrecord", "array_record"):
        prepare(tmp_path / file_format, SIZES, file_format=file_format, **options)
    ours, expected = toy(tmp_path / "tfrecord").load(), toy(tmp_path / "array_record").load()
    assert (ours.spec, ours.kind, ours.maximum) == (expected.spec, expected.kind, expected.maximum)
    for name, split in expected.splits.items():
        assert ours.splits[name].inputs.dtype == split.inputs.dtype
        assert np.array_equal(ours.splits[name].inputs, split.inputs)
        assert np.array_equal(ours.splits[name].labels, split.labels)


@needs_tensorflow
def test_slices_and_sizes_hold_for_tfrecord_files_too(tmp_path):
    prepare(tmp_path, {"train": 40}, file_format="tfrecord", shape=None, shards=2)
    with pytest.raises(UserError, match=r"train: examples of different sizes \(5x5x1 and 6x5x1\); set data.size"):
        toy(tmp_path).load()
    loaded = toy(tmp_path, size=(6, 6), splits=("train[:20]", "train[20:30]", "train[75%:]")).load()
    assert [len(split) for split in loaded.splits.values()] == [20, 10, 10]
    assert len({x.tobytes() for split in loaded.splits.values() for x in split.inputs}) == 40


@needs_tensorflow
@pytest.mark.parametrize("kept", [0, 100, 4_000, None])
def test_a_truncated_or_missing_tfrecord_file_is_named(tmp_path, kept):
    prepare(tmp_path, SIZES, file_format="tfrecord")
    path = next((tmp_path / "toy" / "1.0.0").glob("toy-train*"))
    if kept is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"toy/1\.0\.0: cannot be read") as caught:
        toy(tmp_path).load()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise OSError(101, "Network is unreachable")

    def never(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", never)
    monkeypatch.setattr(socket.socket, "connect", never)


def test_a_set_that_is_not_prepared_is_refused_without_asking_the_network(tmp_path, no_network):
    with pytest.raises(UserError, match=r"'mnist' is not prepared in .*; prepare it .* or set data.download") as caught:
        TFDS(name="mnist", data_dir=str(tmp_path)).load()
    assert len(caught.value.problems) == 1


def test_a_typo_finds_the_prepared_set(prepared, no_network):
    with pytest.raises(UserError, match="did you mean 'toy'"):
        TFDS(name="toyy", data_dir=str(prepared)).load()
    with pytest.raises(UserError, match="'toy:2.0.0' is not prepared"):
        TFDS(name="toy:2.0.0", data_dir=str(prepared)).load()


def pretend_tensorflow(monkeypatch, there):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: (object() if there else None) if name == "tensorflow" else find(name)
    )


def test_preparing_without_tensorflow_names_the_extra(tmp_path, no_network, monkeypatch):
    pretend_tensorflow(monkeypatch, there=False)
    with pytest.raises(
        UserError, match=r"'mnist' .* preparing it needs TensorFlow: pip install 'fathom\[tensorflow\]'"
    ):
        TFDS(name="mnist", data_dir=str(tmp_path), download=True).load()


def forbid_preparing(monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(
        tfds.core.DatasetBuilder, "download_and_prepare", lambda *_, **__: pytest.fail("it was left to retry")
    )


@pytest.mark.parametrize(
    ("name", "host"), [("mnist", r"storage\.googleapis\.com"), ("cifar10", r"www\.cs\.toronto\.edu")]
)
def test_preparing_without_a_network_fails_at_once(tmp_path, no_network, monkeypatch, name, host):
    pretend_tensorflow(monkeypatch, there=True)
    forbid_preparing(monkeypatch)
    (tmp_path / "downloads" / "some.tmp.0123").mkdir(parents=True)  # as an attempt before this one leaves it
    with pytest.raises(UserError, match=rf"'{name}' is not .*, and {host} cannot be reached \(.*is unreachable"):
        TFDS(name=name, data_dir=str(tmp_path), download=True).load()


@pytest.mark.parametrize("reason", ["downloaded before", "a proxy"])
def test_without_a_network_preparing_is_tried_where_it_may_succeed(tmp_path, no_network, monkeypatch, reason):
    pretend_tensorflow(monkeypatch, there=True)
    forbid_preparing(monkeypatch)
    if reason == "a proxy":
        monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://localhost:1"})
    else:
        (tmp_path / "downloads" / "manual").mkdir(parents=True)
        (tmp_path / "downloads" / "manual" / "train-images-idx3-ubyte.gz").touch()
    with pytest.raises(pytest.fail.Exception, match="it was left to retry"):
        TFDS(name="mnist", data_dir=str(tmp_path), download=True).load()


def test_a_set_that_needs_no_network_is_prepared_without_one(tmp_path, no_network, monkeypatch):
    import tensorflow_datasets as tfds

    pretend_tensorflow(monkeypatch, there=True)
    monkeypatch.setitem(tfds.core.registered._DATASET_REGISTRY, "toy", make_builder(SIZES))  # as importing it would
    loaded = toy(tmp_path, download=True).load()
    assert [len(split) for split in loaded.splits.values()] == [36, 4, 12]
    assert json.loads((tmp_path / "toy" / "1.0.0" / "dataset_info.json").read_text())["fileFormat"] == "array_record"
    assert toy(tmp_path).load().spec == loaded.spec


def test_a_failing_preparation_is_told_in_one_line(tmp_path, no_network, monkeypatch):
    import tensorflow_datasets as tfds

    pretend_tensorflow(monkeypatch, there=True)
    broken = make_builder(SIZES, label=lambda i: "dog")
    monkeypatch.setitem(tfds.core.registered._DATASET_REGISTRY, "toy", broken)
    with pytest.raises(
        UserError, match=r"'toy' is not prepared in .*, and preparing it failed \(KeyError: 'dog'\)"
    ) as caught:
        toy(tmp_path, download=True).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("name", ["mnits", "mnits:3.0.1", "emnits/letters"])
def test_a_set_unknown_to_tensorflow_datasets_is_refused(tmp_path, no_network, monkeypatch, name, download):
    pretend_tensorflow(monkeypatch, there=download)
    with pytest.raises(UserError, match="knows no such set; did you mean 'e?mnist'") as caught:
        TFDS(name=name, data_dir=str(tmp_path), download=download).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["huggingface:mnist", "mnist:3", "mnist:"])
def test_only_a_version_may_follow_a_colon(tmp_path, no_network, name):
    with pytest.raises(UserError, match=rf"data\.name: '{name}': after the colon a version such as 1\.0\.0 is needed"):
        TFDS(name=name, data_dir=str(tmp_path), download=True).load()


def change_information(prepared, tmp_path, change):
    shutil.copytree(prepared / "toy", tmp_path / "toy")
    path = tmp_path / "toy" / "1.0.0" / "dataset_info.json"
    information = json.loads(path.read_text())
    change(information)
    path.write_text(json.dumps(information))
    return tmp_path


def test_tfrecord_files_without_tensorflow_name_the_extra(prepared, tmp_path, monkeypatch):
    pretend_tensorflow(monkeypatch, there=False)
    folder = change_information(prepared, tmp_path, lambda i: i.update(fileFormat="tfrecord"))
    with pytest.raises(UserError, match=r"prepared as TFRecord, .*pip install 'fathom\[tensorflow\]'"):
        toy(folder).load()


def test_a_damaged_set_is_named(prepared, tmp_path):
    folder = change_information(prepared, tmp_path, lambda i: i.pop("splits"))
    with pytest.raises(UserError, match=r"dataset_info\.json: damaged"):
        toy(folder).load()


@pytest.mark.parametrize("kept", [0, 100, 40_000])
def test_a_truncated_record_file_is_named(prepared, tmp_path, kept):
    shutil.copytree(prepared / "toy", tmp_path / "toy")
    path = next((tmp_path / "toy" / "1.0.0").glob("toy-train*"))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"toy/1\.0\.0: cannot be read"):
        toy(tmp_path).load()


def test_a_missing_record_file_is_named(prepared, tmp_path):
    shutil.copytree(prepared / "toy", tmp_path / "toy")
    next((tmp_path / "toy" / "1.0.0").glob("toy-train*")).unlink()
    with pytest.raises(UserError, match=r"toy/1\.0\.0: cannot be read"):
        toy(tmp_path).load()


def test_unknown_splits_are_named(prepared):
    with pytest.raises(UserError, match=r"data\.splits: toy has no split 'tran'; did you mean 'train'"):
        toy(prepared, splits=("tran[:50%]",)).load()
    with pytest.raises(UserError, match=r"data\.splits: one .train., two"):
        toy(prepared, splits=()).load()


def test_a_set_without_train_asks_which_split_to_use(prepared, tmp_path):
    folder = change_information(prepared, tmp_path, lambda i: i["splits"].pop(0))
    with pytest.raises(UserError, match=r"the set has no split 'train'; say which of test to use"):
        toy(folder).load()


def test_several_configurations_ask_for_one(prepared, tmp_path):
    for name in ("small", "large"):
        shutil.copytree(prepared / "toy" / "1.0.0", tmp_path / "toy" / name / "1.0.0")
    with pytest.raises(UserError, match="several configurations: toy/large, toy/small"):
        toy(tmp_path).load()
    assert find_prepared(tmp_path, "toy/small") == tmp_path / "toy" / "small" / "1.0.0"


def test_the_highest_version_is_taken(tmp_path):
    for version in ("1.9.0", "1.10.0", "1.2.0", "incomplete.XY_3.0.0"):
        (tmp_path / "toy" / version).mkdir(parents=True)
        (tmp_path / "toy" / version / "dataset_info.json").touch()
    assert find_prepared(tmp_path, "toy").name == "1.10.0"


def test_unlabelled_examples_are_refused(tmp_path):
    prepare(tmp_path, {"train": 30, "test": 9}, label=lambda i: i % 3 if i < 30 else -1)
    with pytest.raises(UserError, match="test: label -1 of example 0 is not one of 0 to 2"):
        toy(tmp_path).load()
