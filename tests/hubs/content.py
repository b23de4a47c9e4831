"""What a hub holds: repositories and Ollama images, as values. Owns sizes and digests; knows no protocol.

A revision called like a version (``v1``, ``v2.0``) is a tag, any other a branch; the first is the default branch, which each
protocol calls by its own name (``main``, ``master``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from support.models import model_bytes, shard_bytes

LARGE_FILE_BYTES = 4096
"""Files from this size on, and weights of any size, lie in large file storage."""
_WEIGHTS = (".gguf", ".safetensors", ".bin")
_VERSION = re.compile(r"v\d")
_MEDIA_TYPE = "application/vnd.ollama.image."


@dataclass(frozen=True)
class Blob:
    """The bytes of one file, in memory or on disk."""

    content: bytes | Path

    @cached_property
    def size(self) -> int:
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)

    @cached_property
    def sha256(self) -> str:
        return self._digest(hashlib.sha256())

    @cached_property
    def git_id(self) -> str:
        """What git calls the file: of the pointer where it lies in large file storage, but nobody checks that."""
        return self._digest(hashlib.sha1(f"blob {self.size}\0".encode()))

    def read(self, first: int = 0, end: int | None = None) -> bytes:
        if isinstance(self.content, bytes):
            return self.content[first:end]
        with self.content.open("rb") as file:
            file.seek(first)
            return file.read(-1 if end is None else end - first)

    def _digest(self, digest: hashlib._Hash) -> str:
        for first in range(0, self.size, 1 << 22):
            digest.update(self.read(first, min(first + (1 << 22), self.size)))
        return digest.hexdigest()


def as_blob(content: bytes | Path | Blob) -> Blob:
    return content if isinstance(content, Blob) else Blob(content)


@dataclass(frozen=True)
class Repository:
    """A model repository. ``gated`` is what Hugging Face says there: False, "auto" or "manual"."""

    id: str
    revisions: Mapping[str, Mapping[str, bytes | Path | Blob]]
    licence: str | None = "apache-2.0"
    tags: tuple[str, ...] = ("gguf",)
    downloads: int = 0
    likes: int = 0
    gated: bool | str = False
    private: bool = False
    gguf: Mapping[str, object] | None = None
    modified: str = "2026-01-02T03:04:05.000Z"

    @property
    def owner(self) -> str:
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        return self.id.partition("/")[2]

    @cached_property
    def _blobs(self) -> dict[str, dict[str, Blob]]:
        return {
            revision: {path: as_blob(content) for path, content in sorted(files.items())}
            for revision, files in self.revisions.items()
        }

    @property
    def default(self) -> str:
        return next(iter(self.revisions))

    def files(self, revision: str) -> dict[str, Blob]:
        return self._blobs[revision]

    @cached_property
    def commits(self) -> dict[str, str]:
        """The commit that each revision stands at."""
        texts = {name: repr([(path, blob.sha256) for path, blob in files.items()]) for name, files in self._blobs.items()}
        return {name: hashlib.sha1(f"{self.id} {text}".encode()).hexdigest() for name, text in texts.items()}

    def find(self, revision: str, default_name: str) -> str | None:
        """The revision that is meant by a branch, a tag or a commit."""
        if revision == default_name:
            return self.default
        if revision in self.revisions:
            return revision
        return next((name for name, commit in self.commits.items() if commit == revision), None)

    def split(self) -> tuple[list[str], list[str]]:
        """Branches and tags."""
        tags = [name for name in self.revisions if _VERSION.match(name)]
        return [name for name in self.revisions if name not in tags], tags


def is_large(path: str, blob: Blob) -> bool:
    return path.endswith(_WEIGHTS) or blob.size >= LARGE_FILE_BYTES


@dataclass(frozen=True)
class Layer:
    """A part of an Ollama image; ``kind`` ends its media type: model, template, params, system, adapter, …"""

    kind: str
    content: bytes | Path | Blob

    @property
    def media_type(self) -> str:
        return _MEDIA_TYPE + self.kind

    @cached_property
    def blob(self) -> Blob:
        return as_blob(self.content)


@dataclass(frozen=True)
class Image:
    """An Ollama image: ``library/tiny``, ``latest``, layers."""

    id: str
    tag: str
    layers: tuple[Layer, ...]
    about: Mapping[str, object] = field(default_factory=dict)

    @cached_property
    def config(self) -> Blob:
        """The JSON that describes the image."""
        described = {
            "model_format": "gguf",
            "model_family": "llama",
            "model_families": ["llama"],
            "model_type": "1K",
            "file_type": "Q4_0",
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.blob.sha256}" for layer in self.layers]},
        }
        return Blob(json.dumps({**described, **self.about}).encode())


@dataclass(frozen=True)
class Content:
    """All that a hub holds."""

    repositories: tuple[Repository, ...] = ()
    images: tuple[Image, ...] = ()

    def repository(self, repository_id: str) -> Repository | None:
        return next((one for one in self.repositories if one.id == repository_id), None)

    def image(self, image_id: str, tag: str) -> Image | None:
        return next((one for one in self.images if (one.id, one.tag) == (image_id, tag)), None)


def read_root(root: Path) -> Content:
    """The repositories that lie as ``owner/name/…`` below a directory."""
    found = {}
    for directory in sorted(path for path in root.glob("*/*") if path.is_dir()):
        paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
        files = {path.relative_to(directory).as_posix(): Blob(path) for path in paths}
        found[directory.relative_to(root).as_posix()] = files
    repositories = [Repository(name, {"main": files}) for name, files in found.items()]
    images = [
        Image(name, path.rpartition("/")[2].removesuffix(".gguf").lower(), (Layer("model", blob),))
        for name, files in found.items()
        for path, blob in files.items()
        if path.endswith(".gguf")
    ]
    return Content(tuple(repositories), tuple(images))


def sample_content() -> Content:
    """A hub with one of each: two quantisations, an older tag, shards, a projector, gated, private; two Ollama images."""
    small, large = model_bytes(48, seed=1), model_bytes(64, seed=2, name="tiny eight")
    card = b"---\nlicense: apache-2.0\ntags: [gguf]\n---\n# Tiny\n"
    about = {"total": 3104, "architecture": "llama", "context_length": 128}
    tiny = Repository(
        "zhibei/Tiny-GGUF",
        {
            "main": {
                "README.md": card,
                ".gitattributes": b"*.gguf filter=lfs diff=lfs merge=lfs -text\n",
                "params": b'{"temperature": 0.5}',
                "Tiny-Q4_K_M.gguf": small,
                "Tiny-Q8_0.gguf": large,
                "mmproj-Tiny-F16.gguf": model_bytes(8, seed=3, name="projector"),
            },
            "v1.0": {"README.md": card, "Tiny-Q4_K_M.gguf": model_bytes(48, seed=4)},
        },
        downloads=4200,
        likes=7,
        gguf=about,
    )
    shards = {f"Q4_K_M/Shards-Q4_K_M-{number + 1:05}-of-00003.gguf": shard_bytes(number, 3) for number in range(3)}
    gated = Repository("zhibei/Gated-GGUF", {"main": {"Gated-Q4_0.gguf": small}}, gated="manual", downloads=50, licence="other")
    private = Repository("zhibei/Private-GGUF", {"main": {"Private-Q4_0.gguf": small}}, private=True)
    other = Repository("elsewhere/Plain", {"main": {"model.safetensors": b"\0" * 64}}, tags=("safetensors",), licence=None)
    params = json.dumps({"temperature": 0.2, "stop": ["<|im_end|>"], "num_ctx": 4096}).encode()
    layers = (
        Layer("model", small),
        Layer("template", b"{{ .System }} {{ .Prompt }}"),
        Layer("system", b"You are terse."),
        Layer("params", params),
        Layer("license", b"Apache License, Version 2.0"),
    )
    images = (
        Image("library/tiny", "latest", layers),
        Image("library/tiny", "8bit", (Layer("model", large),), {"file_type": "Q8_0"}),
        Image("zhibei/seeing", "latest", (Layer("model", small), Layer("projector", model_bytes(8, seed=3)))),
    )
    return Content((tiny, Repository("zhibei/Shards-GGUF", {"main": shards}), gated, private, other), images)
