"""ModelScope's protocol: the API under ``/api/v1`` and the open one under ``/openapi/v1``. Pure."""

from __future__ import annotations

from hubs.answers import Answer, Listed, Question, Site, file_answer, json_answer, redirect, tell
from hubs.content import Repository, is_large

_PUBLIC, _PRIVATE = 5, 1
_MOMENT_S = 1767323045
_NOT_FOUND = 10010205001


def answer(question: Question, site: Site) -> Answer | None:
    """The answer, or None where the path is not of this protocol."""
    match question.segments:
        case ("openapi", "v1", "models"):
            return _search(question, site)
        case ("openapi", "v1", "models", owner, name):
            return _open_info(question, site, f"{owner}/{name}")
        case ("api", "v1", "repos", "internalAccelerationInfo"):
            return _success("info", {"InternalRegionQueryAddress": "", "RegionId": ""})
        case ("api", "v1", "models", owner, name):
            return _info(question, site, f"{owner}/{name}")
        case ("api", "v1", "models", owner, name, "revisions"):
            return _revisions(question, site, f"{owner}/{name}")
        case ("api", "v1", "models", owner, name, "repo", "files"):
            return _files(question, site, f"{owner}/{name}")
        case ("api", "v1", "models", owner, name, "repo"):
            return _file(
                question, site, f"{owner}/{name}", question.query.get("Revision", ""), question.query.get("FilePath", "")
            )
        case ("models", owner, name, "resolve", revision, *path):
            return _file(question, site, f"{owner}/{name}", revision, "/".join(path))
    return None


def _success(kind: str, data: object) -> Answer:
    return json_answer(kind, {"Code": 200, "Data": data, "Message": "success", "RequestId": "1-2-3", "Success": True})


def _failure(status: int, message: str, code: int = _NOT_FOUND) -> Answer:
    return json_answer("error", {"Code": code, "Message": message, "RequestId": "1-2-3", "Success": False}, status)


def _open_failure(status: int, code: str, message: str) -> Answer:
    return json_answer("error", {"success": False, "code": code, "message": message, "request_id": "1-2-3"}, status)


def _find(question: Question, site: Site, repository_id: str) -> Repository | Answer:
    if question.token is not None and not site.is_known(question.token):
        return _failure(401, "invalid access token", 10010103009)
    repository = site.content.repository(repository_id)
    if repository is None or (repository.private and not site.opens(question.token, repository_id)):
        return _failure(404, f"model {repository_id}: record not found")
    return repository


def _find_revision(question: Question, site: Site, repository_id: str, revision: str) -> tuple[Repository, str] | Answer:
    repository = _find(question, site, repository_id)
    if isinstance(repository, Answer):
        return repository
    found = repository.find(revision or "master", "master")
    return (repository, found) if found is not None else _failure(404, f"revision {revision} not found")


def _info(question: Question, site: Site, repository_id: str) -> Answer:
    repository = _find(question, site, repository_id)
    if isinstance(repository, Answer):
        return repository
    files = repository.files(repository.default)
    told = {
        "Id": 1,
        "Path": repository.owner,
        "Name": repository.name,
        "ChineseName": repository.name,
        "License": repository.licence or "",
        "Downloads": repository.downloads,
        "Stars": repository.likes,
        "Tags": list(repository.tags),
        "Visibility": _PRIVATE if repository.private else _PUBLIC,
        "Revision": "master",
        "StorageSize": sum(blob.size for blob in files.values()),
        "CreatedTime": _MOMENT_S,
        "LastUpdatedTime": _MOMENT_S,
    }
    return _success("info", told)


def _open_summary(repository: Repository) -> dict[str, object]:
    return {
        "id": repository.id,
        "display_name": repository.name,
        "description": "",
        "downloads": repository.downloads,
        "likes": repository.likes,
        "license": repository.licence or "",
        "tags": list(repository.tags),
        "tasks": ["text-generation"],
        "private": repository.private,
        "gated": bool(repository.gated),
        "file_size": sum(blob.size for blob in repository.files(repository.default).values()),
        "created_at": repository.modified,
        "last_modified": repository.modified,
    }


def _open_info(question: Question, site: Site, repository_id: str) -> Answer:
    repository = _find(question, site, repository_id)
    if isinstance(repository, Answer):
        is_refusal = repository.status == 401
        return _open_failure(repository.status, "InvalidAuthentication" if is_refusal else "ResourceNotFound", "not found")
    return json_answer("info", {"success": True, "request_id": "1-2-3", "data": _open_summary(repository)})


def _search(question: Question, site: Site) -> Answer:
    query = question.query
    wanted = query.get("search", "").lower()
    found = [
        repository
        for repository in site.content.repositories
        if wanted in repository.id.lower()
        and query.get("owner") in (None, repository.owner)
        and (not repository.private or site.opens(question.token, repository.id))
    ]
    found.sort(key=lambda repository: repository.downloads, reverse=True)
    page, size = int(query.get("page_number", "1")), int(query.get("page_size", "10"))
    shown = [_open_summary(repository) for repository in found[(page - 1) * size : page * size]]
    data = {"models": shown, "total_count": len(found), "page_number": page, "page_size": size}
    return json_answer("search", {"success": True, "request_id": "1-2-3", "data": data})


def _revisions(question: Question, site: Site, repository_id: str) -> Answer:
    repository = _find(question, site, repository_id)
    if isinstance(repository, Answer):
        return repository
    branches, tags = repository.split()
    names = ["master" if name == repository.default else name for name in branches]
    told = {
        "Branches": [{"Revision": name, "CreatedAt": _MOMENT_S} for name in names],
        "Tags": [{"Revision": name, "CreatedAt": _MOMENT_S - 1000} for name in tags],
    }
    return _success("info", {"RevisionMap": told})


def _files(question: Question, site: Site, repository_id: str) -> Answer:
    found = _find_revision(question, site, repository_id, question.query.get("Revision", ""))
    if isinstance(found, Answer):
        return found
    repository, name = found
    files = site.listed(question.path, tuple(tell(path, blob) for path, blob in repository.files(name).items()))
    root = question.query.get("Root", "").strip("/")
    prefix = f"{root}/" if root else ""
    inside = [file for file in files if file.path.startswith(prefix)]
    if root and not inside:
        return _failure(404, f"{root}: path not found")
    is_deep = question.query.get("Recursive", "").lower() == "true"
    commit = repository.commits[name]
    folders = sorted({"/".join(file.path.split("/")[:-1]) for file in inside if "/" in file.path[len(prefix) :]})
    entries = [_folder(path, commit) for path in folders if is_deep or "/" not in path[len(prefix) :]]
    entries += [_entry(file, commit) for file in inside if is_deep or "/" not in file.path[len(prefix) :]]
    return _success("listing", {"Files": entries, "IsVisual": 0})


def _entry(file: Listed, commit: str) -> dict[str, object]:
    return {
        "Name": file.path.rpartition("/")[2],
        "Path": file.path,
        "Size": file.size,
        "Sha256": file.sha256,
        "Type": "blob",
        "IsLFS": file.is_large,
        "Mode": "33188",
        "Id": file.git_id,
        "Revision": commit,
        "CommitId": commit,
        "CommitMessage": "upload",
        "CommitterName": "zhibei",
        "CommittedDate": _MOMENT_S,
        "InCheck": False,
    }


def _folder(path: str, commit: str) -> dict[str, object]:
    told = _entry(Listed(path, 0, "", f"{len(path):040x}", False), commit)
    return {**told, "Type": "tree", "Mode": "16384"}


def _file(question: Question, site: Site, repository_id: str, revision: str, path: str) -> Answer:
    """A small file as it is, whatever range was asked for; a large one's signed address."""
    found = _find_revision(question, site, repository_id, revision)
    if isinstance(found, Answer):
        return found
    repository, name = found
    if repository.gated and not site.opens(question.token, repository_id):
        return _failure(403 if question.token else 401, f"model {repository_id}: access must be asked for", 10010208001)
    blob = repository.files(name).get(path)
    if blob is None:
        return _failure(404, f"{path}: file not found", 10990101013)
    if is_large(path, blob):
        return redirect(site.signed_url(path, blob), file=path)
    return file_answer(path, blob, honours_ranges=False)
