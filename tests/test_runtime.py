"""What is set for a process before JAX starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from research import runtime


@pytest.mark.parametrize("flag, known", [("xla_cpu_multi_thread_eigen", True), ("xla_cpu_no_such_flag", False)])
def test_a_flag_is_known_if_xla_takes_it(flag, known, one_device):
    assert runtime.knows(flag) is known
    environment = {**one_device, "XLA_FLAGS": f"--{flag}=true"}
    asked = [sys.executable, "-c", "import jax; jax.devices()"]
    done = subprocess.run(asked, env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) is known, done.stderr
    assert known or flag in done.stderr


def test_a_part_of_a_flag_is_not_a_flag():
    assert not runtime.knows("xla_cpu_multi_thread_eige")


@pytest.fixture
def not_begun(monkeypatch, tmp_path):
    """As in a process that has not imported JAX, with a cache of its own."""
    monkeypatch.delitem(sys.modules, "jax._src.xla_bridge", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")
    return monkeypatch


def test_known_flags_are_added_to_the_users_and_unknown_ones_never(not_begun):
    not_begun.setattr(runtime, "FLAGS", {"xla_dump_to": "x", "xla_cpu_no_such_flag": "1"})
    assert runtime.tune() == {"xla_dump_to": "x"}
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=true --xla_dump_to=x"
    assert runtime.tune() == {}  # they are there


def test_what_the_user_has_set_wins(not_begun):
    not_begun.setattr(runtime, "FLAGS", {"xla_cpu_multi_thread_eigen": "false"})
    assert runtime.tune() == {}
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=true"


def test_whether_a_flag_is_known_is_remembered_and_found_out_again_if_that_is_damaged(not_begun, tmp_path):
    asked = []
    not_begun.setattr(runtime, "FLAGS", {"xla_dump_to": "x"})
    not_begun.setattr(runtime, "knows", lambda flag: asked.append(flag) or False)
    assert runtime.tune() == runtime.tune() == {}
    assert asked == ["xla_dump_to"]
    (tmp_path / "fathom" / "flags.json").write_text("{")
    assert runtime.tune() == {}
    assert asked == ["xla_dump_to"] * 2


def test_too_late_is_told_and_changes_nothing(monkeypatch):
    import jax

    jax.devices()
    monkeypatch.setattr(runtime, "FLAGS", {"xla_dump_to": "x"})
    before = os.environ["XLA_FLAGS"]
    with pytest.warns(UserWarning, match="JAX has computed already"):
        assert runtime.tune() == {}
    assert os.environ["XLA_FLAGS"] == before


CONVOLVES = """
import jax, jax.numpy as jnp
convolve = lambda x, kernel: jax.lax.conv(x, kernel, (1, 1), "SAME")
print(jax.jit(convolve).lower(jnp.ones((8, 16, 16, 16)), jnp.ones((16, 16, 3, 3))).compile().as_text())
"""


def test_onednn_is_among_the_choices_where_it_computes_convolutions(one_device):
    ((name, flags),) = [(name, flags) for name, flags in runtime.HANDED.items() if runtime.ONEDNN in flags]
    environment = {**one_device, "XLA_FLAGS": runtime.handing(one_device["XLA_FLAGS"], flags)}
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "0"
    done = subprocess.run([sys.executable, "-c", CONVOLVES], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("onednn$convolution" in done.stdout) is (name in runtime.choices())


COMPILES = """
from research import runtime
runtime.remember_programs()
import jax
jax.jit(lambda x: x + 1)(1.0)
"""


@pytest.mark.parametrize("given", [False, True], ids=["in our folder", "in the user's"])
def test_programs_are_kept_beside_one_whose_last_use_is_not_known(tmp_path, one_device, given):
    folder = tmp_path / "fathom" / "programs"
    folder.mkdir(parents=True)
    (folder / "jit_killed-cache").write_bytes(b"x" * 100)  # of a process killed before it wrote -atime
    unset = ("JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE")
    environment = {name: value for name, value in one_device.items() if name not in unset}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(folder)} if given else {}
    done = subprocess.run([sys.executable, "-c", COMPILES], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    names = {path.name for path in folder.iterdir()}
    assert len([name for name in names if name.endswith("-cache")]) > 1
    assert ("jit_killed-atime" in names) is not given


RESTARTS = """
import os, sys
from research import runtime
print(sys.argv[1:], end=" ")
runtime.keep_memory()
print(os.environ.get("MALLOC_TOP_PAD_"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
@pytest.mark.parametrize(
    ("words", "given", "kept"),
    [(["a b"], {}, "67108864"), ([], {"MALLOC_ARENA_MAX": "2"}, "None")],
)
def test_a_program_is_started_anew_once_with_its_arguments_unless_the_user_minds(tmp_path, words, given, kept):
    (tmp_path / "program.py").write_text(RESTARTS)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment = {**plain, "PYTHONPATH": str(Path(__file__).parents[1]), **given}
    command = [sys.executable, str(tmp_path / "program.py"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    times = 2 if kept != "None" else 1
    assert done.stdout.split("\n")[0] == f"{words} " * times + kept


@pytest.mark.parametrize("tuned", [True, False])
def test_a_run_keeps_what_was_set(tmp_path, one_device, tuned):
    file, name = tmp_path / "tiny.py", "xla_cpu_experimental_ynn_fusion_type"
    file.write_text(
        "from research.data import Digits\nfrom research.models import MLP\nfrom research.training import *\n"
        "def get_config():\n    return Experiment(data=Digits(), model=MLP(depth=1, width=8), duration=steps(2))\n"
    )
    flags = " ".join(flag for flag in one_device["XLA_FLAGS"].split() if name not in flag)
    plain = {name: value for name, value in one_device.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "launch.py", "--config", str(file), "--workdir", str(tmp_path / "runs")]
    command += [] if tuned else ["--tune=false"]
    root = Path(__file__).parents[1]
    subprocess.run(command, env={**plain, "XLA_FLAGS": flags}, cwd=root, check=True, capture_output=True)
    found = json.loads(next(tmp_path.glob("runs/tiny/*/environment.json")).read_text())
    assert (f"--{name}=" in found["XLA_FLAGS"]) is (tuned and runtime.knows(name))
    assert bool(found["allocator"]) is (tuned and sys.platform == "linux")


def test_what_runs_once_is_the_same_to_the_bit():
    def draw(count, key):
        return jax.random.truncated_normal(key, -2, 2, (count, 5)) * 0.3

    once, key = runtime.run_once(static_argnums=0)(draw), jax.random.key(3)
    np.testing.assert_array_equal(once(4, key), jax.jit(draw, static_argnums=0)(4, key))
    assert once(2, key).shape == (2, 5)
    assert once.lower(4, key).out_info.shape == (4, 5)


def test_what_runs_once_is_compiled_with_the_options_that_make_it_quick(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(runtime, "QUICKLY", {"xla_no_such_option": 1})  # XLA says so, which shows that it was told
    once = runtime.run_once(static_argnums=())(lambda x: x + 1)
    for compiled in (lambda: once(1.0), lambda: once.lower(1.0).compile()):
        with pytest.raises(Exception, match="xla_no_such_option"):
            compiled()
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")  # where options may be others
    assert runtime.run_once(static_argnums=())(lambda x: x + 1)(1.0) == 2.0
