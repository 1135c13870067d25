"""Lengths, angles, padding, resampling and one-hot rows: against torch, with gradients by differences."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from differences import check_gradients

import dagrun as dr
from dagrun import nn
from dagrun.nn import functional as F

RNG = np.random.default_rng(7)
X, Y = RNG.normal(size=(2, 3, 4))
IMAGES = RNG.normal(size=(2, 3, 4, 5))

# name, arrays, options, whether all gradients are smooth
FUNCTIONS = [
    ("normalize", (X,), {}, True),
    ("normalize", (X,), {"p": 3.0, "dim": 0}, True),
    ("normalize", (X,), {"p": 1.0, "dim": -1}, True),
    ("normalize", (X,), {"p": math.inf}, True),
    ("cosine_similarity", (X, Y), {}, True),
    ("cosine_similarity", (X, Y[:1]), {"dim": -1, "eps": 3.0}, True),
    ("pairwise_distance", (X, Y), {}, True),
    ("pairwise_distance", (X, Y), {"p": 1.0, "keepdim": True}, False),
    ("pairwise_distance", (X, Y), {"p": 4.0, "eps": 0.1}, True),
    ("pad", (IMAGES,), {"pad": (1, 2)}, False),
    ("pad", (IMAGES,), {"pad": (1, 2, 0, 3, 2, 0), "value": 1.5}, False),
    ("pad", (IMAGES,), {"pad": (-1, 2, 1, -2)}, False),
    ("pad", (IMAGES,), {"pad": (4, 3, 3, 0), "mode": "reflect"}, False),
    ("pad", (IMAGES,), {"pad": (7, 3, 3, 0), "mode": "replicate"}, False),
    ("pad", (IMAGES,), {"pad": (5, 3, 4, 0), "mode": "circular"}, False),
    ("interpolate", (IMAGES,), {"scale_factor": 0.6}, False),
    ("interpolate", (IMAGES,), {"scale_factor": (2.3, 0.9), "recompute_scale_factor": True}, False),
    ("interpolate", (IMAGES,), {"size": 3, "mode": "bilinear"}, False),
    ("interpolate", (IMAGES[..., None] * [1.0, 2.0],), {"scale_factor": 2, "mode": "trilinear"}, False),
]


@pytest.mark.parametrize(("name", "arrays", "options", "second"), FUNCTIONS, ids=lambda v: str(v)[:40])
def test_functions(name: str, arrays: Any, options: dict[str, Any], second: bool, device: str) -> None:
    function = partial(getattr(F, name), **options)
    check_gradients(function, *arrays, device=device, second=second, tolerance=1e-5)
    torch = pytest.importorskip("torch")
    expected = getattr(torch.nn.functional, name)(*map(torch.tensor, arrays), **options).numpy()
    found = function(*(dr.asarray(a, device=device) for a in arrays))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1 / 3, 0.7, 1.1, 2, 2.6, 3.3, 7.9])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "linear"])
def test_places_of_interpolation(scale: float, mode: str) -> None:
    torch = pytest.importorskip("torch")
    for length in range(3, 40):
        x = np.arange(float(length))[None, None]
        expected = torch.nn.functional.interpolate(torch.tensor(x), scale_factor=scale, mode=mode).numpy()
        np.testing.assert_allclose(F.interpolate(dr.asarray(x), scale_factor=scale, mode=mode).numpy(), expected, 1e-12)


def test_vectors_without_length_have_gradients() -> None:
    for p in (1.0, 2.0, 3.0):
        x = dr.zeros((2, 3), requires_grad=True)
        (F.normalize(x, p).sum() + F.pairwise_distance(x, dr.zeros(3), p, eps=0.0).sum()).backward()
        assert np.isfinite(x.grad.numpy()).all()
    assert F.normalize(dr.zeros((2, 3), "float32")).tolist() == [[0] * 3] * 2


def test_modules() -> None:
    x, y = dr.asarray(X), dr.asarray(Y)
    assert nn.CosineSimilarity(dim=0)(x, y).tolist() == F.cosine_similarity(x, y, 0).tolist()
    assert nn.PairwiseDistance(keepdim=True)(x, y).tolist() == F.pairwise_distance(x, y, keepdim=True).tolist()
    assert repr(nn.ZeroPad2d(1)) == "ZeroPad2d((1, 1, 1, 1))"
    assert repr(nn.Upsample(scale_factor=2)) == "Upsample(scale_factor=2, mode='nearest')"
    values, places = nn.MaxPool2d(2, return_indices=True)(dr.asarray(IMAGES))
    assert dr.take_along_axis(dr.asarray(IMAGES).reshape(2, 3, -1), places.reshape(2, 3, -1)).tolist() == (
        values.reshape(2, 3, -1).tolist()
    )


def test_one_hot(device: str) -> None:
    classes = np.array([[0, 3], [1, 1]])
    for dtype in ("int64", "uint8"):
        found = F.one_hot(dr.asarray(classes, dtype, device=device), 4)
        assert found.dtype == np.int64 and str(found.device) == device
        np.testing.assert_array_equal(found.numpy(), np.eye(4, dtype=int)[classes])
    assert F.one_hot([2, 0]).tolist() == [[0, 0, 1], [1, 0, 0]]  # as many as it takes
    for wrong in (-1, 4):
        with pytest.raises(IndexError, match=f"index {wrong} is out of bounds"):
            F.one_hot(dr.asarray([0, wrong], device=device), 4).numpy()
    with pytest.raises(TypeError, match="classes of dtype float64, expected integers"):
        F.one_hot([0.5])
    with pytest.raises(ValueError, match="num_classes is 0"):
        F.one_hot([0], 0)


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (lambda x: F.pad(x, (1, 1), "edge"), "mode is 'edge', expected one of constant, reflect, replicate, circular"),
        (lambda x: F.pad(x, (1,)), r"widths \(1,\) for an input"),
        (lambda x: F.pad(x, (5, 0), "reflect"), r"widths \(5, 0\) with mode 'reflect' for axis 3"),
        (lambda x: F.pad(x, (6, 0), "circular"), "with mode 'circular' for axis 3"),
        (lambda x: F.pad(x, (-3, -3)), "for axis 3"),
        (lambda x: F.pad(x, (1, 1), "reflect", 2.0), "a value of 2.0 with mode"),
        (lambda x: F.interpolate(x), "size None and scale_factor None, expected one of them"),
        (lambda x: F.interpolate(x, 3, 2), "expected one of them"),
        (lambda x: F.interpolate(x, (3, 3, 3)), "expected a positive number or 2 of them"),
        (lambda x: F.interpolate(x, 3, mode="linear"), "mode 'linear' for 2 axes"),
        (lambda x: F.interpolate(x, 3, align_corners=True), "align_corners with mode 'nearest'"),
        (lambda x: F.interpolate(x, scale_factor=0.1), "the size that scale_factor 0.1 gives"),
        (lambda x: F.pixel_shuffle(x, 2), r"expected a multiple of 4 channels"),
        (lambda x: F.pixel_unshuffle(x, 2), "images of a multiple of 2"),
        (lambda x: nn.ZeroPad1d(1)(x), "expected 3 axes, or 2 without a batch"),
        (lambda x: nn.Conv2d(1, 1, 1, padding_mode="edge"), "padding_mode is 'edge', expected one of zeros"),
        (lambda x: nn.ConvTranspose1d(1, 1, 1, padding_mode="reflect"), "expected 'zeros'"),
        (lambda x: nn.InstanceNorm1d(3)(x), r"expected 2 or 3 axes, and 3 channels"),
        (lambda x: F.instance_norm(x[..., :1, :1]), "one value for a channel of an image"),
        (lambda x: F.rms_norm(x, 4), r"does not end in normalized_shape \(4,\)"),
    ],
)
def test_mistakes_are_told(run: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        run(dr.asarray(IMAGES))
