// Loads, half-width floats and vector types of any width. Included only inside a level's namespace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#define ZHIBEI_INLINE inline __attribute__((always_inline))

namespace zhibei::ZHIBEI_LEVEL {

// Columns that a loop takes at once. Test builds take fewer: every number of them is code to compile.
constexpr int width(int most) {
#ifdef ZHIBEI_NARROW
    return most < 3 ? most : 3;
#else
    return most;
#endif
}

template <class T> ZHIBEI_INLINE T load(const void * from) {
    T value;
    __builtin_memcpy(&value, from, sizeof(T));
    return value;
}

template <class T> ZHIBEI_INLINE void store(void * to, T value) { __builtin_memcpy(to, &value, sizeof(T)); }

// Lanes `At` of two vectors of words, the second one's behind the first one's.
template <int... At, class Vector> ZHIBEI_INLINE Vector picked(Vector a, Vector b) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, At...);
#else
    typedef int32_t Indices __attribute__((vector_size(sizeof(Vector))));
    return __builtin_shuffle(a, b, Indices{At...});
#endif
}

ZHIBEI_INLINE float from_bits(uint32_t bits) { return load<float>(&bits); }

// IEEE half to float in integers: exact for every value, subnormal ones included.
inline float half_to_float(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    const uint32_t rest = half & 0x7fff;
    if (rest >= 0x7c00) return from_bits(sign | 0x7f800000 | (rest << 13));
    if (rest >= 0x0400) return from_bits(sign | ((rest << 13) + 0x38000000));
    const float small = static_cast<float>(rest) * 0x1p-24f;
    return sign ? -small : small;
}

// Vectors over `Rows` rows: four bytes, one word or one float of each.
template <int Rows> struct Vectors {
    typedef uint8_t Bytes __attribute__((vector_size(Rows * 4)));
    typedef uint16_t Words __attribute__((vector_size(Rows * 4)));
    typedef int32_t Ints __attribute__((vector_size(Rows * 4)));
    typedef float Floats __attribute__((vector_size(Rows * 4)));

    // Levels with tile registers have their own in place of these.
    static constexpr bool HAS_TILES = false;
    struct TileRegisters {
        explicit TileRegisters(int) {}
    };
};

}  // namespace zhibei::ZHIBEI_LEVEL
