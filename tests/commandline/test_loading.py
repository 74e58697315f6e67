import json
import sys
import types
from pathlib import Path

import pytest

from research.commandline.loading import load_config, load_python, modules_beside, split_argument
from research.config import USER_MODULE, config, leaf, structure, to_json
from research.errors import UserError


class Part:
    """A kind that a config file may add to."""


@config
class Given(Part):
    rate: float = leaf(0.1, "a number", within="[0, inf)")


@config
class Job:
    """What the files of these tests return."""

    seed: int = leaf(0)
    part: Part = structure(Given())


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a config file into an empty folder, which is the current one, and gives its name."""
    monkeypatch.chdir(tmp_path)
    here = f"from {Job.__module__} import Job, Given, Part\n"
    monkeypatch.setitem(sys.modules, Job.__module__, sys.modules[Job.__module__])

    def write(text, name="exp.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(here + text if name.endswith(".py") else text)
        return name

    return write


def load(text):
    return load_config(text, (Job,))


def problem(text):
    with pytest.raises(UserError) as caught:
        load(text)
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


# ---------------------------------------------------------------------------------------------------------------------
# Python


def test_a_file_gives_the_config_that_its_function_returns(write):
    loaded = load(write("def get_config():\n    return Job(seed=3)"))
    assert loaded.config == Job(seed=3)
    assert loaded.argument is None
    assert loaded.file == loaded.path


def test_an_argument_follows_the_name_of_the_file(write):
    name = write("def get_config(size):\n    return Job(seed=int(size))")
    assert load(f"{name}:7").config.seed == 7
    assert load(f"{name}:7").argument == "7"


def test_an_argument_may_have_a_default(write):
    name = write("def get_config(size='2'):\n    return Job(seed=int(size))")
    assert (load(name).config.seed, load(f"{name}:7").config.seed) == (2, 7)


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        ("int", "8", 8),
        ("'int'", "8", 8),
        ("float | None", "none", None),
        ("float", "1", 1.0),
        ("bool", "true", True),
        ("str", "8", "8"),
        ("tuple[int, ...]", "64,32", (64, 32)),
    ],
)
def test_an_argument_is_of_the_type_that_is_declared(write, annotation, text, value):
    name = write(f"def get_config(size: {annotation}):\n    global given\n    given = size\n    return Job()")
    given = load(f"{name}:{text}").module.given
    assert given == value
    assert type(given) is type(value)


def test_an_argument_of_another_type_is_refused_by_its_name(write):
    name = write("def get_config(depth: int = 2):\n    return Job()")
    assert problem(f"{name}:abc") == "depth: 'abc' is no whole number"
    assert problem(f"{name}:2.0") == "depth: '2.0' is no whole number; write 2"


@pytest.mark.parametrize(
    ("text", "path", "argument"),
    [
        ("exp.py", "exp.py", None),
        ("a/exp.py:big", "a/exp.py", "big"),
        ("exp.py:a:b.py", "exp.py", "a:b.py"),
        ("exp.py:", "exp.py", ""),
        ("C:/exp.py", "C:/exp.py", None),
    ],
)
def test_names_are_split_at_the_end_of_the_file(text, path, argument):
    found, given = split_argument(text)
    assert (str(found), given) == (path, argument)


def test_a_file_may_import_what_lies_beside_it_and_no_trace_is_left(write, tmp_path):
    write("SEED = 5", "beside_it.py")
    before = list(sys.path)
    name = write("import beside_it\ndef get_config():\n    import beside_it\n    return Job(seed=beside_it.SEED)")
    assert load(name).config.seed == 5
    assert sys.path == before
    del sys.modules["beside_it"]


def test_nothing_is_written_beside_the_file(write, tmp_path):
    load(write("def get_config():\n    return Job()"))
    assert [path.name for path in tmp_path.iterdir()] == ["exp.py"]


def test_a_changed_file_is_read_anew(write):
    for seed in range(3):
        assert load(write(f"def get_config():\n    return Job(seed={seed})")).config.seed == seed


OWN_PART = """
from research.config import config, leaf
@config
class Own(Part):
    strength: float = leaf(1.0)
def get_config():
    return Job(part=Own(strength=2.0))
"""


def test_a_class_of_the_file_is_a_kind_like_any_other(write):
    loaded = load(write(OWN_PART))
    assert type(loaded.config.part).__module__ == f"{USER_MODULE}exp"
    assert type(loaded.config.part) is loaded.module.Own


def test_a_file_that_fails_leaves_no_module(write):
    name = write("1 / 0", "broken.py")
    problem(name)
    assert f"{USER_MODULE}broken" not in sys.modules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", "exp.py:2: invalid syntax"),
        ("x = (1,\n", "exp.py:2: '(' was never closed"),
        ("x = 'a\0b'", "exp.py"),
        ("1 / 0", "exp.py:2: ZeroDivisionError: division by zero"),
        (
            "def get_config():\n    return Job(sed=1)",
            "exp.py:3 in get_config: Job has no field 'sed'; did you mean 'seed'?",
        ),
        (
            "def get_config():\n    return Jobb()",
            "exp.py:3 in get_config: NameError: name 'Jobb' is not defined; did you mean 'Job'?",
        ),
        (
            "def inner():\n    raise ValueError('no good\\nat all')\ndef get_config():\n    return inner()",
            "exp.py:3 in inner: ValueError: no good ...",
        ),
        (
            "import math\ndef get_config():\n    return math.sqr(4)",
            "exp.py:4 in get_config: AttributeError: module 'math' has no attribute 'sqr'; did you mean 'sqrt'?",
        ),
        ("from research.config import lead", "exp.py:2: ImportError: cannot import name 'lead' from 'research.config'"),
        ("import no_such_module_at_all", "exp.py:2: ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("def get_config():\n    raise SystemExit(3)", "exp.py:3 in get_config: SystemExit: 3"),
        (
            "from research.config import override\ndef get_config():\n    return override(Job(), 'sede', 1)",
            "exp.py:4 in get_config: sede: no such field; Job has no 'sede'; did you mean 'seed'?",
        ),
        ("", "exp.py: has no function get_config()"),
        ("def getconfig():\n    return Job()", "exp.py: has no function get_config(); did you mean 'getconfig'?"),
        (
            "def get_config(size):\n    return Job()",
            "exp.py: its get_config needs an argument: --config exp.py:ARGUMENT",
        ),
        (
            "def get_config():\n    Job()",
            "exp.py: get_config must return a Job, and returned None; is a `return` missing?",
        ),
        ("def get_config():\n    return {}", "exp.py: get_config must return a Job, and returned a dict"),
        (
            "def get_config():\n    return Job",
            "exp.py: get_config must return a Job, and returned the class Job itself; write Job(...)",
        ),
        ("def get_config():\n    return Given()", "exp.py: get_config must return a Job, and returned a Given"),
    ],
)
def test_a_file_that_is_wrong_is_told_in_one_line_that_points_there(write, text, message):
    assert problem(write(text)).startswith(message)


def test_an_argument_that_nobody_takes_is_refused(write):
    name = write("def get_config():\n    return Job()")
    assert problem(f"{name}:big") == "exp.py: its get_config takes no argument, and 'big' was given"


def test_a_mistake_in_a_file_that_is_imported_names_that_file(write):
    write("x = = 1", "beside_that.py")
    message = problem(write("import beside_that"))
    assert message.startswith("exp.py:2: SyntaxError: invalid syntax (beside_that.py, line 2)")


# ---------------------------------------------------------------------------------------------------------------------
# Files that are not there, or not what they should be


def test_the_nearest_file_is_named(write):
    write("", "experiments/digits_cnn.py")
    assert problem("experiments/digit_cnn.py").endswith("no such file; did you mean 'experiments/digits_cnn.py'?")
    assert problem("digits_cnn.py").endswith("no such file; did you mean 'experiments/digits_cnn.py'?")
    assert problem("experiments/digits_cnn").endswith("no such file; did you mean 'experiments/digits_cnn.py'?")
    assert problem("nowhere/exp.py") == "nowhere/exp.py: no such file"


def test_a_folder_and_a_text_are_no_configs(write):
    write("", "experiments/digits_cnn.py")
    write("seed: 1", "exp.yaml")
    assert problem("experiments") == "experiments: is a folder, and a config is a file; there is digits_cnn.py"
    assert problem("exp.yaml") == "exp.yaml: a config is a .py file, or the config.json of a run"


# ---------------------------------------------------------------------------------------------------------------------
# JSON


def test_the_json_of_a_run_gives_its_config(write):
    loaded = load(write(json.dumps(to_json(Job(seed=9))), "run/config.json"))
    assert loaded.config == Job(seed=9)
    assert loaded.file is None


def test_the_json_of_a_run_finds_the_classes_of_the_file_beside_it(write):
    before = load(write(OWN_PART)).config
    write(OWN_PART, "run/config.py")
    loaded = load(write(json.dumps(to_json(before)), "run/config.json"))
    assert loaded.config.part.strength == 2.0
    assert type(loaded.config.part) is loaded.module.Own
    assert str(loaded.file) == "run/config.py"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "Job", "seed"', "config.json:1: is no JSON, or cut off"),
        ("", "config.json:1: is no JSON, or cut off"),
        ("[]", 'config.json: holds no config; it should say "kind": "Job"'),
        ('{"seed": 1}', 'config.json: holds no config; it should say "kind": "Job"'),
        ('{"kind": "Jobb"}', "config.json: the config: no kind 'Jobb'; did you mean 'Job'?"),
        ('{"kind": "Job", "sede": 1}', "config.json: sede: no such field; Job has no 'sede'; did you mean 'seed'?"),
        ('{"kind": "Job", "seed": "x"}', "config.json: seed: 'x' is no whole number"),
        ('{"kind": "Job", "part": {"kind": "Given", "rate": -1}}', "config.json: part.rate: -1.0 is not in [0, inf)"),
    ],
)
def test_json_that_is_wrong_is_told_in_one_line(write, text, message):
    assert problem(write(text, "config.json")).startswith(message)


def test_bytes_that_are_no_text_are_no_json(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\x80{")
    assert problem(str(path)).endswith("is no JSON, nor text at all")


def test_json_of_another_kind_is_refused(write):
    write(OWN_PART, "config.py")
    message = problem(write('{"kind": "Own"}', "config.json"))
    assert message == "config.json: holds a config of the kind 'Own', and Job is needed"


def test_json_takes_no_argument(write):
    write(json.dumps(to_json(Job())), "config.json")
    assert problem("config.json:big") == "config.json: takes no argument, and 'big' was given"


def test_a_python_file_can_be_loaded_for_its_classes_alone(write, tmp_path):
    write("x = 3")
    assert load_python(tmp_path / "exp.py").x == 3


def test_the_folder_of_a_run_or_of_runs_stands_for_the_config_of_the_newest(write, tmp_path):
    for name, seed in (("runs/job/1", 1), ("runs/job/2", 2)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(json.dumps(to_json(Job(seed=seed))))
    assert load("runs/job/1").config.seed == 1
    assert load("runs/job").config.seed == 2
    assert load("runs/job").path == Path("runs/job/2/config.json")


def test_a_module_that_only_says_it_is_a_file_does_not_lie_beside_the_config(tmp_path, monkeypatch):
    """As `torch.ops`, whose file is said to be _ops.py, wherever one is."""
    (tmp_path / "there.py").write_text("")
    for name in ("there", "not_there"):
        module = types.ModuleType(name)
        module.__file__ = f"{name}.py"
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    assert modules_beside(tmp_path / "exp.py") == {"there.py": tmp_path / "there.py"}
