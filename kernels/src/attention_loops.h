// The loops of attention: a list of keys by some rows of queries, a block of keys at a time.
//
// Few rows (generation): keys and values are used from registers as they are read. Many (a prompt): a block of keys and
// values is decoded to floats once for all rows, and both products are the same small matrix product.
#pragma once

#include "formats.h"
#include "softmax.h"

namespace zhibei::ZHIBEI_LEVEL {

constexpr int LINE_BYTES = 64;
using Row = const uint8_t *;

// The rows of a block, the last one repeated to a whole number of passes.
struct Block64 {
    Row rows[KEYS_AT_ONCE + FEW_ROWS];
    int count;
};

// How the values of a row are read: `BLOCK` of them are one whole.
template <class F> struct Plain {
    static constexpr int TYPE = F::TYPE;
    static constexpr int BLOCK = 1;
    template <class Isa> static ZHIBEI_INLINE typename Isa::Floats floats(Row row, int64_t i) {
        return F::template floats<Isa>(row + 2 * i);
    }
    static size_t bytes(int64_t count) { return 2 * static_cast<size_t>(count); }
};

struct Eights {
    static constexpr int TYPE = 8;
    static constexpr int BLOCK = 32;
    static constexpr int BYTES = 34;
    template <class Isa> static ZHIBEI_INLINE typename Isa::Floats floats(Row row, int64_t i) {
        using Floats = typename Isa::Floats;
        Row block = row + i / BLOCK * BYTES;
        // More halves than the one scale are read: the block is long enough.
        const Floats scale = Floats{} + Isa::halves(block)[0];
        return scale * __builtin_convertvector(Isa::signed_bytes(block + 2 + i % BLOCK), Floats);
    }
    static size_t bytes(int64_t count) { return static_cast<size_t>(count / BLOCK * BYTES); }
};

// Eight sums, each over the lanes of one vector.
typedef float Eight __attribute__((vector_size(32)));

template <class Floats> ZHIBEI_INLINE Eight halved(Floats x) {
    if constexpr (sizeof(Floats) == sizeof(Eight)) return x;
    else return load<Eight>(&x) + load<Eight>(reinterpret_cast<const char *>(&x) + sizeof(Eight));
}

ZHIBEI_INLINE Eight add_pairs(Eight a, Eight b) {
    return picked<0, 8, 1, 9, 4, 12, 5, 13>(a, b) + picked<2, 10, 3, 11, 6, 14, 7, 15>(a, b);
}

ZHIBEI_INLINE Eight add_fours(Eight a, Eight b) {
    return picked<0, 1, 8, 9, 4, 5, 12, 13>(a, b) + picked<2, 3, 10, 11, 6, 7, 14, 15>(a, b);
}

template <class Floats> ZHIBEI_INLINE Eight sum_each(const Floats * x) {
    const Eight a = add_fours(add_pairs(halved(x[0]), halved(x[1])), add_pairs(halved(x[2]), halved(x[3])));
    const Eight b = add_fours(add_pairs(halved(x[4]), halved(x[5])), add_pairs(halved(x[6]), halved(x[7])));
    return picked<0, 1, 2, 3, 8, 9, 10, 11>(a, b) + picked<4, 5, 6, 7, 12, 13, 14, 15>(a, b);
}

ZHIBEI_INLINE void ask_for(Row row, size_t bytes) {
    for (size_t at = 0; at < bytes; at += LINE_BYTES) __builtin_prefetch(row + at);
}

// Scores of a block's keys by `W` queries, eight at a time; meanwhile the values of the same keys are asked for.
template <class Isa, class T, int W>
void score_few(const Block64 & keys, const float * queries, int64_t num_values, float * to, const Block64 & ahead, size_t ahead_bytes) {
    using Floats = typename Isa::Floats;
    constexpr int TOGETHER = FEW_ROWS / W;
    for (int key = 0; key < keys.count; key += TOGETHER) {
        Floats sums[FEW_ROWS] = {};
#pragma GCC unroll 8
        for (int i = 0; i < TOGETHER; i++) ask_for(ahead.rows[key + i], ahead_bytes);
        for (int64_t at = 0; at < num_values; at += Isa::ROWS) {
#pragma GCC unroll 8
            for (int i = 0; i < TOGETHER; i++) {
                const Floats values = T::template floats<Isa>(keys.rows[key + i], at);
#pragma GCC unroll 8
                for (int row = 0; row < W; row++) sums[i * W + row] += values * load<Floats>(queries + row * num_values + at);
            }
        }
        store(to + key * W, sum_each(sums));
    }
}

// A block's values by their weights, `V` vectors of each row at a time; meanwhile the next block's keys are asked for.
template <class Isa, class T, int W, int V>
ZHIBEI_INLINE void add_few_at(const Block64 & values, const float * weights, const float * factors, int64_t at, int64_t stride, float * to,
                              const Block64 & ahead, size_t ahead_bytes) {
    using Floats = typename Isa::Floats;
    Floats sums[W][V];
    for (int row = 0; row < W; row++) {
        for (int v = 0; v < V; v++) sums[row][v] = load<Floats>(to + row * stride + at + v * Isa::ROWS) * factors[row];
    }
    for (int key = 0; key < values.count; key++) {
        if (at == 0 && key < ahead.count) ask_for(ahead.rows[key], ahead_bytes);
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
            const Floats value = T::template floats<Isa>(values.rows[key], at + v * Isa::ROWS);
#pragma GCC unroll 8
            for (int row = 0; row < W; row++) sums[row][v] += value * weights[key * W + row];
        }
    }
    for (int row = 0; row < W; row++) {
        for (int v = 0; v < V; v++) store(to + row * stride + at + v * Isa::ROWS, sums[row][v]);
    }
}

template <class Isa, class T, int W>
void add_few(const Block64 & values, const float * weights, const float * factors, int64_t num_values, float * to, const Block64 & ahead,
             size_t ahead_bytes) {
    constexpr int V = FEW_ROWS / W < 4 ? FEW_ROWS / W : 4;
    int64_t at = 0;
    for (; at + V * Isa::ROWS <= num_values; at += V * Isa::ROWS) {
        add_few_at<Isa, T, W, V>(values, weights, factors, at, num_values, to, ahead, ahead_bytes);
    }
    for (; at < num_values; at += Isa::ROWS) add_few_at<Isa, T, W, 1>(values, weights, factors, at, num_values, to, ahead, ahead_bytes);
}

// A row as floats, zeros up to a whole vector.
template <class Isa, class T> void decode(Row row, int64_t num_values, float * to) {
    int64_t at = 0;
    for (; at + Isa::ROWS <= num_values; at += Isa::ROWS) store(to + at, T::template floats<Isa>(row, at));
    if constexpr (T::BLOCK == 1) {
        uint8_t rest[2 * Isa::ROWS] = {};
        if (at == num_values) return;
        std::memcpy(rest, row + T::bytes(at), T::bytes(num_values - at));
        store(to + at, T::template floats<Isa>(rest, 0));
    }
}

// A matrix product's place: `left(i, k)` is at `left + i * left_row + k * left_step`.
struct Small {
    const float * left;
    int64_t left_row, left_step;
    const float * right;
    int64_t right_step;
    int64_t num_terms;
    float * to;
    int64_t to_row;
};

// `I` rows by `V` vectors, added to what is there times a factor per row, or to nothing.
template <class Isa, int I, int V> ZHIBEI_INLINE void multiply_small(const Small & p, const float * factors) {
    using Floats = typename Isa::Floats;
    Floats sums[I][V] = {};
    if (factors != nullptr) {
        for (int i = 0; i < I; i++) {
            for (int v = 0; v < V; v++) sums[i][v] = load<Floats>(p.to + i * p.to_row + v * Isa::ROWS) * factors[i];
        }
    }
    const float * left = p.left;
    const float * right = p.right;
    for (int64_t k = 0; k < p.num_terms; k++, left += p.left_step, right += p.right_step) {
        Floats columns[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) columns[v] = load<Floats>(right + v * Isa::ROWS);
#pragma GCC unroll 8
        for (int i = 0; i < I; i++) {
            const float factor = left[i * p.left_row];
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) sums[i][v] += columns[v] * factor;
        }
    }
    for (int i = 0; i < I; i++) {
        for (int v = 0; v < V; v++) store(p.to + i * p.to_row + v * Isa::ROWS, sums[i][v]);
    }
}

// Rows in fours by all columns.
template <class Isa> void multiply_whole(Small p, int64_t num_rows, int64_t num_columns, const float * factors) {
    const Small whole = p;
    for (int64_t column = 0; column < num_columns;) {
        const int64_t left = (num_columns - column) / Isa::ROWS;
        p.right = whole.right + column;
        const int vectors = left >= 3 && left != 4 ? 3 : left >= 2 ? 2 : 1;
        for (int64_t row = 0; row < num_rows; row += 4) {
            p.left = whole.left + row * whole.left_row;
            p.to = whole.to + row * whole.to_row + column;
            const float * own = factors == nullptr ? nullptr : factors + row;
            if (vectors == 3) multiply_small<Isa, 4, 3>(p, own);
            else if (vectors == 2) multiply_small<Isa, 4, 2>(p, own);
            else multiply_small<Isa, 4, 1>(p, own);
        }
        column += vectors * Isa::ROWS;
    }
}

// What depends on the type of a cache.
struct Reader {
    int type;
    int block;
    size_t (*bytes)(int64_t num_values);
    void (*decode)(Row row, int64_t num_values, float * to);
    // By the logarithm of the width.
    void (*score[4])(const Block64 &, const float *, int64_t, float *, const Block64 &, size_t);
    void (*add[4])(const Block64 &, const float *, const float *, int64_t, float *, const Block64 &, size_t);
};

template <class Isa, class T>
constexpr Reader READER = {
    T::TYPE,
    T::BLOCK,
    T::bytes,
    decode<Isa, T>,
    {score_few<Isa, T, 1>, score_few<Isa, T, 2>, score_few<Isa, T, 4>, score_few<Isa, T, 8>},
    {add_few<Isa, T, 1>, add_few<Isa, T, 2>, add_few<Isa, T, 4>, add_few<Isa, T, 8>},
};

template <class Isa> struct Attending {
    static constexpr Reader READERS[] = {READER<Isa, Plain<F16>>, READER<Isa, Plain<BF16>>, READER<Isa, Eights>};

    static const Reader * reader_of(int type) {
        for (const Reader & reader : READERS) {
            if (reader.type == type) return &reader;
        }
        return nullptr;
    }

    static bool takes(int key_type, int value_type) { return reader_of(key_type) != nullptr && reader_of(value_type) != nullptr; }

    static constexpr int64_t padded(int64_t count) { return (count + Isa::ROWS - 1) / Isa::ROWS * Isa::ROWS; }

    const Attention & attention;
    const Rows & rows;
    const Reader & key_reader;
    const Reader & value_reader;
    const Sums & sums;
    int width;  // rows with what pads them
    int log_width;
    float * queries;
    float * scores;
    float * factors;
    float * decoded;

    Attending(const Attention & attention, const Rows & rows, const Sums & sums, uint8_t * scratch)
        : attention(attention), rows(rows), key_reader(*reader_of(attention.keys.type)), value_reader(*reader_of(attention.values.type)),
          sums(sums), width(1), log_width(0), queries(reinterpret_cast<float *>(scratch)) {
        while (width < rows.count) width *= 2, log_width++;
        if (!few()) width = static_cast<int>(padded(rows.count));
        scores = queries + padded(attention.keys.num_values) * ROWS_AT_ONCE;
        factors = scores + KEYS_AT_ONCE * ROWS_AT_ONCE;
        decoded = factors + ROWS_AT_ONCE;
    }

    static size_t scratch_bytes(const Attention & attention) {
        const int64_t longest = padded(longest_row(attention));
        return sizeof(float) * static_cast<size_t>(padded(attention.keys.num_values) * ROWS_AT_ONCE + KEYS_AT_ONCE * ROWS_AT_ONCE +
                                                   ROWS_AT_ONCE + KEYS_AT_ONCE * longest);
    }

    bool few() const {
        return rows.count <= FEW_ROWS && attention.keys.num_values % Isa::ROWS == 0 && attention.values.num_values % Isa::ROWS == 0;
    }

    // Few rows: one after the other. Many: value by value, all rows beside each other.
    void take_queries() {
        const int64_t count = attention.keys.num_values;
        const float scale = attention.softcap == 0.0f ? attention.scale : attention.scale / attention.softcap;
        std::memset(queries, 0, sizeof(float) * static_cast<size_t>(count * width));
        const int64_t by_row = few() ? count : 1;
        const int64_t by_value = few() ? 1 : width;
        for (int64_t row = 0; row < rows.count; row++) {
            const int64_t position = (rows.first + row) / attention.sharing;
            const int64_t head = rows.key_head * attention.sharing + (rows.first + row) % attention.sharing;
            const char * at = attention.queries + static_cast<size_t>(position) * attention.query_strides[0] +
                              static_cast<size_t>(head) * attention.query_strides[1] +
                              static_cast<size_t>(rows.sequence) * attention.query_strides[2];
            const auto * from = reinterpret_cast<const float *>(at);
            for (int64_t i = 0; i < count; i++) queries[row * by_row + i * by_value] = from[i] * scale;
        }
    }

    void start() {
        const int lanes = width < Isa::ROWS ? Isa::ROWS : width;
        for (int i = 0; i < lanes; i++) {
            sums.largest[i] = NOTHING;
            sums.sums[i] = 0.0f;
        }
        std::memset(sums.values, 0, sizeof(float) * static_cast<size_t>(width * padded(attention.values.num_values)));
    }

    Block64 block_of(const Cache & cache, const int32_t * keys, int64_t left, int64_t head) const {
        Block64 block;
        block.count = left <= 0 ? 0 : static_cast<int>(left < KEYS_AT_ONCE ? left : KEYS_AT_ONCE);
        Row first = cache.data + static_cast<size_t>(head) * cache.strides[1] + static_cast<size_t>(rows.sequence) * cache.strides[2];
        for (int i = 0; i < block.count; i++) block.rows[i] = first + static_cast<size_t>(keys[i]) * cache.strides[0];
        for (int i = block.count; i > 0 && i < KEYS_AT_ONCE + FEW_ROWS; i++) block.rows[i] = block.rows[block.count - 1];
        return block;
    }

    // Scores of one block, then weights; the number of keys with what pads them.
    int64_t weigh_block(const int32_t * keys, int count) {
        const int together = width < 4 ? Isa::ROWS / width : 4;
        const int whole = (count + together - 1) / together * together;
        if (attention.softcap != 0.0f) cap_scores<Isa>(scores, int64_t{whole} * width, attention.softcap);
        if (attention.mask.data != nullptr) mask_scores(attention, rows, keys, count, width, scores);
        for (int i = count * width; i < whole * width; i++) scores[i] = NOTHING;
        weigh<Isa>(scores, whole, width, sums, factors);
        return whole;
    }

    void attend_few(const Stretch & stretch) {
        const int32_t * keys = stretch.keys;
        const int64_t num_keys = stretch.num_keys;
        const int64_t key_values = attention.keys.num_values, num_values = attention.values.num_values;
        const size_t key_bytes = key_reader.bytes(key_values), value_bytes = value_reader.bytes(num_values);
        Block64 block = block_of(attention.keys, keys, num_keys, rows.key_head);
        for (int64_t at = 0; at < num_keys; at += KEYS_AT_ONCE) {
            const Block64 values = block_of(attention.values, keys + at, num_keys - at, rows.key_head);
            key_reader.score[log_width](block, queries, key_values, scores, values, value_bytes);
            weigh_block(keys + at, block.count);
            const int64_t next = at + KEYS_AT_ONCE;
            block = next < num_keys ? block_of(attention.keys, keys + next, num_keys - next, rows.key_head)
                                    : block_of(attention.keys, stretch.next_keys, stretch.num_next, stretch.next_head);
            value_reader.add[log_width](values, scores, factors, num_values, sums.values, block, key_bytes);
        }
    }

    void attend_many(const Stretch & stretch) {
        const int32_t * keys = stretch.keys;
        const int64_t num_keys = stretch.num_keys;
        const int64_t key_values = attention.keys.num_values, num_values = attention.values.num_values;
        const int64_t key_stride = padded(key_values), value_stride = padded(num_values);
        for (int64_t at = 0; at < num_keys; at += KEYS_AT_ONCE) {
            const Block64 block = block_of(attention.keys, keys + at, num_keys - at, rows.key_head);
            const int64_t whole = (block.count + 3) / 4 * 4;
            for (int i = 0; i < whole; i++) key_reader.decode(block.rows[i], key_values, decoded + i * key_stride);
            multiply_whole<Isa>({decoded, key_stride, 1, queries, width, key_values, scores, width}, whole, width, nullptr);
            weigh_block(keys + at, block.count);
            const Block64 values = block_of(attention.values, keys + at, num_keys - at, rows.key_head);
            for (int i = 0; i < block.count; i++) value_reader.decode(values.rows[i], num_values, decoded + i * value_stride);
            const Small product = {scores, 1, width, decoded, value_stride, block.count, sums.values, value_stride};
            multiply_whole<Isa>(product, width, value_stride, factors);
        }
    }

    static void attend(const Attention & attention, const Rows & rows, const Stretch & stretch, const Sums & sums, uint8_t * scratch) {
        Attending self(attention, rows, sums, scratch);
        if (stretch.first) self.start();
        self.take_queries();
        if (self.few()) self.attend_few(stretch);
        else self.attend_many(stretch);
        if (self.width >= Isa::ROWS) return;
        join_lanes<Isa>(sums.sums, self.width, [](float a, float b) { return a + b; });
        for (int i = self.width; i < Isa::ROWS; i++) sums.sums[i] = 0.0f;
    }

    static constexpr AttentionLoops LOOPS = {Isa::ROWS, takes, scratch_bytes, attend};
};

}  // namespace zhibei::ZHIBEI_LEVEL
