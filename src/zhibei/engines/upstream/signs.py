"""Tell what a server is, and what models it has, by its answers. Pure: what was asked and how is ``look``'s business.

All of it comes from another program: whatever has not the expected shape counts as not said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zhibei.refs import is_upstream_model

MODELS_PATH = "/v1/models"
OWN_PATH = "/zhibei/v1/version"
OWN_MODELS_PATH = "/zhibei/v1/models?here=true"
SIGN_PATHS = (
    MODELS_PATH,
    "/api/extra/version",
    "/api/v0/models",
    "/v1/internal/model/info",
    "/system",
    "/props",
    "/version",
    "/api/version",
)
"""Asked at once of a server that is no Zhibei, which ``OWN_PATH`` alone tells."""
TITLE_PATH = "/openapi.json"
"""Asked of one that lists nothing without a key."""
MAX_MODELS = 2000
_MAX_CTX = 1 << 30


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, and the JSON that came with it (None: none, or not JSON)."""

    status: int
    body: object = None

    @property
    def fields(self) -> Mapping[str, Any]:
        """The JSON object of a good answer; empty for everything else."""
        return self.body if self.status == 200 and isinstance(self.body, dict) else {}


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that a server lists. None: it does not say."""

    name: str
    context_length: int | None = None
    quantisation: str | None = None
    created_s: int | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server is: the name of one of ``KINDS``. ``instance``: which one, where it is a Zhibei."""

    kind: str
    version: str | None = None
    instance: str | None = None
    wants_key: bool = False


Answers = Mapping[str, Answer]


def identify(answers: Answers) -> Identity | None:
    """What answers so; None: nothing that speaks OpenAI's API.

    Many servers speak the APIs of others too, so the order matters: who imitates comes before who is imitated.
    """
    own = _fields(answers, OWN_PATH)
    if own.get("name") == "zhibei":
        return Identity("zhibei", _text(own.get("version")), _text(own.get("instance")))
    models = answers.get(MODELS_PATH, Answer(0))
    wants_key = models.status in (401, 403)
    kind = _kind(answers, {str(item.get("owned_by")) for item in _items(models)})
    if kind is not None:
        return Identity(kind, _version(kind, answers), wants_key=wants_key)
    if isinstance(models.fields.get("data"), list) or wants_key:
        return Identity("openai", wants_key=wants_key)
    return None


def _kind(answers: Answers, owners: set[str]) -> str | None:
    lmstudio = _fields(answers, "/api/v0/models").get("data")
    title = _fields(answers, TITLE_PATH).get("info")
    found = {
        "aphrodite": "pygmalionai" in owners,
        "koboldcpp": _fields(answers, "/api/extra/version").get("result") == "KoboldCpp",
        "lmstudio": isinstance(lmstudio, list) and all(isinstance(item, dict) and "type" in item for item in lmstudio),
        "tabby": "tabbyAPI" in owners or (isinstance(title, dict) and title.get("title") == "TabbyAPI"),
        "textgen": "model_name" in _fields(answers, "/v1/internal/model/info"),
        "localai": "backends" in _fields(answers, "/system"),
        "llama-server": "default_generation_settings" in _fields(answers, "/props"),
        "vllm": "vllm" in owners,
        "ollama": isinstance(_fields(answers, "/api/version").get("version"), str),
    }
    return next((kind for kind, is_so in found.items() if is_so), None)


def _version(kind: str, answers: Answers) -> str | None:
    paths = {"koboldcpp": "/api/extra/version", "ollama": "/api/version", "vllm": "/version", "aphrodite": "/version"}
    if kind == "llama-server":
        return _text(_fields(answers, "/props").get("build_info"))
    return _text(_fields(answers, paths.get(kind, "/version")).get("version"))


def listed(answer: Answer) -> tuple[Listed, ...]:
    """The models of a list, in its order, each once. Of another Zhibei only its own: no chains."""
    found: dict[str, Listed] = {}
    for item in _items(answer):
        name = item.get("id") or item.get("name")
        if isinstance(name, str) and is_upstream_model(name) and not name.startswith("upstream:") and not item.get("problem"):
            found.setdefault(name, _listed(name, item))
    return tuple(found.values())


def _listed(name: str, item: Mapping[str, Any]) -> Listed:
    nested = [part for key in ("meta", "parameters", "info") if isinstance(part := item.get(key), dict)]
    lengths = [item.get("max_model_len"), item.get("max_context_length")]
    for part in nested:
        lengths += [part.get("max_seq_len"), part.get("n_ctx_train"), part.get("context_length")]
    quantisation = next((part["quantisation"] for part in nested if part.get("quantisation")), item.get("quantization"))
    return Listed(
        name,
        next((length for length in lengths if _is_count(length, _MAX_CTX)), None),
        _text(quantisation),
        created if _is_count(created := item.get("created"), 1 << 33) else None,
    )


def _items(answer: Answer) -> list[Mapping[str, Any]]:
    body = answer.body if answer.status == 200 else None
    raw = body if isinstance(body, list) else answer.fields.get("data")
    return [item for item in raw[:MAX_MODELS] if isinstance(item, dict)] if isinstance(raw, list) else []


def _fields(answers: Answers, path: str) -> Mapping[str, Any]:
    return answers[path].fields if path in answers else {}


def _text(value: object) -> str | None:
    return value[:80] if isinstance(value, str) and value and value.isprintable() else None


def _is_count(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < most
