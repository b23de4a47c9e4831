"""Chat templates that come inside a model (J-01 to J-06): whatever one does, it does to its own worker and to nothing else.

They are rendered by llama.cpp in the worker, when the model is loaded and for every chat; how long and in how much memory
cannot be bounded there. What is tested is that the service lives, says so in words, and serves other models meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from support.serving import Serving, import_model, serving
from zhibei.workshop.gguf_file import write_gguf
from zhibei.workshop.named_shapes import TINY
from zhibei.workshop.random_blocks import RandomBlocks
from zhibei.workshop.random_models import describe

pytest.importorskip("xllamacpp", reason="the engine: pip install 'zhibei[llama-cpp]'")

SECRET = "what stands in a file of this machine"
PLAIN = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
LOOPS = "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}{% endfor %}{% endfor %}{% endfor %}"
ESCAPES = (
    "{{ cycler.__init__.__globals__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ '' | attr('__class__') }}",
    "{{ '%s' | format(self._TemplateReference__context) }}",
    "{{ lipsum.__globals__.os.popen('cat SECRET').read() }}",
    "{{ namespace.__init__.__globals__ }}{{ joiner.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
)


def on(word: str, work: str) -> str:
    """A template that is harmless until somebody says the word."""
    return "{% if messages[-1].content == '" + word + "' %}" + work + "{% endif %}" + PLAIN


class Home:
    """A store that models with templates are put into."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.secret = directory / "secret.txt"
        self.secret.write_text(SECRET)
        self._directory = directory
        self._shape = next(shape for shape in TINY if shape.architecture == "llama")

    def add(self, name: str, template: str) -> str:
        metadata, tensors = describe(self._shape)
        others = [(key, value) for key, value in metadata if key != "tokenizer.chat_template"]
        path = self._directory / f"{name}.gguf"
        write_gguf(path, [*others, ("tokenizer.chat_template", template)], tensors, RandomBlocks(0).pieces)
        import_model(self.home, path, name)
        return name


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = Home(tmp_path_factory.mktemp("templates"))
    made.add("plain", PLAIN)
    return made


@pytest.fixture(scope="module")
def server(home: Home) -> Iterator[Serving]:
    with serving(home.home, engine="llama.cpp") as running:
        yield running


def say(server: Serving, model: str, text: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 4}
    return httpx.post(server.url + "/v1/chat/completions", json={**body, "load": {"ctx_size": 512, "parallel": 1}}, timeout=120)


def lives(server: Serving) -> None:
    assert httpx.get(server.url + "/health", timeout=20).json() == {"status": "ok"}
    assert say(server, "plain", "hello").status_code == 200


def prompt_of(server: Serving, model: str, text: str) -> str:
    reply = httpx.post(
        server.url + "/apply-template", json={"model": model, "messages": [{"role": "user", "content": text}]}, timeout=60
    )
    assert reply.status_code == 200, reply.text
    return str(reply.json()["prompt"])


@pytest.mark.parametrize("number", range(len(ESCAPES)))
def test_nothing_is_reached_from_a_template(server: Serving, home: Home, number: int) -> None:
    escape = ESCAPES[number].replace("SECRET", str(home.secret))
    name = home.add(f"escape{number}", on("go", escape))
    said = [say(server, name, text).text for text in ("hello", "go")]
    for text in said:
        assert SECRET not in text and "<class" not in text and "0x" not in text
    lives(server)


@pytest.mark.parametrize(
    "template",
    [
        "{% include 'SECRET' %}" + PLAIN,
        "{% import 'SECRET' as s %}{{ s }}",
        "{% if %}",
        "{{ 'A' * 10**10 }}",
        "{{ " + "(" * 20_000,
    ],
    ids=["include", "import", "syntax", "long", "parentheses"],
)
def test_a_template_that_cannot_be_used_is_refused_with_words(server: Serving, home: Home, template: str) -> None:
    name = home.add("unusable", template.replace("SECRET", str(home.secret)))
    reply = say(server, name, "hello")
    assert 400 <= reply.status_code < 600 and reply.json()["error"]["message"] and SECRET not in reply.text
    listed = httpx.get(server.url + "/v1/models", timeout=20).json()["data"]
    assert f"{name}:latest" in [each["id"] for each in listed]
    lives(server)


def test_a_model_without_a_usable_template_still_continues_text(server: Serving, home: Home) -> None:
    name = home.add("templateless", "{% if %}")
    reply = say(server, name, "hello")
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "template_unusable"), reply.text
    assert "--chat-template-file" in reply.text and "--ctx-size" not in reply.text
    load = {"ctx_size": 512, "parallel": 1}
    raw = {"model": name, "prompt": "hello", "max_tokens": 4, "load": load}
    assert httpx.post(server.url + "/v1/completions", json=raw, timeout=60).status_code == 200
    assert httpx.post(server.url + "/apply-template", json={"model": name, "messages": []}, timeout=60).status_code >= 400
    assert say(server, name, "hello").status_code == 422


def test_a_macro_that_calls_itself_ends_its_worker_and_the_next_one_serves(server: Serving, home: Home) -> None:
    name = home.add("macro", on("go", "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(1) }}"))
    assert say(server, name, "hello").status_code == 200
    reply = say(server, name, "go")
    assert reply.status_code in (400, 500, 502) and reply.json()["error"]["message"]
    assert say(server, name, "hello").status_code == 200
    lives(server)


def test_what_a_template_raises_is_said(server: Serving, home: Home) -> None:
    name = home.add("raising", on("go", "{{ raise_exception('roles must alternate') }}"))
    assert say(server, name, "hello").status_code == 200
    reply = say(server, name, "go")
    assert (reply.status_code, "roles must alternate" in reply.text) == (400, True), reply.text
    assert len(reply.json()["error"]["message"]) < 1000


def test_what_a_person_says_is_no_template(server: Serving) -> None:
    text = "{{7*7}} {% raw %} <|im_start|>system [INST]"
    assert prompt_of(server, "plain", text) == f"<|user|>{text}\n"


def test_while_a_template_has_no_end_others_are_served_and_it_is_gone_when_it_is_unloaded(server: Serving, home: Home) -> None:
    name = home.add("loops", on("go", LOOPS))
    assert say(server, name, "hello").status_code == 200
    assert server.app is not None
    pool = server.app.pool
    pid = next(resident.pid for resident in pool.residents() if resident.name == f"{name}:latest")
    assert pid is not None
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(say, server, name, "go")
        began_s = psutil.Process(pid).cpu_times().user
        # It computes: more than an idle worker does in an hour.
        server.until(lambda: psutil.Process(pid).cpu_times().user > began_s + 0.5)
        for _ in range(3):
            lives(server)
        psutil.Process(pid).kill()
        reply = waiting.result()
    assert reply.status_code == 502 and reply.json()["error"]["message"]
    assert say(server, name, "hello").status_code == 200
    lives(server)
