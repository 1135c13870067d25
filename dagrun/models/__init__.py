"""Networks that people know by name; keys as in torchvision, so that its weights load."""

from dagrun.models.alexnet import AlexNet, ColumnAlexNet
from dagrun.models.googlenet import GoogLeNet, googlenet_loss
from dagrun.models.language import LSTMLanguageModel, TransformerLanguageModel, next_token_loss
from dagrun.models.lenet import LeNet5, OriginalLeNet5
from dagrun.models.mlp import mlp
from dagrun.models.registry import Entry, find, names
from dagrun.models.resnet import ResNet, cifar_resnet, resnet18, resnet34, resnet50, resnet101, resnet152
from dagrun.models.vgg import VGG, vgg11, vgg13, vgg16, vgg16_1x1, vgg19

__all__ = [
    "VGG",
    "AlexNet",
    "ColumnAlexNet",
    "Entry",
    "GoogLeNet",
    "LSTMLanguageModel",
    "LeNet5",
    "OriginalLeNet5",
    "ResNet",
    "TransformerLanguageModel",
    "cifar_resnet",
    "find",
    "googlenet_loss",
    "mlp",
    "names",
    "next_token_loss",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg16_1x1",
    "vgg19",
]
