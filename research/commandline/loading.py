"""From a config file to a config: runs FILE.py and calls its get_config, or reads a run's config.json.

Whatever is wrong with the file is told in one line that points at the place: a mistake in a config file is its
author's, and not a bug of ours.
"""

import contextlib
import dataclasses
import functools
import inspect
import json
import operator
import re
import sys
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from research.commandline.overrides import parse
from research.config import USER_MODULE, from_json, is_config
from research.errors import UserError, did_you_mean


class Loaded(NamedTuple):
    """A config, the file and argument it came from, and the module that the Python file became, if there is one."""

    config: Any
    path: Path
    argument: str | None
    module: types.ModuleType | None

    @property
    def file(self) -> Path | None:
        """The Python file that a run keeps a copy of."""
        return Path(self.module.__file__) if self.module else None


def load_config(text: str, runnable: tuple[type, ...]) -> Loaded:
    """The config that `text` names: "exp.py", "exp.py:argument", "runs/.../config.json" or that run's folder.

    A folder of runs stands for the newest of them.

    runnable: the classes of configs that can be run.
    Raises UserError for a file that is not there, cannot be read or run, or holds something else.
    """
    path, argument = split_argument(text)
    path = _in_run(path)
    _check_file(path)
    if path.suffix == ".json":
        if argument is not None:
            raise UserError(f"{path}: takes no argument, and '{argument}' was given")
        copied = path.with_name("config.py")
        module = load_python(copied) if copied.is_file() else None
        return Loaded(_read_json(path, module, runnable), path, None, module)
    module = load_python(path)
    with _importing_beside(path), blaming(path):
        returned = _call_get_config(module, path, argument)
    _check_returned(returned, path, runnable)
    return Loaded(returned, path, argument, module)


def split_argument(text: str) -> tuple[Path, str | None]:
    """The file and the argument in "exp.py:argument"; None where there is no argument."""
    if not Path(text).exists() and (match := re.fullmatch(r"(.+?\.(?:py|json)):(.*)", text)):
        return Path(match[1]), match[2]
    return Path(text), None


def _in_run(path: Path) -> Path:
    """The config.json of a run's folder, or of the newest run in a folder of runs; any other path as it is."""
    inside = [path / "config.json", *sorted(path.glob("*/config.json"), reverse=True)] if path.is_dir() else []
    return next((file for file in inside if file.is_file()), path)


def _check_file(path: Path) -> None:
    if path.is_dir():
        names = [child.name for pattern in ("*.py", "*.json") for child in path.glob(pattern)]
        raise UserError(f"{path}: is a folder, and a config is a file{did_you_mean('', names)}")
    if not path.exists():
        raise UserError(f"{path}: no such file{did_you_mean(str(path), _neighbours(path))}")
    if path.suffix not in (".py", ".json"):
        raise UserError(f"{path}: a config is a .py file, or the config.json of a run")


def _neighbours(path: Path) -> list[str]:
    """Files that `path` may have been meant to be: those of its folder, and of experiments/."""
    folders = {path.parent, *([Path("experiments")] if path.parent == Path() else [])}
    return [
        str(child)
        for folder in folders
        for child in (folder.iterdir() if folder.is_dir() else ())
        if child.suffix in (".py", ".json") and not child.name.startswith("_")
    ]


def load_python(path: Path) -> types.ModuleType:
    """Runs a file as a module whose name begins with USER_MODULE, so that its classes are known as a user's.

    Nothing is written beside the file, not even compiled code: it may be the copy in a run's folder.
    """
    try:
        code = compile(path.read_bytes(), str(path), "exec")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno or 1}: {error.msg}") from None
    except ValueError as error:  # null bytes
        raise UserError(f"{path}: {error}") from None
    module = types.ModuleType(USER_MODULE + path.stem)
    module.__file__ = str(path)
    previous = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # dataclasses look their own module up
    try:
        with _importing_beside(path), blaming(path):
            exec(code, module.__dict__)
    except BaseException:
        _put_back(module.__name__, previous)
        raise
    return module


def _put_back(name: str, module: types.ModuleType | None) -> None:
    if module is None:
        del sys.modules[name]
    else:
        sys.modules[name] = module


@contextlib.contextmanager
def _importing_beside(path: Path) -> Iterator[None]:
    """While open, the modules beside a file can be imported, as when Python runs it."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


@contextlib.contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turns what a user's file raises into a UserError that names the last line of that file on the way."""
    with blaming_if_there(path):
        try:
            yield
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            if _last_line(error, path):
                raise
            raise UserError(f"{path}: {_explain(error)}") from error


@contextlib.contextmanager
def blaming_if_there(path: Path | None) -> Iterator[None]:
    """The same for what may not be the file's fault: an exception on whose way no line of it lies is left alone."""
    try:
        yield
    except (Exception, SystemExit) as error:
        where = _last_line(error, path)
        if where is None:
            raise
        problems = error.problems if isinstance(error, UserError) else [_explain(error)]
        raise UserError(*(f"{where}: {problem}" for problem in problems)) from error


def modules_beside(path: Path) -> dict[str, Path]:
    """The files of the modules now loaded that lie in the folder of `path` or below: {path from there: file}.

    What is installed there is left out, and so are this package and what only says that it is a file (PyTorch's `ops`).
    """
    folder, found = path.resolve().parent, {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or name.startswith((USER_MODULE, "research.")) or name in ("research", "__main__"):
            continue
        file = Path(file).resolve()
        if not file.is_relative_to(folder) or "site-packages" in file.parts:
            continue
        if file.suffix == ".py" and file.is_file():
            found[file.relative_to(folder).as_posix()] = file
    return found


def _last_line(error: BaseException, path: Path | None) -> str | None:
    """ "exp.py:7 in get_config" for the innermost frame in the file; None where there is none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if not frames:
        return None
    function = "" if frames[-1].name == "<module>" else f" in {frames[-1].name}"
    return f"{path}:{frames[-1].lineno}{function}"


def _explain(error: BaseException) -> str:
    """An exception in one line, with the nearest name that Python, or we, know of."""
    if isinstance(error, TypeError) and (match := _WRONG_FIELD.match(str(error))):
        cls = _config_class(match[1])
        if cls is not None:
            names = [field.name for field in dataclasses.fields(cls)]
            return f"{match[1]} has no field '{match[2]}'{did_you_mean(match[2], names)}"
    first, *more = str(error).splitlines() or [""]
    if isinstance(error, ImportError):
        first = first.removesuffix(f" ({error.path})")
    colon = ": " if first else ""
    return f"{type(error).__name__}{colon}{first}{' ...' if more else ''}{_nearest(error)}"


def _nearest(error: BaseException) -> str:
    """The name that may have been meant by one that is not there."""
    if isinstance(error, NameError) and error.name:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        return did_you_mean(error.name, {**frame.f_builtins, **frame.f_globals, **frame.f_locals})
    if isinstance(error, AttributeError) and error.name:
        return did_you_mean(error.name, dir(error.obj))
    if match := re.match(r"cannot import name '(\w+)' from '([\w.]+)'", str(error)):
        return did_you_mean(match[1], dir(sys.modules.get(match[2])))
    return ""


_WRONG_FIELD = re.compile(r"(?:\w+\.)*?(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def _config_class(name: str) -> type | None:
    """The dataclass of this name among what is loaded of ours and of the user's."""
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith(("research", USER_MODULE)):
            found = getattr(module, name, None)
            if isinstance(found, type) and dataclasses.is_dataclass(found):
                return found
    return None


def _call_get_config(module: types.ModuleType, path: Path, argument: str | None) -> Any:
    function = getattr(module, "get_config", None)
    if not callable(function):
        functions = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise UserError(f"{path}: has no function get_config(){did_you_mean('get_config', functions)}")
    if argument is None:
        if _accepts(function):
            return function()
        raise UserError(f"{path}: its get_config needs an argument: --config {path}:ARGUMENT")
    if _accepts(function, argument):
        return function(_as_annotated(function, argument))
    raise UserError(f"{path}: its get_config takes no argument, and '{argument}' was given")


def _as_annotated(function: Any, argument: str) -> Any:
    """The argument as the type that the function's first parameter declares: 4, for `get_config(depth: int)`."""
    first = next(iter(inspect.signature(function, eval_str=True).parameters.values()))
    return argument if first.annotation is first.empty else parse((argument,), first.annotation, first.name)


def _accepts(function: Any, *arguments: str) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


def _check_returned(returned: Any, path: Path, runnable: tuple[type, ...]) -> None:
    if isinstance(returned, runnable) and is_config(returned):
        return
    names = " or ".join(cls.__name__ for cls in runnable)
    if returned is None:
        what = "None; is a `return` missing?"
    elif isinstance(returned, type):
        what = f"the class {returned.__name__} itself; write {returned.__name__}(...)"
    else:
        what = _a(type(returned).__name__)
    raise UserError(f"{path}: get_config must return {_a(names)}, and returned {what}")


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _read_json(path: Path, module: types.ModuleType | None, runnable: tuple[type, ...]) -> Any:
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no JSON, nor text at all") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: is no JSON, or cut off: {error.msg}") from None
    names = " or ".join(cls.__name__ for cls in runnable)
    if not isinstance(data, dict) or "kind" not in data:
        raise UserError(f'{path}: holds no config; it should say "kind": "{names}"')
    hint = functools.reduce(operator.or_, runnable)
    try:
        config = from_json(data, hint, module)
    except UserError as error:
        raise UserError(*(f"{path}: {problem}" for problem in error.problems)) from error
    if not isinstance(config, runnable):
        raise UserError(f"{path}: holds a config of the kind '{data['kind']}', and {names} is needed")
    return config
