#include "buffer_type.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <thread>
#include <vector>

#include "attention_operation.h"
#include "operations.h"

namespace zhibei {

namespace {

constexpr size_t ALIGNMENT = 64;
constexpr size_t HUGE_PAGE = size_t{2} << 20;
// Rows to repack below which starting threads costs more than it saves.
constexpr size_t BYTES_PER_THREAD = size_t{4} << 20;

// Fixed for the life of the process: a model may be loaded at any time after.
abi::Functions ggml;
const Level * level;
bool attention_too;
abi::BufferType buffer_type;

const Format * format_of(const abi::Tensor & weights) {
    const Format * format = level->find(weights.type);
    // Whole blocks; two values are one of BF16's.
    if (format == nullptr || weights.ne[0] % format->block_values != 0 || weights.ne[3] != 1) return nullptr;
    return format;
}

bool is_ours(const abi::Tensor * tensor) { return tensor != nullptr && tensor->buffer != nullptr && tensor->buffer->type == &buffer_type; }

bool whole(const abi::Tensor & tensor) { return tensor.view_src == nullptr || tensor.view_offs == 0; }

size_t tensor_bytes(const Format & format, const abi::Tensor & tensor) {
    return matrix_bytes(format, tensor.ne[1], tensor.ne[0]) * static_cast<size_t>(tensor.ne[2]);
}

class Traits : public abi::TensorTraits {
  public:
    bool work_size(int num_threads, const abi::Tensor * op, size_t & size) override {
        size = std::max(size, work_bytes(*format_of(*op->src[0]), num_threads, *op));
        return true;
    }

    bool compute_forward(abi::ComputeParams * params, abi::Tensor * op) override {
        compute(ggml, *format_of(*op->src[0]), *params, *op);
        return true;
    }
};

class AttentionTraits : public abi::TensorTraits {
  public:
    bool work_size(int num_threads, const abi::Tensor * op, size_t & size) override {
        size = std::max(size, attention_work_bytes(*level->attention, num_threads, *op));
        return true;
    }

    bool compute_forward(abi::ComputeParams * params, abi::Tensor * op) override {
        compute_attention(ggml, *level->attention, *params, *op);
        return true;
    }
};

class ExtraBufferType : public abi::ExtraBufferType {
  public:
    bool supports_op(abi::Device *, const abi::Tensor * op) override {
        const abi::Tensor * weights = op->src[0];
        const abi::Tensor * other = op->src[1];
        if (!is_ours(weights) || other == nullptr || format_of(*weights) == nullptr || !whole(*weights)) return false;
        for (int i = 1; i < 3; i++) {
            const abi::Tensor * source = op->src[i];
            if (source != nullptr && source->buffer != nullptr && !ggml.is_host(source->buffer->type)) return false;
        }
        switch (op->op) {
            case abi::OP_MUL_MAT: return weights->ne[2] == 1 && other->type == abi::TYPE_F32 && other->nb[0] == sizeof(float);
            case abi::OP_MUL_MAT_ID: return other->type == abi::TYPE_F32 && other->nb[0] == sizeof(float);
            case abi::OP_GET_ROWS: return weights->ne[2] == 1 && other->type == abi::TYPE_I32 && op->type == abi::TYPE_F32;
            default: return false;
        }
    }

    abi::TensorTraits * get_tensor_traits(const abi::Tensor * op) override {
        // ggml asks for every operation, also for those without any weights.
        if (op->op == abi::OP_FLASH_ATTN_EXT) return attention_too && takes_attention(*level->attention, *op) ? &attention_ : nullptr;
        const bool known = op->op == abi::OP_MUL_MAT || op->op == abi::OP_MUL_MAT_ID || op->op == abi::OP_GET_ROWS;
        return known && is_ours(op->src[0]) ? &traits_ : nullptr;
    }

  private:
    Traits traits_;
    AttentionTraits attention_;
};

// One matrix, shared out among threads by whole tiles: the loader itself waits in a single one.
void pack_matrix(const Format & format, const uint8_t * from, uint8_t * to, int64_t num_rows, int64_t num_values) {
    const size_t tile_bytes = TILE_ROWS * row_bytes(format, num_values);
    const int64_t tiles = tiles_of(num_rows);
    const auto pack_part = [&](int64_t first, int64_t last) {
        const int64_t rows = std::min(last * TILE_ROWS, num_rows) - first * TILE_ROWS;
        const size_t at = static_cast<size_t>(first) * tile_bytes;
        if (rows > 0) format.pack(from + at, to + at, rows, num_values);
    };
    const size_t wanted = static_cast<size_t>(tiles) * tile_bytes / BYTES_PER_THREAD + 1;
    const auto parts = static_cast<int64_t>(std::min<size_t>(wanted, std::max(1u, std::thread::hardware_concurrency())));
    std::vector<std::thread> threads;
    for (int64_t part = 1; part < parts; part++) threads.emplace_back(pack_part, tiles * part / parts, tiles * (part + 1) / parts);
    pack_part(0, tiles / parts);
    for (std::thread & thread : threads) thread.join();
}

void set_tensor(abi::Buffer *, abi::Tensor * tensor, const void * data, size_t offset, size_t size) {
    const Format * format = format_of(*tensor);
    const size_t rows_bytes = format == nullptr ? 0 : static_cast<size_t>(tensor->ne[1]) * row_bytes(*format, tensor->ne[0]);
    // The loader always hands over whole tensors; anything else would corrupt weights silently.
    if (format == nullptr || offset != 0 || size != rows_bytes * static_cast<size_t>(tensor->ne[2])) std::abort();
    const size_t packed_bytes = matrix_bytes(*format, tensor->ne[1], tensor->ne[0]);
    for (size_t i = 0; i < static_cast<size_t>(tensor->ne[2]); i++) {
        pack_matrix(*format, static_cast<const uint8_t *>(data) + i * rows_bytes, static_cast<uint8_t *>(tensor->data) + i * packed_bytes,
                    tensor->ne[1], tensor->ne[0]);
    }
}

void free_buffer(abi::Buffer * buffer) { std::free(buffer->context); }

void * get_base(abi::Buffer * buffer) { return buffer->context; }

void memset_tensor(abi::Buffer *, abi::Tensor * tensor, uint8_t value, size_t offset, size_t size) {
    std::fill_n(static_cast<uint8_t *>(tensor->data) + offset, size, value);
}

void clear(abi::Buffer * buffer, uint8_t value) { std::fill_n(static_cast<uint8_t *>(buffer->context), buffer->size, value); }

const char * get_name(abi::BufferType *) { return "CPU_ZHIBEI"; }

abi::Buffer * alloc_buffer(abi::BufferType * type, size_t size) {
    const size_t rounded = (std::max<size_t>(size, 1) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void * memory = std::aligned_alloc(HUGE_PAGE, rounded);
    if (memory == nullptr) return nullptr;
    // Streaming through weights with pages of 4 KiB spends much of its time finding them. Only whole huge pages of data
    // are asked for, so that a small buffer does not take two megabytes.
    (void) madvise(memory, size / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    abi::BufferInterface interface = {};
    interface.free_buffer = free_buffer;
    interface.get_base = get_base;
    interface.memset_tensor = memset_tensor;
    interface.set_tensor = set_tensor;
    interface.clear = clear;
    return ggml.buffer_init(type, interface, memory, size);
}

size_t get_alignment(abi::BufferType *) { return ALIGNMENT; }

size_t get_alloc_size(abi::BufferType *, const abi::Tensor * tensor) {
    const Format * format = format_of(*tensor);
    return format == nullptr ? tensor->nb[3] * static_cast<size_t>(tensor->ne[3]) : tensor_bytes(*format, *tensor);
}

}  // namespace

void install_buffer_type(const abi::Functions & functions, const Level & chosen, bool with_attention) {
    static ExtraBufferType extra;
    ggml = functions;
    level = &chosen;
    attention_too = with_attention;
    buffer_type.interface.get_name = get_name;
    buffer_type.interface.alloc_buffer = alloc_buffer;
    buffer_type.interface.get_alignment = get_alignment;
    buffer_type.interface.get_alloc_size = get_alloc_size;
    buffer_type.device = ggml.registry_device(ggml.cpu_registry(), 0);
    // ggml casts this pointer back to the abstract class.
    buffer_type.context = static_cast<abi::ExtraBufferType *>(&extra);
    auto & types = ggml.extra_buffer_types();
    types.insert(types.begin(), &buffer_type);
}

}  // namespace zhibei
