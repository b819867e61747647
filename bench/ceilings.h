// ceilings: what this machine can do at best, measured, so that a kernel's rate has something to be a share of.
#pragma once
#include <string>

namespace kd::bench {

// A ceiling is a good run, hence p10 of the time; the rest says how far to trust it, and the machine.
struct Rate {
  double best = 0, median = 0, slow = 0;  // of the runs' p10, median and p90 time; 1e9 a second
};

struct Ceilings {
  Rate f32;                 // GFLOP/s of fused multiply-adds from registers, widest vectors, all threads
  Rate matrix;              // GFLOP/s of bf16 products from registers: AMX tiles, else vdpbf16ps; 0 without either
  std::string matrix_name;  // "AMX", "vdpbf16ps", "none"
  Rate gemm;                // GFLOP/s of oneDNN's sgemm, 1024^3: what a library makes of f32
  Rate triad;               // GB/s of a = b + s * c over arrays far larger than the caches, streaming stores, 12 bytes an element
  // Nanoseconds that a cache line takes from a core to another and back: 50 to 100 where they share a cache, several hundred where they do not, and then stages
  // of a kernel that share data wait for each other. A host may move a virtual machine's cores from one minute to the next. Zeros with one thread.
  Rate round_trip;

  // What a kernel in bf16 can hope for: without an instruction for it, its products are f32's.
  double bf16_gflops() const { return matrix.best > 0 ? matrix.best : f32.best; }
};

// Takes about two seconds and 200 MB (more where the last-level cache exceeds 32 MB).
Ceilings measure_ceilings();

// Reads more than the last-level cache holds on every thread, so that the next run finds its operands in memory.
void scrub_caches();

}  // namespace kd::bench
