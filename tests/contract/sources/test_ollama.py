"""The ``ollama:`` source against a registry: what it brings, what it tells beforehand, and what it refuses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hubs.content import Blob, Content, Image, Layer
from hubs.faults import Fault
from hubs.server import Hub
from support.gguf_writer import TINY_TENSORS, Tensor, Value, f32, text, tiny_model
from support.models import model_bytes, sha256, shard_bytes
from zhibei.errors import BadReference, DigestMismatch, ModelFileError, ModelNotFound, Offline, SourceError, Unsupported
from zhibei.formats.inspect import inspect_path
from zhibei.models import ModelDefaults
from zhibei.options import LoadOptions, Sampling
from zhibei.store.fetch import FetchOptions, Retries
from zhibei.store.filenames import check_distinct, check_file_name
from zhibei.store.headers import read_remote_header
from zhibei.store.sources.base import Hub as HubPlace
from zhibei.store.sources.base import RemoteFile, RemoteModel, SourceContext
from zhibei.store.sources.ollama import OllamaSource

OPTIONS = FetchOptions(retries=Retries(attempts=2, connect_attempts=1, first_s=0.001))
MODEL = model_bytes(3000)
CHATML = b"{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
PARAMS = json.dumps({"stop": ["<|im_end|>"], "temperature": 0.4, "num_ctx": 1024, "num_gpu": 1}).encode()
REST = (
    Layer("template", CHATML),
    Layer("system", b"You are terse."),
    Layer("params", PARAMS),
    Layer("license", b"MIT"),
    Layer("license", b"And another"),
)
WITHOUT_TEMPLATE: dict[str, Value | None] = {"tokenizer.chat_template": None}


def image(*layers: Layer, name: str = "library/tiny", tag: str = "latest", **about: object) -> Content:
    return Content((), (Image(name, tag, layers, about),))


@asynccontextmanager
async def opened(hub: Hub, tmp_path: Path, options: FetchOptions = OPTIONS) -> AsyncIterator[OllamaSource]:
    source = OllamaSource(SourceContext(tmp_path / "work", options, hubs={"ollama": HubPlace(hub.url)}))
    try:
        yield source
    finally:
        await source.close()
        assert not (tmp_path / "work").exists()


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub(image(Layer("model", MODEL), *REST)) as made:
        yield made


async def resolved(hub: Hub, tmp_path: Path, location: str = "tiny") -> RemoteModel:
    async with opened(hub, tmp_path) as source:
        return await source.resolve(location)


async def content_of(source: OllamaSource, file: RemoteFile, offset: int = 0, end: int | None = None) -> bytes:
    async with aclosing(source.open(file, offset, end)) as pieces:
        return b"".join([piece async for piece in pieces])


async def saved(source: OllamaSource, model: RemoteModel, directory: Path) -> dict[str, Path]:
    directory.mkdir()
    paths = {}
    for file in model.files:
        async with aclosing(source.prepare(file)) as steps:
            (last,) = [step async for step in steps]
        assert last == file
        raw = await content_of(source, file)
        assert file.digest is not None and (len(raw), sha256(raw)) == (file.size_bytes, file.digest.hex)
        paths[file.name] = directory / file.name
        paths[file.name].write_bytes(raw)
    return paths


def notices(model: RemoteModel) -> str:
    return " ".join(map(str, model.notices))


async def test_a_model_has_its_parts_with_roles_sizes_and_digests(hub: Hub, tmp_path: Path) -> None:
    model = await resolved(hub, tmp_path)
    assert [(file.role, file.name) for file in model.files] == [
        ("model", "model.gguf"),
        ("template", "template.txt"),
        ("system", "system.txt"),
        ("params", "params.json"),
        ("licence", "LICENSE"),
        ("licence", "LICENSE-2"),
    ]
    assert (model.source, str(model.name)) == ("ollama:tiny:latest", "tiny:latest")
    first = model.files[0]
    assert first.digest is not None and (first.size_bytes, first.digest.hex) == (len(MODEL), sha256(MODEL))
    assert "ollama:tiny:latest" in first.origin
    assert [check_file_name(file.name) for file in model.files] == [file.name for file in model.files]
    check_distinct(file.name for file in model.files)
    assert model.notices == ()
    assert model.revision is not None and model.revision.startswith("sha256:")


async def test_only_the_small_parts_and_the_header_are_fetched_beforehand_and_the_header_once(tmp_path: Path) -> None:
    large = model_bytes(12_000)
    async with Hub(image(Layer("model", large), *REST)) as hub, opened(hub, tmp_path) as source:
        model = await source.resolve("tiny")
        sent = hub.num_bytes_sent()
        assert sent < 3 << 20
        info = await read_remote_header(source, model.files[0])
        assert info is not None and info.architecture == "llama"
        assert hub.num_bytes_sent() == sent
        assert await source.read(model.files[0], len(large) - 5, 100) == large[-5:]


@pytest.mark.parametrize(
    ("location", "source", "name"),
    [
        ("tiny", "ollama:tiny:latest", "tiny:latest"),
        ("tiny:latest", "ollama:tiny:latest", "tiny:latest"),
        ("library/tiny", "ollama:tiny:latest", "tiny:latest"),
        ("Someone/Tiny_2.5:8B-q4_K_M", "ollama:Someone/Tiny_2.5:8B-q4_K_M", "someone/tiny_2.5:8b-q4_k_m"),
        ("_odd/tiny", "ollama:_odd/tiny:latest", None),
    ],
)
async def test_locations_and_the_names_they_give(location: str, source: str, name: str | None, tmp_path: Path) -> None:
    ids = (("library/tiny", "latest"), ("Someone/Tiny_2.5", "8B-q4_K_M"), ("_odd/tiny", "latest"))
    content = Content((), tuple(Image(key, tag, (Layer("model", MODEL),)) for key, tag in ids))
    async with Hub(content) as hub:
        model = await resolved(hub, tmp_path, location)
    assert model.source == source
    assert (str(model.name) if model.name else None) == name


@pytest.mark.parametrize(
    "location",
    [
        "", ":", "tiny:", ":latest", "/tiny", "a//b", "a/b/c", "host:5000/a/b:t", "hub.example/tiny", "../tiny", "tiny:../x",
        "registry.ollama.ai/library/tiny", "tiny@sha256:" + "a" * 64, "tiny?x=1", "tiny#x", "ti ny", "tiny\n", "tïny",
        "a" * 81, "tiny:" + "a" * 81, "%2e%2e/tiny", "http://h/tiny",
    ],
)  # fmt: skip
async def test_what_is_no_location_is_refused_before_any_request(hub: Hub, tmp_path: Path, location: str) -> None:
    with pytest.raises(BadReference):
        await resolved(hub, tmp_path, location)
    assert hub.log == []


async def test_a_model_that_is_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    for location in ("nothing", "tiny:8bit", "else/tiny"):
        with pytest.raises(ModelNotFound, match=location):
            await resolved(hub, tmp_path, location)


async def test_without_network_it_says_so(hub: Hub, tmp_path: Path) -> None:
    async with opened(hub, tmp_path, replace(OPTIONS, is_offline=True)) as source:
        with pytest.raises(Offline):
            await source.resolve("tiny")
    assert hub.log == []


async def test_a_token_is_fetched_where_the_registry_wants_one_and_stays_there(hub: Hub, tmp_path: Path) -> None:
    hub.needs_token = True
    async with opened(hub, tmp_path) as source:
        model = await source.resolve("tiny")
        assert await content_of(source, model.files[0]) == MODEL
        assert await source.resolve("tiny") == model
    asked = [entry for entry in hub.log if entry.kind == "token"]
    assert len(asked) == 2
    assert not any(entry.has_credentials for entry in asked)


async def test_the_token_is_not_sent_to_where_a_blob_is_redirected(hub: Hub, tmp_path: Path) -> None:
    hub.needs_token = hub.cdn_elsewhere = True
    # The other host is private too, and nobody typed it: it must not even be asked.
    with pytest.raises(SourceError, match="not a public address"):
        await resolved(hub, tmp_path)
    assert [entry for entry in hub.log if entry.origin == "other"] == []


async def test_a_token_from_another_place_is_refused_and_not_asked_for(hub: Hub, tmp_path: Path) -> None:
    hub.needs_token = hub.realm_elsewhere = True
    with pytest.raises(SourceError, match="from another server"):
        await resolved(hub, tmp_path)
    assert [entry for entry in hub.log if entry.origin == "other" or entry.has_credentials] == []


@pytest.mark.parametrize(
    "challenge",
    [
        None, "", "Basic realm=x", "Bearer", 'Bearer realm=""', 'Bearer realm="/v2/token"', 'Bearer realm="file:///etc/passwd"',
        'Bearer realm="http://[::1"', 'Bearer realm="http://127.0.0.1:1/token"', 'Bearer realm="https://127.0.0.1:{port}/token"',
        'Bearer realm="http://x@127.0.0.1:{port}/token"', 'Bearer realm="http://127.0.0.1:{port}\\@evil.example/"',
        'Bearer realm="http://127.0.0.1.evil.example:{port}/"',
    ],
)  # fmt: skip
async def test_a_challenge_that_makes_no_sense_is_refused(hub: Hub, tmp_path: Path, challenge: str | None) -> None:
    port = hub.url.rpartition(":")[2]
    headers = {} if challenge is None else {"WWW-Authenticate": challenge.replace("{port}", port)}
    kinds = frozenset({"manifest"})
    hub.strike(Fault("challenge", kinds, lambda question, answer, site: replace(answer.with_headers(headers), status=401)))
    with pytest.raises(SourceError):
        await resolved(hub, tmp_path)
    assert [entry.kind for entry in hub.log] == ["manifest"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token": 7}', b'{"token": "a b"}', b'{"token": "a\\r\\nX: y"}', b'{"token": ""}']
)
async def test_a_token_that_is_none_is_refused(hub: Hub, tmp_path: Path, body: bytes) -> None:
    hub.needs_token = True
    change = Fault("token", frozenset({"token"}), lambda question, answer, site: replace(answer, blob=Blob(body)))
    hub.strike(change)
    with pytest.raises(SourceError):
        await resolved(hub, tmp_path)


def with_manifest(hub: Hub, raw: bytes) -> None:
    hub.strike(Fault("manifest", frozenset({"manifest"}), lambda question, answer, site: replace(answer, blob=Blob(raw))))


async def test_a_hostile_manifest_is_refused_and_nothing_is_fetched(hub: Hub, tmp_path: Path) -> None:
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../x", "size": 5}
    for raw in (json.dumps({"layers": [layer]}).encode(), b"<html>log in</html>", b"[" * 100_000, b" " * (9 << 20)):
        hub.heal()
        hub.log.clear()
        with_manifest(hub, raw)
        with pytest.raises(SourceError):
            await resolved(hub, tmp_path)
        assert {entry.kind for entry in hub.log} == {"manifest"}


async def test_a_compressed_manifest_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.strike("gzip_encoding", kinds=frozenset({"manifest"}))
    with pytest.raises(SourceError, match="compressed"):
        await resolved(hub, tmp_path)


async def test_a_small_blob_that_is_not_the_announced_one_is_refused(hub: Hub, tmp_path: Path) -> None:
    config = hub.content.images[0].config
    hub.strike("flipped_byte", paths=f"*{config.sha256}")
    with pytest.raises((DigestMismatch, SourceError)):
        await resolved(hub, tmp_path)


async def test_a_blob_of_another_size_is_refused(hub: Hub, tmp_path: Path) -> None:
    found = hub.content.images[0]
    told = {
        "config": {"digest": f"sha256:{found.config.sha256}", "size": found.config.size, "mediaType": "x"},
        "layers": [{"mediaType": Layer("model", b"").media_type, "digest": f"sha256:{sha256(MODEL)}", "size": len(MODEL) + 1}],
    }
    with_manifest(hub, json.dumps(told).encode())
    with pytest.raises(SourceError, match="another size"):
        await resolved(hub, tmp_path)


async def test_a_cut_connection_is_continued(hub: Hub, tmp_path: Path) -> None:
    async with opened(hub, tmp_path) as source:
        model = await source.resolve("tiny")
        hub.strike("cut_50", paths="*")
        assert await content_of(source, model.files[0]) == MODEL
        assert await content_of(source, model.files[0], 1000, 200_000) == MODEL[1000:200_000]
        assert source.has_ranges(model.files[0])


async def test_a_server_without_ranges_is_read_as_a_whole(hub: Hub, tmp_path: Path) -> None:
    hub.strike("whole_instead_of_range")
    async with opened(hub, tmp_path) as source:
        model = await source.resolve("tiny")
        assert not source.has_ranges(model.files[0])
        assert await source.read(model.files[0], 0, 4) is None
        assert await content_of(source, model.files[0]) == MODEL


async def test_a_model_in_several_files_has_its_shards_in_order(tmp_path: Path) -> None:
    shards = [shard_bytes(number, 3) for number in range(3)]
    layers = tuple(Layer("model", shards[number]) for number in (2, 0, 1))
    async with Hub(image(*layers)) as hub, opened(hub, tmp_path) as source:
        model = await source.resolve("tiny")
        assert [(file.role, file.name) for file in model.files] == [
            ("shard", f"model-{number:05}-of-00003.gguf") for number in (1, 2, 3)
        ]
        paths = await saved(source, model, tmp_path / "files")
        assert inspect_path(paths["model-00001-of-00003.gguf"]).split_count == 3


async def test_several_files_that_are_not_one_model_are_refused(tmp_path: Path) -> None:
    for layers in (
        (Layer("model", MODEL), Layer("model", model_bytes(8, seed=5))),
        (Layer("model", shard_bytes(0, 2)),),
        (Layer("model", shard_bytes(0, 2)), Layer("model", shard_bytes(1, 3))),
    ):
        async with Hub(image(*layers)) as hub:
            with pytest.raises(SourceError, match="parts of one model"):
                await resolved(hub, tmp_path)


async def test_a_projector_and_an_adapter_come_along(tmp_path: Path) -> None:
    layers = (Layer("projector", model_bytes(8, seed=3)), Layer("adapter", model_bytes(8, seed=4)), Layer("model", MODEL))
    async with Hub(image(*layers)) as hub, opened(hub, tmp_path) as source:
        model = await source.resolve("tiny")
        assert [file.role for file in model.files] == ["model", "projector", "adapter"]
        assert await source.read_defaults(await saved(source, model, tmp_path / "files")) is None
        assert all(source.has_ranges(file) for file in model.files)


async def test_what_is_not_carried_over_is_told(tmp_path: Path) -> None:
    async with Hub(image(Layer("model", MODEL), Layer("messages", b"[]"))) as hub:
        model = await resolved(hub, tmp_path)
    assert [file.role for file in model.files] == ["model"]
    assert "messages" in notices(model)


async def test_a_model_that_only_ollama_can_load_is_told_before_it_is_fetched(tmp_path: Path) -> None:
    def of(architecture: str, *tensors: Tensor, **more: Value | None) -> bytes:
        changes = {"general.architecture": text(architecture), **more}
        return tiny_model(**changes).with_tensors(*TINY_TENSORS, *tensors, data_bytes=8 << 20).build()

    eye = Tensor("v.blk.0.attn_q.weight", (32, 4))
    for raw in (of("gptoss"), of("mllama"), of("gemma3", eye, **{"gemma3.attention.layer_norm_rms_epsilon": f32(1e-6)})):
        async with Hub(image(Layer("model", raw))) as hub:
            with pytest.raises(Unsupported, match="only Ollama's own engine") as caught:
                await resolved(hub, tmp_path)
            assert "hf:" in (caught.value.hint_text or "")
            assert hub.num_bytes_sent() < 2 << 20
    async with Hub(image(Layer("model", of("qwen3next")))) as hub:
        assert "may be in a form" in notices(await resolved(hub, tmp_path))


async def test_models_of_other_formats_and_of_other_machines_are_told(tmp_path: Path) -> None:
    async with Hub(image(Layer("model", MODEL), model_format="safetensors")) as hub:
        with pytest.raises(Unsupported, match="safetensors"):
            await resolved(hub, tmp_path)
    async with Hub(image(remote_host="https://ollama.com", model_format="")) as hub:
        with pytest.raises(Unsupported, match="on a server"):
            await resolved(hub, tmp_path)
    async with Hub(image(Layer("tensor", b"x" * 100))) as hub:
        with pytest.raises(Unsupported, match="single tensors"):
            await resolved(hub, tmp_path)


async def test_a_file_that_is_no_model_is_damaged(tmp_path: Path) -> None:
    async with Hub(image(Layer("model", b"ggjt" + bytes(9000)))) as hub:
        with pytest.raises(ModelFileError):
            await resolved(hub, tmp_path)


async def test_defaults_are_read_from_the_files_that_came(hub: Hub, tmp_path: Path) -> None:
    async with opened(hub, tmp_path) as source:
        paths = await saved(source, await source.resolve("tiny"), tmp_path / "files")
        found = await source.read_defaults(paths)
    assert found == ModelDefaults("You are terse.", ("<|im_end|>",), Sampling(temperature=0.4), LoadOptions(ctx_size=1024))


async def test_a_known_template_is_carried_over_where_the_weights_have_none(tmp_path: Path) -> None:
    bare = model_bytes(64, **WITHOUT_TEMPLATE)
    async with Hub(image(Layer("model", bare), *REST)) as hub, opened(hub, tmp_path) as source:
        model = await source.resolve("tiny")
        assert model.notices == ()
        found = await source.read_defaults(await saved(source, model, tmp_path / "files"))
    assert found is not None and found.load.chat_template is not None
    assert "<|im_start|>" in found.load.chat_template


async def test_an_unknown_template_is_told_where_the_weights_have_none(tmp_path: Path) -> None:
    bare, strange = model_bytes(64, **WITHOUT_TEMPLATE), Layer("template", b"Human: {{ .Prompt }}\nMachine:")
    async with Hub(image(Layer("model", bare), strange)) as hub, opened(hub, tmp_path) as source:
        model = await source.resolve("tiny")
        assert "--chat-template-file" in notices(model)
        assert await source.read_defaults(await saved(source, model, tmp_path / "files")) is None
    for layers in ((Layer("model", MODEL), strange), (Layer("model", bare), Layer("template", b"{{ .Prompt }}"))):
        async with Hub(image(*layers)) as hub:
            assert (await resolved(hub, tmp_path)).notices == ()


async def test_the_revision_is_the_digest_of_the_manifest(hub: Hub, tmp_path: Path) -> None:
    raw = json.dumps(
        {"layers": [{"mediaType": Layer("model", b"").media_type, "digest": f"sha256:{sha256(MODEL)}", "size": len(MODEL)}]}
    )
    with_manifest(hub, raw.encode())
    model = await resolved(hub, tmp_path)
    assert model.revision == "sha256:" + hashlib.sha256(raw.encode()).hexdigest()
