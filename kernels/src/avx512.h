// What AVX-512 does its own way, sixteen rows at a time; with VNNI's products where ZHIBEI_VNNI is defined.
#pragma once

#ifdef ZHIBEI_EMULATED
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#else
#include <immintrin.h>
#endif

#include "loops.h"
#include "pairs.h"

namespace zhibei::ZHIBEI_LEVEL {

struct Avx512 : Vectors<16> {
    static constexpr int ROWS = 16;
    static constexpr int FLOAT_WIDTH = width(12);

    static ZHIBEI_INLINE Floats halves(const uint8_t * at) { return (Floats)_mm512_cvtph_ps(load<__m256i>(at)); }

#ifdef ZHIBEI_EMULATED
    // SIMDe has not got these three. The compiler's own conversion is right, and slow.
    template <class Number> static ZHIBEI_INLINE Ints widened(const uint8_t * at) {
        typedef Number Narrow __attribute__((vector_size(ROWS * sizeof(Number))));
        return __builtin_convertvector(load<Narrow>(at), Ints);
    }

    static ZHIBEI_INLINE Ints unsigned_bytes(const uint8_t * at) { return widened<uint8_t>(at); }
    static ZHIBEI_INLINE Ints signed_bytes(const uint8_t * at) { return widened<int8_t>(at); }
    static ZHIBEI_INLINE Ints words(const uint8_t * at) { return widened<uint16_t>(at); }
#else
    static ZHIBEI_INLINE Ints unsigned_bytes(const uint8_t * at) { return (Ints)_mm512_cvtepu8_epi32(load<__m128i>(at)); }
    static ZHIBEI_INLINE Ints signed_bytes(const uint8_t * at) { return (Ints)_mm512_cvtepi8_epi32(load<__m128i>(at)); }
    static ZHIBEI_INLINE Ints words(const uint8_t * at) { return (Ints)_mm512_cvtepu16_epi32(load<__m256i>(at)); }
#endif

    static ZHIBEI_INLINE Bytes look_up(const int8_t * table, Bytes indices) {
        const __m512i four = _mm512_broadcast_i32x4(load<__m128i>(table));
        return (Bytes)_mm512_shuffle_epi8(four, (__m512i)indices);
    }

    static ZHIBEI_INLINE __m512i numbers_at(const uint8_t * at) { return _mm512_set1_epi32(load<int32_t>(at)); }

#ifdef ZHIBEI_VNNI
    static constexpr int WIDTH = width(12);
    static constexpr int SIGNED_ZERO = 128;

    template <int Quads, bool Signed, int Largest>
    static ZHIBEI_INLINE Ints dot(const Bytes * quads, const uint8_t * numbers, Ints start) {
        __m512i sum = (__m512i)start;
        for (int j = 0; j < Quads; j++) sum = _mm512_dpbusd_epi32(sum, (__m512i)quads[j], numbers_at(numbers + 4 * j));
        return (Ints)sum;
    }
#else
    // Pairs need registers of their own; and every number of columns is code to compile.
    static constexpr int WIDTH = width(8);
    static constexpr int SIGNED_ZERO = 0;

    // A signed weight gives its sign to the number, for the instruction wants it unsigned.
    template <bool Signed> static ZHIBEI_INLINE Words pairs(Bytes quad, const uint8_t * numbers) {
        const __m512i weights = (__m512i)quad;
        const __m512i others = numbers_at(numbers);
        if constexpr (Signed) {
            const __m512i turned = _mm512_mask_sub_epi8(others, _mm512_movepi8_mask(weights), _mm512_setzero_si512(), others);
            return (Words)_mm512_maddubs_epi16(_mm512_abs_epi8(weights), turned);
        } else {
            return (Words)_mm512_maddubs_epi16(weights, others);
        }
    }

    static ZHIBEI_INLINE Ints add_pairs(Ints sum, Words pairs) {
        return (Ints)_mm512_add_epi32((__m512i)sum, _mm512_madd_epi16((__m512i)pairs, _mm512_set1_epi16(1)));
    }

    template <int Quads, bool Signed, int Largest>
    static ZHIBEI_INLINE Ints dot(const Bytes * quads, const uint8_t * numbers, Ints start) {
        return dot_by_pairs<Avx512, Quads, Signed, Largest>(quads, numbers, start);
    }
#endif
};

}  // namespace zhibei::ZHIBEI_LEVEL
