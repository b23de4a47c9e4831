// AMX: its tile registers for many columns, few columns and attention as AVX-512 VNNI and BF16 have them.
#define ZHIBEI_LEVEL amx
#define ZHIBEI_VNNI
#include "amx.h"
#include "avx512_bf16.h"
#include "levels.h"

namespace zhibei {
namespace amx {

struct Isa : Avx512Bf16 {
    static constexpr int WIDTH = width(MOST_TILE_ROWS);
    static constexpr int FLOAT_WIDTH = width(MOST_TILE_ROWS);
    static constexpr bool HAS_TILES = true;
    using TileRegisters = ConfiguredTiles;

    template <class Panel, class Count>
    static ZHIBEI_INLINE void multiply_panel(ConfiguredTiles & tiles, const Panel & panel, int64_t num_units, Count count,
                                             const uint8_t * columns, Sums * out) {
        using Product = PanelProduct<Isa, Panel>;
        tiles.hold(count);
        // All but a whole tile of columns share one function.
        if constexpr (count() == WIDTH) Product::multiply(panel.units, num_units, count, columns, out);
        else Product::multiply(panel.units, num_units, int{count()}, columns, out);
    }
};

}  // namespace amx

const Level & level_amx() {
    using All = amx::Formats<amx::Isa, amx::InTiles<amx::Isa>>;
    static const Level level = {"amx", All::ALL, All::COUNT, level_avx512vnni().attention, nullptr};
    return level;
}

}  // namespace zhibei
