"""The convolutional network for sentences (Kim, 2014): kernels of several widths, each taken at its best place.

TextCNN(windows=(3, 4, 5), features=100)

tokens/embedding, convolution_3, convolution_4, convolution_5, head      named by how many tokens they see
"""

from collections.abc import Iterator

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from research.config import config, leaf, structure
from research.errors import UserError
from research.models.base import Model
from research.models.layers import Activation, Convolution, Dropout, Initializer, activate, initializer
from research.models.transformer import check_tokens
from research.spec import Spec


@config
class TextCNN(Model):
    """Convolutions of several widths side by side over embedded tokens, the maximum over positions, and the head.

    With v tokens, embeddings of e, widths w, f features each and c classes, it has
    v e + sum over w of (w e + 1) f + (len(w) f + 1) c parameters.
    """

    width: int = structure(128, "features of a token's embedding", within="[1, inf)")
    windows: tuple[int, ...] = structure((3, 4, 5), "tokens that the kernels see", within="[1, inf)")
    features: int = structure(100, "of each width of kernel", within="[1, inf)")
    activation: Activation = structure("relu", "what follows each convolution")
    initializer: Initializer | None = structure(None, "of the kernels; the one that suits the activation if None")
    dropout: float | None = leaf(None, "share of features dropped before the head", within="[0, 1)")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.windows:
            yield "windows", "at least one is needed"
        if len(set(self.windows)) < len(self.windows):
            yield "windows", f"{self.windows} has the same width twice; use more features"

    def module(self, spec: Spec) -> nn.Module:
        """Raises UserError where the data is no tokens, or shorter than a kernel."""
        check_tokens("TextCNN", spec)
        if spec.shape[0] < max(self.windows):
            raise UserError(f"TextCNN: inputs {spec.shape} are shorter than a kernel of {max(self.windows)} tokens")
        return _TextCNN(self, spec.tokens, spec.classes)


class _TextCNN(nn.Module):
    config: TextCNN
    vocabulary: int
    classes: int

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        config = self.config
        embedded = nn.Embed(self.vocabulary, config.width, name="tokens")(inputs)
        initial = initializer(config.activation, config.initializer)
        best = []
        for window in config.windows:
            convolution = Convolution(
                config.features, window, padding="VALID", kernel_init=initial, name=f"convolution_{window}"
            )
            best.append(jnp.max(activate(config.activation, convolution(embedded)), axis=1))
        outputs = jnp.concatenate(best, axis=-1)
        if config.dropout is not None:
            outputs = Dropout(config.dropout, name="dropout")(outputs, train)
        return nn.Dense(self.classes, name="head")(outputs)
