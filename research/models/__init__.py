"""Models: configs that make Flax modules, behind two pure functions. The only room that imports `flax.linen`."""

from research.models.base import AnyModel, Model, Network, network
from research.models.convnet import ConvNet
from research.models.mlp import MLP

__all__ = ["MLP", "AnyModel", "ConvNet", "Model", "Network", "network"]
