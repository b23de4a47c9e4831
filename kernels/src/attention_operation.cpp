#include "attention_operation.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace zhibei {

namespace {

constexpr size_t LINE = 64;
constexpr uint16_t HIDDEN = 0xfc00;  // minus infinity as a half
// Tiles per thread from which threads take them in turns; with fewer, stretches of the keys are shared out.
constexpr int64_t TURNS = 4;
// Keys below which one tile is not divided between threads.
constexpr int64_t FEW_KEYS = 64;
// Keys of all heads that are gone through before the next.
constexpr int64_t KEYS_TOGETHER = 128;

size_t aligned(size_t bytes) { return (bytes + LINE - 1) / LINE * LINE; }

float parameter(const abi::Tensor & op, int index) {
    float value;
    std::memcpy(&value, op.op_params + index, sizeof(value));
    return value;
}

Cache cache_of(const abi::Tensor & tensor) {
    return {static_cast<const uint8_t *>(tensor.data), {tensor.nb[1], tensor.nb[2], tensor.nb[3]}, tensor.ne[0], tensor.type};
}

// `slopes` is left to the caller: it needs memory.
Attention attention_of(const abi::Tensor & op) {
    const abi::Tensor & queries = *op.src[0];
    const abi::Tensor & keys = *op.src[1];
    Attention attention = {};
    attention.queries = static_cast<const char *>(queries.data);
    for (int i = 0; i < 3; i++) attention.query_strides[i] = queries.nb[i + 1];
    attention.keys = cache_of(keys);
    attention.values = cache_of(*op.src[2]);
    if (const abi::Tensor * mask = op.src[3]) {
        attention.mask = {static_cast<const uint8_t *>(mask->data), {mask->nb[1], mask->nb[2], mask->nb[3]}, {mask->ne[2], mask->ne[3]}};
    }
    attention.num_positions = queries.ne[1];
    attention.num_heads = queries.ne[2];
    attention.num_sequences = queries.ne[3];
    attention.num_keys = keys.ne[1];
    attention.sharing = queries.ne[2] / keys.ne[2];
    attention.scale = parameter(op, 0);
    attention.softcap = parameter(op, 2);
    return attention;
}

// ALiBi: each head's own factor for the mask, two geometric series.
void fill_slopes(float most, int64_t num_heads, float * slopes) {
    int64_t power = 1;
    while (power * 2 <= num_heads) power *= 2;
    const float first = std::pow(2.0f, -most / static_cast<float>(power));
    const float second = std::pow(2.0f, -most / 2.0f / static_cast<float>(power));
    for (int64_t head = 0; head < num_heads; head++) {
        slopes[head] = head < power ? std::pow(first, static_cast<float>(head + 1))
                                    : std::pow(second, static_cast<float>(2 * (head - power) + 1));
    }
}

// Where things lie in the memory that ggml lends: shared slopes, then each thread's own.
struct Places {
    int64_t num_tiles;  // of one sequence and head of keys
    int64_t heads_together;  // of keys: with few rows, those beside each other in memory are gone through together
    size_t slopes_bytes, list_bytes, counts_bytes, sums_bytes, scratch_bytes;

    Places(const AttentionLoops & loops, const Attention & attention) {
        const int64_t rows = loops.rows_at_once(attention);
        num_tiles = (attention.num_rows() + rows - 1) / rows;
        slopes_bytes = aligned(sizeof(float) * static_cast<size_t>(attention.num_heads));
        list_bytes = aligned(sizeof(int32_t) * static_cast<size_t>(attention.num_keys) + static_cast<size_t>(attention.num_keys));
        counts_bytes = aligned(sizeof(int64_t) * static_cast<size_t>(attention.num_sequences * num_tiles));
        sums_bytes = aligned(sizeof(float) * loops.sums_floats(attention));
        heads_together = attention.few() ? attention.key_heads() : 1;
        scratch_bytes = aligned(loops.scratch_bytes(attention));
    }

    // A thread begins inside one tile and ends inside another: two unfinished ones, and one that it finishes.
    static constexpr int UNFINISHED = 2;
    size_t sums_at(int which, int64_t head) const {
        return slopes_bytes + list_bytes + counts_bytes + static_cast<size_t>(which * heads_together + head) * sums_bytes;
    }
    size_t thread_bytes() const { return sums_at(UNFINISHED + 1, 0) + scratch_bytes; }
};

// One node of the graph, as one thread sees it.
class Attendance {
  public:
    Attendance(const abi::Functions & ggml, const AttentionLoops & loops, const abi::ComputeParams & params, abi::Tensor & op)
        : ggml_(ggml), loops_(loops), params_(params), op_(op), attention_(attention_of(op)), places_(loops, attention_),
          rows_at_once_(loops.rows_at_once(attention_)), values_(loops.padded(attention_.values.num_values)) {
        const float bias = parameter(op, 1);
        if (bias > 0.0f) {
            auto * slopes = reinterpret_cast<float *>(own(params.ith));
            fill_slopes(bias, attention_.num_heads, slopes);
            attention_.slopes = slopes;
        }
        list_ = reinterpret_cast<int32_t *>(own(params.ith) + places_.slopes_bytes);
        seen_ = reinterpret_cast<uint8_t *>(list_ + attention_.num_keys);
        counts_ = reinterpret_cast<int64_t *>(own(params.ith) + places_.slopes_bytes + places_.list_bytes);
        scratch_ = reinterpret_cast<uint8_t *>(own(params.ith) + places_.sums_at(Places::UNFINISHED + 1, 0));
    }

    void run() {
        const int64_t tiles = num_lists() * attention_.key_heads();
        if (!attention_.few() && (params_.nth == 1 || tiles >= TURNS * params_.nth)) take_turns(tiles);
        else share_keys();
    }

  private:
    char * own(int thread) const {
        const auto at = reinterpret_cast<uintptr_t>(params_.wdata);
        return reinterpret_cast<char *>((at + LINE - 1) / LINE * LINE) + places_.thread_bytes() * static_cast<size_t>(thread);
    }

    Sums sums(int thread, int which, int64_t head) const {
        return sums_at(reinterpret_cast<float *>(own(thread) + places_.sums_at(which, head)));
    }

    // Tiles of one sequence see the same keys whatever the head: a list serves all heads of keys.
    int64_t num_lists() const { return attention_.num_sequences * places_.num_tiles; }

    Rows rows_of(int64_t list, int64_t key_head) const {
        const int64_t first = list % places_.num_tiles * rows_at_once_;
        return {list / places_.num_tiles, key_head, first, std::min(rows_at_once_, attention_.num_rows() - first)};
    }

    // Which keys any row of a tile sees.
    void find_seen(int64_t list) {
        const Rows rows = rows_of(list, 0);
        const int64_t first = rows.first / attention_.sharing, last = (rows.first + rows.count - 1) / attention_.sharing;
        std::memset(seen_, 0, static_cast<size_t>(attention_.num_keys));
        for (int64_t head = 0; head < attention_.mask.counts[0]; head++) {
            for (int64_t position = first; position <= last; position++) {
                const auto * halves = reinterpret_cast<const uint16_t *>(attention_.mask_row(position, head, rows.sequence));
                for (int64_t key = 0; key < attention_.num_keys; key++) seen_[key] |= halves[key] != HIDDEN;
            }
        }
    }

    int64_t count_seen(int64_t list) {
        if (attention_.mask.data == nullptr) return attention_.num_keys;
        find_seen(list);
        int64_t count = 0;
        for (int64_t key = 0; key < attention_.num_keys; key++) count += seen_[key];
        return count;
    }

    void fill_list(int64_t list) {
        if (listed_ == list) return;
        listed_ = list;
        num_listed_ = 0;
        if (attention_.mask.data == nullptr) {
            while (num_listed_ < attention_.num_keys) list_[num_listed_] = static_cast<int32_t>(num_listed_), num_listed_++;
            return;
        }
        find_seen(list);
        for (int64_t key = 0; key < attention_.num_keys; key++) {
            list_[num_listed_] = static_cast<int32_t>(key);
            num_listed_ += seen_[key];
        }
    }

    // The last tiles first: with a causal mask they see most keys, and nobody shall begin one when all others are done.
    void take_turns(int64_t tiles) {
        if (params_.nth > 1) {
            if (params_.ith == 0) ggml_.chunk_set(params_.threadpool, params_.nth);
            ggml_.barrier(params_.threadpool);
        }
        const Sums own_sums = sums(params_.ith, Places::UNFINISHED, 0);
        for (int64_t turn = params_.ith; turn < tiles;) {
            const int64_t tile = tiles - 1 - turn;
            const Rows rows = rows_of(tile / attention_.key_heads(), tile % attention_.key_heads());
            fill_list(tile / attention_.key_heads());
            loops_.attend(attention_, rows, {list_, num_listed_, true, nullptr, 0, 0}, own_sums, scratch_);
            finish(rows, own_sums);
            turn = params_.nth > 1 ? ggml_.chunk_add(params_.threadpool, 1) : turn + 1;
        }
    }

    int64_t heads_together() const { return places_.heads_together; }

    // All bundles' keys in a row, one even stretch for each thread; bundles that are cut are joined afterwards.
    void share_keys() {
        bundles_ = attention_.key_heads() / heads_together();
        for (int64_t list = 0; list < num_lists(); list++) {
            counts_[list] = count_seen(list);
            total_ += std::max<int64_t>(counts_[list], 1) * bundles_;
        }
        bool any_cut = false;
        for (int thread = 1; thread < params_.nth; thread++) any_cut |= edge(thread).key != 0;
        attend_stretch();
        if (!any_cut) return;
        ggml_.barrier(params_.threadpool);
        const Edge begin = edge(params_.ith), end = edge(params_.ith + 1);
        if (begin.key > 0) join_cut(begin.bundle);
        if (end.key > 0 && (begin.key == 0 || begin.bundle < end.bundle)) join_cut(end.bundle);
    }

    struct Edge {
        int64_t bundle, key;
        bool operator==(const Edge & other) const { return bundle == other.bundle && key == other.key; }
    };

    // Where a thread's stretch begins.
    Edge edge(int thread) const {
        int64_t at = total_ * thread / params_.nth;
        for (int64_t list = 0; list < num_lists(); list++) {
            const int64_t count = std::max<int64_t>(counts_[list], 1);
            if (at >= count * bundles_) {
                at -= count * bundles_;
                continue;
            }
            const Edge exact = {list * bundles_ + at / count, at % count};
            if (counts_[list] >= FEW_KEYS) return exact;
            return {exact.bundle + (exact.key * 2 >= count), 0};
        }
        return {num_lists() * bundles_, 0};
    }

    // Whether a thread has keys of a bundle, the first ones or others.
    bool has(int thread, int64_t bundle) const {
        const Edge begin = edge(thread), end = edge(thread + 1);
        return !(begin == end) && begin.bundle <= bundle && (bundle < end.bundle || (bundle == end.bundle && end.key > 0));
    }

    void attend_stretch() {
        const Edge begin = edge(params_.ith), end = edge(params_.ith + 1);
        for (int64_t bundle = begin.bundle; has(params_.ith, bundle); bundle++) {
            fill_list(bundle / bundles_);
            const int64_t first = bundle == begin.bundle ? begin.key : 0;
            const int64_t last = bundle == end.bundle ? end.key : num_listed_;
            const bool whole = first == 0 && bundle != end.bundle;
            // An unfinished one that began before this stretch is its first, one that goes on after it its second.
            const int slot = whole ? Places::UNFINISHED : first > 0 ? 0 : 1;
            attend_bundle(bundle, first, last, slot);
            for (int64_t head = 0; whole && head < heads_together(); head++) {
                finish(rows_of(bundle / bundles_, head_of(bundle, head)), sums(params_.ith, slot, head));
            }
        }
    }

    int64_t head_of(int64_t bundle, int64_t head) const { return bundle % bundles_ * heads_together() + head; }

    // Some keys at a time by all heads, so that memory is read from its beginning to its end.
    void attend_bundle(int64_t bundle, int64_t first, int64_t last, int slot) {
        const int64_t heads = heads_together();
        const int64_t step = heads > 1 ? KEYS_TOGETHER : std::max<int64_t>(last - first, 1);
        int64_t at = first;
        do {
            const int64_t count = std::min(step, last - at);
            for (int64_t head = 0; head < heads; head++) {
                const bool turn = head + 1 == heads;
                const int64_t next = turn ? at + count : at;
                const int64_t next_head = head_of(bundle, turn ? 0 : head + 1);
                const Stretch stretch = {list_ + at, count, at == first, list_ + next, last - next, next_head};
                const Rows rows = rows_of(bundle / bundles_, head_of(bundle, head));
                loops_.attend(attention_, rows, stretch, sums(params_.ith, slot, head), scratch_);
            }
            at += step;
        } while (at < last);
    }

    // The threads that have parts of a cut bundle join one head after the other among them.
    void join_cut(int64_t bundle) {
        int first = 0, last = 0, parts = 0, own_part = 0;
        for (int thread = 0; thread < params_.nth; thread++) {
            if (!has(thread, bundle)) continue;
            if (parts == 0) first = thread;
            if (thread == params_.ith) own_part = parts;
            last = thread;
            parts++;
        }
        if (!has(params_.ith, bundle)) return;
        for (int64_t head = own_part; head < heads_together(); head += parts) {
            const Rows rows = rows_of(bundle / bundles_, head_of(bundle, head));
            const Sums all = sums(first, 1, head);
            for (int thread = first + 1; thread <= last; thread++) {
                if (has(thread, bundle)) join(rows, all, sums(thread, 0, head));
            }
            finish(rows, all);
        }
    }

    void join(const Rows & rows, const Sums & to, const Sums & from) const {
        for (int64_t row = 0; row < rows.count; row++) {
            const float largest = std::max(to.largest[row], from.largest[row]);
            const float base = std::isinf(largest) && largest < 0 ? 0.0f : largest;
            const float old = std::exp(to.largest[row] - base), added = std::exp(from.largest[row] - base);
            to.largest[row] = largest;
            to.sums[row] = to.sums[row] * old + from.sums[row] * added;
            float * values = to.values + row * values_;
            const float * others = from.values + row * values_;
            for (int64_t i = 0; i < values_; i++) values[i] = values[i] * old + others[i] * added;
        }
    }

    // Weighted values become means.
    void finish(const Rows & rows, const Sums & from) const {
        const auto * sinks = op_.src[4] == nullptr ? nullptr : static_cast<const float *>(op_.src[4]->data);
        for (int64_t row = 0; row < rows.count; row++) {
            const int64_t position = (rows.first + row) / attention_.sharing;
            const int64_t head = rows.key_head * attention_.sharing + (rows.first + row) % attention_.sharing;
            float sum = from.sums[row], factor = 1.0f;
            if (sinks != nullptr) {
                // A score without a value.
                const float largest = std::max(from.largest[row], sinks[head]);
                factor = from.largest[row] < largest ? std::exp(from.largest[row] - largest) : 1.0f;
                sum = sum * factor + std::exp(sinks[head] - largest);
            }
            factor = sum == 0.0f ? 0.0f : factor / sum;
            const int64_t at = (rows.sequence * attention_.num_positions + position) * attention_.num_heads + head;
            auto * out = reinterpret_cast<float *>(static_cast<char *>(op_.data) + static_cast<size_t>(at) * op_.nb[1]);
            const float * values = from.values + row * values_;
            for (int64_t i = 0; i < attention_.values.num_values; i++) out[i] = values[i] * factor;
        }
    }

    const abi::Functions & ggml_;
    const AttentionLoops & loops_;
    const abi::ComputeParams & params_;
    abi::Tensor & op_;
    Attention attention_;
    const Places places_;
    const int64_t rows_at_once_;
    const int64_t values_;
    int32_t * list_;
    uint8_t * seen_;
    int64_t * counts_;
    uint8_t * scratch_;
    int64_t listed_ = -1;
    int64_t num_listed_ = 0;
    int64_t total_ = 0;
    int64_t bundles_ = 1;  // of heads of keys, per list
};

bool is_row_of(const abi::Tensor & cache) {
    const bool blocks = cache.type == abi::TYPE_Q8_0;
    return cache.ne[0] <= MOST_VALUES && (blocks ? cache.ne[0] % 32 == 0 && cache.nb[0] == 34 : cache.nb[0] == 2);
}

}  // namespace

bool takes_attention(const AttentionLoops & loops, const abi::Tensor & op) {
    const abi::Tensor &queries = *op.src[0], &keys = *op.src[1], &values = *op.src[2];
    const abi::Tensor * mask = op.src[3];
    if (queries.type != abi::TYPE_F32 || !loops.takes(keys.type, values.type) || queries.nb[0] != sizeof(float)) return false;
    if (!is_row_of(keys) || !is_row_of(values) || op.nb[0] != sizeof(float)) return false;
    if (keys.ne[2] != values.ne[2] || keys.ne[1] != values.ne[1] || queries.ne[2] % keys.ne[2] != 0) return false;
    if (queries.ne[3] != keys.ne[3] || queries.ne[3] != values.ne[3]) return false;
    if (mask == nullptr) return true;
    return mask->type == abi::TYPE_F16 && mask->nb[0] == 2 && mask->ne[0] >= keys.ne[1] && mask->ne[1] >= queries.ne[1];
}

size_t attention_work_bytes(const AttentionLoops & loops, int num_threads, const abi::Tensor & op) {
    return Places(loops, attention_of(op)).thread_bytes() * static_cast<size_t>(num_threads) + LINE;
}

void compute_attention(const abi::Functions & ggml, const AttentionLoops & loops, const abi::ComputeParams & params, abi::Tensor & op) {
    Attendance(ggml, loops, params, op).run();
}

}  // namespace zhibei
