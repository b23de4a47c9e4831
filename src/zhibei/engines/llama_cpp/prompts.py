"""Prompts that outlive their engine: the states of its slots as files. Owns their names, their limits and their checks.

A file's name is the digest of its content, which is checked before the engine reads it: what is damaged, or was put there
by somebody else, is never used. What people wrote to a model can be told from such a file, so only their owner may read it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import struct
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from zhibei.plans import EngineSpec

MIN_TOKENS = 256
MAX_FILES = 8
_PARTIAL_AGE_S = 3600.0
_MAGIC = 0x67677371
# The kind of file and its version; how many numbers follow, of which the third is the count of tokens.
_HEAD = struct.Struct("<I4xIi4xI")
_NAME = re.compile(r"[0-9a-f]{64}\.prompt")
# What a state depends on: with any of these changed it means something else, or does not load.
_FIELDS = ("cache_type_k", "cache_type_v", "flash_attn", "rope_freq_base", "rope_freq_scale", "lora", "mmproj_path", "kv_offload")


@dataclass(frozen=True, slots=True)
class PromptStore:
    """A directory for the prompts of all models, and how many bytes it may hold. Its methods block on the disk."""

    directory: Path
    max_bytes: int

    def shelf(self, spec: EngineSpec, engine_version: str) -> Shelf | None:
        """Where a model's prompts are; None where they cannot be kept."""
        # A draft model's own state is not in these files, and it could not follow.
        if spec.task != "generate" or spec.draft_model_path is not None or self.max_bytes <= 0:
            return None
        try:
            files = [self._identity(path) for path in (spec.model_path, *(path for path, _ in spec.lora))]
            values = {name: value for name, value in asdict(spec).items() if name in _FIELDS}
            text = json.dumps([engine_version, files, values], sort_keys=True)
            shelf = Shelf(self, self.directory / hashlib.sha256(text.encode()).hexdigest()[:32])
            for directory in (self.directory, shelf.directory):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            return None
        return shelf

    @staticmethod
    def _identity(path: str) -> tuple[str, int, int]:
        found = Path(path).stat()
        return str(Path(path).resolve()), found.st_size, found.st_mtime_ns

    def trim(self) -> None:
        """Remove what was not used for longest until the rest is within the limit; and what was never finished."""
        files, now = [], time.time()
        for path in self.directory.glob("*/*"):
            found = _stat(path)
            if found is not None and path.suffix == ".part" and now - found.st_mtime > _PARTIAL_AGE_S:
                path.unlink(missing_ok=True)
            elif found is not None and _NAME.fullmatch(path.name):
                files.append((found.st_mtime, found.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size


@dataclass(frozen=True, slots=True)
class Shelf:
    """The prompts of one model, loaded one way."""

    store: PromptStore
    directory: Path

    def new_name(self) -> str:
        """A name for the engine to write a state to, until ``keep``."""
        return f"{secrets.token_hex(8)}.part"

    def keep(self, name: str) -> None:
        """Take over what the engine wrote under a name; drops older ones beyond the limits."""
        path = self.directory / name
        try:
            if path.stat().st_size > self.store.max_bytes:
                path.unlink()
                return
            path.chmod(0o600)
            kept = self.directory / f"{_digest(path)}.prompt"
            path.replace(kept)
            tokens = _tokens(kept)
            others = [other for other in self._newest_first() if other != kept]
            for number, other in enumerate(others, start=1):
                beginning = _tokens(other)
                # A conversation that went on holds all of what it was.
                if number >= MAX_FILES or (beginning and tokens[: len(beginning)] == beginning):
                    other.unlink(missing_ok=True)
            self.store.trim()
        except OSError:
            self.drop(name)

    def drop(self, name: str) -> None:
        """Forget a file, whether it was finished or not."""
        with suppress(OSError):
            (self.directory / name).unlink(missing_ok=True)

    def newest(self, most: int) -> list[str]:
        """Names of the files that were used last and are whole, which now count as used; damaged ones are removed."""
        found = []
        for path in self._newest_first()[:most]:
            try:
                if f"{_digest(path)}.prompt" == path.name:
                    os.utime(path)
                    found.append(path.name)
                else:
                    path.unlink(missing_ok=True)
            except OSError:
                continue
        return found

    def _newest_first(self) -> list[Path]:
        paths = (path for path in self.directory.glob("*.prompt") if _NAME.fullmatch(path.name) and not path.is_symlink())
        dated = [(found.st_mtime_ns, path) for path in paths if (found := _stat(path)) is not None]
        return [path for _, path in sorted(dated, reverse=True)]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None


def _tokens(path: Path) -> bytes:
    """The tokens of a state, as they are written; empty where the file does not begin as llama.cpp's do.

    Source: ``state_seq_save_file`` in src/llama-context.cpp, ``server_tokens::serialize`` in tools/server/server-common.cpp.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return b""
        magic, num_packed, marker, count = _HEAD.unpack(head)
        if magic != _MAGIC or marker != -1 or not 0 < count < num_packed:
            return b""
        return file.read(4 * count)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
