// conv_tune: times cuDNN's plans for convolutions on the current GPU and returns the fastest as plan-book entries.
// Per (op, type, shape): the acceptable plans that the heuristics offer, the first 16, and the plan of the books; each is run once on the same random inputs
// and must agree with the others, then timed by replaying a captured graph of launches over rotating buffers that do not fit the L2 cache together; median of
// five replays. The card is kept busy for a while before: clocks that still rise flatter whoever is timed last.
#pragma once
#include "kernels/conv/plan_book.h"

namespace kd::cuda {

struct TuneRequest {
  std::vector<ConvShape> shapes;  // in this order, each with all ops
  std::string ops = "FDWBIZAV";   // letters of ConvKey
  std::vector<DType> types{DType::bf16};
  double budget_ms = 60e3;  // no further signature is begun after this much time
};

struct TunedPlan {
  ConvKey key;
  double first_us, best_us;  // of the heuristics' first acceptable plan, of the fastest
  double book_us;            // of the books' plan; 0: none
};

struct TuneResult {
  PlanBook book;
  std::vector<TunedPlan> times;       // in the order of measurement
  int signatures = 0, plans = 0;      // measured
  std::vector<std::string> messages;  // signatures left out and why: disagreeing plans, no memory, no time
};

// Everything runs in the current CUDA stream; nothing else may use the device. `date` goes into the entries (YYYY-MM-DD).
TuneResult tune(const TuneRequest&, const std::string& date);

}  // namespace kd::cuda
