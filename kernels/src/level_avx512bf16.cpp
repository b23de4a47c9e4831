// AVX-512 BF16: that format its own way, everything else as AVX-512 VNNI has it.
#define ZHIBEI_LEVEL avx512bf16
#include "avx512_bf16.h"
#include "levels.h"

namespace zhibei {

const Level & level_avx512bf16() {
    using avx512bf16::Avx512Bf16;
    static constexpr Format FORMATS[] = {avx512bf16::floating<Avx512Bf16, avx512bf16::BF16, avx512bf16::InPairs<Avx512Bf16>>()};
    static const Level level = {"avx512-bf16", FORMATS, 1, level_avx512vnni().attention, &level_avx512vnni()};
    return level;
}

}  // namespace zhibei
