// gpu_check correct: the case table of the kernel tests without a test framework, and every convolution of the networks.
#include <chrono>
#include <cmath>
#include <cstring>
#include <map>

#include "bench/gpu_check.h"
#include "kernels/conv/zoo.h"

namespace kd::gpu_check {
namespace {

using cases::Case;
using cases::Checked;

std::string family_of(const std::string& name) { return name.substr(0, name.find(':')); }

// What cuDNN, cuBLASLt and oneDNN compute: sanitizers have nothing to find there and take minutes for it.
bool is_library(const std::string& family) { return family == "conv" || family == "gemm" || family == "zoo"; }

// The lines that say what is wrong with `outputs`; none: all is well.
std::vector<std::string> complaints(const std::string& name, const std::vector<Checked>& outputs, Tally& tally) {
  std::vector<std::string> lines;
  if (outputs.empty()) lines.push_back("nothing was compared");
  for (const Checked& output : outputs) {
    const cases::Verdict verdict = cases::judge(output);
    ++tally.outputs;
    if (!verdict.ok) lines.push_back(verdict.message);
    const double share = output.tolerance > 0 ? verdict.error / output.tolerance : verdict.error > 0 ? HUGE_VAL : 0;
    if (!(share <= tally.worst)) tally.worst = share, tally.worst_at = name + " " + output.what;  // also a NaN
  }
  return lines;
}

bool same_bits(const std::vector<Checked>& a, const std::vector<Checked>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (a[i].got.size() != b[i].got.size() || std::memcmp(a[i].got.data(), b[i].got.data(), a[i].got.size() * sizeof(double)) != 0) return false;
  return true;
}

std::vector<std::string> run(const Case& problem, const Options& o, Tally& tally) {
  const Stream stream = current_stream(o.device);
  try {
    std::vector<std::string> lines;
    if (problem.check) {
      const auto first = problem.check(stream);
      lines = complaints(problem.name, first, tally);
      if (!o.tiny && !same_bits(first, problem.check(stream))) lines.push_back("a second run gave other bits");
    }
    if (problem.grad && !o.tiny)
      for (std::string& line : complaints(problem.name + " gradient", problem.grad(stream), tally)) lines.push_back(std::move(line));
    return lines;
  } catch (const std::exception& e) {
    return {e.what()};
  }
}

std::string percent(double share) { return std::isfinite(share) ? fmt::format("{:.1f}", 100 * share) : "failed"; }

}  // namespace

void examine(const Case& problem, const Options& o, Tally& tally) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto lines = run(problem, o, tally);
  tally.seconds += std::chrono::duration<double>(Clock::now() - start).count();
  ++tally.cases;
  tally.failed += !lines.empty();
  for (const std::string& line : lines) fmt::print("FAILED {}: {}\n", problem.name, line);
  std::fflush(stdout);
  release_cached_memory(o.device);  // every case gets blocks of its own, so that a sanitizer sees what was freed
}

int correct(const Options& o) {
  poison_new_blocks(true);  // what a kernel leaves unwritten is NaN, not the last run's answer
  cases::Cases all = cases::all_cases();
  for (Case& c : zoo_conv_cases()) all.push_back(std::move(c));
  std::erase_if(all, [&](const Case& c) { return o.tiny ? !c.check || is_library(family_of(c.name)) : !c.check && !c.grad; });

  std::vector<std::string> order;
  std::map<std::string, Tally> tallies;
  for (const Case& problem : choose(std::move(all), o)) {
    const std::string family = family_of(problem.name);
    if (!tallies.count(family)) order.push_back(family);
    examine(problem, o, tallies[family]);
  }
  Table table(o.out / "correct.csv", {{"family", -12}, {"cases", 7}, {"outputs", 9}, {"failed", 8}, {"% of tolerance", 16}, {"  worst case", -64}, {"s", 7}});
  int cases = 0, failed = 0;
  for (const std::string& family : order) {
    const Tally& t = tallies[family];
    table.row({family, std::to_string(t.cases), std::to_string(t.outputs), std::to_string(t.failed), percent(t.worst), "  " + t.worst_at,
               fmt::format("{:.1f}", t.seconds)});
    cases += t.cases, failed += t.failed;
  }
  fmt::print("{} cases on {}, {} failed\n", cases, to_string(o.device), failed);
  return failed;
}

// ---- convolutions of the zoo ---------------------------------------------------------------------------------------------------------

namespace {

Tensor as_f32(const Tensor& t) {
  if (t.dtype() == DType::f32) return t;
  Tensor out = Tensor::empty(t.shape(), DType::f32);
  for (int64_t i = 0; i < t.elements(); ++i) out.data<float>()[i] = float(t.data<bf16>()[i]);
  return out;
}

// Host tensors in the type under test, and where the results go.
struct ConvOperands {
  Tensor x, w, y, z, bias;
  ConvOperands to(Device device) const { return {x.to(device), w.to(device), y.to(device), z.to(device), bias.to(device)}; }
};

ConvOperands operands(const ConvShape& s, DType type) {
  using cases::random_tensor;
  const Shape out{s.n, s.p(), s.q(), s.k};
  return {random_tensor({s.n, s.h, s.w, s.c}, type, 1), random_tensor({s.k, s.r, s.s, s.c}, type, 2), random_tensor(out, type, 3), random_tensor(out, type, 4),
          random_tensor({s.k}, type, 5)};
}

struct ConvResults {
  Tensor plain, relu, residual, dx, dx_added, dw, dw_added;
};

// Every form that the engine asks of a convolution. y is the gradient of the backward ones; dx_added and dw_added start as x and w.
ConvResults convolve(const ConvShape& s, const ConvOperands& t, bool input_gradient) {
  const Device device = t.x.device();
  const Stream stream = current_stream(device);
  const DType type = t.x.dtype();
  auto fprop = [&](bool bias, bool z) {
    Tensor y = Tensor::empty(t.y.shape(), type, device);
    conv_fprop(stream, {.shape = s,
                        .type = type,
                        .x = t.x.raw(),
                        .w = t.w.raw(),
                        .w_type = type,
                        .y = y.raw(),
                        .z = z ? t.z.raw() : nullptr,
                        .bias = bias ? t.bias.raw() : nullptr,
                        .bias_type = type,
                        .epilogue = bias ? Epilogue::relu : Epilogue::none});
    return y;
  };
  auto dgrad = [&](Accumulate accumulate) {
    Tensor dx = accumulate == Accumulate::yes ? t.x.clone() : Tensor::empty(t.x.shape(), type, device);
    conv_dgrad(stream, {.shape = s, .type = type, .dy = t.y.raw(), .w = t.w.raw(), .w_type = type, .dx = dx.raw(), .accumulate = accumulate});
    return dx;
  };
  auto wgrad = [&](Accumulate accumulate) {
    Tensor dw = accumulate == Accumulate::yes ? t.w.clone() : Tensor::empty(t.w.shape(), type, device);
    conv_wgrad(stream, {.shape = s, .type = type, .x = t.x.raw(), .dy = t.y.raw(), .dw = dw.raw(), .dw_type = type, .accumulate = accumulate});
    return dw;
  };
  ConvResults r{.plain = fprop(false, false), .relu = fprop(true, false), .residual = fprop(true, true), .dx = {}, .dx_added = {}, .dw = {}, .dw_added = {}};
  if (input_gradient) r.dx = dgrad(Accumulate::no), r.dx_added = dgrad(Accumulate::yes);
  r.dw = wgrad(Accumulate::no), r.dw_added = wgrad(Accumulate::yes);
  return r;
}

std::vector<Checked> check_conv(const ZooConv& conv, DType type, Stream stream) {
  const ConvOperands host = operands(conv.shape, type);
  const ConvResults got = convolve(conv.shape, host.to(stream.device), !conv.is_stem);
  const ConvResults want = convolve(conv.shape, {as_f32(host.x), as_f32(host.w), as_f32(host.y), as_f32(host.z), as_f32(host.bias)}, !conv.is_stem);
  std::vector<Checked> out;
  auto compare = [&](const char* what, const Tensor& g, const Tensor& w) {
    if (w.defined()) out.push_back({what, cases::to_doubles(g), cases::to_doubles(w), cases::tolerance(type)});
  };
  compare("y", got.plain, want.plain);
  compare("y+bias relu", got.relu, want.relu);
  compare("y+bias+z relu", got.residual, want.residual);
  compare("dx", got.dx, want.dx);
  compare("dx added", got.dx_added, want.dx_added);
  compare("dw", got.dw, want.dw);
  compare("dw added", got.dw_added, want.dw_added);
  return out;
}

}  // namespace

cases::Cases zoo_conv_cases() {
  cases::Cases all;
  std::vector<ConvShape> seen;
  for (ZooStem stem : {ZooStem::imagenet, ZooStem::cifar})
    for (ZooNet net : {ZooNet::resnet18, ZooNet::resnet50})
      for (const ZooConv& conv : zoo_convs(net, stem, stem == ZooStem::imagenet ? 2 : 4, stem == ZooStem::imagenet ? 224 : 32)) {
        if (std::find(seen.begin(), seen.end(), conv.shape) != seen.end()) continue;
        seen.push_back(conv.shape);
        for (DType type : {DType::f32, DType::bf16})
          all.push_back({.name = "zoo:" + to_string(type) + ":" + to_string(conv.shape),
                         .check = [=](Stream stream) { return check_conv(conv, type, stream); },
                         .grad = {},
                         .perf = {},
                         .can_run = [=](Device device) { return device == Device::cuda || can_convolve(conv.shape, type); }});
      }
  return all;
}

}  // namespace kd::gpu_check
