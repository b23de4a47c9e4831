// A few products and attentions against ggml's own, before a model is trusted to this library.
#pragma once

#include "ggml_abi.h"
#include "level.h"

namespace zhibei {

bool passes_self_test(const abi::Functions & ggml, const Level & level);

// One attention for a prompt and one for generation.
bool attention_passes_self_test(const abi::Functions & ggml, const Level & level);

}  // namespace zhibei
