"""Parameter counts and state keys of models, against the literature and torchvision; each trains a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dagrun as dr
from dagrun import models, nn
from dagrun.models.registry import images, text
from dagrun.nn import functional as F

# As torchvision's documentation gives them; VGG C: D less 8 x (256**2 + 512**2 + 512**2). The thin ResNets: 0.27, 0.46,
# 0.66, 0.85 and 1.7 million in table 6 of the paper.
COUNTS = {
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16-1x1": 133_638_952,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "googlenet": 13_004_888,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet18-cifar": 11_173_962,
    "resnet20-cifar": 269_722,
    "resnet32-cifar": 464_154,
    "resnet44-cifar": 658_586,
    "resnet56-cifar": 853_018,
    "resnet110-cifar": 1_727_962,
    "lenet": 61_706,
    "lenet-1998": 60_000,
    "mlp": 3_962_890,
    "lstm": 10_000 * 200 + 2 * (2 * 800 * 200 + 2 * 800) + 10_000 * 201,
    "transformer": 2 * 256 * 128 + 256 + 2 * (12 * 128**2 + 13 * 128) + 2 * 128,
}


@pytest.mark.usefixtures("shapes_only")
@pytest.mark.parametrize("name", models.names())
def test_parameters_are_as_many_as_published(name: str) -> None:
    assert sum(p.size for p in models.find(name).make().parameters()) == COUNTS[name]


@pytest.mark.usefixtures("shapes_only")
def test_googlenet_without_auxiliary_classifiers() -> None:
    assert sum(p.size for p in models.GoogLeNet(aux_logits=False).parameters()) == 6_624_904


@pytest.mark.usefixtures("shapes_only")
def test_alexnet_in_two_columns() -> None:
    """Fewer than in one, whose layers see all kernels: the count that Caffe's model of the paper has."""
    assert sum(p.size for p in models.ColumnAlexNet().parameters()) == 60_965_224
    with pytest.raises(ValueError, match="3 devices, expected 1, 2, 4"):
        models.ColumnAlexNet(devices=["cpu:0"] * 3)


# ---- keys and shapes of torchvision

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def convolutions(*numbers: int, at: str = "features") -> list[str]:
    return [f"{at}.{i}.{kind}" for i in numbers for kind in ("weight", "bias")]


def normalised(*names: str) -> list[str]:
    """Keys of layers "conv" with the "bn" that follows them."""
    keys = []
    for name in names:
        path, _, last = name.rpartition(".")
        norm = f"{path}.bn{last.removeprefix('conv')}".lstrip(".")
        keys += [f"{name}.weight", *(f"{norm}.{kind}" for kind in NORM)]
    return keys


def resnet_keys(depths: tuple[int, ...], convs: int, projected: tuple[int, ...]) -> list[str]:
    keys = normalised("conv1")
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            at = f"layer{stage}.{block}"
            keys += normalised(*(f"{at}.conv{i}" for i in range(1, convs + 1)))
            if stage in projected and block == 0:
                keys += [f"{at}.downsample.0.weight", *(f"{at}.downsample.1.{kind}" for kind in NORM)]
    return [*keys, "fc.weight", "fc.bias"]


def googlenet_keys() -> list[str]:
    keys = normalised("conv1.conv", "conv2.conv", "conv3.conv")
    for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        branches = ("branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1")
        keys += normalised(*(f"inception{name}.{branch}.conv" for branch in branches))
    for name in ("aux1", "aux2"):
        keys += [*normalised(f"{name}.conv.conv"), *convolutions(1, 2, at=name)]
    keys = [key.replace("aux1.1.", "aux1.fc1.").replace("aux1.2.", "aux1.fc2.") for key in keys]
    keys = [key.replace("aux2.1.", "aux2.fc1.").replace("aux2.2.", "aux2.fc2.") for key in keys]
    return [*keys, "fc.weight", "fc.bias"]


KEYS: dict[str, list[str]] = {
    "alexnet": convolutions(0, 3, 6, 8, 10) + convolutions(1, 4, 6, at="classifier"),
    "vgg11": convolutions(0, 3, 6, 8, 11, 13, 16, 18) + convolutions(0, 3, 6, at="classifier"),
    "vgg13": convolutions(0, 2, 5, 7, 10, 12, 15, 17, 20, 22) + convolutions(0, 3, 6, at="classifier"),
    "vgg16": convolutions(0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28) + convolutions(0, 3, 6, at="classifier"),
    "vgg19": convolutions(0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
    + convolutions(0, 3, 6, at="classifier"),
    "googlenet": googlenet_keys(),
    "resnet18": resnet_keys((2, 2, 2, 2), 2, (2, 3, 4)),
    "resnet34": resnet_keys((3, 4, 6, 3), 2, (2, 3, 4)),
    "resnet50": resnet_keys((3, 4, 6, 3), 3, (1, 2, 3, 4)),
    "resnet101": resnet_keys((3, 4, 23, 3), 3, (1, 2, 3, 4)),
    "resnet152": resnet_keys((3, 8, 36, 3), 3, (1, 2, 3, 4)),
}
SHAPES = {
    "alexnet": {"features.0.weight": (64, 3, 11, 11), "features.3.weight": (192, 64, 5, 5),
                "classifier.1.weight": (4096, 9216)},
    "vgg16": {"features.28.weight": (512, 512, 3, 3), "classifier.0.weight": (4096, 25088)},
    "googlenet": {"conv1.conv.weight": (64, 3, 7, 7), "inception3a.branch3.1.conv.weight": (32, 16, 3, 3),
                  "inception5b.branch4.1.conv.weight": (128, 832, 1, 1), "aux2.fc1.weight": (1024, 2048)},
    "resnet18": {"layer2.0.downsample.0.weight": (128, 64, 1, 1), "fc.weight": (1000, 512)},
    "resnet50": {"layer1.0.downsample.0.weight": (256, 64, 1, 1), "layer2.0.conv2.weight": (128, 128, 3, 3),
                 "layer4.2.conv3.weight": (2048, 512, 1, 1), "bn1.num_batches_tracked": ()},
}  # fmt: skip


@pytest.mark.usefixtures("shapes_only")
@pytest.mark.parametrize("name", KEYS)
def test_states_have_the_keys_of_torchvision(name: str) -> None:
    state = models.find(name).make().state_dict()
    assert sorted(state) == sorted(KEYS[name])
    for key, shape in SHAPES.get(name, {}).items():
        assert state[key].shape == shape


@pytest.mark.usefixtures("shapes_only")
@pytest.mark.parametrize("name", KEYS)
def test_states_are_like_those_of_torchvision_here(name: str) -> None:
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    options = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(**options).state_dict()
    ours = models.find(name).make().state_dict()
    assert {key: x.shape for key, x in ours.items()} == {key: tuple(x.shape) for key, x in theirs.items()}


# ---- training

Make = Callable[[], nn.Module]
SMALL: dict[str, tuple[Make, Any, Any]] = {
    "googlenet": (lambda: models.GoogLeNet(10), images(3, 32, 32), models.googlenet_loss),
    "resnet18": (lambda: models.resnet18(10), images(3, 32, 32), F.cross_entropy),
    "resnet18-cifar": (lambda: models.resnet18(10, small=True, width=16), images(3, 16, 16), F.cross_entropy),
    "resnet50": (lambda: models.resnet50(10, width=16), images(3, 32, 32), F.cross_entropy),
    "resnet20-cifar": (lambda: models.cifar_resnet(20), images(3, 16, 16), F.cross_entropy),
    "lstm": (lambda: models.LSTMLanguageModel(20, 8, 8, tied=True), text(5, 20), models.next_token_loss),
    "transformer": (lambda: models.TransformerLanguageModel(20, 16, 2), text(5, 20), models.next_token_loss),
    "alexnet in columns": (lambda: models.ColumnAlexNet(10, hidden=32), images(3, 63, 63), F.cross_entropy),
    "lenet-1998": (models.OriginalLeNet5, images(1, 32, 32), F.cross_entropy),
}
LARGE: dict[str, tuple[Make, Any, Any]] = {
    "alexnet": (lambda: models.AlexNet(10), images(3, 63, 63), F.cross_entropy),
    "vgg11": (lambda: models.vgg11(10), images(3, 32, 32), F.cross_entropy),
    "vgg16-1x1": (lambda: models.vgg16_1x1(10), images(3, 32, 32), F.cross_entropy),
    "resnet152": (lambda: models.resnet152(10), images(3, 32, 32), F.cross_entropy),
}


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.long) for name in LARGE)])
def test_each_trains(name: str) -> None:
    """The loss of a batch becomes smaller, and every parameter has a gradient."""
    make, example, loss = {**SMALL, **LARGE}[name]
    dr.random.seed(0)
    net = make()
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if isinstance(layer, (nn.LSTM, nn.MultiheadAttention)):
            layer.dropout = 0.0
    x, y = (dr.asarray(a) for a in example(np.random.default_rng(0), 2))
    optimizer = dr.optim.SGD(net.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        value = loss(net(x), y)
        optimizer.zero_grad()
        value.backward()
        assert all(p.grad is not None for p in net.parameters())
        optimizer.step()
        losses.append(value.item())
    assert losses[1] < losses[0]


def test_transformers_do_not_look_ahead() -> None:
    net = models.TransformerLanguageModel(20, 16, 2).eval()
    tokens = np.zeros((6, 1), np.int64)
    changed = tokens.copy()
    changed[4] = 3
    before, after = net(dr.asarray(tokens)).numpy(), net(dr.asarray(changed)).numpy()
    np.testing.assert_array_equal(before[:4], after[:4])
    assert not np.array_equal(before[4], after[4])


def test_an_lstm_goes_on_from_its_state() -> None:
    net = models.LSTMLanguageModel(20, 8, 8).eval()
    tokens = dr.asarray(np.arange(12).reshape(6, 2))
    whole, _ = net(tokens)
    first, state = net(tokens[:3])
    second, _ = net(tokens[3:], state)
    np.testing.assert_allclose(np.concatenate([first.numpy(), second.numpy()]), whole.numpy(), atol=1e-6)


def test_googlenet_in_evaluation_has_one_result() -> None:
    net = models.GoogLeNet(10)
    x = dr.zeros((2, 3, 32, 32), "float32")
    assert [scores.shape for scores in net(x)] == [(2, 10)] * 3
    assert net.eval()(x).shape == (2, 10)


def test_what_cannot_be_made_is_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'resnet18'"):
        models.find("resnet81")
    with pytest.raises(ValueError, match="expected 6 n \\+ 2"):
        models.cifar_resnet(21)
    with pytest.raises(ValueError, match="'F', expected one of A, B"):
        models.VGG("F")
    with pytest.raises(ValueError, match="tied, but"):
        models.LSTMLanguageModel(20, 8, 16, tied=True)
