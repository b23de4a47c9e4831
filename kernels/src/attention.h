// One attention over a cache of keys and values, described without ggml: what a level's loops are given, and what they answer.
#pragma once

#include <cstddef>
#include <cstdint>

// Levels are compiled with their own flags: none may leave a copy of a shared function behind.
#define ZHIBEI_ALWAYS inline __attribute__((always_inline))

namespace zhibei {

// Keys that the loops take at a time: their rows stay near the processor.
constexpr int KEYS_AT_ONCE = 64;
// Rows of queries that share a pass over the keys.
constexpr int ROWS_AT_ONCE = 96;
// So few rows are not worth decoding keys and values for: they are used straight from registers.
constexpr int FEW_ROWS = 8;
constexpr int64_t MOST_VALUES = 1024;

// Keys or values: one row per token and head.
struct Cache {
    const uint8_t * data;
    size_t strides[3];  // token, head, sequence
    int64_t num_values;
    int type;
};

// What is hidden (minus infinity) or made less likely: half floats, one row per position.
struct Mask {
    const uint8_t * data;  // null: nothing
    size_t strides[3];     // position, head, sequence
    int64_t counts[2];     // heads and sequences, repeated
};

struct Attention {
    const char * queries;
    size_t query_strides[3];  // position, head, sequence
    Cache keys, values;
    Mask mask;
    int64_t num_positions, num_keys, num_heads, num_sequences;
    int64_t sharing;  // heads of queries to one of keys
    float scale, softcap;
    const float * slopes;  // per head, for the mask; null: 1

    ZHIBEI_ALWAYS int64_t num_rows() const { return num_positions * sharing; }
    ZHIBEI_ALWAYS bool few() const { return num_rows() <= FEW_ROWS; }
    ZHIBEI_ALWAYS int64_t key_heads() const { return num_heads / sharing; }

    ZHIBEI_ALWAYS const uint8_t * mask_row(int64_t position, int64_t head, int64_t sequence) const {
        return mask.data + static_cast<size_t>(position) * mask.strides[0] + static_cast<size_t>(head % mask.counts[0]) * mask.strides[1] +
               static_cast<size_t>(sequence % mask.counts[1]) * mask.strides[2];
    }
};

ZHIBEI_ALWAYS int64_t longest_row(const Attention & attention) {
    return attention.keys.num_values > attention.values.num_values ? attention.keys.num_values : attention.values.num_values;
}

// Some rows of queries that meet the same keys: row `i` is position `i / sharing` and the `i % sharing`-th head of its group.
struct Rows {
    int64_t sequence, key_head, first, count;
};

// Per row: the largest score, the sum of exp(score - largest), and the values weighted by it. Two of them can be joined.
struct Sums {
    float * largest;
    float * sums;
    float * values;
};

ZHIBEI_ALWAYS Sums sums_at(float * memory) { return {memory, memory + ROWS_AT_ONCE, memory + 2 * ROWS_AT_ONCE}; }

// Some of a list of keys, and where the next call will begin: its keys are asked for meanwhile.
struct Stretch {
    const int32_t * keys;
    int64_t num_keys;
    bool first;  // else the sums are those of the keys before
    const int32_t * next_keys;
    int64_t num_next;
    int64_t next_head;
};

struct AttentionLoops {
    int lanes;  // values of a row are padded to a multiple of this
    bool (*takes)(int key_type, int value_type);
    size_t (*scratch_bytes)(const Attention & attention);
    // The rows' sums over a stretch of keys.
    void (*attend)(const Attention & attention, const Rows & rows, const Stretch & stretch, const Sums & sums, uint8_t * scratch);

    ZHIBEI_ALWAYS int64_t padded(int64_t count) const { return (count + lanes - 1) / lanes * lanes; }
    ZHIBEI_ALWAYS int64_t rows_at_once(const Attention & attention) const {
        // Long heads would not fit beside each other in the second cache.
        const int64_t most = longest_row(attention) > 256 ? ROWS_AT_ONCE / 2 : ROWS_AT_ONCE;
        const int64_t wanted = padded(attention.num_rows() < FEW_ROWS ? FEW_ROWS : attention.num_rows());
        return wanted < most ? wanted : most;
    }
    ZHIBEI_ALWAYS size_t sums_floats(const Attention & attention) const {
        return static_cast<size_t>(2 * ROWS_AT_ONCE + rows_at_once(attention) * padded(attention.values.num_values));
    }
};

}  // namespace zhibei
