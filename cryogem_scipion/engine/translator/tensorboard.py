# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers for TensorBoard, written without it: its event files are records of a few bytes.

A record is its length, a checksum of that, an ``Event`` in protocol-buffer encoding, and a checksum of it
(tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto; CRC-32C masked as described there).
"""
import os
import platform
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

__all__ = ["FOLDER", "TensorBoardWriter"]

FOLDER = "tensorboard"
START = 1
"""SessionLog.START: of earlier sessions, what lies at or after its step is forgotten."""


class TensorBoardWriter:
    """The scalars of one session of a run, in a file of its own; TensorBoard joins the sessions of a folder."""

    def __init__(self, folder: Path, step: int) -> None:
        """Begin a session that goes on after ``step``."""
        folder.mkdir(exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time_ns() // 1000:020d}.{platform.node() or 'host'}.{os.getpid()}"
        self._file = (folder / name).open("wb")
        self._write(_text(3, b"brain.Event:2"))
        if step:
            self._write(_whole(2, step + 1) + _text(7, _whole(1, START)))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add named values of a step."""
        summary = b"".join(_text(1, _text(1, name.encode()) + _key(2, 5) + struct.pack("<f", value))
                           for name, value in values.items())
        self._write(_whole(2, step) + _text(5, summary))

    def __enter__(self) -> "TensorBoardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._file.close()

    def _write(self, event: bytes) -> None:
        event = _key(1, 1) + struct.pack("<d", time.time()) + event
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))
        self._file.flush()


def _key(field: int, kind: int) -> bytes:
    return bytes([field << 3 | kind])


def _whole(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(value)


def _text(field: int, content: bytes) -> bytes:
    return _key(field, 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _table() -> list[int]:
    values = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        values.append(value)
    return values


_CRC = _table()


def _checksum(content: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
