// AVX-512 VNNI: sixteen rows at a time.
#define ZHIBEI_LEVEL avx512vnni
#ifdef ZHIBEI_EMULATED
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#else
#include <immintrin.h>
#endif

#include "loops.h"

namespace zhibei {
namespace avx512vnni {

struct Isa : Vectors<16> {
    static constexpr const char * NAME = "avx512-vnni";
    static constexpr int ROWS = 16;
    static constexpr int WIDTH = width(12);
    static constexpr int FLOAT_WIDTH = width(12);
    static constexpr int SIGNED_ZERO = 128;

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

    template <int Quads, bool Signed, int Largest>
    static ZHIBEI_INLINE Ints dot(const Bytes * quads, const uint8_t * numbers, Ints start) {
        __m512i sum = (__m512i)start;
        for (int j = 0; j < Quads; j++) {
            sum = _mm512_dpbusd_epi32(sum, (__m512i)quads[j], _mm512_set1_epi32(load<int32_t>(numbers + 4 * j)));
        }
        return (Ints)sum;
    }
};

}  // namespace avx512vnni

const Level & level_avx512vnni() { return avx512vnni::Formats<avx512vnni::Isa>::LEVEL; }
}  // namespace zhibei
