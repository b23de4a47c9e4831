#include "processor.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace zhibei {

namespace {

// By hand: Clang 14 does not know the feature's name.
bool has_f16c() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

}  // namespace

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }

#ifdef ZHIBEI_EMULATED

bool has_avxvnni() { return true; }
bool has_avx512() { return true; }
bool has_avx512vnni() { return true; }
bool has_avx512bf16() { return true; }
bool may_use_amx() { return true; }

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
// Page 0, register d: BF16, tiles, bytes.
constexpr unsigned AMX = 1u << 22 | 1u << 24 | 1u << 25;

// Registers that the system keeps for a thread: the tiles' shapes and the tiles.
constexpr unsigned TILE_STATES = 1u << 17 | 1u << 18;

// Of a processor that is known to have the instruction.
unsigned kept_states() {
    unsigned low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

// Linux gives a process so large a state only where it asks for it.
bool is_granted_tiles() {
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023;
    constexpr unsigned long XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

}  // namespace

bool has_avxvnni() { return has_avx2() && (features(1).a & AVX_VNNI) != 0; }

bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

bool has_avx512vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }

bool has_avx512bf16() { return has_avx512vnni() && (features(1).a & AVX512_BF16) != 0; }

bool may_use_amx() {
    return has_avx512bf16() && (features(0).d & AMX) == AMX && (kept_states() & TILE_STATES) == TILE_STATES && is_granted_tiles();
}

#endif

}  // namespace zhibei
