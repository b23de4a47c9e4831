"""Zhibei's own dialect."""

from zhibei.server.native.routes import router

__all__ = ["router"]
