// conv_algorithm: the ways the CPU backend can do a convolution, behind conv.h. conv_choice.h picks one per problem.
//   winograd   F(4x4,3x3) in f32 arithmetic (winograd.h): 3x3, stride 1 and 2; winograd6: F(6x6,3x3) for bf16, stride 1
//   direct     products where they stand (direct.h): any filter and stride; f32 arithmetic, vdpbf16ps or AMX, as the machine and the type allow
//   onednn     the library (conv_onednn.cpp): what nobody above offers, and the second opinion of the tests
#pragma once
#include "engine/base/device.h"
#include "kernels/conv/conv.h"

namespace kd::cpu {

enum class ConvOp : unsigned char { fprop, dgrad, wgrad };
const char* name_of(ConvOp);

struct ConvProblem {
  ConvOp op;
  ConvShape shape;
  DType type;         // of the activations
  bool adds = false;  // fprop: a residual; dgrad: to what is there. Another tensor to read, and so perhaps another algorithm's shape
  bool operator==(const ConvProblem&) const = default;
};
std::string to_string(const ConvProblem&);  // "fprop bf16 n128h32w32c64k64r3s3st1p1", "dgrad+add f32 ..."

// One algorithm on one instruction set. Every entry follows conv.h to the letter: residual, bias, ReLU, accumulation, filters and filter gradients in f32 or
// in the activations' type. Calls come from one thread; the algorithm shares its work over OpenMP's threads.
struct ConvAlgorithm {
  const char* name;  // "winograd.avx2": the word in plan files
  CpuIsa isa;        // the least the machine must have
  bool exact;        // sums the products that the definition names; Winograd does not
  bool (*offers)(const ConvProblem&);
  // fprop, dgrad: the filter in the layout this algorithm reads. 0 bytes: the caller's filter as it is.
  int64_t (*packed_bytes)(const ConvProblem&, DType filter_type);
  void (*pack)(const ConvProblem&, const void* w, DType filter_type, void* packed);
  void (*fprop)(const ConvFpropArgs&, const void* packed);
  void (*dgrad)(const ConvDgradArgs&, const void* packed);
  void (*wgrad)(const ConvWgradArgs&);
  int64_t (*sum_parts)(const ConvShape&) = nullptr;  // of ConvFpropArgs::partial; null: fprop makes no sums
};

// Tables of each file. An empty one where the compiler or the architecture cannot build it.
struct ConvAlgorithms {
  const ConvAlgorithm* begin_;
  const ConvAlgorithm* end_;
  const ConvAlgorithm* begin() const { return begin_; }
  const ConvAlgorithm* end() const { return end_; }
};
ConvAlgorithms winograd_algorithms();
ConvAlgorithms direct_algorithms();
ConvAlgorithms onednn_algorithms();

// Emulated instruction sets: the same kernels on simd::Portable and emulated tiles, for the tests of every machine. Never chosen.
ConvAlgorithms emulated_winograd_algorithms();
ConvAlgorithms emulated_direct_algorithms();

}  // namespace kd::cpu
