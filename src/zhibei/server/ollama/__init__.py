"""Ollama's dialect."""

from zhibei.server.dialect import Dialect
from zhibei.server.ollama.envelope import envelope
from zhibei.server.ollama.routes import ACCESS, router

DIALECT = Dialect("Ollama", router, ACCESS, envelope, ("/api/",))

__all__ = ["DIALECT"]
