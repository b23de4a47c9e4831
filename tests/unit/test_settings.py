"""Settings: where each value comes from, what is refused and how that is said, and what a child process is told."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from zhibei import settings as module
from zhibei.envvars import CONFIG_FILE_VAR, ENV_VARS, EnvVar
from zhibei.errors import BadSetting
from zhibei.options import LoadOptions
from zhibei.settings import Resolved, Settings, child_environment, locale_language, resolve, wants_color

VALUES = {
    "ZHIBEI_MODEL_FOLDERS": ("/models,/more", (Path("/models"), Path("/more"))),
    "HF_ENDPOINT": ("https://mirror.example", "https://mirror.example"),
    "ZHIBEI_HF_MIRRORS": ("https://a.example,https://b.example", ("https://a.example", "https://b.example")),
    "HF_TOKEN": ("hf_secret", "hf_secret"),
    "ZHIBEI_MS_ENDPOINT": ("https://ms.example", "https://ms.example"),
    "MODELSCOPE_API_TOKEN": ("ms-secret", "ms-secret"),
    "ZHIBEI_OLLAMA_REGISTRY": ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    "ZHIBEI_MAX_RATE": ("10MB", "10MB"),
    "ZHIBEI_CONNECTIONS": ("4", 4),
    "ZHIBEI_CA_FILE": ("/certificates/ca.pem", Path("/certificates/ca.pem")),
    "ZHIBEI_OFFLINE": ("true", True),
    "ZHIBEI_TLS_CERT": ("/keys/cert.pem", Path("/keys/cert.pem")),
    "ZHIBEI_TLS_KEY": ("/keys/key.pem", Path("/keys/key.pem")),
    "ZHIBEI_LOG_FORMAT": ("json", "json"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
    "ZHIBEI_LANG": ("zh", "zh"),
    "ZHIBEI_HOME": ("/somewhere/else", Path("/somewhere/else")),
    "ZHIBEI_HOST": ("0.0.0.0", "0.0.0.0"),
    "ZHIBEI_PORT": ("8080", 8080),
    "ZHIBEI_API_KEY": ("s3cret", "s3cret"),
    "ZHIBEI_ALLOWED_HOSTS": ("a.example, b.example,", ("a.example", "b.example")),
    "ZHIBEI_ORIGINS": ("https://a.example", ("https://a.example",)),
    "ZHIBEI_MAX_QUEUE": ("7", 7),
    "ZHIBEI_KEEP_ALIVE": ("forever", "forever"),
    "ZHIBEI_MAX_MODELS": ("3", 3),
    "ZHIBEI_MODEL": ("other:tag", "other:tag"),
    "ZHIBEI_ENGINE": ("echo", "echo"),
    "ZHIBEI_CTX_SIZE": ("4096", 4096),
    "ZHIBEI_THREADS": ("5", 5),
    "ZHIBEI_GPU_LAYERS": ("0", 0),
    "ZHIBEI_KERNELS": ("false", False),
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def rows(resolved: Resolved) -> dict[str, tuple[object, str, str | None]]:
    return {name: (value, origin, which) for name, value, origin, which in resolved.rows()}


def from_file(config: Path, text: str) -> Settings:
    config.write_text(text, encoding="utf-8")
    return resolve(environ={}, config=config).settings


def test_defaults_need_nothing() -> None:
    found = resolve(environ={})
    assert found.settings == dataclasses.replace(Settings(), home=found.settings.home)
    assert found.settings.home.is_absolute() and found.settings.home.name == "zhibei"
    assert {origin for _, origin, _ in rows(found).values()} == {"default"}
    assert found.settings.keep_alive_s == 300


def test_building_settings_makes_no_directory(tmp_path: Path) -> None:
    found = resolve(environ={"ZHIBEI_HOME": str(tmp_path / "new" / "home")})
    assert found.settings.home == tmp_path / "new" / "home"
    assert list(tmp_path.iterdir()) == []


def test_each_layer_covers_the_one_below(config: Path) -> None:
    config.write_text("model = 'file'\nkeep_alive = '1m'\nmax_models = 1\n[server]\nport = 1\n", encoding="utf-8")
    environ = {"ZHIBEI_KEEP_ALIVE": "2m", "ZHIBEI_MAX_MODELS": "2", "ZHIBEI_PORT": "", CONFIG_FILE_VAR: str(config)}
    found = rows(resolve({"max_models": 3, "model": None}, environ))
    assert found["model"] == ("file", "file", str(config))
    assert found["keep_alive"] == ("2m", "environment", "ZHIBEI_KEEP_ALIVE")
    assert found["max_models"] == (3, "flag", None)
    assert found["server.port"] == (1, "file", str(config))
    assert found["engine"] == ("auto", "default", None)


def test_there_is_a_value_here_for_every_variable() -> None:
    assert set(VALUES) == {var.name for var in ENV_VARS}
    assert len({var.setting for var in ENV_VARS}) == len(ENV_VARS)
    assert CONFIG_FILE_VAR not in VALUES


@pytest.mark.parametrize("var", ENV_VARS, ids=lambda var: var.name)
def test_every_variable_sets_its_setting(var: EnvVar) -> None:
    text, value = VALUES[var.name]
    assert rows(resolve(environ={}))[var.setting][0] != value
    assert rows(resolve(environ={var.name: text}))[var.setting] == (value, "environment", var.name)
    assert var.meaning.endswith(".")


def test_the_config_file_may_be_named(config: Path) -> None:
    config.write_text("model = 'x'", encoding="utf-8")
    found = resolve(environ={CONFIG_FILE_VAR: str(config)})
    assert (found.settings.model, found.config_path) == ("x", config)


def test_the_default_config_file_follows_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "default_config_path", lambda: tmp_path / "here.toml")
    assert resolve(environ={}).config_path == tmp_path / "here.toml"
    (tmp_path / "here.toml").write_text("lang = 'zh'", encoding="utf-8")
    assert resolve(environ={}).settings.lang == "zh"


@pytest.mark.skipif(sys.platform != "linux", reason="XDG is Linux's convention")
def test_the_default_config_file_on_linux(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert module.default_config_path() == tmp_path / "zhibei" / "config.toml"


def test_every_kind_of_value_in_a_file(config: Path) -> None:
    found = from_file(
        config,
        """
        load_timeout_s = 30
        home = "~/models"
        [server]
        allowed_hosts = ["a", "b"]
        allow_insecure_bind = true
        [load]
        cache_type_k = "q8_0"
        flash_attn = "off"
        mmap = false
        tensor_split = [3, 1.5]
        lora = [["/a.gguf", 0.5], "/b=c/d.gguf", "/e.gguf=2"]
        rope_freq_base = 1e6
        [sampling]
        temperature = 0
        logit_bias = [[15, -1], "16=2.5"]
        """,
    )
    assert found.load_timeout_s == 30.0 and isinstance(found.load_timeout_s, float)
    assert found.home == Path.home() / "models"
    assert found.server.allowed_hosts == ("a", "b")
    assert found.server.allow_insecure_bind is True
    assert found.load == LoadOptions(
        cache_type_k="q8_0",
        flash_attn="off",
        mmap=False,
        tensor_split=(3.0, 1.5),
        lora=(("/a.gguf", 0.5), ("/b=c/d.gguf", 1.0), ("/e.gguf", 2.0)),
        rope_freq_base=1e6,
    )
    assert found.sampling.temperature == 0.0
    assert found.sampling.logit_bias == ((15, -1.0), (16, 2.5))


def test_a_byte_order_mark_is_no_part_of_the_file(config: Path) -> None:
    config.write_bytes(b"\xef\xbb\xbfmodel = 'x'\r\n")
    assert resolve(environ={}, config=config).settings.model == "x"


@pytest.mark.parametrize("text", ["1", "true", "YES", "on"])
def test_true(text: str) -> None:
    assert resolve({"load.mmap": text}, {}).settings.load.mmap is True


@pytest.mark.parametrize("text", ["0", "False", "no", "OFF"])
def test_false(text: str) -> None:
    assert resolve({"load.mmap": text}, {}).settings.load.mmap is False


@pytest.mark.parametrize(
    "line",
    [
        "server.port = 'http'",
        "server.port = 80.5",
        "server.port = true",
        "server.port = inf",
        "server.port = nan",
        "server.port = [1]",
        "server.port = -1",
        "server.port = 65536",
        "server.port = 99999999999999999999",
        "server.host = ''",
        "server.api_key = ' '",
        "server.allowed_hosts = 3",
        "server.max_queue = 0",
        "server.max_body_bytes = 0",
        "server.allow_insecure_bind = 'perhaps'",
        "max_models = -1",
        "model = ''",
        "model = 1979-05-27",
        "home = '~no_such_person_/x'",
        "lang = 'fr'",
        "load_timeout_s = nan",
        "load_timeout_s = inf",
        "load_timeout_s = 0",
        "load_timeout_s = 'soon'",
        "keep_alive = 'for a while'",
        "keep_alive = '999999999d'",
        "keep_alive = true",
        "model_folders = 3",
        "model_folders = ['~no_such_person_/x']",
        "hubs.hf_endpoint = ''",
        "hubs.hf_endpoint = 'huggingface.co'",
        "hubs.hf_endpoint = 'ftp://a.example'",
        "hubs.hf_endpoint = 'https:///models'",
        "hubs.hf_endpoint = 'https://a.example:0'",
        "hubs.hf_endpoint = 'https://a.example:99999'",
        "hubs.hf_endpoint = 'https://a.example/ x'",
        'hubs.hf_endpoint = "https://a.example\\n"',
        "hubs.hf_mirrors = ['https://a.example', 'b.example']",
        "hubs.hf_mirrors = 3",
        "hubs.hf_token = ' '",
        "hubs.ms_endpoint = 'https://a.example?x=1'",
        "hubs.ms_endpoint = 'https://a.example#x'",
        "hubs.ms_token = ''",
        "hubs.ollama_registry = 'http://[::1'",
        "hubs.ollama_registry = 5000",
        "download.max_rate = 'fast'",
        "download.max_rate = '-5MB'",
        "download.max_rate = ''",
        "download.max_rate = '10'",
        "download.max_rate = true",
        "download.connections = 0",
        "download.connections = 'many'",
        "download.connections = 1.5",
        "download.ca_file = '~no_such_person_/ca.pem'",
        "download.offline = 'perhaps'",
        "load.ctx_size = 0",
        "load.threads = -2",
        "load.gpu_layers = -1",
        "load.cache_type_k = 'q9'",
        "load.flash_attn = true",
        "load.tensor_split = ['much']",
        "load.tensor_split = 'a,b'",
        "load.lora = [['a']]",
        "load.lora = [['a', 1, 2]]",
        "load.lora = 'a=b'",
        "load.lora = [5]",
        "sampling.logit_bias = [['x', 1]]",
        "sampling.temperature = nan",
    ],
)
def test_a_bad_value_is_refused_and_named(config: Path, line: str) -> None:
    with pytest.raises(BadSetting) as caught:
        from_file(config, line)
    said = f"{caught.value} {caught.value.hint_text}"
    name = line.partition(" =")[0]
    assert name.rpartition(".")[2] in said or "is not a port" in said or "language" in said or "duration" in said


@pytest.mark.parametrize(
    ("variable", "text", "words", "hint"),
    [
        ("HF_ENDPOINT", "huggingface.co", "hubs.hf_endpoint cannot be 'huggingface.co'", "https://host"),
        ("ZHIBEI_HF_MIRRORS", "https://a.example,x", "hubs.hf_mirrors cannot be 'x'", "https://host"),
        ("ZHIBEI_MS_ENDPOINT", "x", "hubs.ms_endpoint", "http://host:port"),
        ("ZHIBEI_OLLAMA_REGISTRY", "x", "hubs.ollama_registry", "http://host:port"),
        ("ZHIBEI_MAX_RATE", "fast", "download.max_rate cannot be 'fast'", "500MB"),
        ("ZHIBEI_CONNECTIONS", "many", "ZHIBEI_CONNECTIONS cannot be 'many'", "whole number"),
        ("ZHIBEI_OFFLINE", "perhaps", "ZHIBEI_OFFLINE cannot be 'perhaps'", "true | false"),
        ("ZHIBEI_MODEL_FOLDERS", "~no_such_person_/x", "ZHIBEI_MODEL_FOLDERS", "list"),
    ],
)
def test_a_bad_variable_is_named_and_the_right_form_told(variable: str, text: str, words: str, hint: str) -> None:
    with pytest.raises(BadSetting) as caught:
        resolve(environ={variable: text})
    assert words in str(caught.value)
    assert hint in (caught.value.hint_text or "")


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    for name in ("hubs.hf_endpoint", "hubs.ms_endpoint", "hubs.ollama_registry"):
        with pytest.raises(BadSetting) as caught:
            resolve({name: "https://me:s3cret@a.example"}, {})
        assert "s3cret" not in f"{caught.value} {caught.value.hint_text} {caught.value.values}"
        assert "a.example" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"), [(None, None), ("10MB", 10_000_000), ("1KiB", 1024), ("1048576", 1 << 20), ("1.5 GiB", 3 << 29)]
)
def test_the_rate_as_a_number(text: str | None, expected: int | None) -> None:
    assert resolve({"download.max_rate": text}, {}).settings.download.max_bytes_per_s == expected


def test_hubs_folders_and_downloads_in_a_file(config: Path) -> None:
    found = from_file(
        config,
        """
        model_folders = ["~/models", "/more"]
        [hubs]
        hf_endpoint = "http://127.0.0.1:8080/hf"
        hf_mirrors = []
        [download]
        max_rate = 2048
        offline = true
        """,
    )
    assert found.model_folders == (Path.home() / "models", Path("/more"))
    assert (found.hubs.hf_endpoint, found.hubs.hf_mirrors) == ("http://127.0.0.1:8080/hf", ())
    assert (found.download.max_bytes_per_s, found.download.offline, found.download.connections) == (2048, True, 128)


@pytest.mark.parametrize(
    "name", ["port", "server", "server.", "server.port.x", "Server.port", "nothing", "load.ctx", "", ".", "lang.x"]
)
def test_an_unknown_name_is_refused_and_the_known_ones_are_told(name: str) -> None:
    with pytest.raises(BadSetting) as caught:
        resolve({name: "1"}, {})
    assert "server.port" in str(caught.value.hint_text)


def test_the_complaint_says_where_the_value_is(config: Path) -> None:
    for made, where in (
        (lambda: from_file(config, "[server]\nport = 'x'"), f"{config}: server.port"),
        (lambda: resolve(environ={"ZHIBEI_PORT": "x"}), "ZHIBEI_PORT"),
        (lambda: resolve({"server.port": "x"}, {}), "server.port"),
    ):
        with pytest.raises(BadSetting) as caught:
            made()
        assert str(caught.value) == f"{where} cannot be 'x'."
        assert caught.value.hint_text == "It takes whole number."


def test_a_file_that_is_not_there_matters_only_when_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="does not exist"):
        resolve(environ={}, config=tmp_path / "none.toml")
    with pytest.raises(BadSetting, match="does not exist"):
        resolve(environ={CONFIG_FILE_VAR: str(tmp_path / "none.toml")})


@pytest.mark.parametrize("content", [b"a = ", b"[server\nport=1", b"a = 1\na = 2", b"\xff\xfe\x00", b"model = 'x' y"])
def test_a_file_that_is_no_toml(config: Path, content: bytes) -> None:
    config.write_bytes(content)
    with pytest.raises(BadSetting) as caught:
        resolve(environ={}, config=config)
    assert str(config) in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="cannot be read"):
        resolve(environ={}, config=tmp_path)


SECRETS = {
    "HF_TOKEN": "x",
    "HUGGING_FACE_HUB_TOKEN": "x",
    "OPENAI_API_KEY": "x",
    "ANTHROPIC_API_KEY": "x",
    "NVIDIA_API_KEY": "x",
    "CUDA_SECRET": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_ACCESS_KEY_ID": "x",
    "GITHUB_TOKEN": "x",
    "ZHIBEI_API_KEY": "x",
    "ZHIBEI_HOME": "x",
    "SSH_AUTH_SOCK": "x",
    "HTTPS_PROXY": "http://user:password@proxy",
    "PIP_INDEX_URL": "https://user:password@index",
    "LD_PRELOAD": "x.so",
    "PYTHONSTARTUP": "x.py",
}
NEEDED = {
    "PATH": "/bin",
    "HOME": "/home/x",
    "LANG": "C",
    "LD_LIBRARY_PATH": "/lib",
    "CUDA_VISIBLE_DEVICES": "1",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "HSA_OVERRIDE_GFX_VERSION": "10.3.0",
    "GGML_VK_VISIBLE_DEVICES": "0",
    "OMP_NUM_THREADS": "2",
}


def test_a_child_gets_what_it_needs_and_no_secret() -> None:
    found = child_environment({**SECRETS, **NEEDED})
    assert found == {**NEEDED, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}


def test_a_child_cannot_be_told_to_import_from_its_working_directory() -> None:
    assert child_environment({"PYTHONSAFEPATH": ""})["PYTHONSAFEPATH"] == "1"


@pytest.mark.parametrize(
    ("environ", "lang"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "en_US.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN"}, "zh"),
        ({"LC_ALL": "C", "LANG": "zh_CN"}, "en"),
        ({"LC_ALL": "C.UTF-8", "LANG": "zh_CN"}, "en"),
        ({"LC_ALL": "", "LANG": "zh_CN"}, "zh"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:en"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en:zh"}, "en"),
        ({"LANG": "C", "LANGUAGE": "zh"}, "en"),
        ({"LANGUAGE": "zh"}, "en"),
    ],
)
def test_the_language_of_the_locale(environ: dict[str, str], lang: str) -> None:
    assert locale_language(environ) == lang


@pytest.mark.parametrize(
    ("environ", "wanted"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)]
)
def test_colours(environ: dict[str, str], wanted: bool) -> None:
    assert wants_color(environ) is wanted


def test_tables_by_name_take_names_with_dots(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[models."qwen2.5:7b"]\npin = true\naliases = ["gpt-4o"]\nload.ctx_size = 4096\n'
        '[upstreams.box]\nurl = "http://127.0.0.1:11434"\n'
    )
    found = resolve(environ={}, config=config)
    model = found.settings.models["qwen2.5:7b"]
    assert model.pin and model.aliases == ("gpt-4o",) and model.load.ctx_size == 4096 and not model.preload
    assert found.settings.upstreams["box"].url == "http://127.0.0.1:11434"
    assert ('models."qwen2.5:7b".pin', True, "file", str(config)) in found.rows()


@pytest.mark.parametrize("text", ["models = 3", "[models]\nx = 3", "[models.x]\nbad = 1", '[models.x.load]\nctx_size = "a"'])
def test_a_table_by_name_holds_settings_that_exist(tmp_path: Path, text: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    with pytest.raises(BadSetting):
        resolve(environ={}, config=config)


@pytest.mark.parametrize(
    "text",
    [
        '[models.x]\nkeep_alive = "a while"',
        "[models.x.load]\nctx_size = 3",
        '[models."a:b".load]\nparallel = 0',
        "[server]\nmax_wait_s = 0",
    ],
)
def test_a_models_own_values_are_checked_like_those_for_all(tmp_path: Path, text: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    with pytest.raises(BadSetting):
        resolve(environ={}, config=config)
    config.write_text('[models.x]\nkeep_alive = "forever"\nload.gpu_layers = 0\n[server]\nmax_wait_s = 1\n')
    assert resolve(environ={}, config=config).settings.models["x"].load.gpu_layers == 0


def test_variables_that_nothing_reads() -> None:
    environ = {"ZHIBEI_PROT": "1", "ZHIBEI_PORT": "1", CONFIG_FILE_VAR: "x", "OTHER": "", "ZHIBEI_A": ""}
    assert module.unknown_variables(environ) == ("ZHIBEI_A", "ZHIBEI_PROT")
