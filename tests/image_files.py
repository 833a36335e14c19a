"""Image files and colour profiles that Pillow does not write, made byte by byte."""

import struct
import zlib

import numpy as np

D50 = (0.9642, 1.0, 0.8249)

ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
"""Of its primaries, adapted to D50 (Adobe RGB (1998) colour image encoding, annex)."""

DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])

SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])


def srgb_to_linear(values):
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(values):
    return np.where(values <= 0.0031308, 12.92 * values, 1.055 * np.clip(values, 0.0031308, None) ** (1 / 2.4) - 0.055)


def matrix_profile(matrix, gamma=None, name="Test RGB"):
    """Return an ICC profile (version 2) of three primaries; ``gamma`` None is the curve of sRGB."""
    curve = _curve(gamma)
    tags = {b"desc": _description(name), b"cprt": _text(), b"wtpt": _xyz(D50)}
    tags |= {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix.T, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return _profile(b"RGB ", b"XYZ ", tags)


def grey_profile(gamma, name="Test grey"):
    tags = {b"desc": _description(name), b"cprt": _text(), b"wtpt": _xyz(D50), b"kTRC": _curve(gamma)}
    return _profile(b"GRAY", b"XYZ ", tags)


def cmyk_profile(name="Test inks"):
    """Return an ICC profile whose lightness is ``100 - 25·(c + m + y + k)``, of inks in [0, 1], and that has no hue."""
    identity = bytes(range(256)) * 4
    corners = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    table = b"".join(bytes([round(255 * (1 - sum(inks) / 4)), 128, 128]) for inks in corners)
    matrix = struct.pack(">9i", *(65536 if number % 4 == 0 else 0 for number in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + identity + table + bytes(range(256)) * 3
    tags = {b"desc": _description(name), b"cprt": _text(), b"wtpt": _xyz(D50), b"A2B0": lut}
    return _profile(b"CMYK", b"Lab ", tags, kind=b"prtr")


def _profile(space, connection, tags, kind=b"mntr"):
    start = 128 + 4 + 12 * len(tags)
    entries, data = b"", b""
    for name, content in tags.items():
        entries += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    body = struct.pack(">I", len(tags)) + entries + data
    header = struct.pack(">I4sI4s4s4s", 128 + len(body), b"test", 0x02100000, kind, space, connection)
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(D50) + bytes(48)
    return header + body


def _fixed(values):
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _xyz(values):
    return b"XYZ " + bytes(4) + _fixed(values)


def _curve(gamma):
    if gamma is not None:
        return b"curv" + bytes(4) + struct.pack(">IHH", 1, round(gamma * 256), 0)
    values = (65535 * srgb_to_linear(np.arange(1024) / 1023)).round().astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(values)) + values.tobytes()


def _text():
    return b"text" + bytes(4) + b"none\0"


def _description(name):
    content = name.encode() + b"\0"
    return b"desc" + bytes(4) + struct.pack(">I", len(content)) + content + bytes(11 + 67)


def png(pixels, *, profile=None, transparent=None):
    """Return a PNG file of ``(H, W, channels)`` in uint8 or uint16."""
    height, width, channels = pixels.shape
    depth = 8 * pixels.dtype.itemsize
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    content = b"\x89PNG\r\n\x1a\n"
    content += _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    if profile is not None:
        content += _chunk(b"iCCP", b"profile\0\0" + zlib.compress(profile))
    if transparent is not None:
        content += _chunk(b"tRNS", np.array(transparent, dtype=">u2").tobytes())
    content += _chunk(b"IDAT", _rows(pixels))
    return content + _chunk(b"IEND", b"")


def _rows(pixels):
    order = pixels.astype(pixels.dtype.newbyteorder(">"))
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in order))


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(pixels, *, order="<", photometric=None, compressed=False, extra=None, apart=False, bits=None, profile=None):
    """Return a TIFF file of ``(H, W, channels)``, whose dtype says what its numbers are.

    Args:
        pixels: Of a whole or a floating dtype; with ``bits`` 12 whole numbers of which two share three bytes.
        order: Of the bytes, ``<`` or ``>``.
        photometric: As in the standard: 0 white is 0, 1 black is 0, 2 RGB, 5 inks; by the channels by default.
        compressed: Whether to deflate.
        extra: What a channel more than the colours is: 0 nothing, 1 opacity that was multiplied in, 2 opacity.
        apart: Whether channels are stored one after the other.
        bits: Of a channel, where it is not the dtype's.
        profile: ICC profile.
    """
    height, width, channels = pixels.shape
    photometric = (1 if channels == 1 else 2) if photometric is None else photometric
    planes = [pixels[..., [channel]] for channel in range(channels)] if apart else [pixels]
    strips = [plane.astype(plane.dtype.newbyteorder(order)).tobytes() for plane in planes]
    if bits == 12:
        pairs = pixels.reshape(height, -1, 2).astype(np.uint16)
        packed = [pairs[..., 0] >> 4, ((pairs[..., 0] & 15) << 4) | (pairs[..., 1] >> 8), pairs[..., 1] & 255]
        strips = [np.stack(packed, axis=-1).astype(np.uint8).tobytes()]
    if compressed:
        strips = [zlib.compress(strip) for strip in strips]
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    entries = [
        (256, "H", [width]),
        (257, "H", [height]),
        (258, "H", [bits or 8 * pixels.dtype.itemsize] * channels),
        (259, "H", [8 if compressed else 1]),
        (262, "H", [photometric]),
        (273, "I", [0] * len(strips)),
        (277, "H", [channels]),
        (278, "H", [height]),
        (279, "I", [len(strip) for strip in strips]),
        (284, "H", [2 if apart else 1]),
        *([] if extra is None else [(338, "H", [extra])]),
        (339, "H", [kind] * channels),
        *([] if profile is None else [(34675, "B", list(profile))]),
    ]
    directory_end = 8 + 2 + 12 * len(entries) + 4
    lengths = [struct.calcsize(f"{order}{len(values)}{code}") for _, code, values in entries]
    start = directory_end + sum(length + length % 2 for length in lengths if length > 4)
    places = [start + sum(map(len, strips[:number])) for number in range(len(strips))]
    directory, more = b"", b""
    for tag, code, values in entries:
        raw = struct.pack(f"{order}{len(values)}{code}", *(places if tag == 273 else values))
        directory += struct.pack(f"{order}HHI", tag, {"B": 7, "H": 3, "I": 4}[code], len(values))
        if len(raw) <= 4:
            directory += raw.ljust(4, b"\0")
        else:
            directory += struct.pack(f"{order}I", directory_end + len(more))
            more += raw + bytes(len(raw) % 2)
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(entries))
    return header + directory + struct.pack(f"{order}I", 0) + more + b"".join(strips)
