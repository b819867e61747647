// gpu_check steps-equal: whole training steps of a distilled ResNet-18, from drawn decisions to updated weights.
#include <cmath>
#include <cstring>

#include "bench/gpu_check.h"
#include "bench/train_step.h"
#include "data/loader.h"

namespace kd::gpu_check {
namespace {

struct Setting {
  Stem stem;
  DType type;
  int64_t px, batch;
  double width;
};

std::string name_of(const Setting& s) { return fmt::format("{}_{}px_b{}_{}", to_string(s.stem), s.px, s.batch, to_string(s.type)); }

Dataset noise(int64_t images, int64_t classes) {
  Dataset set;
  set.images = Tensor::empty({images, 32, 32, 3}, DType::u8);
  Rng rng(11, Purpose::test);
  for (int64_t i = 0; i < set.images.elements(); ++i) set.images.data<uint8_t>()[i] = uint8_t(rng.below(256));
  for (int64_t i = 0; i < images; ++i) set.labels.push_back(int32_t(rng.below(uint32_t(classes))));
  return set;
}

struct Outcome {
  std::vector<double> losses;                         // of each step
  std::vector<std::pair<std::string, Tensor>> state;  // on the host: everything that a step writes and the next one reads
};

constexpr int64_t kClasses = 100;
// Rounding grows from step to step, ten times faster at 0.02, where ten losses tell nothing any more.
constexpr float kRate = 0.002f;

Outcome train(const Setting& s, Device device, Launch launch, int steps, View view) {
  auto net = [&](uint64_t seed) {
    return ResnetConfig{.arch = Arch::resnet18, .stem = s.stem, .classes = kClasses, .width = s.width, .seed = seed, .device = device, .type = s.type};
  };
  Resnet student(net(1)), teacher(net(2));
  LoaderConfig input{
      .batch = s.batch, .view = view, .type = s.type, .channels = student.input_channels(), .seed = 3, .order = Order::shuffled, .device = device};
  input.augment.px = s.px;
  Loader loader(noise(s.batch * steps, kClasses), input);
  loader.start(0);
  TrainStep step({{.net = &student, .teachers = {0}}}, {&teacher}, s.px, loader.input_bytes(), {.launch = launch});
  Outcome out;
  for (int i = 0; i < steps; ++i) {
    const int64_t n = loader.draw(step.inputs());
    step.clear_sums();
    step.run(n, kRate, [&](const std::byte* inputs, const Tensor& images, const Tensor& labels) { loader.make(inputs, images.dim(0), images, labels); });
    out.losses.push_back(step.final_sums().loss / double(n));
  }
  const ParamArena& arena = student.params();
  auto keep = [&](const std::string& name, const Tensor& t) {
    if (t.defined()) out.state.emplace_back(name, t.to(Device::cpu).clone());
  };
  keep("weights", arena.weights());
  keep("bf16 weights", arena.rounded());
  keep("momentum", arena.momentum());
  keep("gradients", arena.grads());
  for (const ParamArena::Buffer& b : arena.buffers()) keep(b.name, *b.slot);
  return out;
}

// "identical", or what differs first and by how many bytes in all.
std::string difference(const Outcome& a, const Outcome& b) {
  if (a.state.size() != b.state.size()) return "not the same tensors";
  int64_t bytes = 0;
  std::string first;
  for (size_t i = 0; i < a.state.size(); ++i) {
    const Tensor &ta = a.state[i].second, &tb = b.state[i].second;
    const auto *pa = static_cast<const unsigned char*>(ta.raw()), *pb = static_cast<const unsigned char*>(tb.raw());
    int64_t here = 0;
    for (int64_t k = 0; k < ta.bytes(); ++k) here += pa[k] != pb[k];
    if (here > 0 && first.empty()) first = a.state[i].first;
    bytes += here;
  }
  if (bytes > 0) return fmt::format("{} bytes differ; first in {}", bytes, first);
  return a.losses == b.losses ? "identical" : "the losses differ";
}

}  // namespace

int steps_equal(const Options& o) {
  // Three steps meet a first run, a recording and a replay; the fourth a replay after a replay.
  constexpr int kSteps = 4, kFollowed = 10;
  const auto settings = o.tiny ? std::vector<Setting>{{Stem::cifar, DType::f32, 32, 4, 0.125}, {Stem::imagenet, DType::f32, 32, 4, 0.125}}
                               : std::vector<Setting>{{Stem::cifar, DType::bf16, 32, 32, 1},
                                                      {Stem::imagenet, DType::bf16, 224, 8, 1},
                                                      {Stem::cifar, DType::f32, 32, 32, 1},
                                                      {Stem::imagenet, DType::f32, 224, 8, 1}};
  Table table(o.out / "steps_equal.csv", {{"step", -28}, {"what", -34}, {"result", -60}});
  int failed = 0;
  auto report = [&](const Setting& s, const char* what, bool ok, const std::string& result) {
    failed += !ok;
    table.row({name_of(s), what, (ok ? "" : "FAILED: ") + result});
  };
  for (const Setting& s : settings) {
    const Outcome graph = train(s, o.device, Launch::graph, kSteps, View::strong);
    for (const auto& [what, launch] : {std::pair{"kernel by kernel against graph", Launch::eager}, std::pair{"run against run", Launch::graph}}) {
      const std::string result = difference(graph, train(s, o.device, launch, kSteps, View::strong));
      report(s, what, result == "identical", result);
    }
    release_cached_memory(o.device);
  }
  // Tried on a CPU: weights moved by a random 1e-5 of themselves move these losses by up to 1.5e-4 of their value in f32; bf16 moves them by up to 8e-4.
  // Without the optimizer's updates they would be off by 2e-2.
  for (const Setting& s : settings) {
    if (s.stem != Stem::cifar) continue;
    Setting reference = s;
    reference.type = DType::f32;
    const Outcome there = train(s, o.device, Launch::graph, kFollowed, View::weak), here = train(reference, Device::cpu, Launch::graph, kFollowed, View::weak);
    double worst = 0;
    for (size_t i = 0; i < here.losses.size(); ++i) {
      const double off = std::fabs(there.losses[i] - here.losses[i]) / here.losses[i];
      if (!(off <= worst)) worst = off;  // also when it is NaN
    }
    const double limit = s.type == DType::f32 ? 5e-4 : 3e-3;
    report(s, "ten losses against the CPU in f32", worst <= limit,
           fmt::format("off by {:.2e} at most (limit {:.0e}); last loss {:.4f}", worst, limit, there.losses.back()));
    release_cached_memory(o.device);
  }
  return failed;
}

}  // namespace kd::gpu_check
