"""What is written is read back to the bit, and what is damaged is refused."""

import gzip
import json

import numpy as np
import pytest
from safetensors.numpy import load

from research.config import to_json
from research.data import base
from research.deployment.compression import (
    Factorization,
    Int4,
    Int8Activations,
    MagnitudePruning,
    read_compressed,
)
from research.deployment.compression.storage import WEIGHTS, packed, serialised, unpacked, write_compressed
from research.errors import UserError
from research.models import MLP, ConvNet
from research.training.folder import RunFolder

OWN = '''
import flax.linen as nn


class Own(nn.Module):
    """A user's."""

    width: int = 4
    classes: int | None = None

    @nn.compact
    def __call__(self, images):
        hidden = nn.relu(nn.Dense(self.width, name="hidden")(images.reshape(len(images), -1)))
        return nn.Dense(self.classes, name="head")(hidden)
'''


@pytest.fixture
def run(tmp_path, digits):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.write_json("data.json", base.describe(digits))
    return folder


@pytest.mark.parametrize(
    "method",
    [
        Int8Activations(examples=16),
        Int4(),
        MagnitudePruning(sparsity=0.7, retraining=None),
        Factorization(energy=0.3, retraining=None),
    ],
    ids=lambda method: type(method).__name__,
)
def test_a_network_comes_back(make, work_on, answers, run, tmp_path, method):
    trained = make(ConvNet(features=(3, 4), hidden=(8,), norm="batch"))
    compressed = method.compress(work_on(trained))
    write_compressed(tmp_path / "it", compressed.network, {"method": method.title}, run)
    read = read_compressed(tmp_path / "it")
    assert read.model == compressed.network.model
    for there, here in (
        (read.parameters, compressed.network.parameters),
        (read.model_state, compressed.network.model_state),
    ):
        assert there.keys() == here.keys()
        for path, array in here.items():
            assert there[path].dtype == array.dtype
            np.testing.assert_array_equal(there[path], array)
    np.testing.assert_array_equal(answers(read), answers(compressed.network))


def test_a_model_of_the_users_own_comes_back_with_its_file(make, work_on, answers, run, tmp_path):
    from research.commandline.loading import load_python

    (run.path / "config.py").write_text(OWN)
    trained = make(load_python(run.path / "config.py").Own())
    network = Int4().compress(work_on(trained)).network
    write_compressed(tmp_path / "it", network, {}, run)
    np.testing.assert_array_equal(answers(read_compressed(tmp_path / "it")), answers(network))
    assert json.loads((tmp_path / "it/model.json").read_text()) == to_json(network.model)


def test_zeros_take_a_bit_each(make):
    trained = make(MLP(depth=1, width=64))
    kernel = np.array(trained.parameters["block_00/dense/kernel"])
    kernel[np.random.default_rng(0).random(kernel.shape) < 0.9] = 0
    sparse = trained._replace(parameters={**trained.parameters, "block_00/dense/kernel": kernel})
    saved = len(serialised(trained)) - len(serialised(sparse))
    assert saved == pytest.approx(4 * (kernel == 0).sum() - kernel.size / 8, abs=200)
    np.testing.assert_array_equal(unpacked(packed(sparse))["block_00/dense/kernel"], kernel)


def test_any_reader_of_safetensors_can_read_the_arrays(make):
    trained = make(MLP(depth=0))
    tensors = load(gzip.decompress(packed(trained)))
    np.testing.assert_array_equal(tensors["head/kernel"], trained.parameters["head/kernel"])


def test_a_damaged_file_is_refused(make, run, tmp_path):
    trained = make(MLP(depth=0))
    write_compressed(tmp_path / "it", trained, {}, run)
    whole = (tmp_path / "it" / WEIGHTS).read_bytes()
    (tmp_path / "it" / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged or cut off"):
        read_compressed(tmp_path / "it")
    other = trained._replace(parameters={**trained.parameters, "head/bias": trained.parameters["head/bias"] + 1})
    (tmp_path / "it" / WEIGHTS).write_bytes(packed(other))
    with pytest.raises(UserError, match="not those that were written"):
        read_compressed(tmp_path / "it")


def test_a_folder_without_a_network_is_told_with_those_inside(make, run, tmp_path):
    write_compressed(tmp_path / "networks" / "int8", make(MLP(depth=0)), {}, run)
    with pytest.raises(UserError, match="holds no compressed network.*networks/int8"):
        read_compressed(tmp_path)
