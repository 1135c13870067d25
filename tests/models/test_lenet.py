"""LeNet-5 against the paper: parameter counts, what each map sees, and that both forms learn."""

from __future__ import annotations

import numpy as np
import pytest

import dagrun as dr
from dagrun.models.lenet import CONNECTIONS, DIGITS, Subsampling, TableConv2d


def test_parameters_of_the_paper() -> None:
    net = dr.models.OriginalLeNet5()
    counts = {name: sum(p.size for p in layer.parameters()) for name, layer in net.named_children()}
    assert counts == {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48120, "f6": 10164}
    assert sum(p.size for p in net.parameters()) == 60_000


def test_parameters_of_the_modern_form() -> None:
    assert [p.size for p in dr.models.LeNet5().parameters()] == [150, 6, 2400, 16, 48000, 120, 10080, 84, 840, 10]


def test_the_connection_table() -> None:
    """Six maps of C3 see three neighbours, six see four, three see four that are no neighbours, one sees all."""
    assert [len(seen) for seen in CONNECTIONS] == [3] * 6 + [4] * 9 + [6]
    assert len(set(CONNECTIONS)) == 16
    assert [sum(i in seen for seen in CONNECTIONS) for i in range(6)] == [10] * 6  # a balanced table
    for seen in CONNECTIONS[:12]:
        assert any({(first + k) % 6 for k in range(len(seen))} == set(seen) for first in range(6))
    for seen in CONNECTIONS[12:15]:
        assert not any({(first + k) % 6 for k in range(4)} == set(seen) for first in range(6))


def test_a_map_sees_what_the_table_says() -> None:
    layer = TableConv2d(6, CONNECTIONS, 5)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 6, 5, 5)).astype("float32")
    before = layer(dr.asarray(x)).numpy()
    for i in range(6):
        changed = x.copy()
        changed[0, i] += 1.0
        moved = np.abs(layer(dr.asarray(changed)).numpy() - before)[0, :, 0, 0] > 1e-5
        assert [bool(m) for m in moved] == [i in seen for seen in CONNECTIONS]


def test_table_convolution_is_a_convolution_with_absent_kernels() -> None:
    layer = TableConv2d(6, CONNECTIONS, 5)
    x = np.random.default_rng(1).standard_normal((2, 6, 14, 14)).astype("float32")
    kernels = np.zeros((16, 6, 5, 5), "float32")
    own = iter(layer.weight.numpy())
    for i, seen in enumerate(CONNECTIONS):
        for j in seen:
            kernels[i, j] = next(own)
    expected = dr.nn.functional.conv2d(dr.asarray(x), dr.asarray(kernels), layer.bias)
    np.testing.assert_array_equal(layer(dr.asarray(x)).numpy(), expected.numpy())
    layer(dr.asarray(x)).sum().backward()
    assert layer.weight.grad.shape == (60, 5, 5) and bool((layer.weight.grad != 0).all())


def test_subsampling_adds_weighs_and_squashes() -> None:
    layer = Subsampling(2)
    with dr.no_grad():
        layer.weight[...] = np.array([0.5, 2.0])
        layer.bias[...] = np.array([0.25, -1.0])
    x = np.random.default_rng(2).standard_normal((3, 2, 4, 6)).astype("float32")
    sums = x.reshape(3, 2, 2, 2, 3, 2).sum(axis=(3, 5))
    a = sums * np.array([0.5, 2.0])[:, None, None] + np.array([0.25, -1.0])[:, None, None]
    np.testing.assert_allclose(layer(dr.asarray(x)).numpy(), 1.7159 * np.tanh(2 / 3 * a), rtol=1e-5, atol=1e-6)


def test_outputs_are_distances_to_the_drawn_digits() -> None:
    net = dr.models.OriginalLeNet5()
    codes = net.digits.numpy()
    assert codes.shape == (10, 84) and set(np.unique(codes)) == {-1.0, 1.0}
    assert len({code.tobytes() for code in codes}) == 10
    rows = [line.split() for line in DIGITS.split("\n") if line]
    assert [row[1] for row in rows[:2]] == ["...#...", "..##..."]
    x = dr.random.normal(size=(2, 1, 32, 32), dtype="float32")
    found = []
    net.f6.register_forward_hook(lambda module, inputs, result: found.append(result.numpy()))
    scores = net(x).numpy()
    f6 = 1.7159 * np.tanh(2 / 3 * found[0])
    np.testing.assert_allclose(scores, -((f6[:, None] - codes) ** 2).sum(axis=2), rtol=1e-5)


@pytest.mark.parametrize(("name", "rate"), [("lenet", 0.05), ("lenet-1998", 0.002), ("mlp", 0.05)])
def test_each_learns_a_small_batch(name: str, rate: float) -> None:
    dr.random.seed(0)
    model = dr.models.find(name)
    net = model.make()
    inputs, targets = model.example(np.random.default_rng(0), 8)
    x, y = dr.asarray(inputs), dr.asarray(targets)
    optimizer = dr.optim.SGD(net.parameters(), rate, momentum=0.9)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = model.loss(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss)
    assert losses[-1].item() < 0.8 * losses[0].item()


def test_the_registry_names_what_was_perhaps_meant() -> None:
    with pytest.raises(ValueError, match=r"no model is named 'lennet'.* did you mean 'lenet'\?"):
        dr.models.find("lennet")
    assert dr.models.names()[0] == "lenet"
