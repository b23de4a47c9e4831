"""The dialect of KoboldAI and KoboldCpp."""

from zhibei.server.dialect import Dialect
from zhibei.server.kobold.envelope import envelope
from zhibei.server.kobold.routes import ACCESS, router

DIALECT = Dialect("KoboldCpp", router, ACCESS, envelope, ("/api/v1/", "/api/latest/", "/api/extra/", "/sdapi/"))

__all__ = ["DIALECT"]
