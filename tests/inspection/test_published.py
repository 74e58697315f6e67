"""The names everyone knows have the parameters, depth and cost that were published of them.

Multiply-adds are those that torchvision states of its models ("GFLOPS" of the weights' documentation, which are
multiply-adds); GPT-2's follow from its sizes. Parameters are those of torchvision and of the papers.
"""

import subprocess
import sys

import pytest

from research.models import BERT, GPT, VGG, LeNet, LeNet1998, OneConvolution, ResNet, SmallResNet, TwoConvolutions, ViT

PICTURE = (224, 224, 3)
GIGA = 1e9


@pytest.mark.parametrize(
    ("depth", "parameters", "products"),
    [
        (18, 11_689_512, 1.814),
        (34, 21_797_672, 3.664),
        (50, 25_557_032, 4.089),
        (101, 44_549_160, 7.801),
        (152, 60_192_808, 11.514),
    ],
)
def test_resnets(look, depth, parameters, products):
    inspection = look(ResNet(depth=depth), PICTURE, backward=False)
    assert inspection.parameters == parameters
    assert inspection.depth.longest == depth  # projections stand beside the path, not on it
    assert inspection.forward.multiply_adds / GIGA == pytest.approx(products, rel=0.001)
    assert sum(inspection.depth.paths.values()) == 2**inspection.depth.blocks  # through each block or past it


def test_small_resnets_with_and_without_shortcuts(look):
    residual, plain = (look(SmallResNet(depth=20, shortcut=s), (32, 32, 3), classes=10) for s in ("pad", None))
    assert residual.parameters == plain.parameters == 269_722
    assert residual.depth.longest == plain.depth.longest == 20
    assert (residual.depth.shortest, plain.depth.shortest) == (2, 20)
    assert look(SmallResNet(depth=20, shortcut="project"), (32, 32, 3), classes=10).parameters == 272_474


def test_vgg(look):
    inspection = look(VGG(depth=16), PICTURE, backward=False)
    assert inspection.parameters == 138_357_544
    assert inspection.depth.paths == {16: 1}
    assert inspection.forward.multiply_adds / GIGA == pytest.approx(15.47, rel=0.001)
    assert [layer.field for layer in inspection.layers if layer.kind == "convolution"][-1] == (196, 196, 3)


def test_vision_transformers(look):
    base = look(ViT(depth=12, width=768, heads=12, scan=True), PICTURE, backward=False)
    assert base.parameters == 86_567_656
    assert base.forward.multiply_adds / GIGA == pytest.approx(17.56, rel=0.01)
    assert base.depth.longest == 1 + 4 * 12 + 1  # the patches, four a block, the head
    large = look(ViT(depth=24, width=1024, heads=16, scan=True), PICTURE, backward=False)
    assert large.parameters == 304_326_632
    assert large.forward.multiply_adds / GIGA == pytest.approx(61.55, rel=0.01)


def test_gpt_2(look):
    inspection = look(GPT(scan=True), (1024,), classes=50_257, tokens=50_257, backward=False)
    assert inspection.parameters == 124_439_808
    attention = 2 * 1024**2 * 768  # scores, and what they read; published for all pairs of positions
    block = 1024 * 12 * 768**2 + attention  # projections and dense layers
    published = 12 * block + 1024 * 768 * 50_257
    assert published / GIGA == pytest.approx(146, rel=0.01)
    never_seen = 12 * attention * 3 // 8  # above the diagonal of four blocks, and not computed
    assert inspection.forward.multiply_adds == published - never_seen
    assert inspection.depth.longest == 4 * 12 + 1


def test_bert(look):
    assert (
        look(BERT(scan=True), (128,), classes=2, tokens=30_522, backward=False).parameters == 109_482_240 + 768 * 2 + 2
    )  # a head


def test_lenets_and_the_teaching_networks(look):
    for model, sizes, parameters, depth in (
        (LeNet(), (28, 28, 1), 61_706, 5),
        (LeNet1998(), (28, 28, 1), 60_000, 5),
        (OneConvolution(), (28, 28, 1), 387_614, 4),
        (TwoConvolutions(), (28, 28, 1), 3_274_634, 4),
    ):
        inspection = look(model, sizes, classes=10, backward=False)
        assert inspection.parameters == parameters, type(model).__name__
        if not isinstance(model, LeNet1998):  # it subsamples by weights of its own, and compares with pictures
            assert inspection.depth.longest == depth


def test_scanned_networks_cost_exactly_what_unrolled_ones_do(look):
    scanned, unrolled = (
        look(GPT(depth=3, width=16, heads=2, context=8, scan=scan), (8,), classes=11, tokens=11)
        for scan in (True, False)
    )
    rows = [[row._replace(activation_bytes=0) for row in one.layers] for one in (scanned, unrolled)]
    assert rows[0] == rows[1]
    assert scanned.depth == unrolled.depth


SEVEN_BILLION = """
import re, time
from pathlib import Path
import jax, jax.numpy as jnp
from research.inspection import inspect
from research.models import GPT
from research.models.base import network
from research.spec import Spec

tokens = 32_000
began = time.monotonic()
net = network(GPT(depth=32, width=4096, heads=32, context=2048), Spec((2048,), tokens, ("",) * tokens, tokens))
parameters = jax.eval_shape(net.init, jax.random.key(0))["params"]
apply = lambda p, x: net.apply({"params": p}, x, train=False)[0]
inspection = inspect(apply, parameters, jax.ShapeDtypeStruct((1, 2048), jnp.int32))
# The kernel's own figure: that of `resource` is inherited from the program that started this one.
most = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(inspection.parameters, int(most[1]) * 1024, time.monotonic() - began)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_seven_billion_parameters_are_inspected_in_less_memory_than_a_thousandth_would_take():
    done = subprocess.run([sys.executable, "-c", SEVEN_BILLION], capture_output=True, text=True, check=True)
    parameters, memory, _ = map(float, done.stdout.split())
    assert parameters == 32 * (12 * 4096**2 + 13 * 4096) + 4096 * (32_000 + 2048 + 2)
    assert memory < 1e9
