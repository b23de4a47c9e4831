// One description per weight format: how a block of ggml's becomes small unsigned numbers, scales and offsets.
//
// A weight is `scale * (value - zero)` or `scale * value + offset`. `LOW_BITS` and `HIGH_BITS` say how a value is kept in
// memory; `GROUP` how many values share a scale; `Scales` (scales.h) how scales are kept.
#pragma once

#include "scales.h"

namespace zhibei::ZHIBEI_LEVEL {

// The signed values of the two formats that look them up.
constexpr int8_t IQ4_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

constexpr int8_t const * NO_TABLE = nullptr;

ZHIBEI_INLINE uint16_t half_at(const uint8_t * at) { return load<uint16_t>(at); }

// 32 values in 16 bytes: the first 16 in the low halves.
ZHIBEI_INLINE void unpack_nibbles(const uint8_t * from, uint8_t * values) {
    typedef uint8_t Sixteen __attribute__((vector_size(16)));
    const Sixteen both = load<Sixteen>(from);
    store(values, both & 15);
    store(values + 16, both >> 4);
}

// The fifth bits of 32 values in four bytes: four of them at a time, moved to four bytes by a product without carries.
ZHIBEI_INLINE void unpack_fifth_bits(const uint8_t * from, uint8_t * values) {
    const uint32_t bits = load<uint32_t>(from);
    for (int i = 0; i < 32; i += 4) {
        const uint32_t spread = (((bits >> i) & 15) * 0x00204081u) & 0x01010101u;
        store(values + i, load<uint32_t>(values + i) | (spread << 4));
    }
}

// 64 values in 32 bytes, four times: the layout of the four and five bit formats with blocks of 256.
ZHIBEI_INLINE void unpack_wide_nibbles(const uint8_t * from, uint8_t * values) {
    for (int part = 0; part < 4; part++) {
        for (int i = 0; i < 32; i++) {
            values[part * 64 + i] = from[part * 32 + i] & 15;
            values[part * 64 + i + 32] = from[part * 32 + i] >> 4;
        }
    }
}

// 128 values in 32 bytes, twice, two bits each.
ZHIBEI_INLINE void unpack_two_bits(const uint8_t * from, uint8_t * values) {
    for (int part = 0; part < 2; part++) {
        for (int shift = 0; shift < 4; shift++) {
            for (int i = 0; i < 32; i++) values[part * 128 + shift * 32 + i] = (from[part * 32 + i] >> (2 * shift)) & 3;
        }
    }
}

// Bit `at` of 256 values, 32 by 32: the first of them in the lowest bits of 32 bytes.
ZHIBEI_INLINE void unpack_bit(const uint8_t * from, int at, uint8_t * values) {
    for (int part = 0; part < 8; part++) {
        for (int i = 0; i < 32; i++) values[part * 32 + i] = static_cast<uint8_t>(values[part * 32 + i] | (((from[i] >> part) & 1) << at));
    }
}

// Eight scales and eight minimums of six bits in twelve bytes.
ZHIBEI_INLINE void unpack_scales_and_minimums(const uint8_t * from, Block & block) {
    for (int i = 0; i < 4; i++) {
        block.scales[i] = from[i] & 63;
        block.minimums[i] = from[i + 4] & 63;
        block.scales[i + 4] = static_cast<uint8_t>((from[i + 8] & 15) | ((from[i] >> 6) << 4));
        block.minimums[i + 4] = static_cast<uint8_t>((from[i + 8] >> 4) | ((from[i + 4] >> 6) << 4));
    }
}

struct Q4_0 {
    static constexpr int TYPE = 2, VALUES = 32, BYTES = 18, LOW_BITS = 4, HIGH_BITS = 0, GROUP = 32, ZERO = 8;
    static constexpr bool SIGNED = false;
    static constexpr const int8_t * TABLE = NO_TABLE;
    static constexpr const char * NAME = "Q4_0";
    using Scales = HalfScales<false>;
    static void unpack(const uint8_t * from, Block & block) {
        block.scale = half_at(from);
        unpack_nibbles(from + 2, block.values);
    }
};

struct Q4_1 {
    static constexpr int TYPE = 3, VALUES = 32, BYTES = 20, LOW_BITS = 4, HIGH_BITS = 0, GROUP = 32, ZERO = 0;
    static constexpr bool SIGNED = false;
    static constexpr const int8_t * TABLE = NO_TABLE;
    static constexpr const char * NAME = "Q4_1";
    using Scales = HalfScales<true>;
    static void unpack(const uint8_t * from, Block & block) {
        block.scale = half_at(from);
        block.offset = half_at(from + 2);
        unpack_nibbles(from + 4, block.values);
    }
};

struct Q5_0 {
    static constexpr int TYPE = 6, VALUES = 32, BYTES = 22, LOW_BITS = 4, HIGH_BITS = 1, GROUP = 32, ZERO = 16;
    static constexpr bool SIGNED = false;
    static constexpr const int8_t * TABLE = NO_TABLE;
    static constexpr const char * NAME = "Q5_0";
    using Scales = HalfScales<false>;
    static void unpack(const uint8_t * from, Block & block) {
        block.scale = half_at(from);
        unpack_nibbles(from + 6, block.values);
        unpack_fifth_bits(from + 2, block.values);
    }
};

struct Q5_1 {
    static constexpr int TYPE = 7, VALUES = 32, BYTES = 24, LOW_BITS = 4, HIGH_BITS = 1, GROUP = 32, ZERO = 0;
    static constexpr bool SIGNED = false;
    static constexpr const int8_t * TABLE = NO_TABLE;
    static constexpr const char * NAME = "Q5_1";
    using Scales = HalfScales<true>;
    static void unpack(const uint8_t * from, Block & block) {
        block.scale = half_at(from);
        block.offset = half_at(from + 2);
        unpack_nibbles(from + 8, block.values);
        unpack_fifth_bits(from + 4, block.values);
    }
};

struct Q8_0 {
    static constexpr int TYPE = 8, VALUES = 32, BYTES = 34, LOW_BITS = 8, HIGH_BITS = 0, GROUP = 32, ZERO = 0;
    static constexpr bool SIGNED = true;
    static constexpr const int8_t * TABLE = NO_TABLE;
    static constexpr const char * NAME = "Q8_0";
    using Scales = HalfScales<false>;
    static void unpack(const uint8_t * from, Block & block) {
        block.scale = half_at(from);
        std::memcpy(block.values, from + 2, 32);
    }
};

struct Q2_K {
    static constexpr int TYPE = 10, VALUES = 256, BYTES = 84, LOW_BITS = 2, HIGH_BITS = 0, GROUP = 16, ZERO = 0;
    static constexpr bool SIGNED = false;
    static constexpr const int8_t * TABLE = NO_TABLE;
    static constexpr const char * NAME = "Q2_K";
    using Scales = SuperScales<4, 16, true, 0>;
    static void unpack(const uint8_t * from, Block & block) {
        for (int i = 0; i < 16; i++) {
            block.scales[i] = from[i] & 15;
            block.minimums[i] = from[i] >> 4;
        }
        unpack_two_bits(from + 16, block.values);
        block.scale = half_at(from + 80);
        block.offset = half_at(from + 82);
    }
};

struct Q3_K {
    static constexpr int TYPE = 11, VALUES = 256, BYTES = 110, LOW_BITS = 2, HIGH_BITS = 1, GROUP = 16, ZERO = 4;
    static constexpr bool SIGNED = false;
    static constexpr const int8_t * TABLE = NO_TABLE;
    static constexpr const char * NAME = "Q3_K";
    using Scales = SuperScales<6, 16, false, 32>;
    static void unpack(const uint8_t * from, Block & block) {
        unpack_two_bits(from + 32, block.values);
        unpack_bit(from, 2, block.values);
        const uint8_t * packed = from + 96;
        for (int i = 0; i < 16; i++) {
            const int low = (packed[i % 8] >> (4 * (i / 8))) & 15;
            const int high = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
            block.scales[i] = static_cast<uint8_t>(low | (high << 4));
        }
        block.scale = half_at(from + 108);
    }
};

struct Q4_K {
    static constexpr int TYPE = 12, VALUES = 256, BYTES = 144, LOW_BITS = 4, HIGH_BITS = 0, GROUP = 32, ZERO = 0;
    static constexpr bool SIGNED = false;
    static constexpr const int8_t * TABLE = NO_TABLE;
    static constexpr const char * NAME = "Q4_K";
    using Scales = SuperScales<6, 32, true, 0>;
    static void unpack(const uint8_t * from, Block & block) {
        block.scale = half_at(from);
        block.offset = half_at(from + 2);
        unpack_scales_and_minimums(from + 4, block);
        unpack_wide_nibbles(from + 16, block.values);
    }
};

struct Q5_K {
    static constexpr int TYPE = 13, VALUES = 256, BYTES = 176, LOW_BITS = 4, HIGH_BITS = 1, GROUP = 32, ZERO = 0;
    static constexpr bool SIGNED = false;
    static constexpr const int8_t * TABLE = NO_TABLE;
    static constexpr const char * NAME = "Q5_K";
    using Scales = SuperScales<6, 32, true, 0>;
    static void unpack(const uint8_t * from, Block & block) {
        block.scale = half_at(from);
        block.offset = half_at(from + 2);
        unpack_scales_and_minimums(from + 4, block);
        unpack_wide_nibbles(from + 48, block.values);
        unpack_bit(from + 16, 4, block.values);
    }
};

struct Q6_K {
    static constexpr int TYPE = 14, VALUES = 256, BYTES = 210, LOW_BITS = 4, HIGH_BITS = 2, GROUP = 16, ZERO = 32;
    static constexpr bool SIGNED = false;
    static constexpr const int8_t * TABLE = NO_TABLE;
    static constexpr const char * NAME = "Q6_K";
    using Scales = SuperScales<8, 16, false, 0>;
    static void unpack(const uint8_t * from, Block & block) {
        for (int part = 0; part < 2; part++) {
            const uint8_t * low = from + part * 64;
            const uint8_t * high = from + 128 + part * 32;
            uint8_t * to = block.values + part * 128;
            for (int i = 0; i < 32; i++) {
                to[i] = static_cast<uint8_t>((low[i] & 15) | ((high[i] & 3) << 4));
                to[i + 32] = static_cast<uint8_t>((low[i + 32] & 15) | (((high[i] >> 2) & 3) << 4));
                to[i + 64] = static_cast<uint8_t>((low[i] >> 4) | (((high[i] >> 4) & 3) << 4));
                to[i + 96] = static_cast<uint8_t>((low[i + 32] >> 4) | ((high[i] >> 6) << 4));
            }
        }
        std::memcpy(block.scales, from + 192, 16);
        block.scale = half_at(from + 208);
    }
};

struct IQ4_NL {
    static constexpr int TYPE = 20, VALUES = 32, BYTES = 18, LOW_BITS = 4, HIGH_BITS = 0, GROUP = 32, ZERO = 0;
    static constexpr bool SIGNED = true;
    static constexpr const int8_t * TABLE = IQ4_VALUES;
    static constexpr const char * NAME = "IQ4_NL";
    using Scales = HalfScales<false>;
    static void unpack(const uint8_t * from, Block & block) { Q4_0::unpack(from, block); }
};

struct IQ4_XS {
    static constexpr int TYPE = 23, VALUES = 256, BYTES = 136, LOW_BITS = 4, HIGH_BITS = 0, GROUP = 32, ZERO = 0;
    static constexpr bool SIGNED = true;
    static constexpr const int8_t * TABLE = IQ4_VALUES;
    static constexpr const char * NAME = "IQ4_XS";
    using Scales = SuperScales<6, 32, false, 32>;
    static void unpack(const uint8_t * from, Block & block) {
        block.scale = half_at(from);
        const uint16_t high = half_at(from + 2);
        for (int i = 0; i < 8; i++) {
            const int low = (from[4 + i / 2] >> (4 * (i % 2))) & 15;
            block.scales[i] = static_cast<uint8_t>(low | (((high >> (2 * i)) & 3) << 4));
        }
        for (int part = 0; part < 8; part++) unpack_nibbles(from + 8 + 16 * part, block.values + 32 * part);
    }
};

// Formats whose weights are floats of two bytes: nothing is quantised. A tile keeps `VALUES` values of a row together.
struct F16 {
    static constexpr int TYPE = 1, VALUES = 1;
    static constexpr const char * NAME = "F16";

    // Of values beside each other.
    template <class Isa> static ZHIBEI_INLINE typename Isa::Floats floats(const uint8_t * at) { return Isa::halves(at); }

    // The `which`-th value of `Isa::ROWS` rows of a tile.
    template <class Isa> static ZHIBEI_INLINE typename Isa::Floats value(const uint8_t * at, int) { return Isa::halves(at); }
};

struct BF16 {
    static constexpr int TYPE = 30, VALUES = 2;
    static constexpr const char * NAME = "BF16";

    template <class Isa> static ZHIBEI_INLINE typename Isa::Floats floats(const uint8_t * at) {
        return reinterpret_cast<typename Isa::Floats>(Isa::words(at) << 16);
    }

    // The first of two values is in the lower half of 32 bits.
    template <class Isa> static ZHIBEI_INLINE typename Isa::Floats value(const uint8_t * at, int which) {
        const auto both = load<typename Isa::Ints>(at);
        return reinterpret_cast<typename Isa::Floats>(which == 0 ? both << 16 : both & -0x10000);
    }
};

}  // namespace zhibei::ZHIBEI_LEVEL
