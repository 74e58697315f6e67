"""Whole numbers: against NumPy in float64, PyTorch, and integer arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from research.deployment.compression import Int4, Int8, Int8Activations, QuantizationAware, Retraining
from research.deployment.compression.layers import input_ranges, with_kernels
from research.deployment.compression.quantization import (
    FakeQuantized,
    dequantize,
    fake_quantize,
    pack,
    quantize,
    quantize_layers,
    rounded_through,
    scales,
    unpack,
)
from research.deployment.compression.whole_numbers import quantized
from research.models import MLP, ConvNet
from research.training import steps

CONVOLUTIONAL = ConvNet(features=(3, 4), hidden=(6,), norm="batch")
KERNELS = arrays.arrays(np.float32, (5, 3), elements=st.floats(-4, 4, width=32))  # one shape: each is compiled


@settings(max_examples=25)
@given(kernel=KERNELS, bits=st.sampled_from([4, 8]))
def test_weights_are_the_nearest_whole_numbers_of_their_feature(kernel, bits):
    largest = 2 ** (bits - 1) - 1
    whole, scale = quantize(kernel, scales(kernel, bits), bits), np.asarray(scales(kernel, bits), np.float64)
    exact = kernel.astype(np.float64) / scale
    assert np.abs(np.asarray(whole, np.float64) - exact).max() <= 0.5 + 1e-4
    assert np.abs(whole).max() <= largest
    used = np.abs(kernel).max(0) > 1e-30
    np.testing.assert_array_equal(np.abs(whole).max(0)[used], largest)  # the whole range is used
    error = np.abs(np.asarray(dequantize(whole, scale), np.float64) - kernel)
    assert (error <= scale * (0.5 + 1e-4)).all()


@pytest.mark.peers
def test_weights_are_those_of_torch():
    import torch

    kernel = np.random.default_rng(0).normal(size=(3, 3, 5, 7)).astype(np.float32)
    scale = np.asarray(scales(kernel, 8))
    arguments = (torch.tensor(kernel), torch.tensor(scale), torch.zeros(7).int())
    theirs = torch.fake_quantize_per_channel_affine(*arguments, axis=3, quant_min=-128, quant_max=127)
    np.testing.assert_array_equal(quantize(kernel, scale, 8), np.rint(theirs.numpy() / scale))


def test_a_feature_of_zeros_stays_zeros():
    kernel = np.zeros((4, 2), np.float32)
    assert not np.asarray(dequantize(quantize(kernel, scales(kernel, 8), 8), scales(kernel, 8))).any()


@settings(max_examples=25)
@given(st.sampled_from([5, 6]).flatmap(lambda rows: arrays.arrays(np.int8, (rows, 3), elements=st.integers(-8, 7))))
def test_two_to_a_byte_come_back(whole):
    packed = pack(jnp.asarray(whole))
    assert packed.shape == ((len(whole) + 1) // 2, whole.shape[1]) and packed.dtype == jnp.uint8
    np.testing.assert_array_equal(unpack(packed, len(whole)), whole)


@settings(max_examples=25)
@given(kernel=KERNELS, bits=st.sampled_from([4, 8]))
def test_the_gradient_goes_straight_through(kernel, bits):
    random = np.random.default_rng(0).normal(size=kernel.shape).astype(np.float32)
    gradient = jax.grad(lambda kernel: jnp.sum(random * fake_quantize(kernel, bits)))(jnp.asarray(kernel))
    np.testing.assert_array_equal(gradient, random)


def test_the_gradient_of_an_input_out_of_range_is_none():
    through = jax.vmap(jax.grad(rounded_through), (0, None, None))
    np.testing.assert_array_equal(
        through(jnp.array([-9.0, -7.0, 0.3, 7.0, 9.0]), jnp.float32(1), jnp.float32(7)), [0, 1, 1, 1, 0]
    )


# ---------------------------------------------------------------------------------------------------------------------
# Networks


@pytest.mark.parametrize("method", [Int8(), Int4()])
def test_a_network_of_whole_numbers_is_that_of_the_weights_they_stand_for(make, work_on, answers, method):
    trained = make(MLP(depth=2, width=7))
    network = method.compress(work_on(trained)).network
    plain = dict(trained.parameters)
    for layer, bits in method.bits(trained).items():
        kernel = trained.parameters[f"{layer}/kernel"].astype(np.float64)
        scale = np.abs(kernel).max(0) / (2 ** (bits - 1) - 1)
        plain[f"{layer}/kernel"] = (np.round(kernel / scale) * scale).astype(np.float32)
    np.testing.assert_allclose(answers(network), answers(trained._replace(parameters=plain)), atol=2e-5)
    kernels = {path: np.asarray(array) for path, array in network.parameters.items() if path.endswith("/kernel")}
    assert all(kernel.dtype == (np.int8 if isinstance(method, Int8) else np.uint8) for kernel in kernels.values())


def test_convolutions_have_8_bits_where_dense_layers_have_4(make, work_on, answers):
    trained = make(CONVOLUTIONAL)
    network = Int4(skip=("head",)).compress(work_on(trained)).network
    dtypes = {path: array.dtype.name for path, array in network.parameters.items() if path.endswith("/kernel")}
    assert dtypes == {
        "stage_0/convolution_0/kernel": "int8",
        "stage_1/convolution_0/kernel": "int8",
        "dense_0/kernel": "uint8",
        "head/kernel": "float32",
    }
    assert network.parameters["dense_0/kernel"].shape == (8, 6)  # of 16 inputs
    assert np.isfinite(answers(network)).all()


def test_whole_inputs_are_multiplied_as_integers(make, work_on, answers, inputs):
    trained = make(MLP(depth=0))
    network = Int8Activations(examples=64).compress(work_on(trained)).network
    arrays = {path: np.asarray(array) for path, array in network.parameters.items()}
    scale = np.float64(arrays["head/input_scale"])
    whole = np.clip(np.round(inputs.reshape(16, -1) / np.float32(scale)), -127, 127).astype(np.int64)
    exact = whole @ arrays["head/kernel"].astype(np.int64) * (scale * arrays["head/kernel_scale"].astype(np.float64))
    np.testing.assert_allclose(answers(network), exact + arrays["head/bias"], rtol=1e-5, atol=1e-5)


def test_ranges_are_those_of_the_inputs_of_each_layer(make, inputs):
    trained = make(MLP(depth=1, width=5))
    ranges = input_ranges(trained, inputs)
    kernel, bias = (trained.parameters[f"block_00/dense/{name}"].astype(np.float64) for name in ("kernel", "bias"))
    hidden = np.maximum(inputs.reshape(16, -1) @ kernel + bias, 0)
    assert ranges["block_00/dense"] == pytest.approx(np.abs(inputs).max())
    assert ranges["head"] == pytest.approx(hidden.max(), rel=1e-5)
    cut = input_ranges(trained, inputs, 90.0)
    assert cut["head"] == pytest.approx(np.percentile(hidden, 90), rel=1e-4)


def test_training_sees_the_network_that_it_will_be(make, answers, inputs):
    trained = make(ConvNet(features=(3, 4), hidden=(6,)))
    bits = {layer: 4 if found.kind == "dense" else 8 for layer, found in with_kernels(trained).items()}
    ranges = input_ranges(trained, inputs)
    fake = FakeQuantized(model=trained.model, bits=tuple(bits.items()), ranges=tuple(ranges.items()))
    network = quantized(trained, bits, ranges).network
    np.testing.assert_allclose(answers(trained._replace(model=fake)), answers(network), atol=1e-4)


def test_a_network_that_is_trained_for_it_is_whole_numbers_in_the_end(make, work_on, answers):
    work = work_on(make(CONVOLUTIONAL))
    network = QuantizationAware(retraining=Retraining(duration=steps(3)), examples=32).compress(work).network
    assert network.parameters["head/kernel"].dtype == np.uint8
    assert network.parameters["stage_0/convolution_0/kernel"].dtype == np.int8
    assert np.isfinite(answers(network)).all()


def test_what_is_to_be_skipped_must_be_there(make, work_on):
    work = work_on(make(MLP(depth=0)))
    assert list(Int8(skip=("haed",)).unsuited(work)) == ["has no layer 'haed' to skip; did you mean 'head'?"]


def test_other_layers_are_as_they_were(make):
    trained = make(CONVOLUTIONAL)
    found = quantize_layers(trained.parameters, {"dense_0": 8}, {})
    assert set(found) - set(trained.parameters) == {"dense_0/kernel_scale"}
    assert all(found[path] is array for path, array in trained.parameters.items() if path != "dense_0/kernel")
