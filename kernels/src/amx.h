// Products of many columns by AMX's tile registers: 16 columns by 16 rows in one instruction.
//
// A tile's quads lie in memory as the instruction wants its right side, and prepared columns as it wants its left side.
// Registers 0 to 3 hold sums, 4 and 5 columns, 6 and 7 weights: two of each, so that one product runs while another is read.
#pragma once

#include "bf16_pairs.h"
#include "tile_registers.h"

namespace zhibei::ZHIBEI_LEVEL {

constexpr int SUM_TILES = 4;

// The registers are this thread's alone while it lives. Whoever uses them after finds none configured, and not ours.
class ConfiguredTiles {
  public:
    // A product takes `value_bytes` of each column, and as much of each row.
    explicit ConfiguredTiles(int value_bytes) : value_bytes_(value_bytes) {}
    ~ConfiguredTiles() { release_tiles(); }
    ConfiguredTiles(const ConfiguredTiles &) = delete;
    ConfiguredTiles & operator=(const ConfiguredTiles &) = delete;

    // Products are of so many columns from now on.
    void hold(int num_columns) {
        if (num_columns == num_columns_) return;
        if (num_columns_ != 0) release_tiles();
        num_columns_ = num_columns;
        alignas(64) TileShapes shapes = {};
        shapes.palette = 1;
        for (int tile = 0; tile < SUM_TILES; tile++) shapes.set(tile, num_columns, VECTOR);
        for (int tile = 4; tile < 6; tile++) shapes.set(tile, num_columns, value_bytes_);
        for (int tile = 6; tile < 8; tile++) shapes.set(tile, value_bytes_ / 4, VECTOR);
        set_shapes(shapes);
    }

  private:
    int value_bytes_;
    int num_columns_ = 0;
};

// A decoded panel by a tile of prepared columns.
template <class Isa, class Panel> struct PanelProduct {
    using Unit = typename Panel::Unit;
    using Ints = typename Isa::Ints;
    using Floats = typename Isa::Floats;
    static constexpr int G = Panel::NUM_GROUPS;
    static constexpr int GROUP_BYTES = UNIT / G;
    using Products = int32_t[G][Isa::WIDTH][TILE_ROWS];

    template <int Slot, int Group> static ZHIBEI_INLINE void multiply_group(const Unit & unit, const uint8_t * columns, Products & to) {
        constexpr int SUMS = 2 * Slot + Group, LEFT = 4 + (Slot + Group) % 2, RIGHT = LEFT + 2;
        clear_tile<SUMS>();
        load_tile<LEFT>(columns + Group * GROUP_BYTES, UNIT);
        load_tile<RIGHT>(unit.quads[Group * GROUP_BYTES / 4], VECTOR);
        add_byte_products<SUMS, LEFT, RIGHT>();
        store_tile<SUMS>(to[Group], VECTOR);
    }

    template <int Slot> static ZHIBEI_INLINE void multiply_unit(const Unit & unit, const uint8_t * columns, Products & to) {
        multiply_group<Slot, 0>(unit, columns, to);
        if constexpr (G == 2) multiply_group<Slot, 1>(unit, columns, to);
    }

    template <class Count>
    static ZHIBEI_INLINE void add_unit(const Unit & unit, Count count, const uint8_t * columns, const Products & products, Floats * sums) {
        Floats scale[G], offset[G];
        for (int g = 0; g < G; g++) {
            scale[g] = load<Floats>(unit.scales[g]);
            if constexpr (Panel::HAS_OFFSET) offset[g] = load<Floats>(unit.offsets[g]);
        }
        add_scaled<Isa, Panel>(count, scale, offset, columns, sums, [&](int c, int g, Ints start) __attribute__((always_inline)) {
            return load<Ints>(products[g][c]) + start;
        });
    }

    // The next unit's products run while those of one are scaled and added. A constant `count` keeps the sums in registers.
    template <class Count>
    static void multiply(const Unit * units, int64_t num_units, Count count, const uint8_t * columns, Sums * out) {
        const size_t step = UNIT_COLUMN_BYTES<G> * static_cast<size_t>(count);
        alignas(64) Products first, second;
        Floats sums[Isa::WIDTH] = {};
        multiply_unit<0>(units[0], columns, first);
        for (int64_t unit = 0; unit < num_units; unit += 2, columns += 2 * step) {
            const bool one_more = unit + 1 < num_units;
            if (one_more) multiply_unit<1>(units[unit + 1], columns + step, second);
            add_unit(units[unit], count, columns, first, sums);
            if (!one_more) break;
            if (unit + 2 < num_units) multiply_unit<0>(units[unit + 2], columns + 2 * step, first);
            add_unit(units[unit + 1], count, columns + step, second, sums);
        }
        for (int c = 0; c < count; c++) store(out[c], sums[c]);
    }
};

// BF16 weights as they lie in their tile. Four sums take turns: each product waits for the one before it on the same sum.
template <int C> struct Bf16Product {
    template <int Turn> static ZHIBEI_INLINE void add_unit(const uint8_t * tile, const uint8_t * columns, int64_t unit) {
        constexpr int LEFT = 4 + Turn % 2, RIGHT = LEFT + 2;
        load_tile<LEFT>(columns + unit * C * ROUNDED_BYTES, ROUNDED_BYTES);
        load_tile<RIGHT>(tile + unit * UNIT_PAIRS * VECTOR, VECTOR);
        add_bf16_products<Turn, LEFT, RIGHT>();
    }

    template <class Floats> static void multiply(const uint8_t * tile, int64_t num_units, const uint8_t * columns, Sums * out) {
        clear_tile<0>();
        clear_tile<1>();
        clear_tile<2>();
        clear_tile<3>();
        int64_t unit = 0;
        for (; unit + SUM_TILES <= num_units; unit += SUM_TILES) {
            add_unit<0>(tile, columns, unit);
            add_unit<1>(tile, columns, unit + 1);
            add_unit<2>(tile, columns, unit + 2);
            add_unit<3>(tile, columns, unit + 3);
        }
        for (; unit < num_units; unit++) add_unit<0>(tile, columns, unit);
        alignas(64) float sums[SUM_TILES][C][TILE_ROWS];
        store_tile<0>(sums[0], VECTOR);
        store_tile<1>(sums[1], VECTOR);
        store_tile<2>(sums[2], VECTOR);
        store_tile<3>(sums[3], VECTOR);
        for (int c = 0; c < C; c++) {
            const Floats half = load<Floats>(sums[0][c]) + load<Floats>(sums[1][c]);
            store(out[c], half + (load<Floats>(sums[2][c]) + load<Floats>(sums[3][c])));
        }
    }
};

// A way of `Floating`: whole tiles of columns by whole units in tile registers, the others in pairs.
template <class Isa> struct InTiles : InPairs<Isa> {
    static constexpr int WIDTH = InPairs<Isa>::WIDTH;

    InTiles() : tiles(ROUNDED_BYTES) { tiles.hold(WIDTH); }

    template <int C> ZHIBEI_INLINE void multiply(const uint8_t * tile, int64_t num_values, const uint8_t * prepared, Sums * out) {
        if constexpr (C == WIDTH) {
            using Floats = typename Isa::Floats;
            if (num_values % UNIT == 0) return Bf16Product<C>::template multiply<Floats>(tile, num_values / UNIT, prepared, out);
        }
        multiply_pairs<Isa, C>(tile, num_values, prepared, out);
    }

    ConfiguredTiles tiles;
};

}  // namespace zhibei::ZHIBEI_LEVEL
