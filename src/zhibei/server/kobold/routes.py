"""The dialect of KoboldAI and KoboldCpp. HTTP only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from zhibei import __version__
from zhibei.app import App
from zhibei.errors import BadRequest, EngineRefused, ModelBroken, ModelNotFound
from zhibei.server import generation
from zhibei.server.access import Access, AccessRules
from zhibei.server.ask import ask_of
from zhibei.server.body import ignored_fields
from zhibei.server.errors import NotOffered
from zhibei.server.json_route import JsonRoute
from zhibei.server.kobold import replies, schema, translate
from zhibei.server.kobold.fitting import DEFAULT_MAX_LENGTH
from zhibei.server.kobold.generate import generate
from zhibei.server.kobold.runs import Run, Runs
from zhibei.server.replying import WHOLE
from zhibei.server.reported import reported
from zhibei.server.shortening import TRUNCATED_HEADER
from zhibei.server.streams import EventStream, WholeAnswer
from zhibei.server.unnamed import context_size, meant_model, stored_model
from zhibei.service import RunOptions

_BASES = ("/api/v1", "/api/latest")
_NOT_HERE = (
    "transcribe",
    "tts",
    "websearch",
    "json_to_grammar",
    "multiplayer/{rest:path}",
    "data/{rest:path}",
    "music/{rest:path}",
)
_IMAGES = "/sdapi/v1/{rest:path}"

ACCESS: AccessRules = {
    **{("POST", f"{base}/generate"): Access("chat") for base in _BASES},
    **{
        ("GET", base + path): Access("read")
        for base in _BASES
        for path in (
            "/model",
            "/info/version",
            "/config/max_length",
            "/config/max_context_length",
            "/config/soft_prompt",
            "/config/soft_prompts_list",
        )
    },
    **{("PUT", f"{base}/config/soft_prompt"): Access("chat") for base in _BASES},
    ("POST", "/api/extra/generate/stream"): Access("chat"),
    ("POST", "/api/extra/generate/check"): Access("chat"),
    ("GET", "/api/extra/generate/check"): Access("chat"),
    ("POST", "/api/extra/abort"): Access("chat"),
    ("POST", "/api/extra/last_logprobs"): Access("chat"),
    ("GET", "/api/extra/last_logprobs"): Access("chat"),
    ("POST", "/api/extra/tokencount"): Access("chat"),
    ("POST", "/api/extra/tokenize"): Access("chat"),
    ("POST", "/api/extra/detokenize"): Access("chat"),
    ("POST", "/api/extra/embeddings"): Access("chat"),
    ("GET", "/api/extra/version"): Access("read"),
    ("GET", "/api/extra/perf"): Access("read"),
    ("GET", "/api/extra/true_max_context_length"): Access("read"),
    ("GET", "/api/extra/preloadstory"): Access("read"),
    ("GET", "/.well-known/serviceinfo"): Access("read"),
    **{("POST", f"/api/extra/{path}"): Access("chat") for path in _NOT_HERE},
    ("GET", _IMAGES): Access("read"),
    ("POST", _IMAGES): Access("chat"),
}

_ANY = schema.GenkeyBody()
_STREAM: dict[int | str, dict[str, Any]] = {200: {"description": "The answer as it comes.", "content": {"text/event-stream": {}}}}


def router(app: App) -> APIRouter:
    """The routes, for one App."""
    routes = APIRouter(route_class=JsonRoute, tags=["KoboldCpp"])
    runs = Runs()
    _add_generation(routes, app, runs)
    _add_runs(routes, app, runs)
    _add_tokens(routes, app)
    for base in _BASES:
        _add_model(routes, app, base)
    _add_server(routes, app)
    _add_refusals(routes)
    return routes


def _add_generation(routes: APIRouter, app: App, runs: Runs) -> None:
    @routes.post("/api/v1/generate", responses=WHOLE)
    @routes.post("/api/latest/generate", responses=WHOLE)
    async def generate_text(body: schema.GenerateBody, request: Request) -> Response:
        """Continue a text."""
        ask, wanted, model = ask_of(request), translate.wanted(body), await meant_model(app)
        run = runs.begin(ask.caller.id, body.genkey)
        events = runs.follow(run, generate(app, ask, model, wanted, run))
        return WholeAnswer(lambda: replies.whole(run, events, keeps_stop=wanted.keeps_stop), _headers(wanted.ignored, run))

    @routes.post("/api/extra/generate/stream", responses=_STREAM)
    async def generate_stream(body: schema.GenerateBody, request: Request) -> Response:
        """Continue a text, and send each piece as it comes."""
        ask, wanted, model = ask_of(request), translate.wanted(body), await meant_model(app)
        run = runs.begin(ask.caller.id, body.genkey)
        events = runs.follow(run, generate(app, ask, model, wanted, run))
        return EventStream(events, replies.TokenEvents(run, keeps_stop=wanted.keeps_stop), _headers(wanted.ignored, run))


def _add_runs(routes: APIRouter, app: App, runs: Runs) -> None:
    @routes.get("/api/extra/generate/check", responses=WHOLE)
    @routes.post("/api/extra/generate/check", responses=WHOLE)
    async def check(request: Request, body: schema.GenkeyBody = _ANY) -> Response:
        """What a generation has said so far."""
        found = runs.find(ask_of(request).caller.id, body.genkey)
        return _json(replies.check_body(found))

    @routes.post("/api/extra/abort", responses=WHOLE)
    async def abort(request: Request, body: schema.GenkeyBody = _ANY) -> Response:
        """End a generation; its answer is what it has said so far."""
        found = runs.find(ask_of(request).caller.id, body.genkey)
        if found is not None:
            found.abort()
        return _json(orjson.dumps({"success": "false" if found is None else "true", "done": "true"}))

    @routes.get("/api/extra/last_logprobs", responses=WHOLE)
    @routes.post("/api/extra/last_logprobs", responses=WHOLE)
    async def last_logprobs(request: Request, body: schema.GenkeyBody = _ANY) -> Response:
        """The log-probabilities of the caller's last generation, if it asked for them."""
        last, genkey = runs.last(ask_of(request).caller.id), body.genkey
        is_meant = last.logprobs and (not genkey or genkey == last.genkey)
        return _json(orjson.dumps({"logprobs": replies.logprobs_json(last.logprobs) if is_meant else None}))

    began_s = time.monotonic()

    @routes.get("/api/extra/perf", responses=WHOLE)
    async def perf(request: Request) -> Response:
        """What the caller's last generation took, and how busy the server is."""
        last, residents = runs.last(ask_of(request).caller.id), app.pool.residents()
        is_idle = not any(each.num_leases for each in residents)
        uptime_s = time.monotonic() - began_s
        return _json(replies.perf_body(last, num_waiting=app.pool.num_waiting, is_idle=is_idle, uptime_s=uptime_s))


def _add_tokens(routes: APIRouter, app: App) -> None:
    @routes.post("/api/extra/tokencount", responses=WHOLE)
    @routes.post("/api/extra/tokenize", responses=WHOLE)
    async def tokencount(body: schema.CountBody, request: Request) -> Response:
        """Tokens of a text."""
        ask, model = ask_of(request), await meant_model(app)

        async def work() -> bytes:
            async with generation.lease(app, ask, model) as engine:
                return replies.tokens_body(
                    await engine.tokenize(body.prompt, add_special=body.special is not False, parse_special=True)
                )

        return WholeAnswer(work, reported(ignored_fields(body)))

    @routes.post("/api/extra/detokenize", responses=WHOLE)
    async def detokenize(body: schema.DetokenizeBody, request: Request) -> Response:
        """The text of tokens."""
        ask, model = ask_of(request), await meant_model(app)

        async def work() -> bytes:
            async with generation.lease(app, ask, model) as engine:
                try:
                    text = await engine.detokenize(tuple(body.ids))
                except EngineRefused:
                    raise BadRequest("ids has a number that is no token of this model.", param="ids") from None
            return orjson.dumps({"result": text, "success": True})

        return WholeAnswer(work, reported(ignored_fields(body)))

    @routes.post("/api/extra/embeddings", responses=WHOLE)
    async def embeddings(body: schema.EmbeddingsBody, request: Request) -> Response:
        """Turn texts into vectors."""
        ask, model, wanted = ask_of(request), await meant_model(app, body.model, "embed"), translate.embedding_request(body)

        async def work() -> bytes:
            return replies.embeddings_body(await generation.embed(app, ask, model, wanted, RunOptions()), model)

        ignored = ("truncate", *ignored_fields(body)) if body.truncate else ignored_fields(body)
        return WholeAnswer(work, reported(ignored))


def _add_model(routes: APIRouter, app: App, base: str) -> None:
    @routes.get(f"{base}/model", responses=WHOLE)
    async def model() -> Response:
        """The model that a generation would use; ReadOnly where there is none."""
        try:
            found = await stored_model(app, await meant_model(app))
        except (ModelNotFound, ModelBroken):
            return _result("ReadOnly")
        return _result(f"koboldcpp/{found.name}")

    @routes.get(f"{base}/info/version", responses=WHOLE)
    async def info_version() -> Response:
        """The version of KoboldAI's API."""
        return _result(replies.UNITED_VERSION)

    @routes.get(f"{base}/config/max_length", responses=WHOLE)
    async def max_length() -> Response:
        """How long an answer is where nothing is asked for."""
        return _value(DEFAULT_MAX_LENGTH)

    @routes.get(f"{base}/config/max_context_length", responses=WHOLE)
    async def max_context_length() -> Response:
        """The context, in tokens."""
        return _value(await _context(app))

    @routes.get(f"{base}/config/soft_prompt", responses=WHOLE)
    async def soft_prompt() -> Response:
        """None: there are no soft prompts here."""
        return _value("")

    @routes.get(f"{base}/config/soft_prompts_list", responses=WHOLE)
    async def soft_prompts() -> Response:
        """None."""
        return _json(orjson.dumps({"values": []}))

    @routes.put(f"{base}/config/soft_prompt", responses=WHOLE)
    async def set_soft_prompt(body: schema.SoftPromptBody) -> Response:
        """Nothing can be set but none."""
        if body.value:
            raise NotOffered("There are no soft prompts here.", hint="Put the text into memory.")
        return _json(b"{}")


def _add_server(routes: APIRouter, app: App) -> None:
    @routes.get("/api/extra/version", responses=WHOLE)
    async def version(request: Request) -> Response:
        """What a front end may use."""
        try:
            found = await stored_model(app, await meant_model(app))
            has_vision = bool(found.paths("projector"))
        except (ModelNotFound, ModelBroken):
            has_vision = False
        is_protected = bool(ask_of(request).caller.id)
        return _json(orjson.dumps(replies.version_json(is_protected=is_protected, has_vision=has_vision, has_embeddings=True)))

    @routes.get("/api/extra/true_max_context_length", responses=WHOLE)
    async def true_max_context_length() -> Response:
        """The context, in tokens."""
        return _value(await _context(app))

    @routes.get("/api/extra/preloadstory", responses=WHOLE)
    async def preloadstory() -> Response:
        """None."""
        return _json(b"{}")

    @routes.get("/.well-known/serviceinfo", responses=WHOLE)
    async def serviceinfo() -> Response:
        """Which APIs are where."""
        return _json(orjson.dumps(replies.service_info(__version__)))


def _add_refusals(routes: APIRouter) -> None:
    async def not_here(request: Request) -> Response:
        """Not offered."""
        raise NotOffered(
            "{path} of KoboldCpp is not offered here: this server makes and reads text.", path=request.url.path[:200]
        )

    for path in _NOT_HERE:
        routes.add_api_route(f"/api/extra/{path}", not_here, methods=["POST"], include_in_schema=False)
    routes.add_api_route(_IMAGES, not_here, methods=["GET", "POST"], include_in_schema=False)


async def _context(app: App) -> int:
    found = await context_size(app, await stored_model(app, await meant_model(app)))
    if found is None:
        raise ModelNotFound("The context of {name} is not known before it is loaded.", name=await meant_model(app))
    return found


def _headers(ignored: tuple[str, ...], run: Run) -> Callable[[], Mapping[str, str]]:
    found = reported(ignored)
    return lambda: {**found, TRUNCATED_HEADER: f"tokens={run.num_cut_tokens}"} if run.num_cut_tokens else found


def _result(value: str) -> Response:
    return _json(orjson.dumps({"result": value}))


def _value(value: int | str) -> Response:
    return _json(orjson.dumps({"value": value}))


def _json(data: bytes) -> Response:
    return Response(data, media_type="application/json")
