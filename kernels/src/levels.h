// The levels this library was built with: a compiler may not have known some of them.
#pragma once

#include "level.h"

namespace zhibei {

const Level & level_reference();
const Level & level_avx2();
const Level & level_avxvnni();
const Level & level_avx512();
const Level & level_avx512vnni();
const Level & level_avx512bf16();
const Level & level_amx();

// The level of that name, or the best one when `name` is null or empty; null where there is none that runs here.
const Level * choose_level(const char * name);

}  // namespace zhibei
