// AVX-512, and AVX-512 VNNI where this file is compiled for it.
#ifdef ZHIBEI_VNNI
#define ZHIBEI_LEVEL avx512vnni
#else
#define ZHIBEI_LEVEL avx512
#endif
#include "avx512.h"

namespace zhibei {
namespace ZHIBEI_LEVEL {

struct Isa : Avx512 {
#ifdef ZHIBEI_VNNI
    static constexpr const char * NAME = "avx512-vnni";
#else
    static constexpr const char * NAME = "avx512";
#endif
};

}  // namespace ZHIBEI_LEVEL

#ifdef ZHIBEI_VNNI
const Level & level_avx512vnni() { return avx512vnni::Formats<avx512vnni::Isa>::LEVEL; }
#else
const Level & level_avx512() { return avx512::Formats<avx512::Isa>::LEVEL; }
#endif
}  // namespace zhibei
