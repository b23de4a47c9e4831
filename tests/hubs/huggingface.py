"""Hugging Face's protocol: model info, tree, search and files. Pure: a question and a site to an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlencode

from hubs.answers import Answer, Listed, Question, Site, file_answer, json_answer, quoted, redirect, tell
from hubs.content import Repository, is_large

_POINTER_BYTES = 134


def answer(question: Question, site: Site) -> Answer | None:
    """The answer, or None where the path is not of this protocol."""
    match question.segments:
        case ("api", "models"):
            return _search(question, site)
        case ("api", "models", owner, name):
            return _info(question, site, f"{owner}/{name}", "main")
        case ("api", "models", owner, name, "revision", revision):
            return _info(question, site, f"{owner}/{name}", revision)
        case ("api", "models", owner, name, "tree", revision, *path):
            return _tree(question, site, f"{owner}/{name}", revision, "/".join(path))
        case ("api", "resolve-cache", "models", owner, name, revision, *path):
            return _file(question, site, f"{owner}/{name}", revision, "/".join(path), is_cached=True)
        case (owner, name, "resolve", revision, *path) if owner != "models":
            return _file(question, site, f"{owner}/{name}", revision, "/".join(path), is_cached=False)
    return None


def refusal(status: int, code: str | None, message: str) -> Answer:
    """An error as the hub tells it: in the header and in the body."""
    headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
    return json_answer("error", {"error": message}, status, headers)


def _find(question: Question, site: Site, repository_id: str, revision: str) -> tuple[Repository, str] | Answer:
    """The repository and its revision, if they are there for whoever asks."""
    if question.token is not None and not site.is_known(question.token):
        return refusal(401, None, "Invalid credentials in Authorization header")
    repository = site.content.repository(repository_id)
    if repository is None or (repository.private and not site.opens(question.token, repository_id)):
        if question.token is None:
            return refusal(401, "RepoNotFound", "Invalid username or password.")
        return refusal(404, "RepoNotFound", "Repository not found")
    found = repository.find(revision, "main")
    if found is None:
        return refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return repository, found


def _info(question: Question, site: Site, repository_id: str, revision: str) -> Answer:
    found = _find(question, site, repository_id, revision)
    if isinstance(found, Answer):
        return found
    repository, name = found
    files = site.listed(question.path, tuple(tell(path, blob) for path, blob in repository.files(name).items()))
    has_blobs = question.query.get("blobs", "").lower() in ("true", "1")
    siblings = [{"rfilename": file.path, **(_sibling(file) if has_blobs else {})} for file in files]
    described = {**_summary(repository), "sha": repository.commits[name], "siblings": siblings, "disabled": False}
    if repository.licence is not None:
        described["cardData"] = {"license": repository.licence, "tags": list(repository.tags)}
    if repository.gguf is not None:
        described["gguf"] = dict(repository.gguf)
    return json_answer("info", {**described, "usedStorage": sum(file.size for file in files), "spaces": []})


def _sibling(file: Listed) -> dict[str, object]:
    told: dict[str, object] = {"size": file.size, "blobId": file.git_id}
    if file.is_large:
        told["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": _POINTER_BYTES}
    return told


def _summary(repository: Repository) -> dict[str, object]:
    licence = [f"license:{repository.licence}"] if repository.licence else []
    return {
        "_id": repository.commits[repository.default][:24],
        "id": repository.id,
        "modelId": repository.id,
        "author": repository.owner,
        "private": repository.private,
        "gated": repository.gated,
        "downloads": repository.downloads,
        "likes": repository.likes,
        "tags": [*repository.tags, *licence, "region:us"],
        "createdAt": repository.modified,
        "lastModified": repository.modified,
    }


def _tree(question: Question, site: Site, repository_id: str, revision: str, below: str) -> Answer:
    found = _find(question, site, repository_id, revision)
    if isinstance(found, Answer):
        return found
    repository, name = found
    files = site.listed(question.path, tuple(tell(path, blob) for path, blob in repository.files(name).items()))
    prefix = f"{below}/" if below else ""
    inside = [file for file in files if file.path.startswith(prefix)]
    if below and not inside:
        return refusal(404, "EntryNotFound", f"{below} does not exist on {revision}")
    is_deep = question.query.get("recursive", "").lower() in ("true", "1")
    entries = [_entry(file) for file in inside if is_deep or "/" not in file.path[len(prefix) :]]
    entries = [_folder(path) for path in _folders(inside, prefix, is_deep)] + entries
    return _paged(question, site, "listing", entries)


def _entry(file: Listed) -> dict[str, object]:
    told: dict[str, object] = {"type": "file", "oid": file.git_id, "size": file.size, "path": file.path}
    if file.is_large:
        told["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": _POINTER_BYTES}
    return told


def _folder(path: str) -> dict[str, object]:
    return {"type": "directory", "oid": f"{len(path):040x}", "size": 0, "path": path}


def _folders(files: list[Listed], prefix: str, is_deep: bool) -> list[str]:
    found: set[str] = set()
    for file in files:
        parts = file.path[len(prefix) :].split("/")[:-1]
        found.update(prefix + "/".join(parts[:depth]) for depth in range(1, len(parts) + 1) if is_deep or depth == 1)
    return sorted(found)


def _paged(question: Question, site: Site, kind: str, items: list[dict[str, object]]) -> Answer:
    """One page, and in the Link header where the next one is."""
    start = int(question.query.get("cursor", "0"))
    size = max(1, min(int(question.query.get("limit") or site.page_size), site.page_size))
    headers = {}
    if start + size < len(items):
        query = urlencode({**question.query, "cursor": start + size})
        headers["Link"] = f'<{site.url}{quoted(question.path)}?{query}>; rel="next"'
    return json_answer(kind, items[start : start + size], headers=headers)


def _search(question: Question, site: Site) -> Answer:
    query = question.query
    wanted = query.get("search", "").lower()
    tags = [tag for tag in query.get("filter", "").split(",") if tag]
    found = [
        repository
        for repository in site.content.repositories
        if wanted in repository.id.lower()
        and query.get("author") in (None, repository.owner)
        and set(tags) <= {*repository.tags, f"license:{repository.licence}"}
        and (not repository.private or site.opens(question.token, repository.id))
    ]
    keys = {"likes": "likes", "lastModified": "modified", "createdAt": "modified"}
    found.sort(key=lambda repository: getattr(repository, keys.get(query.get("sort", ""), "downloads")), reverse=True)
    answers = [_summary(repository) for repository in found]
    if query.get("full", "").lower() == "true":
        for repository, told in zip(found, answers, strict=True):
            told["siblings"] = [{"rfilename": path} for path in repository.files(repository.default)]
    return _paged(question, site, "search", answers)


def _file(question: Question, site: Site, repository_id: str, revision: str, path: str, *, is_cached: bool) -> Answer:
    """A small file itself, by way of a path that names its commit; a large one's signed address."""
    found = _find(question, site, repository_id, revision)
    if isinstance(found, Answer):
        return found
    repository, name = found
    if repository.gated and not site.opens(question.token, repository_id):
        hint = "Visit its page to ask for access." if question.token else "Please log in."
        message = f"Access to model {repository_id} is restricted. {hint}"
        return refusal(403 if question.token else 401, "GatedRepo", message)
    blob = repository.files(name).get(path)
    commit = repository.commits[name]
    if blob is None:
        return refusal(404, "EntryNotFound", "Entry not found").with_headers({"X-Repo-Commit": commit})
    headers: Mapping[str, str] = {"X-Repo-Commit": commit}
    if is_large(path, blob):
        linked = {"X-Linked-Size": str(blob.size), "X-Linked-ETag": f'"{blob.sha256}"', "Accept-Ranges": "bytes"}
        return redirect(site.signed_url(path, blob, commit), headers={**headers, **linked}, file=path)
    if not is_cached:
        place = f"/api/resolve-cache/models/{repository_id}/{commit}/{quoted(path)}"
        linked = {"X-Linked-Size": str(blob.size), "X-Linked-ETag": f'"{blob.git_id}"'}
        return redirect(place, 307, {**headers, **linked}, file=path)
    return replace(file_answer(path, blob, headers), etag=f'"{blob.git_id}"')
