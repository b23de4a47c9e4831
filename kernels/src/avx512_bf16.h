// What AVX-512's instructions for BF16 add to avx512.h.
#pragma once

#include "avx512.h"
#include "bf16_pairs.h"
#ifdef ZHIBEI_EMULATED
#include "../tests/emulation.h"
#endif

namespace zhibei::ZHIBEI_LEVEL {

struct Avx512Bf16 : Avx512 {
    // Two products of each row, added to its sum.
    static ZHIBEI_INLINE Floats add_bf16_pairs(Floats sum, Ints weights, Ints others) {
#ifdef ZHIBEI_EMULATED
        return emulated::add_bf16_pairs(sum, weights, others);
#else
        return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weights, (__m512bh)others);
#endif
    }
};

}  // namespace zhibei::ZHIBEI_LEVEL
