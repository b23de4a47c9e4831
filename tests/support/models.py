"""Small models of a wanted size, and wheels that carry them."""

from __future__ import annotations

import base64
import hashlib
import random
import zipfile
from pathlib import Path

from support.gguf_writer import TINY_TENSORS, Tensor, Value, padded, text, tiny_model, u32


def model_bytes(num_rows: int = 64, *, seed: int = 0, name: str = "tiny", **changes: Value | None) -> bytes:
    """A valid GGUF file with ``num_rows`` KiB of random weights beside the tiny model's own."""
    extra = Tensor("blk.1.ffn_up.weight", (256, num_rows), "F32")
    model = tiny_model(**{"general.name": text(name), **changes}).with_tensors(*TINY_TENSORS, extra)
    built = model.build()
    start = padded(len(model.header()), model.alignment)
    return built[:start] + random.Random(seed).randbytes(len(built) - start)


def shard_bytes(number: int, count: int) -> bytes:
    """Shard ``number`` (from 0) of a model in ``count`` files."""
    split = {"split.count": Value(2, count.to_bytes(2, "little")), "split.no": Value(2, number.to_bytes(2, "little"))}
    split["split.tensors.count"] = Value(5, (count if count > 1 else 1).to_bytes(4, "little"))
    tensor = Tensor(f"blk.{number}.ffn_up.weight", (32, 4), "F32")
    return tiny_model(**split, **{"llama.block_count": u32(count)}).with_tensors(tensor).build()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_wheel(
    directory: Path,
    members: dict[str, bytes],
    *,
    package: str = "tiny-model",
    version: str = "1.0",
    record: dict[str, tuple[str, str] | None] | None = None,
    compression: int = zipfile.ZIP_DEFLATED,
) -> Path:
    """A wheel that pip takes. ``record`` replaces (hash, size) of a member's line, or leaves it out (None)."""
    stem = f"{package.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{stem}-py3-none-any.whl"
    contents = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = []
    for name, data in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        line = (record or {}).get(name, (f"sha256={digest}", str(len(data))))
        if line is not None:
            lines.append(f"{name},{line[0]},{line[1]}")
    contents[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,"]).encode()
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path
