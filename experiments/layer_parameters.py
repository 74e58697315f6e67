"""Layers that make 16x16x64 of 16x16x64, side by side: parameters, cost, depth, what they see, and their time.

    python launch.py --config experiments/layer_parameters.py

Time: about a quarter of a minute on two cores. Result: tables and a figure. A 3x3 convolution has 36,928 parameters,
and the depthwise separable one that often takes its place 4,800; on a CPU it takes longer all the same.

Attention and recurrent layers see the same 256 positions as a sequence, the embedding as tokens. A dense layer from all
positions to all is counted and not run: its 268 million parameters would need a gigabyte.

    python launch.py --config experiments/layer_parameters.py --mode inspect --format json
"""

import flax.linen as nn

from research.comparisons import Comparison, Subject

SIDE, FEATURES = 16, 64
POSITIONS = SIDE * SIDE
RANK = 8


class Separable(nn.Module):
    """A 3x3 window for each feature, which sees its own feature alone, and then a 1x1 convolution that mixes them."""

    features: int

    @nn.compact
    def __call__(self, inputs):
        seen = inputs.shape[-1]
        outputs = nn.Conv(seen, (3, 3), feature_group_count=seen, name="depthwise")(inputs)
        return nn.Conv(self.features, (1, 1), name="pointwise")(outputs)


class OfAllPositions(nn.Module):
    """A dense layer from every feature at every position to every other; by way of `rank` numbers if that is given."""

    rank: int | None = None

    @nn.compact
    def __call__(self, inputs):
        outputs = inputs.reshape(len(inputs), -1)
        if self.rank is not None:
            outputs = nn.Dense(self.rank, use_bias=False, name="down")(outputs)
        return nn.Dense(inputs[0].size, name="dense")(outputs).reshape(inputs.shape)


def low_rank(parameters, inputs):
    """A dense layer whose kernel is a product of two thin matrices: any pure function can be compared."""
    return inputs @ parameters["down"] @ parameters["up"] + parameters["bias"]


def get_config() -> Comparison:
    sequence = (POSITIONS, FEATURES)
    thin = (("down", (FEATURES, RANK)), ("up", (RANK, FEATURES)), ("bias", (FEATURES,)))
    return Comparison(
        inputs=(SIDE, SIDE, FEATURES),
        rounds=21,
        subjects=(
            Subject(name="3x3 convolution", layer=nn.Conv(FEATURES, (3, 3))),
            Subject(name="separable 3x3", layer=Separable(FEATURES)),
            Subject(name="depthwise 3x3", layer=nn.Conv(FEATURES, (3, 3), feature_group_count=FEATURES)),
            Subject(name="3x3 in 4 groups", layer=nn.Conv(FEATURES, (3, 3), feature_group_count=4)),
            Subject(name="3x3 dilated by 2", layer=nn.Conv(FEATURES, (3, 3), kernel_dilation=2)),
            Subject(name="3x3 transposed", layer=nn.ConvTranspose(FEATURES, (3, 3))),
            Subject(name="5x5 convolution", layer=nn.Conv(FEATURES, (5, 5))),
            Subject(name="1x1 convolution", layer=nn.Conv(FEATURES, (1, 1))),
            Subject(name="dense", layer=nn.Dense(FEATURES)),
            Subject(name=f"dense, rank {RANK}", layer=low_rank, parameters=thin),
            Subject(name="dense, all to all", layer=OfAllPositions(), timed=False),
            Subject(name=f"all to all, rank {RANK}", layer=OfAllPositions(rank=RANK)),
            Subject(name="attention, 4 heads", layer=nn.MultiHeadDotProductAttention(num_heads=4), inputs=sequence),
            Subject(name="recurrent", layer=nn.RNN(nn.SimpleCell(FEATURES)), inputs=sequence),
            Subject(name="GRU", layer=nn.RNN(nn.GRUCell(FEATURES)), inputs=sequence),
            Subject(name="LSTM", layer=nn.RNN(nn.OptimizedLSTMCell(FEATURES)), inputs=sequence),
            Subject(name="embedding, 256", layer=nn.Embed(256, FEATURES), inputs=(POSITIONS,), tokens=256),
            Subject(name="layer norm", layer=nn.LayerNorm()),
            Subject(name="batch norm", layer=nn.BatchNorm(use_running_average=True)),
        ),
    )
