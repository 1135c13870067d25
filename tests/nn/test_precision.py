"""Mixed precision: what computes in float16, what in float32; training with float32 parameters and a scaled loss."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import dagrun as dr
from dagrun import nn, optim
from dagrun.nn import functional as F

HALF, SINGLE = np.dtype("float16"), np.dtype("float32")


def ones(*shape: int, dtype: str = "float32") -> dr.Array:
    return dr.ones(shape, dtype)


NARROWED = {
    "@": lambda: ones(2, 3) @ ones(3, 2),
    "@ again": lambda: [ones(2, 3) @ ones(3, 2) for _ in range(3)][-1],
    "matmul": lambda: dr.matmul(ones(2, 3), ones(3)),
    "tensordot": lambda: dr.tensordot(ones(2, 3), ones(3, 2), 1),
    "linear": lambda: F.linear(ones(2, 3), ones(4, 3), ones(4)),
    "conv1d": lambda: F.conv1d(ones(1, 2, 5), ones(3, 2, 2), ones(3)),
    "conv2d": lambda: F.conv2d(ones(1, 2, 5, 5), ones(3, 2, 2, 2), ones(3)),
    "conv_transpose2d": lambda: F.conv_transpose2d(ones(1, 2, 3, 3), ones(2, 3, 2, 2)),
    "lstm": lambda: nn.LSTM(3, 4)(ones(2, 1, 3))[0],
    "gru": lambda: nn.GRU(3, 4)(ones(2, 1, 3))[0],
    "attention": lambda: F.scaled_dot_product_attention(ones(1, 3, 4), ones(1, 3, 4), ones(1, 3, 4)),
    "relu of linear": lambda: F.relu(F.linear(ones(2, 3), ones(4, 3))),
    "pooling of conv2d": lambda: F.max_pool2d(F.conv2d(ones(1, 1, 4, 4), ones(1, 1, 1, 1)), 2),
    "batch norm": lambda: nn.BatchNorm2d(2)(ones(2, 2, 3, 3, dtype="float16")),
}
WIDENED = {
    "softmax": lambda: F.softmax(ones(2, 3, dtype="float16")),
    "log_softmax": lambda: F.log_softmax(ones(2, 3, dtype="float16")),
    "cross_entropy": lambda: F.cross_entropy(ones(2, 3, dtype="float16"), dr.asarray([0, 1])),
    "layer_norm": lambda: nn.LayerNorm(3)(ones(2, 3, dtype="float16")),
    "group_norm": lambda: nn.GroupNorm(1, 2)(ones(2, 2, 3, dtype="float16")),
    "rms_norm": lambda: nn.RMSNorm(3)(ones(2, 3, dtype="float16")),
    "normalize": lambda: F.normalize(ones(2, 3, dtype="float16")),
    "mse_loss": lambda: F.mse_loss(ones(2, dtype="float16"), ones(2, dtype="float16")),
    "bce": lambda: F.binary_cross_entropy_with_logits(ones(2, dtype="float16"), ones(2)),
    "float16 + float32": lambda: ones(2, dtype="float16") + ones(2),
}


@pytest.mark.parametrize("name", NARROWED)
def test_products_compute_in_half_precision(name: str) -> None:
    with dr.autocast():
        made = NARROWED[name]()
    assert made.dtype == HALF
    with dr.autocast(enabled=False):
        assert NARROWED[name]().dtype == (HALF if name == "batch norm" else SINGLE)


@pytest.mark.parametrize("name", WIDENED)
def test_sums_and_exponentials_compute_in_single_precision(name: str) -> None:
    with dr.autocast():
        assert WIDENED[name]().dtype == SINGLE
    assert WIDENED[name]().dtype == (SINGLE if "32" in name or name == "bce" else HALF)


def test_values_are_those_of_the_casts_written_by_hand() -> None:
    rng = np.random.default_rng(0)
    x, w, b = (dr.asarray(rng.standard_normal(s), "float32", requires_grad=True) for s in ((4, 3), (2, 3), (2,)))
    with dr.autocast():
        F.cross_entropy(F.linear(x, w, b), dr.asarray([0, 1, 1, 0])).backward()
    ours = [leaf.grad.numpy() for leaf in (x, w, b)]
    for leaf in (x, w, b):
        leaf.grad = None
    halves = [leaf.astype("float16") for leaf in (x, w, b)]
    F.cross_entropy(F.linear(*halves).astype("float32"), dr.asarray([0, 1, 1, 0])).backward()
    for own, leaf in zip(ours, (x, w, b), strict=True):
        assert own.dtype == SINGLE
        np.testing.assert_array_equal(own, leaf.grad.numpy())


def test_other_dtypes_threads_and_nesting() -> None:
    found: dict[str, np.dtype] = {}
    with dr.autocast():
        assert (dr.ones((2, 2)) @ dr.ones((2, 2))).dtype == np.float64
        assert (dr.ones((2, 2), "int32") @ dr.ones((2, 2), "int32")).dtype == np.int32
        other = threading.Thread(target=lambda: found.update(other=(ones(2, 2) @ ones(2, 2)).dtype))
        other.start()
        other.join()
        with dr.autocast("float32"):
            assert (ones(2, 2) @ ones(2, 2)).dtype == SINGLE
        assert (ones(2, 2) @ ones(2, 2)).dtype == HALF
    assert found["other"] == SINGLE

    @dr.autocast()
    def product(depth: int) -> dr.Array:
        return product(depth - 1) if depth else ones(2, 2) @ ones(2, 2)

    assert product(2).dtype == HALF
    assert (ones(2, 2) @ ones(2, 2)).dtype == SINGLE
    with pytest.raises(TypeError, match="dtype float64, expected float16"):
        dr.autocast("float64")


def test_recomputation_has_the_precision_of_the_first_time() -> None:
    x = dr.asarray([[1.0, 2049.0]], "float32", requires_grad=True)  # 2049 is 2048 in float16
    w = dr.asarray([[1.0], [1.0]], "float32")
    seen = []

    def product(x: dr.Array) -> dr.Array:
        y = x @ w
        seen.append(y.dtype)
        return (y * y).sum()

    with dr.autocast():
        value = dr.checkpoint(product, x)
        value.backward()
    assert seen == [HALF, HALF]
    with dr.autocast():
        value = dr.checkpoint(product, x)
    value.backward()
    assert seen == [HALF] * 4


@pytest.mark.parametrize("devices", [["cpu:0"], ["cpu:0", "sim:0"]])
def test_training_with_a_scaled_loss(devices: list[str]) -> None:
    """Parameters stay float32, and come close to those of single precision."""

    def trained(half: bool) -> list[np.ndarray]:
        dr.random.seed(0)
        net = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3))
        copies = dr.parallel.Replicas(net, devices)
        optimizers = [optim.SGD(own.parameters(), lr=0.1) for own in copies.modules]
        scaler = optim.LossScaler(init_scale=1024.0)
        rng = np.random.default_rng(0)
        for _ in range(20):
            x = dr.asarray(rng.standard_normal((12, 8)), "float32")
            labels = dr.asarray(rng.integers(0, 3, 12))

            def loss(own: nn.Module, part: tuple[dr.Array, dr.Array]) -> dr.Array:
                with dr.autocast(enabled=half):
                    return scaler.scale(F.cross_entropy(own(part[0]), part[1]))

            copies.step(loss, (x, labels))
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
        return [p.numpy() for p in copies.modules[0].parameters()]

    single, half = trained(False), trained(True)
    for a, b in zip(single, half, strict=True):
        assert b.dtype == SINGLE
        np.testing.assert_allclose(b, a, atol=0.02)
    assert any((a != b).any() for a, b in zip(single, half, strict=True))
