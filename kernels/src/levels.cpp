#include "levels.h"

#include <cstring>

#include "processor.h"

namespace zhibei {

namespace {

// The name is here as well: of a level that does not run here, not even the name may be asked.
struct Candidate {
    const char * name;
    bool (*runs)();
    const Level & (*level)();
};

// Best first. The plain one only on demand: ggml's own code is faster than it.
const Candidate CANDIDATES[] = {
#ifdef ZHIBEI_HAS_AMX
    {"amx", may_use_amx, level_amx},
#endif
#ifdef ZHIBEI_HAS_AVX512BF16
    {"avx512-bf16", has_avx512bf16, level_avx512bf16},
#endif
#ifdef ZHIBEI_HAS_AVX512VNNI
    {"avx512-vnni", has_avx512vnni, level_avx512vnni},
#endif
#ifdef ZHIBEI_HAS_AVX512
    {"avx512", has_avx512, level_avx512},
#endif
#ifdef ZHIBEI_HAS_AVXVNNI
    {"avx-vnni", has_avxvnni, level_avxvnni},
#endif
    {"avx2", has_avx2, level_avx2},
};

}  // namespace

const Level * choose_level(const char * name) {
    __builtin_cpu_init();
    const bool any = name == nullptr || *name == '\0';
    for (const Candidate & candidate : CANDIDATES) {
        if ((any || std::strcmp(name, candidate.name) == 0) && candidate.runs()) return &candidate.level();
    }
    return !any && std::strcmp(name, level_reference().name) == 0 ? &level_reference() : nullptr;
}

}  // namespace zhibei
