"""Ollama's official JavaScript client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.node import run_node
from support.serving import MODEL, Serving, serving, stored_model
from zhibei.events import Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage

END = Finished(("stop",), Usage(7, 3))
BEGIN = "import { Ollama } from 'ollama'; const client = new Ollama({ host: given.url }); const model = given.model;\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    home = tmp_path_factory.mktemp("ollama") / "home"
    stored_model(home)
    with serving(home) as running:
        yield running


def test_generations(server: Serving, node_packages: Path) -> None:
    server.answers(
        (TextDelta("whole"), END),
        (TextDelta("a"), TextDelta("b"), END),
        (ReasoningDelta("Hm."), ToolCallDelta(0, '{"town": "Bergen"}', "x", "weather"), END),
        (TextDelta("c"), TextDelta("d"), END),
    )
    script = """
    const messages = [{ role: 'user', content: 'hello' }];
    const whole = await client.generate({ model, prompt: 'one' });
    const pieces = [];
    for await (const piece of await client.generate({ model, prompt: 'one', stream: true })) pieces.push(piece.response);
    const parameters = { type: 'object', properties: { town: { type: 'string' } } };
    const tools = [{ type: 'function', function: { name: 'weather', description: '', parameters } }];
    const called = await client.chat({ model, messages, tools });
    const said = [];
    let last;
    for await (const piece of await client.chat({ model, messages, stream: true })) {
      said.push(piece.message.content);
      last = piece;
    }
    const vectors = await client.embed({ model, input: ['a', 'b'] });
    give({ whole, pieces, message: called.message, said, last, num_vectors: vectors.embeddings.length });
    """
    found = run_node(BEGIN + script, node_packages, url=server.url, model=MODEL)
    assert (found["whole"]["response"], found["whole"]["done"], found["whole"]["eval_count"]) == ("whole", True, 3)
    assert (found["pieces"], found["said"], found["num_vectors"]) == (["a", "b", ""], ["c", "d", ""], 2)
    assert found["message"]["thinking"] == "Hm."
    assert found["message"]["tool_calls"][0]["function"]["arguments"] == {"town": "Bergen"}
    assert (found["last"]["done"], found["last"]["done_reason"]) == (True, "stop")


def test_models(server: Serving, node_packages: Path) -> None:
    script = """
    const before = await client.list();
    await client.copy({ source: model, destination: 'copied' });
    const steps = [];
    const made = await client.create({ model: 'made', from: 'copied', system: 'S', stream: true });
    for await (const step of made) steps.push(step.status);
    const shown = await client.show({ model: 'made' });
    await client.generate({ model: 'made', prompt: '' });
    const running = await client.ps();
    await client.delete({ model: 'made' });
    await client.delete({ model: 'copied' });
    const after = await client.list();
    const pulled = await client.pull({ model });
    const version = await client.version();
    const problem = await client.show({ model: 'nobody' }).catch((error) => error.message);
    give({ before: before.models.map((each) => each.name), steps, system: shown.system, pulled: pulled.status, problem,
           running: running.models.map((each) => each.name), after: after.models.length, version: version.version });
    """
    found = run_node(BEGIN + script, node_packages, url=server.url, model=MODEL)
    assert (found["before"], found["after"], found["system"]) == ([MODEL], 1, "S")
    assert found["running"] and found["running"][-1] == "made:latest"
    assert (found["steps"][-1], found["pulled"]) == ("success", "success")
    assert found["version"].count(".") == 2 and "not found" in found["problem"]
