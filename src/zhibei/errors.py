"""The error tree. Owns every failure Zhibei names; knows nothing of HTTP, exit codes or languages.

    ZhibeiError
    ├── UserError                 the request is wrong; changing it helps
    │   ├── BadReference          a model reference that does not parse
    │   ├── BadRequest            a parameter out of range or of the wrong shape
    │   │   ├── Unsupported       a parameter that is understood but that this engine or model cannot honour
    │   │   └── ContextTooLong    the prompt does not fit the context
    │   ├── BadSetting            a configuration value that does not parse
    │   ├── NotPermitted          no key, a wrong key, a foreign origin
    │   └── ModelNotFound         no such model on this machine or at the source
    ├── ModelFileError            a model file that is damaged, hostile or of an unknown kind
    ├── TemplateUnusable          the chat template of a model makes no prompts; the model itself may be sound
    ├── StoreError                the store on disk
    │   ├── ModelBroken           a stored model whose manifest or files are damaged
    │   ├── DigestMismatch        the bytes are not the ones that were promised
    │   ├── DiskFull              no space left
    │   └── StoreBusy             another process holds the lock
    ├── SourceError               where models come from: unreachable, or an answer that makes no sense
    │   └── Offline               the network is needed and cannot be used
    ├── DoesNotFit                this machine's memory is too small for what was asked
    ├── EngineError               the engine
    │   ├── EngineMissing         not installed, or a system library is missing
    │   ├── EngineStartFailed     it did not come up
    │   ├── EngineDied            it stopped while it was needed
    │   │   └── EngineStalled     it did nothing for too long and was ended
    │   ├── UpstreamDown          another server, which has the model, does not answer
    │   └── EngineRefused         it answered a request with an error of its own
    └── Busy                      the queue is full or the service is stopping; try again later
        ├── ShareFull             one caller's part of the queue is full
        └── ModelUnstable         the model's engine died too often; it is left alone for a while

A message is an English template and its values, so that an edge can show it in another language:
``ModelNotFound("Model {name} is not on this machine.", hint="Pull it: zhibei pull {name}", name="x")``.
``str(error)`` is the English text. Templates are marked for translation by being the first argument or ``hint``.
"""

from __future__ import annotations

from collections.abc import Mapping


class ZhibeiError(Exception):
    """Base of all named failures.

    Args:
        message: English template, ``str.format`` style.
        hint: English template that says what to do, or None.
        **values: values for both templates.
    """

    def __init__(self, message: str, *, hint: str | None = None, **values: object) -> None:
        self.message = message
        self.hint = hint
        self.values = values
        super().__init__(message)

    def __str__(self) -> str:
        return _filled(self.message, self.values)

    @property
    def hint_text(self) -> str | None:
        """The English hint with its values filled in."""
        return None if self.hint is None else _filled(self.hint, self.values)


def _filled(template: str, values: Mapping[str, object]) -> str:
    # A template may come from another process; an error that cannot be shown would hide the one it tells of.
    try:
        return template.format_map(values) if values else template
    except (LookupError, ValueError, TypeError, AttributeError):
        return template


class UserError(ZhibeiError):
    """The request is wrong; changing it helps."""


class BadReference(UserError):
    """A model reference that does not parse."""


class BadRequest(UserError):
    """A parameter out of range or of the wrong shape.

    ``param`` names the offending field as the caller wrote it, where there is one.
    """

    def __init__(self, message: str, *, hint: str | None = None, param: str | None = None, **values: object) -> None:
        super().__init__(message, hint=hint, param=param, **values)
        self.param = param


class Unsupported(BadRequest):
    """A parameter that is understood but that this engine or model cannot honour."""


class ContextTooLong(BadRequest):
    """The prompt does not fit the context. ``num_prompt_tokens`` and ``ctx_size`` are in tokens.

    ``is_models_limit``: the model was made for no longer one.
    """

    def __init__(self, num_prompt_tokens: int, ctx_size: int, *, is_models_limit: bool = False) -> None:
        super().__init__(
            "The prompt has {num_prompt_tokens} tokens; this model was loaded with a context of {ctx_size}.",
            hint="That is all the model was made for: shorten the prompt, or use a model with a longer context."
            if is_models_limit
            else "Shorten the prompt, or load the model with a larger --ctx-size.",
            param="messages",
            num_prompt_tokens=num_prompt_tokens,
            ctx_size=ctx_size,
        )
        self.num_prompt_tokens = num_prompt_tokens
        self.ctx_size = ctx_size
        self.is_models_limit = is_models_limit


class BadSetting(UserError):
    """A configuration value that does not parse."""


class NotPermitted(UserError):
    """No key, a wrong key, or a foreign origin."""


class ModelNotFound(UserError):
    """No such model on this machine or at the source."""


class ModelFileError(ZhibeiError):
    """A model file that is damaged, hostile or of an unknown kind.

    ``field`` names what was being read; ``offset`` is the byte position in the file; ``problem`` is the template of what
    is wrong, which ``FRAME`` surrounds.
    """

    FRAME = "The model file is damaged or not what it claims to be: {problem} (field {field}, byte {offset})."

    def __init__(self, problem: str, *, field: str, offset: int, **values: object) -> None:
        super().__init__(
            self.FRAME.replace("{problem}", problem),
            hint="Fetch the file again; if it stays so, the publisher's file is broken.",
            field=field,
            offset=offset,
            **values,
        )
        self.problem = problem
        self.field = field
        self.offset = offset


class TemplateUnusable(ZhibeiError):
    """The chat template of a model makes no prompts; the model itself may be sound."""


class StoreError(ZhibeiError):
    """The store on disk."""


class ModelBroken(StoreError):
    """A stored model whose manifest or files are damaged."""


class DigestMismatch(StoreError):
    """The bytes are not the ones that were promised."""


class DiskFull(StoreError):
    """No space left on the disk that holds the store."""


class StoreBusy(StoreError):
    """Another process holds the lock."""


class SourceError(ZhibeiError):
    """A source is unreachable, or its answer makes no sense."""


class Offline(SourceError):
    """The network is needed and cannot be used."""


class DoesNotFit(ZhibeiError):
    """This machine's memory is too small for what was asked."""


class EngineError(ZhibeiError):
    """The engine."""


class EngineMissing(EngineError):
    """Not installed, or a system library is missing."""


class EngineStartFailed(EngineError):
    """The engine did not come up. ``log_tail`` holds its last lines."""

    def __init__(self, message: str, *, hint: str | None = None, log_tail: tuple[str, ...] = (), **values: object) -> None:
        super().__init__(message, hint=hint, **values)
        self.log_tail = log_tail


class EngineDied(EngineError):
    """The engine stopped while it was needed. ``log_tail`` holds its last lines."""

    def __init__(self, message: str, *, hint: str | None = None, log_tail: tuple[str, ...] = (), **values: object) -> None:
        super().__init__(message, hint=hint, **values)
        self.log_tail = log_tail


class EngineStalled(EngineDied):
    """The engine did nothing for too long while it was needed, and was ended."""


class UpstreamDown(EngineError):
    """Another server, which has the model, does not answer or broke off."""


class EngineRefused(EngineError):
    """The engine answered a request with an error of its own."""


class Busy(ZhibeiError):
    """The queue is full or the service is stopping. ``retry_after_s`` is in seconds."""

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: int = 1, **values: object) -> None:
        super().__init__(message, hint=hint, **values)
        self.retry_after_s = retry_after_s


class ShareFull(Busy):
    """One caller's part of the queue is full; others still have room."""


class ModelUnstable(Busy):
    """The model's engine died too often in a short time; it is left alone for a while."""
