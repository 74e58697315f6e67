"""The two networks that introductions to deep learning train on MNIST, under names of their own.

On pictures of 28x28x1 with ten classes, padded ("SAME", the default) or not ("VALID"), they have

    OneConvolution      387,614 or   335,774 parameters: 3x3x16, pool, dense 120, 84; 14x14x16 or 13x13x16 flattened
    TwoConvolutions   3,274,634 or 1,111,946 parameters: 5x5x32, pool, 5x5x64, pool, dense 1024; 7x7x64 or 4x4x64

Nearly all of them sit in the first dense layer. They are a `ConvNet` with other defaults, and nothing else.
"""

from research.config import config, structure
from research.models.convnet import ConvNet


@config
class OneConvolution(ConvNet):
    """One 3x3 convolution and the dense layers of LeNet-5."""

    features: tuple[int, ...] = structure((16,), "features of each stage, and so how many stages", within="[1, inf)")
    hidden: tuple[int, ...] = structure((120, 84), "features of the dense layers before the last", within="[1, inf)")


@config
class TwoConvolutions(ConvNet):
    """Two 5x5 convolutions and one wide dense layer: the tutorial network of TensorFlow's first years."""

    features: tuple[int, ...] = structure((32, 64), "features of each stage, and so how many stages", within="[1, inf)")
    kernel_size: int = structure(5, "positions a kernel covers in each dimension", within="[1, inf)")
    hidden: tuple[int, ...] = structure((1024,), "features of the dense layers before the last", within="[1, inf)")
