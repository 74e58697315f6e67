"""Text that comes with Python: whole, without what is there twice, and none of it in two splits."""

import itertools
import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.data import ModuleText, PythonText, PythonTopics, Text, describe, from_description, normalise, text
from research.errors import UserError


def flat(tokens):
    return " ".join(text.as_text(tokens.reshape(-1)).split())


@pytest.fixture(scope="module")
def reference():
    return PythonText(length=100, stride=7).load()


def test_the_text_is_real_and_large_enough_to_learn_from(reference):
    assert reference.kind == "bytes" and reference.spec.shape == (100,)
    assert reference.spec.classes == reference.spec.tokens == 256
    assert reference.spec.names[ord("a")] == "a" and reference.spec.names[10] == r"\n"
    sizes = {name: len(split) for name, split in reference.splits.items()}
    assert sizes["train"] * 7 > 200_000 and min(sizes["validation"], sizes["test"]) * 100 > 20_000
    assert 'The "with" statement' in flat(np.concatenate([s.inputs for s in reference.splits.values()]))
    for split in reference.splits.values():
        assert split.inputs.dtype == np.uint8 and (split.labels == text.NO_LABEL).all()
        assert split.inputs.max() < 0xF8 and (split.inputs != 0).all()  # the mask may be 0


def test_training_windows_overlap_by_their_stride_and_held_out_ones_not_at_all(reference):
    train, test = reference.splits["train"].inputs, reference.splits["test"].inputs
    np.testing.assert_array_equal(train[1:, : 100 - 7], train[:-1, 7:])
    whole = text.as_text(test.reshape(-1))
    assert len(test) * 100 == len(whole.encode()) and "\n\n" in whole


def test_no_paragraph_is_in_two_splits():
    loaded = PythonText(length=64).load()
    pieces = {
        name: {" ".join(p.split()) for p in text.as_text(split.inputs.reshape(-1)).split("\n\n") if len(p) > 120}
        for name, split in loaded.splits.items()
    }
    assert all(len(found) > 50 for found in pieces.values())
    for one, other in itertools.combinations(pieces.values(), 2):
        assert not one & other


def test_loading_twice_gives_the_same(reference):
    again = PythonText(length=100, stride=7).load()
    for name, split in reference.splits.items():
        np.testing.assert_array_equal(split.inputs, again.splits[name].inputs)


@pytest.fixture(scope="module")
def topics():
    return PythonTopics().load()


def test_the_topics_are_told_apart_by_windows_that_are_there_once(topics):
    assert topics.spec.classes == 7 and topics.spec.tokens == 256 and topics.spec.names == text.TOPICS
    windows = np.concatenate([split.inputs for split in topics.splits.values()])
    assert len(windows) > 1500 and len(np.unique(windows, axis=0)) > 0.999 * len(windows)
    test = topics.splits["test"].labels
    assert 0.2 < np.bincount(test).max() / len(test) < 0.3, "what the docstring says of the most frequent page"


def test_what_two_pages_share_is_in_neither():
    pages = {"a": "one\n\ntwo  words\n\n   three", "b": "two\nwords\n\nfour\n\nfour", "c": "\n\nfive\n"}
    assert text.texts_apart(pages) == {"a": "one\n\n   three\n\n", "b": "four\n\n", "c": "five\n\n"}
    found = ["one\n\n", "two  words\n\n", "   three\n\n", "four\n\n", "five\n\n"]
    assert text.unique_paragraphs(pages) == found
    assert text.cut_into_blocks(found, 8) == ["one\n\ntwo  words\n\n", "   three\n\n", "four\n\nfive\n\n"]
    assert text.cut_into_blocks(found, 100) == ["".join(found)]


@given(st.binary(max_size=50), st.integers(1, 10), st.integers(1, 12))
def test_windows_are_all_that_begin_at_multiples_of_the_stride(content, length, stride):
    tokens = np.frombuffer(content, np.uint8)
    expected = [content[i : i + length] for i in range(0, len(content) - length + 1, stride)]
    assert [row.tobytes() for row in text.windows(tokens, length, stride)] == expected


@given(st.text())
def test_text_comes_back_from_its_tokens(content):
    assert text.as_text(text.as_tokens(content)) == content
    assert text.as_text([0xE2, 0x80]) == "\N{REPLACEMENT CHARACTER}"


def test_tokens_are_left_whole_and_a_run_remembers_that_they_are(topics):
    for loaded in (topics, PythonText(length=8).load()):
        inputs = loaded.splits["test"].inputs[:5]
        seen = normalise(loaded.normalisation, inputs)
        assert seen.dtype == np.int32
        np.testing.assert_array_equal(seen, inputs)
        told = from_description(describe(loaded))
        assert told.spec == loaded.spec and told.normalisation is None and told.kind == "bytes"
    contradictory = {**describe(topics), "tokens": None}
    with pytest.raises(UserError, match="contradicts itself"):
        from_description(contradictory)


def test_what_cannot_be_is_refused(monkeypatch):
    with pytest.raises(UserError, match=r"^data\.length: 1000000 is more than the train split has, \d+ bytes"):
        PythonText(length=1_000_000).load()
    with pytest.raises(UserError, match=r"^data\.length: 40000 is too much; the page 'compound' gives [01] windows"):
        PythonTopics(length=40_000).load()
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", types.SimpleNamespace(topics={"if": "..."}))
    with pytest.raises(UserError, match="help pages of this Python lack compound, debugger"):
        PythonText().load()
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match="came without `pydoc_data.topics`"):
        PythonText().load()


# ---------------------------------------------------------------------------------------------------------------------
# Other texts


def test_the_source_of_modules_is_cut_as_the_reference_is():
    data = ModuleText(modules=("argparse", "ast"), length=64, stride=16)
    splits = data.load().splits
    source = text.source_of("argparse") + text.source_of("ast")
    for split in splits.values():
        window = text.as_text(split.inputs[0])
        assert window[:20] in source
    assert len(splits["train"]) > 8 * len(splits["test"])


def test_a_file_and_a_folder_of_files_are_texts(tmp_path):
    paragraphs = [f"Paragraph {i} has words of its own, {i * i} of them.\n\n" for i in range(400)]
    (tmp_path / "one.txt").write_text("".join(paragraphs))
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.md").write_text("".join(paragraphs[200 * number : 200 * (number + 1)]))
    (folder / "picture.png").write_bytes(b"\xff")
    one, two = (Text(path=str(path), length=32).load() for path in (tmp_path / "one.txt", folder))
    for split in one.splits:
        np.testing.assert_array_equal(one.splits[split].inputs, two.splits[split].inputs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: ModuleText(modules=("jsno",)), r"no module 'jsno' .*did you mean"),
        (lambda _: ModuleText(modules=("sys",)), "no module 'sys' that is written in Python"),
        (lambda folder: Text(path=str(folder / "none.txt")), "there is no text"),
        (lambda _: Text(), "there is no text ''"),
        (lambda folder: Text(path=str(folder / "short.txt")), "too short"),
        (lambda folder: Text(path=str(folder / "latin.txt")), "cannot be read as text in UTF-8"),
    ],
)
def test_texts_that_cannot_be_read_are_told(make, message, tmp_path):
    (tmp_path / "short.txt").write_text("Hello.")
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1") * 4000)
    with pytest.raises(UserError, match=message):
        make(tmp_path).load()
