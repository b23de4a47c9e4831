#include "operations.h"

#include <algorithm>

namespace zhibei {

namespace {

constexpr size_t LINE = 64;
// Tiles of rows that a thread takes at a time when there is enough work to share out.
constexpr int64_t TILES_AT_ONCE = 4;
// For few columns: bytes of a matrix below which sharing out costs more than it brings, and pieces of its half for each thread.
constexpr size_t BYTES_TO_SHARE = size_t{1} << 20;
constexpr int64_t PIECES = 4;
// Columns of all experts, up to which each thread prepares those that it needs. No format takes more in one tile.
constexpr int64_t FEW_OF_EXPERTS = 32;

size_t aligned(size_t bytes) { return (bytes + LINE - 1) / LINE * LINE; }

// Where things lie in the memory that ggml lends to an operation: prepared columns and their order, then each thread's scratch.
struct Work {
    int64_t num_columns;
    int64_t num_groups;  // experts; 1 where there are none
    // Few columns are cheap enough for every thread to sort and prepare its own: no thread waits for another.
    bool alone;
    size_t starts_at;
    size_t order_at;
    size_t columns_bytes;
    size_t scratch_bytes;  // of one thread

    Work(const Format & format, const abi::Tensor & op) {
        const abi::Tensor & weights = *op.src[0];
        const bool by_expert = op.op == abi::OP_MUL_MAT_ID;
        num_columns = op.ne[1] * op.ne[2] * op.ne[3];
        num_groups = by_expert ? weights.ne[2] : 1;
        alone = num_columns <= (by_expert ? FEW_OF_EXPERTS : 1);
        starts_at = aligned(static_cast<size_t>(num_columns) * format.column_bytes(weights.ne[0]));
        order_at = starts_at + aligned(sizeof(int32_t) * static_cast<size_t>(num_groups + 1));
        columns_bytes = order_at + aligned(sizeof(int32_t) * static_cast<size_t>(num_columns));
        scratch_bytes = aligned(format.scratch_bytes(weights.ne[0]));
    }

    size_t columns_at(int thread) const { return alone ? columns_bytes * static_cast<size_t>(thread) : 0; }
    size_t scratch_at(int thread, int num_threads) const {
        return columns_bytes * static_cast<size_t>(alone ? num_threads : 1) + scratch_bytes * static_cast<size_t>(thread);
    }
    size_t total(int num_threads) const { return scratch_at(num_threads, num_threads) + LINE; }
};

uint8_t * aligned_work(const abi::ComputeParams & params) {
    const auto at = reinterpret_cast<uintptr_t>(params.wdata);
    return reinterpret_cast<uint8_t *>((at + LINE - 1) / LINE * LINE);
}

Columns columns_of(const abi::Tensor & op) {
    const abi::Tensor & in = *op.src[1];
    Columns columns = {};
    columns.in = static_cast<const char *>(in.data);
    columns.out = static_cast<char *>(op.data);
    columns.counts[0] = op.ne[1];
    columns.counts[1] = op.ne[2];
    columns.in_count = in.ne[1];
    for (int i = 0; i < 3; i++) {
        columns.in_strides[i] = in.nb[i + 1];
        columns.out_strides[i] = op.nb[i + 1];
    }
    return columns;
}

// Columns sorted by the expert that each of them asks for: `starts[e]..starts[e + 1]` of `order` are expert `e`'s.
void sort_by_expert(const abi::Tensor & ids, int64_t num_experts, int32_t * starts, int32_t * order) {
    const auto expert_of = [&](int64_t slot, int64_t token) {
        const size_t at = static_cast<size_t>(slot) * ids.nb[0] + static_cast<size_t>(token) * ids.nb[1];
        return *reinterpret_cast<const int32_t *>(static_cast<const char *>(ids.data) + at);
    };
    std::fill(starts, starts + num_experts + 1, 0);
    for (int64_t token = 0; token < ids.ne[1]; token++) {
        for (int64_t slot = 0; slot < ids.ne[0]; slot++) starts[expert_of(slot, token) + 1]++;
    }
    for (int64_t expert = 0; expert < num_experts; expert++) starts[expert + 1] += starts[expert];
    for (int64_t token = 0; token < ids.ne[1]; token++) {
        for (int64_t slot = 0; slot < ids.ne[0]; slot++) {
            order[starts[expert_of(slot, token)]++] = static_cast<int32_t>(token * ids.ne[0] + slot);
        }
    }
    // Filling moved every start to the next one's place.
    for (int64_t expert = num_experts; expert > 0; expert--) starts[expert] = starts[expert - 1];
    starts[0] = 0;
}

// One node of the graph, as one thread sees it.
class Multiplication {
  public:
    Multiplication(const abi::Functions & ggml, const Format & format, const abi::ComputeParams & params, abi::Tensor & op)
        : ggml_(ggml), format_(format), params_(params), op_(op), weights_(*op.src[0]), work_(format, op), memory_(aligned_work(params)),
          columns_(columns_of(op)) {
        plain_starts_[1] = static_cast<int32_t>(work_.num_columns);
        starts_ = plain_starts_;
    }

    void run() {
        const bool by_expert = op_.op == abi::OP_MUL_MAT_ID;
        if (by_expert) sort();
        if (by_expert && work_.alone) return multiply_experts();
        prepare();
        if (work_.num_columns > format_.width) multiply_by_chunks();
        else if (shares_rest()) multiply_and_share();
        else multiply_evenly();
    }

  private:
    void sort() {
        auto * starts = reinterpret_cast<int32_t *>(prepared() + work_.starts_at);
        auto * order = reinterpret_cast<int32_t *>(prepared() + work_.order_at);
        if (work_.alone || params_.ith == 0) sort_by_expert(*op_.src[2], work_.num_groups, starts, order);
        if (!work_.alone) ggml_.barrier(params_.threadpool);
        starts_ = starts;
        columns_.order = order;
    }

    void prepare() {
        const int num_threads = work_.alone ? 1 : params_.nth;
        for (int64_t group = 0, tile = 0; group < work_.num_groups; group++) tile = prepare_tiles(group, tile, num_threads);
        if (work_.alone && !shares_rest()) return;
        if (params_.ith == 0) ggml_.chunk_set(params_.threadpool, 0);
        ggml_.barrier(params_.threadpool);
    }

    // A group's tiles of columns, dealt out among `num_threads`; the first of them is number `tile` of all.
    int64_t prepare_tiles(int64_t group, int64_t tile, int num_threads) {
        for (int64_t first = starts_[group]; first < starts_[group + 1]; first += format_.width) {
            if (tile++ % num_threads != params_.ith % num_threads) continue;
            const int64_t count = std::min<int64_t>(format_.width, starts_[group + 1] - first);
            format_.prepare(columns_, first, count, weights_.ne[0], prepared_at(first));
        }
        return tile;
    }

    bool shares_rest() const {
        const bool is_large = matrix_bytes(format_, weights_.ne[1], weights_.ne[0]) >= BYTES_TO_SHARE;
        return is_large && tiles_of(weights_.ne[1]) >= 2 * PIECES * params_.nth;
    }

    // Few columns: memory decides, so each thread streams one stretch of the matrix.
    void multiply_evenly() {
        const int64_t tiles = tiles_of(weights_.ne[1]);
        multiply(0, tiles * params_.ith / params_.nth, tiles * (params_.ith + 1) / params_.nth);
    }

    // The same for half of the matrix, and the other half piece by piece: cores differ, and other programs hold some up.
    void multiply_and_share() {
        const int64_t tiles = tiles_of(weights_.ne[1]);
        const int64_t half = tiles / 2;
        multiply(0, half * params_.ith / params_.nth, half * (params_.ith + 1) / params_.nth);
        const int64_t pieces = PIECES * params_.nth;
        for (int64_t piece = next(); piece < pieces; piece = next()) {
            multiply(0, half + (tiles - half) * piece / pieces, half + (tiles - half) * (piece + 1) / pieces);
        }
    }

    // The experts that are asked for, one behind the other as if they were one matrix: each thread streams one stretch of it.
    void multiply_experts() {
        const int64_t tiles = tiles_of(weights_.ne[1]);
        int64_t num_used = 0;
        for (int64_t expert = 0; expert < work_.num_groups; expert++) num_used += starts_[expert + 1] > starts_[expert];
        const int64_t first = tiles * num_used * params_.ith / params_.nth;
        const int64_t last = tiles * num_used * (params_.ith + 1) / params_.nth;
        int64_t begin = 0;
        for (int64_t expert = 0; expert < work_.num_groups && begin < last; expert++) {
            if (starts_[expert] == starts_[expert + 1]) continue;
            if (begin + tiles > first) {
                prepare_tiles(expert, 0, 1);
                multiply(expert, std::max(first - begin, int64_t{0}), std::min(last - begin, tiles));
            }
            begin += tiles;
        }
    }

    // Many columns: threads take the next tiles as they get to it.
    void multiply_by_chunks() {
        const int64_t tiles = tiles_of(weights_.ne[1]);
        const int64_t chunks = (tiles + TILES_AT_ONCE - 1) / TILES_AT_ONCE;
        for (int64_t chunk = next(); chunk < chunks * work_.num_groups; chunk = next()) {
            const int64_t first = chunk % chunks * TILES_AT_ONCE;
            multiply(chunk / chunks, first, std::min(first + TILES_AT_ONCE, tiles));
        }
    }

    // The first number that no thread has taken.
    int64_t next() const { return ggml_.chunk_add(params_.threadpool, 1); }

    void multiply(int64_t group, int64_t first_tile, int64_t last_tile) {
        const int64_t count = starts_[group + 1] - starts_[group];
        if (count == 0 || first_tile == last_tile) return;
        const auto * tiles = static_cast<const uint8_t *>(weights_.data) +
                             static_cast<size_t>(group) * matrix_bytes(format_, weights_.ne[1], weights_.ne[0]);
        const Product product = {{tiles, weights_.ne[1], weights_.ne[0]}, &columns_, starts_[group], count, prepared_at(starts_[group])};
        format_.multiply(product, first_tile, last_tile, memory_ + work_.scratch_at(params_.ith, params_.nth));
    }

    uint8_t * prepared() const { return memory_ + work_.columns_at(params_.ith); }
    uint8_t * prepared_at(int64_t column) const { return prepared() + static_cast<size_t>(column) * format_.column_bytes(weights_.ne[0]); }

    const abi::Functions & ggml_;
    const Format & format_;
    const abi::ComputeParams & params_;
    abi::Tensor & op_;
    const abi::Tensor & weights_;
    const Work work_;
    uint8_t * const memory_;
    Columns columns_;
    int32_t plain_starts_[2] = {0, 0};
    const int32_t * starts_;
};

void get_rows(const Format & format, const abi::ComputeParams & params, abi::Tensor & op) {
    const abi::Tensor & weights = *op.src[0];
    const abi::Tensor & ids = *op.src[1];
    const Matrix matrix = {static_cast<const uint8_t *>(weights.data), weights.ne[1], weights.ne[0]};
    const int64_t total = ids.ne[0] * ids.ne[1] * ids.ne[2];
    for (int64_t i = params.ith; i < total; i += params.nth) {
        const size_t at[3] = {static_cast<size_t>(i % ids.ne[0]), static_cast<size_t>(i / ids.ne[0] % ids.ne[1]),
                              static_cast<size_t>(i / ids.ne[0] / ids.ne[1])};
        const auto * id = static_cast<const char *>(ids.data) + at[0] * ids.nb[0] + at[1] * ids.nb[1] + at[2] * ids.nb[2];
        auto * to = static_cast<char *>(op.data) + at[0] * op.nb[1] + at[1] * op.nb[2] + at[2] * op.nb[3];
        format.read_row(matrix, *reinterpret_cast<const int32_t *>(id), reinterpret_cast<float *>(to));
    }
}

}  // namespace

size_t work_bytes(const Format & format, int num_threads, const abi::Tensor & op) {
    return op.op == abi::OP_GET_ROWS ? 0 : Work(format, op).total(num_threads);
}

void compute(const abi::Functions & ggml, const Format & format, const abi::ComputeParams & params, abi::Tensor & op) {
    if (op.op == abi::OP_GET_ROWS) get_rows(format, params, op);
    else Multiplication(ggml, format, params, op).run();
}

}  // namespace zhibei
