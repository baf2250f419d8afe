# SPDX-License-Identifier: GPL-3.0-or-later
"""MRC files: they are read as they were written, bit for bit, and damaged files are refused."""
import mrcfile
import numpy as np
import pytest

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.mrc import read_header, read_mrc, write_mrc


@pytest.fixture
def image():
    return np.random.default_rng(1).normal(size=(20, 31)).astype(np.float32)


def test_an_image_is_read_as_it_was_written(tmp_path, image):
    write_mrc(tmp_path / "a.mrc", image, 3.25)
    found, pixel_size = read_mrc(tmp_path / "a.mrc", 2)
    assert np.array_equal(found, image)
    assert pixel_size == pytest.approx(3.25, rel=1e-6)  # the header is float32
    assert read_header(tmp_path / "a.mrc", 2)[0] == (20, 31)
    assert mrcfile.validate(tmp_path / "a.mrc")


def test_the_same_data_give_the_same_bytes(tmp_path, image):
    for name in ("a.mrc", "b.mrc"):
        write_mrc(tmp_path / name, image, 1.0)
    assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "b.mrc").read_bytes()


def test_stacks_are_marked_as_stacks_and_masks_have_mode_0(tmp_path, image):
    write_mrc(tmp_path / "a.mrcs", np.stack([image] * 3), 2.0, stack=True)
    with mrcfile.open(tmp_path / "a.mrcs") as file:
        assert file.is_image_stack()
        assert float(file.voxel_size.x) == 2.0
    write_mrc(tmp_path / "m.mrc", (image > 0).astype(np.uint8), 2.0)
    with mrcfile.open(tmp_path / "m.mrc") as file:
        assert int(file.header.mode) == 0
        assert set(np.unique(file.data)) == {0, 1}


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float32, np.float16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_number_type_and_byte_order_is_read(tmp_path, dtype, order):
    data = np.arange(60).reshape(6, 10)
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(data.astype(dtype))
        file.voxel_size = 2
    if order == ">":
        path = tmp_path / "a.mrc"
        raw = path.read_bytes()
        head = np.frombuffer(raw[:1024], "<i4").astype(">i4").tobytes()
        # The text fields and the machine stamp have no byte order.
        head = head[:104] + raw[104:108] + head[108:208] + raw[208:212] + bytes([0x11, 0x11, 0, 0]) + head[216:220] \
            + (1).to_bytes(4, "big") + raw[224:1024]
        body = np.frombuffer(raw[1024:], np.dtype(dtype).newbyteorder("<"))
        path.write_bytes(head + body.astype(body.dtype.newbyteorder(">")).tobytes())
    found, pixel_size = read_mrc(tmp_path / "a.mrc", 2)
    assert np.array_equal(found, data)
    assert pixel_size == 2.0


def write_damaged(path, image, damage):
    write_mrc(path, image, 2.0)
    raw = bytearray(path.read_bytes())
    if damage == "empty":
        raw = b""
    elif damage == "truncated":
        raw = raw[:-100]
    elif damage == "huge":
        raw[0:12] = np.array([32768, 32768, 1], "<i4").tobytes()
    elif damage == "zero":
        raw[0:4] = bytes(4)
    elif damage == "mode":
        raw[12:16] = np.array([77], "<i4").tobytes()
    elif damage == "extended":
        raw[92:96] = np.array([2_000_000_000], "<i4").tobytes()
    elif damage == "text":
        raw = b"this is not an image" * 100
    elif damage == "nan":
        raw[1024:1028] = np.array([np.nan], "<f4").tobytes()
    elif damage == "constant":
        raw[1024:] = bytes(len(raw) - 1024)
    path.write_bytes(raw)


@pytest.mark.parametrize(("damage", "message"), [
    ("empty", "has 0 bytes"), ("truncated", "cut short"), ("huge", "cut short"), ("zero", "which is not an image"),
    ("mode", "mode 77"), ("extended", "extended header would be longer"),
    ("text", "is not an MRC file: its extended header"), ("nan", "1 values that are not finite"),
    ("constant", "is constant"),
])
def test_damaged_files_are_refused(tmp_path, image, damage, message):
    write_damaged(tmp_path / "a.mrc", image, damage)
    with pytest.raises(DataError, match=message):
        read_mrc(tmp_path / "a.mrc", 2)


def test_wrong_dimensions_transforms_and_missing_files_are_refused(tmp_path, image):
    write_mrc(tmp_path / "a.mrc", image, 2.0)
    with pytest.raises(DataError, match="31 x 20 pixels; give a volume"):
        read_mrc(tmp_path / "a.mrc", 3)
    write_mrc(tmp_path / "v.mrc", np.stack([image] * 2), 2.0)
    with pytest.raises(DataError, match="give one image"):
        read_mrc(tmp_path / "v.mrc", 2)
    with mrcfile.new(tmp_path / "c.mrc") as file:
        file.set_data(image.astype(np.complex64))
    with pytest.raises(DataError, match="not a Fourier transform"):
        read_mrc(tmp_path / "c.mrc", 2)
    with pytest.raises(DataError, match="is not a file"):
        read_mrc(tmp_path / "none.mrc", 2)


def test_the_pixel_size_is_none_where_the_header_has_none(tmp_path, image):
    write_mrc(tmp_path / "a.mrc", image, 0.0)
    assert read_mrc(tmp_path / "a.mrc", 2)[1] is None
