// BF16 weights by columns that are rounded to BF16, two values in one instruction: for levels that have it.
//
// A prepared tile holds its columns beside each other, unit by unit: 32 values of each column, zeros beyond the last.
#pragma once

#include "loops.h"

namespace zhibei::ZHIBEI_LEVEL {

constexpr int ROUNDED_BYTES = UNIT * 2;
constexpr int UNIT_PAIRS = UNIT / 2;

// To the nearest, to even between two. What is no number stays none.
ZHIBEI_INLINE uint16_t rounded(float value) {
    const uint32_t bits = load<uint32_t>(&value);
    const uint32_t nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const uint32_t strange = (bits >> 16) | 0x40;
    return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? strange : nearest);
}

inline void round_columns(const Columns & columns, int64_t first, int64_t count, int64_t num_values, uint8_t * to) {
    for (int64_t c = 0; c < count; c++) {
        const float * from = input_of(columns, first + c);
        uint8_t * at = to + c * ROUNDED_BYTES;
        for (int64_t i = 0; i < num_values; i += UNIT, at += count * ROUNDED_BYTES) {
            uint16_t unit[UNIT] = {};
            const int64_t left = num_values - i < UNIT ? num_values - i : UNIT;
            for (int64_t j = 0; j < left; j++) unit[j] = rounded(from[i + j]);
            std::memcpy(at, unit, sizeof(unit));
        }
    }
}

// A tile by `C` columns; several sums per column when columns are few, so that additions overlap.
template <class Isa, int C> void multiply_pairs(const uint8_t * tile, int64_t num_values, const uint8_t * columns, Sums * out) {
    using Floats = typename Isa::Floats;
    using Ints = typename Isa::Ints;
    constexpr int CHAINS = C >= 6 ? 1 : 4;
    Floats sums[CHAINS][C] = {};
    const auto add = [&](const uint8_t * weights, const uint8_t * numbers, int pair) __attribute__((always_inline)) {
        const Ints both = load<Ints>(weights + pair * VECTOR);
#pragma GCC unroll 16
        for (int c = 0; c < C; c++) {
            const Ints other = Ints{} + load<int32_t>(numbers + c * ROUNDED_BYTES + 4 * pair);
            sums[pair % CHAINS][c] = Isa::add_bf16_pairs(sums[pair % CHAINS][c], both, other);
        }
    };
    const int64_t num_units = num_values / UNIT;
    for (int64_t unit = 0; unit < num_units; unit++) {
        const uint8_t * weights = tile + unit * UNIT_PAIRS * VECTOR;
        const uint8_t * numbers = columns + unit * C * ROUNDED_BYTES;
#pragma GCC unroll 4
        for (int pair = 0; pair < UNIT_PAIRS; pair++) {
            __builtin_prefetch(weights + pair * VECTOR + AHEAD_BYTES);
            add(weights, numbers, pair);
        }
    }
    const int rest = static_cast<int>(num_values % UNIT / 2);
    for (int pair = 0; pair < rest; pair++) add(tile + num_units * UNIT_PAIRS * VECTOR, columns + num_units * C * ROUNDED_BYTES, pair);
    for (int c = 0; c < C; c++) {
        Floats sum = sums[0][c];
        for (int chain = 1; chain < CHAINS; chain++) sum += sums[chain][c];
        store(out[c], sum);
    }
}

// A way of `Floating`, for any number of columns.
template <class Isa> struct InPairs {
    static constexpr int WIDTH = Isa::FLOAT_WIDTH;

    static size_t column_bytes(int64_t num_values) { return static_cast<size_t>((num_values + UNIT - 1) / UNIT) * ROUNDED_BYTES; }

    static void prepare(const Columns & columns, int64_t first, int64_t count, int64_t num_values, uint8_t * to) {
        round_columns(columns, first, count, num_values, to);
    }

    template <int C> ZHIBEI_INLINE void multiply(const uint8_t * tile, int64_t num_values, const uint8_t * prepared, Sums * out) {
        multiply_pairs<Isa, C>(tile, num_values, prepared, out);
    }
};

}  // namespace zhibei::ZHIBEI_LEVEL
