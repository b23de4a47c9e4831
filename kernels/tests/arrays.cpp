// Every level on plain arrays, without ggml: for the sanitizers, and for timing one thread by its own clock.
//
//     arrays check            every format, attention, level and a spread of shapes against the reference; exit status 1 on a difference
//     arrays time [LEVEL]     per format: bytes of weights per second by one column, operations per second by many
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "../src/levels.h"

using namespace zhibei;

namespace {

const char * const LEVELS[] = {"reference", "avx2", "avx-vnni", "avx512", "avx512-vnni", "avx512-bf16", "amx"};

struct Random {
    uint64_t state;
    uint32_t next() {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return static_cast<uint32_t>(state >> 33);
    }
    float value() { return static_cast<float>(next()) * 0x1p-30f - 1.0f; }
};

// Exactly as long as asked for, so that a sanitizer sees the first byte read beyond.
struct Bytes {
    explicit Bytes(size_t size) : data(static_cast<uint8_t *>(std::aligned_alloc(64, (size + 63) / 64 * 64)), std::free) {}
    uint8_t * get() const { return data.get(); }
    std::unique_ptr<uint8_t, void (*)(void *)> data;
};

// Random bytes whose weights are of a sensible size: a block is drawn again until they are.
std::vector<uint8_t> random_rows(const Format & format, int64_t num_rows, int64_t num_values, Random & random) {
    std::vector<uint8_t> rows(row_bytes(format, num_values) * static_cast<size_t>(num_rows));
    const Bytes tile(matrix_bytes(format, 1, format.block_values));
    std::vector<float> values(static_cast<size_t>(format.block_values));
    for (size_t at = 0; at < rows.size(); at += static_cast<size_t>(format.block_bytes)) {
        bool fine = false;
        while (!fine) {
            for (int i = 0; i < format.block_bytes; i++) rows[at + static_cast<size_t>(i)] = static_cast<uint8_t>(random.next());
            format.pack(rows.data() + at, tile.get(), 1, format.block_values);
            format.read_row({tile.get(), 1, format.block_values}, 0, values.data());
            fine = std::all_of(values.begin(), values.end(), [](float value) { return std::fabs(value) < 100.0f; });
        }
    }
    return rows;
}

// A product; with experts its columns are in two groups, each picked out of all of them, by the same matrix.
struct Case {
    const Format & format;
    int64_t num_rows, num_values, num_columns;
    const std::vector<float> & in;
    bool experts = false;

    std::vector<int64_t> starts() const {
        return experts ? std::vector<int64_t>{0, num_columns / 3, num_columns} : std::vector<int64_t>{0, num_columns};
    }

    std::vector<float> multiply(const uint8_t * tiles, const uint8_t * prepared, const Columns & shape) const {
        std::vector<float> out(static_cast<size_t>(num_rows * num_columns));
        Columns columns = shape;
        columns.out = reinterpret_cast<char *>(out.data());
        const Bytes scratch(format.scratch_bytes(num_values));
        const std::vector<int64_t> groups = starts();
        for (size_t i = 0; i + 1 < groups.size(); i++) {
            const uint8_t * at = prepared + static_cast<size_t>(groups[i]) * format.column_bytes(num_values);
            const Product product = {{tiles, num_rows, num_values}, &columns, groups[i], groups[i + 1] - groups[i], at};
            format.multiply(product, 0, tiles_of(num_rows), scratch.get());
        }
        return out;
    }

    Columns columns(const std::vector<int32_t> & order) const {
        Columns columns = {};
        columns.in = reinterpret_cast<const char *>(in.data());
        columns.order = order.empty() ? nullptr : order.data();
        columns.counts[0] = columns.in_count = num_columns;
        columns.counts[1] = 1;
        columns.in_strides[0] = static_cast<size_t>(num_values) * sizeof(float);
        columns.out_strides[0] = static_cast<size_t>(num_rows) * sizeof(float);
        return columns;
    }

    // Odd columns to the first expert, as far as it has room.
    std::vector<int32_t> order() const {
        std::vector<int32_t> order;
        for (int32_t first : {1, 0}) {
            for (int32_t i = first; experts && i < num_columns; i += 2) order.push_back(i);
        }
        return order;
    }

    void prepare(const Columns & shape, uint8_t * to) const {
        const std::vector<int64_t> groups = starts();
        for (size_t i = 0; i + 1 < groups.size(); i++) {
            for (int64_t first = groups[i]; first < groups[i + 1]; first += format.width) {
                const int64_t count = std::min<int64_t>(format.width, groups[i + 1] - first);
                format.prepare(shape, first, count, num_values, to + static_cast<size_t>(first) * format.column_bytes(num_values));
            }
        }
    }

    std::vector<float> run(const std::vector<uint8_t> & rows) const {
        const Bytes tiles(matrix_bytes(format, num_rows, num_values));
        const Bytes prepared(format.column_bytes(num_values) * static_cast<size_t>(num_columns));
        const std::vector<int32_t> picked = order();
        format.pack(rows.data(), tiles.get(), num_rows, num_values);
        prepare(columns(picked), prepared.get());
        return multiply(tiles.get(), prepared.get(), columns(picked));
    }
};

double difference(const std::vector<float> & found, const std::vector<float> & expected) {
    double error = 0, size = 0;
    for (size_t i = 0; i < found.size(); i++) {
        error += std::pow(static_cast<double>(found[i]) - expected[i], 2);
        size += std::pow(static_cast<double>(expected[i]), 2);
    }
    return std::sqrt(error / (size + 1e-30));
}

// Half floats of a sensible size.
std::vector<uint16_t> random_halves(size_t size, Random & random) {
    std::vector<uint16_t> halves(size);
    for (uint16_t & half : halves) half = static_cast<uint16_t>((random.next() & 0x83ff) | 0x3800);
    return halves;
}

// Some positions over a cache, in two stretches, by a mask that hides every seventh key.
struct AttentionCase {
    int64_t key_values, num_values, sharing, key_heads, num_positions, num_keys;

    std::vector<float> run(const AttentionLoops & loops) const {
        Random random{7};
        const size_t cached = static_cast<size_t>(num_keys * key_heads);
        const std::vector<uint16_t> keys = random_halves(cached * static_cast<size_t>(key_values), random);
        const std::vector<uint16_t> values = random_halves(cached * static_cast<size_t>(num_values), random);
        std::vector<float> queries(static_cast<size_t>(num_positions * key_heads * sharing * key_values));
        for (float & value : queries) value = random.value();
        std::vector<uint16_t> mask(static_cast<size_t>(num_positions * num_keys));
        for (size_t i = 0; i < mask.size(); i++) mask[i] = i % 7 == 3 ? 0xfc00 : i % 5 == 0 ? 0xb800 : 0;
        std::vector<int32_t> list;
        for (int64_t key = 0; key < num_keys; key++) {
            if (key % 11 != 5) list.push_back(static_cast<int32_t>(key));
        }
        Attention attention = {};
        attention.queries = reinterpret_cast<const char *>(queries.data());
        attention.query_strides[0] = sizeof(float) * static_cast<size_t>(key_heads * sharing * key_values);
        attention.query_strides[1] = sizeof(float) * static_cast<size_t>(key_values);
        const size_t key_bytes = 2 * static_cast<size_t>(key_values), value_bytes = 2 * static_cast<size_t>(num_values);
        const auto heads = static_cast<size_t>(key_heads);
        attention.keys = {reinterpret_cast<const uint8_t *>(keys.data()), {key_bytes * heads, key_bytes, 0}, key_values, 1};
        attention.values = {reinterpret_cast<const uint8_t *>(values.data()), {value_bytes * heads, value_bytes, 0}, num_values, 1};
        attention.mask = {reinterpret_cast<const uint8_t *>(mask.data()), {2 * static_cast<size_t>(num_keys), 0, 0}, {1, 1}};
        attention.num_positions = num_positions;
        attention.num_keys = num_keys;
        attention.num_heads = key_heads * sharing;
        attention.num_sequences = 1;
        attention.sharing = sharing;
        attention.scale = 0.3f;
        attention.softcap = 9.0f;
        return means(loops, attention, list);
    }

    static std::vector<float> means(const AttentionLoops & loops, const Attention & attention, const std::vector<int32_t> & list) {
        std::vector<float> out;
        const Bytes scratch(loops.scratch_bytes(attention));
        const Bytes memory(sizeof(float) * loops.sums_floats(attention));
        const Sums sums = sums_at(reinterpret_cast<float *>(memory.get()));
        const auto count = static_cast<int64_t>(list.size());
        const int64_t half = count / 2, at_once = loops.rows_at_once(attention);
        for (int64_t head = 0; head < attention.key_heads(); head++) {
            for (int64_t first = 0; first < attention.num_rows(); first += at_once) {
                const Rows rows = {0, head, first, std::min(at_once, attention.num_rows() - first)};
                const int32_t * rest = list.data() + half;
                loops.attend(attention, rows, {list.data(), half, true, rest, count - half, head}, sums, scratch.get());
                loops.attend(attention, rows, {rest, count - half, false, nullptr, 0, 0}, sums, scratch.get());
                for (int64_t row = 0; row < rows.count; row++) {
                    const float * values = sums.values + row * loops.padded(attention.values.num_values);
                    for (int64_t i = 0; i < attention.values.num_values; i++) out.push_back(values[i] / sums.sums[row]);
                }
            }
        }
        return out;
    }
};

int check_attention() {
    int failures = 0;
    const AttentionCase cases[] = {
        {32, 32, 1, 1, 1, 3},    {64, 64, 3, 2, 1, 130},  {64, 32, 2, 1, 2, 77},     {80, 80, 5, 2, 1, 65},   {128, 96, 8, 1, 1, 200},
        {72, 40, 1, 3, 70, 90},  {64, 64, 3, 2, 41, 150}, {192, 128, 16, 1, 9, 64},  {288, 256, 1, 1, 50, 70},
    };
    for (const AttentionCase & each : cases) {
        const std::vector<float> expected = each.run(*level_reference().attention);
        for (const char * name : LEVELS) {
            const Level * level = choose_level(name);
            if (level == nullptr) continue;
            const double found = difference(each.run(*level->attention), expected);
            if (found < 1e-5) continue;
            failures++;
            std::printf("%s attention of %ld positions by %ld keys: %g\n", name, each.num_positions, each.num_keys, found);
        }
    }
    return failures;
}

// The nearest float whose lower half is zero, the even one between two: searched among the two beside it.
float nearest_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    float below, above;
    const uint32_t low = bits & 0xffff0000, high = low + 0x10000;
    std::memcpy(&below, &low, sizeof(below));
    std::memcpy(&above, &high, sizeof(above));
    const float under = std::fabs(value - below), over = std::fabs(above - value);
    if (under == over) return (low >> 16) % 2 == 0 ? below : above;
    return under < over ? below : above;
}

// What a level multiplies by: it may round the columns for some format.
std::vector<float> seen_by(const std::string & level, const Format & format, const std::vector<float> & in) {
    std::vector<float> seen = in;
    const bool rounds = (level == "avx512-bf16" || level == "amx") && std::string(format.name) == "BF16";
    if (rounds) std::transform(in.begin(), in.end(), seen.begin(), nearest_bf16);
    return seen;
}

struct Shape {
    int64_t num_rows, num_values, num_columns;
    bool experts;
};

// One format on every level.
int check_format(const Format & plain, const Shape & shape, Random & random) {
    int failures = 0;
    std::vector<float> in(static_cast<size_t>(shape.num_values * shape.num_columns));
    for (float & value : in) value = random.value();
    // Between two of BF16's.
    in[0] = 1.00390625f;
    const std::vector<uint8_t> rows = random_rows(plain, shape.num_rows, shape.num_values, random);
    // Where columns are rounded to 8 bits, levels may differ by one step of a number that is between two.
    const double most = plain.block_values > 2 ? 3e-3 : 2e-5;
    for (const char * name : LEVELS) {
        const Level * level = choose_level(name);
        if (level == nullptr) continue;
        const std::vector<float> seen = seen_by(name, plain, in);
        const auto run = [&](const Format & format, const std::vector<float> & columns) {
            return Case{format, shape.num_rows, shape.num_values, shape.num_columns, columns, shape.experts}.run(rows);
        };
        const double found = difference(run(*level->find(plain.ggml_type), in), run(plain, seen));
        if (found < most) continue;
        failures++;
        std::printf("%s %s rows %ld values %ld columns %ld experts %d: %g\n", name, plain.name, shape.num_rows, shape.num_values,
                    shape.num_columns, shape.experts, found);
    }
    return failures;
}

// What is no number, or none that is finite, must not become one.
int check_strange(const char * name, const Format & format, float value) {
    std::vector<float> in(512, 1.0f);
    in[300] = value;
    Random random{3};
    const std::vector<float> out = Case{format, 1, 256, 2, in}.run(random_rows(format, 1, 256, random));
    if (std::isfinite(out[0]) && !std::isfinite(out[1])) return 0;
    std::printf("%s %s of %g: %g and %g\n", name, format.name, static_cast<double>(value), static_cast<double>(out[0]),
                static_cast<double>(out[1]));
    return 1;
}

int check() {
    Random random{1};
    int failures = check_attention();
    std::vector<Shape> shapes = {
        {1, 256, 1, false},  {16, 256, 2, false},  {17, 512, 3, false}, {31, 768, 13, false}, {33, 512, 30, false},
        {48, 256, 4, false}, {5, 1024, 64, false}, {19, 256, 50, true}, {33, 512, 13, true},  {21, 96, 19, false},
        {18, 250, 30, false}, {18, 34, 5, false},  {7, 2, 33, false},
    };
    for (int64_t columns = 5; columns <= 40; columns++) shapes.push_back({20, 256 * (columns % 3 + 1), columns, columns % 5 == 0});
    const Level & reference = level_reference();
    for (int f = 0; f < reference.num_formats; f++) {
        for (const Shape & shape : shapes) {
            if (shape.num_values % reference.formats[f].block_values == 0) failures += check_format(reference.formats[f], shape, random);
        }
        for (const char * name : LEVELS) {
            const Level * level = choose_level(name);
            if (level == nullptr) continue;
            // The second has all its bits set: to round it as a number would make it one.
            for (const float value : {NAN, std::nanf("0x3fffff"), INFINITY, -INFINITY}) {
                failures += check_strange(name, *level->find(reference.formats[f].ggml_type), value);
            }
        }
    }
    std::printf("%d differences\n", failures);
    return failures == 0 ? 0 : 1;
}

double thread_seconds() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The best of several: other programs only ever make it slower.
template <class Work> double seconds(const Work & work) {
    double best = 1e9;
    for (int i = 0; i < 5; i++) {
        const double begun = thread_seconds();
        work();
        best = std::min(best, thread_seconds() - begun);
    }
    return best;
}

int measure(const char * name) {
    const Level * level = choose_level(name);
    if (level == nullptr) return 1;
    const int64_t num_rows = 4096, num_values = 2048, many = 240;
    Random random{1};
    std::vector<float> in(static_cast<size_t>(num_values * many));
    for (float & value : in) value = random.value();
    std::printf("%s\n", level->name);
    for (int f = 0; f < level_reference().num_formats; f++) {
        const Format & format = *level->find(level_reference().formats[f].ggml_type);
        // A zero is a weight of every format.
        const std::vector<uint8_t> rows(row_bytes(format, num_values) * num_rows);
        const Bytes tiles(matrix_bytes(format, num_rows, num_values));
        const double packing = seconds([&] { format.pack(rows.data(), tiles.get(), num_rows, num_values); });
        const auto time_columns = [&](int64_t num_columns) {
            const Case product{format, num_rows, num_values, num_columns, in};
            const Bytes prepared(format.column_bytes(num_values) * static_cast<size_t>(num_columns));
            const Columns columns = product.columns({});
            product.prepare(columns, prepared.get());
            return seconds([&] { product.multiply(tiles.get(), prepared.get(), columns); });
        };
        const double bytes = static_cast<double>(rows.size()), operations = 2.0 * num_rows * num_values;
        const double one = time_columns(1), four = time_columns(4), all = time_columns(many);
        std::printf("%-7s pack %5.2f GB/s  1 column %6.2f GB/s  4 columns %6.1f Gop/s  %d columns %6.1f Gop/s\n", format.name,
                    bytes / packing * 1e-9, bytes / one * 1e-9, 4 * operations / four * 1e-9, static_cast<int>(many),
                    many * operations / all * 1e-9);
    }
    return 0;
}

}  // namespace

int main(int count, char ** words) {
    if (count > 1 && std::string(words[1]) == "check") return check();
    if (count > 1 && std::string(words[1]) == "time") return measure(count > 2 ? words[2] : nullptr);
    return 2;
}
