"""Text that comes with Python, as bytes: the pages of the language reference behind `help("with")`.

`pydoc_data.topics` holds some 80 pages, 450 KB, of which the compound ones repeat parts of others ("compound" holds
"if", "while", "with"). A paragraph that was there before is left out, so that none can be in two splits; 345 KB are
left. Which pages there are and what they say depends on the version of Python, and a run tells when that changed.

    PythonText(length=128)         windows of the text, for language models: no labels
    PythonTopics(length=128)       which page does a window come from?
    ModuleText(modules=("ast",))   windows of the source of Python's own modules
    Text(path="poems.txt")         windows of a file of one's own
"""

import abc
import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from research.config import config, structure
from research.data.base import Dataset, Loaded, Split, assemble, complete, hold_out
from research.errors import UserError, did_you_mean
from research.spec import Spec

BYTES = 256
NO_LABEL = -1
BLOCK = 2048
"""Bytes of text that stay together when splits are made, at least."""
SUFFIXES = (".txt", ".md", ".rst")
TOPICS = ("compound", "debugger", "formatstrings", "specialnames", "string-methods", "types", "typesseq")
"""The longest pages."""


@config
class InWindows(Dataset, abc.ABC):
    """Base of texts cut into windows of bytes, for models of language.

    Blocks of a few paragraphs go to one split each; the windows of validation and test do not overlap.
    """

    length: int = structure(128, "bytes in a window", within="[2, inf)")
    stride: int | None = structure(
        None, "bytes from one training window to the next; as many as the window has if None", within="[1, inf)"
    )
    validation: float = structure(0.1, "fraction of the text to choose by", within="(0, 1)")
    test: float = structure(0.1, "fraction of the text to be judged by", within="(0, 1)")

    @abc.abstractmethod
    def texts(self) -> Mapping[str, str]:
        """The texts by name. Raises UserError where they are not there."""

    def load(self) -> Loaded:
        return in_windows(self, unique_paragraphs(self.texts()))


@config
class PythonText(InWindows):
    """The Python reference cut into windows of bytes; about 275 KB are to train on."""

    def texts(self) -> Mapping[str, str]:
        return read_topics()


@config
class ModuleText(InWindows):
    """The source of Python's own modules cut into windows of bytes."""

    modules: tuple[str, ...] = structure(("argparse", "ast", "statistics", "typing"), "their names")

    def texts(self) -> Mapping[str, str]:
        return {module: source_of(module) for module in self.modules}


@config
class Text(InWindows):
    """A text in a file, or all those in a folder, in UTF-8, cut into windows of bytes."""

    path: str = structure("", "file of the text, or folder of .txt, .md and .rst files")

    def texts(self) -> Mapping[str, str]:
        return read_texts(self.path)


def in_windows(data: InWindows, parts: Sequence[str]) -> Loaded:
    """Paragraphs as a dataset of windows. Raises UserError where a split has no window."""
    blocks = cut_into_blocks(parts)
    if len(blocks) < 3:
        size = len("".join(blocks).encode())
        raise UserError(f"data: a text of {size:,} bytes is too short; each split wants {BLOCK:,} at least")
    rows = hold_out(np.zeros(len(blocks), np.int32), test=data.test, validation=data.validation)
    splits = {}
    for split in ("train", "validation", "test"):
        text = as_tokens("".join(blocks[row] for row in rows[split]))
        stride = data.stride if split == "train" and data.stride is not None else data.length
        inputs = windows(text, data.length, stride)
        if not len(inputs):
            raise UserError(f"data.length: {data.length} is more than the {split} split has, {len(text)} bytes")
        splits[split] = Split(inputs, np.full(len(inputs), NO_LABEL, np.int32))
    names = tuple(repr(bytes([byte]))[2:-1] for byte in range(BYTES))
    return Loaded(Spec((data.length,), BYTES, names, tokens=BYTES), splits, normalisation=None, kind="bytes")


@config
class PythonTopics(Dataset):
    """Windows of bytes from the seven longest pages of the Python reference: which page is it?

    Windows do not overlap, and what two of the pages share is left out, so that no text is in two splits. With windows
    of 128 bytes there are about 1900; the most frequent page is a quarter of them.
    """

    length: int = structure(128, "bytes in a window", within="[2, inf)")
    validation: float = structure(0.1, "fraction of the windows to choose by", within="(0, 1)")
    test: float = structure(0.2, "fraction of the windows to be judged by", within="(0, 1)")

    def load(self) -> Loaded:
        topics = read_topics()
        texts = texts_apart({name: topics[name] for name in TOPICS})
        parts = [windows(as_tokens(text), self.length, self.length) for text in texts.values()]
        for name, part in zip(texts, parts, strict=True):
            if len(part) < 3:
                raise UserError(f"data.length: {self.length} is too much; the page '{name}' gives {len(part)} windows")
        labels = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
        everything = Split(np.concatenate(parts), labels)
        splits = complete({"train": everything}, test=self.test, validation=self.validation)
        return assemble("PythonTopics", splits, list(texts), kind="bytes", tokens=BYTES)


# ---------------------------------------------------------------------------------------------------------------------
# Text


def read_topics() -> dict[str, str]:
    """The pages of the Python reference by name, in alphabetical order. Raises UserError where Python lacks them."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UserError("this Python came without `pydoc_data.topics`, the text of its help pages") from None
    if missing := sorted(set(TOPICS) - set(topics)):
        raise UserError(f"the help pages of this Python lack {', '.join(missing)}")
    return dict(sorted(topics.items()))


def source_of(module: str) -> str:
    """The source of one of Python's modules, of a package its __init__. Raises UserError where there is none."""
    found = importlib.util.find_spec(module) if module in sys.stdlib_module_names else None
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        near = did_you_mean(module, sys.stdlib_module_names)
        raise UserError(f"data.modules: Python has no module '{module}' that is written in Python{near}")
    return Path(found.origin).read_text(encoding="utf-8")


def read_texts(path: str) -> dict[str, str]:
    """The texts at a path by the names of their files. Raises UserError for what is not there or is no text."""
    place = Path(path)
    files = [place] if place.is_file() else sorted(file for file in place.glob("*") if file.suffix in SUFFIXES)
    if not path or not files:
        raise UserError(f"data.path: there is no text '{path}', a file or a folder of {', '.join(SUFFIXES)} files")
    try:
        return {file.name: file.read_text(encoding="utf-8") for file in files}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.path: {path} cannot be read as text in UTF-8 ({error})") from None


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text, each ending with the blank line after it."""
    return [f"{part}\n\n" for part in re.split(r"\n\s*\n", text.strip("\n")) if part.strip()]


def unique_paragraphs(topics: Mapping[str, str]) -> list[str]:
    """The paragraphs of all pages, each where it comes first, whatever its indentation and line breaks."""
    found: dict[str, str] = {}
    for text in topics.values():
        for paragraph in paragraphs(text):
            found.setdefault(_words(paragraph), paragraph)
    return list(found.values())


def texts_apart(topics: Mapping[str, str]) -> dict[str, str]:
    """The text of each page without the paragraphs that are on another one too, and without repetitions."""
    of_page = {name: {_words(p): p for p in reversed(paragraphs(text))} for name, text in topics.items()}
    pages = [words for page in of_page.values() for words in page]
    shared = {words for words, count in zip(*np.unique(pages, return_counts=True), strict=True) if count > 1}
    return {
        name: "".join(p for words, p in reversed(page.items()) if words not in shared) for name, page in of_page.items()
    }


def _words(paragraph: str) -> str:
    return " ".join(paragraph.split())


def cut_into_blocks(parts: Iterable[str], size: int = BLOCK) -> list[str]:
    """Consecutive parts joined into blocks of at least `size` characters; the last may be shorter."""
    blocks, block = [], ""
    for part in parts:
        block += part
        if len(block) >= size:
            blocks.append(block)
            block = ""
    return [*blocks, block] if block else blocks


# ---------------------------------------------------------------------------------------------------------------------
# Tokens


def as_tokens(text: str) -> np.ndarray:
    """The bytes of a text in UTF-8, uint8."""
    return np.frombuffer(text.encode(), np.uint8)


def as_text(tokens: Iterable[int]) -> str:
    """The text whose bytes in UTF-8 are these; what is no UTF-8 becomes the replacement character."""
    return bytes(np.asarray(tokens, np.uint8)).decode(errors="replace")


def windows(tokens: np.ndarray, length: int, stride: int) -> np.ndarray:
    """All windows (count, length) of tokens (n,) that begin at multiples of `stride`; the rest of the end is left."""
    if len(tokens) < length:
        return np.zeros((0, length), tokens.dtype)
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(tokens, length)[::stride])
