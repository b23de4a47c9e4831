"""What llama.cpp's server has beside OpenAI's API, and the token routes of other servers."""

from zhibei.server.dialect import Dialect
from zhibei.server.llama_server.envelope import envelope
from zhibei.server.llama_server.routes import ACCESS, router

_PREFIXES = (
    "/completion",
    "/infill",
    "/props",
    "/slots",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/embedding",
    "/lora-adapters",
    "/models",
)
DIALECT = Dialect("llama-server", router, ACCESS, envelope, _PREFIXES)

__all__ = ["DIALECT"]
