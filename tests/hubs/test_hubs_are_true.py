"""The hub is what it says: the official clients get from it what is in it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import aiohttp
import huggingface_hub
import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from hubs import ollama
from hubs.conftest import BYTES, CONTENT, MODEL, TINY, files_of
from hubs.content import Content, Repository
from hubs.server import POOR_TOKEN, TOKEN, Hub
from support.models import sha256

_T = TypeVar("_T")


@pytest.fixture(autouse=True)
def _own_hf_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No token and no cache of whoever runs the tests; and no connection outlives a test."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield
    huggingface_hub.close_session()


async def aside(call: Callable[[], _T]) -> _T:
    """A blocking client, while the hub answers."""
    return await asyncio.to_thread(call)


# --- Hugging Face's own client ---


async def test_model_info_tells_sizes_digests_and_licence(hub: Hub) -> None:
    info = await aside(lambda: HfApi(endpoint=hub.url, token=False).model_info(TINY, files_metadata=True))
    files = files_of(TINY)
    assert info.siblings is not None and info.card_data is not None and info.gguf is not None
    assert {one.rfilename: one.size for one in info.siblings} == {path: blob.size for path, blob in files.items()}
    large = {one.rfilename: one.lfs for one in info.siblings if one.lfs is not None}
    assert {path: lfs.sha256 for path, lfs in large.items()} == {
        path: blob.sha256 for path, blob in files.items() if path.endswith(".gguf")
    }
    assert (info.sha, info.gated, info.private, info.downloads) == (CONTENT.repositories[0].commits["main"], False, False, 4200)
    assert info.card_data.license == "apache-2.0" and info.gguf["architecture"] == "llama"


@pytest.mark.parametrize("page_size", [1000, 2])
async def test_tree_is_the_same_in_one_page_and_in_many(page_size: int) -> None:
    async with Hub(CONTENT, page_size=page_size) as hub:
        entries = await aside(lambda: list(HfApi(endpoint=hub.url, token=False).list_repo_tree(TINY, recursive=True)))
    assert [entry.path for entry in entries] == sorted(files_of(TINY))
    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    assert [entry.size for entry in files] == [files_of(TINY)[entry.path].size for entry in entries]
    assert {entry.lfs.sha256 for entry in files if entry.lfs} >= {sha256(BYTES)}
    assert len(hub.log) == (1 if page_size == 1000 else 3)


async def test_tree_shows_folders(hub: Hub) -> None:
    api = HfApi(endpoint=hub.url, token=False)
    shards = sorted(files_of("zhibei/Shards-GGUF"))
    assert [one.path for one in await aside(lambda: list(api.list_repo_tree("zhibei/Shards-GGUF")))] == ["Q4_K_M"]
    inside = await aside(lambda: list(api.list_repo_tree("zhibei/Shards-GGUF", "Q4_K_M")))
    deep = await aside(lambda: list(api.list_repo_tree("zhibei/Shards-GGUF", recursive=True)))
    assert [one.path for one in inside] == shards and [one.path for one in deep] == ["Q4_K_M", *shards]


async def test_search_finds_public_gguf_by_downloads(hub: Hub) -> None:
    def search(**wanted: object) -> list[str]:
        return [one.id for one in HfApi(endpoint=hub.url).list_models(filter="gguf", sort="downloads", **wanted)]  # type: ignore[arg-type]

    assert await aside(lambda: search(search="gguf", token=False)) == [TINY, "zhibei/Gated-GGUF", "zhibei/Shards-GGUF"]
    assert await aside(lambda: search(search="tiny", limit=1, token=False)) == [TINY]
    assert "zhibei/Private-GGUF" in await aside(lambda: search(author="zhibei", token=TOKEN))


@pytest.mark.parametrize("cdn_elsewhere", [False, True])
async def test_download_brings_the_bytes_by_way_of_the_signed_address(cdn_elsewhere: bool, tmp_path: Path) -> None:
    async with Hub(CONTENT, cdn_elsewhere=cdn_elsewhere) as hub:
        found = await aside(lambda: hf_hub_download(TINY, MODEL, endpoint=hub.url, cache_dir=tmp_path, token=TOKEN))
        card = await aside(lambda: hf_hub_download(TINY, "README.md", endpoint=hub.url, cache_dir=tmp_path, token=TOKEN))
    assert Path(found).read_bytes() == BYTES and Path(found).resolve().name == sha256(BYTES)
    assert Path(card).read_bytes() == files_of(TINY)["README.md"].read()
    assert hub.num_bytes_sent(MODEL) == len(BYTES)
    assert [entry.origin for entry in hub.files(MODEL)] == ["other" if cdn_elsewhere else "hub"]
    if cdn_elsewhere:
        # Before its second version the client carried them to another port of the same host.
        is_careful = int(huggingface_hub.__version__.partition(".")[0]) >= 2
        assert not (is_careful and any(entry.has_credentials for entry in hub.log if entry.origin == "other"))
        assert all(entry.headers["authorization"] == f"Bearer {TOKEN}" for entry in hub.log if entry.origin == "hub")


async def test_snapshot_brings_every_file_of_a_tag(hub: Hub, tmp_path: Path) -> None:
    for repository_id, revision in ((TINY, "v1.0"), ("zhibei/Shards-GGUF", "main")):
        found = Path(
            await aside(
                lambda name=repository_id, revision=revision: snapshot_download(  # type: ignore[misc]
                    name, revision=revision, endpoint=hub.url, cache_dir=tmp_path, token=False
                )
            )
        )
        expected = files_of(repository_id, revision)
        got = {path.relative_to(found).as_posix(): path.read_bytes() for path in found.rglob("*") if path.is_file()}
        assert got == {path: blob.read() for path, blob in expected.items()}


async def test_mirror_has_the_same(hub: Hub, tmp_path: Path) -> None:
    async with Hub(CONTENT) as mirror:
        found = await aside(lambda: hf_hub_download(TINY, MODEL, endpoint=mirror.url, cache_dir=tmp_path, token=False))
    assert Path(found).read_bytes() == BYTES and not hub.log


@pytest.mark.parametrize(
    ("repository_id", "path", "revision", "token", "error"),
    [
        ("zhibei/Gated-GGUF", "Gated-Q4_0.gguf", None, False, GatedRepoError),
        ("zhibei/Gated-GGUF", "Gated-Q4_0.gguf", None, POOR_TOKEN, GatedRepoError),
        ("zhibei/Nothing", MODEL, None, False, RepositoryNotFoundError),
        ("zhibei/Nothing", MODEL, None, TOKEN, RepositoryNotFoundError),
        ("zhibei/Private-GGUF", "Private-Q4_0.gguf", None, POOR_TOKEN, RepositoryNotFoundError),
        (TINY, MODEL, "no-such", False, RevisionNotFoundError),
        (TINY, "no-such.gguf", None, False, EntryNotFoundError),
    ],
)
async def test_refusals_are_told_apart(
    hub: Hub, tmp_path: Path, repository_id: str, path: str, revision: str | None, token: str | bool, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        await aside(
            lambda: hf_hub_download(repository_id, path, revision=revision, endpoint=hub.url, cache_dir=tmp_path, token=token)
        )
    assert caught.type in (error, *error.__subclasses__())
    assert hub.num_bytes_sent() == 0


@pytest.mark.parametrize(
    ("repository_id", "path"), [("zhibei/Gated-GGUF", "Gated-Q4_0.gguf"), ("zhibei/Private-GGUF", "Private-Q4_0.gguf")]
)
async def test_token_opens_what_is_closed(hub: Hub, tmp_path: Path, repository_id: str, path: str) -> None:
    found = await aside(lambda: hf_hub_download(repository_id, path, endpoint=hub.url, cache_dir=tmp_path, token=TOKEN))
    assert Path(found).read_bytes() == files_of(repository_id)[path].read()


async def test_client_gets_over_a_cut(hub: Hub, tmp_path: Path) -> None:
    """It keeps whole pieces of some megabytes only, and so begins anew."""
    strike = hub.strike("cut_50")
    found = await aside(lambda: hf_hub_download(TINY, MODEL, endpoint=hub.url, cache_dir=tmp_path, token=False))
    assert Path(found).read_bytes() == BYTES and strike.num_struck == 1
    assert [entry.bytes_sent for entry in hub.files(MODEL)] == [len(BYTES) // 2, len(BYTES)]


# --- ModelScope's own client ---

_MODELSCOPE = """
import json, sys
from pathlib import Path
from modelscope.hub.api import HubApi
from modelscope.hub.file_download import model_file_download
from modelscope.hub.snapshot_download import snapshot_download

endpoint, cache, token = sys.argv[1], Path(sys.argv[2]), sys.argv[3] or None
api = HubApi(endpoint=endpoint, token=token)

def refusal(call):
    try:
        call()
    except Exception as error:
        names = [kind.__name__ for kind in type(error).__mro__]
        return [name for name in names if name not in ("object", "BaseException")]
    return []

def fetch(repository, file, **options):
    return model_file_download(repository, file, cache_dir=cache / "one", token=token, **options)
told = {
    "info": {key: value for key, value in api.get_model("zhibei/Tiny-GGUF").items() if key in ("Downloads", "License")},
    "branches": api.get_model_branches_and_tags("zhibei/Tiny-GGUF"),
    "revision": api.get_valid_revision("zhibei/Tiny-GGUF", "v1.0"),
    "files": {file["Path"]: file["Size"] for file in api.get_model_files("zhibei/Tiny-GGUF")},
    "digests": {file.path: file.sha256 for file in api._api.list_repo_files("zhibei/Tiny-GGUF", "model")},
    "owned": api.list_models("zhibei")["TotalCount"],
    "found": [info.id for info in api._api.list_repos("model", search="tiny").items],
    "one": str(fetch("zhibei/Tiny-GGUF", "Tiny-Q4_K_M.gguf", revision="master")),
    "newest": str(fetch("zhibei/Tiny-GGUF", "README.md")),
    "snapshot": str(snapshot_download("zhibei/Shards-GGUF", cache_dir=str(cache / "all"), token=token)),
    "tagged": str(snapshot_download("zhibei/Tiny-GGUF", revision="v1.0", cache_dir=str(cache / "tag"), token=token)),
    "exists": api.repo_exists("zhibei/Nothing"),
    "no_file": refusal(lambda: fetch("zhibei/Tiny-GGUF", "none.gguf")),
    "no_model": refusal(lambda: fetch("zhibei/Nothing", "none.gguf")),
    "gated": refusal(lambda: fetch("zhibei/Gated-GGUF", "Gated-Q4_0.gguf")),
}
print("\\n" + json.dumps(told))
"""


async def run_modelscope(hub: Hub, home: Path, token: str = "") -> dict[str, object]:
    """What ModelScope's client makes of the hub. In a process of its own: it reads its settings as it is imported."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MODELSCOPE_", "PYTHONWARNINGS"))}
    environment |= {
        "HOME": str(home),
        "MODELSCOPE_HOME": str(home / "settings"),
        "MODELSCOPE_CACHE": str(home / "cache"),
        "MODELSCOPE_ENDPOINT": hub.url,
        "MODELSCOPE_DOMAIN": hub.url,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _MODELSCOPE,
        *(hub.url, str(home), token),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()[-3000:]
    told: dict[str, object] = json.loads(out.decode().strip().splitlines()[-1])
    return told


@pytest.mark.parametrize("token", ["", TOKEN])
async def test_modelscope_client_gets_what_is_there(tmp_path: Path, token: str) -> None:
    async with Hub(CONTENT, cdn_elsewhere=True) as hub:
        told = await run_modelscope(hub, tmp_path, token)
    files = files_of(TINY)
    assert told["info"] == {"Downloads": 4200, "License": "apache-2.0"}
    assert told["branches"] == [["master"], ["v1.0"]] and told["revision"] == "v1.0"
    assert told["files"] == {path: blob.size for path, blob in files.items()}
    assert told["digests"] == {path: blob.sha256 for path, blob in files.items()}
    assert told["owned"] == (4 if token else 3) and told["found"] == [TINY] and told["exists"] is False
    assert Path(str(told["one"])).read_bytes() == BYTES
    assert Path(str(told["newest"])).parent.name == "v1.0"
    for key, repository_id, revision in (("snapshot", "zhibei/Shards-GGUF", "main"), ("tagged", TINY, "v1.0")):
        root = Path(str(told[key]))
        got = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        assert got == {path: blob.read() for path, blob in files_of(repository_id, revision).items()}
    assert "HTTPError" in told["no_file"] and "HTTPError" in told["no_model"]  # type: ignore[operator]
    assert ("HTTPError" in told["gated"]) is (token == "")  # type: ignore[operator]
    assert {entry.origin for entry in hub.files(MODEL)} == {"other"}


async def test_modelscope_small_files_ignore_ranges(hub: Hub, http: aiohttp.ClientSession) -> None:
    address = f"{hub.url}/api/v1/models/{TINY}/repo?Revision=master&FilePath=README.md"
    async with http.get(address, headers={"Range": "bytes=3-"}) as answer:
        assert answer.status == 200 and await answer.read() == files_of(TINY)["README.md"].read()
    async with http.get(f"{hub.url}/models/{TINY}/resolve/master/{MODEL}", headers={"Range": "bytes=3-9"}) as answer:
        assert answer.status == 206 and await answer.read() == BYTES[3:10]


# --- the Ollama registry, by its documented shapes ---


async def test_manifest_and_blobs(hub: Hub, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{hub.url}/v2/library/tiny/manifests/latest", headers={"Accept": ollama.MANIFEST}) as answer:
        body = await answer.read()
        assert answer.status == 200 and answer.headers["Content-Type"] == ollama.MANIFEST
        assert answer.headers["Docker-Content-Digest"] == f"sha256:{sha256(body)}"
    told = json.loads(body)
    assert told["schemaVersion"] == 2 and told["mediaType"] == ollama.MANIFEST and told["config"]["mediaType"] == ollama.CONFIG
    kinds = [layer["mediaType"].removeprefix("application/vnd.ollama.image.") for layer in told["layers"]]
    assert kinds == ["model", "template", "system", "params", "license"]
    for layer in (told["config"], *told["layers"]):
        address = f"{hub.url}/v2/library/tiny/blobs/{layer['digest']}"
        async with http.head(address, allow_redirects=True) as answer:
            assert answer.status == 200 and answer.headers["Content-Length"] == str(layer["size"])
        async with http.get(address) as answer:
            body = await answer.read()
            assert (len(body), f"sha256:{sha256(body)}") == (layer["size"], layer["digest"])
            assert [hop.status for hop in answer.history] == [307]
        async with http.get(address, headers={"Range": "bytes=5-8"}) as answer:
            assert answer.status == 206 and await answer.read() == body[5:9]
    async with http.get(f"{hub.url}/v2/library/tiny/blobs/{told['config']['digest']}") as answer:
        config = await answer.json(content_type=None)
    assert (config["model_format"], config["model_family"], config["file_type"]) == ("gguf", "llama", "Q4_0")


@pytest.mark.parametrize(("path", "code"), [("manifests/none", "MANIFEST_UNKNOWN"), ("blobs/sha256:" + "0" * 64, "BLOB_UNKNOWN")])
async def test_what_the_registry_does_not_have(hub: Hub, http: aiohttp.ClientSession, path: str, code: str) -> None:
    async with http.get(f"{hub.url}/v2/library/tiny/{path}") as answer:
        assert answer.status == 404 and (await answer.json())["errors"][0]["code"] == code


@pytest.mark.parametrize("realm_elsewhere", [False, True])
async def test_registry_wants_a_token_for_the_image(realm_elsewhere: bool, http: aiohttp.ClientSession) -> None:
    async with Hub(CONTENT, needs_token=True, realm_elsewhere=realm_elsewhere) as hub:
        address = f"{hub.url}/v2/library/tiny/manifests/latest"
        async with http.get(address) as answer:
            assert answer.status == 401
            kind, _, rest = answer.headers["WWW-Authenticate"].partition(" ")
        parts = dict(part.split("=", 1) for part in rest.split(","))
        realm, service, scope = (parts[name].strip('"') for name in ("realm", "service", "scope"))
        assert (kind, scope, realm.startswith(hub.other_url)) == ("Bearer", "repository:library/tiny:pull", realm_elsewhere)
        async with http.get(realm, params={"service": service, "scope": scope}) as answer:
            token = (await answer.json())["token"]
        async with http.get(address, headers={"Authorization": f"Bearer {token}"}) as answer:
            assert answer.status == 200
        async with http.get(address.replace("tiny", "other"), headers={"Authorization": f"Bearer {token}"}) as answer:
            assert answer.status == 401


# --- files: ranges, versions, the disk ---


async def test_ranges_and_conditions(hub: Hub, http: aiohttp.ClientSession) -> None:
    address = f"{hub.url}/{TINY}/resolve/main/{MODEL}"
    size, tag = len(BYTES), f'"{sha256(BYTES)}"'
    cases = [
        ({}, 200, BYTES),
        ({"Range": "bytes=10-19"}, 206, BYTES[10:20]),
        ({"Range": f"bytes={size - 5}-"}, 206, BYTES[-5:]),
        ({"Range": "bytes=-7"}, 206, BYTES[-7:]),
        ({"Range": f"bytes=4-{size + 99}"}, 206, BYTES[4:]),
        ({"Range": "bytes=9-3"}, 200, BYTES),
        ({"Range": f"bytes={size}-"}, 416, b""),
        ({"Range": "bytes=4-", "If-Range": tag}, 206, BYTES[4:]),
        ({"Range": "bytes=4-", "If-Range": '"older"'}, 200, BYTES),
    ]
    for headers, status, body in cases:
        async with http.get(address, headers=headers) as answer:
            assert (answer.status, await answer.read()) == (status, body), headers
            assert answer.headers["ETag"] == tag
    assert [entry.bytes_sent for entry in hub.files(MODEL)] == [len(body) for _, _, body in cases]


async def test_signature_is_wanted(hub: Hub, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{hub.url}/cdn/{sha256(BYTES)}?file=x") as answer:
        assert answer.status == 403


async def test_large_file_from_the_disk_is_sent_and_counted(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    (tmp_path / "big.gguf").write_bytes(os.urandom(1 << 20) * 20)
    data = (tmp_path / "big.gguf").read_bytes()
    content = Content((Repository("zhibei/Big", {"main": {"big.gguf": tmp_path / "big.gguf"}}),))
    async with Hub(content) as hub:
        address = f"{hub.url}/zhibei/Big/resolve/main/big.gguf"
        async with http.get(address) as answer:
            assert await answer.read() == data
        async with http.get(address, headers={"Range": "bytes=1000000-"}) as answer:
            assert answer.status == 206 and await answer.read() == data[1000000:]
        hub.strike("cut_50")
        with pytest.raises(aiohttp.ClientPayloadError):
            async with http.get(address) as answer:
                await answer.read()
        assert [entry.bytes_sent for entry in hub.files("big.gguf")] == [len(data), len(data) - 1000000, len(data) // 2]


async def test_served_by_itself(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    (tmp_path / "zhibei" / "Own").mkdir(parents=True)
    (tmp_path / "zhibei" / "Own" / "own.gguf").write_bytes(BYTES)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "hubs.server", "--root", str(tmp_path)]
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        lines = [(await asyncio.wait_for(process.stdout.readline(), 30)).decode() for _ in range(2)]
        assert lines[0].split() == ["zhibei/Own/own.gguf", str(len(BYTES)), sha256(BYTES)]
        async with http.get(f"{lines[1].split()[-1]}/zhibei/Own/resolve/main/own.gguf", headers={"Range": "bytes=1-4"}) as answer:
            assert answer.status == 206 and await answer.read() == BYTES[1:5]
    finally:
        process.terminate()
        await process.communicate()
