"""The dialect of KoboldAI and KoboldCpp. HTTP only."""

from __future__ import annotations

from fastapi import APIRouter

from zhibei.app import App
from zhibei.server.access import AccessRules
from zhibei.server.json_route import JsonRoute

ACCESS: AccessRules = {}


def router(app: App) -> APIRouter:
    """The routes, for one App."""
    return APIRouter(route_class=JsonRoute, tags=["KoboldCpp"])
