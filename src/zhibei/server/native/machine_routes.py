"""What this machine is and what runs on it: hardware, fit, recommendations, plans, settings. HTTP only."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from zhibei.app import App
from zhibei.judging.asking import FitQuestion, fit, recommended
from zhibei.judging.machine import machine
from zhibei.planner.recommend import Wish
from zhibei.server import generation
from zhibei.server.access import Access, AccessRules
from zhibei.server.ask import ask_of
from zhibei.server.loading import load_options
from zhibei.server.native import schema
from zhibei.server.native.allowed import check_question
from zhibei.server.native.replying import WHOLE, answer
from zhibei.server.native.translate import body, settings_rows
from zhibei.server.streams import WholeAnswer
from zhibei.settings import Resolved
from zhibei.store.threads import in_thread
from zhibei.wire import NATIVE_PREFIX

ACCESS: AccessRules = {
    ("GET", f"{NATIVE_PREFIX}/hardware"): Access("read"),
    ("POST", f"{NATIVE_PREFIX}/fit"): Access("read"),
    ("POST", f"{NATIVE_PREFIX}/recommend"): Access("read"),
    ("POST", f"{NATIVE_PREFIX}/plan"): Access("read"),
    ("GET", f"{NATIVE_PREFIX}/settings"): Access("admin"),
}


def add(routes: APIRouter, app: App) -> None:
    """Add the routes."""

    @routes.get("/hardware", responses=WHOLE)
    async def hardware() -> Response:
        """The server's machine, with what was measured on it."""
        return answer(await in_thread(machine, app.settings.home))

    @routes.post("/fit", responses=WHOLE)
    async def judge(asked: schema.FitBody, request: Request) -> Response:
        """Whether and how a model runs on the server's machine. Of a model elsewhere only the header is read."""
        check_question(app, ask_of(request), asked.reference)
        load = load_options(asked.load)
        question = FitQuestion(asked.reference, load, asked.purpose, asked.engine, asked.hardware)

        async def work() -> bytes:
            return body(await fit(app, question))

        return WholeAnswer(work)

    @routes.post("/recommend", responses=WHOLE)
    async def recommend(asked: schema.RecommendBody) -> Response:
        """Models of the catalogue for the server's machine, the best first."""
        language = asked.language.lower() if asked.language else None
        wish = Wish(asked.purpose, language, asked.commercial, asked.min_tokens_per_s, asked.ctx_size)

        async def work() -> bytes:
            return body(await recommended(app, wish, asked.hardware, asked.limit))

        return WholeAnswer(work)

    @routes.post("/plan", responses=WHOLE)
    async def plan(asked: schema.PlanBody, request: Request) -> Response:
        """How a model of the store would be started now, if all idle models made room for it."""
        generation.check_model(app, ask_of(request), asked.model)
        return answer(app.pool.plan(app.resolve(asked.model), asked.task, load_options(asked.load)))

    @routes.get("/settings", responses=WHOLE)
    async def settings() -> Response:
        """Every setting as it is in force, with where it comes from; secrets masked."""
        return answer(settings_rows(Resolved(app.settings, app.origins)))
