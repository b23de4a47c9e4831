// The layout of a tile of 16 rows: packing ggml's blocks into it, and decoding 32 values of its rows in registers.
//
// A tile is all its values, then all its scales, together exactly as long as the 16 rows were. The values of a unit (32
// columns of the matrix) are eight quads; quad `j` holds values 4j..4j+3 of each of the 16 rows, 64 bytes when a value
// takes a byte. Planes of fewer bits lay quads over each other: with `b` bits, quad `j` is in vector `j % b`, shifted by
// `j / b * b`.
#pragma once

#include "formats.h"

namespace zhibei::ZHIBEI_LEVEL {

constexpr int QUADS = 8;
constexpr int VECTOR = 64;

template <class F> constexpr int UNIT_BYTES = (F::LOW_BITS + F::HIGH_BITS) * VECTOR;
template <class F> constexpr int SCALE_BYTES = F::Scales::BLOCK_BYTES * UNIT / F::VALUES;
template <class F> constexpr int GROUPS = UNIT / F::GROUP;

// How far ahead weights are asked for.
constexpr int AHEAD_BYTES = 2048;

template <class F> ZHIBEI_INLINE const uint8_t * scales_of(const uint8_t * tile, int64_t num_values) {
    return tile + num_values / UNIT * UNIT_BYTES<F>;
}

// A word of each of the rows that are packed at a time.
typedef uint32_t LaneWords __attribute__((vector_size(4 * LANES)));

template <int Bits> ZHIBEI_INLINE void pack_plane(const LaneWords * quads, int below, uint8_t * plane) {
    constexpr uint32_t MASK = 0x01010101u * ((1u << Bits) - 1);
    for (int vector = 0; vector < Bits; vector++) {
        LaneWords words = {};
        for (int shift = 0; shift < 8; shift += Bits) words |= ((quads[vector + shift] >> below) & MASK) << shift;
        store(plane + vector * VECTOR, words);
    }
}

// Sixteen bytes of each row, from `at` on, as its words beside the other rows'.
ZHIBEI_INLINE void gather_quads(const Block * blocks, int at, LaneWords * quads) {
    const auto a = load<LaneWords>(blocks[0].values + at), b = load<LaneWords>(blocks[1].values + at);
    const auto c = load<LaneWords>(blocks[2].values + at), d = load<LaneWords>(blocks[3].values + at);
    const LaneWords ab = picked<0, 4, 1, 5>(a, b), ab_after = picked<2, 6, 3, 7>(a, b);
    const LaneWords cd = picked<0, 4, 1, 5>(c, d), cd_after = picked<2, 6, 3, 7>(c, d);
    quads[0] = picked<0, 1, 4, 5>(ab, cd);
    quads[1] = picked<2, 3, 6, 7>(ab, cd);
    quads[2] = picked<0, 1, 4, 5>(ab_after, cd_after);
    quads[3] = picked<2, 3, 6, 7>(ab_after, cd_after);
}

// The values of `LANES` rows in one unit.
template <class F> ZHIBEI_INLINE void pack_unit(const Block * blocks, int unit, uint8_t * to) {
    LaneWords quads[QUADS];
    gather_quads(blocks, unit * UNIT, quads);
    gather_quads(blocks, unit * UNIT + UNIT / 2, quads + QUADS / 2);
    pack_plane<F::LOW_BITS>(quads, 0, to);
    if constexpr (F::HIGH_BITS > 0) pack_plane<F::HIGH_BITS>(quads, F::LOW_BITS, to + F::LOW_BITS * VECTOR);
}

template <class F> void pack_rows(const uint8_t * rows, uint8_t * tiles, int64_t num_rows, int64_t num_values) {
    const int64_t num_blocks = num_values / F::VALUES;
    for (int64_t first = 0; first < num_rows; first += TILE_ROWS) {
        uint8_t * tile = tiles + static_cast<size_t>(first * num_blocks) * F::BYTES;
        const uint8_t * from = rows + static_cast<size_t>(first * num_blocks) * F::BYTES;
        uint8_t * scales = tile + num_values / UNIT * UNIT_BYTES<F>;
        const int64_t count = num_rows - first < TILE_ROWS ? num_rows - first : TILE_ROWS;
        // Where rows are missing, zeros.
        Block blocks[TILE_ROWS] = {};
        for (int64_t b = 0; b < num_blocks; b++) {
            // Sixteen rows are more streams than a processor follows; the next sixteen come in one.
            const uint8_t * next = from + (num_blocks + b) * F::BYTES * TILE_ROWS;
            for (int i = 0; i < F::BYTES * TILE_ROWS; i += VECTOR) __builtin_prefetch(next + i);
            for (int64_t row = 0; row < count; row++) F::unpack(from + (row * num_blocks + b) * F::BYTES, blocks[row]);
            for (int row = 0; row < TILE_ROWS; row += LANES) F::Scales::pack(blocks + row, row, scales + b * F::Scales::BLOCK_BYTES);
            for (int unit = 0; unit < F::VALUES / UNIT; unit++) {
                uint8_t * to = tile + (b * (F::VALUES / UNIT) + unit) * UNIT_BYTES<F>;
                for (int row = 0; row < TILE_ROWS; row += LANES) pack_unit<F>(blocks + row, unit, to + row * 4);
            }
        }
    }
}

// Right by `Shift` (left when negative), then only the bits of `Mask`, in every byte.
template <class Isa, int Shift, int Mask> ZHIBEI_INLINE typename Isa::Bytes bits(typename Isa::Bytes bytes) {
    using Words = typename Isa::Words;
    const Words words = reinterpret_cast<Words>(bytes);
    const Words moved = Shift > 0 ? words >> Shift : Shift < 0 ? words << -Shift : words;
    constexpr uint16_t WIDE_MASK = static_cast<uint16_t>(Mask * 0x0101);
    return reinterpret_cast<typename Isa::Bytes>(moved & WIDE_MASK);
}

template <class Isa, int Bits, int Left, int J> ZHIBEI_INLINE typename Isa::Bytes plane_quad(const uint8_t * plane) {
    const auto bytes = load<typename Isa::Bytes>(plane + J % Bits * VECTOR);
    if constexpr (Bits == 8) return bytes;
    else return bits<Isa, J / Bits * Bits - Left, ((1 << Bits) - 1) << Left>(bytes);
}

// Quad `J` of a unit as the level's products want it.
template <class Isa, class F, int J> ZHIBEI_INLINE typename Isa::Bytes quad(const uint8_t * unit) {
    auto value = plane_quad<Isa, F::LOW_BITS, 0, J>(unit);
    if constexpr (F::HIGH_BITS > 0) value |= plane_quad<Isa, F::HIGH_BITS, F::LOW_BITS, J>(unit + F::LOW_BITS * VECTOR);
    if constexpr (F::TABLE != nullptr) value = Isa::look_up(F::TABLE, value);
    if constexpr (F::SIGNED && Isa::SIGNED_ZERO != 0) value ^= static_cast<uint8_t>(Isa::SIGNED_ZERO);
    return value;
}

// A format's tile, decoded in registers for `Isa::ROWS` of its rows at a time.
template <class Isa, class F> struct Packed {
    static constexpr int ROWS = TILE_ROWS;
    static constexpr int NUM_GROUPS = GROUPS<F>;
    static constexpr bool HAS_OFFSET = F::Scales::HAS_OFFSET;
    static constexpr bool SIGNED = F::SIGNED;
    static constexpr int LARGEST = (1 << (F::LOW_BITS + F::HIGH_BITS)) - 1;
    static constexpr int AHEAD = AHEAD_BYTES / UNIT_BYTES<F>;

    const uint8_t * values;
    const uint8_t * scales;
    int64_t num_units;

    static Packed of(const uint8_t * tile, int64_t num_values) { return {tile, scales_of<F>(tile, num_values), num_values / UNIT}; }

    ZHIBEI_INLINE void decode(int64_t unit, int first_row, typename Isa::Bytes * quads, typename Isa::Floats * scale,
                              typename Isa::Floats * offset) const {
        const uint8_t * at = values + unit * UNIT_BYTES<F> + first_row * 4;
        quads[0] = quad<Isa, F, 0>(at);
        quads[1] = quad<Isa, F, 1>(at);
        quads[2] = quad<Isa, F, 2>(at);
        quads[3] = quad<Isa, F, 3>(at);
        quads[4] = quad<Isa, F, 4>(at);
        quads[5] = quad<Isa, F, 5>(at);
        quads[6] = quad<Isa, F, 6>(at);
        quads[7] = quad<Isa, F, 7>(at);
        F::Scales::template read<Isa>(scales, unit, first_row, scale, offset);
    }

    // Values a little ahead, on into the next tile; its scales a whole tile ahead, since they lie behind all its values.
    ZHIBEI_INLINE void prefetch(int64_t unit) const {
        const int64_t ahead = unit + AHEAD;
        const uint8_t * at = values + ahead * UNIT_BYTES<F> + (ahead < num_units ? 0 : num_units * SCALE_BYTES<F>);
        for (int i = 0; i < UNIT_BYTES<F>; i += VECTOR) __builtin_prefetch(at + i);
        __builtin_prefetch(scales + num_units * (UNIT_BYTES<F> + SCALE_BYTES<F>) + unit * SCALE_BYTES<F>);
    }
};

// `Isa::ROWS` rows of it once decoded, for products of many columns: a byte per value, scales and offsets as floats.
template <class Isa, class F> struct Decoded {
    static constexpr int ROWS = Isa::ROWS;
    static constexpr int NUM_GROUPS = GROUPS<F>;
    static constexpr bool HAS_OFFSET = F::Scales::HAS_OFFSET;
    static constexpr bool SIGNED = F::SIGNED;
    static constexpr int LARGEST = Packed<Isa, F>::LARGEST;

    struct Unit {
        uint8_t quads[QUADS][ROWS * 4];
        float scales[NUM_GROUPS][ROWS];
        float offsets[HAS_OFFSET ? NUM_GROUPS : 0][ROWS];
    };

    const Unit * units;

    static void fill(const Packed<Isa, F> & packed, int64_t num_units, int first_row, Unit * to) {
        typename Isa::Bytes quads[QUADS];
        typename Isa::Floats scale[NUM_GROUPS], offset[NUM_GROUPS];
        for (int64_t unit = 0; unit < num_units; unit++) {
            packed.prefetch(unit);
            packed.decode(unit, first_row, quads, scale, offset);
            for (int j = 0; j < QUADS; j++) store(to[unit].quads[j], quads[j]);
            for (int g = 0; g < NUM_GROUPS; g++) {
                store(to[unit].scales[g], scale[g]);
                if constexpr (HAS_OFFSET) store(to[unit].offsets[g], offset[g]);
            }
        }
    }

    ZHIBEI_INLINE void decode(int64_t unit, int, typename Isa::Bytes * quads, typename Isa::Floats * scale,
                              typename Isa::Floats * offset) const {
        const Unit & from = units[unit];
        for (int j = 0; j < QUADS; j++) quads[j] = load<typename Isa::Bytes>(from.quads[j]);
        for (int g = 0; g < NUM_GROUPS; g++) {
            scale[g] = load<typename Isa::Floats>(from.scales[g]);
            if constexpr (HAS_OFFSET) offset[g] = load<typename Isa::Floats>(from.offsets[g]);
        }
    }

    ZHIBEI_INLINE void prefetch(int64_t) const {}
};

}  // namespace zhibei::ZHIBEI_LEVEL
