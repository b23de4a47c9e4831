#include "processor.h"

#include <cpuid.h>

namespace zhibei {

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }

#ifdef ZHIBEI_EMULATED

bool has_avxvnni() { return true; }
bool has_avx512() { return true; }
bool has_avx512vnni() { return true; }
bool has_avx512bf16() { return true; }

#else

namespace {

// Registers as the processor answers a question for its features.
struct Features {
    unsigned a, b, c, d;
};

// By hand: compilers of a few years ago do not know these features' names. Nothing where the processor has no such page.
Features features(unsigned page) {
    Features found = {};
    if (__get_cpuid_count(7, page, &found.a, &found.b, &found.c, &found.d) == 0) return {};
    return found;
}

// Page 1, register a.
constexpr unsigned AVX_VNNI = 1u << 4;
constexpr unsigned AVX512_BF16 = 1u << 5;

}  // namespace

bool has_avxvnni() { return has_avx2() && (features(1).a & AVX_VNNI) != 0; }

bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

bool has_avx512vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }

bool has_avx512bf16() { return has_avx512vnni() && (features(1).a & AVX512_BF16) != 0; }

#endif

}  // namespace zhibei
