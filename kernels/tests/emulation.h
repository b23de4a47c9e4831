// Instructions that neither this processor nor SIMDe has, as plain code. For tests alone.
#pragma once

#include <cstdint>
#include <cstring>

namespace zhibei::ZHIBEI_LEVEL::emulated {

static inline float bf16(uint32_t bits) {
    float value;
    bits <<= 16;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

static inline float add_pair(float sum, uint32_t left, uint32_t right) {
    sum += bf16(left >> 16) * bf16(right >> 16);
    return sum + bf16(left & 0xffff) * bf16(right & 0xffff);
}

// VDPBF16PS.
template <class Floats, class Ints> inline Floats add_bf16_pairs(Floats sum, Ints left, Ints right) {
    for (unsigned i = 0; i < sizeof(Floats) / sizeof(float); i++) {
        sum[i] = add_pair(sum[i], static_cast<uint32_t>(left[i]), static_cast<uint32_t>(right[i]));
    }
    return sum;
}

}  // namespace zhibei::ZHIBEI_LEVEL::emulated
