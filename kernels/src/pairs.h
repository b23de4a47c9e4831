// Products of bytes for levels whose instructions add only two of them, in 16 bits.
#pragma once

#include "numbers.h"

namespace zhibei::ZHIBEI_LEVEL {

// Sums of two products of a weight (at most `Largest`) and a number (at most 127) that 16 bits hold.
template <bool Signed, int Largest> constexpr int PAIRS = Signed ? 1 : 32767 / (2 * 127 * Largest);

// `Isa::pairs` multiplies a quad's bytes and adds two and two; `Isa::add_pairs` adds two such sums in 32 bits to a third.
template <class Isa, int Quads, bool Signed, int Largest>
ZHIBEI_INLINE typename Isa::Ints dot_by_pairs(const typename Isa::Bytes * quads, const uint8_t * numbers, typename Isa::Ints sum) {
    constexpr int TOGETHER = PAIRS<Signed, Largest> < Quads ? PAIRS<Signed, Largest> : Quads;
    for (int first = 0; first < Quads; first += TOGETHER) {
        typename Isa::Words narrow = Isa::template pairs<Signed>(quads[first], numbers + 4 * first);
        for (int j = first + 1; j < first + TOGETHER; j++) narrow += Isa::template pairs<Signed>(quads[j], numbers + 4 * j);
        sum = Isa::add_pairs(sum, narrow);
    }
    return sum;
}

}  // namespace zhibei::ZHIBEI_LEVEL
