// cases: one table of problems per kernel family drives correctness, gradient, bit-equality and benchmark runs.
// A family's <family>_cases.cpp holds the oracle (double precision, obvious, slow) and adds its problems in `add_<family>_cases`.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "engine/base/tensor.h"

namespace kd::cases {

// One output of a kernel beside what the oracle says. `tolerance` bounds max|got - want| / max(1e-30, max|want|).
struct Checked {
  std::string what;  // "dx", "loss"
  std::vector<double> got, want;
  double tolerance;
};

// Something to time: `run` does the work once; `bytes` and `flops` are what the contract header says it must move and compute.
struct Work {
  std::function<void()> run;
  double bytes = 0, flops = 0;
};

struct Case {
  std::string name;                                   // "kd_loss:f32:128x100:mean_loss", the same in a filter, a failure line and a benchmark row
  std::function<std::vector<Checked>(Stream)> check;  // kernel against oracle
  std::function<std::vector<Checked>(Stream)> grad;   // backward kernel against central differences of the oracle's forward; may be empty
  std::function<Work(Stream)> perf;                   // may be empty: not worth timing
  std::function<bool(Device)> can_run = {};           // empty: on every device. No where a library lacks the kernel, or the problem is of a GPU's size
};
using Cases = std::vector<Case>;
inline bool runs_on(const Case& c, Device device) { return !c.can_run || c.can_run(device); }

// The families, in one place: tests and kd_bench_kernels both take them all.
void add_conv_cases(Cases&);
void add_batchnorm_cases(Cases&);
void add_pool_cases(Cases&);
void add_gemm_cases(Cases&);
void add_pointwise_cases(Cases&);
void add_kd_loss_cases(Cases&);
void add_attention_loss_cases(Cases&);
void add_metrics_cases(Cases&);
void add_augment_cases(Cases&);
void add_sgd_cases(Cases&);
void add_stem_cases(Cases&);
inline Cases all_cases() {
  Cases all;
  for (auto add : {add_conv_cases, add_batchnorm_cases, add_pool_cases, add_gemm_cases, add_pointwise_cases, add_kd_loss_cases, add_attention_loss_cases,
                   add_metrics_cases, add_augment_cases, add_sgd_cases, add_stem_cases})
    add(all);
  return all;
}

// Tolerances by storage type, relative to the largest expected magnitude: f32 sums of up to ~1e5 terms; bf16 has 8 bits of mantissa.
inline double tolerance(DType type) { return type == DType::bf16 ? 1.5e-2 : 2e-5; }

// Designed inputs: uniform in [low, high), rounded to `type`, so that oracle and kernel see the same numbers.
Tensor random_tensor(Shape, DType, uint32_t stream, float low = -1.f, float high = 1.f);
std::vector<double> to_doubles(const Tensor&);  // from any device

// The verdict on one output: positive, so a NaN, an empty output or a size mismatch never passes.
struct Verdict {
  bool ok;
  double error;         // max|got - want| / max|want|
  std::string message;  // for the failure line
};
Verdict judge(const Checked&);

// Gradient check: sum_i c_i f_i(x) for fixed random c (a plain sum would hide a softmax), central differences of `forward` in double at up to
// 24 coordinates of x, against `analytic` (which must be the gradient of the same contraction). Step h.
Checked check_gradient(const std::string& what, std::vector<double> x, const std::function<double(const std::vector<double>&)>& contracted,
                       const std::vector<double>& analytic, double h, double tolerance);

}  // namespace kd::cases
