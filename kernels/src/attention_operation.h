// ggml's FLASH_ATTN_EXT among the threads of its pool.
#pragma once

#include "ggml_abi.h"
#include "level.h"

namespace zhibei {

// Whether this attention is one that the loops can do; all others are left to ggml.
bool takes_attention(const AttentionLoops & loops, const abi::Tensor & op);

size_t attention_work_bytes(const AttentionLoops & loops, int num_threads, const abi::Tensor & op);

// This thread's part of it. Every thread of the pool calls it.
void compute_attention(const abi::Functions & ggml, const AttentionLoops & loops, const abi::ComputeParams & params, abi::Tensor & op);

}  // namespace zhibei
