"""Convolutions against sums over windows in NumPy, against torch, and their gradients by finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nn.gradient_checks import check_gradients, check_serial, placed_as, with_gradients

import dagrun as dr
from dagrun.core import tracing
from dagrun.nn import functional as F

# n, channels, size, outputs, kernel, stride, padding, dilation, groups
CASES = [
    (2, 3, (7, 8), 4, (3, 2), 1, 1, 1, 1),
    (5, 4, (9, 9), 6, (3, 3), 2, 1, 1, 2),
    (3, 4, (9, 11), 8, (3, 3), (2, 1), (1, 2), 2, 4),
    (9, 1, (12, 12), 6, (5, 5), 1, 2, 1, 1),
    (8, 16, (5, 5), 4, (1, 1), 1, 0, 1, 1),
    (3, 4, (6, 6), 4, (1, 1), 2, 0, 1, 1),
    (2, 2, (40, 150), 3, (3, 3), 1, 1, 1, 1),
    (1, 2, (4, 4), 2, (4, 4), 3, 3, 1, 1),
    (3, 5, (7, 8), 5, (3, 2), 1, 1, 1, 5),
    (2, 3, (12, 41), 6, (3, 3), 2, (1, 0), 1, 3),
    (2, 6, (9, 8), 4, (2, 3), (3, 4), (0, 3), (2, 1), 2),
    (2, 2, (3, 3), 2, (1, 2), (5, 2), 2, 1, 2),
]


def both(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def windows(x: np.ndarray, kernel: Any, stride: Any, padding: Any, dilation: Any) -> np.ndarray:
    """(n, c, rows, columns, kernel rows, kernel columns)"""
    (sh, sw), (ph, pw), (dh, dw) = both(stride), both(padding), both(dilation)
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    spans = (dh * (kernel[0] - 1) + 1, dw * (kernel[1] - 1) + 1)
    view = np.lib.stride_tricks.sliding_window_view(padded, spans, (2, 3))
    return view[:, :, ::sh, ::sw, ::dh, ::dw]


def reference(x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> np.ndarray:
    parts = []
    for own, weight in zip(np.split(x, groups, 1), np.split(w, groups, 0), strict=True):
        seen = windows(own, w.shape[2:], stride, padding, dilation)
        parts.append(np.einsum("nchwij,ocij->nohw", seen, weight))
    return np.concatenate(parts, 1) + b[:, None, None]


def operands(case: Any, dtype: str = "float64") -> tuple[list[np.ndarray], tuple[Any, ...]]:
    n, c, size, o, kernel, stride, padding, dilation, groups = case
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in ((n, c, *size), (o, c // groups, *kernel), (o,))]
    return arrays, (stride, padding, dilation, groups)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution(case: Any, device: str) -> None:
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-4), ("float16", 4e-2)):
        arrays, options = operands(case, dtype)
        expected = reference(*(a.astype("float64") for a in arrays), *options)
        for place in (dr.asarray, placed_as):
            y = F.conv2d(*(place(a, device=device) for a in arrays), *options)
            assert y.dtype == dtype and y.device == dr.device(device)
            np.testing.assert_allclose(y.numpy(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", [case for case in CASES if case[2] != (40, 150)], ids=str)
def test_gradients_of_convolution(case: Any, device: str) -> None:
    arrays, options = operands(case)
    check_gradients(lambda x, w, b: F.conv2d(x, w, b, *options), *arrays, device=device)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_bits_as_one_after_the_other(case: Any) -> None:
    arrays, options = operands(case, "float32")
    check_serial(lambda: with_gradients(lambda *xs: F.conv2d(*xs, *options), *arrays))


def test_large_work_is_cut_into_tasks_of_the_same_values(host_device: str) -> None:
    for case in ((16, 16, (16, 16), 32, (3, 3), 1, 1, 1, 1), (24, 160, (4, 4), 176, (3, 3), 1, 1, 1, 1)):
        (x, w, b), options = operands(case, "float32")
        leaves = [dr.asarray(a, device=host_device, requires_grad=True) for a in (x, w, b)]
        with tracing() as records:
            y = F.conv2d(*leaves, *options)
            y.backward(dr.ones_like(y))
            dr.wait()
        for name in ("convolve", "convolve_transposed", "convolve_weight"):
            own = [r for r in records if r.name == name]
            assert len(own) > 1 and {r.lane for r in own} == {"compute"}, name
        np.testing.assert_allclose(y.detach().numpy(), reference(x, w, b, *options), rtol=2e-4, atol=2e-4)
        seen = windows(x.astype("float64"), w.shape[2:], *options[:3])
        expected = np.broadcast_to(seen.sum((0, 2, 3)), w.shape)
        np.testing.assert_allclose(leaves[1].grad.numpy(), expected, rtol=1e-3, atol=1e-3)


def test_depthwise_work_is_cut_by_images_or_groups(host_device: str) -> None:
    for case in ((12, 24, (33, 30), 24, (3, 3), 1, 1, 1, 24), (1, 24, (190, 64), 24, (5, 3), 1, 2, 1, 24)):
        (x, w, b), options = operands(case, "float32")
        leaves = [dr.asarray(a, device=host_device, requires_grad=True) for a in (x, w, b)]
        with tracing() as records:
            y = F.conv2d(*leaves, *options)
            y.backward(dr.ones_like(y))
            dr.wait()
        for name in ("convolve", "convolve_transposed", "convolve_weight"):
            assert sum(r.name == name for r in records) > 1, name
        np.testing.assert_allclose(y.detach().numpy(), reference(x, w, b, *options), rtol=2e-4, atol=2e-4)
        seen = windows(x.astype("float64"), w.shape[2:], *options[:3])
        np.testing.assert_allclose(leaves[1].grad.numpy(), seen.sum((0, 2, 3))[:, None], rtol=1e-3, atol=2e-3)


def test_padding_by_name() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 7, 6)), rng.standard_normal((4, 3, 4, 3))
    same = F.conv2d(x, w, padding="same")
    expected = F.conv2d(np.pad(x, ((0, 0), (0, 0), (1, 2), (1, 1))), w)
    np.testing.assert_allclose(same.numpy(), expected.numpy(), rtol=1e-12)
    assert same.shape == (2, 4, 7, 6) and F.conv2d(x, w, padding="valid").shape == (2, 4, 4, 4)
    check_gradients(lambda a, b: F.conv2d(a, b, padding="same"), x, w)


def test_one_axis_and_one_image(device: str) -> None:
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((2, 4, 9)), rng.standard_normal((6, 2, 3)), rng.standard_normal(6)
    y = F.conv1d(*(dr.asarray(a, device=device) for a in (x, w, b)), stride=2, padding=1, dilation=2, groups=2)
    expected = reference(x[:, :, None], w[:, :, None], b, (1, 2), (0, 1), (1, 2), 2)[:, :, 0]
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12)
    alone = F.conv1d(dr.asarray(x[0]), dr.asarray(w), groups=2)
    assert alone.shape == (6, 7)
    check_gradients(lambda *xs: F.conv1d(*xs, 2, 1, 2, 2), x, w, b, device=device)
    assert F.conv2d(dr.ones((3, 5, 5)), dr.ones((2, 3, 3, 3))).shape == (2, 3, 3)


TRANSPOSED = [(1, 0, 0, 1, 1), (2, 1, 1, 1, 1), (3, 0, (2, 1), 1, 2), ((2, 1), (1, 2), 0, 2, 2)]


@pytest.mark.parametrize("options", TRANSPOSED, ids=str)
def test_transposed_convolution_is_the_adjoint(options: Any, device: str) -> None:
    stride, padding, extra, dilation, groups = options
    rng = np.random.default_rng(0)
    y, w, b = rng.standard_normal((3, 4, 5, 6)), rng.standard_normal((4, 3, 3, 2)), rng.standard_normal(3 * groups)
    x = F.conv_transpose2d(
        *(dr.asarray(a, device=device) for a in (y, w)), None, stride, padding, extra, groups, dilation
    )
    probe = rng.standard_normal(x.shape)
    seen = F.conv2d(probe, w, None, stride, padding, dilation, groups).numpy()
    assert seen.shape == y.shape
    np.testing.assert_allclose((seen * y).sum(), (probe * x.numpy()).sum(), rtol=1e-10)
    check_gradients(
        lambda a, c, d: F.conv_transpose2d(a, c, d, stride, padding, extra, groups, dilation), y, w, b, device=device
    )


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float16", "float32", "float64"])
def test_unfold_and_fold(dtype: str, device: str) -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((3, 2, 9, 12)) * 5).astype(dtype)
    for kernel, stride, padding, dilation in (((3, 3), 1, 1, 1), ((2, 3), (2, 1), (0, 2), (1, 2)), ((1, 12), 1, 0, 1)):
        seen = windows(x, kernel, stride, padding, dilation)
        expected = seen.transpose(0, 1, 4, 5, 2, 3).reshape(3, 2 * kernel[0] * kernel[1], -1)
        for place in (dr.asarray, placed_as):
            columns = F.unfold(place(x, device=device), kernel, dilation, padding, stride)
            np.testing.assert_array_equal(columns.numpy(), expected)
        back = F.fold(columns, (9, 12), kernel, dilation, padding, stride)
        ones = F.unfold(dr.ones((1, 1, 9, 12)), kernel, dilation, padding, stride)
        times = F.fold(ones, (9, 12), kernel, dilation, padding, stride)
        wanted = x & (times.numpy() > 0) if dtype == "bool" else x * times.numpy().astype(dtype)
        np.testing.assert_allclose(back.numpy(), wanted, rtol=2e-2 if dtype == "float16" else 1e-6)


def test_gradients_of_unfold_and_fold(device: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 6, 7))
    check_gradients(lambda a: F.unfold(a, (3, 2), 1, 1, 2) ** 2, x, device=device)
    columns = rng.standard_normal((2, 6, 30))
    check_gradients(lambda a: F.fold(a, (6, 7), (1, 3), 1, 0, 1) ** 2, columns, device=device)


def test_empty_batch(device: str) -> None:
    x = dr.zeros((0, 3, 5, 5), device=device, requires_grad=True)
    w = dr.ones((2, 3, 3, 3), device=device, requires_grad=True)
    y = F.conv2d(x, w, dr.zeros(2, device=device))
    assert y.shape == (0, 2, 3, 3)
    y.sum().backward()
    assert x.grad.shape == x.shape and not w.grad.numpy().any()
    assert F.unfold(x, 3).shape == (0, 27, 9) and F.fold(dr.zeros((0, 27, 9)), 5, 3).shape == (0, 3, 5, 5)
    assert F.conv_transpose2d(y, w).shape == (0, 3, 5, 5)


def test_errors() -> None:
    x, w = dr.ones((1, 3, 5, 5)), dr.ones((2, 3, 3, 3))
    with pytest.raises(ValueError, match="has 3 channels, weight of shape"):
        F.conv2d(x, dr.ones((2, 4, 3, 3)))
    with pytest.raises(ValueError, match="kernel spans 7 elements, but the padded input has 5"):
        F.conv2d(x, dr.ones((2, 3, 7, 7)))
    with pytest.raises(ValueError, match="padding 'same' with stride 2"):
        F.conv2d(x, w, stride=2, padding="same")
    with pytest.raises(ValueError, match="stride is 0, expected an integer or 2 of them, at least 1"):
        F.conv2d(x, w, stride=0)
    with pytest.raises(ValueError, match=r"bias of shape \(3,\), expected \(2,\)"):
        F.conv2d(x, w, dr.ones(3))
    with pytest.raises(TypeError, match="dtypes float64, float32"):
        F.conv2d(x, w.astype("float32"))
    with pytest.raises(dr.DeviceError):
        F.conv2d(x, w.to_device("cpu:1"))
    with pytest.raises(ValueError, match="output_padding is 2, expected less than stride 1"):
        F.conv_transpose2d(x, dr.ones((3, 2, 3, 3)), output_padding=2)
    with pytest.raises(ValueError, match=r"expected \(n, a multiple of 9, 9\) for images"):
        F.fold(dr.ones((1, 8, 9)), 5, 3)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_torch(case: Any) -> None:
    torch = pytest.importorskip("torch")
    arrays, (stride, padding, dilation, groups) = operands(case)
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    y = torch.nn.functional.conv2d(*theirs, stride, padding, dilation, groups)
    (y * y).sum().backward()
    ours = with_gradients(lambda *xs: F.conv2d(*xs, stride, padding, dilation, groups), *arrays)
    for a, b in zip(ours, [y, *(t.grad for t in theirs)], strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-9)
    u = torch.nn.functional.unfold(theirs[0], case[4], dilation, padding, stride)
    np.testing.assert_array_equal(F.unfold(arrays[0], case[4], dilation, padding, stride).numpy(), u.detach().numpy())


@pytest.mark.parametrize("axes", [1, 2])
def test_the_size_of_a_transposed_convolution_can_be_chosen(axes: int) -> None:
    torch = pytest.importorskip("torch")
    name = f"ConvTranspose{axes}d"
    theirs = getattr(torch.nn, name)(2, 3, 3, stride=2, padding=1).double()
    ours = getattr(dr.nn, name)(2, 3, 3, stride=2, padding=1, dtype="float64")
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    x = np.random.default_rng(1).normal(size=(1, 2, *(5, 4)[:axes]))
    for size in ((9, 7), (10, 8), (9, 8)):
        for wanted in (size[:axes], (1, 3, *size[:axes])):
            expected = theirs(torch.tensor(x), output_size=wanted).detach().numpy()
            np.testing.assert_allclose(ours(dr.asarray(x), output_size=wanted).numpy(), expected, atol=1e-12)
    with pytest.raises(ValueError, match=r"output_size is \(11,.* from \(9,.* to \(10,"):
        ours(dr.asarray(x), output_size=(11, 7)[:axes])
