"""Every environment variable Zhibei reads: name, setting, meaning. Only this file names them; only settings.py reads them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EnvVar:
    """A variable: its name, the dotted setting it sets, and what it is for."""

    name: str
    setting: str
    meaning: str


ENV_VARS = (
    EnvVar("ZHIBEI_LANG", "lang", "Language of messages: en or zh."),
    EnvVar("ZHIBEI_HOME", "home", "Directory of models and state."),
    EnvVar("ZHIBEI_HOST", "server.host", "Address the server listens on, and that commands look for a server at."),
    EnvVar("ZHIBEI_PORT", "server.port", "Port of the server."),
    EnvVar("ZHIBEI_API_KEY", "server.api_key", "Key that clients must present; also presented by commands."),
    EnvVar("ZHIBEI_ALLOWED_HOSTS", "server.allowed_hosts", "Host names, separated by commas, that requests may be addressed to."),
    EnvVar("ZHIBEI_ORIGINS", "server.origins", "Web origins, separated by commas, whose pages may call the server."),
    EnvVar("ZHIBEI_TLS_CERT", "server.tls_cert", "Certificate of the server, in PEM form; commands trust it."),
    EnvVar("ZHIBEI_TLS_KEY", "server.tls_key", "Key of the certificate, in PEM form."),
    EnvVar("ZHIBEI_MAX_QUEUE", "server.max_queue", "Requests that may wait for a model before new ones are refused."),
    EnvVar("ZHIBEI_LOG_FORMAT", "server.log_format", "The server's line for each request: text, json or off."),
    EnvVar("OTEL_EXPORTER_OTLP_ENDPOINT", "server.otlp_endpoint", "Collector that the server sends traces to, over OTLP/HTTP."),
    EnvVar("ZHIBEI_KEEP_ALIVE", "keep_alive", "How long an idle model stays loaded: 5m, 0, forever."),
    EnvVar("ZHIBEI_MAX_MODELS", "max_models", "Models that may be loaded at once; 0: as memory allows."),
    EnvVar("ZHIBEI_MODEL", "model", "Model that run uses when none is named."),
    EnvVar("ZHIBEI_ENGINE", "engine", "Engine to use: auto, llama.cpp or echo."),
    EnvVar("ZHIBEI_CTX_SIZE", "load.ctx_size", "Context in tokens, instead of what fits."),
    EnvVar("ZHIBEI_THREADS", "load.threads", "CPU threads, instead of the physical cores."),
    EnvVar("ZHIBEI_GPU_LAYERS", "load.gpu_layers", "Layers on the GPU, instead of all."),
    EnvVar("ZHIBEI_KERNELS", "load.kernels", "Compute with zhibei-kernels, where they are installed: true or false."),
    EnvVar("ZHIBEI_MODEL_FOLDERS", "model_folders", "Folders of models, separated by commas, that list --all looks into."),
    EnvVar("HF_ENDPOINT", "hubs.hf_endpoint", "Hugging Face, or a mirror to use instead of it."),
    EnvVar("ZHIBEI_HF_MIRRORS", "hubs.hf_mirrors", "Mirrors, separated by commas, tried when Hugging Face cannot be reached."),
    EnvVar("HF_TOKEN", "hubs.hf_token", "Token for models that need a login; sent to the endpoint, never to a mirror."),
    EnvVar("ZHIBEI_MS_ENDPOINT", "hubs.ms_endpoint", "ModelScope, or another site of its kind."),
    EnvVar("MODELSCOPE_API_TOKEN", "hubs.ms_token", "Token for ModelScope."),
    EnvVar("ZHIBEI_OLLAMA_REGISTRY", "hubs.ollama_registry", "Registry that ollama: pulls from."),
    EnvVar("ZHIBEI_MAX_RATE", "download.max_rate", "Most bytes a second that a download may take: 10MB."),
    EnvVar("ZHIBEI_CONNECTIONS", "download.connections", "Most connections that one file is fetched over."),
    EnvVar("ZHIBEI_CA_FILE", "download.ca_file", "Certificates to trust, in PEM form, beside the system's."),
    EnvVar("ZHIBEI_OFFLINE", "download.offline", "Make no requests to the outside: true or false."),
)
CONFIG_FILE_VAR = "ZHIBEI_CONFIG"
