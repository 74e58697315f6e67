"""LeNet-5 (LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998).

LeNet is what goes by the name today, with 61,706 parameters; LeNet1998 is the network of the paper, with 60,000:

                        LeNet                                   LeNet1998
    convolution_0       5x5, 6 features          156            the same                             156
    pooling_0           average of 2x2             0            sum of 2x2, a coefficient, a bias     12
    convolution_1       5x5, 16 features        2416            of 60 of the 96 pairs of features   1516
    pooling_1           average of 2x2             0            as pooling_0                          32
    dense_0             400 to 120             48120            the same                           48120
    dense_1             120 to 84              10164            the same                           10164
    head                84 to 10                 850            distances to fixed codes               0

Pictures are 28x28, padded to 32x32 by the first convolution, or 32x32 without padding ("VALID").
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import Array

from research.config import config, structure
from research.errors import UserError
from research.models.base import Model
from research.models.layers import Activation, Convolution, activate, initializer
from research.ops.convolution import convolve
from research.ops.pooling import average_pool, max_pool
from research.spec import Spec

FEATURES = (6, 16)
DENSE = (120, 84)
KERNEL = 5

# Table I of the paper: which features of the first pooling each of the 16 features of the second convolution sees.
CONNECTIONS = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)


def check_size(name: str, spec: Spec, padding: str) -> None:
    """Raises UserError where a picture is too small to be convolved and halved twice."""
    sizes, least = spec.shape[:-1], 12 if padding == "SAME" else 16
    if len(sizes) != 2 or min(sizes) < least:
        raise UserError(f"{name} needs pictures of at least ({least}, {least}, features); these have {spec.shape}")


@config
class LeNet(Model):
    """LeNet-5 as it is usually built: plain average pooling, every feature seen, a dense head."""

    padding: Literal["SAME", "VALID"] = structure("SAME", "of the first convolution; the second has none")
    activation: Activation = structure("tanh", "what follows each convolution and dense layer")
    pooling: Literal["max", "average"] = structure("average", "windows of 2, stride 2")

    def module(self, spec: Spec) -> nn.Module:
        """Raises UserError where the data is no picture, or too small a one."""
        check_size("LeNet", spec, self.padding)
        return _LeNet(self, spec.classes)


class _LeNet(nn.Module):
    config: LeNet
    classes: int

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        config, outputs = self.config, inputs
        initial = initializer(config.activation)
        pool = max_pool if config.pooling == "max" else average_pool
        for index, features in enumerate(FEATURES):
            padding = config.padding if index == 0 else "VALID"
            outputs = Convolution(features, KERNEL, padding=padding, kernel_init=initial, name=f"convolution_{index}")(
                outputs
            )
            outputs = pool(activate(config.activation, outputs), 2)
        outputs = outputs.reshape(outputs.shape[0], -1)
        for index, features in enumerate(DENSE):
            outputs = nn.Dense(features, kernel_init=initial, name=f"dense_{index}")(outputs)
            outputs = activate(config.activation, outputs)
        return nn.Dense(self.classes, name="head")(outputs)


# ---------------------------------------------------------------------------------------------------------------------
# As published


@config
class LeNet1998(Model):
    """LeNet-5 as published: trained subsampling, a partial connection table, distances to fixed codes for logits.

    Every layer but the last is squashed by 1.7159 tanh(2 a / 3), and weights begin evenly within 2.4 / fan-in
    (Appendix A). The logits are -sum (x - code)^2 over the 84 features; the codes are fixed signs. The paper draws
    the characters for codes, and names random signs, which these are, as the other choice.
    """

    padding: Literal["SAME", "VALID"] = structure("SAME", "of the first convolution; the second has none")

    def module(self, spec: Spec) -> nn.Module:
        """Raises UserError where the data is no picture, or too small a one."""
        check_size("LeNet1998", spec, self.padding)
        return _LeNet1998(self, spec.classes)


def squash(inputs: Array) -> Array:
    """1.7159 tanh(2 a / 3), which takes 1 to 1 and -1 to -1, and is steepest between."""
    return 1.7159 * jnp.tanh(inputs * (2 / 3))


def within_fan_in(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Weights (*window, in, out) evenly within 2.4 / fan-in of zero (LeCun et al., 1998, Appendix A)."""
    bound = 2.4 / np.prod(shape[:-1])
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def codes(classes: int) -> np.ndarray:
    """The fixed signs (84, classes) that stand for the classes."""
    return np.random.default_rng(1998).choice(np.array([-1.0, 1.0], np.float32), (DENSE[-1], classes))


class _LeNet1998(nn.Module):
    config: LeNet1998
    classes: int

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        padding = self.config.padding
        outputs = Convolution(FEATURES[0], KERNEL, padding=padding, kernel_init=within_fan_in, name="convolution_0")(
            inputs
        )
        outputs = _Subsampling(name="pooling_0")(squash(outputs))
        outputs = _PartialConvolution(CONNECTIONS, name="convolution_1")(outputs)
        outputs = _Subsampling(name="pooling_1")(squash(outputs))
        outputs = outputs.reshape(outputs.shape[0], -1)
        for index, features in enumerate(DENSE):
            outputs = squash(nn.Dense(features, kernel_init=within_fan_in, name=f"dense_{index}")(outputs))
        return -jnp.sum((outputs[:, :, None] - codes(self.classes).astype(outputs.dtype)) ** 2, axis=1)


class _Subsampling(nn.Module):
    """The sum of each 2x2 window times a coefficient of its feature, plus a bias, squashed; begins as the average."""

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        features = inputs.shape[-1]
        coefficient = self.param("coefficient", nn.initializers.constant(0.25), (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        inputs, coefficient, bias = promote_dtype(inputs, coefficient, bias)
        return squash(4 * average_pool(inputs, 2) * coefficient + bias)


class _PartialConvolution(nn.Module):
    """A convolution whose output features each see some of the input's.

    The kernel (*window, pairs) holds what is connected; a matrix of zeros and ones lays it out as (*window, in, out).
    """

    connections: tuple[tuple[int, ...], ...]

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        seen, features = inputs.shape[-1], len(self.connections)
        pairs = [(i, o) for o, sources in enumerate(self.connections) for i in sources]
        fan_in = KERNEL**2 * np.array([len(self.connections[o]) for _, o in pairs])

        def initial(key, shape):
            return jax.random.uniform(key, shape, jnp.float32, -1, 1) * (2.4 / fan_in)

        kernel = self.param("kernel", initial, (KERNEL, KERNEL, len(pairs)))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        inputs, kernel, bias = promote_dtype(inputs, kernel, bias)
        layout = np.zeros((len(pairs), seen, features), np.float32)
        layout[np.arange(len(pairs)), *zip(*pairs, strict=True)] = 1
        whole = jnp.einsum("hwp,pio->hwio", kernel, layout.astype(kernel.dtype), precision="highest")
        return convolve(inputs, whole, padding="VALID") + bias
