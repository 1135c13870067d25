"""States of PyTorch's layers load here and states of dagrun's load there; the layers then compute the same."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import dagrun as dr
from dagrun import nn

torch = pytest.importorskip("torch")

FLOAT, TOKENS = (4, 6), "tokens"
# name, arguments, options, shapes of the inputs
LAYERS: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[Any, ...]]] = [
    ("Linear", (6, 3), {}, (FLOAT,)),
    ("Linear", (6, 3), {"bias": False}, (FLOAT,)),
    ("Bilinear", (6, 3, 5), {}, (FLOAT, (4, 3))),
    ("Conv1d", (6, 4, 3), {"padding": 1, "groups": 2}, ((2, 6, 9),)),
    ("Conv2d", (3, 4, 3), {"stride": 2, "padding": 1, "padding_mode": "reflect"}, ((2, 3, 8, 7),)),
    ("Conv2d", (3, 4, 1), {"bias": False}, ((2, 3, 8, 7),)),
    ("ConvTranspose1d", (4, 6, 3), {"stride": 2, "groups": 2}, ((2, 4, 5),)),
    ("ConvTranspose2d", (4, 3, 3), {"stride": 2, "output_padding": 1}, ((2, 4, 5, 6),)),
    ("BatchNorm1d", (6,), {}, (FLOAT,)),
    ("BatchNorm2d", (3,), {"momentum": None}, ((2, 3, 4, 5),)),
    ("BatchNorm2d", (3,), {"affine": False}, ((2, 3, 4, 5),)),
    ("InstanceNorm1d", (3,), {"affine": True, "track_running_stats": True}, ((2, 3, 5),)),
    ("InstanceNorm2d", (3,), {"track_running_stats": True}, ((2, 3, 4, 5),)),
    ("LayerNorm", ((3, 6),), {}, ((4, 3, 6),)),
    ("LayerNorm", (6,), {"bias": False}, (FLOAT,)),
    ("GroupNorm", (2, 6), {}, ((3, 6, 2),)),
    ("RMSNorm", (6,), {}, (FLOAT,)),
    ("PReLU", (6,), {}, (FLOAT,)),
    ("Embedding", (9, 4), {"padding_idx": 2}, (TOKENS,)),
    ("RNN", (6, 5, 2), {"nonlinearity": "relu"}, ((7, 3, 6),)),
    ("LSTM", (6, 5, 2), {"bidirectional": True, "batch_first": True}, ((3, 7, 6),)),
    ("LSTM", (6, 5), {"bias": False}, ((7, 3, 6),)),
    ("LSTM", (6, 5, 2), {"proj_size": 3, "bidirectional": True}, ((7, 3, 6),)),
    ("GRU", (6, 5, 2), {"bidirectional": True}, ((7, 3, 6),)),
    ("RNNCell", (6, 5), {}, (FLOAT,)),
    ("LSTMCell", (6, 5), {}, (FLOAT,)),
    ("GRUCell", (6, 5), {}, (FLOAT,)),
    ("MultiheadAttention", (6, 2), {}, ((5, 3, 6),) * 3),
    ("MultiheadAttention", (6, 3), {"kdim": 4, "vdim": 2, "add_bias_kv": True}, ((5, 3, 6), (7, 3, 4), (7, 3, 2))),
    ("TransformerEncoderLayer", (6, 2, 8), {"activation": "gelu", "norm_first": True}, ((5, 3, 6),)),
    ("TransformerDecoderLayer", (6, 2, 8), {}, ((5, 3, 6), (4, 3, 6))),
    ("Transformer", (6, 2, 1, 1, 8), {"bias": False}, ((5, 3, 6), (4, 3, 6))),
]


def inputs_of(shapes: tuple[Any, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(len(shapes))
    return [
        rng.integers(0, 9, (2, 5)) if shape == TOKENS else rng.standard_normal(shape).astype("float32")
        for shape in shapes
    ]


def flat(result: Any) -> list[np.ndarray]:
    """All arrays of a result."""
    if isinstance(result, (tuple, list)):
        return [array for part in result for array in flat(part)]
    return [result.detach().numpy()]


def compare(ours: nn.Module, theirs: Any, arrays: list[np.ndarray]) -> None:
    for training in (True, False):  # the first changes running statistics
        ours.train(training)
        theirs.train(training)
        for dropout in (m for net in (ours, theirs) for m in net.modules() if "Dropout" in type(m).__name__):
            dropout.p = 0.0
        for attention in (m for net in (ours, theirs) for m in net.modules() if type(m).__name__[:5] == "Multi"):
            attention.dropout = 0.0
        found = flat(ours(*map(dr.asarray, arrays)))
        expected = flat(theirs(*map(torch.tensor, arrays)))
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6, err_msg=key)


def randomise(layer: Any) -> None:
    """Initial values are 0 or 1 for some parameters, which would hide mistakes."""
    with torch.no_grad():
        for value in layer.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.2, 1.0)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor", "ignore:LSTM with projections")
@pytest.mark.parametrize(("name", "arguments", "options", "shapes"), LAYERS, ids=lambda v: str(v)[:30])
def test_states_go_both_ways(name: str, arguments: Any, options: dict[str, Any], shapes: Any) -> None:
    torch.manual_seed(0)
    arrays = inputs_of(shapes)
    theirs, ours = getattr(torch.nn, name)(*arguments, **options), getattr(nn, name)(*arguments, **options)
    randomise(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    compare(ours, theirs, arrays)
    other, back = getattr(nn, name)(*arguments, **options), getattr(torch.nn, name)(*arguments, **options)
    back.load_state_dict({key: torch.tensor(value.numpy()) for key, value in other.state_dict().items()})
    compare(other, back, arrays)


def test_a_model_of_many_layers_and_tensors_as_they_are() -> None:
    """Tensors of torch on the CPU are read without `numpy()`."""

    def make(module: Any) -> Any:
        layer = module.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        return module.Sequential(
            module.Linear(6, 8), module.TransformerEncoder(layer, 2, module.LayerNorm(8)), module.Linear(8, 3)
        )

    theirs, ours = make(torch.nn), make(nn)
    ours.load_state_dict(dict(theirs.state_dict()))
    compare(ours, theirs, inputs_of(((2, 5, 6),)))


def test_every_layer_with_parameters_is_here() -> None:
    own = {"DropConnect", "WeightDrop", "Residual", "PositionalEncoding"}  # not in PyTorch
    tested = {name for name, *_ in LAYERS} | {"TransformerEncoder"}
    with_state = set()
    for name in nn.__all__:
        kind = getattr(nn, name)
        if isinstance(kind, type) and kind.__module__ not in ("dagrun.nn.containers", "dagrun.nn.module"):
            source = inspect.getsource(inspect.getmodule(kind))
            with_state |= {name} if "blank(" in source and f"class {name}" in source else set()
    without = {"Identity", "Flatten", "Unflatten", "LocalResponseNorm", "Unfold", "Fold"} | {
        "RReLU", "Softmax", "Softmax2d",
    }  # fmt: skip
    assert with_state - tested - own - without == set()
