"""What can be wrong with a hub: a table of named faults, each a change to an answer or to a listing. Sends nothing.

    hub.strike("cut_50")                                      as the table has it
    hub.strike("server_error_500", first=2, times=3, paths="*.gguf")

A fault strikes the answers of its kinds whose file or path matches ``paths``, from the ``first`` such on, ``times`` times.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from urllib.parse import urlencode

from hubs.answers import Answer, Delivery, Listed, Question, Site, ranged, refused_range
from hubs.content import Blob

NUM_HOPS = 11
HUGE_BYTES = 64 << 20
SURPLUS_BYTES = 32 << 20
DEPTH = 100_000
FILE = frozenset({"file"})
JSON = frozenset({"info", "listing", "search", "manifest", "token"})
LISTINGS = frozenset({"info", "listing", "manifest"})
ANY = frozenset({"file", "redirect", "error"}) | JSON
WITH_NAMES = frozenset({"huggingface", "modelscope"})
EVERY_HUB = WITH_NAMES | {"ollama"}

ChangeAnswer = Callable[[Question, Answer, Site], "Answer | None"]
ChangeListing = Callable[[tuple[Listed, ...]], tuple[Listed, ...]]


@dataclass(frozen=True)
class Fault:
    """``change`` gives the answer to send instead, None where it has nothing to change; ``change_listing`` what is told of files.

    ``hubs``: the protocols in which it can be seen.
    """

    name: str
    kinds: frozenset[str]
    change: ChangeAnswer | None = None
    change_listing: ChangeListing | None = None
    first: int = 1
    times: int | None = None
    paths: str = "*"
    hubs: frozenset[str] = EVERY_HUB
    is_connect: bool = False


@dataclass
class Strike:
    """A fault in place, and how often it has struck so far."""

    fault: Fault
    num_matched: int = 0
    num_struck: int = 0

    def matches(self, path: str) -> bool:
        return fnmatchcase(path, self.fault.paths)

    def is_due(self) -> bool:
        """Counts one more that could be struck; whether this one is."""
        self.num_matched += 1
        last = None if self.fault.times is None else self.fault.first + self.fault.times - 1
        is_due = self.num_matched >= self.fault.first and (last is None or self.num_matched <= last)
        self.num_struck += is_due
        return is_due


# --- the connection and the body ---


def _at(answer: Answer, share: float) -> int | None:
    """Where in the body a position of the file lies, None where it is not sent."""
    position = int(answer.blob.size * share)
    end = answer.blob.size if answer.end is None else answer.end
    return position - answer.first if answer.first <= position < end else None


def _sent(**delivery: object) -> ChangeAnswer:
    def change(question: Question, answer: Answer, site: Site) -> Answer | None:
        return replace(answer, delivery=replace(answer.delivery, **delivery))  # type: ignore[arg-type]

    return change


def _cut(share: float) -> ChangeAnswer:
    def change(question: Question, answer: Answer, site: Site) -> Answer | None:
        place = _at(answer, share)
        return None if not place else replace(answer, delivery=Delivery(cut_after=place))

    return change


def _stall_in_body(question: Question, answer: Answer, site: Site) -> Answer | None:
    place = _at(answer, 0.5)
    return None if not place else replace(answer, delivery=Delivery(stall_after=place))


def _flip(question: Question, answer: Answer, site: Site) -> Answer | None:
    """One byte in the middle of the file is another; the headers stay."""
    if _at(answer, 0.5) is None:
        return None
    return replace(answer, blob=_flipped(answer.blob))


def _flipped(blob: Blob) -> Blob:
    content = bytearray(blob.read())
    content[len(content) // 2] ^= 0xFF
    return Blob(bytes(content))


def _lengthened(num_bytes: int) -> ChangeAnswer:
    """The Content-Length is off by so many bytes."""

    def change(question: Question, answer: Answer, site: Site) -> Answer | None:
        announced = answer.num_bytes + num_bytes
        return replace(answer, delivery=Delivery(announced=announced)) if announced > 0 else None

    return change


def _oversized(question: Question, answer: Answer, site: Site) -> Answer | None:
    """No length is told, and after the file much more comes."""
    headers = {name: value for name, value in answer.headers.items() if name != "Content-Range"}
    whole = replace(answer, status=200, headers=headers, first=0, end=None)
    return replace(whole, delivery=Delivery(announced=-1, surplus=SURPLUS_BYTES))


# --- ranges and versions ---


def _wrong_start(question: Question, answer: Answer, site: Site) -> Answer | None:
    """Another range of the same length, and the header admits it."""
    if answer.status != 206 or answer.end is None:
        return None
    shift = 7 if answer.end + 7 <= answer.blob.size else -min(7, answer.first)
    return _moved(answer, answer.first + shift, answer.end + shift) if shift else None


def _wrong_length(question: Question, answer: Answer, site: Site) -> Answer | None:
    """Half of the range that was asked for."""
    if answer.status != 206 or answer.end is None or answer.num_bytes < 2:
        return None
    return _moved(answer, answer.first, answer.first + answer.num_bytes // 2)


def _moved(answer: Answer, first: int, end: int) -> Answer:
    told = answer.with_headers({"Content-Range": f"bytes {first}-{end - 1}/{answer.blob.size}"})
    return replace(told, first=first, end=end)


def _whole(question: Question, answer: Answer, site: Site) -> Answer | None:
    if answer.status != 206:
        return None
    return ranged(question, replace(answer, honours_ranges=False))


def _refuse_range(question: Question, answer: Answer, site: Site) -> Answer | None:
    return refused_range(answer) if answer.status == 206 else None


def _other_etag(question: Question, answer: Answer, site: Site) -> Answer | None:
    return ranged(question, replace(answer, etag='"another-version"'))


def _tagged(etag: str) -> ChangeAnswer:
    return lambda question, answer, site: ranged(question, replace(answer, etag=etag))


def _other_content(question: Question, answer: Answer, site: Site) -> Answer | None:
    """The file is another one of the same size, and honestly so."""
    blob = _flipped(answer.blob)
    return ranged(question, replace(answer, blob=blob, etag=f'"{blob.sha256}"'))


# --- elsewhere, and other answers altogether ---


def _towards(make: Callable[[Question, Site], str]) -> ChangeAnswer:
    def change(question: Question, answer: Answer, site: Site) -> Answer | None:
        if question.origin != "hub":
            return None
        return replace(_instead(302, b"", {"Location": make(question, site)}), kind="redirect", file=answer.file)

    return change


def _hop(question: Question, answer: Answer, site: Site) -> Answer | None:
    """Round and round before the file comes."""
    hop = int(question.query.get("hop", "0"))
    if hop >= NUM_HOPS:
        return None
    query = urlencode({**question.query, "hop": hop + 1})
    return replace(
        _instead(302, b"", {"Location": f"{question.target.partition('?')[0]}?{query}"}), kind="redirect", file=answer.file
    )


def _instead(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer("error", status, {"Content-Type": "text/plain", **(headers or {})}, Blob(body))


def _status(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> ChangeAnswer:
    return lambda question, answer, site: replace(_instead(status, body, headers), file=answer.file)


def _gated(question: Question, answer: Answer, site: Site) -> Answer | None:
    text = b'{"error": "Access to this model is restricted."}'
    headers = {"Content-Type": "application/json", "X-Error-Code": "GatedRepo", "X-Error-Message": "restricted"}
    return replace(_instead(403, text, headers), file=answer.file)


def _zip(question: Question, answer: Answer, site: Site) -> Answer | None:
    body = Blob(gzip.compress(answer.blob.read(answer.first, answer.end), mtime=0))
    return replace(answer.with_headers({"Content-Encoding": "gzip"}), blob=body, first=0, end=None)


def _captive(question: Question, answer: Answer, site: Site) -> Answer | None:
    page = b"<!DOCTYPE html><html><body><form action='/login'>Welcome to the hotel's network</form></body></html>"
    return replace(_instead(200, page, {"Content-Type": "text/html; charset=utf-8"}), file=answer.file)


# --- JSON and what it lists ---


def _huge(question: Question, answer: Answer, site: Site) -> Answer | None:
    return replace(answer, blob=Blob(b'{"padding": "' + b"x" * HUGE_BYTES + b'"}'))


def _deep(question: Question, answer: Answer, site: Site) -> Answer | None:
    return replace(answer, blob=Blob(b"[" * DEPTH + b"]" * DEPTH))


def _truncated(question: Question, answer: Answer, site: Site) -> Answer | None:
    """Its first half, told as the whole."""
    text = answer.blob.read()
    return replace(answer, blob=Blob(text[: len(text) // 2]))


def _mistyped(question: Question, answer: Answer, site: Site) -> Answer | None:
    """Every text a number, every number a text, every list an object, all the way down."""
    return replace(answer, blob=Blob(json.dumps(_turned(json.loads(answer.blob.read()))).encode()))


def _turned(value: object) -> object:
    if isinstance(value, dict):
        return {key: _turned(inner) if isinstance(inner, dict) else _wrong(inner) for key, inner in value.items()}
    return _wrong(value)


def _wrong(value: object) -> object:
    if isinstance(value, list):
        return {str(index): _turned(inner) for index, inner in enumerate(value)}
    return 17 if isinstance(value, str) else ["?"]


def _renamed(make: Callable[[str], str]) -> ChangeListing:
    """Every file of weights under another name."""

    def change(files: tuple[Listed, ...]) -> tuple[Listed, ...]:
        return tuple(replace(file, path=make(file.path)) if file.path.endswith(".gguf") else file for file in files)

    return change


def _twins(files: tuple[Listed, ...]) -> tuple[Listed, ...]:
    """Every file of weights a second time, its name differing in case alone."""
    return (*files, *(replace(file, path=file.path.swapcase()) for file in files if file.path.endswith(".gguf")))


def _told(**changes: Callable[[Listed], object]) -> ChangeListing:
    """Something else is told of every large file."""

    def change(files: tuple[Listed, ...]) -> tuple[Listed, ...]:
        return tuple(
            replace(file, **{name: make(file) for name, make in changes.items()}) if file.is_large else file  # type: ignore[arg-type]
            for file in files
        )

    return change


_RETRY = {"Retry-After": "1"}
_ALL = (
    Fault("reset_on_connect", frozenset(), is_connect=True, times=1),
    Fault("reset_after_request", ANY, _sent(is_reset=True), times=1),
    Fault("cut_10", FILE, _cut(0.10), times=1),
    Fault("cut_50", FILE, _cut(0.50), times=1),
    Fault("cut_99", FILE, _cut(0.99), times=1),
    Fault("flipped_byte_once", FILE, _flip, times=1),
    Fault("flipped_byte", FILE, _flip),
    Fault("stall_before_headers", ANY, _sent(stall_after=-1)),
    Fault("stall_in_body", FILE, _stall_in_body),
    Fault("trickle", FILE, _sent(piece_bytes=1024, pause_s=0.005)),
    Fault("wrong_range_start", FILE, _wrong_start),
    Fault("wrong_range_length", FILE, _wrong_length),
    Fault("whole_instead_of_range", FILE, _whole),
    Fault("range_refused_416", FILE, _refuse_range),
    Fault("changed_etag", FILE, _other_etag, first=2),
    Fault("changed_content", FILE, _other_content, first=2),
    Fault("odd_etag", FILE, _tagged('"../../etc/passwd"')),
    Fault("huge_etag", FILE, _tagged('"' + "x" * 10_240 + '"')),
    Fault("oversized_body", FILE, _oversized),
    Fault("content_length_too_long", FILE, _lengthened(100)),
    Fault("content_length_too_short", FILE, _lengthened(-100)),
    Fault("gzip_encoding", FILE, _zip),
    Fault("redirect_to_private_address", ANY, _towards(lambda question, site: "http://10.11.12.13/secret")),
    Fault("redirect_to_metadata_service", ANY, _towards(lambda question, site: "http://169.254.169.254/latest/meta-data/")),
    Fault("redirect_to_other_port", ANY, _towards(lambda question, site: site.other_url + question.target)),
    Fault("redirect_to_local_file", ANY, _towards(lambda question, site: "file:///etc/passwd")),
    Fault(
        "redirect_with_login", ANY, _towards(lambda question, site: "http://user:password@" + site.url.removeprefix("http://"))
    ),
    Fault("redirect_loop", ANY, _hop),
    Fault("captive_page", ANY, _captive),
    Fault("too_many_requests_429", ANY, _status(429, b"slow down", _RETRY), times=1),
    Fault("server_error_500", ANY, _status(500, b"oops"), times=2),
    Fault("unavailable_503", ANY, _status(503, b"later", _RETRY), times=2),
    Fault("unauthorized_401", ANY, _status(401, b'{"error": "Invalid username or password."}')),
    Fault("gated_403", ANY, _gated),
    Fault("missing_404", FILE | {"redirect"}, _status(404, b"Entry not found", {"X-Error-Code": "EntryNotFound"})),
    Fault("huge_json", JSON, _huge),
    Fault("deep_json", JSON, _deep),
    Fault("truncated_json", JSON, _truncated),
    Fault("mistyped_json", JSON, _mistyped),
    Fault("name_climbs", LISTINGS, change_listing=_renamed(lambda path: f"../{path}"), hubs=WITH_NAMES),
    Fault("name_absolute", LISTINGS, change_listing=_renamed(lambda path: f"/tmp/{path}"), hubs=WITH_NAMES),
    Fault("name_with_drive", LISTINGS, change_listing=_renamed(lambda path: f"C:\\{path}"), hubs=WITH_NAMES),
    Fault("name_of_device", LISTINGS, change_listing=_renamed(lambda path: f"con.{path}"), hubs=WITH_NAMES),
    Fault("name_with_control", LISTINGS, change_listing=_renamed(lambda path: f"\x1b[2J{path}"), hubs=WITH_NAMES),
    Fault("name_twins", LISTINGS, change_listing=_twins, hubs=WITH_NAMES),
    Fault("digest_short", LISTINGS, change_listing=_told(sha256=lambda file: file.sha256[:63])),
    Fault("digest_uppercase", LISTINGS, change_listing=_told(sha256=lambda file: file.sha256.upper())),
    Fault("digest_empty", LISTINGS, change_listing=_told(sha256=lambda file: "")),
    Fault("digest_of_other_file", LISTINGS, change_listing=_told(sha256=lambda file: file.sha256[::-1])),
    Fault("size_too_large", LISTINGS, change_listing=_told(size=lambda file: file.size + 1000)),
    Fault("size_too_small", LISTINGS, change_listing=_told(size=lambda file: file.size // 2)),
    Fault("size_negative", LISTINGS, change_listing=_told(size=lambda file: -1)),
)
FAULTS: dict[str, Fault] = {fault.name: fault for fault in _ALL}


@dataclass
class Strikes:
    """The faults in place at a hub."""

    placed: list[Strike] = field(default_factory=list)

    def listed(self, path: str, files: tuple[Listed, ...]) -> tuple[Listed, ...]:
        for strike in self.placed:
            if strike.fault.change_listing is not None and strike.matches(path) and strike.is_due():
                files = strike.fault.change_listing(files)
        return files

    def answered(self, question: Question, answer: Answer, site: Site) -> tuple[Answer, str | None]:
        """The answer as it is to be sent, and the name of the last fault that changed it. A look (HEAD) at a file is let pass."""
        struck = None
        is_look = question.method == "HEAD"
        for strike in self.placed:
            fault = strike.fault
            if fault.change is None or answer.kind not in fault.kinds or (is_look and fault.kinds == FILE):
                continue
            if not (strike.matches(answer.file or question.path) or strike.matches(question.path)):
                continue
            changed = fault.change(question, answer, site)
            if changed is not None and strike.is_due():
                answer, struck = changed, fault.name
        return answer, struck

    def refuses_connection(self) -> bool:
        return any(strike.is_due() for strike in self.placed if strike.fault.is_connect)
