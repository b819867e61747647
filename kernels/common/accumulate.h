// accumulate: whether a kernel overwrites its output or adds to it.
#pragma once

namespace kd {

enum class Accumulate : unsigned char { no, yes };

}  // namespace kd
