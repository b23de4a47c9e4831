// What one instruction-set level offers to the rest of the library: plain functions over repacked matrices.
// Knows nothing of ggml; every level is compiled from the same headers with its own compiler flags.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention.h"

namespace zhibei {

constexpr int TILE_ROWS = 16;

// A repacked matrix: tiles of 16 rows one after the other, the last one padded.
struct Matrix {
    const uint8_t * tiles;
    int64_t num_rows;
    int64_t num_values;  // in a row
};

// Where the columns of a product are read and written: three strides, and an order for columns picked out of many.
struct Columns {
    const char * in;
    char * out;
    const int32_t * order;  // null: as they lie
    int64_t counts[2];      // columns along the first two strides
    int64_t in_count;       // inputs along the first stride, repeated when fewer than outputs
    size_t in_strides[3];
    size_t out_strides[3];
};

// Some consecutive columns of a product, and their prepared form.
struct Product {
    Matrix matrix;
    const Columns * columns;
    int64_t first_column;
    int64_t num_columns;
    const uint8_t * prepared;
};

struct Format {
    int ggml_type;
    const char * name;
    int block_values;
    int block_bytes;
    int width;  // columns in a prepared tile
    size_t (*column_bytes)(int64_t num_values);
    size_t (*scratch_bytes)(int64_t num_values);
    // Rows as ggml stores them into tiles.
    void (*pack)(const uint8_t * rows, uint8_t * tiles, int64_t num_rows, int64_t num_values);
    // One tile of at most `width` columns into the form the loops read.
    void (*prepare)(const Columns & columns, int64_t first, int64_t count, int64_t num_values, uint8_t * to);
    // Some tiles of rows by all columns of the product.
    void (*multiply)(const Product & product, int64_t first_tile, int64_t last_tile, uint8_t * scratch);
    void (*read_row)(const Matrix & matrix, int64_t row, float * to);
};

struct Level {
    const char * name;
    const Format * formats;
    int num_formats;
    const AttentionLoops * attention;
    const Level * below;  // has the formats that this level has no way of its own for; null: there are none

    const Format * find(int ggml_type) const {
        for (int i = 0; i < num_formats; i++) {
            if (formats[i].ggml_type == ggml_type) return formats + i;
        }
        return below == nullptr ? nullptr : below->find(ggml_type);
    }
};

static inline int64_t tiles_of(int64_t num_rows) { return (num_rows + TILE_ROWS - 1) / TILE_ROWS; }

static inline size_t row_bytes(const Format & format, int64_t num_values) {
    return static_cast<size_t>(num_values / format.block_values) * static_cast<size_t>(format.block_bytes);
}

static inline size_t matrix_bytes(const Format & format, int64_t num_rows, int64_t num_values) {
    return static_cast<size_t>(tiles_of(num_rows)) * TILE_ROWS * row_bytes(format, num_values);
}

}  // namespace zhibei
