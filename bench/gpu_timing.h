// gpu_timing: how a piece of GPU work is timed: launched many times in one captured graph, whose replays are timed by events on the device.
#pragma once
#include <functional>
#include <vector>

#include "engine/base/device.h"

namespace kd::bench {

struct GpuTime {
  double us;      // of one run: median over all replays
  double spread;  // how far apart the medians of the first and second half of the replays lie, as a share of `us`: differences below it are noise
};

// `runs` do the same work on different memory, so that no run finds its operands in the L2 cache; work that fits it needs several (`copies_beyond_l2`).
// A run's time includes the gap to the next kernel of the graph.
GpuTime time_on_gpu(const std::vector<std::function<void()>>& runs, int replays = 40);
int64_t copies_beyond_l2(double bytes_moved);  // at most 64: what is tiny is timed from the cache, where a step finds it too

struct CopyRates {
  double memcpy_gbps, kernel_gbps;  // device to device, 1 GiB, bytes read plus bytes written: the driver's copy, and our 16-byte loads and stores
  double best() const { return memcpy_gbps > kernel_gbps ? memcpy_gbps : kernel_gbps; }
};
CopyRates measure_copy();
double measure_read_gbps();  // a kernel that reads 1 GiB and writes nothing
struct LaunchCosts {
  double graph_us, eager_us;  // of an empty kernel: what a kernel costs a replayed step, and a step launched kernel by kernel
};
LaunchCosts measure_launch();

}  // namespace kd::bench
