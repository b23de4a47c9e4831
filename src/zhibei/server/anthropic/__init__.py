"""Anthropic's dialect."""

from zhibei.server.anthropic.envelope import envelope
from zhibei.server.anthropic.routes import ACCESS, router
from zhibei.server.dialect import Dialect

DIALECT = Dialect("Anthropic", router, ACCESS, envelope, ("/v1/messages",))

__all__ = ["DIALECT"]
