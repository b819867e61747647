#include "kernels/common/tiles.h"

#include "engine/base/check.h"

namespace kd::tiles {
void fault(const char* what) { KD_FAIL("emulated tiles: {}", what); }
}  // namespace kd::tiles
