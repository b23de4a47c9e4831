"""OpenAI's dialect."""

from zhibei.server.dialect import Dialect
from zhibei.server.errors import openai_envelope
from zhibei.server.openai.routes import ACCESS, router

DIALECT = Dialect("openai", router, ACCESS, openai_envelope, ("/v1/",))

__all__ = ["DIALECT"]
