"""A config is a pytree.

An experiment is a tree of frozen dataclasses whose fields are of three kinds:

- a *leaf* is a number that changes neither a shape nor the program: a learning rate, a dropout rate, a seed.
  Leaves are what `jax.tree.leaves` returns, so that changing one never recompiles and trials can be stacked;
- *structure* is what does: depth, width, batch size, the kind of optimizer;
- an *edge* is what the program never sees: a run's name, how often to log.

    @config
    class Adam(Optimizer):
        '''Adam (Kingma and Ba, 2015).'''
        learning_rate: float = leaf(1e-3, "step size", within="[0, inf)")
        nesterov: bool = structure(False, "look ahead, as NAdam does")

`None` in a leaf means absent and is structure: a program without dropout is another one than dropout of 0.1.
Configs hold plain Python numbers, which compare, hash and go to JSON; `as_arrays` makes arrays of them, once, at the
boundary of jit. A field without a mark is structure too, and a field that holds another config is a branch of the tree.

`override`, `differences`, `to_json`, `from_json` and `validate` speak of fields by path: "optimizer.learning_rate".
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np

from research.errors import UserError, did_you_mean

T = TypeVar("T")
Role = Literal["leaf", "structure", "edge"]

USER_MODULE = "_fathom_config_"  # how the loader of config files names their modules; see `load_python`
LARGEST_SEED = 2**32 - 1


class ConfigError(UserError):
    """A config that cannot be: a field that is not there, a value of the wrong type or out of range."""


# ---------------------------------------------------------------------------------------------------------------------
# Declaring


def leaf(default: Any = dataclasses.MISSING, doc: str = "", *, within: str | None = None) -> Any:
    """A number that the program takes as an argument. `within` is the interval it must lie in, as "[0, 1)"."""
    return _field("leaf", default, doc, within)


def structure(default: Any = dataclasses.MISSING, doc: str = "", *, within: str | None = None) -> Any:
    """A value, or a config, that decides shapes or the program."""
    return _field("structure", default, doc, within)


def edge(default: Any = dataclasses.MISSING, doc: str = "", *, within: str | None = None) -> Any:
    """A value that the program never sees."""
    return _field("edge", default, doc, within)


def _field(role: Role, default: Any, doc: str, within: str | None) -> Any:
    metadata = {"role": role, "doc": doc, "within": within}
    return dataclasses.field(default=default, metadata=metadata)


@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(leaf, structure, edge))
def config(cls: type[T]) -> type[T]:
    """Class decorator: a frozen, keyword-only dataclass that is a pytree of its leaves and branches.

    Raises TypeError for a field "kind", which is what JSON calls the class.
    """
    if "kind" in vars(cls).get("__annotations__", {}):
        raise TypeError(f"{cls.__name__}: a config cannot have a field 'kind', for so its class is called in JSON")
    checks = getattr(cls, "__post_init__", None)

    def __post_init__(self):
        for name in _names(cls, "leaf"):
            if type(getattr(self, name)) is int and _admits_float_only(_hints(cls)[name]):
                object.__setattr__(self, name, float(getattr(self, name)))
        if checks is not None:
            checks(self)

    cls.__post_init__ = __post_init__
    cls._made_by = config
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    jax.tree_util.register_pytree_with_keys(
        cls,
        functools.partial(_flatten, with_keys=True),
        functools.partial(_unflatten, cls),
        functools.partial(_flatten, with_keys=False),
    )
    return cls


class _Edges(dict):
    """Edge values on their way through a treedef: any two are equal, so that no program depends on them."""

    def __eq__(self, other):
        return isinstance(other, _Edges)

    def __ne__(self, other):
        return not isinstance(other, _Edges)

    def __hash__(self):
        return 0


def _flatten(tree, with_keys: bool):
    branches, structures, edges = [], [], _Edges()
    for name, role in _roles(type(tree)):
        value = getattr(tree, name)
        if role == "edge":
            edges[name] = value
        elif role == "leaf" or _is_branch(value):
            branches.append((name, value))
        else:
            structures.append((name, value))
    keys = tuple(name for name, _ in branches)
    children = [(jax.tree_util.GetAttrKey(name), value) if with_keys else value for name, value in branches]
    return children, (keys, tuple(structures), edges)


def _unflatten(cls, aux, children):
    names, structures, edges = aux
    tree = object.__new__(cls)  # not cls(...): leaves may be tracers or placeholders, which no check should meet
    for name, value in (*zip(names, children, strict=True), *structures, *edges.items()):
        object.__setattr__(tree, name, value)
    return tree


def is_config(value: Any) -> bool:
    """Whether `value` is an instance of a class made by `config`."""
    return type(value).__dict__.get("_made_by") is config


def _is_config_class(cls: Any) -> bool:
    return isinstance(cls, type) and cls.__dict__.get("_made_by") is config


def _is_branch(value: Any) -> bool:
    return is_config(value) or (isinstance(value, tuple) and any(map(is_config, value)))


@functools.cache
def _roles(cls) -> tuple[tuple[str, Role], ...]:
    """Each field's name and role."""
    return tuple((field.name, field.metadata.get("role", "structure")) for field in dataclasses.fields(cls))


@functools.cache
def _hints(cls) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@functools.cache
def _with_sequences(cls) -> frozenset[str]:
    """The fields of whose declared types `_plain_hint` makes others."""
    return frozenset(name for name, hint in _hints(cls).items() if _plain_hint(hint, ()) is not hint)


def _plain_hint(hint: Any, present: Any) -> Any:
    """A declared type with lists and sequences as the tuples that a config holds.

    The items of a bare one are of the types of those that are there now.
    """
    alternatives = _alternatives(hint)
    plain = tuple(_as_tuple(alternative, present) for alternative in alternatives)
    return hint if plain == alternatives else typing.Union[plain]  # noqa: UP007 (made at run time)


def _as_tuple(hint: Any, present: Any) -> Any:
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin not in (tuple, list, Sequence) or (origin is tuple and arguments):
        return hint
    there = tuple(dict.fromkeys(map(type, present))) if isinstance(present, tuple | list) else ()
    return tuple[arguments[0] if arguments else typing.Union[there] if there else Any, ...]  # noqa: UP007


@functools.cache
def _names(cls, role: Role) -> tuple[str, ...]:
    return tuple(name for name, its_role in _roles(cls) if its_role == role)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _admits_float_only(hint: Any) -> bool:
    alternatives = _alternatives(hint)
    return float in alternatives and int not in alternatives


# ---------------------------------------------------------------------------------------------------------------------
# At the boundary of jit


def as_arrays(tree: T) -> T:
    """The same config with float32 and uint32 scalars for its leaves: the form that a jitted function is given.

    Python numbers are weakly typed, and `1`, `0.1` and `np.float32(0.1)` would make three programs of one.
    """
    return jax.tree.map(lambda x: np.float32(x) if isinstance(x, float | np.floating) else np.uint32(x), tree)


# ---------------------------------------------------------------------------------------------------------------------
# Looking


class Entry(NamedTuple):
    """One field of a config: its path, value, type as declared, role, default and line of meaning."""

    path: str
    value: Any
    hint: Any
    role: Role
    default: Any
    doc: str
    within: str | None


def entries(tree: Any, prefix: str = "") -> Iterator[Entry]:
    """Every field of a config, branches before what they hold, in the order of declaration."""
    for field in _fields(tree):
        path, value = f"{prefix}{field.name}", getattr(tree, field.name)
        yield _entry(tree, field, path)
        if _is_tree(value):
            yield from entries(value, f"{path}.")
        elif _is_branch(value):
            for index, item in enumerate(value):
                if is_config(item):
                    yield from entries(item, f"{path}.{index}.")


def _entry(tree: Any, field: dataclasses.Field, path: str) -> Entry:
    value, meta, hint = getattr(tree, field.name), field.metadata, field_hint(tree, field.name)
    default = field.default if field.default is not dataclasses.MISSING else None
    return Entry(path, value, hint, meta.get("role", "structure"), default, meta.get("doc", ""), meta.get("within"))


def _is_tree(value: Any) -> bool:
    """Whether a value has fields: a config, or a dataclass of another library such as a Flax module."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _fields(tree: Any) -> tuple[dataclasses.Field, ...]:
    return _fields_of(type(tree))


@functools.cache
def _fields_of(cls: type) -> tuple[dataclasses.Field, ...]:
    """What is given when one is made; of a Flax module, without what Flax adds."""
    added = () if _is_config_class(cls) else ("parent", "name")
    return tuple(field for field in dataclasses.fields(cls) if field.init and field.name not in added)


def flat(tree: Any) -> dict[str, Any]:
    """Path to value, without branches; the kind of a branch stands under its own path: {"optimizer": "AdamW", ...}."""
    return {e.path: type(e.value).__name__ if _is_tree(e.value) else e.value for e in entries(tree)}


class Difference(NamedTuple):
    """One field in which two configs differ; `absent` stands where one has no such field."""

    path: str
    left: Any
    right: Any

    def __str__(self):
        return f"{self.path}: {_show(self.left)} -> {_show(self.right)}"


absent = type("absent", (), {"__repr__": lambda self: "absent"})()


def differences(left: Any, right: Any) -> list[Difference]:
    """Every path whose value differs between two configs, in the order of declaration."""
    a, b = {"": type(left).__name__, **flat(left)}, {"": type(right).__name__, **flat(right)}
    pairs = [Difference(path, a.get(path, absent), b.get(path, absent)) for path in {**a, **b}]
    return [pair for pair in pairs if pair.left is absent or pair.right is absent or not _same(pair.left, pair.right)]


def _same(a: Any, b: Any) -> bool:
    return (a == b or (a != a and b != b)) and isinstance(a, bool) == isinstance(b, bool)


def _show(value: Any) -> str:
    return value if isinstance(value, str) and value else repr(value)


# ---------------------------------------------------------------------------------------------------------------------
# Changing


def override(tree: T, path: str, value: Any) -> T:
    """The config with the field at `path` set to `value`, which must be of the declared type.

    A branch may be replaced by another config, by the name of a kind ("adamw", with its defaults), or by None where
    the type allows it. Raises ConfigError for a path that is not there (with the nearest) and for a wrong value.
    """
    return _override(tree, path.split("."), value, path)


def _override(tree: Any, parts: list[str], value: Any, path: str) -> Any:
    head, rest = parts[0], parts[1:]
    if isinstance(tree, tuple):
        if not head.isdigit() or int(head) >= len(tree):
            raise ConfigError(f"{path}: no such field; {_up_to(path, parts)} has the indices 0 to {len(tree) - 1}")
        index = int(head)
        new = _override(tree[index], rest, value, path) if rest else value
        return (*tree[:index], new, *tree[index + 1 :])
    names = [field.name for field in _fields(tree)] if _is_tree(tree) else []
    if head not in names:
        raise ConfigError(_no_such_field(path, parts, tree, names))
    if rest:
        new = _override(getattr(tree, head), rest, value, path)
    else:
        new = coerce(value, field_hint(tree, head), path)
    return dataclasses.replace(tree, **{head: new})


def _up_to(path: str, parts: list[str]) -> str:
    return ".".join(path.split(".")[: -len(parts)]) or "the config"


def _no_such_field(path: str, parts: list[str], tree: Any, names: list[str]) -> str:
    if not names:
        return f"{path}: no such field; {_up_to(path, parts)} is {tree!r}, which has no fields"
    return f"{path}: no such field; {type(tree).__name__} has no '{parts[0]}'{did_you_mean(parts[0], names)}"


def field_hint(tree: Any, name: str) -> Any:
    """The declared type of a field; that of its present value for classes whose annotations cannot be read."""
    try:
        hint = _hints(type(tree)).get(name, Any)
    except (NameError, TypeError):
        hint = type(getattr(tree, name))
        return _plain_hint(hint, getattr(tree, name))
    return _plain_hint(hint, getattr(tree, name)) if name in _with_sequences(type(tree)) else hint


def field_at(tree: Any, path: str) -> Entry:
    """The entry of a field, or of an item of a tuple of configs. Raises ConfigError where there is none."""
    *parents, name = path.split(".")
    parent = functools.reduce(_within, parents, tree)
    field = next((field for field in _fields(parent) if field.name == name), None) if _is_tree(parent) else None
    if field is None:
        override(tree, path, None)  # raises, naming the nearest field
        raise ConfigError(f"{path}: no such field{did_you_mean(path, [entry.path for entry in entries(tree)])}")
    return _entry(parent, field, path)


def _within(tree: Any, name: str) -> Any:
    """What has fields in a field of a config, or at an index of a tuple of configs; None if there is no such thing."""
    if isinstance(tree, tuple):
        return tree[int(name)] if name.isdigit() and int(name) < len(tree) and is_config(tree[int(name)]) else None
    if not _is_tree(tree) or name not in [field.name for field in _fields(tree)]:
        return None
    value = getattr(tree, name)
    return value if _is_tree(value) or _is_branch(value) else None


def kinds(hint: Any, namespace: Any = None) -> dict[str, type]:
    """The config classes that may stand where `hint` is declared, by name: each declared class and its subclasses.

    Of two classes of one name, that of `namespace` (the module of a config file) is taken, or else the latest.
    """
    found: dict[str, type] = {}

    def visit(cls):
        for subclass in cls.__subclasses__():
            visit(subclass)
        if _is_config_class(cls) and not getattr(cls, "__abstractmethods__", None):
            if cls.__name__ not in found or cls.__module__ == getattr(namespace, "__name__", None):
                found[cls.__name__] = cls

    for alternative in _alternatives(hint):
        if isinstance(alternative, type) and alternative is not object:
            visit(alternative)
    return found


def make(name: str, hint: Any, path: str) -> Any:
    """A config of the kind `name` with its defaults; case, dashes and underscores do not matter."""
    known = kinds(hint)
    plain = {_plain(known_name): cls for known_name, cls in known.items()}
    cls = plain.get(_plain(name))
    if cls is None:
        raise ConfigError(f"{path}: no kind '{name}'{did_you_mean(name, known)}")
    missing = [f.name for f in dataclasses.fields(cls) if f.init and f.default is f.default_factory]
    if missing:
        raise ConfigError(
            f"{path}: {cls.__name__} needs {', '.join(missing)}, so it can only be given in a config file"
        )
    return cls()


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def coerce(value: Any, hint: Any, path: str) -> Any:
    """`value` as the declared type: lists become tuples, integers floats, names and JSON objects configs.

    Nothing is guessed: text is no number, a truth value no integer, and 2.0 no integer either.
    """
    alternatives = _alternatives(hint)
    for alternative in alternatives:
        if _is_exactly(value, alternative):
            return value
    failure = None
    for alternative in alternatives:
        try:
            return _coerce_one(value, alternative, path)
        except _Mismatch:
            continue
        except ConfigError as error:
            failure = error
    if failure is not None:
        raise failure
    raise ConfigError(f"{path}: {_show_short(value)} is no {describe(hint)}")


class _Mismatch(Exception):
    pass


def _is_exactly(value: Any, hint: Any) -> bool:
    if hint is Any or hint is None or hint is type(None):
        return hint is Any or value is None
    return isinstance(hint, type) and not typing.get_args(hint) and type(value) is hint


def _coerce_one(value: Any, hint: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return _coerce_tuple(value, arguments, path)
    elif is_function(hint):
        if callable(value):
            return value
    elif hint is float:
        if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
            return float(value)
    elif hint is int:
        if isinstance(value, int | np.integer) and not isinstance(value, bool):
            return int(value)
    elif isinstance(hint, type) and not issubclass(hint, str | bool | type(None)):
        return _coerce_branch(value, hint, path)
    elif isinstance(hint, type) and isinstance(value, hint):
        return value
    raise _Mismatch


def _coerce_tuple(value: Any, arguments: tuple, path: str) -> tuple:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if arguments and len(arguments) != len(value):
        raise ConfigError(f"{path}: {_show_short(value)} has {len(value)} values, and {len(arguments)} are needed")
    hints = arguments or (Any,) * len(value)
    return tuple(coerce(item, hint, f"{path}.{i}") for i, (item, hint) in enumerate(zip(value, hints, strict=True)))


def _coerce_branch(value: Any, hint: type, path: str) -> Any:
    if isinstance(value, hint):
        return value
    if isinstance(value, str) and hasattr(hint, "from_text"):
        try:
            return hint.from_text(value)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from None
    if isinstance(value, str) and kinds(hint):
        return make(value, hint, path)
    raise _Mismatch


def describe(hint: Any) -> str:
    """A declared type in words for people: "whole number", "one of 'relu', 'gelu'"."""
    words = {int: "whole number", float: "number", bool: "True or False", str: "text", type(None): "None"}
    if Any in _alternatives(hint):
        return "anything"
    parts = []
    for alternative in _alternatives(hint):
        origin, arguments = typing.get_origin(alternative), typing.get_args(alternative)
        if origin is Literal:
            parts.append(f"one of {', '.join(map(repr, arguments))}")
        elif origin is tuple:
            many = len(arguments) == 2 and arguments[1] is Ellipsis
            items = describe(arguments[0]) if many else ", ".join(map(describe, arguments))
            plural = "s" if arguments[:1] in ((int,), (float,), (str,)) else ""
            parts.append(f"list of {items}{plural}" if many else f"({items})")
        elif is_function(alternative):
            parts.append("function")
        elif alternative in words:
            parts.append(words[alternative])
        elif names := list(kinds(alternative)):
            parts.append(names[0] if len(names) == 1 else f"one of {', '.join(names)}")
        else:
            parts.append(getattr(alternative, "__name__", str(alternative)))
    return " or ".join(dict.fromkeys(parts))


def is_function(hint: Any) -> bool:
    """Whether a type is that of functions: Callable, of whatever arguments, or a protocol of what can be called."""
    is_protocol = getattr(hint, "_is_protocol", False) and "__call__" in vars(hint)
    return is_protocol or (typing.get_origin(hint) or hint) is Callable


def _show_short(value: Any) -> str:
    """One line, without the addresses that differ from one process to the next."""
    text = " ".join(re.sub(r" at 0x[0-9a-f]+", "", repr(value)).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---------------------------------------------------------------------------------------------------------------------
# Checking


def validate(tree: T) -> T:
    """The config with every value of its declared type, or a ConfigError that names every problem at once.

    What has been found valid is not looked at again, so that a config with another value in one place is soon checked.

    Checked are types, the `within` of a field, that structure can be hashed, that seeds fit 32 bits, and whatever a
    class finds with a method `problems()`, which yields pairs of a field's name and what is wrong with it.
    """
    problems: list[str] = []
    checked = _validate(tree, "", problems)
    if problems:
        raise ConfigError(*problems)
    return checked


def _validate(tree: Any, prefix: str, problems: list[str]) -> Any:
    if "_is_valid" in tree.__dict__:  # it cannot have changed since
        return tree
    before, new = len(problems), {}
    for field in dataclasses.fields(tree):
        path, value = f"{prefix}{field.name}", getattr(tree, field.name)
        if is_config(value):
            value = _validate(value, f"{path}.", problems)
        elif _is_branch(value):
            value = tuple(
                _validate(item, f"{path}.{i}.", problems) if is_config(item) else item for i, item in enumerate(value)
            )
        try:
            new[field.name] = coerce(value, field_hint(tree, field.name), path)
            problems.extend(_value_problems(new[field.name], field, path))
        except ConfigError as error:
            problems.extend(error.problems)
    if len(problems) > before:
        return tree
    checked = dataclasses.replace(tree, **new)
    for name, message in getattr(checked, "problems", lambda: ())():
        problems.append(f"{prefix}{name}: {message}")
    if len(problems) == before:
        object.__setattr__(checked, "_is_valid", True)
    return checked


def _value_problems(value: Any, field: dataclasses.Field, path: str) -> Iterator[str]:
    role, within = field.metadata.get("role", "structure"), field.metadata.get("within")
    for item in value if isinstance(value, tuple) else (value,):
        if within and isinstance(item, int | float) and not _inside(item, within):
            yield f"{path}: {item} is not in {within}"
    if role == "leaf" and isinstance(value, int) and not 0 <= value <= LARGEST_SEED:
        yield f"{path}: {value} is not in [0, {LARGEST_SEED}]"
    if role == "structure" and not _is_branch(value):
        yield from _unhashable(value, path)


def _unhashable(value: Any, path: str) -> Iterator[str]:
    """What of a value can be changed in place, by path: of a Flax module, which of its fields."""
    try:
        hash(value)
        return
    except TypeError:
        pass
    items = [(field.name, getattr(value, field.name)) for field in _fields(value)] if _is_tree(value) else []
    found = [problem for name, item in items for problem in _unhashable(item, f"{path}.{name}")]
    instead = f"write {_show_short(_without_lists(value))}" if isinstance(value, list | tuple) else "use a tuple"
    kind = type(value).__name__
    yield from found or [f"{path}: {_show_short(value)} is a {kind}, which can be changed in place; {instead}"]


def _without_lists(value: Any) -> Any:
    return tuple(map(_without_lists, value)) if isinstance(value, list | tuple) else value


@functools.cache
def _bounds(interval: str) -> tuple[float, float]:
    low, high = interval[1:-1].split(",")
    return float(low), float(high)


def _inside(value: float, interval: str) -> bool:
    low, high = _bounds(interval)
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


# ---------------------------------------------------------------------------------------------------------------------
# JSON


def to_json(tree: Any, path: str = "", *, edges: bool = True) -> Any:
    """A config as what `json.dumps` takes; `from_json` gives the same config back.

    Left out is what has no name but is the default of a Flax module's field, as `kernel_init` usually is; and edges, if
    so asked.
    """
    if _is_tree(tree):
        values = {}
        for field in _fields(tree):
            value = getattr(tree, field.name)
            if not edges and field.metadata.get("role") == "edge":
                continue
            try:
                values[field.name] = to_json(value, f"{path}.{field.name}".lstrip("."), edges=edges)
            except ConfigError:
                if is_config(tree) or value is not field.default:
                    raise
        return {"kind": _class_name(type(tree)), **values}
    if isinstance(tree, tuple):
        return [to_json(item, f"{path}.{i}", edges=edges) for i, item in enumerate(tree)]
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, np.dtype) or (isinstance(tree, type) and issubclass(tree, np.generic)):
        return {"dtype": np.dtype(tree).name}
    name = f"{getattr(tree, '__module__', '')}:{getattr(tree, '__qualname__', '')}"
    if find_object(name) is tree:
        return {"object": _without_user_module(name)}
    raise ConfigError(
        f"{path}: {_show_short(tree)} cannot be written to JSON; use a named function, a config, or the field's default"
    )


def _class_name(cls: type) -> str:
    in_user_file = cls.__module__.startswith(USER_MODULE)
    return cls.__qualname__ if _is_config_class(cls) or in_user_file else f"{cls.__module__}:{cls.__qualname__}"


def _without_user_module(name: str) -> str:
    module, _, qualified = name.partition(":")
    return f":{qualified}" if module.startswith(USER_MODULE) else name


def find_object(name: str, namespace: Any = None) -> Any:
    """What "module:name" names, or ":name" of `namespace`; None where there is no such thing."""
    module, _, qualified = name.partition(":")
    try:
        found = importlib.import_module(module) if module else namespace
        return functools.reduce(getattr, qualified.split("."), found)
    except (ImportError, AttributeError, ValueError):
        return None


def from_json(data: Any, hint: Any, namespace: Any = None) -> Any:
    """The config that `to_json` wrote, where `hint` is the class expected and `namespace` the config file's module.

    Raises ConfigError naming every unknown kind, unknown or missing field, and value of a wrong type.
    """
    problems: list[str] = []
    tree = _decode(data, hint, namespace, "", problems)
    if problems:
        raise ConfigError(*problems)
    return validate(tree) if is_config(tree) else tree


def _decode(data: Any, hint: Any, namespace: Any, path: str, problems: list[str]) -> Any:
    if isinstance(data, list):
        item_hint = next((a for h in _alternatives(hint) for a in typing.get_args(h) if a is not Ellipsis), Any)
        return tuple(
            _decode(item, item_hint, namespace, f"{path}.{i}".lstrip("."), problems) for i, item in enumerate(data)
        )
    if isinstance(data, Mapping) and "kind" in data:
        return _decode_tree(data, hint, namespace, path, problems)
    if isinstance(data, Mapping) and set(data) == {"dtype"}:
        return np.dtype(data["dtype"]).type
    if isinstance(data, Mapping) and set(data) == {"object"}:
        return find_object(data["object"], namespace)
    if isinstance(data, Mapping):
        problems.append(f"{path or 'the config'}: an object without a 'kind'")
    return data


def _decode_tree(data: Mapping, hint: Any, namespace: Any, path: str, problems: list[str]) -> Any:
    name = data["kind"]
    known = kinds(hint, namespace)
    cls = known.get(name) or find_object(name if ":" in str(name) else f":{name}", namespace)
    if not isinstance(cls, type):
        problems.append(f"{path or 'the config'}: no kind '{name}'{did_you_mean(name, known)}")
        return None
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    here = f"{path}." if path else ""
    for field in set(data) - set(fields) - {"kind"}:
        problems.append(f"{here}{field}: no such field; {name} has no '{field}'{did_you_mean(field, fields)}")
    try:
        hints = _hints(cls)
    except (NameError, TypeError):
        hints = {}
    values = {
        field: _decode(data[field], hints.get(field, Any), namespace, f"{here}{field}", problems)
        for field in fields
        if field in data
    }
    missing = [f for f in fields if f not in values and fields[f].default is fields[f].default_factory]
    problems.extend(f"{here}{field}: missing, and {name} has no default for it" for field in missing)
    return None if missing else cls(**values)


def fingerprint(tree: Any) -> str:
    """Sixteen hexadecimal digits that name what a config computes: its JSON without the edges, hashed."""
    text = json.dumps(to_json(tree, edges=False), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
