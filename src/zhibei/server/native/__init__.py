"""Zhibei's own dialect."""

from zhibei.server.dialect import Dialect
from zhibei.server.errors import openai_envelope
from zhibei.server.native.routes import ACCESS, router
from zhibei.wire import NATIVE_PREFIX

DIALECT = Dialect("zhibei", router, ACCESS, openai_envelope, (NATIVE_PREFIX + "/",))

__all__ = ["DIALECT"]
