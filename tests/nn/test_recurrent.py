"""Recurrent layers against torch, NumPy reference code, and the form composed of operators."""

from __future__ import annotations

import numpy as np
import pytest
from differences import check_gradients

import dagrun as dr
from dagrun import nn
from dagrun.nn.functional.recurrent import composed, recurrent
from dagrun.ops.recurrent import CELLS, arrange, disarrange, pieces_of

RNG = np.random.default_rng(0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(cell, x, w_ih, w_hh, b_ih, b_hh, h, c):
    """The textbook's equations, one step after the other."""
    ys = []
    for row in x:
        given, product = row @ w_ih.T + b_ih, h @ w_hh.T + b_hh
        if cell == "lstm":
            i, f, g, o = np.split(given + product, 4, axis=-1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        elif cell == "gru":
            (r, z, n), (r2, z2, n2) = np.split(given, 3, axis=-1), np.split(product, 3, axis=-1)
            z = sigmoid(z + z2)
            h = (1 - z) * np.tanh(n + sigmoid(r + r2) * n2) + z * h
        else:
            h = np.tanh(given + product) if cell == "rnn_tanh" else np.maximum(given + product, 0)
        ys.append(h)
    return np.stack(ys), h, c


def operands(cell, steps, rows, width, units, dtype=np.float64):
    columns = CELLS[cell].gates * units
    shapes = [(steps, rows, width), (columns, width), (columns, units), (columns,), (columns,), (rows, units)]
    shapes += [(rows, units)] if CELLS[cell].has_c else []
    return [RNG.normal(size=shape).astype(dtype) * 0.5 for shape in shapes]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (4, 3, 5, 7), (3, 2, 4, 256), (2, 3, 5, 384)])
def test_against_numpy(cell, sizes, device):
    values = operands(cell, *sizes)
    x, *weights, h0, c0 = (
        dr.asarray(v, device=device) for v in (values if CELLS[cell].has_c else [*values, values[5]])
    )
    y, h, c = recurrent(cell, x, weights, h0, c0 if CELLS[cell].has_c else None)
    for found, expected in zip((y, h, c), reference(cell, *values[:6], values[-1]), strict=True):
        if found is not None:
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_gradients_to_second_order(cell, device):
    def layer(x, w_ih, w_hh, b_ih, b_hh, h0, c0=None):
        return recurrent(cell, x, (w_ih, w_hh, b_ih, b_hh), h0, c0)

    check_gradients(layer, *operands(cell, 3, 2, 2, 2), device=device)


@pytest.mark.parametrize("cell", CELLS)
def test_pieces_and_the_composed_form_have_the_same_gradients(cell):
    values = operands(cell, 4, 3, 5, 256)
    weights = [RNG.normal(size=s) for s in ((4, 3, 256), (3, 256), (3, 256))]
    found = []
    for function in (lambda *o: recurrent(cell, o[0], o[1:5], *o[5:]), lambda *o: composed(cell, *(*o, None)[:7])):
        xs = [dr.asarray(v, requires_grad=True) for v in values]
        results = [r for r in function(*xs) if r is not None]
        total = sum(((r * dr.asarray(w)).sum() for r, w in zip(results, weights, strict=False)), start=0.0)
        found.append([g.numpy() for g in dr.gradients([total], xs)])
    for fused, plain in zip(*found, strict=True):
        np.testing.assert_allclose(fused, plain, rtol=1e-10, atol=1e-10)


def test_only_the_last_state_is_asked_for():
    values = operands("lstm", 3, 2, 4, 5)
    for which in (1, 2):
        xs = [dr.asarray(v, requires_grad=True) for v in values]
        fused = dr.gradients([recurrent("lstm", xs[0], xs[1:5], *xs[5:])[which].sum()], xs)
        plain = dr.gradients([composed("lstm", *xs)[which].sum()], xs)
        for a, b in zip(fused, plain, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-14)


def test_arrangement():
    assert [pieces_of(n) for n in (1, 255, 256, 257, 512, 2048, 1300)] == [1, 1, 2, 1, 4, 8, 5]
    weight = dr.arange(24).reshape(12, 2)  # three gates of four units in two pieces
    moved = arrange(weight, 3, 2)
    assert moved[:, 0].tolist() == [0, 2, 8, 10, 16, 18, 4, 6, 12, 14, 20, 22]
    assert disarrange(moved, 3, 2).tolist() == weight.tolist()


def test_float16_is_composed():
    values = [v.astype(np.float16) for v in operands("gru", 2, 2, 3, 4)]
    x, *weights, h0 = map(dr.asarray, values)
    y, _, _ = recurrent("gru", x, weights, h0)
    assert y.dtype == np.float16
    expected = reference("gru", *[v.astype(np.float64) for v in values], None)[0]
    np.testing.assert_allclose(y.numpy(), expected, atol=5e-3)


LAYERS = [("LSTM", {}), ("LSTM", {"proj_size": 3}), ("GRU", {}), ("RNN", {}), ("RNN", {"nonlinearity": "relu"})]
OPTIONS = [
    {}, {"num_layers": 2}, {"bias": False}, {"batch_first": True}, {"num_layers": 2, "bidirectional": True},
]  # fmt: skip


@pytest.mark.parametrize(("name", "more"), LAYERS)
@pytest.mark.parametrize("options", OPTIONS)
def test_against_torch(name, more, options):
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    theirs = getattr(torch.nn, name)(4, 5, **more, **options).double()
    ours = getattr(nn, name)(4, 5, **more, **options, dtype="float64")
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    assert list(ours.state_dict()) == list(theirs.state_dict())
    widths = [ours.proj_size or 5, 5][: 1 + (name == "LSTM")]
    states = [torch.randn(len(ours._directions) * ours.num_layers, 2, units).double() for units in widths]
    x = torch.randn((2, 6, 4) if options.get("batch_first") else (6, 2, 4)).double()
    for given in (None, states):
        p = x.clone().requires_grad_()
        q = dr.asarray(x.numpy(), requires_grad=True)
        theirs.zero_grad()
        ours.zero_grad()
        pack = (lambda s: tuple(s) if name == "LSTM" else s[0]) if given else (lambda s: None)
        y, last = theirs(p, pack(states))
        z, final = ours(q, pack([dr.asarray(s.numpy()) for s in states]))
        last, final = (s if isinstance(s, tuple) else (s,) for s in (last, final))
        np.testing.assert_allclose(z.numpy(), y.detach().numpy(), atol=1e-12)
        for a, b in zip(final, last, strict=True):
            np.testing.assert_allclose(a.numpy(), b.detach().numpy(), atol=1e-12)
        ((y**2).sum() + sum((s**3).sum() for s in last)).backward()
        ((z**2).sum() + sum(((s**3).sum() for s in final), start=0.0)).backward()
        np.testing.assert_allclose(q.grad.numpy(), p.grad.numpy(), atol=1e-11)
        for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), atol=1e-11, err_msg=key)


def test_without_a_batch():
    layer = nn.LSTM(3, 4, num_layers=2)
    x = dr.random.normal(size=(5, 3), dtype="float32")
    y, (h, c) = layer(x)
    wide, (wide_h, _) = layer(x[:, None])
    assert y.shape == (5, 4) and h.shape == c.shape == (2, 4)
    assert y.tolist() == wide[:, 0].tolist() and h.tolist() == wide_h[:, 0].tolist()
    again, _ = layer(x, (h, c))
    assert again.shape == (5, 4)


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells_are_steps_of_layers(name, device):
    cell = getattr(nn, name)(3, 4, device=device)
    layer = getattr(nn, name.removesuffix("Cell"))(3, 4, device=device)
    layer.load_state_dict({f"{key}_l0": value for key, value in cell.state_dict().items()})
    x = dr.random.normal(size=(3, 2, 3), dtype="float32", device=device)
    state = None
    for t in range(3):
        state = cell(x[t], state)
    y, last = layer(x)
    h = state[0] if name == "LSTMCell" else state
    np.testing.assert_allclose(h.numpy(), y[-1].numpy(), rtol=1e-6)
    if name == "LSTMCell":
        np.testing.assert_allclose(state[1].numpy(), last[1][0].numpy(), rtol=1e-6)
    single = cell(x[0, 0])
    assert (single[0] if name == "LSTMCell" else single).shape == (4,)


def test_errors():
    with pytest.raises(ValueError, match=r"shape \(5, 2, 9\): expected \(steps, batch, 3\)"):
        nn.GRU(3, 4)(dr.zeros((5, 2, 9), dtype="float32"))
    with pytest.raises(ValueError, match=r"shape \(1, 3, 4\), expected \(1, 2, 4\)"):
        nn.GRU(3, 4)(dr.zeros((5, 2, 3), dtype="float32"), dr.zeros((1, 3, 4), dtype="float32"))
    with pytest.raises(ValueError, match="steps not 0"):
        nn.GRU(3, 4)(dr.zeros((0, 2, 3), dtype="float32"))
    with pytest.raises(ValueError, match="nonlinearity 'x'"):
        nn.RNN(3, 4, nonlinearity="x")
    with pytest.raises(ValueError, match="proj_size is 4, expected 0"):
        nn.LSTM(3, 4, proj_size=4)
    with pytest.raises(ValueError, match=r"an initial state of shape \(1, 2, 4\), expected \(1, 2, 2\)"):
        nn.LSTM(3, 4, proj_size=2)(dr.zeros((5, 2, 3), "float32"), (dr.zeros((1, 2, 4)), dr.zeros((1, 2, 4))))


def _train(steps=4):
    dr.random.seed(4)
    layer, head = nn.LSTM(6, 256), nn.Linear(256, 3)
    parameters = [*layer.parameters(), *head.parameters()]
    x = dr.random.normal(size=(5, 8, 6), dtype="float32")
    losses = []
    for _ in range(steps):
        y, _ = layer(x)
        loss = dr.square(head(y[-1]) - 1).mean()
        loss.backward()
        with dr.no_grad():
            for p in parameters:
                p -= p.grad * 0.1
                p.grad = None
        losses.append(loss)
    return [x.numpy().tobytes() for x in (*losses, *parameters)], losses


def test_a_training_run_has_the_same_bits_asynchronously():
    found, losses = _train()
    with dr.engine("serial"):
        expected, _ = _train()
    assert found == expected
    assert losses[-1].item() < losses[0].item()
