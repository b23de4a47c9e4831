"""Pulls as jobs: they go on when the client leaves. HTTP only; what runs is in ``jobs``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from zhibei.app import App
from zhibei.local import LocalService
from zhibei.server.access import Access, AccessRules
from zhibei.server.ask import ask_of
from zhibei.server.native import schema
from zhibei.server.native.allowed import check_source
from zhibei.server.native.following import Feed, until_stopping
from zhibei.server.native.jobs import PullJobs
from zhibei.server.native.replying import LINES, WHOLE, answer
from zhibei.server.native.translate import Lines
from zhibei.server.streams import EventStream
from zhibei.wire import NATIVE_PREFIX

ACCESS: AccessRules = {
    ("POST", f"{NATIVE_PREFIX}/pulls"): Access("admin"),
    ("GET", f"{NATIVE_PREFIX}/pulls"): Access("read"),
    ("GET", f"{NATIVE_PREFIX}/pulls/{{pull_id}}"): Access("read"),
    ("GET", f"{NATIVE_PREFIX}/pulls/{{pull_id}}/events"): Access("read"),
    ("DELETE", f"{NATIVE_PREFIX}/pulls/{{pull_id}}"): Access("admin"),
}


def add(routes: APIRouter, app: App, service: LocalService, feed: Feed) -> None:
    """Add the routes; ``feed`` hears when a pull begins and ends."""
    jobs = PullJobs(feed.tell)

    @routes.post("/pulls", responses=WHOLE)
    async def start_pull(asked: schema.PullBody) -> Response:
        """Fetch or import a model, whether the client stays or not. The same pull is not begun twice."""
        check_source(app, asked.ref)
        return answer(jobs.start(asked.ref, asked.name, lambda: service.pull(asked.ref, name=asked.name, copy=asked.copy_file)))

    @routes.get("/pulls", responses=WHOLE)
    async def list_pulls() -> Response:
        """The pulls that run, and those that have ended lately."""
        return answer(jobs.all())

    @routes.get("/pulls/{pull_id}", responses=WHOLE)
    async def show_pull(pull_id: str) -> Response:
        """One pull."""
        return answer(jobs.summary(pull_id))

    @routes.get("/pulls/{pull_id}/events", responses=LINES)
    async def follow_pull(request: Request, pull_id: str) -> Response:
        """What a pull has said from the start, of each file's progress the last word only, and what it says until it ends."""
        jobs.summary(pull_id)
        return EventStream(until_stopping(ask_of(request), jobs.follow(pull_id)), Lines())

    @routes.delete("/pulls/{pull_id}", responses=WHOLE)
    async def cancel_pull(pull_id: str) -> Response:
        """Stop a pull; what has come is kept for the next one. One that has ended is forgotten."""
        return answer(await jobs.cancel(pull_id))
