import io
import re

from rich.console import Console

from research.commandline.arguments import make_flags
from research.commandline.listing import Listed, find_experiments, read_experiment, show_experiments, show_flags

DOCSTRING = '''"""A small net on digits.

    python launch.py --config experiments/small.py:big --config.seed 3

Time: 20 s on two
cores. Result: 98.7 % test accuracy (mean of five seeds).

More about Time: it passes.
"""
raise RuntimeError("a file is listed without being run")
'''


def shown(renderable, width=80):
    file = io.StringIO()
    Console(file=file, width=width).print(renderable)
    return file.getvalue()


def test_a_docstring_tells_line_command_time_and_result(tmp_path):
    (tmp_path / "small.py").write_text(DOCSTRING)
    assert read_experiment(tmp_path / "small.py") == Listed(
        name="small",
        line="A small net on digits.",
        command="python launch.py --config experiments/small.py:big --config.seed 3",
        time="20 s on two cores",
        result="98.7 % test accuracy (mean of five seeds)",
    )


def test_a_variable_before_a_command_is_part_of_it(tmp_path):
    (tmp_path / "small.py").write_text(DOCSTRING.replace("python", "MNIST_DIR=path/to/mnist A=1 python"))
    assert read_experiment(tmp_path / "small.py").command.startswith("MNIST_DIR=path/to/mnist A=1 python launch.py --c")


def test_a_file_without_a_docstring_has_its_name_and_command(tmp_path):
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "bare.py").write_text("x = 1")
    listed = read_experiment(folder / "bare.py")
    assert listed == Listed("bare", "", "python launch.py --config experiments/bare.py", "", "")


def test_a_file_that_is_no_python_is_listed_with_what_is_wrong(tmp_path):
    (tmp_path / "broken.py").write_text("x = (")
    (tmp_path / "fine.py").write_text('"""Fine."""')
    (tmp_path / "_hidden.py").write_text('"""Hidden."""')
    broken, fine = find_experiments(tmp_path)
    assert "cannot be read" in broken.line
    assert fine.line == "Fine."


def test_the_list_fits_80_columns_and_keeps_commands_in_one_piece(tmp_path):
    command = "MNIST_DIR=path/to/mnist python launch.py --config experiments/mnist_best.py"
    (tmp_path / "small.py").write_text(re.sub("python .*", command, DOCSTRING))
    text = shown(show_experiments(find_experiments(tmp_path)))
    assert f"\n  {command} " in text
    assert "20 s on two cores; 98.7 % test accuracy" in text
    assert max(map(len, text.splitlines())) <= 80
    assert text.isascii()


def test_every_experiment_of_ours_says_what_to_expect():
    found = find_experiments()
    assert found
    for listed in found:
        assert listed.line.endswith("."), listed
        assert f"python launch.py --config experiments/{listed.name}.py" in listed.command, listed
        assert listed.time, listed
        assert listed.result, listed


def test_no_experiment_of_ours_leaves_its_time_or_result_open():
    left_open = [listed.name for listed in find_experiments() if "TIME" in listed.time or "RESULT" in listed.result]
    assert left_open == []


def test_the_page_of_flags_has_every_flag():
    text = shown(show_flags(make_flags()))
    for name in make_flags():
        assert f"--{name}" in text or name == "h"
    assert "--config.PATH VALUE" in text
    assert max(map(len, text.splitlines())) <= 80
