"""The Ollama registry's protocol: manifests, blobs and the tokens it may want. Pure."""

from __future__ import annotations

from hubs.answers import Answer, Listed, Question, Site, json_answer, redirect, sign
from hubs.content import Blob, Image

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
SERVICE = "registry"


def answer(question: Question, site: Site) -> Answer | None:
    """The answer, or None where the path is not of this protocol."""
    match question.segments:
        case ("v2",) | ("v2", ""):
            return _guarded(question, site, "") or json_answer("info", {})
        case ("v2", owner, name, "manifests", tag):
            return _guarded(question, site, f"{owner}/{name}") or _manifest(question, site, f"{owner}/{name}", tag)
        case ("v2", owner, name, "blobs", digest):
            return _guarded(question, site, f"{owner}/{name}") or _blob(site, f"{owner}/{name}", digest)
    return answer_token(question, site)


def answer_token(question: Question, site: Site) -> Answer | None:
    """A token for what ``scope`` names, to anybody who asks; a stated credential must be a known one."""
    if question.segments != ("v2", "token"):
        return None
    stated = question.headers.get("authorization")
    if stated is not None and not site.is_known(question.token):
        return _refusal(401, "UNAUTHORIZED", "authentication required")
    if question.query.get("service") != SERVICE:
        return _refusal(400, "UNSUPPORTED", "no such service")
    token = sign(question.query.get("scope", ""))
    return json_answer("token", {"token": token, "access_token": token, "expires_in": 300})


def _guarded(question: Question, site: Site, image_id: str) -> Answer | None:
    """The demand for a token, where the registry wants one and this is not it."""
    scope = f"repository:{image_id}:pull" if image_id else ""
    if not site.needs_token or question.token == sign(scope) or site.is_known(question.token):
        return None
    parts = [f'realm="{site.realm_url}/v2/token"', f'service="{SERVICE}"', *([f'scope="{scope}"'] if scope else [])]
    return _refusal(401, "UNAUTHORIZED", "authentication required").with_headers(
        {"WWW-Authenticate": f"Bearer {','.join(parts)}"}
    )


def _refusal(status: int, code: str, message: str) -> Answer:
    return json_answer("error", {"errors": [{"code": code, "message": message, "detail": None}]}, status)


def manifest(image: Image, layers: tuple[Listed, ...]) -> dict[str, object]:
    """What an image is made of; ``layers`` are its own, as they are told, behind the config."""
    config, *rest = layers
    told = [
        {"mediaType": layer.media_type, "digest": _digest(listed), "size": listed.size}
        for layer, listed in zip(image.layers, rest, strict=True)
    ]
    about = {"mediaType": CONFIG, "digest": _digest(config), "size": config.size}
    return {"schemaVersion": 2, "mediaType": MANIFEST, "config": about, "layers": told}


def _digest(listed: Listed) -> str:
    return f"sha256:{listed.sha256}" if listed.sha256 else ""


def _manifest(question: Question, site: Site, image_id: str, tag: str) -> Answer:
    image = site.content.image(image_id, tag)
    if image is None:
        return _refusal(404, "MANIFEST_UNKNOWN", "manifest unknown")
    config = _tell(image.config, CONFIG, is_large=False)
    layers = [
        _tell(layer.blob, layer.media_type, is_large=layer.kind in ("model", "projector", "adapter")) for layer in image.layers
    ]
    listed = site.listed(question.path, (config, *layers))
    told = json_answer("manifest", manifest(image, listed), headers={"Content-Type": MANIFEST})
    return told.with_headers({"Docker-Content-Digest": f"sha256:{told.blob.sha256}", "ETag": f'"{told.blob.sha256}"'})


def _tell(blob: Blob, media_type: str, *, is_large: bool) -> Listed:
    return Listed(media_type, blob.size, blob.sha256, blob.git_id, is_large)


def _blob(site: Site, image_id: str, digest: str) -> Answer:
    """Where a blob's bytes are. Its file name is its digest."""
    for image in site.content.images:
        for blob in (image.config, *(layer.blob for layer in image.layers)):
            if image.id == image_id and digest == f"sha256:{blob.sha256}":
                headers = {"Docker-Content-Digest": digest}
                return redirect(site.signed_url(digest, blob), 307, headers, file=digest)
    return _refusal(404, "BLOB_UNKNOWN", "blob unknown to registry")
