// AMX: the eight tile registers and their instructions, as functions.
//
// Written as assembly: GCC takes a register's number from macros alone, and does not know that these instructions touch memory.
#pragma once

#include "numbers.h"

#ifdef ZHIBEI_EMULATED
#include "../tests/emulation.h"
#endif

namespace zhibei::ZHIBEI_LEVEL {

constexpr int MOST_TILE_ROWS = 16;
constexpr int MOST_TILE_BYTES = 64;  // in a row

// How many rows of how many bytes each register holds, as LDTILECFG reads it.
struct TileShapes {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];

    void set(int tile, int num_rows, int num_bytes) {
        rows[tile] = static_cast<uint8_t>(num_rows);
        row_bytes[tile] = static_cast<uint16_t>(num_bytes);
    }
};
static_assert(sizeof(TileShapes) == 64, "the instruction reads 64 bytes");

#ifdef ZHIBEI_EMULATED

inline void set_shapes(const TileShapes & shapes) { emulated::tiles().configure(&shapes); }
inline void release_tiles() { emulated::tiles().release(); }
template <int Tile> inline void clear_tile() { emulated::tiles().clear(Tile); }
template <int Tile> inline void load_tile(const void * from, size_t stride) { emulated::tiles().load(Tile, from, stride); }
template <int Tile> inline void store_tile(void * to, size_t stride) { emulated::tiles().store(Tile, to, stride); }
template <int To, int Left, int Right> inline void add_byte_products() { emulated::tiles().add_byte_products(To, Left, Right); }
template <int To, int Left, int Right> inline void add_bf16_products() { emulated::tiles().add_bf16_products(To, Left, Right); }

#else

ZHIBEI_INLINE void set_shapes(const TileShapes & shapes) { asm volatile("ldtilecfg %0" ::"m"(shapes) : "memory"); }

ZHIBEI_INLINE void release_tiles() { asm volatile("tilerelease" ::: "memory"); }

template <int Tile> ZHIBEI_INLINE void clear_tile() { asm volatile("tilezero %%tmm%c0" ::"i"(Tile)); }

template <int Tile> ZHIBEI_INLINE void load_tile(const void * from, size_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(Tile) : "memory");
}

template <int Tile> ZHIBEI_INLINE void store_tile(void * to, size_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(Tile) : "memory");
}

// Four products of signed bytes of `Left` and unsigned ones of `Right` to each sum of 32 bits.
template <int To, int Left, int Right> ZHIBEI_INLINE void add_byte_products() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(To), "i"(Left), "i"(Right));
}

// Two products of BF16 to each sum, a float.
template <int To, int Left, int Right> ZHIBEI_INLINE void add_bf16_products() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(To), "i"(Left), "i"(Right));
}

#endif

}  // namespace zhibei::ZHIBEI_LEVEL
