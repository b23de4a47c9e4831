"""Everything that can be wrong with a hub, against whole pulls from each kind: what the person sees, and what stays on the disk.

The table below says of every fault what comes of it: the model, or an error with a name. Whichever it is, no wrong byte
becomes visible, no token goes astray, nothing lands outside the store, and once the fault is gone the next pull fetches what
is missing and no more.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import pytest

from hubs.answers import Listed
from hubs.content import Content, Image, Layer, Repository
from hubs.faults import FAULTS, FILE, LISTINGS, SURPLUS_BYTES, Fault
from hubs.server import TOKEN
from hubs.server import Hub as LocalHub
from support.models import model_bytes, sha256
from support.pulling import blobs, parts, pull
from zhibei.errors import DigestMismatch, ModelNotFound, SourceError, ZhibeiError
from zhibei.store import download
from zhibei.store.catalog import Catalog
from zhibei.store.fetch import FetchOptions, Retries, Timers
from zhibei.store.journal import read_journal
from zhibei.store.library import Library
from zhibei.store.options import PullOptions
from zhibei.store.sources.base import Hub

MODEL = model_bytes(400, seed=5)
SMALL = model_bytes(24, seed=6)
FILE_NAME = "Faulty-Q4_0.gguf"
PATIENT = FetchOptions(retries=Retries(attempts=3, connect_attempts=2, first_s=0.001, longest_s=0.002), connections=1)
IMPATIENT = replace(PATIENT, timers=Timers(header_s=0.2, stall_s=0.2), retries=replace(PATIENT.retries, attempts=2))
CATALOG = Catalog()  # read once for all
HEAD_SHARE = 0.2
"""Of the model's bytes: what is read of it before a pull begins, to see what it is."""
POSITIONED = ("cut_10", "cut_50", "cut_99", "flipped_byte", "flipped_byte_once", "stall_in_body", "trickle")
"""Faults that strike where a place in the file is sent, which is not always the last part."""


@dataclass(frozen=True)
class Kind:
    """A hub as a pull sees it. ``protocol`` is what the table of faults calls it."""

    protocol: str
    ref: str

    def file(self, content: bytes) -> str:
        """What the hub's log calls the model's file."""
        return FILE_NAME if self.protocol != "ollama" else f"sha256:{sha256(content)}"


KINDS = {
    "hf": Kind("huggingface", "hf:zhibei/Faulty"),
    "ms": Kind("modelscope", "ms:zhibei/Faulty"),
    "ollama": Kind("ollama", "ollama:zhibei/faulty"),
}


@dataclass(frozen=True)
class Outcome:
    """What comes of a fault. ``says`` None: the model. ``most``: how often the file's bytes are sent at most until then.

    ``keeps``: what came before stays for the next pull, where the fault strikes in the middle. ``has_hint``: it is told what
    to do, which is more than what is wrong. ``may_arrive``: whether the model comes all the same depends on how much of it
    one read brings.
    """

    says: str | None = None
    error: type[ZhibeiError] = SourceError
    most: float = 1.0 + HEAD_SHARE
    keeps: bool = True
    has_hint: bool = False
    may_arrive: bool = False


def fails(
    says: str, error: type[ZhibeiError] = SourceError, *, most: float = 1.5, keeps: bool = True, hint: bool = False
) -> Outcome:
    return Outcome(says, error, most, keeps, hint)


ARRIVES = Outcome()
MENDED = Outcome(most=2.0 + HEAD_SHARE)
ALTERED = fails("not what was promised|not the file that the registry announced", DigestMismatch, most=2.3, hint=True)
STOPPED = fails("stopped answering", hint=True)
CUT = fails("was cut", hint=True)
OTHER_PART = fails("another part of the file|was cut", hint=True)
NO_RANGES = fails("cannot be continued", most=4.0, keeps=False, hint=True)
PRIVATE = fails("not a public address", hint=True)
NO_HUB = fails("not answer like a model hub", hint=True)
SENSELESS = fails("makes no sense", hint=True)
REFUSED_NAME = fails("not allowed here", hint=True)
OTHER_SIZE = fails("changes while it is being read|another size than it announced", hint=True)
TOO_MUCH = fails(
    "more bytes than it announced|larger answer than is allowed|cannot be continued",
    most=3 * SURPLUS_BYTES,
    keeps=False,
    hint=True,
)

# By fault; then, where it matters, by where it strikes ("first", "file", "midway"), by the hub, or by both ("first hf").
OUTCOMES: dict[str, dict[str, Outcome]] = {
    "reset_on_connect": {"": ARRIVES},
    "reset_after_request": {"": ARRIVES},
    "cut_10": {"": Outcome(most=1.6)},
    "cut_50": {"": Outcome(most=1.6)},
    "cut_99": {"": Outcome(most=1.6)},
    "flipped_byte_once": {"": MENDED, "first ollama": ALTERED},
    "flipped_byte": {"": ALTERED},
    "stall_before_headers": {"": STOPPED},
    "stall_in_body": {"": Outcome(most=1.6), "first ollama": STOPPED},
    "trickle": {"": Outcome(most=2.6)},
    "wrong_range_start": {"": OTHER_PART},
    "wrong_range_length": {"": OTHER_PART},
    "whole_instead_of_range": {"": Outcome(most=4.0), "midway": NO_RANGES},
    "range_refused_416": {"": fails("empty file"), "midway": NO_RANGES},
    "changed_etag": {"": ARRIVES},
    "changed_content": {"": ALTERED, "midway": ARRIVES},
    "odd_etag": {"": ARRIVES},
    "huge_etag": {"": fails("makes no sense")},
    "oversized_body": {"": TOO_MUCH},
    "content_length_too_long": {"": CUT, "midway": replace(CUT, may_arrive=True)},
    "content_length_too_short": {"": fails("makes no sense")},
    "gzip_encoding": {"": fails("compressed")},
    "redirect_to_private_address": {"": PRIVATE},
    "redirect_to_metadata_service": {"": PRIVATE},
    "redirect_to_other_port": {"": PRIVATE},
    "redirect_to_local_file": {"": fails("Only http and https")},
    "redirect_with_login": {"": fails("with a login in it")},
    "redirect_loop": {"": fails("redirects more than 10 times")},
    "captive_page": {
        "": NO_HUB,
        "first ollama": fails("not JSON", hint=True),
        "file": fails("web page|cannot be continued|another size"),
        "midway": fails("web page|cannot be continued", keeps=False),
    },
    "too_many_requests_429": {"": ARRIVES},
    "server_error_500": {"": ARRIVES},
    "unavailable_503": {"": ARRIVES},
    "unauthorized_401": {
        "": fails("does not let|does not give", hint=True),
        "hf": fails("or it is private", ModelNotFound, hint=True),
    },
    "gated_403": {"": fails("accept its terms|does not let", hint=True)},
    "missing_404": {"": fails("has no (such )?file", ModelNotFound)},
    "huge_json": {"": fails("larger answer than", hint=True), "first ollama": fails("larger answer than|too large", hint=True)},
    "deep_json": {"": NO_HUB, "ollama": fails("not JSON", hint=True)},
    "truncated_json": {"": NO_HUB, "ollama": fails("not JSON", hint=True)},
    "mistyped_json": {"": NO_HUB, "ollama": SENSELESS},
    "name_climbs": {"": REFUSED_NAME},
    "name_absolute": {"": REFUSED_NAME},
    "name_with_drive": {"": REFUSED_NAME},
    "name_of_device": {"": REFUSED_NAME},
    "name_with_control": {"": REFUSED_NAME},
    "name_twins": {"": fails("names .* twice")},
    "digest_short": {"": NO_HUB, "ollama": SENSELESS},
    "digest_uppercase": {"": ARRIVES, "ollama": SENSELESS},
    "digest_empty": {"": NO_HUB, "ollama": SENSELESS},
    "digest_of_other_file": {"": ALTERED, "ollama": fails("no such file", ModelNotFound)},
    "size_too_large": {"": OTHER_SIZE},
    "size_too_small": {"": OTHER_SIZE},
    "size_negative": {"": NO_HUB, "ollama": SENSELESS},
}


def outcome_of(fault: Fault, place: str, kind: str) -> Outcome:
    known = OUTCOMES[fault.name]
    return next(known[key] for key in (f"{place} {kind}", place, kind, "") if key in known)


def cases() -> Iterator[tuple[str, str, str]]:
    """Every fault at every hub where it can be seen: at the first answer that it fits, at the file, and midway through it."""
    for fault in FAULTS.values():
        for kind, hub in KINDS.items():
            if hub.protocol not in fault.hubs:
                continue
            yield fault.name, "first", kind
            if fault.change is not None and "file" in fault.kinds:
                if fault.kinds != FILE or kind == "ollama":
                    yield fault.name, "file", kind
                if fault.name not in POSITIONED:
                    yield fault.name, "midway", kind


def content(model: bytes) -> Content:
    repository = Repository("zhibei/Faulty", {"main": {FILE_NAME: model, "README.md": b"# Faulty"}})
    layers = (Layer("model", model), Layer("system", b"Be terse."), Layer("params", b'{"temperature": 0.5}'))
    return Content((repository,), (Image("zhibei/faulty", "latest", layers),))


def library(home: Path, hub: LocalHub, kind: str, options: FetchOptions = PATIENT) -> Library:
    hubs = {kind: Hub(hub.url, token=TOKEN)}
    return Library(home, catalog=CATALOG, options=PullOptions(fetch=options, poll_s=0.01, hubs=hubs))


@pytest.fixture(autouse=True)
def _several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file is fetched in several requests too."""
    monkeypatch.setattr(download, "SPAN_BYTES", 128 * 1024)


_NUM_REQUESTS: dict[str, int] = {}


async def num_requests(tmp_path: Path, kind: str) -> int:
    """For how many requests the model's bytes are sent when nothing is wrong."""
    if kind not in _NUM_REQUESTS:
        async with LocalHub(content(MODEL)) as hub:
            await pull(library(tmp_path / "honest", hub, kind), KINDS[kind].ref)
            _NUM_REQUESTS[kind] = len(hub.files(KINDS[kind].file(MODEL)))
    return _NUM_REQUESTS[kind]


def kept_bytes(home: Path) -> int:
    """What a later pull need not fetch again."""
    return sum(chunk.num_bytes for part in parts(home) for chunk in read_journal(part / "journal")[1])


def check_disk(tmp_path: Path, home: Path, model: bytes) -> None:
    """Whatever happened: blobs are what their names say, and nothing lies anywhere else."""
    assert {path.name for path in tmp_path.iterdir()} <= {"home"} if tmp_path.exists() else True
    if not home.exists():
        return
    for path in blobs(home):
        assert sha256(path.read_bytes()) == path.name
    assert {path.name for path in home.iterdir()} <= {"blobs", "locks", "manifests", "state", "tmp"}
    assert not [path for path in tmp_path.rglob("*") if FILE_NAME.lower() in path.name.lower()]
    assert not Path("/tmp", FILE_NAME).exists()
    assert not (home / "tmp").exists() or list((home / "tmp").iterdir()) == []
    for stored in Library(home).list():
        assert stored.problem is None and stored.model_path.read_bytes() == model


def check_tokens(hub: LocalHub) -> None:
    assert not [entry for entry in hub.log if entry.origin == "other" and entry.has_credentials]
    assert not [entry for entry in hub.log if TOKEN in entry.path or TOKEN in str(entry.query)]


@pytest.mark.parametrize(("name", "place", "kind"), list(cases()))
async def test_a_fault(name: str, place: str, kind: str, tmp_path: Path) -> None:
    fault, hub_kind, outcome = FAULTS[name], KINDS[kind], outcome_of(FAULTS[name], place, kind)
    model = SMALL if name == "trickle" else MODEL
    file, home = hub_kind.file(model), tmp_path / "store" / "home"
    num_honest = await num_requests(tmp_path / "count", kind) if place == "midway" else 0
    async with LocalHub(content(model)) as hub:
        store = library(home, hub, kind, IMPATIENT if name.startswith("stall") else PATIENT)
        first = num_honest - 1 if place == "midway" else fault.first
        placed = hub.strike(fault) if place == "first" else hub.strike(fault, kinds=FILE, paths=file, first=first)
        has_arrived = await check_pulled(store, hub_kind.ref, model, outcome)
        assert placed.num_struck, "it never struck"
        assert hub.num_bytes_sent(file) <= outcome.most * len(model)
        check_tokens(hub)
        check_disk(tmp_path / "store", home, model)
        kept = len(model) if has_arrived else kept_bytes(home)
        if place == "midway" and outcome.keeps:
            assert kept > len(model) / 2, "what came before the fault is worth keeping"
        await check_healed(hub, store, hub_kind.ref, file, model, len(model) - kept)
        check_disk(tmp_path / "store", home, model)
        assert parts(home) == []


async def check_pulled(store: Library, ref: str, model: bytes, outcome: Outcome) -> bool:
    """A pull ends as it should, and in time; whether with the model."""
    try:
        arrived = await asyncio.wait_for(pull(store, ref), 30)
    except ZhibeiError as error:
        assert isinstance(error, outcome.error) and outcome.says is not None, repr(error)
        check_told(error, outcome)
        return False
    assert outcome.says is None or outcome.may_arrive
    assert arrived.model_path.read_bytes() == model
    return True


def check_told(error: ZhibeiError, outcome: Outcome) -> None:
    """The error names what is wrong, in one printable line, without secrets."""
    told = f"{error} {error.hint_text or ''}"
    assert re.search(outcome.says or "", str(error)), told
    assert error.hint_text or not outcome.has_hint, told
    assert TOKEN not in told and "password" not in told
    assert told.isprintable()


async def check_healed(hub: LocalHub, store: Library, ref: str, file: str, model: bytes, missing_bytes: int) -> None:
    """With the fault gone, the next pull brings the model, for the bytes that were missing and a look at its head."""
    hub.heal()
    before = hub.num_bytes_sent(file)
    assert (await asyncio.wait_for(pull(store, ref), 30)).model_path.read_bytes() == model
    head = max(HEAD_SHARE * len(model), 70_000)
    assert hub.num_bytes_sent(file) - before <= missing_bytes + head


def test_every_fault_has_an_outcome() -> None:
    assert set(OUTCOMES) == set(FAULTS)
    assert all("" in known for known in OUTCOMES.values())
    words = {"first", "file", "midway", *KINDS}
    assert set(chain(*(key.split() for known in OUTCOMES.values() for key in known))) <= words


LONG = "x" * 300 + ".gguf"
HOSTILE_NAMES = (
    "a/../../x.gguf", "..", "D:x.gguf", "\\\\host\\share\\x.gguf", "a\\..\\..\\x.gguf", "con.gguf", "x.gguf.", "x\0.gguf", LONG,
    ".git/x.gguf", "\uff0e\uff0e/x.gguf", "\u2024\u2024/x.gguf", "x\u202egguf.exe.gguf", "a//x.gguf", "./x.gguf", "x.gguf/", "",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: ascii(name)[:30])
@pytest.mark.parametrize("kind", ["hf", "ms"])
async def test_a_hostile_file_name(kind: str, name: str, tmp_path: Path) -> None:
    """D-08: refused before anything is fetched or written."""

    def renamed(files: tuple[Listed, ...]) -> tuple[Listed, ...]:
        return tuple(replace(file, path=name) if file.path == FILE_NAME else file for file in files)

    home = tmp_path / "store" / "home"
    async with LocalHub(content(MODEL)) as hub:
        hub.strike(Fault("renamed", LISTINGS, change_listing=renamed))
        with pytest.raises((SourceError, ModelNotFound)) as caught:
            await pull(library(home, hub, kind), KINDS[kind].ref)
        assert f"{caught.value} {caught.value.hint_text or ''}".isprintable()
        assert hub.files() == []
    assert Library(home).list() == [] and not (home / "blobs").exists()
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == set()


@pytest.mark.parametrize("names", [("é.gguf", "e\u0301.gguf"), ("x.gguf", "X.GGUF"), ("ß.gguf", "SS.gguf")])
@pytest.mark.parametrize("kind", ["hf", "ms"])
async def test_names_that_a_file_system_takes_for_one(kind: str, names: tuple[str, str], tmp_path: Path) -> None:
    def doubled(files: tuple[Listed, ...]) -> tuple[Listed, ...]:
        return tuple(replace(file, path=name) for file in files if file.path == FILE_NAME for name in names)

    async with LocalHub(content(MODEL)) as hub:
        hub.strike(Fault("doubled", LISTINGS, change_listing=doubled))
        with pytest.raises(SourceError, match="twice"):
            await pull(library(tmp_path / "home", hub, kind), KINDS[kind].ref)
        assert hub.files() == []


@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_tokens_stay_where_they_belong(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D-07: a file that lies at another host is fetched there, and whoever is there learns nothing."""
    monkeypatch.setattr("zhibei.store.addresses.is_public", lambda address: True)
    async with LocalHub(content(MODEL), cdn_elsewhere=True, needs_token=kind == "ollama") as hub:
        model = await pull(library(tmp_path / "home", hub, kind), KINDS[kind].ref)
        assert model.model_path.read_bytes() == MODEL
        elsewhere = [entry for entry in hub.log if entry.origin == "other"]
        assert elsewhere and all(entry.file for entry in elsewhere)
        assert any(entry.has_credentials for entry in hub.log if entry.origin == "hub")
        for entry in elsewhere:
            assert set(entry.headers) <= {"host", "user-agent", "accept", "accept-encoding", "range", "if-range"}
        check_tokens(hub)


@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_a_hub_that_sends_its_questions_to_another_host_gets_no_token_there(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zhibei.store.addresses.is_public", lambda address: True)
    async with LocalHub(content(MODEL)) as hub:
        hub.strike("redirect_to_other_port")
        assert (await pull(library(tmp_path / "home", hub, kind), KINDS[kind].ref)).model_path.read_bytes() == MODEL
        assert [entry for entry in hub.log if entry.origin == "other"]
        check_tokens(hub)


async def test_a_realm_at_another_host_is_refused_and_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D-11."""
    monkeypatch.setattr("zhibei.store.addresses.is_public", lambda address: True)
    async with LocalHub(content(MODEL), needs_token=True, realm_elsewhere=True) as hub:
        with pytest.raises(SourceError, match="another server") as caught:
            await pull(library(tmp_path / "home", hub, "ollama"), "ollama:zhibei/faulty")
        assert caught.value.hint_text
        assert {entry.origin for entry in hub.log} == {"hub"}


@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_who_is_offline_asks_nobody_and_keeps_what_there_is(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D-15: a model that is here is used without a request, without a connection and without asking for a name."""
    async with LocalHub(content(MODEL)) as hub:
        model = await pull(library(tmp_path / "home", hub, kind), KINDS[kind].ref)
        hub.log.clear()
        offline = library(tmp_path / "home", hub, kind, replace(PATIENT, is_offline=True, lookup=no_name_service))
        assert offline.list() == [model] and offline.resolve(model.name) == model
        assert await pull(offline, model.name) == model
        with pytest.raises(SourceError) as caught:
            await pull(offline, KINDS[kind].ref)
        assert caught.value.hint_text
        assert hub.log == []
        assert offline.list() == [model]


async def no_name_service(host: str, port: int) -> tuple[str, ...]:
    raise AssertionError("a name was asked for")
