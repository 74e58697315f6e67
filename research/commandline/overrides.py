"""From texts on the command line to values of the types that a config declares.

    apply(experiment, [Override("optimizer", ("sgd",)), Override("optimizer.learning_rate", ("0.1",))])

Outer fields are set before inner ones, whatever their order on the command line: a part is replaced before its fields
are. tyro reads texts as the declared type; kinds of configs, and configs that read themselves from text
("10 epochs"), are `research.config.override`'s business.
"""

import ast
import contextlib
import io
import re
import sys
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import tyro

from research.commandline.arguments import Override
from research.config import ConfigError, describe, field_at, find_object, is_function, kinds, override, validate
from research.errors import did_you_mean

T = TypeVar("T")

NONE = ("none", "null")


def apply(config: T, overrides: Iterable[Override]) -> T:
    """The config with every override applied, and validated.

    Raises ConfigError with all problems: paths that are not there, values of a wrong type, and what `validate` finds.
    """
    problems: list[str] = []
    for path, values in sorted(overrides, key=lambda given: given.path.count(".")):
        try:
            entry = field_at(config, path)
            config = override(config, path, parse(values, entry.hint, path, present=entry.value))
        except ConfigError as error:
            problems += error.problems
        except (TypeError, ValueError) as error:  # a dataclass of the user's that checks itself
            problems.append(f"{path}: {error}")
    try:
        config = validate(config)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return config


def parse(values: tuple[str, ...], hint: Any, path: str, *, present: Any = None) -> Any:
    """Texts as a value of the type `hint`, or as what `override` makes one of: the name of a kind, a text to read.

    present: the field's value now, whose type helps where none is declared.
    Raises ConfigError for texts that are nothing of the kind.
    """
    text = " ".join(values)
    alternatives = _alternatives(hint)
    if type(None) in alternatives and text.lower() in NONE:
        return None
    if not values:
        return _without_values(alternatives, path)
    if any(map(is_function, alternatives)) or (hint is Any and callable(present)):
        if ":" in text and callable(function := find_object(text)):
            return function
        if all(is_function(a) or a in (Any, type(None)) for a in alternatives) and not isinstance(present, type):
            raise ConfigError(f"{path}: '{text}' is no function; {_how_to_name(text)}")
    plain = [a for a in alternatives if a is not type(None) and not _is_branch(a)]
    if hint is Any or object in alternatives:
        return _guess(text, present)
    if tuple[Any, ...] in alternatives:
        return tuple(_guess(value, None) for value in _spread(values))
    if plain:
        with contextlib.suppress(_Unreadable):
            return _read(values, typing.Union[tuple(plain)])  # noqa: UP007 (made at run time)
    for alternative in alternatives:
        if _is_branch(alternative):
            return values if typing.get_origin(alternative) is tuple else text
    raise ConfigError(f"{path}: {_explain(values, hint)}")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _is_branch(hint: Any) -> bool:
    """Whether a config may stand here, or a tuple of configs."""
    if typing.get_origin(hint) is tuple:
        return any(_is_branch(item) for argument in typing.get_args(hint) for item in _alternatives(argument))
    return isinstance(hint, type) and (hasattr(hint, "from_text") or bool(kinds(hint)))


def _without_values(alternatives: tuple[Any, ...], path: str) -> Any:
    """What a path alone means: True, or an empty list."""
    if bool in alternatives:
        return True
    if any(typing.get_origin(alternative) is tuple for alternative in alternatives):
        return ()
    raise ConfigError(f"{path}: needs a value")


class _Unreadable(Exception):
    pass


def _read(values: tuple[str, ...], hint: Any) -> Any:
    """What tyro makes of texts; its own messages, a page each, are caught."""
    alternatives = _alternatives(hint)
    if str in alternatives and len(values) == 1:  # before tyro, which would take a text such as "-x" for a flag
        rest = [alternative for alternative in alternatives if alternative is not str]
        with contextlib.suppress(_Unreadable):
            return _read(values, typing.Union[tuple(rest)]) if rest else values[0]  # noqa: UP007
        return values[0]
    if any(typing.get_origin(alternative) is tuple for alternative in alternatives):
        values = _spread(values)
    if bool in alternatives:
        values = tuple(value.capitalize() if value.lower() in ("true", "false") else value for value in values)
    silence = io.StringIO()
    try:
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            return tyro.cli(hint, args=list(values))
    except (SystemExit, tyro.constructors.UnsupportedTypeAnnotationError):
        raise _Unreadable from None


def _spread(values: tuple[str, ...]) -> tuple[str, ...]:
    """A list in one word, as Python writes it, in several: "(16, 32)" and "16,32" are 16 and 32."""
    if not any(re.search(r"[][(),]", value) for value in values):
        return values
    return tuple(re.sub(r"[][(),]", " ", " ".join(values)).split())


def _how_to_name(text: str) -> str:
    """What to write for a function: the nearest of its module, or how one is named at all."""
    module = text.partition(":")[0]
    names = dir(sys.modules[module]) if module in sys.modules else ()
    near = did_you_mean(text, [f"{module}:{name}" for name in names])
    return near.removeprefix("; ") or "name one as module:name (flax.linen:relu), or set it in the config file"


def _guess(text: str, present: Any) -> Any:
    """The value of a field without a declared type: what Python would read, or the text itself."""
    if isinstance(present, str):
        return text
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _explain(values: tuple[str, ...], hint: Any) -> str:
    """Why texts are no value of a type, with the nearest choice, or the number as it should be written."""
    text, meant = " ".join(values), describe(hint)
    alternatives = _alternatives(hint)
    if all(typing.get_origin(alternative) is Literal or alternative is type(None) for alternative in alternatives):
        choices = [choice for alternative in alternatives for choice in typing.get_args(alternative) or ("none",)]
        return f"'{text}' is no choice{did_you_mean(text, choices)}"
    if int in alternatives and (whole := _as_whole(text)):
        return f"'{text}' is no {meant}; write {whole}"
    if not any(map(_can_be_typed, alternatives)):
        return f"'{text}' is no {meant}; it can only be set in the config file"
    return f"'{text}' is no {meant}"


def _can_be_typed(hint: Any) -> bool:
    """Whether there are texts for a type, beyond `none`."""
    return hint in (int, float, bool, str) or typing.get_origin(hint) in (tuple, Literal) or _is_branch(hint)


def _as_whole(text: str) -> str | None:
    """1e3 and 1000.0 as the whole number that they are."""
    try:
        number = float(text)
    except ValueError:
        return None
    return str(int(number)) if number.is_integer() else None
