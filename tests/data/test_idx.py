import gzip
import hashlib
import os
import ssl
import struct
import urllib.error
from pathlib import Path

import numpy as np
import pytest

from research.data import KMNIST, MNIST, FashionMNIST
from research.data import idx as idx_room
from research.data.idx import FILES, Published, read_idx
from research.errors import UserError
from research.spec import Spec

TRAIN, TEST = 60, 20


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def four_arrays():
    random = np.random.default_rng(0)
    arrays = []
    for number in (TRAIN, TEST):
        arrays += [random.integers(0, 256, (number, 28, 28)), np.arange(number) % 10]
    return dict(zip(FILES, arrays, strict=True))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Four gzipped files, small; no variable of the developer's points elsewhere."""
    for variable in ("MNIST_DIR", "FASHION_MNIST_DIR", "KMNIST_DIR"):
        monkeypatch.delenv(variable, raising=False)
    path = tmp_path / "mnist files"
    path.mkdir()
    for name, array in four_arrays().items():
        (path / f"{name}.gz").write_bytes(gzip.compress(idx(array), 1))
    return path


def mnist(folder, **options):
    return MNIST(**{"folder": str(folder), "download": False, "validation": 10, **options})


def test_what_is_written_is_read(folder):
    loaded = mnist(folder).load()
    arrays = four_arrays()
    assert {name: len(split) for name, split in loaded.splits.items()} == {"train": 50, "validation": 10, "test": 20}
    assert loaded.spec == Spec((28, 28, 1), 10, tuple("0123456789"))
    assert np.array_equal(loaded.splits["test"].inputs[..., 0], arrays[FILES[2]])
    assert np.array_equal(loaded.splits["test"].labels, arrays[FILES[3]])
    rest = np.concatenate([loaded.splits[s].inputs for s in ("train", "validation")])[..., 0]
    assert sorted(map(bytes, rest.astype(np.uint8))) == sorted(map(bytes, arrays[FILES[0]].astype(np.uint8)))
    assert (loaded.splits["train"].inputs.dtype, loaded.splits["train"].labels.dtype) == (np.uint8, np.int32)
    assert (np.bincount(loaded.splits["validation"].labels) == 1).all()


@pytest.mark.parametrize("spelling", ["{}", "{}.gz", "dotted {}", "dotted {}.gz"])
def test_every_spelling_of_the_files_is_found(folder, spelling):
    expected = mnist(folder).load()
    for name in FILES:
        content = gzip.decompress((folder / f"{name}.gz").read_bytes())
        (folder / f"{name}.gz").unlink()
        new = spelling.format(name)
        new = new.removeprefix("dotted ").replace("-idx", ".idx") if "dotted" in new else new
        (folder / new).write_bytes(gzip.compress(content, 1) if new.endswith(".gz") else content)
    found = mnist(folder).load()
    assert np.array_equal(found.splits["train"].inputs, expected.splits["train"].inputs)


@pytest.mark.parametrize(
    ("kind", "variable", "third"),
    [(MNIST, "MNIST_DIR", "2"), (FashionMNIST, "FASHION_MNIST_DIR", "Pullover"), (KMNIST, "KMNIST_DIR", "su")],
)
def test_the_environment_says_where_the_files_are(folder, monkeypatch, kind, variable, third):
    monkeypatch.setenv(variable, str(folder))
    loaded = kind(validation=10, download=False).load()
    assert loaded.spec.names[2] == third
    assert loaded.spec.classes == 10


def test_a_folder_that_is_not_there_is_named(folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"data\.folder: there is no folder .*nowhere"):
        mnist(tmp_path / "nowhere").load()
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="MNIST_DIR: there is no folder .*nowhere"):
        MNIST().load()


def test_missing_files_are_named_with_what_to_do(folder):
    (folder / f"{FILES[1]}.gz").unlink()
    with pytest.raises(UserError, match=f"has no {FILES[1]}, .* give it as data.folder or MNIST_DIR"):
        mnist(folder).load()


def truncate(content):
    return content[:-5]


def flip(content):
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (0, lambda c: gzip.compress(c)[:-20], "cannot be read"),
        (0, lambda c: b"\x1f\x8b" + b"x" * 50, "cannot be read"),
        (0, lambda c: flip(gzip.compress(c, 0)), "cannot be read .*CRC"),
        (0, truncate, "truncated or damaged; it has 47051 bytes, and 47056 .*60x28x28"),
        (2, lambda c: c + b"more", "truncated or damaged"),
        (0, lambda c: c[:9], "truncated or damaged"),
        (1, lambda c: b"", "no idx file; it begins with nothing"),
        (1, lambda c: b"<html>404</html>", "no idx file; it begins with 3c 68 74 6d"),
        (0, lambda c: idx(np.arange(60) % 10), "uint8 values with 1 axes, and uint8 values with 3"),
        (1, lambda c: c[:2] + bytes([13]) + c[3:], "float32 values with 1 axes"),
        (1, lambda c: idx(np.arange(59) % 10), f"60 images, and {FILES[1]} beside it has 59 labels"),
        (3, lambda c: idx(np.arange(20)), "label 10 of example 10 is not one of 0 to 9"),
        (1, lambda c: idx(np.arange(60) % 9), "no training examples of class 9"),
        (2, lambda c: idx(np.zeros((20, 27, 28))), "test examples are 27x28x1, those of train 28x28x1"),
        (3, lambda c: idx(np.zeros(0)), "20 images, and .* 0 labels"),
    ],
)
def test_damage_is_named_with_the_file(folder, file, damage, message):
    path = folder / f"{FILES[file]}.gz"
    content = damage(gzip.decompress(path.read_bytes()))
    path.unlink()
    path = path if content[:2] == b"\x1f\x8b" else path.with_suffix("")
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        mnist(folder).load()
    assert path.name.removesuffix(".gz") in str(caught.value) or "MNIST:" in str(caught.value)


def test_an_empty_test_set_is_refused(folder):
    (folder / f"{FILES[2]}.gz").write_bytes(gzip.compress(idx(np.zeros((0, 28, 28)))))
    (folder / f"{FILES[3]}.gz").write_bytes(gzip.compress(idx(np.zeros(0))))
    with pytest.raises(UserError, match="the test split has no examples"):
        mnist(folder).load()


def test_holding_out_more_than_there_is_is_refused(folder):
    with pytest.raises(UserError, match=r"data\.validation: 5000 of 60 examples leaves none for training"):
        mnist(folder, validation=5000).load()
    with pytest.raises(UserError, match=r"data\.validation: 0 of 60 examples is a split of zero"):
        mnist(folder, validation=0).load()


# ---------------------------------------------------------------------------------------------------------------------


def publish(monkeypatch, *mirrors, kind="md5", folder=None, hashes=None):
    if hashes is None:
        contents = [(folder / f"{name}.gz").read_bytes() for name in FILES]
        unpack = gzip.decompress if kind == "sha256" else bytes
        hashes = tuple(hashlib.new(kind, unpack(content)).hexdigest() for content in contents)
    published = Published(tuple(mirrors), kind, hashes, "MNIST_DIR", tuple("0123456789"))
    monkeypatch.setattr(MNIST, "published", lambda self: published)


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_files_are_fetched_verified_and_kept(folder, cache_folder, monkeypatch, kind):
    publish(monkeypatch, "file:///nowhere", folder.as_uri(), kind=kind, folder=folder)
    loaded = MNIST(validation=10).load()
    assert len(loaded.splits["train"]) == 50
    assert sorted(p.name for p in (cache_folder / "mnist").iterdir()) == sorted(f"{name}.gz" for name in FILES)
    publish(monkeypatch, "file:///nowhere", folder=folder)
    assert len(MNIST(validation=10).load().splits["train"]) == 50  # without fetching again


def test_only_what_is_missing_is_fetched(folder, tmp_path, monkeypatch):
    publish(monkeypatch, folder.as_uri(), folder=folder)
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in FILES[:3]:
        (mine / f"{name}.gz").write_bytes((folder / f"{name}.gz").read_bytes())
    before = {p.name: p.stat().st_mtime_ns for p in mine.iterdir()}
    mnist(mine, download=True).load()
    after = {p.name: p.stat().st_mtime_ns for p in mine.iterdir()}
    assert set(after) - set(before) == {f"{FILES[3]}.gz"}
    assert all(after[name] == before[name] for name in before)


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_wrong_checksum_is_refused_and_nothing_kept(folder, cache_folder, monkeypatch, kind):
    publish(monkeypatch, folder.as_uri(), kind=kind, hashes=("0" * 32,) * 4)
    with pytest.raises(UserError, match=f"its {kind} is [0-9a-f]+ and not 000"):
        MNIST(validation=10).load()
    assert not list(cache_folder.rglob("*.gz"))


def test_a_page_in_place_of_the_file_is_refused(folder, tmp_path, monkeypatch):
    portal = tmp_path / "portal"
    portal.mkdir()
    for name in FILES:
        (portal / f"{name}.gz").write_text("<html>please log in</html>")
    publish(monkeypatch, portal.as_uri(), kind="sha256", folder=folder)
    with pytest.raises(UserError, match="Not a gzipped file"):
        MNIST(validation=10).load()


def test_without_a_network_the_message_says_how_to_get_the_files(folder, monkeypatch):
    publish(monkeypatch, "http://localhost:9/mnist", "http://localhost:8/mnist", folder=folder)  # nothing answers there
    told = r"nor can they be had \(localhost:9 and localhost:8 cannot be reached\); put the files, .* MNIST_DIR"
    with pytest.raises(UserError, match=told) as caught:
        MNIST(validation=10).load()
    assert len(caught.value.problems) == 1
    assert "Errno" not in caught.value.problems[0]


def test_what_a_mirror_answers_is_told(folder, tmp_path, monkeypatch):
    def answer(url):
        if "first" in url:
            raise urllib.error.HTTPError(url, 404, "Not Found", {}, None)
        raise urllib.error.URLError(ssl.SSLCertVerificationError(1, "certificate verify failed"))

    monkeypatch.setattr(idx_room, "_download", answer)
    publish(monkeypatch, "http://first/mnist", "http://second/mnist", folder=folder)
    with pytest.raises(UserError, match=r"\(first: Not Found; second: .*certificate verify failed.*\)"):
        MNIST(validation=10).load()


def test_a_folder_that_cannot_be_written_is_named(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FATHOM_CACHE", str(tmp_path / "file"))
    publish(monkeypatch, folder.as_uri(), folder=folder)
    with pytest.raises(UserError, match="file/mnist cannot be written"):
        MNIST(validation=10).load()


def test_published_hashes_have_the_length_of_their_kind():
    for kind in (MNIST, FashionMNIST, KMNIST):
        published = kind().published()
        assert len(set(published.hashes)) == 4
        assert {len(digest) for digest in published.hashes} == {2 * hashlib.new(published.kind_of_hash).digest_size}


@pytest.mark.skipif("MNIST_DIR" not in os.environ, reason="needs the files of MNIST in MNIST_DIR")
def test_real_mnist_has_the_mean_deviation_and_checksums_everybody_knows():
    loaded = MNIST().load()
    assert {name: len(s) for name, s in loaded.splits.items()} == {"train": 55000, "validation": 5000, "test": 10000}
    np.testing.assert_allclose(loaded.normalisation.mean, 0.1307, atol=2e-4)
    np.testing.assert_allclose(loaded.normalisation.deviation, 0.3081, atol=2e-4)
    whole = np.bincount(np.concatenate([loaded.splits[s].labels for s in ("train", "validation")]))
    assert (np.abs(np.bincount(loaded.splits["validation"].labels) - whole / 12) < 1).all()
    folder = Path(os.environ["MNIST_DIR"])
    files = [
        next(folder / f"{name}{end}" for end in (".gz", "") if (folder / f"{name}{end}").exists()) for name in FILES
    ]
    for file, digest in zip(files, MNIST().published().hashes, strict=True):
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest


def test_idx_files_of_other_axes_are_read_when_asked_for(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 2)).astype(np.uint8)
    (tmp_path / "some-idx4-ubyte").write_bytes(idx(array))
    assert np.array_equal(read_idx(tmp_path / "some-idx4-ubyte", axes=4), array)


def test_fewer_training_examples_leave_the_other_splits_as_they_are(folder):
    whole, few = mnist(folder).load().splits, mnist(folder, examples=20).load().splits
    for split in ("validation", "test"):
        np.testing.assert_array_equal(whole[split].inputs, few[split].inputs)
    assert np.bincount(few["train"].labels).tolist() == [2] * 10
    pictures = {picture.tobytes() for picture in whole["train"].inputs}
    assert {picture.tobytes() for picture in few["train"].inputs} <= pictures
    assert len(mnist(folder, examples=10_000).load().splits["train"]) == len(whole["train"])
