// The levels this library was built with, and which of them the processor can run.
#pragma once

#include "level.h"

namespace zhibei {

const Level & level_reference();
const Level & level_avx2();
const Level & level_avxvnni();
const Level & level_avx512vnni();

// The level of that name, or the best one when `name` is null or empty; null where there is none that runs here.
const Level * choose_level(const char * name);

}  // namespace zhibei
