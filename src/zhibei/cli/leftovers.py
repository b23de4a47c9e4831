"""What belongs to no model, as a person reads it: cut-off downloads, unused files, unused directories."""

from __future__ import annotations

import re

from zhibei.models import Leftover

# Forty digits that nobody reads; --json has them.
_COMMIT = re.compile(r"@[0-9a-f]{40}(?=/)")


def name_of(leftover: Leftover) -> str:
    """Of what a download is, or else where the thing lies."""
    return _COMMIT.sub("", leftover.origin) if leftover.origin else str(leftover.path)
