// The loops over tiles and columns: one set for every quantised format, one for the formats of floats.
#pragma once

#include <type_traits>

#include "attention_loops.h"
#include "columns.h"
#include "tile.h"

namespace zhibei::ZHIBEI_LEVEL {

// The columns' prepared bytes that a pass over the rows keeps near the processor.
constexpr size_t NEAR_BYTES = 256 * 1024;

using Sums = float[TILE_ROWS];

// A unit's products, which `product(column, group, start)` gives as whole numbers, times their scales, added to the sums.
// `count` is a number of columns, or a type that is one.
template <class Isa, class Source, class Count, class Work>
ZHIBEI_INLINE void add_scaled(Count count, const typename Isa::Floats * scale, const typename Isa::Floats * offset, const uint8_t * columns,
                              typename Isa::Floats * sums, const Work & product) {
    using Ints = typename Isa::Ints;
    using Floats = typename Isa::Floats;
    constexpr int G = Source::NUM_GROUPS;
    const int num_columns = count;
    const uint8_t * scales = columns + num_columns * UNIT;
    const uint8_t * balances = scales + 4 * num_columns;
    // Unrolled, or the sums would live in memory.
#pragma GCC unroll 16
    for (int c = 0; c < num_columns; c++) {
        Floats sum = {};
#pragma GCC unroll 2
        for (int g = 0; g < G; g++) {
            const Ints start = Source::HAS_OFFSET ? Ints{} : Ints{} + load<int32_t>(balances + 4 * (c * G + g));
            const Floats scaled = __builtin_convertvector(product(c, g, start), Floats) * scale[g];
            sum = g == 0 ? scaled : sum + scaled;
        }
        sums[c] += sum * load<float>(scales + 4 * c);
        if constexpr (Source::HAS_OFFSET) {
#pragma GCC unroll 2
            for (int g = 0; g < G; g++) sums[c] += offset[g] * load<float>(balances + 4 * (c * G + g));
        }
    }
}

// One unit of `Isa::ROWS` rows by `C` columns.
template <class Isa, class Source, int C>
ZHIBEI_INLINE void add_unit(const Source & source, int64_t unit, int first_row, const uint8_t * columns,
                            typename Isa::Floats * sums) {
    using Ints = typename Isa::Ints;
    constexpr int G = Source::NUM_GROUPS;
    constexpr int PER_GROUP = QUADS / G;
    typename Isa::Bytes quads[QUADS];
    typename Isa::Floats scale[G], offset[G];
    source.decode(unit, first_row, quads, scale, offset);
    constexpr std::integral_constant<int, C> COUNT;
    add_scaled<Isa, Source>(COUNT, scale, offset, columns, sums, [&](int c, int g, Ints start) __attribute__((always_inline)) {
        const uint8_t * numbers = columns + c * UNIT + g * (UNIT / G);
        return Isa::template dot<PER_GROUP, Source::SIGNED, Source::LARGEST>(quads + g * PER_GROUP, numbers, start);
    });
}

// All rows of a source by `C` prepared columns.
template <class Isa, class Source, int C>
void multiply_tile(const Source & source, int64_t num_units, const uint8_t * columns, Sums * out) {
    using Floats = typename Isa::Floats;
    constexpr int HALVES = Source::ROWS / Isa::ROWS;
    constexpr size_t STEP = UNIT_COLUMN_BYTES<Source::NUM_GROUPS> * C;
    // Few columns: all rows of a unit while its bytes are at hand. Many: half the rows at a time, to stay in registers.
    constexpr int TOGETHER = C <= 2 ? HALVES : 1;
    for (int first = 0; first < HALVES; first += TOGETHER) {
        Floats sums[TOGETHER][C] = {};
        const uint8_t * at = columns;
        for (int64_t unit = 0; unit < num_units; unit++, at += STEP) {
            if (first == 0) source.prefetch(unit);
            for (int half = 0; half < TOGETHER; half++) {
                add_unit<Isa, Source, C>(source, unit, (first + half) * Isa::ROWS, at, sums[half]);
            }
        }
        for (int half = 0; half < TOGETHER; half++) {
            for (int c = 0; c < C; c++) store(out[c] + (first + half) * Isa::ROWS, sums[half][c]);
        }
    }
}

// The same for weights that are floats; several sums per column when columns are few, so that additions overlap.
template <class Isa, class F, int C>
void multiply_float_tile(const uint8_t * tile, int64_t num_values, const float * columns, Sums * out) {
    using Floats = typename Isa::Floats;
    constexpr int HALVES = TILE_ROWS / Isa::ROWS;
    constexpr int CHAINS = C * HALVES >= 8 ? 1 : 4;
    constexpr int STEP = CHAINS < F::VALUES ? F::VALUES : CHAINS;
    Floats sums[CHAINS][HALVES][C] = {};
    const auto add = [&](int64_t i, int chain) __attribute__((always_inline)) {
        const uint8_t * at = tile + i * TILE_ROWS * 2;
#pragma GCC unroll 2
        for (int v = 0; v < F::VALUES; v++) {
            for (int half = 0; half < HALVES; half++) {
                const Floats weights = F::template value<Isa>(at + half * Isa::ROWS * F::VALUES * 2, v);
#pragma GCC unroll 16
                for (int c = 0; c < C; c++) sums[(chain + v) % CHAINS][half][c] += weights * columns[(i + v) * C + c];
            }
        }
    };
    const int64_t whole = num_values / STEP * STEP;
    for (int64_t i = 0; i < whole; i += STEP) {
        __builtin_prefetch(tile + i * TILE_ROWS * 2 + AHEAD_BYTES);
        for (int j = 0; j < STEP; j += F::VALUES) add(i + j, j);
    }
    for (int64_t i = whole; i < num_values; i += F::VALUES) add(i, 0);
    for (int half = 0; half < HALVES; half++) {
        for (int c = 0; c < C; c++) {
            Floats sum = sums[0][half][c];
            for (int chain = 1; chain < CHAINS; chain++) sum += sums[chain][half][c];
            store(out[c] + half * Isa::ROWS, sum);
        }
    }
}

// Calls `work` with `count` (1..Most) as a constant.
template <int Most, class Work> ZHIBEI_INLINE void with_count(int64_t count, const Work & work) {
    if constexpr (Most > 1) {
        if (count < Most) return with_count<Most - 1>(count, work);
    }
    work(std::integral_constant<int, Most>());
}

inline void put(const Product & product, int64_t first_row, int rows, int64_t first_column, int64_t count, const Sums * sums) {
    const int64_t left = product.matrix.num_rows - first_row;
    if (left <= 0) return;
    const size_t bytes = sizeof(float) * static_cast<size_t>(left < rows ? left : rows);
    for (int64_t c = 0; c < count; c++) {
        std::memcpy(output_of(*product.columns, product.first_column + first_column + c) + first_row, sums[c], bytes);
    }
}

// `rows` rows from `first_row` on by the columns [first, last): `multiply(count, prepared, sums)` does one tile of columns.
template <int Width, class Work>
ZHIBEI_INLINE void for_columns(const Product & product, int64_t first_row, int rows, int64_t first, int64_t last,
                               size_t column_bytes, const Work & multiply) {
    alignas(64) Sums sums[Width];
    for (int64_t column = first; column < last; column += Width) {
        const int64_t count = last - column < Width ? last - column : Width;
        const uint8_t * prepared = product.prepared + static_cast<size_t>(column) * column_bytes;
        with_count<Width>(count, [&](auto constant) { multiply(constant, prepared, sums); });
        put(product, first_row, rows, column, count, sums);
    }
}

// Columns that one pass takes: whole tiles of them.
ZHIBEI_INLINE int64_t columns_at_once(size_t column_bytes, int width) {
    const int64_t tiles = static_cast<int64_t>(NEAR_BYTES / column_bytes) / width;
    return width * (tiles < 4 ? 4 : tiles);
}

template <class Isa, class F> struct Quantised {
    static constexpr int WIDTH = Isa::WIDTH;
    // With tile registers more columns than these are worth decoding for.
    static constexpr int FEW = Isa::HAS_TILES ? WIDTH / 2 : WIDTH;
    static constexpr int NUM_GROUPS = GROUPS<F>;
    // Signed values are made unsigned by the levels whose products want that.
    static constexpr int ZERO = F::SIGNED ? Isa::SIGNED_ZERO : F::ZERO;
    using Source = Packed<Isa, F>;
    using Panel = Decoded<Isa, F>;

    static size_t column_bytes(int64_t num_values) {
        return static_cast<size_t>(num_values / UNIT) * UNIT_COLUMN_BYTES<NUM_GROUPS>;
    }

    static size_t scratch_bytes(int64_t num_values) {
        return static_cast<size_t>(num_values / UNIT) * sizeof(typename Panel::Unit);
    }

    static const uint8_t * tile_at(const Matrix & matrix, int64_t tile) {
        return matrix.tiles + static_cast<size_t>(tile * (matrix.num_values / F::VALUES) * F::BYTES) * TILE_ROWS;
    }

    // Few columns: weights are decoded in registers and used at once.
    static void multiply_few(const Product & product, int64_t first_tile, int64_t last_tile) {
        const int64_t num_values = product.matrix.num_values;
        for (int64_t tile = first_tile; tile < last_tile; tile++) {
            const Source source = Source::of(tile_at(product.matrix, tile), num_values);
            const auto work = [&](auto count, const uint8_t * prepared, Sums * sums) {
                multiply_tile<Isa, Source, count()>(source, num_values / UNIT, prepared, sums);
            };
            for_columns<FEW>(product, tile * TILE_ROWS, TILE_ROWS, 0, product.num_columns, 0, work);
        }
    }

    // Many: rows are decoded once for all columns that stay near.
    static void multiply_many(const Product & product, int64_t first_tile, int64_t last_tile, uint8_t * scratch) {
        const int64_t num_values = product.matrix.num_values;
        const int64_t num_units = num_values / UNIT;
        const size_t bytes = column_bytes(num_values);
        auto * units = reinterpret_cast<typename Panel::Unit *>(scratch);
        typename Isa::TileRegisters registers(F::GROUP);
        const auto work = [&](auto count, const uint8_t * prepared, Sums * sums) {
            if constexpr (Isa::HAS_TILES) Isa::multiply_panel(registers, Panel{units}, num_units, count, prepared, sums);
            else multiply_tile<Isa, Panel, count()>(Panel{units}, num_units, prepared, sums);
        };
        const int64_t step = columns_at_once(bytes, WIDTH);
        for (int64_t first = 0; first < product.num_columns; first += step) {
            const int64_t last = first + step < product.num_columns ? first + step : product.num_columns;
            for (int64_t row = first_tile * TILE_ROWS; row < last_tile * TILE_ROWS; row += Isa::ROWS) {
                const Source source = Source::of(tile_at(product.matrix, row / TILE_ROWS), num_values);
                Panel::fill(source, num_units, static_cast<int>(row % TILE_ROWS), units);
                for_columns<WIDTH>(product, row, Isa::ROWS, first, last, bytes, work);
            }
        }
    }

    static void multiply(const Product & product, int64_t first_tile, int64_t last_tile, uint8_t * scratch) {
        if (product.num_columns <= FEW) multiply_few(product, first_tile, last_tile);
        else multiply_many(product, first_tile, last_tile, scratch);
    }

    static void read_row(const Matrix & matrix, int64_t row, float * to) {
        const Source source = Source::of(tile_at(matrix, row / TILE_ROWS), matrix.num_values);
        const int lane = static_cast<int>(row % TILE_ROWS);
        for (int64_t unit = 0; unit < matrix.num_values / UNIT; unit++) read_unit(source, unit, lane, to + unit * UNIT);
    }

    static void read_unit(const Source & source, int64_t unit, int lane, float * to) {
        typename Isa::Bytes quads[QUADS];
        typename Isa::Floats scale[NUM_GROUPS], offset[NUM_GROUPS] = {};
        const int first_row = lane / Isa::ROWS * Isa::ROWS;
        const int at = lane - first_row;
        source.decode(unit, first_row, quads, scale, offset);
        for (int i = 0; i < UNIT; i++) {
            const uint8_t byte = quads[i / 4][at * 4 + i % 4];
            const int value = (F::SIGNED && ZERO == 0 ? static_cast<int8_t>(byte) : byte) - ZERO;
            to[i] = scale[i / F::GROUP][at] * static_cast<float>(value) + offset[i / F::GROUP][at];
        }
    }
};

// Columns of floats, for weights that are floats.
template <class Isa, class F> struct AsFloats {
    static constexpr int WIDTH = Isa::FLOAT_WIDTH;

    static size_t column_bytes(int64_t num_values) { return sizeof(float) * static_cast<size_t>(num_values); }

    static void prepare(const Columns & columns, int64_t first, int64_t count, int64_t num_values, uint8_t * to) {
        gather_columns(columns, first, count, num_values, to);
    }

    template <int C> ZHIBEI_INLINE void multiply(const uint8_t * tile, int64_t num_values, const uint8_t * prepared, Sums * out) {
        multiply_float_tile<Isa, F, C>(tile, num_values, reinterpret_cast<const float *>(prepared), out);
    }
};

// `Way` is how columns are prepared and multiplied.
template <class Isa, class F, class Way> struct Floating {
    static constexpr int WIDTH = Way::WIDTH;
    static constexpr int BYTES = 2 * F::VALUES;

    static size_t scratch_bytes(int64_t) { return 0; }

    static const uint8_t * tile_at(const Matrix & matrix, int64_t tile) {
        return matrix.tiles + static_cast<size_t>(tile * matrix.num_values) * TILE_ROWS * 2;
    }

    static void pack(const uint8_t * rows, uint8_t * tiles, int64_t num_rows, int64_t num_values) {
        const size_t tile_bytes = static_cast<size_t>(num_values) * TILE_ROWS * 2;
        std::memset(tiles, 0, static_cast<size_t>(tiles_of(num_rows)) * tile_bytes);
        for (int64_t row = 0; row < num_rows; row++) {
            uint8_t * to = tiles + static_cast<size_t>(row / TILE_ROWS) * tile_bytes + row % TILE_ROWS * BYTES;
            const uint8_t * from = rows + row * num_values * 2;
            for (int64_t i = 0; i < num_values / F::VALUES; i++) std::memcpy(to + i * TILE_ROWS * BYTES, from + i * BYTES, BYTES);
        }
    }

    static void multiply(const Product & product, int64_t first_tile, int64_t last_tile, uint8_t *) {
        Way way;
        const int64_t num_values = product.matrix.num_values;
        const size_t bytes = Way::column_bytes(num_values);
        const int64_t step = columns_at_once(bytes, WIDTH);
        for (int64_t first = 0; first < product.num_columns; first += step) {
            const int64_t last = first + step < product.num_columns ? first + step : product.num_columns;
            for (int64_t tile = first_tile; tile < last_tile; tile++) {
                const uint8_t * weights = tile_at(product.matrix, tile);
                const auto work = [&](auto count, const uint8_t * prepared, Sums * sums) {
                    way.template multiply<count()>(weights, num_values, prepared, sums);
                };
                for_columns<WIDTH>(product, tile * TILE_ROWS, TILE_ROWS, first, last, bytes, work);
            }
        }
    }

    static void read_row(const Matrix & matrix, int64_t row, float * to) {
        const uint8_t * tile = tile_at(matrix, row / TILE_ROWS);
        const int lane = static_cast<int>(row % TILE_ROWS);
        const int first_row = lane / Isa::ROWS * Isa::ROWS;
        for (int64_t i = 0; i < matrix.num_values; i += F::VALUES) {
            const uint8_t * at = tile + i * TILE_ROWS * 2 + first_row * BYTES;
            for (int v = 0; v < F::VALUES; v++) to[i + v] = F::template value<Isa>(at, v)[lane - first_row];
        }
    }
};

template <class Isa, class F> constexpr Format quantised() {
    using Q = Quantised<Isa, F>;
    return {F::TYPE, F::NAME, F::VALUES, F::BYTES, Q::WIDTH, Q::column_bytes, Q::scratch_bytes, pack_rows<F>,
            quantise_columns<Q::NUM_GROUPS, F::Scales::HAS_OFFSET, Q::ZERO>, Q::multiply, Q::read_row};
}

template <class Isa, class F, class Way = AsFloats<Isa, F>> constexpr Format floating() {
    using G = Floating<Isa, F, Way>;
    return {F::TYPE, F::NAME, F::VALUES, G::BYTES, G::WIDTH, Way::column_bytes, G::scratch_bytes, G::pack,
            Way::prepare, G::multiply, G::read_row};
}

// Every format on one level, and attention. `Bf16` is a way of `Floating`.
template <class Isa, class Bf16 = AsFloats<Isa, BF16>> struct Formats {
    static constexpr Format ALL[] = {
        quantised<Isa, Q4_0>(), quantised<Isa, Q4_1>(),   quantised<Isa, Q5_0>(),   quantised<Isa, Q5_1>(), quantised<Isa, Q8_0>(),
        quantised<Isa, Q2_K>(), quantised<Isa, Q3_K>(),   quantised<Isa, Q4_K>(),   quantised<Isa, Q5_K>(), quantised<Isa, Q6_K>(),
        quantised<Isa, IQ4_NL>(), quantised<Isa, IQ4_XS>(), floating<Isa, F16>(), floating<Isa, BF16, Bf16>(),
    };
    static constexpr int COUNT = sizeof(ALL) / sizeof(ALL[0]);
    static constexpr Level LEVEL = {Isa::NAME, ALL, COUNT, &Attending<Isa>::LOOPS, nullptr};
};

}  // namespace zhibei::ZHIBEI_LEVEL
