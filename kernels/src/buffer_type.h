// The buffer type that llama.cpp's loader offers every weight to: repacks what it is given, computes with it later.
#pragma once

#include "ggml_abi.h"
#include "level.h"

namespace zhibei {

// Puts it before ggml's own extra buffer types. Call it once, before a model is loaded.
void install_buffer_type(const abi::Functions & ggml, const Level & level, bool with_attention);

}  // namespace zhibei
