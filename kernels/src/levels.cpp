#include "levels.h"

#include <cstring>

namespace zhibei {

namespace {

struct Candidate {
    const Level & (*level)();
    bool runs;
};

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }

#ifdef ZHIBEI_EMULATED
bool has_avxvnni() { return true; }
bool has_avx512vnni() { return true; }
#else
bool has_avxvnni() { return has_avx2() && __builtin_cpu_supports("avxvnni"); }

bool has_avx512vnni() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}
#endif

}  // namespace

const Level * choose_level(const char * name) {
    __builtin_cpu_init();
    // Best first. The plain one only on demand: ggml's own code is faster than it.
    const Candidate candidates[] = {
        {level_avx512vnni, has_avx512vnni()},
        {level_avxvnni, has_avxvnni()},
        {level_avx2, has_avx2()},
    };
    const bool any = name == nullptr || *name == '\0';
    for (const Candidate & candidate : candidates) {
        if (candidate.runs && (any || std::strcmp(name, candidate.level().name) == 0)) return &candidate.level();
    }
    return !any && std::strcmp(name, level_reference().name) == 0 ? &level_reference() : nullptr;
}

}  // namespace zhibei
