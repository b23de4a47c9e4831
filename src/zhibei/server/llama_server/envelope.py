"""How errors are said in this dialect."""

from zhibei.server.errors import openai_envelope as envelope

__all__ = ["envelope"]
