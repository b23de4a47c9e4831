"""Which chat format a Go template, as Ollama's models bring it, stands for, and the same format as a Jinja template. Pure.

A format is recognised by the words it marks turns with. llama.cpp takes Jinja only: the name of a format it has built in
would be taken for a template that is that one word, so what is handed over is always the text.
Names of formats and their marks: llama.cpp's src/llama-chat.cpp, and the cards of the models they come from.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_ACTION = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_TEXT = re.compile(r'"([^"]*)"|`([^`]*)`')
_CONTENT = re.compile(r"\.(?:Prompt|Content|Messages)\b")


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a conversation becomes text: what stands before and after each turn's content, and where the answer begins.

    ``marks`` must all occur in a template of this format, and none of ``others``. ``joins_system``: what the system says
    stands at the head of the next turn of the user. ``trims``: without the white space around contents. ``opening`` stands
    before everything.
    """

    name: str
    marks: tuple[str, ...]
    user: tuple[str, str]
    assistant: tuple[str, str]
    answer: str
    system: tuple[str, str]
    others: tuple[str, ...] = ()
    joins_system: bool = False
    trims: bool = False
    opening: str = ""

    @property
    def jinja(self) -> str:
        """The format as a Jinja template."""
        content = "(message.content or '')" + (" | trim" if self.trims else "")  # a turn that only calls a tool has none
        user = f"{_quoted(self.user[0])} + held.system + {content} + {_quoted(self.user[1])}"
        system = f"{_quoted(self.system[0])} + {content} + {_quoted(self.system[1])}"
        said = f"{{% set held.system = held.system + {system} %}}" if self.joins_system else f"{{{{ {system} }}}}"
        assistant = f"{_quoted(self.assistant[0])} + {content} + {_quoted(self.assistant[1])}"
        return (
            (f"{{{{ {_quoted(self.opening)} }}}}" if self.opening else "")
            + "{% set held = namespace(system='') %}{% for message in messages %}"
            + f"{{% if message.role == 'system' %}}{said}"
            + f"{{% elif message.role == 'assistant' %}}{{{{ {assistant} }}}}"
            + f"{{% else %}}{{{{ {user} }}}}{{% set held.system = '' %}}{{% endif %}}{{% endfor %}}"
            + (f"{{% if add_generation_prompt %}}{{{{ {_quoted(self.answer)} }}}}{{% endif %}}" if self.answer else "")
        )


def recognise(template: str) -> ChatFormat | None:
    """The format that a Go template stands for; None: it is not known."""
    text = _ACTION.sub(_literal, template)
    for known in FORMATS:
        if all(mark in text for mark in known.marks) and not any(mark in text for mark in known.others):
            return known
    return None


def chat_template(template: str) -> str | None:
    """The Jinja template for a Go template; None: its format is not known."""
    known = recognise(template)
    return known.jinja if known is not None else None


def is_plain(template: str) -> bool:
    """Whether a Go template marks no turns at all: it hands a prompt on as it is, as base and embedding models want it."""
    return not _ACTION.sub("", template).strip() and len(_CONTENT.findall(template)) <= 1


def _literal(action: re.Match[str]) -> str:
    """The texts that an action holds in quotes: some templates write their marks there."""
    return "".join(double or raw for double, raw in _TEXT.findall(action[0]))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _uniform(
    name: str,
    marks: tuple[str, ...],
    before: str,
    after: str,
    *,
    answer: str | None = None,
    trims: bool = False,
    opening: str = "",
) -> ChatFormat:
    """A format in which turns differ only by the word for the role, written ``{}`` in ``before``."""
    user, assistant, system = ((before.replace("{}", role), after) for role in ("user", "assistant", "system"))
    return ChatFormat(
        name, marks, user, assistant, assistant[0] if answer is None else answer, system, trims=trims, opening=opening
    )


_DEEPSEEK_END = "<｜end▁of▁sentence｜>"
_COHERE = "<|START_OF_TURN_TOKEN|>"
_COHERE_END = "<|END_OF_TURN_TOKEN|>"

# The first that fits is taken: the formats with the more particular marks come first.
FORMATS: tuple[ChatFormat, ...] = (
    _uniform("phi4", ("<|im_start|>", "<|im_sep|>"), "<|im_start|>{}<|im_sep|>", "<|im_end|>"),
    ChatFormat(
        "kimi-k2",
        ("<|im_user|>", "<|im_middle|>"),
        ("<|im_user|>user<|im_middle|>", "<|im_end|>"),
        ("<|im_assistant|>assistant<|im_middle|>", "<|im_end|>"),
        "<|im_assistant|>assistant<|im_middle|>",
        ("<|im_system|>system<|im_middle|>", "<|im_end|>"),
    ),
    _uniform("chatml", ("<|im_start|>", "<|im_end|>"), "<|im_start|>{}\n", "<|im_end|>\n"),
    _uniform(
        "llama3",
        ("<|start_header_id|>", "<|eot_id|>"),
        "<|start_header_id|>{}<|end_header_id|>\n\n",
        "<|eot_id|>",
        trims=True,
    ),
    _uniform("llama4", ("<|header_start|>", "<|eot|>"), "<|header_start|>{}<|header_end|>\n\n", "<|eot|>", trims=True),
    ChatFormat(
        "gemma",
        ("<start_of_turn>", "<end_of_turn>"),
        ("<start_of_turn>user\n", "<end_of_turn>\n"),
        ("<start_of_turn>model\n", "<end_of_turn>\n"),
        "<start_of_turn>model\n",
        ("", "\n\n"),
        joins_system=True,
        trims=True,
    ),
    _uniform("granite", ("<|start_of_role|>", "<|end_of_text|>"), "<|start_of_role|>{}<|end_of_role|>", "<|end_of_text|>\n"),
    _uniform("megrez", ("<|role_start|>", "<|turn_end|>"), "<|role_start|>{}<|role_end|>", "<|turn_end|>"),
    _uniform("solar-open", ("<|begin|>", "<|content|>"), "<|begin|>{}<|content|>", "<|end|>", answer="<|begin|>assistant"),
    _uniform("seed_oss", ("<seed:bos>", "<seed:eos>"), "<seed:bos>{}\n", "<seed:eos>"),
    _uniform("chatglm4", ("[gMASK]<sop>", "<|user|>", "<|assistant|>"), "<|{}|>\n", "", opening="[gMASK]<sop>"),
    _uniform("phi3", ("<|user|>", "<|end|>", "<|assistant|>"), "<|{}|>\n", "<|end|>\n"),
    _uniform("zephyr", ("<|user|>", "<|endoftext|>", "<|assistant|>"), "<|{}|>\n", "<|endoftext|>\n"),
    _uniform("zephyr", ("<|user|>", "</s>", "<|assistant|>"), "<|{}|>\n", "</s>\n"),
    ChatFormat(
        "exaone3",
        ("[|user|]", "[|assistant|]", "[|endofturn|]"),
        ("[|user|]", "\n"),
        ("[|assistant|]", "[|endofturn|]\n"),
        "[|assistant|]",
        ("[|system|]", "[|endofturn|]\n"),
        trims=True,
    ),
    ChatFormat(
        "command-r",
        (_COHERE, "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
        (_COHERE + "<|USER_TOKEN|>", _COHERE_END),
        (_COHERE + "<|CHATBOT_TOKEN|>", _COHERE_END),
        _COHERE + "<|CHATBOT_TOKEN|>",
        (_COHERE + "<|SYSTEM_TOKEN|>", _COHERE_END),
        others=("<|START_RESPONSE|>",),
        trims=True,
    ),
    ChatFormat(
        "deepseek3",
        ("<｜User｜>", "<｜Assistant｜>"),
        ("<｜User｜>", ""),
        ("<｜Assistant｜>", _DEEPSEEK_END),
        "<｜Assistant｜>",
        ("", "\n\n"),
    ),
    ChatFormat(
        "deepseek2",
        ("User: ", "Assistant:", _DEEPSEEK_END),
        ("User: ", "\n\n"),
        ("Assistant: ", _DEEPSEEK_END),
        "Assistant:",
        ("", "\n\n"),
    ),
    ChatFormat(
        "mistral-v7",
        ("[SYSTEM_PROMPT]", "[INST]"),
        ("[INST]", "[/INST]"),
        ("", "</s>"),
        "",
        ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    ),
    ChatFormat(
        "llama2",
        ("[INST]", "[/INST]", "<<SYS>>"),
        ("[INST] ", " [/INST]"),
        (" ", "</s>"),
        "",
        ("<<SYS>>\n", "\n<</SYS>>\n\n"),
        joins_system=True,
    ),
    ChatFormat("mistral-v3", ("[INST]", "[/INST]"), ("[INST] ", "[/INST]"), (" ", "</s>"), "", ("", "\n\n"), joins_system=True),
    ChatFormat(
        "openchat",
        ("GPT4 Correct", "<|end_of_turn|>"),
        ("GPT4 Correct User: ", "<|end_of_turn|>"),
        ("GPT4 Correct Assistant: ", "<|end_of_turn|>"),
        "GPT4 Correct Assistant:",
        ("", "<|end_of_turn|>"),
    ),
    ChatFormat("minicpm", ("<用户>", "<AI>"), ("<用户>", "<AI>"), ("", ""), "", ("", ""), trims=True),
    ChatFormat(
        "vicuna-orca",
        ("SYSTEM: ", "USER: ", "ASSISTANT:"),
        ("USER: ", "\n"),
        ("ASSISTANT: ", "</s>\n"),
        "ASSISTANT:",
        ("SYSTEM: ", "\n"),
    ),
    ChatFormat("vicuna", ("USER: ", "ASSISTANT:"), ("USER: ", "\n"), ("ASSISTANT: ", "</s>\n"), "ASSISTANT:", ("", "\n\n")),
    ChatFormat(
        "deepseek",
        ("### Instruction:", "### Response:", "<|EOT|>"),
        ("### Instruction:\n", "\n"),
        ("### Response:\n", "\n<|EOT|>\n"),
        "### Response:\n",
        ("", "\n"),
    ),
    ChatFormat(
        "alpaca",
        ("### Instruction:", "### Response:"),
        ("### Instruction:\n", "\n\n"),
        ("### Response:\n", "\n\n"),
        "### Response:\n",
        ("", "\n\n"),
    ),
)
