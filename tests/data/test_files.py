"""IDX files and images: read back as written; whatever else a file holds is an error that names it."""

from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import dagrun as dr
from dagrun import data

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", ["a.idx", "a.idx.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32", "float64"])
def test_idx_files(tmp_path: Path, name: str, dtype: str) -> None:
    for shape in ((), (5,), (2, 3, 4), (0, 7)):
        x = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
        data.write_idx(tmp_path / name, x)
        back = data.read_idx(tmp_path / name)
        np.testing.assert_array_equal(back, x, strict=True)
        assert back.dtype.isnative
    data.write_idx(tmp_path / name, np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype)))
    assert data.read_idx(tmp_path / name).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_the_idx_layout(tmp_path: Path) -> None:
    data.write_idx(tmp_path / "a", dr.asarray([[1, -2]], dtype="int16"))
    assert (tmp_path / "a").read_bytes() == bytes([0, 0, 0x0B, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 1, 0xFF, 0xFE])
    for bad in (np.zeros(2, "int64"), np.zeros(2, bool), np.array(["a"])):
        with pytest.raises(TypeError, match="IDX files hold"):
            data.write_idx(tmp_path / "a", bad)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the header: 0 bytes, expected 4"),
        (b"\0\0\x08", "the header: 3 bytes"),
        (b"\x01\0\x08\x01", "begins 0x0100 0x08, expected 0x0000"),
        (b"\0\0\x0a\x01\0\0\0\0", "begins 0x0000 0x0a, expected"),
        (b"\0\0\x08\xff", "has 255 axes"),
        (b"\0\0\x08\x02\0\0\0\x01", "the lengths of 2 axes: 4 bytes, expected 8"),
        (b"\0\0\x0d\x01\0\0\0\x02abcd", r"the values of shape \(2,\): 4 bytes, expected 8"),
        (b"\0\0\x08\x01\0\0\0\x02abc", "goes on after the 2 bytes"),
        (b"\0\0\x08\x02\xff\xff\xff\xff\xff\xff\xff\xff", "expected 18446744065119617025"),
        (b"\0\0\x0e\x05" + b"\xff" * 16 + b"\0" * 4, "impossible shape"),
        (b"\x1f\x8b", "the gzip stream is damaged"),
        (b"\x1f\x8bgarbage", "the gzip stream is damaged"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x02ab")[:-6], "the gzip stream is damaged"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x02a"), r"the values of shape \(2,\)"),
        (gzip.compress(b"\0\0\x08\x01\x7f\0\0\0a"), "at most"),
    ],
)
def test_what_is_no_idx_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad-idx"
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=message) as caught:
        data.read_idx(path)
    assert str(path) in str(caught.value) and caught.value.path == str(path)


def test_claimed_lengths_take_no_memory(tmp_path: Path) -> None:
    """The claim is within what the packed bytes could hold; memory grows with what is there only."""
    path = tmp_path / "a.gz"
    noise = np.random.default_rng(0).bytes(200_000)
    path.write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, 200_000_000) + noise))
    tracemalloc.start()
    with pytest.raises(data.DataError, match="200000 bytes, expected 200000000"):
        data.read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@FUZZ
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=3), keep=st.floats(0, 1), packed=...)
def test_fuzzed_idx_files(tmp_path: Path, edits: list[tuple[float, int]], keep: float, packed: bool) -> None:
    path = tmp_path / "fuzzed"
    content = bytearray(b"\0\0\x0b\x02\0\0\0\x03\0\0\0\x02" + bytes(12))
    content = bytearray(gzip.compress(content, mtime=0)) if packed else content
    for place, value in edits:
        content[int(place * (len(content) - 1))] = value
    path.write_bytes(content[: int(keep * len(content)) if keep < 0.7 else None])
    try:
        x = data.read_idx(path)
    except data.DataError as error:
        assert str(path) in str(error)
    else:
        assert x.nbytes <= 24


# ---- images


def picture(mode: str = "RGB", size: tuple[int, int] = (6, 4), seed: int = 0) -> Image.Image:
    channels = {"RGB": (3,), "L": (), "RGBA": (4,)}[mode]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype="uint8"))


def packed(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_lossless_images(kind: str, mode: str, tmp_path: Path) -> None:
    image = picture(mode)
    pixels = np.asarray(image).reshape(4, 6, -1).transpose(2, 0, 1)
    (tmp_path / "a").write_bytes(packed(image, kind))
    for source in (packed(image, kind), tmp_path / "a", str(tmp_path / "a")):
        decoded = data.decode_image(source, mode)
        np.testing.assert_array_equal(decoded, pixels, strict=True)
        assert decoded.flags.c_contiguous
    if mode == "L":
        np.testing.assert_array_equal(data.decode_image(packed(image, kind)), np.repeat(pixels, 3, axis=0))


def test_lossy_images() -> None:
    image = Image.fromarray(np.full((8, 8, 3), (200, 30, 90), "uint8"))
    for kind in ("JPEG", "WEBP"):
        pixels = data.decode_image(packed(image, kind)).astype(int)
        assert pixels.shape == (3, 8, 8) and abs(pixels.mean(axis=(1, 2)) - (200, 30, 90)).max() < 8
    with pytest.raises(ValueError, match="mode"):
        data.decode_image(b"", "CMYK")


def test_images_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for content in (b"", b"no image", packed(picture(), "PNG")[:40], b"%PDF-1.4", b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        path.write_bytes(content)
        with pytest.raises(data.DataError, match=r"a\.png: no readable image"):
            data.decode_image(path)
    with pytest.raises(data.DataError, match=f"<{len(content)} bytes>: no readable image"):
        data.decode_image(content)
    with pytest.raises(FileNotFoundError):
        data.decode_image(tmp_path / "missing.png")


def test_images_of_hostile_sizes() -> None:
    with pytest.raises(data.DataError, match="an image of 6 x 4 pixels, expected at most 23"):
        data.decode_image(packed(picture(), "PNG"), max_pixels=23)
    raw = bytearray(packed(picture(), "BMP"))
    tracemalloc.start()
    for width, height in ((2**31 - 1, 2**31 - 1), (2**20, 2**10), (2**13, 2**12)):
        raw[18:26] = struct.pack("<2i", width, height)
        with pytest.raises(data.DataError):
            data.decode_image(bytes(raw))
    tracemalloc.stop()


@FUZZ
@given(
    kind=st.sampled_from(["PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP"]),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    keep=st.floats(0, 1),
)
def test_fuzzed_images(kind: str, edits: list[tuple[float, int]], keep: float) -> None:
    content = bytearray(packed(picture(), kind))
    for place, value in edits:
        content[int(place * (len(content) - 1))] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of files that end early
        try:
            pixels = data.decode_image(
                bytes(content[: int(keep * len(content)) if keep < 0.7 else None]), max_pixels=9999
            )
        except data.DataError as error:
            assert "bytes>" in str(error)
        else:
            assert pixels.shape[0] == 3 and pixels.dtype == np.uint8 and pixels.size <= 3 * 9999


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("dog/b.png", "dog/a.JPG", "cat/deep/c.bmp", "cat/notes.txt", "empty/")):
        path = tmp_path / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no image")
        elif not name.endswith("/"):
            picture(seed=seed).save(path)
    return tmp_path


def test_image_folder(folder: Path) -> None:
    dataset = data.ImageFolder(folder)
    assert dataset.classes == ["cat", "dog", "empty"] and dataset.class_to_idx == {"cat": 0, "dog": 1, "empty": 2}
    names = [(path.relative_to(folder).as_posix(), label) for path, label in dataset.samples]
    assert names == [("cat/deep/c.bmp", 0), ("dog/a.JPG", 1), ("dog/b.png", 1)] and dataset.labels.tolist() == [0, 1, 1]
    pixels, label = dataset[-1]
    np.testing.assert_array_equal(pixels, np.asarray(picture(seed=0)).transpose(2, 0, 1))
    assert label == 1 and data.ImageFolder(folder, mode="L")[0][0].shape == (1, 4, 6)
    loader = data.DataLoader(data.ImageFolder(folder, data.ToFloat()), 3, num_workers=2)
    x, y = next(iter(loader))
    assert x.shape == (3, 3, 4, 6) and x.dtype == np.float32 and y.tolist() == [0, 1, 1]


def test_image_folder_errors(folder: Path, tmp_path_factory: Any) -> None:
    (folder / "dog" / "c.png").write_bytes(packed(picture(), "PNG")[:60])
    with pytest.raises(data.LoaderError, match=r"sample 3: DataError: .*dog/c\.png: no readable image"):
        list(data.DataLoader(data.ImageFolder(folder), num_workers=1))
    with pytest.raises(FileNotFoundError, match="no images, expected <class>/<image>"):
        data.ImageFolder(tmp_path_factory.mktemp("nothing"))
    with pytest.raises(FileNotFoundError):
        data.ImageFolder(folder / "missing")
    with pytest.raises(ValueError, match="mode"):
        data.ImageFolder(folder, mode="P")
