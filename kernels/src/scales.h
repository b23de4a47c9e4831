// How the scales and offsets of 16 rows are kept in a tile, written and read back: two kinds cover every format.
#pragma once

#include "level.h"
#include "numbers.h"

namespace zhibei::ZHIBEI_LEVEL {

// Values that a loop takes at once; activations have one scale per unit.
constexpr int UNIT = 32;

// Rows that are packed at a time.
constexpr int LANES = 4;

// A block of ggml's (32 or 256 values of a row), taken apart.
struct Block {
    uint8_t values[256];
    uint8_t scales[16];    // small scales, where the block has them
    uint8_t minimums[16];  // small minimums, likewise
    uint16_t scale;        // halves
    uint16_t offset;       // added as it is in blocks of 32; the minimums' scale, subtracted, in blocks of 256
};

template <bool HasOffset> ZHIBEI_INLINE void pack_halves(const Block * blocks, int first_row, uint8_t * to) {
    for (int lane = 0; lane < LANES; lane++) {
        store(to + 2 * (first_row + lane), blocks[lane].scale);
        if (HasOffset) store(to + 2 * (TILE_ROWS + first_row + lane), blocks[lane].offset);
    }
}

// One half per row and 32 values, and another one to add.
template <bool HasOffset> struct HalfScales {
    static constexpr bool HAS_OFFSET = HasOffset;
    static constexpr int BLOCK_BYTES = 2 * TILE_ROWS * (HasOffset ? 2 : 1);

    static void pack(const Block * blocks, int first_row, uint8_t * to) { pack_halves<HasOffset>(blocks, first_row, to); }

    template <class Isa>
    static ZHIBEI_INLINE void read(const uint8_t * scales, int64_t unit, int first_row, typename Isa::Floats * scale,
                                   typename Isa::Floats * offset) {
        const uint8_t * from = scales + unit * BLOCK_BYTES + 2 * first_row;
        scale[0] = Isa::halves(from);
        if constexpr (HasOffset) offset[0] = Isa::halves(from + 2 * TILE_ROWS);
    }
};

// Small numbers of 4, 6 or 8 bits for groups of 16 or 32 values, times one half per 256 (and another for minimums).
template <int Bits, int Group, bool HasMinimums, int Zero> struct SuperScales {
    static constexpr bool HAS_OFFSET = HasMinimums;
    static constexpr int UNITS = 8;
    static constexpr int GROUPS = UNIT / Group;                          // in a unit
    static constexpr int PER_UNIT = GROUPS * (HasMinimums ? 2 : 1);      // numbers in a unit: scales, then minimums
    static constexpr int NUMBERS = UNITS * PER_UNIT;
    static constexpr int LOW_AT = 2 * TILE_ROWS * (HasMinimums ? 2 : 1);
    static constexpr int HIGH_AT = LOW_AT + TILE_ROWS * (Bits == 8 ? NUMBERS : NUMBERS / 2);
    static constexpr int BLOCK_BYTES = HIGH_AT + (Bits == 6 ? TILE_ROWS * NUMBERS / 4 : 0);
    static constexpr uint32_t FIFTEENS = 0x0f0f0f0f, THREES = 0x03030303;

    // Number `index` of each row, a byte beside the other.
    static ZHIBEI_INLINE uint32_t numbers(const Block * blocks, int index) {
        const int group = index / PER_UNIT * GROUPS + index % GROUPS;
        uint32_t together = 0;
        for (int lane = 0; lane < LANES; lane++) {
            const bool is_minimum = index % PER_UNIT >= GROUPS;
            const uint32_t number = is_minimum ? blocks[lane].minimums[group] : blocks[lane].scales[group];
            together |= number << (8 * lane);
        }
        return together;
    }

    static void pack(const Block * blocks, int first_row, uint8_t * to) {
        pack_halves<HasMinimums>(blocks, first_row, to);
        uint8_t * low = to + LOW_AT + first_row;
        uint8_t * high = to + HIGH_AT + first_row;
        if (Bits == 8) {
            for (int i = 0; i < NUMBERS; i++) store(low + i * TILE_ROWS, numbers(blocks, i));
            return;
        }
        for (int i = 0; i < NUMBERS; i += 4) {
            const uint32_t four[4] = {numbers(blocks, i), numbers(blocks, i + 1), numbers(blocks, i + 2), numbers(blocks, i + 3)};
            store(low + i / 2 * TILE_ROWS, (four[0] & FIFTEENS) | (four[1] & FIFTEENS) << 4);
            store(low + (i / 2 + 1) * TILE_ROWS, (four[2] & FIFTEENS) | (four[3] & FIFTEENS) << 4);
            if (Bits != 6) continue;
            uint32_t rest = 0;
            for (int k = 0; k < 4; k++) rest |= (four[k] >> 4 & THREES) << (2 * k);
            store(high + i / 4 * TILE_ROWS, rest);
        }
    }

    template <class Isa> static ZHIBEI_INLINE typename Isa::Floats number(const uint8_t * block, int index, int first_row) {
        using Ints = typename Isa::Ints;
        if constexpr (Bits == 8) {
            return __builtin_convertvector(Isa::signed_bytes(block + LOW_AT + index * TILE_ROWS + first_row), typename Isa::Floats);
        } else {
            Ints value = (Isa::unsigned_bytes(block + LOW_AT + index / 2 * TILE_ROWS + first_row) >> (4 * (index % 2))) & 15;
            if constexpr (Bits == 6) {
                const Ints high = Isa::unsigned_bytes(block + HIGH_AT + index / 4 * TILE_ROWS + first_row);
                value |= ((high >> (2 * (index % 4))) & 3) << 4;
            }
            return __builtin_convertvector(value - Zero, typename Isa::Floats);
        }
    }

    template <class Isa>
    static ZHIBEI_INLINE void read(const uint8_t * scales, int64_t unit, int first_row, typename Isa::Floats * scale,
                                   typename Isa::Floats * offset) {
        const uint8_t * block = scales + unit / UNITS * BLOCK_BYTES;
        const int index = static_cast<int>(unit % UNITS) * PER_UNIT;
        const auto whole = Isa::halves(block + 2 * first_row);
        for (int group = 0; group < GROUPS; group++) scale[group] = whole * number<Isa>(block, index + group, first_row);
        if constexpr (HasMinimums) {
            const auto lowest = -Isa::halves(block + 2 * TILE_ROWS + 2 * first_row);
            for (int group = 0; group < GROUPS; group++) {
                offset[group] = lowest * number<Isa>(block, index + GROUPS + group, first_row);
            }
        }
    }
};

}  // namespace zhibei::ZHIBEI_LEVEL
