"""Error class → exit code. The one table; ``docs/reference/cli.md`` and the end of ``zhibei --help`` are made from it."""

from __future__ import annotations

from collections.abc import Mapping

from zhibei import errors
from zhibei.i18n import N_

OK = 0
UNEXPECTED = 1
USAGE = 2
NOT_FOUND = 3
SOURCE = 4
DAMAGED = 5
ENGINE = 6
DOES_NOT_FIT = 7
BUSY = 8
NOT_PERMITTED = 9
INTERRUPTED = 130

MEANINGS = (
    (OK, N_("success")),
    (UNEXPECTED, N_("an error that Zhibei did not foresee")),
    (USAGE, N_("a wrong option, reference, parameter or setting")),
    (NOT_FOUND, N_("no such model")),
    (SOURCE, N_("the network, or where the model comes from")),
    (DAMAGED, N_("a damaged model file, or the store")),
    (ENGINE, N_("the engine")),
    (DOES_NOT_FIT, N_("not enough memory for the model")),
    (BUSY, N_("busy; try again later")),
    (NOT_PERMITTED, N_("not permitted: no key, or a wrong one")),
    (INTERRUPTED, N_("interrupted with Ctrl-C")),
)

EXIT_CODES: Mapping[type[errors.ZhibeiError], int] = {
    errors.ZhibeiError: UNEXPECTED,
    errors.UserError: USAGE,
    errors.BadReference: USAGE,
    errors.BadRequest: USAGE,
    errors.Unsupported: USAGE,
    errors.ContextTooLong: USAGE,
    errors.BadSetting: USAGE,
    errors.NotPermitted: NOT_PERMITTED,
    errors.ModelNotFound: NOT_FOUND,
    errors.ModelFileError: DAMAGED,
    errors.TemplateUnusable: DAMAGED,
    errors.StoreError: DAMAGED,
    errors.ModelBroken: DAMAGED,
    errors.DigestMismatch: DAMAGED,
    errors.DiskFull: DAMAGED,
    errors.StoreBusy: BUSY,
    errors.SourceError: SOURCE,
    errors.Offline: SOURCE,
    errors.DoesNotFit: DOES_NOT_FIT,
    errors.EngineError: ENGINE,
    errors.EngineMissing: ENGINE,
    errors.EngineStartFailed: ENGINE,
    errors.EngineDied: ENGINE,
    errors.EngineStalled: ENGINE,
    errors.UpstreamDown: ENGINE,
    errors.EngineRefused: ENGINE,
    errors.Busy: BUSY,
    errors.ShareFull: BUSY,
    errors.ModelUnstable: BUSY,
}


def exit_code(error: errors.ZhibeiError) -> int:
    """The exit code of an error: that of its class, or of the nearest one above it."""
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)
