#include "self_test.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "attention_operation.h"
#include "levels.h"

namespace zhibei {

namespace {

constexpr int64_t NUM_VALUES = 512;
constexpr int64_t NUM_ROWS = 19;
constexpr int64_t NUM_COLUMNS = 35;
// Both sides round the activations in their own way; a wrong kernel is off by far more.
constexpr double MOST_ERROR = 1e-2;

std::vector<float> noise(size_t size, uint32_t seed) {
    std::vector<float> values(size);
    for (float & value : values) {
        seed = seed * 1664525u + 1013904223u;
        value = static_cast<float>(static_cast<int32_t>(seed)) * 0x1p-31f;
    }
    return values;
}

struct Aligned {
    explicit Aligned(size_t size) : bytes(static_cast<uint8_t *>(std::aligned_alloc(64, (size + 63) / 64 * 64 + 64))) {}
    ~Aligned() { std::free(bytes); }
    Aligned(const Aligned &) = delete;
    Aligned & operator=(const Aligned &) = delete;
    uint8_t * bytes;
};

std::vector<float> ours(const Format & format, const uint8_t * rows, const std::vector<float> & in) {
    std::vector<float> out(NUM_ROWS * NUM_COLUMNS);
    const Aligned tiles(matrix_bytes(format, NUM_ROWS, NUM_VALUES));
    const Aligned prepared(format.column_bytes(NUM_VALUES) * NUM_COLUMNS);
    const Aligned scratch(format.scratch_bytes(NUM_VALUES));
    format.pack(rows, tiles.bytes, NUM_ROWS, NUM_VALUES);
    Columns columns = {};
    columns.in = reinterpret_cast<const char *>(in.data());
    columns.out = reinterpret_cast<char *>(out.data());
    columns.counts[0] = columns.in_count = NUM_COLUMNS;
    columns.counts[1] = 1;
    columns.in_strides[0] = NUM_VALUES * sizeof(float);
    columns.out_strides[0] = NUM_ROWS * sizeof(float);
    for (int64_t first = 0; first < NUM_COLUMNS; first += format.width) {
        const int64_t count = NUM_COLUMNS - first < format.width ? NUM_COLUMNS - first : format.width;
        format.prepare(columns, first, count, NUM_VALUES, prepared.bytes + format.column_bytes(NUM_VALUES) * static_cast<size_t>(first));
    }
    const Product product = {{tiles.bytes, NUM_ROWS, NUM_VALUES}, &columns, 0, NUM_COLUMNS, prepared.bytes};
    format.multiply(product, 0, tiles_of(NUM_ROWS), scratch.bytes);
    return out;
}

// Weights of this format, and their product with `in` by ggml.
bool theirs(const abi::Functions & ggml, const Format & format, const std::vector<float> & in, std::vector<uint8_t> & rows,
            std::vector<float> & out) {
    abi::Context * context = ggml.init({size_t{16} << 20, nullptr, false});
    if (context == nullptr) return false;
    abi::Tensor * weights = ggml.new_tensor_2d(context, format.ggml_type, NUM_VALUES, NUM_ROWS);
    abi::Tensor * columns = ggml.new_tensor_2d(context, abi::TYPE_F32, NUM_VALUES, NUM_COLUMNS);
    const std::vector<float> values = noise(NUM_VALUES * NUM_ROWS, 7);
    const size_t written = ggml.quantize_chunk(format.ggml_type, values.data(), weights->data, 0, NUM_ROWS, NUM_VALUES, nullptr);
    const auto * stored = static_cast<const uint8_t *>(weights->data);
    rows.assign(stored, stored + written);
    std::copy(in.begin(), in.end(), static_cast<float *>(columns->data));
    abi::Tensor * product = ggml.mul_mat(context, weights, columns);
    abi::Graph * graph = ggml.new_graph(context);
    ggml.build_forward_expand(graph, product);
    const bool done = ggml.graph_compute_with_ctx(context, graph, 1) == 0;
    const auto * result = static_cast<const float *>(product->data);
    out.assign(result, result + NUM_ROWS * NUM_COLUMNS);
    ggml.free(context);
    return done && written == row_bytes(format, NUM_VALUES) * NUM_ROWS;
}

// Written so that a NaN fails.
bool close(const float * found, const std::vector<float> & expected) {
    double error = 0, size = 0;
    for (size_t at = 0; at < expected.size(); at++) {
        error += std::pow(static_cast<double>(found[at]) - expected[at], 2);
        size += std::pow(static_cast<double>(expected[at]), 2);
    }
    return error <= MOST_ERROR * MOST_ERROR * size;
}

void fill(const abi::Functions & ggml, abi::Tensor & tensor, uint32_t seed) {
    const int64_t rows = tensor.ne[1] * tensor.ne[2];
    const std::vector<float> values = noise(static_cast<size_t>(tensor.ne[0] * rows), seed);
    if (tensor.type == abi::TYPE_F32) std::copy(values.begin(), values.end(), static_cast<float *>(tensor.data));
    else ggml.quantize_chunk(tensor.type, values.data(), tensor.data, 0, rows, tensor.ne[0], nullptr);
}

// Some positions of six heads over a cache of two, by a mask that hides what comes later.
bool attention_is_close(const abi::Functions & ggml, const AttentionLoops & loops, int type, int64_t num_positions) {
    constexpr int64_t NUM_HEADS = 6, KEY_HEADS = 2, HEAD_VALUES = 64, NUM_KEYS = 150;
    abi::Context * context = ggml.init({size_t{16} << 20, nullptr, false});
    if (context == nullptr) return false;
    abi::Tensor * queries = ggml.new_tensor_3d(context, abi::TYPE_F32, HEAD_VALUES, num_positions, NUM_HEADS);
    abi::Tensor * keys = ggml.new_tensor_3d(context, type, HEAD_VALUES, NUM_KEYS, KEY_HEADS);
    abi::Tensor * values = ggml.new_tensor_3d(context, type, HEAD_VALUES, NUM_KEYS, KEY_HEADS);
    abi::Tensor * mask = ggml.new_tensor_2d(context, abi::TYPE_F16, NUM_KEYS, num_positions);
    fill(ggml, *queries, 5);
    fill(ggml, *keys, 6);
    fill(ggml, *values, 7);
    for (int64_t i = 0; i < num_positions * NUM_KEYS; i++) {
        const bool later = i % NUM_KEYS > NUM_KEYS / 2 + i / NUM_KEYS;
        static_cast<uint16_t *>(mask->data)[i] = later ? 0xfc00 : 0;
    }
    abi::Tensor * op = ggml.flash_attn_ext(context, queries, keys, values, mask, 0.5f, 0.0f, 0.0f);
    abi::Graph * graph = ggml.new_graph(context);
    ggml.build_forward_expand(graph, op);
    bool fine = ggml.graph_compute_with_ctx(context, graph, 1) == 0 && takes_attention(loops, *op);
    if (fine) {
        auto * out = static_cast<float *>(op->data);
        const std::vector<float> expected(out, out + HEAD_VALUES * NUM_HEADS * num_positions);
        std::fill(out, out + expected.size(), 0.0f);
        const size_t size = attention_work_bytes(loops, 1, *op);
        const Aligned work(size);
        compute_attention(ggml, loops, {0, 1, size, work.bytes, nullptr, false}, *op);
        fine = close(out, expected);
    }
    ggml.free(context);
    return fine;
}

}  // namespace

bool attention_passes_self_test(const abi::Functions & ggml, const Level & level) {
    for (const int type : {abi::TYPE_F16, abi::TYPE_Q8_0}) {
        for (const int64_t num_positions : {1, 70}) {
            if (!attention_is_close(ggml, *level.attention, type, num_positions)) return false;
        }
    }
    return true;
}

bool passes_self_test(const abi::Functions & ggml, const Level & level) {
    const std::vector<float> in = noise(NUM_VALUES * NUM_COLUMNS, 3);
    for (int i = 0; i < level_reference().num_formats; i++) {
        const Format * format = level.find(level_reference().formats[i].ggml_type);
        std::vector<uint8_t> rows;
        std::vector<float> expected;
        if (format == nullptr || !theirs(ggml, *format, in, rows, expected)) return false;
        const std::vector<float> found = ours(*format, rows.data(), in);
        if (!close(found.data(), expected)) return false;
    }
    return true;
}

}  // namespace zhibei
