import gzip
import threading

import numpy as np
import pytest
from PIL import Image

from research.config import validate
from research.data import Arrays, ImageFolder, Table, describe
from research.data.base import Split, Streamed
from research.errors import UserError
from research.spec import Spec


def write_picture(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def pixels_of(number, size=(6, 5), features=3):
    return np.random.default_rng(number).integers(0, 256, (*size, features)).astype(np.uint8)


@pytest.fixture
def pictures(tmp_path):
    """Ten pictures of each of three classes."""
    root = tmp_path / "pictures"
    for number in range(30):
        write_picture(root / ("cat", "ant", "bee")[number % 3] / f"{number:02}.png", pixels_of(number))
    return root


def contents(loaded):
    return {
        x.tobytes(): label
        for s in loaded.splits.values()
        for x, label in zip(s.read(np.arange(len(s))), s.labels, strict=True)
    }


def test_a_folder_for_each_class(pictures):
    loaded = ImageFolder(path=str(pictures)).load()
    assert loaded.spec == Spec((6, 5, 3), 3, ("ant", "bee", "cat"))
    assert {name: len(s) for name, s in loaded.splits.items()} == {"train": 21, "validation": 3, "test": 6}
    assert all(isinstance(split, Split) for split in loaded.splits.values())
    assert contents(loaded) == {pixels_of(n).tobytes(): (2, 0, 1)[n % 3] for n in range(30)}
    assert (loaded.kind, loaded.maximum, loaded.normalisation.scale) == ("image", 255.0, 1 / 255)


def test_folders_that_are_split_stay_so(tmp_path):
    for split, count in (("train", 12), ("val", 4), ("test", 6)):
        for number in range(count):
            write_picture(tmp_path / split / f"class {number % 2}" / f"{number}.jpg", pixels_of(number))
    loaded = ImageFolder(path=str(tmp_path)).load()
    assert {name: len(s) for name, s in loaded.splits.items()} == {"train": 12, "validation": 4, "test": 6}
    assert loaded.spec.names == ("class 0", "class 1")


def test_what_is_not_split_off_is_cut_from_train(tmp_path):
    for split, count in (("train", 12), ("test", 6)):
        for number in range(count):
            write_picture(tmp_path / split / f"{number % 2}" / f"{number}.png", pixels_of(number))
    loaded = ImageFolder(path=str(tmp_path), validation=0.25).load()
    assert {name: len(s) for name, s in loaded.splits.items()} == {"train": 9, "validation": 3, "test": 6}


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    for number in range(33):
        write_picture(tmp_path / str(number % 11) / f"{number}.png", pixels_of(number))
    assert ImageFolder(path=str(tmp_path)).load().spec.names == tuple(map(str, range(11)))


def test_a_size_and_a_colour_are_given(pictures):
    write_picture(pictures / "ant" / "large.png", pixels_of(99, (40, 60)))
    loaded = ImageFolder(path=str(pictures), size=(8, 8), color="grey").load()
    assert loaded.spec.shape == (8, 8, 1)


def test_what_is_too_large_is_streamed_and_the_same(pictures):
    memory, disk = (ImageFolder(path=str(pictures), memory_gb=gb).load() for gb in (1.0, 0.0))
    assert all(isinstance(split, Streamed) for split in disk.splits.values())
    assert describe(disk)["streamed"]
    for name, split in disk.splits.items():
        rows = np.random.default_rng(0).integers(0, len(split), 20)
        assert np.array_equal(split.read(rows), memory.splits[name].read(rows))
        assert np.array_equal(split.labels, memory.splits[name].labels)
    for ours, theirs in zip(disk.normalisation, memory.normalisation, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_picture_damaged_later_is_named_when_it_is_read(pictures):
    split = ImageFolder(path=str(pictures), memory_gb=0.0).load().splits["train"]
    threads = threading.active_count()
    victim = split.reader.paths[split.rows[4]]
    victim.write_bytes(victim.read_bytes()[:60])
    with pytest.raises(UserError, match=rf"{victim.name}: truncated or damaged"):
        split.read(np.arange(8))
    write_picture(victim, pixels_of(1, (9, 9)))
    with pytest.raises(UserError, match=rf"{victim.name}: 9x9 pixels, and 6x5 are expected"):
        split.read(np.arange(8))
    victim.unlink()
    with pytest.raises(UserError, match=rf"{victim.name}: there is no such file"):
        split.read(np.arange(8))
    assert threading.active_count() == threads


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"data\.path: there is no folder .*nowhere"):
        ImageFolder(path=str(tmp_path / "nowhere")).load()


def test_a_folder_without_class_folders_is_refused(tmp_path):
    write_picture(tmp_path / "a.png", pixels_of(0))
    with pytest.raises(UserError, match="has no folders; there must be one of pictures for each class"):
        ImageFolder(path=str(tmp_path)).load()


def test_every_empty_class_folder_is_named(pictures):
    (pictures / "dog").mkdir()
    (pictures / "elk").mkdir()
    (pictures / "elk" / "notes.txt").write_text("none yet")
    with pytest.raises(UserError) as caught:
        ImageFolder(path=str(pictures)).load()
    assert [problem.split(":")[0][-3:] for problem in caught.value.problems] == ["dog", "elk"]


def test_a_single_class_folder_is_refused(tmp_path):
    for number in range(8):
        write_picture(tmp_path / "ant" / f"{number}.png", pixels_of(number))
    with pytest.raises(UserError, match=r"a single class \(ant\)"):
        ImageFolder(path=str(tmp_path)).load()


@pytest.mark.parametrize("size", [None, (6, 5)])
@pytest.mark.parametrize("kept", [10, 60, 120])
def test_a_truncated_picture_is_named(pictures, kept, size):
    victim = pictures / "bee" / "11.png"
    victim.write_bytes(victim.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"bee/11\.png: (truncated or damaged|not a) picture"):
        ImageFolder(path=str(pictures), size=size).load()


def test_sizes_that_differ_are_named_with_the_field(pictures):
    write_picture(pictures / "bee" / "zz.png", pixels_of(0, (6, 7)))
    with pytest.raises(UserError, match=r"zz\.png: 6x7 pixels, and .* has 6x5; set data\.size"):
        ImageFolder(path=str(pictures)).load()


def test_a_class_that_is_only_tested_is_named(tmp_path):
    for split, classes in (("train", "ab"), ("validation", "ab"), ("test", "abc")):
        for number in range(6):
            write_picture(tmp_path / split / classes[number % len(classes)] / f"{number}.png", pixels_of(number))
    with pytest.raises(UserError, match="no training examples of class c"):
        ImageFolder(path=str(tmp_path)).load()


def test_fields_are_checked_with_the_config():
    with pytest.raises(UserError, match=r"size: 0 is not in \[1, inf\)"):
        validate(ImageFolder(path="x", size=(0, 4)))
    with pytest.raises(UserError, match="color: 'blue' is no one of 'grey', 'rgb'"):
        validate(ImageFolder(path="x", color="blue"))


# ---------------------------------------------------------------------------------------------------------------------


def arrays(count=30, shape=(4, 5), classes=3, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(2, 3, (count, *shape)).astype(np.float32), np.arange(count) % classes


def write_npz(path, **named):
    np.savez(path, **named)
    return str(path)


@pytest.mark.parametrize(
    ("x", "y"), [("inputs", "labels"), ("x", "y"), ("X", "Y"), ("images", "labels"), ("data", "target")]
)
def test_arrays_are_found_by_their_usual_names(tmp_path, x, y):
    inputs, labels = arrays()
    loaded = Arrays(path=write_npz(tmp_path / "mine.npz", **{x: inputs, y: labels})).load()
    assert {name: len(s) for name, s in loaded.splits.items()} == {"train": 21, "validation": 3, "test": 6}
    assert loaded.spec == Spec((4, 5), 3, ("0", "1", "2"))
    assert contents(loaded) == {x.tobytes(): y for x, y in zip(inputs, labels, strict=True)}
    assert (loaded.kind, loaded.normalisation.scale, loaded.maximum) == ("array", 1.0, None)


def test_arrays_may_be_named(tmp_path):
    inputs, labels = arrays()
    path = write_npz(tmp_path / "mine.npz", signals=inputs, inputs=labels, disease=labels[::-1])
    loaded = Arrays(path=path, inputs="signals", labels="disease").load()
    assert contents(loaded) == {x.tobytes(): y for x, y in zip(inputs, labels[::-1], strict=True)}


@pytest.mark.parametrize("spelling", ["{0}_{1}", "{1}_{0}"])
def test_arrays_that_are_split_stay_so(tmp_path, spelling):
    named = {}
    for seed, (split, count) in enumerate({"train": 20, "val": 6, "test": 8}.items()):
        named[spelling.format("x", split)], named[spelling.format("y", split)] = arrays(count, classes=2, seed=seed)
    loaded = Arrays(path=write_npz(tmp_path / "mine.npz", **named)).load()
    assert {name: len(s) for name, s in loaded.splits.items()} == {"train": 20, "validation": 6, "test": 8}
    assert np.array_equal(loaded.splits["test"].inputs, named[spelling.format("x", "test")])
    del named[spelling.format("x", "val")], named[spelling.format("y", "val")]
    loaded = Arrays(path=write_npz(tmp_path / "mine.npz", **named)).load()
    assert {name: len(s) for name, s in loaded.splits.items()} == {"train": 18, "validation": 2, "test": 8}


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "expected"),
    [
        ((6, 5), np.uint8, "image", (6, 5, 1)),
        ((6, 5, 3), np.uint8, "image", (6, 5, 3)),
        ((6, 5, 3), np.float64, "image", (6, 5, 3)),
        ((6, 5), np.float32, "array", (6, 5)),
        ((7,), np.int64, "array", (7,)),
        ((7,), np.bool_, "array", (7,)),
        ((4, 4, 4, 2), np.float16, "array", (4, 4, 4, 2)),
    ],
)
def test_what_is_a_picture_follows_from_type_and_shape(tmp_path, shape, dtype, kind, expected):
    inputs = (np.random.default_rng(0).random((30, *shape)) * 250).astype(dtype)
    loaded = Arrays(path=write_npz(tmp_path / "mine.npz", x=inputs, y=np.arange(30) % 3)).load()
    assert (loaded.kind, loaded.spec.shape) == (kind, expected)
    assert loaded.splits["train"].dtype == (np.uint8 if dtype == np.uint8 else np.float32)


def test_features_first_is_suspected_and_may_be_meant(tmp_path):
    path = write_npz(tmp_path / "mine.npz", x=np.random.default_rng(0).random((30, 3, 6, 5)), y=np.arange(30) % 3)
    with pytest.raises(UserError, match="seem to have their features first; transpose"):
        Arrays(path=path).load()
    assert Arrays(path=path, example="array").load().spec.shape == (3, 6, 5)


def test_pictures_of_floats_know_their_white_and_background(tmp_path):
    inputs = np.zeros((30, 6, 5, 1))
    inputs[:, 2:4, 2:3] = 1
    loaded = Arrays(path=write_npz(tmp_path / "mine.npz", x=inputs, y=np.arange(30) % 3)).load()
    assert (loaded.maximum, loaded.background) == (1.0, "dark")
    loaded = Arrays(path=write_npz(tmp_path / "mine.npz", x=inputs - 0.5, y=np.arange(30) % 3)).load()
    assert (loaded.maximum, loaded.background) == (None, None)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "c"], ("a", "b", "c")),
        ([b"b", b"a", b"c"], ("a", "b", "c")),
        ([10, 2, 30], ("2", "10", "30")),
        ([2024, 0, 2026], ("0", "2024", "2026")),
        ([1.0, 0.0, 2.0], ("0", "1", "2")),
        ([True, False, True], ("False", "True")),
    ],
)
def test_classes_are_what_the_labels_are(tmp_path, labels, names):
    inputs, _ = arrays()
    values = np.array(labels)[np.arange(30) % 3]
    loaded = Arrays(path=write_npz(tmp_path / "mine.npz", x=inputs, y=values)).load()
    assert loaded.spec.names == names
    decoded = {"b": "b", b"b": "b"}
    for x, label in zip(inputs, values.tolist(), strict=True):
        told = loaded.spec.names[contents(loaded)[x.tobytes()]]
        expected = (
            label.decode() if isinstance(label, bytes) else str(int(label) if isinstance(label, float) else label)
        )
        assert told == decoded.get(label, expected)


def test_classes_may_be_given_names(tmp_path):
    inputs, labels = arrays()
    loaded = Arrays(path=write_npz(tmp_path / "m.npz", x=inputs, y=labels), names=("no", "yes", "maybe")).load()
    assert loaded.spec.names == ("no", "yes", "maybe")
    text = np.array(["no", "yes", "maybe"])[labels]
    loaded = Arrays(path=write_npz(tmp_path / "m.npz", x=inputs, y=text), names=("maybe", "no", "yes")).load()
    assert contents(loaded) == {x.tobytes(): (y + 1) % 3 for x, y in zip(inputs, labels, strict=True)}


def write_folder(folder, **named):
    folder.mkdir(exist_ok=True)
    for name, array in named.items():
        np.save(folder / f"{name}.npy", array)
    return str(folder)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_a_folder_of_npy_files_fits_or_is_streamed(tmp_path, dtype):
    inputs = np.random.default_rng(0).integers(0, 256, (60, 6, 5)).astype(dtype)
    path = write_folder(tmp_path / "mine", x=inputs, y=np.arange(60) % 3)
    memory, disk = (Arrays(path=path, memory_gb=gb).load() for gb in (1.0, 0.0))
    assert all(isinstance(split, Streamed) for split in disk.splits.values())
    assert disk.spec == memory.spec
    for name, split in disk.splits.items():
        rows = np.random.default_rng(0).integers(0, len(split), 20)
        assert split.dtype == split.read(rows).dtype == memory.splits[name].dtype
        assert np.array_equal(split.read(rows), memory.splits[name].read(rows))
    for ours, theirs in zip(disk.normalisation, memory.normalisation, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_an_npz_file_too_large_for_memory_says_what_to_do(tmp_path):
    inputs, labels = arrays()
    with pytest.raises(UserError, match=r"holds more than data\.memory_gb; save it as \.npy files"):
        Arrays(path=write_npz(tmp_path / "mine.npz", x=inputs, y=labels), memory_gb=0.0).load()


def objects():
    return np.array([{"a": 1}] * 30, dtype=object)


def with_nan():
    inputs, _ = arrays()
    inputs[7, 2, 1] = np.nan
    return inputs


X, Y = arrays()


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"x": X}, "no labels of train beside x; it holds x; name them as data.inputs"),
        ({}, "no inputs and labels; it holds no arrays; name them"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "no labels of test beside x_test"),
        ({"x": X, "y": Y[:-1]}, r"x has shape \(30, 4, 5\), and y \(29,\)"),
        ({"x": X, "y": Y - 1}, "label -1 of example 0 is negative"),
        ({"x": X, "y": np.where(Y == 2, 10**9, Y)}, "label 1000000000 of example 2 is beyond 9999, too large .* text"),
        ({"x": X, "y": (Y == 1) * np.uint64(2**63)}, "label 9223372036854775808 of example 1 is beyond 9999"),
        ({"x": X, "y": np.where(Y == 2, 1e9, Y)}, "label 1000000000 of example 2 is beyond 9999"),
        ({"x": X, "y": Y + 0.5}, "label 0.5 of example 0 is no whole number"),
        ({"x": X, "y": np.where(Y == 2, np.nan, Y)}, "label nan of example 2 is no whole number"),
        ({"x": X, "y": np.eye(3)[Y]}, r"the shape is \(30, 3\); for one-hot labels take their argmax"),
        ({"x": X, "y": Y * 0}, r"a single class \(0\)"),
        ({"x": X, "y": Y + 1j}, "of complex128, and whole numbers or text are needed"),
        ({"x": X, "y": np.arange(30)}, "leaves no training examples of a class"),
        ({"x": with_nan(), "y": Y}, "x: example 7 holds values that are not finite"),
        ({"x": X.astype(np.float64) * 1e300, "y": Y}, "not finite"),
        ({"x": X + 1j, "y": Y}, "x is of complex64, and numbers are needed"),
        ({"x": X.astype(str), "y": Y}, "and numbers are needed"),
        ({"x": X[:, 0, 0], "y": Y}, r"x has shape \(30,\), and \(examples, ..., features\) is needed"),
        ({"x": X[:0], "y": Y[:0]}, "a split of zero examples"),
        ({"x": objects(), "y": Y}, "holds Python objects, and only arrays of numbers or text are read"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :3], "y_test": Y}, "test examples are 3x5, those of train 4x5"),
        ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y.astype(str)}, "text in one split and numbers in"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["npz", "npy"])
def test_arrays_that_cannot_be_are_refused(tmp_path, named, message, layout):
    path = write_npz(tmp_path / "m.npz", **named) if layout == "npz" else write_folder(tmp_path / "mine", **named)
    with pytest.raises(UserError, match=message):
        Arrays(path=path).load()


def test_labels_beyond_the_given_names_are_refused(tmp_path):
    path = write_npz(tmp_path / "m.npz", x=X, y=Y)
    with pytest.raises(UserError, match=r"labels of train: label 2 of example 2 is not one of 0 to 1"):
        Arrays(path=path, names=("a", "b")).load()
    path = write_npz(tmp_path / "m.npz", x=X, y=np.array(["ant", "bee", "cut"])[Y])
    with pytest.raises(UserError, match="no class 'cut'; did you mean 'cat'"):
        Arrays(path=path, names=("ant", "bee", "cat")).load()


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"not a zip at all", "flip"])
def test_a_damaged_npz_file_is_named(tmp_path, damage):
    path = tmp_path / "mine.npz"
    write_npz(path, x=X, y=Y)
    content = path.read_bytes()
    if damage == "flip":
        content = content[:1000] + bytes([content[1000] ^ 8]) + content[1001:]
    else:
        content = damage(content)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.npz: truncated"):
        Arrays(path=str(path)).load()


def test_a_truncated_npy_file_is_named(tmp_path):
    path = write_folder(tmp_path / "mine", x=X, y=Y)
    (tmp_path / "mine" / "x.npy").write_bytes((tmp_path / "mine" / "x.npy").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"x\.npy: truncated, damaged or no NumPy file"):
        Arrays(path=path).load()


def test_paths_that_are_no_data_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"data\.path: there is no file or folder .*nowhere"):
        Arrays(path=str(tmp_path / "nowhere")).load()
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(UserError, match=r"one\.npy holds a single array; give the folder"):
        Arrays(path=str(tmp_path / "one.npy")).load()
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(UserError, match=r"one\.npz is no \.npz file"):
        Arrays(path=str(tmp_path / "one.npz")).load()
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"^data\.path: .*t\.csv is read with Table\(path=\.\.\.\); Arrays reads"):
        Arrays(path=str(tmp_path / "t.csv")).load()


def test_nobody_is_advised_to_read_python_objects(tmp_path):
    (tmp_path / "t.dat").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"t\.dat: truncated, damaged or no NumPy file$"):
        Arrays(path=str(tmp_path / "t.dat")).load()


def test_a_streamed_value_that_is_not_finite_is_found_when_it_is_read(tmp_path):
    path = write_folder(tmp_path / "mine", x=with_nan(), y=Y)
    with pytest.raises(UserError, match="holds values that are not finite"):
        splits = Arrays(path=path, memory_gb=0.0).load().splits
        for split in splits.values():
            split.read(np.arange(len(split)))


# ---------------------------------------------------------------------------------------------------------------------

ROWS = [(0.5 + i, 100 - i, "yn"[i % 2], i % 3 == 0) for i in range(30)]


def write_table(path, header="width,height,sick,old", rows=ROWS, end=""):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + end)
    return str(path)


def test_a_table_is_read_column_by_column(tmp_path):
    loaded = Table(path=write_table(tmp_path / "t.csv"), label="sick").load()
    assert loaded.spec == Spec((3,), 2, ("n", "y"))
    assert (loaded.kind, loaded.background, loaded.maximum) == ("table", None, None)
    expected = {np.float32([w, h, o]).tobytes(): "ny".index(s) for w, h, s, o in ROWS}
    assert contents(loaded) == expected


def test_features_may_be_chosen_and_are_in_that_order(tmp_path):
    rows = [(*row, "some text") for row in ROWS]
    path = write_table(tmp_path / "t.csv", "width,height,sick,old,note", rows)
    loaded = Table(path=path, label="sick", features=("height", "width")).load()
    assert loaded.spec.shape == (2,)
    assert contents(loaded) == {np.float32([h, w]).tobytes(): "ny".index(s) for w, h, s, o in ROWS}


def test_labels_that_are_numbers_or_truth_values_are_classes(tmp_path):
    path = write_table(tmp_path / "t.csv")
    assert Table(path=path, label="old", features=("width",)).load().spec.names == ("False", "True")
    rows = [(i, i % 3 + 1) for i in range(30)]
    assert Table(path=write_table(tmp_path / "t.csv", "x,label", rows)).load().spec.names == ("1", "2", "3")


def test_other_separators_are_read(tmp_path):
    path = tmp_path / "t.csv"
    write_table(path)
    path.write_text(path.read_text().replace(",", ";"))
    assert Table(path=str(path), label="sick", separator=";").load().spec.shape == (3,)


def changed(row, column, value):
    rows = [list(r) for r in ROWS]
    rows[row][column] = value
    return rows


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ({}, {"label": "sik"}, r"data\.label: .* has no column 'sik'; did you mean 'sick'"),
        ({}, {"features": ("widht",)}, r"data\.features: .* has no column 'widht'; did you mean 'width'"),
        ({}, {"features": ("width", "sick")}, r"data\.features: 'sick' is the label"),
        ({}, {"label": "old"}, r"column 'sick' is text \('y' in line 2\); make it numbers or leave it out"),
        ({"rows": changed(4, 0, "")}, {}, r"column 'width' has no value in line 6$"),
        ({"rows": [(*r[:3], "") for r in ROWS]}, {}, r"column 'old' has no value in line 2 \(and 29 more\)$"),
        ({"rows": changed(4, 1, "nan")}, {}, "column 'height' has no value in line 6"),
        ({"rows": changed(4, 2, "")}, {}, "column 'sick' has no value in line 6"),
        ({"rows": changed(4, 1, "tall")}, {}, r"column 'height' is text \('tall' in line 6\); make it"),
        ({"rows": changed(4, 1, "inf")}, {}, "column 'height' has inf in line 6, which is too large"),
        ({"rows": changed(4, 1, "1e300")}, {}, "'height' has 1e[+]300 in line 6"),
        ({"rows": [(*row[:2], "y", 1) for row in ROWS]}, {}, r"a single class \(y\)"),
        ({"rows": []}, {}, "a table without lines"),
        ({"rows": [*ROWS[:4], ROWS[0][:2], ROWS[0][:3]]}, {}, r"t\.csv: line 6 has 2 fields, and the head has 4$"),
        ({"rows": [*ROWS[:4], (1,)]}, {}, "line 6 has 1 field, and the head has 4$"),
        ({"rows": [*ROWS[:4], (*ROWS[4], 1)]}, {}, "line 6 has 5 fields, and the head has 4$"),
        ({"rows": [(*row, 1) for row in ROWS]}, {}, "line 2 has 5 fields, and the head has 4$"),
        ({"rows": [("\n1", *r[1:]) for r in changed(4, 1, "tall")]}, {}, "'tall' in line 11"),
        ({"rows": [('"1\n"', *r[1:]) for r in changed(4, 1, "tall")]}, {}, "'tall' in line 11"),
        ({"header": "w,h,old,label", "rows": [(*r[:2], r[3], 10**9 * (r[1] > 75)) for r in ROWS]}, {"label": "label"},
         "label 1000000000 of example 0 is beyond 9999"),
        ({"header": "only", "rows": [(1,), (2,)]}, {"label": "only"}, "no column but the label 'only'"),
        ({"header": ",height,sick,old"}, {}, "a column has no name .saved line numbers"),
        ({"rows": [(1.7e9 + i, *r[1:]) for i, r in enumerate(ROWS)]}, {}, "'width' varies too little .* offset"),
        ({"header": "w,h,old,label", "rows": [(*r[:2], r[3], -1) for r in ROWS]}, {"label": "label"}, "negative"),
        ({"end": '\n"open quote'}, {}, "cannot be read as CSV"),
        ({}, {"test": 0.0}, r"data\.test: 0\.0 of 30 examples is a split of zero examples"),
        ({}, {"test": 0.99}, r"data\.test: 0\.99 of 30 examples leaves"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_are_refused(tmp_path, table, options, message):
    path = write_table(tmp_path / "t.csv", **table)
    with pytest.raises(UserError, match=message):
        Table(**{"path": path, "label": "sick", **options}).load()


def test_tables_that_only_pandas_can_read_line_by_line_are_read_too(tmp_path):
    plain = tmp_path / "t.csv"
    rows = np.random.default_rng(0).random((500, 2)).tolist()
    rows = [(*row, "yn"[i % 2], 1) for i, row in enumerate(rows)]  # enough for commas in what is compressed
    expected = Table(path=write_table(plain, rows=rows), label="sick").load()
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "spaces.csv").write_text(plain.read_text().replace(",", "  "))
    for options in ({"path": "t.csv.gz"}, {"path": "spaces.csv", "separator": r"\s+"}):
        found = Table(**{**options, "path": str(tmp_path / options["path"])}, label="sick").load()
        assert contents(found) == contents(expected)


def test_files_that_are_no_table_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"data\.path: there is no file"):
        Table(path=str(tmp_path / "nowhere.csv")).load()
    (tmp_path / "empty.csv").touch()
    with pytest.raises(UserError, match=r"empty\.csv: cannot be read as CSV \(No columns"):
        Table(path=str(tmp_path / "empty.csv")).load()
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 256)) * 20)
    with pytest.raises(UserError, match=r"binary\.csv: cannot be read as CSV"):
        Table(path=str(tmp_path / "binary.csv")).load()


def test_every_column_that_is_wrong_is_named_at_once(tmp_path):
    rows = [("a", "b", "yn"[i % 2], 1) for i in range(30)]
    with pytest.raises(UserError) as caught:
        Table(path=write_table(tmp_path / "t.csv", rows=rows), label="sick").load()
    assert len(caught.value.problems) == 2
