// Instructions that neither this processor nor SIMDe has, as plain code, which stops where they would fault. For tests alone.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
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

static inline int32_t add_bytes(int32_t sum, uint32_t left, uint32_t right) {
    for (int shift = 0; shift < 32; shift += 8) sum += static_cast<int8_t>(left >> shift) * static_cast<uint8_t>(right >> shift);
    return sum;
}

// VDPBF16PS.
template <class Floats, class Ints> inline Floats add_bf16_pairs(Floats sum, Ints left, Ints right) {
    for (unsigned i = 0; i < sizeof(Floats) / sizeof(float); i++) {
        sum[i] = add_pair(sum[i], static_cast<uint32_t>(left[i]), static_cast<uint32_t>(right[i]));
    }
    return sum;
}

static inline void demand(bool fine, const char * what) {
    if (fine) return;
    std::fprintf(stderr, "a tile instruction would fault: %s\n", what);
    std::abort();
}

// AMX: the registers of one thread, by the numbers of rows and bytes that they are configured for.
class Tiles {
  public:
    // LDTILECFG, of 64 bytes. Nobody here configures registers that somebody else still uses.
    void configure(const void * memory) {
        const auto * bytes = static_cast<const uint8_t *>(memory);
        demand(!configured_, "configured twice");
        demand(bytes[0] == 1 && bytes[1] == 0, "palette and first row");
        for (int i = 2; i < 16; i++) demand(bytes[i] == 0, "reserved bytes");
        for (int i = 0; i < 16; i++) {
            uint16_t row_bytes;
            std::memcpy(&row_bytes, bytes + 16 + 2 * i, sizeof(row_bytes));
            const uint8_t rows = bytes[48 + i];
            demand(rows <= 16 && row_bytes <= 64 && (rows == 0) == (row_bytes == 0), "a shape");
            demand(i < 8 || rows == 0, "a ninth register");
            if (i < 8) tiles_[i] = Tile{rows, row_bytes, {}};
        }
        configured_ = true;
    }

    void release() {
        for (Tile & tile : tiles_) tile = Tile{0, 0, {}};
        configured_ = false;
    }

    void clear(int at) { std::memset(used(at).data, 0, sizeof(used(at).data)); }

    void load(int at, const void * from, size_t stride) {
        clear(at);
        for (int row = 0; row < used(at).rows; row++) {
            std::memcpy(used(at).data[row], static_cast<const char *>(from) + static_cast<size_t>(row) * stride, used(at).row_bytes);
        }
    }

    void store(int at, void * to, size_t stride) {
        for (int row = 0; row < used(at).rows; row++) {
            std::memcpy(static_cast<char *>(to) + static_cast<size_t>(row) * stride, used(at).data[row], used(at).row_bytes);
        }
    }

    // TDPBSUD: signed bytes on the left, unsigned ones on the right.
    void add_byte_products(int to, int left, int right) { for_pairs(to, left, right, add_bytes); }

    // TDPBF16PS.
    void add_bf16_products(int to, int left, int right) { for_pairs(to, left, right, add_pair); }

  private:
    struct Tile {
        int rows, row_bytes;
        uint8_t data[16][64];
    };

    Tile & used(int at) {
        demand(configured_ && at >= 0 && at < 8 && tiles_[at].rows > 0, "a register that is not configured");
        return tiles_[at];
    }

    // Each sum, with every four bytes of its row on the left and of its column on the right.
    template <class Sum> void for_pairs(int to, int left, int right, Sum (*add)(Sum, uint32_t, uint32_t)) {
        Tile & c = used(to);
        const Tile & a = used(left);
        const Tile & b = used(right);
        demand(to != left && to != right && left != right, "one register twice");
        demand(c.rows == a.rows && c.row_bytes == b.row_bytes && a.row_bytes == 4 * b.rows, "shapes that do not fit");
        for (int row = 0; row < c.rows; row++) {
            for (int k = 0; k < b.rows; k++) {
                for (int column = 0; column < c.row_bytes; column += 4) {
                    Sum sum;
                    uint32_t x, y;
                    std::memcpy(&sum, c.data[row] + column, 4);
                    std::memcpy(&x, a.data[row] + 4 * k, 4);
                    std::memcpy(&y, b.data[k] + column, 4);
                    sum = add(sum, x, y);
                    std::memcpy(c.data[row] + column, &sum, 4);
                }
            }
        }
    }

    bool configured_ = false;
    Tile tiles_[8] = {};
};

inline Tiles & tiles() {
    static thread_local Tiles tiles;
    return tiles;
}

}  // namespace zhibei::ZHIBEI_LEVEL::emulated
