"""Images in requests: from text to bytes, and a look at their headers before any engine gets them. Pure; decodes no pixel.

What an image is, its first bytes say; what the request calls it is not believed.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Mapping

from zhibei.chat import ImagePart
from zhibei.errors import BadRequest, Unsupported
from zhibei.i18n import N_

MAX_IMAGE_BYTES = 20 * 1024 * 1024
MAX_IMAGES = 64
MAX_PIXELS = 50_000_000
MAX_SIDE_PIXELS = 16_384

_SEND_IT = N_("Send a data URL: data:image/png;base64,…")
_MAX_PNG_CHUNKS = 65_536
_NO_SIZE = frozenset((0x01, *range(0xD0, 0xD8)))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def is_remote(url: str) -> bool:
    """Whether an image would have to be fetched from elsewhere."""
    return url[:8].lower().startswith(("http://", "https://"))


def find_image(url: str, images: Mapping[str, ImagePart], *, param: str) -> ImagePart:
    """An image sent in the request, or one of ``images``, which were fetched for it.

    Raises:
        BadRequest: as ``load_image``.
        Unsupported: it is at an address that was not asked.
    """
    if not is_remote(url):
        return load_image(url, param=param)
    found = images.get(url)
    if found is None:
        raise Unsupported("Images are not fetched for this request.", hint=_SEND_IT, param=param)
    return found


def load_image(text: str, *, param: str) -> ImagePart:
    """An image sent in the request: a ``data:`` URL, or bare base64.

    Raises:
        BadRequest: it is not an image, not whole, or too large.
        Unsupported: it is somewhere else, and not on the web either.
    """
    head, comma, data = text.partition(",")
    if not comma:
        if ":" in text[:64]:
            raise Unsupported(
                "Images must be sent in the request, or be at an address on the web.",
                hint=_SEND_IT,
                param=param,
            )
        return check_image(decode_base64(text, param=param), param=param)
    # A media type may have parameters of its own; base64 is the last word.
    if head[:5].lower() != "data:" or head[:1024].lower().rpartition(";")[2].strip() != "base64":
        raise BadRequest("An image must be a data URL in base64: data:image/png;base64,…", param=param)
    return check_image(decode_base64(data, param=param), param=param)


def decode_base64(text: str, *, param: str) -> bytes:
    """Bytes from base64; line breaks may be in it.

    Raises:
        BadRequest: it is something else, or empty.
    """
    try:
        decoded = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not decoded:
        raise BadRequest("The image is not valid base64.", param=param)
    return decoded


def check_image(data: bytes, media_type: str | None = None, *, param: str = "image") -> ImagePart:
    """The image, if it is whole and of a size that can be worked with. ``media_type`` is what it was called.

    Raises:
        BadRequest: it is not; the words do not depend on what exactly is wrong inside.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise BadRequest("The image is larger than {limit} bytes.", param=param, limit=MAX_IMAGE_BYTES)
    found = next(((kind, read) for magic, kind, read in _KINDS if data.startswith(magic)), None)
    size: tuple[int, int] | None = None
    if found is not None:
        try:
            size = found[1](data)
        except (IndexError, struct.error):
            size = None
    if found is None or size is None or min(size) < 1:
        raise BadRequest("The image must be a whole PNG, JPEG, GIF, WebP or BMP file.", param=param)
    if max(size) > MAX_SIDE_PIXELS or size[0] * size[1] > MAX_PIXELS:
        raise BadRequest(
            "The image has too many pixels: at most {side} on a side and {pixels} in all.",
            param=param,
            side=MAX_SIDE_PIXELS,
            pixels=MAX_PIXELS,
        )
    return ImagePart(data, found[0])


def _png(data: bytes) -> tuple[int, int] | None:
    if data[12:16] != b"IHDR":
        return None
    size: tuple[int, int] = struct.unpack_from(">II", data, 16)
    at = 8
    for _ in range(_MAX_PNG_CHUNKS):
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if at > len(data):
            return None
        if kind == b"IEND":
            return size
    return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at, size = 2, None
    while at < len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF or marker in _NO_SIZE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xDA:
            # The pixels follow, up to the mark of the end.
            return size if data.find(b"\xff\xd9", at) >= 0 else None
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker == 0xD9 or length < 2:
            return None
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            size = (width, height)
        at += 2 + length
    return None


def _gif(data: bytes) -> tuple[int, int] | None:
    width, height = struct.unpack_from("<HH", data, 6)
    return (width, height) if data[-1024:].rstrip(b"\0").endswith(b";") else None


def _webp(data: bytes) -> tuple[int, int] | None:
    (length,) = struct.unpack_from("<I", data, 4)
    if data[8:12] != b"WEBP" or length + 8 > len(data) or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _bmp(data: bytes) -> tuple[int, int] | None:
    length, _, offset, header = struct.unpack_from("<IIII", data, 2)
    if header < 40 or offset >= len(data) or length > len(data):
        return None
    width, height, _, depth = struct.unpack_from("<iiHH", data, 18)
    if not depth:
        return None
    return width, abs(height)


_KINDS: tuple[tuple[bytes, str, Callable[[bytes], tuple[int, int] | None]], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png", _png),
    (b"\xff\xd8\xff", "image/jpeg", _jpeg),
    (b"GIF87a", "image/gif", _gif),
    (b"GIF89a", "image/gif", _gif),
    (b"RIFF", "image/webp", _webp),
    (b"BM", "image/bmp", _bmp),
)
