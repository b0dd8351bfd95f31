"""Small pictures as plain data: PNG bytes in base64, written without an imaging library."""

import base64
import struct
import zlib

from torch import Tensor


def png(image: Tensor) -> str:
    """An image (C, H, W) in [0, 1], C of 1 or 3, as an 8-bit PNG in base64."""
    pixels = (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous()
    height, width, channels = pixels.shape
    rows = b"".join(b"\x00" + bytes(row.flatten().tolist()) for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")
    )
    return base64.b64encode(content).decode()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
