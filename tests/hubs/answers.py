"""Questions and answers of a hub, as values, and HTTP's rules for ranges. Knows no protocol of a hub and sends nothing."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, urlencode

from hubs.content import Blob, Content, is_large

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_SECRET = b"a hub's own"


@dataclass(frozen=True)
class Question:
    """A request. ``origin`` says which of the hub's two servers got it: "hub" or "other"; header names are in small letters."""

    method: str
    segments: tuple[str, ...]
    target: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    origin: str = "hub"

    @property
    def path(self) -> str:
        return "/" + "/".join(self.segments)

    @property
    def token(self) -> str | None:
        """The bearer token, or ModelScope's session cookie."""
        kind, _, token = self.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and token:
            return token
        match = re.search(r"(?:^|;\s*)m_session_id=([^;]+)", self.headers.get("cookie", ""))
        return match[1] if match else None


@dataclass(frozen=True)
class Delivery:
    """How an answer is sent. Counts are bytes of the body; ``stall_after`` -1 is before the headers.

    ``announced``: the Content-Length to send instead of the true one, -1 for none. ``surplus``: bytes after the body's end.
    """

    cut_after: int | None = None
    stall_after: int | None = None
    piece_bytes: int = 1 << 16
    pause_s: float = 0
    announced: int | None = None
    surplus: int = 0
    is_reset: bool = False


@dataclass(frozen=True)
class Answer:
    """``kind`` says what it is: info, listing, search, manifest, token, file, redirect or error. ``file``: whose bytes.

    The body is ``blob[first:end]``.
    """

    kind: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    blob: Blob = field(default_factory=lambda: Blob(b""), repr=False)
    first: int = 0
    end: int | None = None
    file: str | None = None
    etag: str | None = None
    honours_ranges: bool = True
    delivery: Delivery = field(default_factory=Delivery)

    @property
    def num_bytes(self) -> int:
        return (self.blob.size if self.end is None else self.end) - self.first

    def with_headers(self, headers: Mapping[str, str]) -> Answer:
        return replace(self, headers={**self.headers, **headers})


@dataclass(frozen=True)
class Listed:
    """A file as a listing tells it; a fault may tell it otherwise."""

    path: str
    size: int
    sha256: str
    git_id: str
    is_large: bool


@dataclass(frozen=True)
class Site:
    """What the protocols answer from. ``access``: which repositories each token opens ("*": all).

    ``cdn_url``, ``realm_url``: where large files and Ollama's tokens are had. ``listed`` lets faults change a listing.
    """

    content: Content
    url: str
    other_url: str
    cdn_url: str
    realm_url: str
    access: Mapping[str, frozenset[str]]
    page_size: int
    needs_token: bool
    listed: Callable[[str, tuple[Listed, ...]], tuple[Listed, ...]]

    def opens(self, token: str | None, repository_id: str) -> bool:
        return bool({"*", repository_id} & self.access.get(token or "", frozenset()))

    def is_known(self, token: str | None) -> bool:
        return token in self.access

    def signed_url(self, file: str, blob: Blob, commit: str | None = None) -> str:
        """Where a file's bytes are, for whoever has this URL."""
        about = {"commit": commit} if commit else {}
        query = urlencode({"file": file, "Expires": "4102444800", "Signature": sign(blob.sha256), **about})
        return f"{self.cdn_url}/cdn/{blob.sha256}?{query}"


def sign(text: str) -> str:
    return hmac.new(_SECRET, text.encode(), hashlib.sha256).hexdigest()


def json_answer(kind: str, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    body = Blob(json.dumps(value, ensure_ascii=False).encode())
    return Answer(kind, status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, body)


def file_answer(file: str, blob: Blob, headers: Mapping[str, str] | None = None, *, honours_ranges: bool = True) -> Answer:
    """The whole file; ``ranged`` then narrows it to what is asked for."""
    kind = "text/plain; charset=utf-8" if file.endswith((".md", ".txt")) else "application/octet-stream"
    headers = {"Content-Type": kind, **(headers or {})}
    return Answer("file", headers=headers, blob=blob, file=file, etag=f'"{blob.sha256}"', honours_ranges=honours_ranges)


def redirect(location: str, status: int = 302, headers: Mapping[str, str] | None = None, file: str | None = None) -> Answer:
    text = Blob(f"Found. Redirecting to {location}".encode())
    return Answer("redirect", status, {"Content-Type": "text/plain", "Location": location, **(headers or {})}, text, file=file)


def ranged(question: Question, answer: Answer) -> Answer:
    """A file's answer with the range that was asked for. May be used again on its own result with another blob or ETag."""
    headers = {name: value for name, value in answer.headers.items() if name != "Content-Range"}
    headers.update({"ETag": answer.etag} if answer.etag else {})
    answer = replace(answer, status=200, headers=headers, first=0, end=None)
    if not answer.honours_ranges:
        return answer
    answer = answer.with_headers({"Accept-Ranges": "bytes"})
    match = _RANGE.fullmatch(question.headers.get("range", ""))
    condition = question.headers.get("if-range")
    if question.method != "GET" or match is None or match.groups() == ("", "") or condition not in (None, answer.etag):
        return answer
    size = answer.blob.size
    if match[1]:
        first, end = int(match[1]), min(int(match[2]) + 1 if match[2] else size, size)
    else:
        first, end = max(size - int(match[2]), 0), size
    if match[2] and match[1] and int(match[2]) < int(match[1]):
        return answer
    if first >= size:
        return refused_range(answer)
    return replace(answer.with_headers({"Content-Range": f"bytes {first}-{end - 1}/{size}"}), status=206, first=first, end=end)


def refused_range(answer: Answer) -> Answer:
    return replace(answer.with_headers({"Content-Range": f"bytes */{answer.blob.size}"}), status=416, first=0, end=0)


def tell(path: str, blob: Blob) -> Listed:
    return Listed(path, blob.size, blob.sha256, blob.git_id, is_large(path, blob))


def answer_cdn(question: Question, site: Site) -> Answer | None:
    """Where the large files are; whoever has a signed URL gets them, and no credentials are wanted.

    Hugging Face's client takes an answer from the hub's own address for the hub's, and wants to see the commit there too.
    """
    if len(question.segments) != 2 or question.segments[0] != "cdn":
        return None
    digest, file = question.segments[1], question.query.get("file", "")
    if not hmac.compare_digest(question.query.get("Signature", ""), sign(digest)):
        return Answer("error", 403, {"Content-Type": "application/xml"}, Blob(b"<Error><Code>AccessDenied</Code></Error>"))
    for blob in _all_blobs(site.content):
        if blob.sha256 == digest:
            commit = question.query.get("commit")
            return file_answer(file, blob, {"X-Linked-ETag": f'"{digest}"', **({"X-Repo-Commit": commit} if commit else {})})
    return Answer("error", 404, {"Content-Type": "application/xml"}, Blob(b"<Error><Code>NoSuchKey</Code></Error>"))


def _all_blobs(content: Content) -> list[Blob]:
    repositories = [blob for one in content.repositories for name in one.revisions for blob in one.files(name).values()]
    return repositories + [blob for image in content.images for blob in (image.config, *(layer.blob for layer in image.layers))]


def quoted(path: str) -> str:
    return quote(path, safe="/")
