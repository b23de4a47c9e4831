"""Small valid vocabularies: every byte has a token; more are fillers that no text is cut into."""

from __future__ import annotations

from collections.abc import Iterator
from string import printable

from zhibei.workshop.gguf_file import MetadataValue

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"


def byte_vocabulary(size: int) -> Iterator[tuple[str, MetadataValue]]:
    """Metadata of a sentence-piece vocabulary of ``size`` tokens, at least 259."""
    fillers = range(size - 259)
    yield "tokenizer.ggml.model", "llama"
    yield (
        "tokenizer.ggml.tokens",
        ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *(f"▁w{n}" for n in fillers)),
    )
    yield "tokenizer.ggml.scores", (0.0,) * 259 + tuple(-1000.0 - n for n in fillers)
    yield "tokenizer.ggml.token_type", (_UNKNOWN, _CONTROL, _CONTROL) + (_BYTE,) * 256 + (_NORMAL,) * len(fillers)
    yield "tokenizer.ggml.bos_token_id", 1
    yield "tokenizer.ggml.eos_token_id", 2
    yield "tokenizer.ggml.unknown_token_id", 0
    yield "tokenizer.ggml.add_bos_token", True
    yield "tokenizer.chat_template", _TEMPLATE


def word_piece_vocabulary(size: int) -> Iterator[tuple[str, MetadataValue]]:
    """Metadata of a vocabulary of word pieces of ``size`` tokens, for encoders: a letter is a word, or a part of one."""
    letters = sorted({letter.lower() for letter in printable if not letter.isspace()})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"▁{letter}" for letter in letters), *letters]
    tokens += [f"▁w{n}" for n in range(size - len(tokens))]
    yield "tokenizer.ggml.model", "bert"
    yield "tokenizer.ggml.pre", "default"
    yield "tokenizer.ggml.tokens", tokens
    yield "tokenizer.ggml.token_type", (_CONTROL,) * 5 + (_NORMAL,) * (size - 5)
    yield "tokenizer.ggml.token_type_count", 2
    for name, number in (("padding", 0), ("unknown", 1), ("cls", 2), ("bos", 2), ("seperator", 3), ("eos", 3), ("mask", 4)):
        yield f"tokenizer.ggml.{name}_token_id", number
