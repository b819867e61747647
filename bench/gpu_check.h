// gpu_check: everything that only a GPU can answer about this engine, in parts that tools/gpu_check.sh runs one after another.
//   probe        what the card and its libraries are          ceilings     how fast it copies, multiplies, launches
//   correct      every kernel against its oracle, every convolution of ResNet-18 and 50 against the CPU
//   verify       admits the Hopper forms of our kernels on this card once their cases have passed
//   steps-equal  a step replayed from a graph is the step launched kernel by kernel, bit for bit; losses follow the CPU's
//   kernels      each of our kernels at the sizes of a GPU: its share of the copy bandwidth
//   tune         the fastest cuDNN plan for each convolution: a plan book
// Whole steps are timed by kd_bench_step. Needs no test framework: a rented GPU machine seldom has one.
#pragma once
#include <string>
#include <vector>

#include "engine/base/file.h"
#include "kernels/common/cases.h"

namespace kd::gpu_check {

struct Options {
  Device device = Device::cuda;
  Path out = "gpu_out";            // the part's files
  std::string filter;              // regular expression; only what it matches
  bool tiny = false;               // little work: for sanitizers, and for trying a part on a device that is not a GPU
  std::string commit = "unknown";  // verify: of the program, for its lines
  double seconds = 60;             // tune: no convolution is begun after this time
};

// Each prints rows as they are measured, writes the same rows to <out>/<part>.csv, and returns how much of it failed. A part that cannot do its work throws.
int probe(const Options&);
int ceilings(const Options&);
int correct(const Options&);
int verify(const Options&);
int steps_equal(const Options&);
int kernels(const Options&);
int tune(const Options&);

// Rows to the screen and to a file, each as soon as it is known: a part that runs out of time leaves what it has.
class Table {
 public:
  struct Column {
    std::string name;
    int width;  // on the screen; negative: left-aligned
  };
  Table(const Path& csv, std::vector<Column> columns);
  void row(const std::vector<std::string>& cells);

 private:
  std::vector<Column> columns_;
  FileWriter file_;
};

std::string today();  // YYYY-MM-DD, UTC

// The cases whose name contains a match, on that device. Throws when none does.
cases::Cases choose(cases::Cases, const Options&);
bool can_run(const cases::Case&, Device);

// What was found out about some cases.
struct Tally {
  int cases = 0, outputs = 0, failed = 0;
  double worst = 0;  // error as a share of its tolerance
  std::string worst_at = "-";
  double seconds = 0;
};
// Runs a case: its outputs against the oracle, then again for the same bits, and its gradient (tiny: only the first). Prints what is wrong.
void examine(const cases::Case&, const Options&, Tally&);

// Every distinct convolution of ResNet-18 and 50 with both stems, few images, forward (with each epilogue that the engine uses) and backward, added to and
// overwritten, against the CPU in f32.
cases::Cases zoo_conv_cases();

// Uniform random numbers on a device: a short random block, drawn once and repeated, because drawing 200 million on the host would take longer than timing
// what is done with them.
Tensor random_on(Device, Shape, DType, float low = -1.f, float high = 1.f, uint32_t stream = 1);

// Our kernels at the sizes of training and inference on a GPU, to be timed; tiny: the same calls on next to nothing.
cases::Cases gpu_sized_cases(bool tiny);

}  // namespace kd::gpu_check
