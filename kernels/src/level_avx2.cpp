// AVX2, and AVX-VNNI where this file is compiled for it: eight rows at a time.
#ifdef ZHIBEI_VNNI
#define ZHIBEI_LEVEL avxvnni
#else
#define ZHIBEI_LEVEL avx2
#endif
#include <immintrin.h>

#include "loops.h"
#include "pairs.h"

namespace zhibei {
namespace ZHIBEI_LEVEL {

struct Isa : Vectors<8> {
    static constexpr int ROWS = 8;
    static constexpr int WIDTH = width(4);
    static constexpr int FLOAT_WIDTH = width(4);

    static ZHIBEI_INLINE Floats halves(const uint8_t * at) { return _mm256_cvtph_ps(load<__m128i>(at)); }

    // The compiler's own conversions of vectors this short go through memory.
    static ZHIBEI_INLINE Ints unsigned_bytes(const uint8_t * at) {
        return reinterpret_cast<Ints>(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(load<int64_t>(at))));
    }

    static ZHIBEI_INLINE Ints signed_bytes(const uint8_t * at) {
        return reinterpret_cast<Ints>(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(load<int64_t>(at))));
    }

    static ZHIBEI_INLINE Ints words(const uint8_t * at) {
        return reinterpret_cast<Ints>(_mm256_cvtepu16_epi32(load<__m128i>(at)));
    }

    static ZHIBEI_INLINE Bytes look_up(const int8_t * table, Bytes indices) {
        const __m256i both = _mm256_broadcastsi128_si256(load<__m128i>(table));
        return reinterpret_cast<Bytes>(_mm256_shuffle_epi8(both, reinterpret_cast<__m256i>(indices)));
    }

    static ZHIBEI_INLINE __m256i numbers_at(const uint8_t * at) { return _mm256_set1_epi32(load<int32_t>(at)); }

#ifdef ZHIBEI_VNNI
    static constexpr const char * NAME = "avx-vnni";
    static constexpr int SIGNED_ZERO = 128;

#ifdef ZHIBEI_EMULATED
    static ZHIBEI_INLINE __m256i add_products(__m256i sum, __m256i weights, __m256i numbers) {
        Ints sums = reinterpret_cast<Ints>(sum);
        for (int i = 0; i < ROWS * 4; i++) {
            sums[i / 4] += reinterpret_cast<Bytes>(weights)[i] * static_cast<int8_t>(reinterpret_cast<Bytes>(numbers)[i]);
        }
        return reinterpret_cast<__m256i>(sums);
    }
#else
    static ZHIBEI_INLINE __m256i add_products(__m256i sum, __m256i weights, __m256i numbers) {
        return _mm256_dpbusd_avx_epi32(sum, weights, numbers);
    }
#endif

    template <int Quads, bool Signed, int Largest>
    static ZHIBEI_INLINE Ints dot(const Bytes * quads, const uint8_t * numbers, Ints start) {
        __m256i sum = reinterpret_cast<__m256i>(start);
        for (int j = 0; j < Quads; j++) sum = add_products(sum, reinterpret_cast<__m256i>(quads[j]), numbers_at(numbers + 4 * j));
        return reinterpret_cast<Ints>(sum);
    }
#else
    static constexpr const char * NAME = "avx2";
    static constexpr int SIGNED_ZERO = 0;

    // Two products in 16 bits. A signed weight gives its sign to the number, for the instruction wants it unsigned.
    template <bool Signed> static ZHIBEI_INLINE Words pairs(Bytes quad, const uint8_t * numbers) {
        const __m256i weights = reinterpret_cast<__m256i>(quad);
        const __m256i others = numbers_at(numbers);
        if constexpr (Signed) {
            return reinterpret_cast<Words>(_mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(others, weights)));
        } else {
            return reinterpret_cast<Words>(_mm256_maddubs_epi16(weights, others));
        }
    }

    static ZHIBEI_INLINE Ints add_pairs(Ints sum, Words pairs) {
        const __m256i wide = _mm256_madd_epi16(reinterpret_cast<__m256i>(pairs), _mm256_set1_epi16(1));
        return reinterpret_cast<Ints>(_mm256_add_epi32(reinterpret_cast<__m256i>(sum), wide));
    }

    template <int Quads, bool Signed, int Largest>
    static ZHIBEI_INLINE Ints dot(const Bytes * quads, const uint8_t * numbers, Ints start) {
        return dot_by_pairs<Isa, Quads, Signed, Largest>(quads, numbers, start);
    }
#endif
};

}  // namespace ZHIBEI_LEVEL

#ifdef ZHIBEI_VNNI
const Level & level_avxvnni() { return avxvnni::Formats<avxvnni::Isa>::LEVEL; }
#else
const Level & level_avx2() { return avx2::Formats<avx2::Isa>::LEVEL; }
#endif
}  // namespace zhibei
