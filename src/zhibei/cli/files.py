"""Files that options name, read with complaints a person understands."""

from __future__ import annotations

from pathlib import Path

from zhibei.chat import ImagePart
from zhibei.errors import BadRequest

_MAX_IMAGE_BYTES = 64 << 20
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)


def read_text(path: str) -> str:
    """A text file.

    Raises:
        BadRequest: it cannot be read.
    """
    return _read(path).decode("utf-8-sig", errors="replace")


def read_image(path: str) -> ImagePart:
    """An image; its kind is told by its first bytes.

    Raises:
        BadRequest: it cannot be read, or is no image that models take.
    """
    data = _read(path)
    media_type = next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        media_type = "image/webp"
    if media_type is None or len(data) > _MAX_IMAGE_BYTES:
        raise BadRequest(
            "{path} is not an image that models take.", hint="Take a PNG, JPEG, GIF, BMP or WebP below 64 MiB.", path=path
        )
    return ImagePart(data, media_type)


def _read(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise BadRequest("{path} cannot be read: {problem}", path=path, problem=error.strerror or error) from None
