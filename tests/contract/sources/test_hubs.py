"""``hf:`` and ``ms:`` against hubs on this machine: what they answer, and all that can be wrong with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hubs.content import Content, Repository, sample_content
from hubs.faults import SURPLUS_BYTES
from hubs.server import POOR_TOKEN, TOKEN
from hubs.server import Hub as LocalHub
from support.hostile_server import HostileServer
from support.models import model_bytes
from support.pulling import blobs, pull
from zhibei.errors import (
    BadReference,
    BadRequest,
    BadSetting,
    DigestMismatch,
    ModelNotFound,
    Offline,
    SourceError,
    Unsupported,
    ZhibeiError,
)
from zhibei.events import Pulled
from zhibei.options import Sampling
from zhibei.refs import ModelName
from zhibei.store.digests import Digest
from zhibei.store.fetch import FetchOptions, Retries, Timers
from zhibei.store.hub_session import blob_id
from zhibei.store.library import Library
from zhibei.store.options import PullOptions
from zhibei.store.repositories import HubHit
from zhibei.store.sources import SOURCES, hf, modelscope
from zhibei.store.sources.base import Hub, RemoteFile, RemoteModel, Source, SourceContext, StartOver, Variant

OPTIONS = FetchOptions(
    timers=Timers(header_s=2.0, stall_s=2.0), retries=Retries(attempts=3, connect_attempts=1, first_s=0.001, longest_s=0.002)
)
NOWHERE = "http://127.0.0.1:9"
KINDS = ("hf", "ms")
WEIGHTS = bytes(range(256)) * 64
CONFIG = json.dumps({"model_type": "llama"}).encode()
GENERATION = json.dumps({"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.1}).encode()
TENSORS = Repository(
    "zhibei/Tensors",
    {
        "main": {
            "LICENSE": b"Apache License",
            "README.md": b"# Tensors",
            "config.json": CONFIG,
            "empty.tiktoken": b"",
            "generation_config.json": GENERATION,
            "model.safetensors": WEIGHTS,
            "modeling.py": b"import os",
            "pytorch_model.bin": WEIGHTS,
            "tokenizer.json": b"[" + b"1," * 5000 + b"1]",
        }
    },
    tags=("safetensors",),
)
LARGE = Repository("zhibei/Large-GGUF", {"main": {"Large-Q8_0.gguf": model_bytes(3000)}})
PICKLES = Repository("zhibei/Pickles", {"main": {"config.json": CONFIG, "pytorch_model.bin": WEIGHTS}}, tags=())


@dataclass(frozen=True)
class Site:
    """A hub, and how a source of a kind is made that asks it."""

    kind: str
    hub: LocalHub
    workspace: Path

    def context(self, *mirrors: str, endpoint: str | None = None, token: str | None = None, **changes: Any) -> SourceContext:
        hubs = {self.kind: Hub(endpoint or self.hub.url, mirrors, token)}
        return SourceContext(self.workspace, replace(OPTIONS, **changes), hubs=hubs)

    def source(self, *mirrors: str, **options: Any) -> Source:
        kinds: dict[str, Callable[[SourceContext], Source]] = {"hf": hf.HfSource, "ms": modelscope.ModelScopeSource}
        return kinds[self.kind](self.context(*mirrors, **options))


@pytest.fixture(params=KINDS)
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    async with LocalHub(content()) as hub:
        yield Site(request.param, hub, tmp_path / "work")


@pytest.fixture
async def hf_site(tmp_path: Path) -> AsyncIterator[Site]:
    async with LocalHub(content()) as hub:
        yield Site("hf", hub, tmp_path / "work")


@cache
def content() -> Content:
    sample = sample_content()
    return Content((*sample.repositories, TENSORS, PICKLES, LARGE), sample.images)


def bytes_of(site: Site, repository: str, name: str, revision: str = "main") -> bytes:
    found = site.hub.content.repository(repository)
    assert found is not None
    return found.files(revision)[name].read()


@asynccontextmanager
async def closing(source: Source) -> AsyncIterator[Source]:
    try:
        yield source
    finally:
        await source.close()


@contextmanager
def any_address_is_public(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another port of this machine stands for another host; requests go there only if it is taken for a public one."""
    with monkeypatch.context() as patch:
        patch.setattr("zhibei.store.addresses.is_public", lambda address: True)
        yield


async def resolve(site: Site, location: str, *mirrors: str, **options: Any) -> RemoteModel:
    async with closing(site.source(*mirrors, **options)) as source:
        return await source.resolve(location)


async def prepared(source: Source, file: RemoteFile) -> RemoteFile:
    async with aclosing(source.prepare(file)) as steps:
        found = [step async for step in steps]
    assert isinstance(found[-1], RemoteFile)
    return found[-1]


async def fetched(source: Source, file: RemoteFile, offset: int = 0, end: int | None = None) -> bytes:
    ready = await prepared(source, file)
    async with aclosing(source.open(ready, offset, end)) as pieces:
        return b"".join([piece async for piece in pieces])


async def pulled(site: Site, location: str, *mirrors: str, **options: Any) -> dict[str, bytes]:
    """All files of a model, by name, checked as the store checks them."""
    async with closing(site.source(*mirrors, **options)) as source:
        model = await source.resolve(location)
        found = {}
        for file in model.files:
            found[file.name] = body = await fetched(source, file)
            if file.digest is not None and hashlib.sha256(body).hexdigest() != file.digest.hex:
                raise DigestMismatch("not what was promised")
            assert file.size_bytes == len(body)
        return found


class TestResolving:
    async def test_a_variant_with_its_projector(self, site: Site) -> None:
        model = await resolve(site, "zhibei/Tiny-GGUF:q8_0")
        body = bytes_of(site, "zhibei/Tiny-GGUF", "Tiny-Q8_0.gguf")
        first, projector = model.files
        assert (first.name, first.role, first.size_bytes) == ("Tiny-Q8_0.gguf", "model", len(body))
        assert first.digest == Digest(hashlib.sha256(body).hexdigest())
        assert (projector.name, projector.role) == ("mmproj-Tiny-F16.gguf", "projector")
        assert (str(model.name), model.licence) == ("tiny:q8_0", "apache-2.0")
        assert model.source == f"{site.kind}:zhibei/Tiny-GGUF:q8_0"
        assert "pictures" in str(model.notices[0])
        assert site.hub.files() == []

    async def test_where_none_is_named_the_chooser_picks(self, site: Site) -> None:
        def largest(variants: tuple[Variant, ...]) -> Variant:
            return max(variants, key=lambda variant: variant.size_bytes or 0)

        context = replace(site.context(), choose=largest)
        source = hf.HfSource(context) if site.kind == "hf" else modelscope.ModelScopeSource(context)
        async with closing(source):
            model = await source.resolve("zhibei/Tiny-GGUF")
        assert model.files[0].name == "Tiny-Q8_0.gguf"
        assert "Q4_K_M" in str(model.notices[0])

    async def test_all_files_are_of_one_commit(self, hf_site: Site) -> None:
        model = await resolve(hf_site, "zhibei/Tiny-GGUF:Q4_K_M")
        repository = hf_site.hub.content.repository("zhibei/Tiny-GGUF")
        assert repository is not None
        assert model.revision == repository.commits["main"]
        assert all(file.origin == f"hf:zhibei/Tiny-GGUF@{model.revision}/{file.name}" for file in model.files)

    async def test_a_branch_that_moves_on_does_not_change_what_was_resolved(self, hf_site: Site) -> None:
        async with closing(hf_site.source()) as source:
            model = await source.resolve("zhibei/Tiny-GGUF:Q4_K_M")
            before = bytes_of(hf_site, "zhibei/Tiny-GGUF", "Tiny-Q4_K_M.gguf")
            old = hf_site.hub.content.repository("zhibei/Tiny-GGUF")
            assert old is not None
            assert model.revision is not None
            new = {"main": {"Tiny-Q4_K_M.gguf": model_bytes(48, seed=9)}, model.revision: dict(old.revisions["main"])}
            moved = replace(old, revisions=new)
            hf_site.hub.content = Content((moved,))
            assert await fetched(source, model.files[0]) == before
            again = await source.resolve("zhibei/Tiny-GGUF:Q4_K_M")
            assert again.revision != model.revision

    async def test_on_a_branch_that_moves_on_the_new_bytes_are_never_taken_for_the_old(self, tmp_path: Path) -> None:
        async with LocalHub(content()) as hub:
            site = Site("ms", hub, tmp_path / "work")
            async with closing(site.source()) as source:
                model = await source.resolve("zhibei/Tiny-GGUF:Q4_K_M")
                hub.content = Content((Repository("zhibei/Tiny-GGUF", {"main": {"Tiny-Q4_K_M.gguf": model_bytes(60, seed=9)}}),))
                with pytest.raises(StartOver):
                    await fetched(source, model.files[0])

    async def test_a_revision_by_either_spelling(self, site: Site) -> None:
        old = bytes_of(site, "zhibei/Tiny-GGUF", "Tiny-Q4_K_M.gguf", "v1.0")
        for location in ("zhibei/Tiny-GGUF@v1.0", "zhibei/Tiny-GGUF:v1.0", "zhibei/Tiny-GGUF@v1.0:q4_k_m"):
            model = await resolve(site, location)
            assert model.files[0].digest == Digest(hashlib.sha256(old).hexdigest()), location

    async def test_the_tail_of_a_browsers_address(self, site: Site) -> None:
        branch = "main" if site.kind == "hf" else "master"
        for location in (f"zhibei/Tiny-GGUF/resolve/{branch}/Tiny-Q8_0.gguf", "zhibei/Tiny-GGUF/Tiny-Q8_0.gguf"):
            assert (await resolve(site, location)).files[0].name == "Tiny-Q8_0.gguf"

    async def test_modelscopes_own_addresses(self, tmp_path: Path) -> None:
        async with LocalHub(content()) as hub:
            site = Site("ms", hub, tmp_path / "work")
            for location in ("models/zhibei/Gated-GGUF", "models/zhibei/Gated-GGUF/summary", "zhibei/Gated-GGUF/files"):
                assert (await resolve(site, location)).files[0].name == "Gated-Q4_0.gguf"

    async def test_shards(self, site: Site) -> None:
        model = await resolve(site, "zhibei/Shards-GGUF:Q4_K_M")
        assert [file.role for file in model.files] == ["shard"] * 3
        assert len(await pulled(site, "zhibei/Shards-GGUF")) == 3

    async def test_what_is_not_there(self, site: Site) -> None:
        for location, words in (
            ("zhibei/Nothing", "no repository"),
            ("zhibei/Private-GGUF", "no repository"),
            ("zhibei/Tiny-GGUF@v9", "no revision"),
            ("zhibei/Tiny-GGUF:Q9_X", "no Q9_X"),
            ("zhibei/Tiny-GGUF:nothing.gguf", "no nothing.gguf"),
        ):
            with pytest.raises(ModelNotFound, match=words) as caught:
                await resolve(site, location)
            assert caught.value.hint_text or words == "no revision"

    async def test_a_missing_variant_says_what_there_is(self, site: Site) -> None:
        with pytest.raises(ModelNotFound) as caught:
            await resolve(site, "zhibei/Tiny-GGUF:IQ1_S")
        assert "Q4_K_M (" in (caught.value.hint_text or "")
        assert "Q8_0 (" in (caught.value.hint_text or "")

    async def test_pickles_are_not_taken(self, site: Site) -> None:
        with pytest.raises(Unsupported) as caught:
            await resolve(site, "zhibei/Pickles")
        assert "safetensors" in (caught.value.hint_text or "")

    async def test_nonsense_is_a_bad_reference_and_asks_nobody(self, site: Site) -> None:
        for location in ("nonsense", "a/b/../c", "a/b:", "http://x/y"):
            with pytest.raises(BadReference):
                await resolve(site, location)
        assert site.hub.log == []


class TestFetching:
    async def test_the_bytes_are_the_files(self, site: Site) -> None:
        found = await pulled(site, "zhibei/Tiny-GGUF:Q4_K_M")
        assert found == {name: bytes_of(site, "zhibei/Tiny-GGUF", name) for name in ("Tiny-Q4_K_M.gguf", "mmproj-Tiny-F16.gguf")}

    async def test_a_safetensors_repository_without_its_code(self, site: Site) -> None:
        found = await pulled(site, "zhibei/Tensors")
        names = {"LICENSE", "config.json", "empty.tiktoken", "generation_config.json", "model.safetensors", "tokenizer.json"}
        assert found == {name: bytes_of(site, "zhibei/Tensors", name) for name in names}
        asked = {entry.file for entry in site.hub.log}
        assert not asked & {"modeling.py", "pytorch_model.bin", "README.md"}

    async def test_parts_from_any_place(self, site: Site) -> None:
        body = bytes_of(site, "zhibei/Tiny-GGUF", "Tiny-Q8_0.gguf")
        async with closing(site.source()) as source:
            file = await prepared(source, (await source.resolve("zhibei/Tiny-GGUF:Q8_0")).files[0])
            assert source.has_ranges(file)
            assert await source.read(file, 0, 4) == b"GGUF"
            assert await source.read(file, len(body) - 3, 10) == body[-3:]
            assert await source.read(file, len(body), 10) == b""
            for offset, end in ((0, None), (1, None), (10, 20), (len(body), None)):
                assert await fetched(source, file, offset, end) == body[offset:end]

    async def test_the_header_can_be_read_before_anything_is_prepared(self, site: Site) -> None:
        async with closing(site.source()) as source:
            file = (await source.resolve("zhibei/Tiny-GGUF:Q8_0")).files[0]
            assert await source.read(file, 0, 4) == b"GGUF"

    async def test_parts_of_a_small_file(self, hf_site: Site) -> None:
        async with closing(hf_site.source()) as source:
            files = {file.name: file for file in (await source.resolve("zhibei/Tensors")).files}
            assert await source.read(files["tokenizer.json"], 0, 4) is None
            config = await prepared(source, files["config.json"])
            assert config.validator == f"git:{blob_id(CONFIG)}"
            assert not source.has_ranges(config)
            assert await source.read(config, 2, 5) == CONFIG[2:7]
            assert await fetched(source, config, 3) == CONFIG[3:]

    async def test_what_a_model_wants_to_be_run_with(self, site: Site, tmp_path: Path) -> None:
        path = tmp_path / "blob"
        path.write_bytes(GENERATION)
        async with closing(site.source()) as source:
            found = await source.read_defaults({"generation_config.json": path})
            assert found is not None
            assert found.sampling == Sampling(temperature=0.6, top_k=20, top_p=0.95, repeat_penalty=1.1)
            path.write_bytes(b"[" * 100_000)
            assert await source.read_defaults({"generation_config.json": path}) is None
            assert await source.read_defaults({}) is None

    @pytest.mark.parametrize(
        "fault", ["reset_after_request", "cut_10", "cut_50", "cut_99", "server_error_500", "unavailable_503"]
    )
    async def test_what_passes_is_tried_again(self, site: Site, fault: str) -> None:
        site.hub.strike(fault)
        assert await pulled(site, "zhibei/Tiny-GGUF:Q4_K_M")
        site.hub.heal()

    async def test_a_small_file_that_was_altered_is_refused(self, hf_site: Site) -> None:
        hf_site.hub.strike("flipped_byte", paths="config.json")
        with pytest.raises(DigestMismatch, match=r"config\.json"):
            await pulled(hf_site, "zhibei/Tensors")

    async def test_a_small_file_that_is_longer_than_was_listed_is_refused(self, hf_site: Site) -> None:
        hf_site.hub.strike("oversized_body", paths="config.json")
        with pytest.raises(SourceError, match="larger answer than is allowed"):
            await pulled(hf_site, "zhibei/Tensors")
        assert hf_site.hub.num_bytes_sent("config.json") < SURPLUS_BYTES

    async def test_a_server_without_ranges(self, site: Site) -> None:
        site.hub.strike("whole_instead_of_range")
        async with closing(site.source()) as source:
            file = (await source.resolve("zhibei/Tiny-GGUF:Q8_0")).files[0]
            assert await source.read(file, 0, 4) is None
            assert await fetched(source, file) == bytes_of(site, "zhibei/Tiny-GGUF", "Tiny-Q8_0.gguf")
            assert not source.has_ranges(file)

    @pytest.mark.parametrize("fault", ["size_too_large", "size_too_small"])
    async def test_a_listing_that_lies_about_the_size(self, site: Site, fault: str) -> None:
        site.hub.strike(fault)
        with pytest.raises(StartOver):
            await pulled(site, "zhibei/Tiny-GGUF:Q4_K_M")

    async def test_a_listing_that_lies_about_the_content(self, site: Site) -> None:
        site.hub.strike("digest_of_other_file")
        with pytest.raises(DigestMismatch):
            await pulled(site, "zhibei/Tiny-GGUF:Q4_K_M")

    async def test_a_commit_that_is_gone_means_to_look_again(self, hf_site: Site) -> None:
        async with closing(hf_site.source()) as source:
            for location in ("zhibei/Tiny-GGUF:Q4_K_M", "zhibei/Tensors"):
                hf_site.hub.content = content()
                files = {file.name: file for file in (await source.resolve(location)).files}
                hf_site.hub.content = Content(
                    tuple(replace(one, revisions={"main": {"x.gguf": b"x"}}) for one in content().repositories)
                )
                with pytest.raises(StartOver):
                    await fetched(source, files.get("config.json") or files["Tiny-Q4_K_M.gguf"])

    async def test_a_file_that_is_gone(self, site: Site) -> None:
        site.hub.strike("missing_404", paths="*.gguf")
        with pytest.raises(ModelNotFound):
            await pulled(site, "zhibei/Tiny-GGUF:Q4_K_M")


class TestHostileAnswers:
    @pytest.mark.parametrize(
        "fault", ["name_climbs", "name_absolute", "name_with_drive", "name_of_device", "name_with_control", "name_twins"]
    )
    async def test_names(self, site: Site, fault: str) -> None:
        site.hub.strike(fault)
        with pytest.raises(SourceError):
            await resolve(site, "zhibei/Tiny-GGUF:Q4_K_M")

    @pytest.mark.parametrize(
        "fault", ["digest_short", "digest_empty", "size_negative", "huge_json", "deep_json", "mistyped_json", "captive_page"]
    )
    async def test_listings(self, site: Site, fault: str) -> None:
        site.hub.strike(fault)
        with pytest.raises(SourceError) as caught:
            await resolve(site, "zhibei/Tiny-GGUF:Q4_K_M")
        assert not isinstance(caught.value, Offline)
        assert site.hub.files() == []

    @pytest.mark.parametrize(
        "fault",
        [
            "redirect_to_private_address",
            "redirect_to_metadata_service",
            "redirect_to_other_port",
            "redirect_to_local_file",
            "redirect_loop",
        ],
    )
    async def test_redirects(self, site: Site, fault: str) -> None:
        site.hub.strike(fault)
        with pytest.raises(SourceError):
            await resolve(site, "zhibei/Tiny-GGUF:Q4_K_M", token=TOKEN)
        assert not any(entry.has_credentials for entry in site.hub.log if entry.origin == "other")

    @pytest.mark.parametrize(
        "fault", ["gzip_encoding", "wrong_range_start", "wrong_range_length", "oversized_body", "captive_page"]
    )
    async def test_bodies_are_never_taken_for_what_they_are_not(self, site: Site, fault: str) -> None:
        body = bytes_of(site, "zhibei/Tiny-GGUF", "Tiny-Q8_0.gguf")
        site.hub.strike(fault, paths="*.gguf")
        num_refused = 0
        async with closing(site.source()) as source:
            file = (await source.resolve("zhibei/Tiny-GGUF:Q8_0")).files[0]
            works = (lambda: source.read(file, 4, 20), lambda: fetched(source, file), lambda: fetched(source, file, 4, 24))
            for work, right in zip(works, (body[4:24], body, body[4:24]), strict=True):
                try:
                    assert await work() in (None, right)
                except (SourceError, StartOver):
                    num_refused += 1
        assert num_refused

    async def test_nothing_is_written(self, site: Site, tmp_path: Path) -> None:
        await pulled(site, "zhibei/Tiny-GGUF")
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


class TestTokens:
    async def test_open_what_is_private(self, site: Site) -> None:
        assert await pulled(site, "zhibei/Private-GGUF", token=TOKEN)
        assert await pulled(site, "zhibei/Gated-GGUF", token=TOKEN)

    async def test_never_leave_for_another_host(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        site.hub.cdn_elsewhere = True
        with any_address_is_public(monkeypatch):
            await pulled(site, "zhibei/Private-GGUF", token=TOKEN)
        elsewhere = [entry for entry in site.hub.log if entry.origin == "other"]
        assert elsewhere
        assert not any(entry.has_credentials for entry in elsewhere)
        assert all(entry.has_credentials for entry in site.hub.log if entry.origin == "hub")

    async def test_never_go_to_a_mirror(self, site: Site) -> None:
        model = await resolve(site, "zhibei/Tiny-GGUF:Q4_K_M", site.hub.url, endpoint=NOWHERE, token=TOKEN)
        assert model.files
        await pulled(site, "zhibei/Tiny-GGUF:Q4_K_M", site.hub.url, endpoint=NOWHERE, token=TOKEN)
        assert site.hub.log
        assert not any(entry.has_credentials for entry in site.hub.log)

    async def test_are_in_no_message_and_no_text(self, site: Site) -> None:
        source = site.source(token=TOKEN)
        site.hub.strike("unauthorized_401")
        async with closing(source):
            with pytest.raises(ZhibeiError) as caught:
                await source.resolve("zhibei/Tiny-GGUF")
        assert (
            TOKEN not in f"{caught.value} {caught.value.hint_text} {caught.value.values} {source!r} {site.context(token=TOKEN)!r}"
        )

    async def test_that_cannot_be_tokens_are_refused(self, site: Site) -> None:
        for token in ("a\r\nX: y", "a b", "ä", "", "a;b=c"):
            with pytest.raises(BadSetting) as caught:
                site.source(token=token)
            assert "HF_TOKEN" in str(caught.value) or "MODELSCOPE_API_TOKEN" in str(caught.value)

    async def test_a_gated_model_says_where_to_accept_its_terms(self, hf_site: Site) -> None:
        for options, words in (
            ({}, "make a token"),
            ({"token": POOR_TOKEN}, "account of your token"),
        ):
            async with closing(hf_site.source(**options)) as source:
                file = (await source.resolve("zhibei/Gated-GGUF")).files[0]
                with pytest.raises(SourceError, match="accept its terms") as at_header:
                    await source.read(file, 0, 4)
                with pytest.raises(SourceError, match="accept its terms") as at_file:
                    await prepared(source, file)
            for caught in (at_header, at_file):
                assert "https://huggingface.co/zhibei/Gated-GGUF" in (caught.value.hint_text or "")
                assert words in (caught.value.hint_text or "")

    async def test_a_gated_model_at_a_mirror_never_sends_anyone_to_the_mirror(self, hf_site: Site) -> None:
        async with closing(hf_site.source(hf_site.hub.url, endpoint=NOWHERE, token=TOKEN)) as source:
            file = (await source.resolve("zhibei/Gated-GGUF")).files[0]
            with pytest.raises(SourceError, match="accept its terms") as caught:
                await prepared(source, file)
        hint = caught.value.hint_text or ""
        assert "https://huggingface.co/zhibei/Gated-GGUF" in hint
        assert "127.0.0.1" not in hint
        assert "mirrors get no token" in hint

    async def test_modelscope_says_where_to_log_in(self, tmp_path: Path) -> None:
        async with LocalHub(content()) as hub:
            site = Site("ms", hub, tmp_path / "work")
            for token in (None, POOR_TOKEN):
                with pytest.raises(SourceError) as caught:
                    await pulled(site, "zhibei/Gated-GGUF", token=token)
                assert "https://www.modelscope.cn/models/zhibei/Gated-GGUF" in (caught.value.hint_text or "")
                assert "MODELSCOPE_API_TOKEN" in (caught.value.hint_text or "")

    async def test_a_token_that_is_not_known_says_so(self, hf_site: Site) -> None:
        with pytest.raises(SourceError, match="does not take the token") as caught:
            await resolve(hf_site, "zhibei/Tiny-GGUF", token="hf_wrong")
        assert "HF_TOKEN" in (caught.value.hint_text or "")


class TestMirrors:
    async def test_one_is_used_where_the_endpoint_cannot_be_reached_and_the_person_is_told(self, site: Site) -> None:
        model = await resolve(site, "zhibei/Tiny-GGUF:Q4_K_M", NOWHERE, site.hub.url, endpoint="http://127.0.0.1:1")
        assert "127.0.0.1:1 cannot be reached" in str(model.notices[0])
        assert site.hub.url.removeprefix("http://") in str(model.notices[0])
        assert "127.0.0.1" not in model.source + model.files[0].origin
        assert await pulled(site, "zhibei/Tiny-GGUF:Q4_K_M", site.hub.url, endpoint=NOWHERE)

    async def test_none_is_used_where_the_endpoint_answers(self, site: Site) -> None:
        async with LocalHub(content()) as mirror:
            model = await resolve(site, "zhibei/Tiny-GGUF:Q4_K_M", mirror.url)
            with pytest.raises(ModelNotFound):
                await resolve(site, "zhibei/Nothing", mirror.url)
            assert mirror.log == []
        assert not any("mirror" in str(notice) for notice in model.notices)

    async def test_where_nobody_can_be_reached_the_endpoint_is_named(self, site: Site) -> None:
        with pytest.raises(SourceError, match=r"127\.0\.0\.1"):
            await resolve(site, "zhibei/Tiny-GGUF", NOWHERE, endpoint="http://127.0.0.1:1")

    async def test_who_is_offline_asks_nobody(self, site: Site) -> None:
        with pytest.raises(Offline):
            await resolve(site, "zhibei/Tiny-GGUF", site.hub.url, is_offline=True)
        assert site.hub.log == []

    async def test_without_a_network_it_says_so(self, site: Site) -> None:
        async def no_network(host: str, port: int) -> tuple[str, ...]:
            raise OSError(-3, "Temporary failure in name resolution")

        with pytest.raises(Offline):
            await resolve(site, "o/n", "http://mirror.example", endpoint="http://hub.example", lookup=no_network)

    async def test_one_goes_on_where_the_endpoint_dies_midway(self, site: Site) -> None:
        body = bytes_of(site, "zhibei/Large-GGUF", "Large-Q8_0.gguf")
        async with LocalHub(content()) as mirror, closing(site.source(mirror.url, token=TOKEN)) as source:
            file = await prepared(source, (await source.resolve("zhibei/Large-GGUF:Q8_0")).files[0])
            site.hub.strike("cut_50", times=1)
            # The first two are the redirect and the body that is cut; from then on the endpoint is dead.
            site.hub.strike("unavailable_503", first=3, times=None)
            async with aclosing(source.open(file, 0)) as pieces:
                found = b"".join([piece async for piece in pieces])
            assert found == body
            assert 0 < mirror.num_bytes_sent("Large-Q8_0.gguf") < len(body)
            assert not any(entry.has_credentials for entry in mirror.log)

    async def test_one_goes_on_with_what_is_prepared_after_the_endpoint_died(self, site: Site) -> None:
        async with LocalHub(content()) as mirror, closing(site.source(mirror.url)) as source:
            model = await source.resolve("zhibei/Tensors")
            site.hub.strike("unavailable_503", times=None)
            for file in model.files:
                assert await fetched(source, file) == bytes_of(site, "zhibei/Tensors", file.name)

    async def test_one_that_has_other_bytes_is_found_out(self, hf_site: Site) -> None:
        async with LocalHub(content()) as mirror:
            mirror.strike("flipped_byte")
            with pytest.raises(DigestMismatch):
                await pulled(hf_site, "zhibei/Tiny-GGUF:Q4_K_M", mirror.url, endpoint=NOWHERE)


class TestSearch:
    async def ask(self, site: Site, words: str, limit: int = 20, **options: Any) -> list[HubHit]:
        asks: dict[str, Callable[[str, SourceContext, int], Awaitable[list[HubHit]]]] = {"hf": hf.search, "ms": modelscope.search}
        return await asks[site.kind](words, site.context(**options), limit)

    async def test_finds_repositories_that_can_be_pulled(self, site: Site) -> None:
        hits = await self.ask(site, "tiny-gguf")
        hit = next(hit for hit in hits if hit.ref == f"{site.kind}:zhibei/Tiny-GGUF")
        assert (hit.licence, hit.downloads, hit.likes, hit.title) == ("apache-2.0", 4200, 7, "Tiny-GGUF")
        assert (hit.updated or "").startswith("2026-01-02T")
        assert "gguf" in hit.tags
        assert (await resolve(site, hit.ref.partition(":")[2])).files

    async def test_tells_what_is_gated(self, site: Site) -> None:
        hits = await self.ask(site, "gated-gguf")
        assert [hit.is_gated for hit in hits] == [True]

    async def test_is_bounded(self, site: Site) -> None:
        assert len(await self.ask(site, "gguf", limit=1)) == 1

    async def test_finds_nothing(self, site: Site) -> None:
        assert await self.ask(site, "no such thing") == []

    @pytest.mark.parametrize("fault", ["huge_json", "deep_json", "mistyped_json", "captive_page"])
    async def test_hostile_answers(self, site: Site, fault: str) -> None:
        site.hub.strike(fault)
        with pytest.raises(SourceError):
            await self.ask(site, "gguf")

    async def test_offline(self, site: Site) -> None:
        with pytest.raises(Offline):
            await self.ask(site, "gguf", is_offline=True)


@asynccontextmanager
async def told(kind: str, answer: object, tmp_path: Path) -> AsyncIterator[Source]:
    """A source whose hub gives the same answer to everything."""
    async with HostileServer(json.dumps(answer).encode()) as server:
        context = SourceContext(tmp_path / "work", OPTIONS, hubs={kind: Hub(server.url("").rstrip("/"))})
        source: Source = hf.HfSource(context) if kind == "hf" else modelscope.ModelScopeSource(context)
        async with closing(source):
            yield source


def of_modelscope(files: object, **more: object) -> dict[str, object]:
    return {"Code": 200, "Success": True, "Message": "success", "Data": {"Files": files, "IsVisual": 0, **more}}


def entry(name: str, **more: object) -> dict[str, object]:
    return {"Path": name, "Name": name, "Type": "blob", "Size": 5, "Sha256": "ab" * 32, "IsLFS": True, **more}


class TestListingsAsTheyAreTold:
    async def test_a_revision_without_files_is_not_there(self, tmp_path: Path) -> None:
        async with told("ms", of_modelscope(None, LatestCommitter=None), tmp_path) as source:
            with pytest.raises(ModelNotFound, match="no revision v9"):
                await source.resolve("o/n@v9")

    async def test_a_failure_inside_a_success(self, tmp_path: Path) -> None:
        async with told("ms", {"Code": 10010205001, "Success": False, "Message": "record not found"}, tmp_path) as source:
            with pytest.raises(ModelNotFound, match="no repository"):
                await source.resolve("o/n")

    async def test_the_commit_by_its_first_digits_or_in_full(self, tmp_path: Path) -> None:
        old, new = "1" * 40, "2" * 40
        files = [entry("x-Q4_0.gguf", Revision=old), entry("y.bin", Revision=new), entry("d", Type="tree", Sha256="")]
        for latest, expected in (
            ({"Id": "", "ShortId": new[:8]}, new),
            ({"Id": old}, old),
            (None, "master"),
            ({"ShortId": "3"}, "master"),
        ):
            async with told("ms", of_modelscope(files, LatestCommitter=latest), tmp_path) as source:
                assert (await source.resolve("o/n")).revision == expected

    async def test_more_files_than_are_told(self, tmp_path: Path) -> None:
        files = [entry(f"{number}.png") for number in range(2999)] + [entry("x-Q4_0.gguf")]
        async with told("ms", of_modelscope(files), tmp_path) as source:
            assert "3000" in str((await source.resolve("o/n")).notices[-1])

    @pytest.mark.parametrize(
        "more", [{"Sha256": ""}, {"Sha256": 5}, {"Sha256": "zz" * 32}, {"Size": "5"}, {"Size": True}, {"Path": ""}]
    )
    async def test_nonsense_of_modelscope(self, tmp_path: Path, more: dict[str, object]) -> None:
        async with told("ms", of_modelscope([entry("x-Q4_0.gguf", **more)]), tmp_path) as source:
            with pytest.raises(SourceError, match="not answer like a model hub"):
                await source.resolve("o/n")

    @pytest.mark.parametrize(
        "sibling",
        [
            {"rfilename": "x-Q4_0.gguf", "lfs": {"size": 5}},
            {"rfilename": "x-Q4_0.gguf", "lfs": {"size": 5, "sha256": "ab"}},
            {"rfilename": "x-Q4_0.gguf", "lfs": {"size": -5, "sha256": "ab" * 32}},
            {"rfilename": "x-Q4_0.gguf", "size": 1.5},
            {"rfilename": 5},
            "x-Q4_0.gguf",
        ],
    )
    async def test_nonsense_of_hugging_face(self, tmp_path: Path, sibling: object) -> None:
        async with told("hf", {"siblings": [sibling]}, tmp_path) as source:
            with pytest.raises(SourceError, match="not answer like a model hub"):
                await source.resolve("o/n")

    @pytest.mark.parametrize(
        ("more", "licence"),
        [
            ({"cardData": {"license": "mit"}}, "mit"),
            ({"cardData": {"license": ["mit", "apache-2.0"]}}, "mit, apache-2.0"),
            ({"cardData": {"license": "other", "license_name": "qwen-research"}}, "qwen-research"),
            ({"cardData": {"license": "other"}}, "other"),
            ({"tags": ["gguf", "license:llama3"]}, "llama3"),
            ({"cardData": {"license": {"x": 1}}}, None),
            ({}, None),
        ],
    )
    async def test_the_licence(self, tmp_path: Path, more: dict[str, object], licence: str | None) -> None:
        sibling = {"rfilename": "x-Q4_0.gguf", "size": 5, "lfs": {"size": 5, "sha256": "ab" * 32}}
        async with told("hf", {"siblings": [sibling], **more}, tmp_path) as source:
            model = await source.resolve("o/n")
        assert (model.licence, model.revision, model.files[0].origin) == (licence, None, "hf:o/n@main/x-Q4_0.gguf")


class TestPulling:
    @pytest.fixture(autouse=True)
    def _in_the_table(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(SOURCES, "hf", "zhibei.store.sources.hf:HfSource")
        monkeypatch.setitem(SOURCES, "ms", "zhibei.store.sources.modelscope:ModelScopeSource")

    def library(self, site: Site, home: Path, *mirrors: str, **options: Any) -> Library:
        context = site.context(*mirrors, **options)
        assert context.fetch is not None
        return Library(home, options=PullOptions(fetch=context.fetch, poll_s=0.01, hubs=context.hubs))

    async def test_a_model_and_its_projector(self, site: Site, tmp_path: Path) -> None:
        library = self.library(site, tmp_path / "home")
        model = await pull(library, f"{site.kind}:zhibei/Tiny-GGUF:Q4_K_M")
        assert model.name == "tiny:q4_k_m"
        assert [file.role for file in model.files] == ["model", "projector"]
        assert model.files[0].path.read_bytes() == bytes_of(site, "zhibei/Tiny-GGUF", "Tiny-Q4_K_M.gguf")

    async def test_what_was_pulled_is_not_fetched_again(self, site: Site, tmp_path: Path) -> None:
        library = self.library(site, tmp_path / "home")
        await pull(library, f"{site.kind}:zhibei/Tiny-GGUF:Q4_K_M")
        site.hub.log.clear()
        await pull(library, f"{site.kind}:zhibei/Tiny-GGUF:Q4_K_M")
        assert site.hub.num_bytes_sent() == 0

    async def test_the_variant_that_was_chosen_is_recorded_and_taken_again(self, site: Site, tmp_path: Path) -> None:
        repository = f"{site.kind}:zhibei/Tiny-GGUF"

        def preferring(label: str) -> Library:
            def choose(variants: tuple[Variant, ...]) -> Variant:
                return next((variant for variant in variants if variant.label == label), variants[0])

            hubs = site.context().hubs
            return Library(tmp_path / "home", options=PullOptions(OPTIONS, poll_s=0.01, hubs=hubs, choose=choose))

        first = await pull(preferring("Q4_K_M"), repository)
        assert (first.name, first.source) == ("tiny:q4_k_m", f"{repository}:Q4_K_M")
        again = await pull(preferring("Q8_0"), repository)
        assert (again.name, again.source, again.files) == (first.name, first.source, first.files)
        async with aclosing(preferring("Q8_0").update(ModelName.parse("tiny:q4_k_m"))) as events:
            updated = [event async for event in events][-1]
        assert isinstance(updated, Pulled) and updated.model.files == first.files
        first.files[0].path.write_bytes(b"?" * first.files[0].size_bytes)
        async with aclosing(preferring("Q8_0").repair(ModelName.parse("tiny:q4_k_m"))) as steps:
            repaired = [step async for step in steps][-1]
        assert isinstance(repaired, Pulled) and repaired.model.source == f"{repository}:Q4_K_M"
        assert repaired.model.files[0].path.read_bytes() == bytes_of(site, "zhibei/Tiny-GGUF", "Tiny-Q4_K_M.gguf")
        assert [model.name for model in preferring("Q8_0").list()] == ["tiny:q4_k_m"]

    async def test_under_a_name_of_ones_own_it_is_known_again_too(self, site: Site, tmp_path: Path) -> None:
        library = self.library(site, tmp_path / "home")
        first = await pull(library, f"{site.kind}:zhibei/Tiny-GGUF", name="mine")
        assert (await pull(library, f"{site.kind}:zhibei/Tiny-GGUF", name="mine")).files == first.files
        assert (await pull(library, first.source, name="mine")).files == first.files
        with pytest.raises(BadRequest, match="already a model mine"):
            await pull(library, f"{site.kind}:zhibei/Tiny-GGUF:Q8_0", name="mine")

    async def test_what_was_recorded_without_its_variant_is_known_again(self, site: Site, tmp_path: Path) -> None:
        library = self.library(site, tmp_path / "home")
        await pull(library, f"{site.kind}:zhibei/Tiny-GGUF")
        (path,) = (tmp_path / "home" / "manifests").rglob("*.json")
        path.write_text(path.read_text().replace("Tiny-GGUF:Q4_K_M", "Tiny-GGUF"))
        newer = {"main": {"Tiny-Q4_K_M.gguf": model_bytes(60, seed=9), "Tiny-Q8_0.gguf": model_bytes(70, seed=9)}}
        site.hub.content = Content((Repository("zhibei/Tiny-GGUF", newer),))
        model = await pull(library, f"{site.kind}:zhibei/Tiny-GGUF")
        assert model.source == f"{site.kind}:zhibei/Tiny-GGUF:Q4_K_M"
        assert model.files[0].path.read_bytes() == newer["main"]["Tiny-Q4_K_M.gguf"]

    async def test_a_mirror_with_other_bytes_leaves_nothing(self, site: Site, tmp_path: Path) -> None:
        site.hub.strike("flipped_byte")
        library = self.library(site, tmp_path / "home", site.hub.url, endpoint=NOWHERE)
        with pytest.raises(DigestMismatch):
            await pull(library, f"{site.kind}:zhibei/Tiny-GGUF:Q4_K_M")
        assert blobs(tmp_path / "home") == []
