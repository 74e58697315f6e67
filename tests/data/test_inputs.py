"""A user's own files as raw inputs: what is read is what is in them, and what cannot be read is named."""

import struct
import wave

import numpy as np
import pytest
from scipy.io import wavfile

from research.data import inputs
from research.data.inputs import Unreadable, find, read

SOUND = {"kind": "array", "shape": [8, 1], "background": None, "maximum": None, "scale": 1 / 2**15}
TEXT = {"kind": "bytes", "shape": [8], "background": None, "maximum": None, "scale": 1.0}
TABLE = {"kind": "table", "shape": [3], "background": None, "maximum": None, "scale": 1.0}
PICTURE = {"kind": "image", "shape": [4, 4, 1], "background": "dark", "maximum": 16.0, "scale": 1 / 16}


def sound_file(path, samples: np.ndarray, width: int):
    """PCM of whole numbers (samples, channels) with so many bytes each."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(width)
        file.setframerate(8000)
        octets = samples.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :width]
        file.writeframes(np.ascontiguousarray(octets + (128 if width == 1 else 0)).tobytes())
    return path


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_sound_is_what_scipy_reads_whatever_its_width(tmp_path, width):
    most = 2 ** (8 * width - 1)
    samples = np.random.default_rng(width).integers(-most, most, (8, 1))
    path = sound_file(tmp_path / "a.wav", samples, width)
    raw, notes = read(path, SOUND)
    stored = wavfile.read(path)[1].astype(np.float64).reshape(-1, 1)
    full_scale = {1: 2.0**7, 2: 2.0**15, 3: 2.0**31, 4: 2.0**31}[width]  # scipy shifts 24 bits to the top of 32
    expected = (stored - (128 if width == 1 else 0)) / full_scale * 2**15
    np.testing.assert_allclose(raw[0], expected, rtol=1e-6)
    assert notes == ("8,000 samples a second, taken as they are",)


def test_of_two_channels_the_mean_is_heard_and_long_sounds_are_windows(tmp_path):
    samples = np.arange(42).reshape(21, 2)
    raw, notes = read(sound_file(tmp_path / "a.wav", samples, 2), SOUND)
    np.testing.assert_array_equal(raw.reshape(-1), samples.mean(1)[:16])
    assert notes[1:] == ("mean of 2 channels", "mean over 2 windows of 8 samples", "the last 5 samples left out")
    with pytest.raises(Unreadable, match=r"a.wav: has 2 channels, and 3 are needed"):
        read(tmp_path / "a.wav", SOUND | {"shape": [8, 3]})


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_sound_that_was_cut_short_is_told_and_one_of_unknown_length_is_read(tmp_path, width):
    samples = np.random.default_rng(width).integers(-100, 100, (16, 2))
    whole = sound_file(tmp_path / "a.wav", samples, width).read_bytes()
    expected = read(tmp_path / "a.wav", SOUND)[0]
    for lost in (1, 5 * 2 * width, 16 * 2 * width):
        (tmp_path / "a.wav").write_bytes(whole[:-lost])
        held = 16 - -(-lost // (2 * width))
        with pytest.raises(Unreadable, match=rf"a.wav: truncated sound .* 16 samples, and {held} are there"):
            read(tmp_path / "a.wav", SOUND)
    (tmp_path / "a.wav").write_bytes(whole[:4] + b"\xff" * 4 + whole[8:40] + b"\xff" * 4 + whole[44:])
    np.testing.assert_array_equal(read(tmp_path / "a.wav", SOUND)[0], expected)


def test_wherever_the_header_of_a_sound_ends_there_is_a_reason(tmp_path):
    whole = sound_file(tmp_path / "a.wav", np.zeros((16, 1)), 2).read_bytes()
    whole = whole[:36] + b"LIST" + struct.pack("<L", 8) + bytes(8) + whole[36:]
    for length in range(60):
        (tmp_path / "a.wav").write_bytes(whole[:length])
        with pytest.raises(
            Unreadable, match=r"a\.wav: (no \.wav .*\(\w.{5,}\)|truncated sound \(.*16 samples, and 0 )"
        ):
            read(tmp_path / "a.wav", SOUND)


def test_more_bits_than_are_read_are_refused(tmp_path):
    content = sound_file(tmp_path / "a.wav", np.zeros((16, 1)), 4).read_bytes()
    (tmp_path / "a.wav").write_bytes(content[:34] + struct.pack("<H", 64) + content[36:])
    with pytest.raises(Unreadable, match=r"a.wav: has 64 bits a sample"):
        read(tmp_path / "a.wav", SOUND)


def test_a_short_text_is_filled_up_and_a_long_one_cut_into_windows(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("naïve")
    raw, notes = read(path, TEXT)
    assert bytes(raw[0]) == "naïve".encode() + b"  "
    assert notes == ("6 bytes, filled up with spaces",)
    path.write_text("0123456789abcdef!")
    raw, notes = read(path, TEXT)
    assert [bytes(window) for window in raw] == [b"01234567", b"89abcdef"]
    assert notes == ("mean over 2 windows of 8 bytes", "the last 1 bytes left out")


@pytest.mark.parametrize("count", [(), (5,)])
def test_arrays_are_raw_inputs_one_or_several(tmp_path, count):
    array = np.random.default_rng(0).normal(size=(*count, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    raw, _ = read(tmp_path / "a.npy", TABLE)
    np.testing.assert_array_equal(raw, array.reshape(-1, 3))


def test_the_examples_of_an_array_are_apart_and_the_windows_of_a_text_are_not(tmp_path):
    array = np.random.default_rng(0).normal(size=(3, 3))
    np.save(tmp_path / "a.npy", array)
    found = inputs.examples(tmp_path / "a.npy", TABLE)
    assert [example.name for example in found] == [str(tmp_path / f"a.npy[{index}]") for index in range(3)]
    np.testing.assert_array_equal([example.raw for example in found], array[:, None])
    np.save(tmp_path / "a.npy", array[:1])
    assert [example.name for example in inputs.examples(tmp_path / "a.npy", TABLE)] == [str(tmp_path / "a.npy")]
    (tmp_path / "a.txt").write_text("0123456789abcdef")
    (found,) = inputs.examples(tmp_path / "a.txt", TEXT)
    assert (found.name, found.raw.shape) == (str(tmp_path / "a.txt"), (2, 8))


@pytest.mark.parametrize(
    ("name", "content", "expected", "message"),
    [
        ("a.wav", b"RIFF but no more", SOUND, "no .wav file of whole numbers"),
        ("a.wav", b"", SOUND, "no .wav file of whole numbers, or a damaged one .it is empty"),
        ("a.txt", b"\xff\xfe\x00", TEXT, "no text in UTF-8"),
        ("a.txt", b"", TEXT, "is empty"),
        ("a.npy", b"\x93NUMPY", TABLE, "damaged or no .npy file"),
        ("a.csv", b"1,2,3", TABLE, "the network was trained on tables of shape 3; give those as .npy files"),
        ("a.png", b"\x89PNG\r\n", PICTURE, "not a picture"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, expected, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Unreadable, match=message) as raised:
        read(tmp_path / name, expected)
    assert str(raised.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4)), r"holds an array \(2, 4\), and \(3,\) or"),
        (np.zeros((1, 1, 3)), "holds an array"),
        (np.zeros((0, 3)), "holds an array"),
        (np.array([1.0, np.nan, 2.0]), "no finite number"),
        (np.array([1j, 0, 0]), "no finite number"),
        (np.array([None, 1, 2]), "damaged or no .npy file"),
    ],
)
def test_arrays_of_another_kind_are_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(Unreadable, match=message):
        read(tmp_path / "a.npy", TABLE)


def test_folders_are_walked_for_the_files_that_the_network_is_for(tmp_path):
    for name in ("b.PNG", "inner/a.jpg", ".hidden/c.png", ".d.png", "notes.txt", "sound.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find(tmp_path, PICTURE) == [tmp_path / "b.PNG", tmp_path / "inner/a.jpg"]
    assert find(tmp_path, SOUND) == [tmp_path / "sound.wav"]
    assert find(tmp_path, TEXT) == [tmp_path / "notes.txt"]
    assert find(tmp_path / "notes.txt", PICTURE) == [tmp_path / "notes.txt"]
    assert inputs.suffixes(TABLE) == (".npy",)
