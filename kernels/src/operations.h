// ggml's operations on repacked weights: what each thread of ggml's own pool does of one node of the graph.
#pragma once

#include "ggml_abi.h"
#include "level.h"

namespace zhibei {

// Bytes that the threads of an operation share while it runs.
size_t work_bytes(const Format & format, int num_threads, const abi::Tensor & op);

// This thread's part of it. Every thread of the pool calls it.
void compute(const abi::Functions & ggml, const Format & format, const abi::ComputeParams & params, abi::Tensor & op);

}  // namespace zhibei
