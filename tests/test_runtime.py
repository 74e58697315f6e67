"""What is set for a process before JAX starts."""

import subprocess
import sys

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
