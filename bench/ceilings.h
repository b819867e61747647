// ceilings: what this machine can do at best, measured, so that a kernel's rate has something to be a share of.
#pragma once

namespace kd::bench {

struct Ceilings {
  double triad_gbps;   // a = b + s * c over arrays far larger than the caches, streaming stores, 12 bytes an element
  double f32_gflops;   // fused multiply-adds from registers, widest vectors, all threads
  double bf16_gflops;  // the same with bf16 dot products; without such instructions equal to f32_gflops; 0 where AMX would have to be measured
};

// Takes about a second and 200 MB (more where the last-level cache exceeds 32 MB).
Ceilings measure_ceilings();

// Reads more than the last-level cache holds on every thread, so that the next run finds its operands in memory.
void scrub_caches();

}  // namespace kd::bench
