// plan_book: which cuDNN kernel was measured fastest for a convolution. cuDNN's own first choice is usually close; on the H100 of plan_book.txt a tenth of the
// ResNet convolutions lost 20 % or more by it, the worst one (1x1, stride 2) took 8.6 times as long.
//
// One line per plan, fields separated by blanks, '#' starts a comment:
//   device  cuDNN  op  shape                          type  engine  knobs                  workspace  us      date
//   sm90    9      I   n128h56w56c64k64r3s3st1p1      bf16  41      TILE_SIZE:4,TILEK:0    131        78.90   2026-11-23
//   device: compute capability   cuDNN: major version   op: see ConvKey   type: of all tensors   knobs: "-" for none   workspace: bytes
// A plan is rebuilt from its engine and knobs, so a line can be wrong (another card, another cuDNN) without harm: cuDNN refuses it, or it is merely slow.
#pragma once
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/base/file.h"
#include "kernels/common/cudnn_plan.h"
#include "kernels/conv/conv.h"

namespace kd::cuda {

// What is asked of cuDNN; with the device and cuDNN's version it decides a plan.
//   op  F fprop, and with an epilogue: B +bias  R ReLU  I +bias, ReLU  S +z  T +z +bias  U +z, ReLU  Z +z +bias, ReLU
//       D dgrad  A dgrad added to dx  W wgrad  V wgrad added to dw
struct ConvKey {
  char op;
  DType type;
  ConvShape shape;
  bool operator==(const ConvKey&) const = default;
};
inline constexpr std::string_view kConvOps = "FBRISTUZDAWV";
char fprop_op(bool z, bool bias, bool relu);
cudnn::ConvGraphSpec graph_spec(const ConvKey&);
std::string to_string(const ConvKey&);  // "I bf16 n128h56w56c64k64r3s3st1p1"

struct ConvKeyHash {
  size_t operator()(const ConvKey&) const;
};

struct PlanEntry {
  std::string device;  // "sm90"
  int cudnn;           // major version
  ConvKey key;
  cudnn::EngineChoice choice;
  int64_t workspace_bytes;
  double us;
  std::string date;  // YYYY-MM-DD
};
std::string to_string(const PlanEntry&);  // its line in a book

class PlanBook {
 public:
  // A line that is no plan is left out; `problems` gets "<source>:<line>: what is wrong", at most five of them and the number of the others.
  static PlanBook parse(std::string_view text, const std::string& source, std::vector<std::string>& problems);
  static const PlanBook& embedded();  // plan_book.txt as of this build

  const PlanEntry* find(std::string_view device, int cudnn, const ConvKey&) const;
  void add(PlanEntry);  // of two plans for the same thing the faster one stays
  void add(const PlanBook&);
  std::vector<PlanEntry> entries() const;  // sorted as they are written
  size_t size() const { return entries_.size(); }
  // Replaces the file; each line of `comment` becomes a comment at its top.
  void write(const Path&, std::string_view comment) const;

 private:
  std::unordered_multimap<ConvKey, PlanEntry, ConvKeyHash> entries_;
};

}  // namespace kd::cuda
