"""Settings: defaults < config.toml < environment < flags, resolved once and frozen. The only reader of the environment.

Building settings has no side effect; no directory is made here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from zhibei.envvars import CONFIG_FILE_VAR, ENV_VARS
from zhibei.errors import BadRequest, BadSetting
from zhibei.options import LoadOptions, Sampling
from zhibei.refs import is_upstream_model, is_upstream_name
from zhibei.setting_values import convert, describe, flatten, quoted, split_name
from zhibei.units import parse_bytes, parse_keep_alive

DEFAULT_PORT = 11435
DEFAULT_MODEL = "smollm2:135m"
LANGUAGES = ("en", "zh")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The HTTP edge. ``allow_insecure_bind`` lets it listen beyond loopback without a key.

    ``tls_cert``, ``tls_key``: files in PEM form; with them it speaks HTTPS alone.
    ``max_wait_s``: how long a request may wait in the queue.
    ``log_format``: of the line for each request. ``otlp_endpoint``: where traces go; None: nowhere.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    api_key: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_queue: int = 128
    max_wait_s: float = 600.0
    max_body_bytes: int = 16 * 1024 * 1024
    allow_insecure_bind: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    log_format: Literal["text", "json", "off"] = "text"
    otlp_endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class HubSettings:
    """Where models come from. Tokens go to the endpoint they belong to; mirrors never get one."""

    hf_endpoint: str = "https://huggingface.co"
    hf_mirrors: tuple[str, ...] = ("https://hf-mirror.com",)
    hf_token: str | None = None
    ms_endpoint: str = "https://www.modelscope.cn"
    ms_token: str | None = None
    ollama_registry: str = "https://registry.ollama.ai"


@dataclass(frozen=True, slots=True)
class DownloadSettings:
    """How models are fetched. ``max_rate`` is in bytes a second as text (``10MB``); ``connections`` for one file, at most."""

    max_rate: str | None = None
    connections: int = 128
    ca_file: Path | None = None
    offline: bool = False

    @property
    def max_bytes_per_s(self) -> int | None:
        """The limit as a number; None: no limit."""
        return parse_bytes(self.max_rate) if self.max_rate is not None else None


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What is wanted of one model: ``[models."name:tag"]``. What is not said here is as for all models.

    ``aliases``: further names it answers to. ``pin``: it never makes room for others. ``preload``: it is loaded when the
    server starts.
    """

    aliases: tuple[str, ...] = ()
    pin: bool = False
    preload: bool = False
    keep_alive: str | None = None
    system: str | None = None
    load: LoadOptions = LoadOptions()
    sampling: Sampling = Sampling()


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Another server whose models are offered here: ``[upstreams.name]``. ``models`` empty: all that it lists."""

    url: str = ""
    api_key: str | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. ``keep_alive`` is a duration as text (``5m``); ``max_models`` 0 means as memory allows.

    ``model_folders``: plain folders of models beside the store, shown by ``list --all``. ``stall_timeout_s``: how long an
    engine may do nothing while it is needed. ``prompt_cache_disk``: what the prompts of unloaded models may take (``4GiB``).
    """

    lang: str | None = None
    home: Path = Path()
    model: str = DEFAULT_MODEL
    engine: str = "auto"
    keep_alive: str = "5m"
    max_models: int = 0
    load_timeout_s: float = 600.0
    stall_timeout_s: float = 30.0
    prompt_cache_disk: str = "4GiB"
    model_folders: tuple[Path, ...] = ()
    server: ServerSettings = ServerSettings()
    hubs: HubSettings = HubSettings()
    download: DownloadSettings = DownloadSettings()
    load: LoadOptions = LoadOptions()
    sampling: Sampling = Sampling()
    models: Mapping[str, ModelSettings] = field(default_factory=dict)
    upstreams: Mapping[str, UpstreamSettings] = field(default_factory=dict)

    @property
    def keep_alive_s(self) -> float | None:
        """Seconds an idle model stays loaded; None: for ever."""
        return parse_keep_alive(self.keep_alive)

    @property
    def prompt_cache_disk_bytes(self) -> int:
        """The limit as a number; 0: none are kept."""
        return parse_bytes(self.prompt_cache_disk)


Origin = Literal["default", "file", "environment", "flag"]
Origins = Mapping[str, tuple[Origin, str | None]]
_SECRETS = ("api_key", "hf_token", "ms_token")


def is_secret(name: str) -> bool:
    """Whether a setting's value is never to be shown; ``name`` is dotted."""
    return name.rpartition(".")[2] in _SECRETS


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings and where each dotted value came from: its origin and, for a file or variable, which."""

    settings: Settings
    origins: Mapping[str, tuple[Origin, str | None]] = field(default_factory=dict)
    config_path: Path | None = None

    def rows(self) -> list[tuple[str, object, Origin, str | None]]:
        """``(dotted name, value, origin, which)`` of every setting, in order."""
        found: list[tuple[str, object, Origin, str | None]] = []
        for name, value in _walk(self.settings):
            origin, which = self.origins.get(name, ("default", None))
            found.append((name, value, origin, which))
        return found


def resolve(
    flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None, config: Path | None = None
) -> Resolved:
    """Resolve all settings.

    Args:
        flags: dotted name → value; None values are "not given".
        environ: instead of the process's environment.
        config: instead of the default configuration file.

    Raises:
        BadSetting: a value, name or file that does not parse.
    """
    env = os.environ if environ is None else environ
    path = config or (Path(env[CONFIG_FILE_VAR]) if env.get(CONFIG_FILE_VAR) else default_config_path())
    settings = replace(Settings(), home=_default_home())
    origins: dict[str, tuple[Origin, str | None]] = {}
    for name, value in _read_file(path, explicit=config is not None or bool(env.get(CONFIG_FILE_VAR))):
        settings = _with(settings, name, value, f"{path}: {name}")
        origins[name] = ("file", str(path))
    for var in ENV_VARS:
        if env.get(var.name):
            settings = _with(settings, var.setting, env[var.name], var.name)
            origins[var.setting] = ("environment", var.name)
    for name, value in (flags or {}).items():
        if value is not None:
            settings = _with(settings, name, value, name)
            origins[name] = ("flag", None)
    _check(settings)
    return Resolved(settings, origins, path)


def default_config_path() -> Path:
    """Where ``config.toml`` is looked for, by the conventions of this system."""
    from platformdirs import user_config_path

    return user_config_path("zhibei", appauthor=False) / "config.toml"


def locale_language(environ: Mapping[str, str] | None = None) -> str:
    """``zh`` if the process's locale is Chinese, else ``en``: by gettext's rules, where ``LANGUAGE`` refines a locale."""
    env = os.environ if environ is None else environ
    locale = next((env[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if env.get(name)), "C")
    if locale.partition(".")[0] in ("C", "POSIX"):
        return "en"
    return "zh" if (env.get("LANGUAGE") or locale).lower().startswith("zh") else "en"


def wants_color(environ: Mapping[str, str] | None = None) -> bool:
    """Whether a terminal should be given colours: not with ``NO_COLOR``, nor where ``TERM`` says it has none."""
    env = os.environ if environ is None else environ
    return not env.get("NO_COLOR") and env.get("TERM") != "dumb"


def unknown_variables(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Variables that are named as ours are and that nothing reads: most likely misspelt."""
    env = os.environ if environ is None else environ
    known = {var.name for var in ENV_VARS} | {CONFIG_FILE_VAR}
    return tuple(sorted(name for name in env if name.startswith("ZHIBEI_") and name not in known))


def child_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment an engine's process gets: what programs and drivers need, and nothing that could be a secret."""
    env = os.environ if environ is None else environ
    wanted = {key for key in env if key in _CHILD_NAMES or key.startswith(_CHILD_PREFIXES)}
    keep = {key: env[key] for key in wanted if not _SECRET_NAME.search(key)}
    return {**keep, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}


def program_environment(more: Mapping[str, str], environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a program that a person starts by us: their own, and ``more``."""
    return {**(os.environ if environ is None else environ), **more}


def pip_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment pip gets when it fetches a model: the person's own index, proxy and certificates, and no other secret."""
    env = os.environ if environ is None else environ
    keep = {key: value for key, value in env.items() if key.upper() in _PIP_NAMES or key.upper().startswith("PIP_")}
    return {**child_environment(env), **keep}


def outgoing_proxy(url: str, environ: Mapping[str, str] | None = None) -> str | None:
    """The proxy for a URL, as ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` have it (in either case).

    Raises:
        BadSetting: it is of a kind that is not supported (SOCKS).
    """
    from urllib.parse import urlsplit

    env = os.environ if environ is None else environ
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    bypass = [item.strip().lower() for item in (_either_case(env, "no_proxy") or "").split(",") if item.strip()]
    if host == "localhost" or host.startswith("127.") or host == "::1" or "*" in bypass:
        return None
    if any(host == item.partition(":")[0].lstrip(".") or host.endswith("." + item.lstrip("*.")) for item in bypass):
        return None
    proxy = _either_case(env, f"{parts.scheme}_proxy") or _either_case(env, "all_proxy")
    if proxy and "://" not in proxy:
        proxy = "http://" + proxy
    if proxy and not proxy.lower().startswith(("http://", "https://")):
        shown = proxy.rpartition("@")[2]
        hint = "Set HTTPS_PROXY to an http:// proxy."
        raise BadSetting("The proxy {proxy} is of a kind that is not supported.", hint=hint, proxy=shown)
    return proxy or None


def foreign_directories(environ: Mapping[str, str] | None = None) -> tuple[Path, str, dict[str, str]]:
    """What tells where other programs keep their models: the home directory, the system, and their variables that are set."""
    env = os.environ if environ is None else environ
    return Path.home(), sys.platform, {name: env[name] for name in _FOREIGN_NAMES if env.get(name)}


def _either_case(env: Mapping[str, str], name: str) -> str | None:
    return env.get(name) or env.get(name.upper())


def _check_endpoint(name: str, url: str) -> None:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        is_good = False
    if not is_good or parts.query or parts.fragment or re.search(r"\s", url) or not url.isprintable():
        shown = re.sub(r"//[^/]*@", "//…@", url)
        raise BadSetting(
            "{name} cannot be {url!r}.", hint="Write it like https://host or http://host:port.", name=name, url=shown
        )


_FOREIGN_NAMES = (
    "OLLAMA_MODELS HF_HOME HF_HUB_CACHE HUGGINGFACE_HUB_CACHE MODELSCOPE_CACHE "
    "XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME APPDATA LOCALAPPDATA"
).split()
_PIP_NAMES = frozenset(
    "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE "
    "XDG_CONFIG_HOME XDG_CONFIG_DIRS NETRC PYTHONUSERBASE USER LOGNAME USERNAME".split()
)
_CHILD_NAMES = frozenset(
    "PATH HOME LANG LC_ALL LC_CTYPE TZ TMPDIR TEMP TMP SYSTEMROOT WINDIR COMSPEC LD_LIBRARY_PATH DYLD_LIBRARY_PATH "
    "VIRTUAL_ENV PYTHONPATH PYTHONHOME USERPROFILE APPDATA LOCALAPPDATA NUMBER_OF_PROCESSORS XDG_CACHE_HOME".split()
)
# NVIDIA_API_KEY begins like a driver's variable and is none.
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL")
_CHILD_PREFIXES = ("CUDA_", "NVIDIA_", "HIP_", "ROCR_", "ROCM_", "HSA_", "ONEAPI_", "SYCL_", "GGML_", "OMP_", "KMP_", "VK_")


def _default_home() -> Path:
    from platformdirs import user_data_path

    return user_data_path("zhibei", appauthor=False)


def _read_file(path: Path, *, explicit: bool) -> list[tuple[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        if explicit:
            raise BadSetting("The configuration file {path} does not exist.", path=path) from None
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting("The configuration file {path} cannot be read: {error}", path=path, error=error) from None
    return parse_file(path, text)


def parse_file(path: Path, text: str) -> list[tuple[str, Any]]:
    """What the text of a configuration file sets: dotted names and values, none of them checked.

    Raises:
        BadSetting: it is not TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSetting("The configuration file {path} is not valid TOML: {error}", path=path, error=error) from None
    return flatten(table, "")


def _walk(settings: Any, prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for f in fields(settings):
        value = getattr(settings, f.name)
        if isinstance(value, Mapping):
            for key, item in value.items():
                found += _walk(item, f"{prefix}{f.name}.{quoted(key)}.")
        else:
            found += _walk(value, f"{prefix}{f.name}.") if is_dataclass(value) else [(prefix + f.name, value)]
    return found


def _with(settings: Any, name: str, value: Any, where: str) -> Any:
    head, rest = split_name(name)
    hints = get_type_hints(type(settings))
    is_table = head in hints and get_origin(hints[head]) is Mapping
    key, field_name = split_name(rest)
    if is_table and key and field_name:
        table: Mapping[str, Any] = getattr(settings, head)
        entry = table.get(key) or get_args(hints[head])[1]()
        return replace(settings, **{head: {**table, key: _with(entry, field_name, value, where)}})
    if head not in hints or is_table or bool(rest) != is_dataclass(getattr(settings, head)):
        known = ", ".join(sorted(key for key, _ in _walk(Settings())))
        raise BadSetting(
            "There is no setting {name!r} ({where}).", hint="Known settings: {known}", name=name, where=where, known=known
        )
    if rest:
        return replace(settings, **{head: _with(getattr(settings, head), rest, value, where)})
    try:
        return replace(settings, **{head: convert(hints[head], value)})
    except (ValueError, TypeError, OverflowError, RuntimeError):
        raise BadSetting(
            "{where} cannot be {value!r}.", hint="It takes {kind}.", where=where, value=value, kind=describe(hints[head])
        ) from None


# A request waits in the queue while its model is loaded, so a queue of none would never load one.
_LEAST: Mapping[str, float] = {
    "max_models": 0,
    "load_timeout_s": 1,
    "stall_timeout_s": 1,
    "server.max_queue": 1,
    "server.max_wait_s": 1,
    "server.max_body_bytes": 1,
    "download.connections": 1,
    "load.ctx_size": 16,
    "load.parallel": 1,
    "load.threads": 1,
    "load.threads_batch": 1,
    "load.batch_size": 1,
    "load.ubatch_size": 1,
    "load.gpu_layers": 0,
    "load.main_gpu": 0,
    "load.cache_ram_mib": 0,
}


def _check_upstream(server: str, upstream: UpstreamSettings) -> None:
    if not is_upstream_name(server):
        hint = "Use small letters, digits, '.', '_' and '-'."
        raise BadSetting("Another server cannot be called {name!r}.", hint=hint, name=server[:100])
    _check_endpoint(f"upstreams.{server}.url", upstream.url)
    key = upstream.api_key
    if key is not None and not (key.strip() and key.isascii() and key.isprintable()):
        hint = "Keys are letters, digits and signs, without line breaks."
        raise BadSetting("{name} is no key.", hint=hint, name=f"upstreams.{server}.api_key")
    for model in upstream.models:
        if not is_upstream_model(model):
            raise BadSetting("{name} cannot name a model {model!r}.", name=f"upstreams.{server}.models", model=model[:100])


def _check_places(settings: Settings) -> None:
    for name in ("hf_endpoint", "ms_endpoint", "ollama_registry"):
        _check_endpoint(f"hubs.{name}", getattr(settings.hubs, name))
    for url in settings.hubs.hf_mirrors:
        _check_endpoint("hubs.hf_mirrors", url)
    if settings.server.otlp_endpoint is not None:
        _check_endpoint("server.otlp_endpoint", settings.server.otlp_endpoint)
    for server, upstream in settings.upstreams.items():
        _check_upstream(server, upstream)


def _check_models(settings: Settings) -> None:
    for model, (name, least) in product(settings.models, _LEAST.items()):
        value = getattr(settings.models[model].load, name.removeprefix("load."), None) if name.startswith("load.") else None
        if value is not None and value < least:
            raise BadSetting("{name} cannot be less than {least}.", name=f"models.{quoted(model)}.{name}", least=least)


def _check(settings: Settings) -> None:
    if settings.lang is not None and settings.lang not in LANGUAGES:
        raise BadSetting("There is no language {lang!r}.", hint="Use en or zh.", lang=settings.lang)
    if not 0 <= settings.server.port <= 65535:
        raise BadSetting("{port} is not a port.", hint="Ports are 1 to 65535; 0 takes a free one.", port=settings.server.port)
    values = dict(_walk(settings))
    # An empty host listens everywhere, and an empty key is one that everybody knows.
    for name in ("server.host", "server.api_key", "model", "engine", "hubs.hf_token", "hubs.ms_token"):
        if values[name] is not None and not str(values[name]).strip():
            raise BadSetting("{name} cannot be empty.", hint="Give it a value, or leave it out.", name=name)
    for name, least in _LEAST.items():
        value: Any = values[name]
        if value is not None and value < least:
            raise BadSetting("{name} cannot be less than {least}.", name=name, least=least)
    _check_places(settings)
    try:
        for keep_alive in (settings.keep_alive, *(model.keep_alive for model in settings.models.values())):
            parse_keep_alive(keep_alive if keep_alive is not None else "0")
    except BadRequest as error:
        raise BadSetting(error.message, hint=error.hint, **error.values) from None
    _check_models(settings)
    try:
        parse_bytes(settings.prompt_cache_disk)
    except BadRequest as error:
        where, value = "prompt_cache_disk", settings.prompt_cache_disk
        raise BadSetting("{where} cannot be {value!r}.", hint=error.hint, where=where, value=value) from None
    try:
        max_rate = settings.download.max_bytes_per_s
    except BadRequest as error:
        where, value = "download.max_rate", settings.download.max_rate
        raise BadSetting("{where} cannot be {value!r}.", hint=error.hint, where=where, value=value) from None
    if max_rate is not None and max_rate < 1024:
        raise BadSetting("{name} cannot be less than {least}.", name="download.max_rate", least="1KiB")
