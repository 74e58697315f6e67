"""GPT-2 (Radford et al., 2019): a causal transformer that says at every position what comes next.

GPT()                                            124,439,808 parameters with 50,257 tokens
GPT(depth=4, width=128, heads=4, context=128)    for bytes

tokens/embedding, positions/embedding, block_00/norm_0, block_00/attention/query, ..., norm        see `transformer`

The head is tied: the logits are products with the tokens' own embeddings.

Initial values are GPT-2's: normal, of deviation 0.02, that of positions 0.01 (openai/gpt-2, src/model.py), and those of
the kernels which write to the shortcut divided by the root of how many there are, 2 depth (the paper's section 2.3).

`sampling.sample` lets it write on: it remembers the keys and values of what is there, so that a further token costs one
position and not all of them.
"""

import math
from collections.abc import Iterator

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from research.config import config, leaf, structure
from research.errors import UserError
from research.models import in_use
from research.models.base import Model
from research.models.layers import Activation, Dropout, Initializer
from research.models.norms import TokenNorm, token_norm
from research.models.transformer import check_tokens, embedding, head_problems, run_blocks
from research.spec import Spec

POSITIONS_DEVIATION = 0.01


@config
class GPT(Model):
    """A decoder of tokens (batch, positions) to the logits of the next token (batch, positions, tokens)."""

    depth: int = structure(12, "blocks", within="[1, inf)")
    width: int = structure(768, "features of a token", within="[1, inf)")
    heads: int = structure(12, "of attention in each block", within="[1, inf)")
    context: int = structure(1024, "positions of the longest sequence", within="[1, inf)")
    expansion: int = structure(
        4, "width of a block's hidden dense layer, as a multiple of a token's", within="[1, inf)"
    )
    activation: Activation = structure("gelu_tanh", "between the two dense layers of a block")
    norm: TokenNorm = structure("layer", "before attention, before the dense layers, and before the logits")
    epsilon: float = leaf(1e-5, "added to the variance in norms", within="[0, inf)")
    initializer: Initializer = structure("normal", "of the kernels")
    dropout: float | None = leaf(None, "share of features dropped after embedding and each half block", within="[0, 1)")
    scan: bool = structure(False, "store and run the blocks stacked: compiled once for any depth")
    remat: bool = structure(False, "recompute blocks in the backward pass, to save memory")

    def problems(self) -> Iterator[tuple[str, str]]:
        return head_problems(self)

    def stacks(self) -> dict[str, int]:
        return {"block": self.depth} if self.scan else {}

    def counted(self) -> str | None:
        return None if self.scan or self.remat else "depth"

    def module(self, spec: Spec) -> nn.Module:
        """Raises UserError where the data is no tokens, too long, or has other classes than the next token."""
        check_tokens("GPT", spec, self.context)
        if spec.classes != spec.tokens:
            raise UserError(f"GPT tells which of {spec.tokens} tokens is next; the data has {spec.classes} classes")
        return _GPT(self, spec.tokens)


class _GPT(nn.Module):
    config: GPT
    vocabulary: int

    @nn.compact
    def __call__(self, inputs: Array, train: bool, start: Array | None = None) -> Array:
        """With `start`, the position of the first input, earlier ones are remembered; see `transformer.Attention`."""
        config = self.config
        tokens = embedding(self.vocabulary, config, "tokens")
        positions = embedding(config.context, config, "positions", POSITIONS_DEVIATION)
        first = 0 if start is None else start
        outputs = tokens(inputs) + positions(first + jnp.arange(inputs.shape[1]))
        if config.dropout is not None:
            outputs = Dropout(config.dropout, name="dropout")(outputs, train)
        depth = in_use.of(config.depth)
        scale = 1 / (math.sqrt(2 * depth) if isinstance(depth, int) else jnp.sqrt(2.0 * depth))
        how = {"norm_first": True, "causal": True, "shortcut_scale": scale, "start": start}
        outputs = run_blocks(self, config, outputs, train, **how)
        return tokens.attend(token_norm(config.norm, config.epsilon, name="norm")(outputs))
