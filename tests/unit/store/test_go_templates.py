"""Which chat format a Go template stands for, and the Jinja that llama.cpp is given in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from zhibei.chat import ChatRequest, Message
from zhibei.engines import registry
from zhibei.plans import EngineSpec
from zhibei.store.go_templates import FORMATS, chat_template, is_plain, recognise

LLAMA3 = (
    "{{ if .System }}<|start_header_id|>system<|end_header_id|>\n\n{{ .System }}<|eot_id|>{{ end }}"
    "{{ if .Prompt }}<|start_header_id|>user<|end_header_id|>\n\n{{ .Prompt }}<|eot_id|>{{ end }}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{{ .Response }}<|eot_id|>"
)
TEMPLATES = {
    "llama3": LLAMA3,
    "chatml": "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
    "phi4": "{{ range .Messages }}<|im_start|>{{ .Role }}<|im_sep|>\n{{ .Content }}<|im_end|>{{ end }}",
    "phi3": "<|system|>\n{{ .System }}<|end|>\n<|user|>\n{{ .Prompt }}<|end|>\n<|assistant|>\n{{ .Response }}",
    "zephyr": "<|system|>\n{{ .System }}</s>\n<|user|>\n{{ .Prompt }}</s>\n<|assistant|>\n{{ .Response }}</s>",
    "gemma": "<start_of_turn>user\n{{ .System }} {{ .Prompt }}<end_of_turn>\n<start_of_turn>model\n{{ .Response }}<end_of_turn>",
    "llama2": "[INST] <<SYS>>{{ .System }}<</SYS>>\n\n{{ .Prompt }} [/INST] {{ .Response }}",
    "mistral-v3": '{{ range .Messages }}{{ if eq .Role "user" }}[INST] {{ .Content }}[/INST]{{ end }}{{ end }}',
    "mistral-v7": '{{ "[SYSTEM_PROMPT]" }}{{ .System }}{{ "[/SYSTEM_PROMPT]" }}[INST]{{ .Prompt }}[/INST]',
    "vicuna": "{{ .System }}\nUSER: {{ .Prompt }}\nASSISTANT: {{ .Response }}</s>",
    "vicuna-orca": "SYSTEM: {{ .System }}\nUSER: {{ .Prompt }}\nASSISTANT: {{ .Response }}",
    "openchat": "{{ .System }}<|end_of_turn|>GPT4 Correct User: {{ .Prompt }}<|end_of_turn|>GPT4 Correct Assistant:",
    "deepseek": "{{ .System }}\n### Instruction:\n{{ .Prompt }}\n### Response:\n{{ .Response }}\n<|EOT|>",
    "alpaca": "{{ .System }}\n\n### Instruction:\n{{ .Prompt }}\n\n### Response:\n{{ .Response }}",
    "deepseek2": "{{ .System }}\n\nUser: {{ .Prompt }}\n\nAssistant: {{ .Response }}<｜end▁of▁sentence｜>",
    "deepseek3": "{{ .System }}{{ `<｜User｜>` }}{{ .Prompt }}<｜Assistant｜>{{ .Response }}",
    "command-r": "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{{ .Prompt }}<|END_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "chatglm4": "[gMASK]<sop><|system|>\n{{ .System }}<|user|>\n{{ .Prompt }}<|assistant|>\n{{ .Response }}",
    "granite": "<|start_of_role|>user<|end_of_role|>{{ .Prompt }}<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    "exaone3": "[|system|]{{ .System }}[|endofturn|]\n[|user|]{{ .Prompt }}\n[|assistant|]{{ .Response }}[|endofturn|]",
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_known_format_is_recognised(name: str) -> None:
    found = recognise(TEMPLATES[name])
    assert found is not None and found.name == name
    assert chat_template(TEMPLATES[name]) == found.jinja


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{{ .Prompt }}",
        "<|im_start|>{{ .Prompt }}",
        "### Human:\n{{ .Prompt }}\n### Machine:",
        "{{ /* <|im_start|> <|im_end|> */ }}{{ .Prompt }}",
        "<|START_RESPONSE|><|START_OF_TURN_TOKEN|><|USER_TOKEN|><|CHATBOT_TOKEN|>",
        "{{" * 10_000,
    ],
)
def test_an_unknown_format_is_not(template: str) -> None:
    assert recognise(template) is None
    assert chat_template(template) is None


def test_what_hands_a_prompt_on_as_it_is_is_plain() -> None:
    assert is_plain("{{ .Prompt }}")
    assert is_plain("{{- if .System }}{{ .System }} {{ end }}{{ .Prompt }}\n")
    assert not is_plain("Human: {{ .Prompt }}")
    assert not is_plain("{{ range .Messages }}{{ .Content }}{{ end }}")


def test_the_jinja_of_a_format_is_text_with_all_its_marks() -> None:
    for known in FORMATS:
        jinja = known.jinja
        assert jinja.count("{%") == jinja.count("%}") and jinja.count("{{") == jinja.count("}}")
        assert ("add_generation_prompt" in jinja) == bool(known.answer)
        assert "message.content" in jinja


WANTED = {
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    "<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
    "gemma": "<start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n"
    "<start_of_turn>user\nV<end_of_turn>\n<start_of_turn>model\n",
    "llama2": "[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A</s>[INST] V [/INST]",
    "alpaca": "S\n\n### Instruction:\nU\n\n### Response:\nA\n\n### Instruction:\nV\n\n### Response:\n",
}


@pytest.mark.model
@pytest.mark.parametrize("name", WANTED)
async def test_the_engine_makes_of_it_what_the_format_says(name: str, smollm2_path: Path) -> None:
    spec = EngineSpec(
        "llama.cpp", str(smollm2_path), "m", "generate", 256, 1, 256, 256, 1, 1, "f16", "f16", "auto", 0, 0,
        chat_template=chat_template(TEMPLATES[name]),
    )  # fmt: skip
    engine = await registry.create("llama.cpp").start(spec, lambda line: None)
    try:
        said = (("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V"))
        rendered = await engine.render(ChatRequest(tuple(Message.of(role, text) for role, text in said)))  # type: ignore[arg-type]
        assert rendered == WANTED[name]
    finally:
        await engine.close()
