"""Layers without a time axis: against torch with the same state, gradients by differences, on each kind of device."""

from __future__ import annotations

import numpy as np
import pytest
from differences import check_gradients

import dagrun as dr
from dagrun import nn

RNG = np.random.default_rng(3)

# name, positional arguments, options, shape of the input
LAYERS = [
    ("Linear", (3, 4), {}, (2, 5, 3)),
    ("Linear", (3, 4), {"bias": False}, (3,)),
    ("Flatten", (), {}, (2, 3, 4)),
    ("Flatten", (0, 1), {}, (2, 3, 4)),
    ("Unflatten", (1, (2, -1)), {}, (2, 6)),
    ("Identity", (), {}, (2,)),
    ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}, (2, 4, 8)),
    ("Conv2d", (2, 3, 3), {"padding": "same"}, (2, 2, 5, 4)),
    ("Conv2d", (2, 4, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "bias": False}, (2, 2, 5, 4)),
    ("ConvTranspose2d", (2, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}, (1, 2, 3, 3)),
    ("Conv1d", (2, 3, 4), {"padding": 3, "padding_mode": "circular"}, (2, 2, 5)),
    ("Conv2d", (2, 3, (3, 2)), {"padding": (2, 1), "padding_mode": "reflect"}, (2, 2, 5, 4)),
    ("Conv2d", (2, 3, (4, 3)), {"padding": "same", "padding_mode": "replicate", "dilation": (1, 2)}, (2, 2, 5, 4)),
    ("ConvTranspose1d", (2, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}, (2, 2, 4)),
    ("ConvTranspose1d", (4, 2, 2), {"groups": 2, "dilation": 2, "bias": False}, (1, 4, 3)),
    ("Unfold", ((2, 3),), {"padding": 1, "stride": (2, 1)}, (2, 3, 5, 4)),
    ("Fold", ((5, 4), (2, 3)), {"padding": 1, "stride": (2, 1)}, (2, 18, 12)),
    ("ZeroPad1d", ((1, 2),), {}, (2, 3, 4)),
    ("ZeroPad2d", ((1, 0, 2, -1),), {}, (2, 3, 4, 5)),
    ("ConstantPad1d", (2, 1.5), {}, (3, 4)),
    ("ConstantPad2d", ((1, 2, 0, 1), -0.5), {}, (2, 1, 2, 3)),
    ("CircularPad1d", (3,), {}, (2, 3, 4)),
    ("CircularPad2d", ((1, 2, 3, 0),), {}, (2, 3, 4, 5)),
    ("UpsamplingNearest2d", (), {"scale_factor": 2}, (2, 3, 4, 3)),
    ("UpsamplingBilinear2d", ((7, 5),), {}, (2, 3, 4, 3)),
    ("ChannelShuffle", (3,), {}, (2, 6, 4, 3)),
    ("Softmax2d", (), {}, (2, 3, 4, 3)),
    ("ReflectionPad1d", (3,), {}, (2, 3, 4)),
    ("ReflectionPad2d", ((1, 2, 3, 0),), {}, (2, 3, 4, 5)),
    ("ReplicationPad1d", ((0, 5),), {}, (2, 3, 4)),
    ("ReplicationPad2d", (2,), {}, (2, 3, 2)),
    ("Upsample", (), {"scale_factor": 2}, (2, 3, 4, 3)),
    ("Upsample", ((7, 2),), {}, (1, 2, 4, 5)),
    ("Upsample", (), {"scale_factor": 1.7, "mode": "nearest-exact"}, (1, 2, 9)),
    ("Upsample", (11,), {"mode": "linear"}, (1, 2, 4)),
    ("Upsample", (), {"scale_factor": (1.5, 2.3), "mode": "bilinear"}, (1, 2, 4, 3)),
    ("Upsample", ((3, 8),), {"mode": "bilinear", "align_corners": True}, (1, 2, 4, 3)),
    ("PixelShuffle", (3,), {}, (2, 18, 2, 3)),
    ("PixelUnshuffle", (2,), {}, (2, 3, 4, 6)),
    ("AdaptiveMaxPool1d", (3,), {}, (1, 2, 7)),
    ("AdaptiveMaxPool2d", ((2, None),), {}, (1, 2, 5, 3)),
    ("RMSNorm", (4,), {}, (2, 3, 4)),
    ("RMSNorm", ((3, 4),), {"eps": 0.1, "elementwise_affine": False}, (2, 3, 4)),
    ("InstanceNorm1d", (3,), {"track_running_stats": True, "affine": True}, (4, 3, 5)),
    ("InstanceNorm1d", (3,), {}, (3, 5)),
    ("InstanceNorm2d", (2,), {"track_running_stats": True, "momentum": 0.3}, (3, 2, 3, 2)),
    ("BatchNorm2d", (2,), {"bias": False}, (3, 2, 3, 2)),
    ("GroupNorm", (2, 4), {"bias": False}, (3, 4, 3)),
    ("MaxPool1d", (2,), {}, (2, 2, 6)),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1}, (1, 2, 6, 5)),
    ("AvgPool1d", (2,), {}, (2, 2, 6)),
    ("AvgPool2d", (3, 2), {"padding": 1, "count_include_pad": False}, (1, 2, 6, 5)),
    ("AdaptiveAvgPool1d", (3,), {}, (1, 2, 7)),
    ("AdaptiveAvgPool2d", ((2, None),), {}, (1, 2, 5, 3)),
    ("BatchNorm1d", (3,), {}, (4, 3)),
    ("BatchNorm1d", (3,), {"momentum": None}, (4, 3, 2)),
    ("BatchNorm2d", (2,), {"eps": 1e-2}, (3, 2, 3, 2)),
    ("BatchNorm2d", (2,), {"affine": False, "track_running_stats": False}, (3, 2, 3, 2)),
    ("LayerNorm", ((3, 2),), {}, (4, 3, 2)),
    ("LayerNorm", (2,), {"elementwise_affine": False}, (4, 3, 2)),
    ("GroupNorm", (2, 4), {}, (3, 4, 3)),
    ("InstanceNorm2d", (2,), {"affine": True}, (2, 2, 3, 3)),
    ("LocalResponseNorm", (3,), {"alpha": 0.5, "k": 2.0}, (2, 5, 2, 2)),
]


# Those whose gradients are checked to second order here; convolutions, pooling and norms are in files of their own.
SECOND = {"Linear", "LayerNorm", "ConvTranspose1d", "Unfold", "Fold", "PixelShuffle", "PixelUnshuffle", "RMSNorm"} | {
    "Upsample", "ZeroPad2d", "ReflectionPad2d", "ReplicationPad1d", "InstanceNorm1d", "AdaptiveMaxPool1d",
}  # fmt: skip


def _ours(name, arguments, options):
    layer = getattr(nn, name)(*arguments, **options)
    layer.double()
    for parameter in layer.parameters():  # not the initial ones of norms, which are 1 and 0
        with dr.no_grad():
            parameter[...] = RNG.normal(size=parameter.shape)
    return layer


@pytest.mark.parametrize(("name", "arguments", "options", "shape"), LAYERS, ids=lambda v: str(v))
def test_against_torch(name, arguments, options, shape):
    torch = pytest.importorskip("torch")
    ours = _ours(name, arguments, options)
    theirs = getattr(torch.nn, name)(*arguments, **options).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict({key: torch.tensor(value.numpy()) for key, value in ours.state_dict().items()})
    for mode in (True, True, False):
        ours.train(mode)
        theirs.train(mode)
        value = RNG.normal(size=shape)
        x, y = torch.tensor(value, requires_grad=True), dr.asarray(value, requires_grad=True)
        expected, found = theirs(x), ours(y)
        np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-12)
        weight = RNG.normal(size=found.shape)
        (expected * torch.tensor(weight)).sum().backward()
        (found * dr.asarray(weight)).sum().backward()
        np.testing.assert_allclose(y.grad.numpy(), x.grad.numpy(), rtol=1e-8, atol=1e-11)
    for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-8, atol=1e-10, err_msg=key)
    for (key, value), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        np.testing.assert_allclose(value.numpy(), other.numpy(), rtol=1e-12, err_msg=key)


@pytest.mark.parametrize(
    ("name", "arguments", "options", "shape"),
    [layer for layer in LAYERS if layer[0] in {"Conv1d", "ConvTranspose2d", "GroupNorm", *SECOND}],
    ids=lambda v: str(v),
)
def test_gradients(name, arguments, options, shape, device):
    layer = _ours(name, arguments, options).to(device)
    names = list(layer._parameters)
    values = [p.numpy() for p in layer.parameters()]

    def run(x, *parameters):
        given = iter(parameters)
        for key in names:
            if layer._parameters[key] is not None:
                layer._parameters[key] = next(given)
        return layer(x * x)  # squares, so that linear layers have a second order

    check_gradients(run, RNG.normal(size=shape), *values, device=device, second=name in SECOND)


@pytest.mark.parametrize(("name", "arguments", "options", "shape"), LAYERS, ids=lambda v: str(v))
def test_devices_agree(name, arguments, options, shape, device):
    layer = _ours(name, arguments, options).eval()
    x = RNG.normal(size=shape)
    expected = layer(dr.asarray(x)).numpy()
    state = layer.state_dict()
    moved = getattr(nn, name)(*arguments, **options).double().to(device).eval()
    moved.load_state_dict(state)
    found = moved(dr.asarray(x, device=device)).numpy()
    if device.startswith("cuda"):  # products are not the CPU's
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    else:
        assert found.tobytes() == expected.tobytes()


def test_bilinear_and_residual():
    torch = pytest.importorskip("torch")
    ours, theirs = nn.Bilinear(3, 4, 2), torch.nn.Bilinear(3, 4, 2)
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    a, b = RNG.normal(size=(5, 2, 3)).astype("f4"), RNG.normal(size=(5, 2, 4)).astype("f4")
    expected = theirs(torch.tensor(a), torch.tensor(b)).detach().numpy()
    np.testing.assert_allclose(ours(dr.asarray(a), dr.asarray(b)).numpy(), expected, atol=1e-6)
    block = nn.Residual(nn.Linear(3, 2), nn.Linear(3, 2, bias=False))
    assert list(block.state_dict()) == ["module.weight", "module.bias", "skip.weight"]
    x = dr.asarray(a)
    assert bool(dr.allclose(block(x), block.module(x) + block.skip(x)))


def test_initial_values_are_those_of_torch():
    for layer, fan in ((nn.Linear(30, 50), 30), (nn.Conv2d(8, 20, 3), 72), (nn.ConvTranspose2d(8, 20, 3), 180)):
        bound = 1 / np.sqrt(fan)
        for parameter in layer.parameters():
            assert 0.8 * bound < np.abs(parameter.numpy()).max() <= bound * (1 + 1e-6)
    assert nn.LayerNorm(3).weight.tolist() == [1, 1, 1] and nn.BatchNorm2d(2).running_var.tolist() == [1, 1]


def test_embedding(device):
    torch = pytest.importorskip("torch")
    ours = nn.Embedding(6, 3, padding_idx=-1, device=device)
    theirs = torch.nn.Embedding(6, 3, padding_idx=-1)
    assert not ours.weight[5].any()
    theirs.load_state_dict({"weight": torch.tensor(ours.weight.numpy())})
    index = np.array([[0, 5, 2], [2, 2, 5]])
    y, expected = ours(dr.asarray(index, device=device)), theirs(torch.tensor(index))
    np.testing.assert_array_equal(y.numpy(), expected.detach().numpy())
    (y * y).sum().backward()
    (expected**2).sum().backward()
    np.testing.assert_allclose(ours.weight.grad.numpy(), theirs.weight.grad.numpy(), rtol=1e-6)
    frozen = nn.Embedding.from_pretrained(np.eye(3))
    assert not frozen.weight.requires_grad and list(frozen.state_dict()) == ["weight"]


def test_dropout_keeps_the_mean_and_stops_in_evaluation(device):
    dr.random.seed(8)
    layer, x = nn.Dropout(0.3), dr.ones((100, 100), device=device, requires_grad=True)
    y = layer(x)
    values = np.unique(y.numpy())
    np.testing.assert_allclose(values, [0, 1 / 0.7])
    assert y.numpy().mean() == pytest.approx(1, abs=0.02)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())  # the same mask
    assert layer.eval()(x) is x or layer(x).tolist() == x.tolist()
    channels = nn.Dropout2d(0.5)(dr.ones((8, 16, 3, 3), device=device)).numpy()
    assert set(np.unique(channels)) == {0.0, 2.0} and (channels == channels[:, :, :1, :1]).all()
    with pytest.raises(ValueError, match="p is 2"):
        nn.Dropout(2)


def test_alpha_dropout_keeps_mean_and_variance(device):
    dr.random.seed(3)
    x = dr.random.randn(200, 300, device=device)
    layer = nn.AlphaDropout(0.3)
    y = layer(x)
    assert abs(float(y.mean())) < 0.02 and abs(float(y.var()) - 1) < 0.02
    assert abs(np.unique(y.numpy(), return_counts=True)[1].max() / y.size - 0.3) < 0.01  # what was dropped is one value
    assert layer.eval()(x) is x
    assert (nn.functional.alpha_dropout(x, 1.0, True) == 0).all()
    lines = nn.Dropout1d(0.5)(dr.ones((20, 30, 4), device=device))
    whole = lines.numpy().reshape(600, 4)
    assert (whole == whole[:, :1]).all() and set(np.unique(whole)) == {0.0, 2.0}


def test_drawn_slopes_and_choices(device):
    dr.random.seed(5)
    x = dr.asarray(np.full((50, 40), -2.0), device=device, requires_grad=True)
    layer = nn.RReLU(0.1, 0.3)
    slopes = layer(x).numpy() / -2
    assert slopes.min() >= 0.1 and slopes.max() <= 0.3 and abs(slopes.mean() - 0.2) < 0.01
    np.testing.assert_allclose(layer.eval()(x).numpy(), -0.4)
    logits = dr.asarray(np.log([[0.2, 0.5, 0.3]] * 4000), device=device, requires_grad=True)
    hard = nn.functional.gumbel_softmax(logits, tau=0.7, hard=True)
    assert set(np.unique(hard.numpy().round(12))) == {0.0, 1.0}
    np.testing.assert_allclose(hard.numpy().mean(0), [0.2, 0.5, 0.3], atol=0.03)
    (hard * dr.asarray([1.0, 2.0, 3.0], device=device)).sum().backward()
    assert logits.grad.numpy().any()
    soft = nn.functional.gumbel_softmax(logits, dim=0)
    np.testing.assert_allclose(soft.numpy().sum(0), 1)


def test_drop_connect_masks_weights_for_one_call():
    dr.random.seed(2)
    layer = nn.DropConnect(nn.LSTM(3, 4), 0.5, ["weight_hh_l0"])
    whole = layer.module.weight_hh_l0
    x = dr.random.normal(size=(6, 2, 3), dtype="float32")
    y, _ = layer(x)
    assert layer.module.weight_hh_l0 is whole and list(layer.state_dict())[1] == "module.weight_hh_l0"
    assert not dr.allclose(y, layer(x)[0])
    y.sum().backward()
    share = (whole.grad.numpy() == 0).mean()
    assert 0.2 < share < 0.8  # dropped elements have no gradient
    layer.eval()
    assert bool(dr.allclose(layer(x)[0], layer.module(x)[0]))
    with pytest.raises(ValueError, match="expected weights among them, got nothing"):
        nn.DropConnect(nn.Linear(1, 1), 0.5, ["nothing"])


# ---- attention


def _pair(name, *arguments, **options):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(*arguments, **options).double()
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.randn_like(p) * 0.3)
    ours = getattr(nn, name)(*arguments, **options).double()
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    assert list(ours.state_dict()) == list(theirs.state_dict())
    return torch, ours, theirs


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"batch_first": True}, {"kdim": 5, "vdim": 7}, {"add_bias_kv": True, "add_zero_attn": True}],
    ids=str,
)
def test_attention_against_torch(options):
    torch, ours, theirs = _pair("MultiheadAttention", 8, 2, **options)
    shapes = [(4, 3, 8), (6, 3, options.get("kdim", 8)), (6, 3, options.get("vdim", 8))]
    if options.get("batch_first"):
        shapes = [(b, a, c) for a, b, c in shapes]
    values = [RNG.normal(size=shape) for shape in shapes]
    blocked = RNG.random((4, 6)) < 0.3
    blocked[:, 0] = False
    padding = np.zeros((3, 6), bool)
    padding[1, 4:] = True
    for masks in ({}, {"attn_mask": blocked}, {"key_padding_mask": padding}, {"need_weights": False},
                  {"attn_mask": np.where(blocked, -2.0, 0.5), "average_attn_weights": False}):  # fmt: skip
        xs = [torch.tensor(v, requires_grad=True) for v in values]
        ys = [dr.asarray(v, requires_grad=True) for v in values]
        wrapped = [
            {k: f(v) if isinstance(v, np.ndarray) else v for k, v in masks.items()} for f in (torch.tensor, dr.asarray)
        ]
        expected, their_weights = theirs(*xs, **wrapped[0])
        found, weights = ours(*ys, **wrapped[1])
        np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), atol=1e-12)
        assert (weights is None) == (their_weights is None)
        if weights is not None:
            np.testing.assert_allclose(weights.numpy(), their_weights.detach().numpy(), atol=1e-12)
        (expected**2).sum().backward()
        (found * found).sum().backward()
        for a, b in zip(ys, xs, strict=True):
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), atol=1e-10)
    for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), atol=1e-9, err_msg=key)


def test_self_attention_and_a_causal_mask(device):
    torch, ours, theirs = _pair("MultiheadAttention", 8, 4)
    ours.to(device)
    x = RNG.normal(size=(5, 2, 8))
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    expected, _ = theirs(*[torch.tensor(x)] * 3, attn_mask=mask)
    y = dr.asarray(x, device=device)
    for options in ({"attn_mask": dr.asarray(mask.numpy(), device=device)}, {"is_causal": True}):
        np.testing.assert_allclose(ours(y, y, y, **options)[0].numpy(), expected.detach().numpy(), atol=1e-12)
    single, weights = ours(y[:, 0], y[:, 0], y[:, 0])
    assert single.shape == (5, 8) and weights.shape == (5, 5)


def test_scaled_dot_product_attention():
    torch = pytest.importorskip("torch")
    q, k, v = RNG.normal(size=(2, 3, 4, 5)), RNG.normal(size=(2, 3, 6, 5)), RNG.normal(size=(2, 3, 6, 2))
    mask = RNG.random((4, 6)) < 0.7
    mask[:, 0] = True
    for options in ({}, {"is_causal": True}, {"attn_mask": mask}, {"scale": 0.3}):
        theirs = {n: torch.tensor(o) if isinstance(o, np.ndarray) else o for n, o in options.items()}
        ours = {n: dr.asarray(o) if isinstance(o, np.ndarray) else o for n, o in options.items()}
        expected = torch.nn.functional.scaled_dot_product_attention(*map(torch.tensor, (q, k, v)), **theirs)
        found = nn.functional.scaled_dot_product_attention(*map(dr.asarray, (q, k, v)), **ours)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-12)
    q = RNG.normal(size=(2, 6, 4, 5))
    expected = torch.nn.functional.scaled_dot_product_attention(*map(torch.tensor, (q, k, v)), enable_gqa=True)
    found = nn.functional.scaled_dot_product_attention(*map(dr.asarray, (q, k, v)), enable_gqa=True)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-12)
    with pytest.raises(ValueError, match=r"\(6, 4, 4\) heads, expected those of key and value to divide"):
        nn.functional.scaled_dot_product_attention(*(dr.ones((n, 2, 3)) for n in (6, 4, 4)), enable_gqa=True)
    check_gradients(
        lambda q, k, v: nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True),
        RNG.normal(size=(2, 3, 2)), RNG.normal(size=(2, 3, 2)), RNG.normal(size=(2, 3, 1)),
    )  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"norm_first": True, "activation": "gelu"}, {"batch_first": True}], ids=str)
def test_encoder_layer_against_torch(options):
    torch, ours, theirs = _pair("TransformerEncoderLayer", 8, 2, 16, dropout=0.0, **options)
    x = RNG.normal(size=(3, 4, 8))
    p, q = torch.tensor(x, requires_grad=True), dr.asarray(x, requires_grad=True)
    expected, found = theirs(p), ours(q)
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), atol=1e-11)
    (expected**3).sum().backward()
    (found * found * found).sum().backward()
    np.testing.assert_allclose(q.grad.numpy(), p.grad.numpy(), atol=1e-9)
    stack = nn.TransformerEncoder(ours, 2, nn.LayerNorm(8).double())
    assert stack(q).shape == x.shape and len(list(stack.parameters())) == 2 * len(list(ours.parameters())) + 2


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("options", [{}, {"norm_first": True, "activation": "gelu"}, {"batch_first": True}], ids=str)
def test_decoder_layer_and_transformer_against_torch(options):
    torch, ours, theirs = _pair("TransformerDecoderLayer", 8, 2, 16, dropout=0.0, **options)
    x, memory = RNG.normal(size=(3, 4, 8)), RNG.normal(size=(3, 4, 8))
    mask = np.triu(np.full((3, 3), -np.inf), 1) if not options.get("batch_first") else None
    given = {} if mask is None else {"tgt_mask": mask}
    p, q = torch.tensor(x, requires_grad=True), dr.asarray(x, requires_grad=True)
    expected = theirs(p, torch.tensor(memory), **{key: torch.tensor(value) for key, value in given.items()})
    found = ours(q, dr.asarray(memory), **{key: dr.asarray(value) for key, value in given.items()})
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), atol=1e-11)
    (expected**3).sum().backward()
    (found * found * found).sum().backward()
    np.testing.assert_allclose(q.grad.numpy(), p.grad.numpy(), atol=1e-9)
    torch, ours, theirs = _pair("Transformer", 8, 2, 2, 1, 16, dropout=0.0, **options)
    source = RNG.normal(size=(5, 4, 8) if not options.get("batch_first") else (3, 6, 8))
    expected = theirs(torch.tensor(source), torch.tensor(x), tgt_is_causal=False)
    found = ours(dr.asarray(source), dr.asarray(x), tgt_is_causal=False)
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), atol=1e-10)
    np.testing.assert_array_equal(
        nn.Transformer.generate_square_subsequent_mask(4).numpy(),
        torch.nn.Transformer.generate_square_subsequent_mask(4).numpy(),
    )
    with pytest.raises(ValueError, match="expected one batch and 8 features"):
        ours(dr.asarray(source), dr.zeros((7, 9, 8)))


def test_positional_encoding_by_its_equation():
    layer = nn.PositionalEncoding(6, dropout=0.0, max_len=10)
    table = layer(dr.zeros((10, 1, 6), dtype="float32"))[:, 0].numpy()
    for position in (0, 3, 9):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert table[position, 2 * i] == pytest.approx(np.sin(angle), abs=1e-6)
            assert table[position, 2 * i + 1] == pytest.approx(np.cos(angle), abs=1e-6)
    assert not layer.state_dict()
    with pytest.raises(ValueError, match="11 positions"):
        layer(dr.zeros((11, 1, 6)))


# ---- training


def _train_mlp():
    dr.random.seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))
    x = dr.random.normal(size=(16, 8), dtype="float32")
    labels = dr.asarray(np.arange(16) % 3)
    loss_of, losses = nn.CrossEntropyLoss(label_smoothing=0.1), []
    for _ in range(5):
        loss = loss_of(model(x), labels)
        loss.backward()
        with dr.no_grad():
            for p in model.parameters():
                p -= 0.3 * p.grad
        model.zero_grad()
        losses.append(loss)
    return [a.numpy().tobytes() for a in (*losses, *model.parameters())], losses


def test_a_training_run_has_the_same_bits_asynchronously():
    found, losses = _train_mlp()
    with dr.engine("serial"):
        expected, _ = _train_mlp()
    assert found == expected and losses[-1].item() < losses[0].item()


def test_layers_take_what_numpy_understands():
    x = np.ones((2, 3), "float32")
    linear, lstm = nn.Linear(3, 2), nn.LSTM(3, 2)
    np.testing.assert_array_equal(linear(x).numpy(), linear(dr.asarray(x)).numpy())
    assert linear([[1, 2, 3]]).shape == (1, 2)
    state = np.zeros((1, 2), "float32"), np.zeros((1, 2), "float32")
    np.testing.assert_array_equal(lstm(x, state)[0].numpy(), lstm(dr.asarray(x))[0].numpy())


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"shape \(2, 5\) does not fit a weight of shape \(4, 3\)"):
        nn.Linear(3, 4)(dr.zeros((2, 5)))
    with pytest.raises(ValueError, match="3 and 4 channels do not divide into 2 groups"):
        nn.Conv2d(3, 4, 1, groups=2)
    with pytest.raises(ValueError, match="expected 4 axes, and 3 channels"):
        nn.BatchNorm2d(3)(dr.zeros((2, 3)))
    with pytest.raises(ValueError, match="kernel_size"):
        nn.Conv2d(1, 1, (1, 2, 3))
    with pytest.raises(ValueError, match="does not divide into 3 heads"):
        nn.MultiheadAttention(8, 3)
    with pytest.raises(dr.DeviceError):
        nn.Linear(3, 4, device="sim:0")(dr.zeros((2, 3), dtype="float32"))
