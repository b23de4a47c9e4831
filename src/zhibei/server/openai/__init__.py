"""OpenAI's dialect."""

from zhibei.server.openai.routes import router

__all__ = ["router"]
