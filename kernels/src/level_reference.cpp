// Plain C++: what the other levels are compared with, and what runs where nothing else does.
#define ZHIBEI_LEVEL reference
#include "loops.h"

namespace zhibei {
namespace reference {

struct Isa : Vectors<16> {
    static constexpr const char * NAME = "reference";
    static constexpr int ROWS = 16;
    static constexpr int WIDTH = width(4);
    static constexpr int FLOAT_WIDTH = width(4);
    static constexpr int SIGNED_ZERO = 0;

    static ZHIBEI_INLINE Floats halves(const uint8_t * at) {
        Floats floats;
        for (int i = 0; i < ROWS; i++) floats[i] = half_to_float(load<uint16_t>(at + 2 * i));
        return floats;
    }

    template <class Number> static ZHIBEI_INLINE Ints numbers(const uint8_t * at) {
        Ints ints;
        for (int i = 0; i < ROWS; i++) ints[i] = load<Number>(at + sizeof(Number) * static_cast<size_t>(i));
        return ints;
    }

    static ZHIBEI_INLINE Ints unsigned_bytes(const uint8_t * at) { return numbers<uint8_t>(at); }
    static ZHIBEI_INLINE Ints signed_bytes(const uint8_t * at) { return numbers<int8_t>(at); }
    static ZHIBEI_INLINE Ints words(const uint8_t * at) { return numbers<uint16_t>(at); }

    static ZHIBEI_INLINE Bytes look_up(const int8_t * table, Bytes indices) {
        for (int i = 0; i < ROWS * 4; i++) indices[i] = static_cast<uint8_t>(table[indices[i]]);
        return indices;
    }

    template <int Quads, bool Signed, int Largest>
    static ZHIBEI_INLINE Ints dot(const Bytes * quads, const uint8_t * numbers, Ints sum) {
        for (int j = 0; j < Quads; j++) {
            for (int i = 0; i < ROWS * 4; i++) {
                const int weight = Signed ? static_cast<int8_t>(quads[j][i]) : quads[j][i];
                sum[i / 4] += weight * static_cast<int8_t>(numbers[4 * j + i % 4]);
            }
        }
        return sum;
    }
};

}  // namespace reference

const Level & level_reference() { return reference::Formats<reference::Isa>::LEVEL; }
}  // namespace zhibei
