"""Philox4x32-10: the published vectors, the documented mapping, cuts, and the distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.philox import KINDS, philox_kernel, philox_params
from tests.codegen.harness import call

DTYPES = {
    "uint32": ["uint32"],
    "uint64": ["uint64"],
    "uniform": ["float32", "float64"],
    "normal": ["float32", "float64"],
    "bounded": ["int8", "int32", "uint64"],
}
EVERY = [(kind, dtype) for kind in KINDS for dtype in DTYPES[kind]]


def fill(
    kind: str, dtype: str, count: int, key: int = 7, stream: int = 3, first: int = 0, low: int = -5, extent: int = 11
) -> np.ndarray:
    out = np.zeros(count, dtype)
    scalars = [np.uint64(key), np.uint64(stream), np.int64(low), np.uint64(extent)]
    assert call(philox_kernel(kind, dtype), [out], philox_params(count, first), scalars)[0] == 0
    return out


def philox(counter: list[int], key: list[int]) -> list[int]:
    """The algorithm as published, on Python integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(second >> 32) ^ c[1] ^ k[0], second & 0xFFFFFFFF, (first >> 32) ^ c[3] ^ k[1], first & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers(counter: list[int], key: list[int], words: str) -> None:
    """Vectors of Random123's kat_vectors; the kernel can be put at any block that an element number reaches."""
    expected = [int(word, 16) for word in words.split()]
    assert philox(counter, key) == expected
    block, stream = counter[0] | counter[1] << 32, counter[2] | counter[3] << 32
    if block == 0:
        assert fill("uint32", "uint32", 4, key[0] | key[1] << 32, stream).tolist() == expected


def test_mapping() -> None:
    key, stream, first = 0x1234567890ABCDEF, 0xFEDCBA0987654321, 8 * 0x123456789
    numbers = range(first // 4, first // 4 + 40)
    counters = [[b & 0xFFFFFFFF, b >> 32, 0x87654321, 0xFEDCBA09] for b in numbers]
    blocks = [philox(counter, [0x90ABCDEF, 0x12345678]) for counter in counters]
    words = [word for block in blocks for word in block]
    raw = fill("uint32", "uint32", 150, key, stream, first)
    assert raw.tolist() == words[:150]
    wide = fill("uint64", "uint64", 70, key, stream, first // 2)
    assert wide.tolist() == [words[2 * i] | words[2 * i + 1] << 32 for i in range(70)]
    uniform = fill("uniform", "float32", 150, key, stream, first)
    np.testing.assert_array_equal(uniform, ((raw >> 8) * 2.0**-24).astype(np.float32))
    np.testing.assert_array_equal(fill("uniform", "float64", 70, key, stream, first // 2), (wide >> 11) * 2.0**-53)
    bounded = fill("bounded", "int32", 70, key, stream, first // 2, low=-5, extent=1000)
    assert bounded.tolist() == [-5 + (int(word) * 1000 >> 64) for word in wide]
    full = fill("bounded", "uint64", 70, key, stream, first // 2, low=0, extent=0)
    assert full.tolist() == wide.tolist()


def test_normal_is_box_muller() -> None:
    raw = fill("uint32", "uint32", 4000).astype(np.float64).reshape(-1, 2)
    radius = np.sqrt(-2 * np.log(raw[:, 0] * 2.0**-32 + 2.0**-33))
    angle = 2 * np.pi * np.floor(raw[:, 1] / 256) * 2.0**-24
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()
    np.testing.assert_allclose(fill("normal", "float32", 4000), expected, rtol=2e-6, atol=1e-6)
    wide = (fill("uint64", "uint64", 4000) >> 11).astype(np.float64).reshape(-1, 2) * 2.0**-53
    radius = np.sqrt(-2 * np.log(wide[:, 0] + 2.0**-53))
    expected = np.stack([radius * np.cos(2 * np.pi * wide[:, 1]), radius * np.sin(2 * np.pi * wide[:, 1])], 1).ravel()
    np.testing.assert_allclose(fill("normal", "float64", 4000), expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(("kind", "dtype"), EVERY)
def test_cuts_and_lengths_do_not_matter(kind: str, dtype: str) -> None:
    whole = fill(kind, dtype, 203)
    for count in (0, 1, 3, 31, 33, 64):
        np.testing.assert_array_equal(fill(kind, dtype, count), whole[:count])
    np.testing.assert_array_equal(np.concatenate([fill(kind, dtype, 100), fill(kind, dtype, 103, first=100)]), whole)
    assert not np.array_equal(fill(kind, dtype, 203, stream=4), whole)
    assert not np.array_equal(fill(kind, dtype, 203, key=8), whole)
    with pytest.raises(ValueError, match="multiple of 4"):
        philox_params(4, 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_distributions(dtype: str) -> None:
    n = 1 << 20
    u = fill("uniform", dtype, n).astype(np.float64)
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 5 / math.sqrt(12 * n)
    z = fill("normal", dtype, n).astype(np.float64)
    assert np.isfinite(z).all()
    assert abs(z.mean()) < 5 / math.sqrt(n) and abs(z.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((z**4).mean() - 3) < 5 * math.sqrt(96 / n)
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 5 / math.sqrt(n)
    counts = np.bincount(fill("bounded", "int32", n, low=0, extent=7))
    assert len(counts) == 7 and np.all(np.abs(counts - n / 7) < 6 * math.sqrt(n / 7))


def test_refusals() -> None:
    for kind, dtype in [("uniform", "int32"), ("bounded", "float32"), ("poisson", "float64"), ("uint32", "uint64")]:
        with pytest.raises(Unsupported, match="no random kernel"):
            philox_kernel(kind, dtype)
