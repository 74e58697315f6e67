"""One epoch of the real thing, where the files of MNIST are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.mnist
@pytest.mark.skipif(not os.environ.get("MNIST_DIR"), reason="MNIST_DIR names no folder with the files of MNIST")
def test_one_epoch_of_mnist_reaches_98_5_percent(tmp_path, one_device):
    command = [sys.executable, "launch.py", "--config", "experiments/mnist_cnn.py", "--config.duration", "1 epoch"]
    subprocess.run([*command, "--workdir", str(tmp_path)], cwd=ROOT, env=one_device, check=True)
    (summary,) = tmp_path.glob("*/*/summary.json")
    assert json.loads(summary.read_text())["test"]["accuracy"] >= 0.985
