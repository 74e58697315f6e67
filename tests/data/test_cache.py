import numpy as np
import pytest

from research.data import cache


def numbered(counter):
    counter.append(1)
    return {"values": np.arange(1000), "names": np.array(["a", "bc"])}


def test_arrays_are_made_once(cache_folder):
    made = []
    first, second = (cache.cached("key", lambda: numbered(made)) for _ in range(2))
    assert len(made) == 1
    assert (first["values"] == second["values"]).all()
    assert first["names"].tolist() == second["names"].tolist()
    assert [path.name for path in (cache_folder / "arrays").iterdir()] == ["key.npz"]


@pytest.mark.parametrize("where", [10, 60, 500, 4000, -200, -30])
def test_a_flipped_bit_makes_them_again(cache_folder, where):
    made = []
    cache.cached("key", lambda: numbered(made))
    path = cache_folder / "arrays" / "key.npz"
    content = bytearray(path.read_bytes())
    content[where] ^= 4
    path.write_bytes(content)
    again = cache.cached("key", lambda: numbered(made))
    assert (again["values"] == np.arange(1000)).all()
    assert again["names"].tolist() == ["a", "bc"]


@pytest.mark.parametrize("kept", [0, 100, 5000])
def test_a_truncated_file_is_made_again(cache_folder, kept):
    made = []
    cache.cached("key", lambda: numbered(made))
    path = cache_folder / "arrays" / "key.npz"
    path.write_bytes(path.read_bytes()[:kept])
    for _ in range(2):
        assert (cache.cached("key", lambda: numbered(made))["values"] == np.arange(1000)).all()
    assert len(made) == 2


def test_without_a_place_to_write_everything_works(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FATHOM_CACHE", str(tmp_path / "file" / "cache"))
    made = []
    for _ in range(2):
        assert (cache.cached("key", lambda: numbered(made))["values"] == np.arange(1000)).all()
    assert len(made) == 2


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        cache.write_atomically(path, fail)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["file"]
    assert path.read_text() == "old"


def test_the_folder_is_in_the_users_home_unless_told(monkeypatch):
    monkeypatch.delenv("FATHOM_CACHE")
    assert cache.folder().parts[-2:] == (".cache", "fathom")
