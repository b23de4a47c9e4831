// The columns of a product: where they are, and their prepared form (8-bit numbers with a scale per 32, or floats).
//
// A prepared tile holds `count` columns beside each other, unit by unit: 32 numbers of each column, then the scales, then
// per group of values what balances the weights' zero (an integer) or meets their offset (a float).
#pragma once

#include "level.h"
#include "numbers.h"
#include "scales.h"

namespace zhibei::ZHIBEI_LEVEL {

struct Place {
    int64_t at[3];
};

ZHIBEI_INLINE Place place_of(const Columns & columns, int64_t column) {
    const int64_t index = columns.order ? columns.order[column] : column;
    const int64_t outer = index / columns.counts[0];
    return {{index % columns.counts[0], outer % columns.counts[1], outer / columns.counts[1]}};
}

ZHIBEI_INLINE const float * input_of(const Columns & columns, int64_t column) {
    const Place place = place_of(columns, column);
    return reinterpret_cast<const float *>(columns.in + static_cast<size_t>(place.at[0] % columns.in_count) * columns.in_strides[0] +
                                           static_cast<size_t>(place.at[1]) * columns.in_strides[1] +
                                           static_cast<size_t>(place.at[2]) * columns.in_strides[2]);
}

ZHIBEI_INLINE float * output_of(const Columns & columns, int64_t column) {
    const Place place = place_of(columns, column);
    return reinterpret_cast<float *>(columns.out + static_cast<size_t>(place.at[0]) * columns.out_strides[0] +
                                     static_cast<size_t>(place.at[1]) * columns.out_strides[1] +
                                     static_cast<size_t>(place.at[2]) * columns.out_strides[2]);
}

template <int NumGroups> constexpr size_t UNIT_COLUMN_BYTES = UNIT + 4 + 4 * NumGroups;

constexpr float SMALLEST = 1e-37f;

// 32 floats as numbers of -127..127. The scale is a float: a half would lose what the weights' rounding leaves.
template <int NumGroups> ZHIBEI_INLINE float quantise(const float * from, int8_t * to, int32_t * sums) {
    // The largest magnitude by its bits, which the compiler can take in vectors without loosening float rules.
    int32_t largest = 0;
    for (int i = 0; i < UNIT; i++) {
        const int32_t magnitude = load<int32_t>(from + i) & 0x7fffffff;
        largest = magnitude > largest ? magnitude : largest;
    }
    const float scale = from_bits(static_cast<uint32_t>(largest)) / 127.0f;
    // What is so small that 127 over it overflows counts as nothing.
    const float inverse = scale > SMALLEST ? 1.0f / scale : 0.0f;
    for (int i = 0; i < UNIT; i++) {
        // Adding and taking away 1.5 * 2^23 rounds to the nearest whole number.
        const float moved = from[i] * inverse + 12582912.0f;
        to[i] = static_cast<int8_t>(load<int32_t>(&moved) - 0x4b400000);
    }
    for (int g = 0; g < NumGroups; g++) {
        int32_t sum = 0;
        for (int i = 0; i < UNIT / NumGroups; i++) sum += to[g * (UNIT / NumGroups) + i];
        sums[g] = sum;
    }
    return scale;
}

// `Zero` is what to take away from every weight; with `HasOffset` the sums are kept as floats instead.
template <int NumGroups, bool HasOffset, int Zero>
void quantise_columns(const Columns & columns, int64_t first, int64_t count, int64_t num_values, uint8_t * to) {
    const size_t unit_bytes = UNIT_COLUMN_BYTES<NumGroups> * static_cast<size_t>(count);
    for (int64_t c = 0; c < count; c++) {
        const float * from = input_of(columns, first + c);
        for (int64_t unit = 0; unit < num_values / UNIT; unit++) {
            uint8_t * at = to + static_cast<size_t>(unit) * unit_bytes;
            uint8_t * rest = at + count * UNIT;
            int32_t sums[NumGroups];
            const float scale = quantise<NumGroups>(from + unit * UNIT, reinterpret_cast<int8_t *>(at + c * UNIT), sums);
            store(rest + 4 * c, scale);
            for (int g = 0; g < NumGroups; g++) {
                uint8_t * balance = rest + 4 * count + 4 * (c * NumGroups + g);
                if (HasOffset) store(balance, scale * static_cast<float>(sums[g]));
                else store(balance, -Zero * sums[g]);
            }
        }
    }
}

// Floats as they are, value by value.
inline void gather_columns(const Columns & columns, int64_t first, int64_t count, int64_t num_values, uint8_t * to) {
    for (int64_t c = 0; c < count; c++) {
        const float * from = input_of(columns, first + c);
        float * at = reinterpret_cast<float *>(to) + c;
        for (int64_t i = 0; i < num_values; i++) at[i * count] = from[i];
    }
}

}  // namespace zhibei::ZHIBEI_LEVEL
