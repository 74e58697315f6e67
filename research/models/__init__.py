"""Models: configs that make Flax modules, behind two pure functions. The only room that imports `flax.linen`."""

from research.models.base import AnyModel, Model, Network, network
from research.models.bert import BERT
from research.models.convnet import ConvNet
from research.models.gpt import GPT
from research.models.lenet import LeNet, LeNet1998
from research.models.mlp import MLP
from research.models.resnet import ResNet, SmallResNet
from research.models.separable import SeparableNet
from research.models.teaching import OneConvolution, TwoConvolutions
from research.models.textcnn import TextCNN
from research.models.vgg import VGG
from research.models.vit import ViT, vit

__all__ = [
    "BERT",
    "GPT",
    "MLP",
    "VGG",
    "AnyModel",
    "ConvNet",
    "LeNet",
    "LeNet1998",
    "Model",
    "Network",
    "OneConvolution",
    "ResNet",
    "SeparableNet",
    "SmallResNet",
    "TextCNN",
    "TwoConvolutions",
    "ViT",
    "network",
    "vit",
]
