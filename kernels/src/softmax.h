// Exponentials, and the softmax of scores that come a block of keys at a time.
//
// Scores lie key by key, `width` rows beside each other: every step is the same for all lanes of a vector. Rows fewer than
// lanes are repeated over the lanes, each of which then has its own share of the keys.
#pragma once

#include "attention.h"
#include "numbers.h"

namespace zhibei::ZHIBEI_LEVEL {

constexpr float NOTHING = -__builtin_inff();
// 1.5 * 2^23: adding it leaves the nearest whole number in the low bits.
constexpr float ROUNDER = 12582912.0f;
constexpr float LOG2_E = 1.44269504f;
// ln 2 in two parts, the first of few bits.
constexpr float LN2_HIGH = 0.693359375f;
constexpr float LN2_LOW = -2.12194440e-4f;
constexpr float SMALLEST_POWER = -87.0f;

// e to the power of numbers up to 80: within 2 units in the last place, nothing below -87, NaN for NaN.
template <class Isa> ZHIBEI_INLINE typename Isa::Floats exponential(typename Isa::Floats x) {
    using Floats = typename Isa::Floats;
    using Ints = typename Isa::Ints;
    const Floats moved = x * LOG2_E + ROUNDER;
    const Floats whole = moved - ROUNDER;
    const Floats rest = (x - whole * LN2_HIGH) - whole * LN2_LOW;
    Floats series = rest * (1.0f / 720) + 1.0f / 120;
    series = series * rest + 1.0f / 24;
    series = series * rest + 1.0f / 6;
    series = series * rest + 0.5f;
    series = series * rest * rest + rest + 1.0f;
    const Ints power = (reinterpret_cast<Ints>(moved) - (0x4b400000 - 127)) << 23;
    return x < SMALLEST_POWER ? Floats{} : series * reinterpret_cast<Floats>(power);
}

// A series near nothing, where the quotient would lose what is small; the quotient of exponentials elsewhere.
template <class Isa> ZHIBEI_INLINE typename Isa::Floats hyperbolic_tangent(typename Isa::Floats x) {
    using Floats = typename Isa::Floats;
    const Floats size = x < 0.0f ? -x : x;
    const Floats square = x * x;
    Floats series = square * -5.70498872745e-3f + 2.06390887954e-2f;
    series = series * square - 5.37397155531e-2f;
    series = series * square + 1.33314422036e-1f;
    series = series * square - 3.33332819422e-1f;
    const Floats small = x + x * square * series;
    const Floats large = 1.0f - 2.0f / (exponential<Isa>(size > 10.0f ? Floats{} + 20.0f : size + size) + 1.0f);
    return size < 0.625f ? small : x < 0.0f ? -large : large;
}

// Every lane gets the largest (or the sum) of the lanes that are `width` apart.
template <class Isa, class Join> ZHIBEI_INLINE void join_lanes(float * lanes, int width, const Join & join) {
    for (int i = width; i < Isa::ROWS; i++) lanes[i % width] = join(lanes[i % width], lanes[i]);
    for (int i = width; i < Isa::ROWS; i++) lanes[i] = lanes[i % width];
}

// Scores of one block become weights; `factors` is what weighs the values that were summed before.
template <class Isa>
void weigh(float * scores, int64_t num_keys, int width, const Sums & sums, float * factors) {
    using Floats = typename Isa::Floats;
    const int across = width < Isa::ROWS ? Isa::ROWS : width;
    const int64_t lines = num_keys * width / across;
    for (int lane = 0; lane < across; lane += Isa::ROWS) {
        float * at = scores + lane;
        Floats largest = load<Floats>(sums.largest + lane);
        const Floats before = largest;
        for (int64_t line = 0; line < lines; line++) {
            const Floats score = load<Floats>(at + line * across);
            largest = score > largest ? score : largest;
        }
        store(sums.largest + lane, largest);
        if (width < Isa::ROWS) {
            join_lanes<Isa>(sums.largest, width, [](float a, float b) { return b > a ? b : a; });
            largest = load<Floats>(sums.largest);
        }
        // Where nothing was seen yet, minus infinity less itself must not become NaN.
        const Floats base = largest == NOTHING ? Floats{} : largest;
        const Floats factor = exponential<Isa>(before - base);
        Floats sum = load<Floats>(sums.sums + lane) * factor;
        for (int64_t line = 0; line < lines; line++) {
            const Floats weight = exponential<Isa>(load<Floats>(at + line * across) - base);
            store(at + line * across, weight);
            sum += weight;
        }
        store(sums.sums + lane, sum);
        store(factors + lane, factor);
    }
}

template <class Isa> void cap_scores(float * scores, int64_t count, float cap) {
    using Floats = typename Isa::Floats;
    for (int64_t i = 0; i < count; i += Isa::ROWS) store(scores + i, hyperbolic_tangent<Isa>(load<Floats>(scores + i)) * cap);
}

// Adds the mask's values to the scores of some listed keys.
inline void mask_scores(const Attention & attention, const Rows & rows, const int32_t * keys, int count, int width, float * scores) {
    uint16_t halves[KEYS_AT_ONCE] = {};
    uint64_t any = 0;
    int64_t of_position = -1;
    const bool by_head = attention.mask.counts[0] > 1;
    for (int64_t row = 0; row < rows.count; row++) {
        const int64_t position = (rows.first + row) / attention.sharing;
        const int64_t head = rows.key_head * attention.sharing + (rows.first + row) % attention.sharing;
        if (position != of_position || by_head) {
            const uint8_t * from = attention.mask_row(position, head, rows.sequence);
            if (keys[count - 1] - keys[0] == count - 1) std::memcpy(halves, from + 2 * int64_t{keys[0]}, 2 * static_cast<size_t>(count));
            else for (int i = 0; i < count; i++) halves[i] = load<uint16_t>(from + 2 * int64_t{keys[i]});
            any = 0;
            for (int i = 0; i < KEYS_AT_ONCE; i += 4) any |= load<uint64_t>(halves + i);
            of_position = position;
        }
        if (any == 0) continue;
        const float slope = attention.slopes == nullptr ? 1.0f : attention.slopes[head];
        for (int i = 0; i < count; i++) {
            float * score = scores + i * width + row;
            // What is hidden stays hidden whatever its key holds.
            if (halves[i] == 0xfc00) *score = NOTHING;
            else if (halves[i] != 0) *score += slope * half_to_float(halves[i]);
        }
    }
}

}  // namespace zhibei::ZHIBEI_LEVEL
