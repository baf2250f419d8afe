# SPDX-License-Identifier: GPL-3.0-or-later
"""Event files for TensorBoard, written without the TensorBoard package.

An event file is a sequence of records. A record has a length, a checksum of the length, an ``Event`` as a protocol
buffer, and a checksum of the event (tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto; masked
CRC-32C).
"""
import os
import platform
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

__all__ = ["TENSORBOARD", "TensorBoardWriter"]

TENSORBOARD = "tensorboard"
"""Folder of the event files."""
SESSION_START = 1
"""SessionLog.START: TensorBoard drops the values of earlier sessions from this step on."""


class TensorBoardWriter:
    """Writer of the scalars of one session of a training; TensorBoard joins the files of all sessions."""

    def __init__(self, folder: Path, step: int) -> None:
        """Open a new file in ``folder`` for a session that continues after ``step``."""
        folder.mkdir(exist_ok=True)
        # TensorBoard reads the files in the order of their names.
        name = f"events.out.tfevents.{time.time_ns() // 1000:020d}.{platform.node() or 'host'}.{os.getpid()}"
        self._file = (folder / name).open("wb")
        self._write(_bytes_field(3, b"brain.Event:2"))
        if step:
            self._write(_integer_field(2, step + 1) + _bytes_field(7, _integer_field(1, SESSION_START)))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write named values of a step."""
        summary = b"".join(_bytes_field(1, _bytes_field(1, name.encode()) + _field_key(2, 5) + struct.pack("<f", value))
                           for name, value in values.items())
        self._write(_integer_field(2, step) + _bytes_field(5, summary))

    def __enter__(self) -> "TensorBoardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._file.close()

    def _write(self, event: bytes) -> None:
        event = _field_key(1, 1) + struct.pack("<d", time.time()) + event
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))
        self._file.flush()


def _field_key(field: int, kind: int) -> bytes:
    return bytes([field << 3 | kind])


def _integer_field(field: int, value: int) -> bytes:
    return _field_key(field, 0) + _varint(value)


def _bytes_field(field: int, content: bytes) -> bytes:
    return _field_key(field, 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


def _crc_table() -> list[int]:
    values = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        values.append(value)
    return values


_CRC_TABLE = _crc_table()


def _checksum(content: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
