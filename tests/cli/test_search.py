"""``zhibei search``: the table, JSON, filters, and hubs that answer or do not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from support.program import Program, Ran, free_port
from zhibei.cli.render import columns

OFFLINE = {"ZHIBEI_OFFLINE": "true"}
NOTICE = "notice: Zhibei is set to be offline: only the catalogue was searched.\n"


def rows(ran: Ran) -> list[list[str]]:
    assert ran.code == 0, ran.err
    return [line.split() for line in ran.out.splitlines()[1:]]


def test_the_table_and_what_to_do_next(program: Program) -> None:
    ran = program("search", "llama3", "8b", env=OFFLINE)
    head, *lines = ran.out.splitlines()
    assert head.split() == ["NAME", "SIZE", "LICENCE", "DOWNLOADS", "FITS"]
    assert lines[0].split()[:2] == ["llama3:8b", "4.6"]
    assert max(map(columns, ran.out.splitlines())) <= 80
    assert ran.err == NOTICE + "Fetch one: zhibei pull llama3:8b\n"
    assert not program.home.exists()


def test_without_words_the_catalogue_is_listed_and_no_hub_asked(program: Program) -> None:
    ran = program("search", "--task", "rerank", "--limit", "2")
    assert len(rows(ran)) == 2
    assert ran.err.startswith("Fetch one: zhibei pull ")


def test_chinese(program: Program) -> None:
    assert "bge-large-zh:v1.5" in program("search", "中文嵌入", "--hub", "catalogue").out
    free = program("search", "翻译", "--licence", "commercial", "--hub", "catalogue", "--json")
    models = json.loads(free.out)["models"]
    assert "hy-mt2:7b" in [model["ref"] for model in models]
    assert {model["commercial"] for model in models} == {True}


def test_filters(program: Program) -> None:
    ran = program("search", "command-r", "--licence", "commercial", "--hub", "catalogue")
    assert ran == Ran(0, "", "No model was found. Try fewer words, or: zhibei search --hub catalogue\n")
    assert rows(program("search", "aya", "--language", "EL", "--hub", "catalogue", "--limit", "1")) != []
    assert program("search", "aya", "--language", "zu", "--hub", "catalogue").out == ""


def test_json(program: Program) -> None:
    (model,) = json.loads(program("search", "gpt-oss:20b", "--json", env=OFFLINE).out)["models"]
    assert model.pop("fits") in ("yes", "no")
    assert model == {
        "ref": "gpt-oss:20b",
        "title": "gpt-oss 20B",
        "origin": "catalogue",
        "licence": "Apache-2.0",
        "commercial": True,
        "languages": ["en"],
        "tasks": ["generate"],
        "num_parameters": 20_900_000_000,
        "num_downloads": None,
        "sizes": {"MXFP4": 12_100_000_000},
        "sources": model["sources"],
        "is_here": False,
    }
    assert "hf:ggml-org/gpt-oss-20b-GGUF" in model["sources"]


def test_what_is_here_is_marked(stocked: Program) -> None:
    assert stocked("cp", "tiny", "smollm2:135m").code == 0
    ran = stocked("search", "smollm2:135m", env=OFFLINE)
    assert ran.out.splitlines()[1].startswith("* smollm2:135m ")
    assert ran.err == NOTICE + "Models with * are on this machine.\nAsk one: zhibei run smollm2:135m\n"
    assert json.loads(stocked("search", "smollm2:135m", "--json", env=OFFLINE).out)["models"][0]["is_here"] is True


@pytest.mark.parametrize(
    ("words", "err"),
    [
        (("--task", "sing"), "error: --task takes one of generate, embed, rerank, not 'sing'.\n"),
        (("--hub", "x"), "error: --hub takes one of all, catalogue, hf, ms, not 'x'.\n"),
        (("--limit", "0"), "error: --limit must be from 1 to 100, not 0.\n"),
        (("--licence", "free"), "error: --licence takes one of commercial, any, not 'free'.\n"),
    ],
)
def test_mistakes(program: Program, words: tuple[str, ...], err: str) -> None:
    assert program("search", "x", *words) == Ran(2, "", err)


LONG = "some-publisher-with-a-name/A-Model-With-A-Very-Long-Name-Indeed-Instruct-2512-GGUF"
AT_HUB = [
    {
        "id": "Qwen/Qwen2.5-7B-Instruct-GGUF",
        "downloads": 1_234_567,
        "tags": ["gguf", "license:apache-2.0"],
        "siblings": [{"rfilename": "qwen2.5-7b-instruct-q4_k_m.gguf"}],
    },
    {
        "id": LONG,
        "downloads": 42,
        "pipeline_tag": "text-generation",
        "tags": ["gguf", "en", "license:mit"],
        "siblings": [{"rfilename": "model-Q4_K_M.gguf"}],
    },
]


@contextmanager
def hub(status: int, body: object) -> Iterator[tuple[str, list[str]]]:
    """Something that answers every request alike; the paths that were asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", paths
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_hub_that_answers(program: Program) -> None:
    with hub(200, AT_HUB) as (url, paths):
        env = {"HF_ENDPOINT": url, "ZHIBEI_HF_MIRRORS": ""}
        ran = program("search", "qwen2.5", "--hub", "hf", env=env)
        found = json.loads(program("search", "qwen2.5", "--hub", "hf", "--json", env=env).out)["models"]
    assert ran.code == 0
    assert f"  hf:{LONG}\n" in ran.out
    assert [ran.out.splitlines()[1].split()[at] for at in (0, 3)] == ["hf:Qwen/Qwen2.5-7B-Instruct-GGUF", "1.2M"]
    assert max(columns(line) for line in ran.out.splitlines() if LONG not in line) <= 80
    assert all("qwen2.5" in path for path in paths)
    assert [model["ref"] for model in found] == ["hf:Qwen/Qwen2.5-7B-Instruct-GGUF", f"hf:{LONG}"]
    assert (found[1]["languages"], found[1]["tasks"], found[1]["commercial"]) == (["en"], ["generate"], True)


def test_a_hub_that_does_not_answer_is_named(program: Program) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ran = program("search", "qwen2.5", "--hub", "hf", env={"HF_ENDPOINT": url, "ZHIBEI_HF_MIRRORS": ""})
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith("notice: Hugging Face could not be searched: ")


def test_one_hub_that_fails_does_not_spoil_the_rest(program: Program) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    with hub(200, AT_HUB) as (url, _):
        env = {"HF_ENDPOINT": url, "ZHIBEI_HF_MIRRORS": "", "ZHIBEI_MS_ENDPOINT": closed}
        ran = program("search", "qwen2.5", "7b", "--limit", "9", "--json", env=env)
    models = {model["ref"]: model for model in json.loads(ran.out)["models"]}
    assert models["qwen2.5:7b"]["num_downloads"] == 1_234_567
    assert models[f"hf:{LONG}"]["origin"] == "hf"
    assert "hf:Qwen/Qwen2.5-7B-Instruct-GGUF" not in models
    assert ran.err.startswith("notice: ModelScope could not be searched: ")
