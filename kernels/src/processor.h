// What the processor can do, and what the system lets it do.
#pragma once

namespace zhibei {

bool has_avx2();
bool has_avxvnni();
bool has_avx512();
bool has_avx512vnni();
bool has_avx512bf16();

// Asks the system for the tile registers' state: it grants them to the whole process, or not at all.
bool may_use_amx();

}  // namespace zhibei
