// The oracle is attention_loss_oracle.h.
#include <memory>

#include "engine/base/rng.h"
#include "kernels/attention_loss/attention_loss_oracle.h"
#include "kernels/common/cases.h"

namespace kd::cases {
namespace {

// empty: of every three images, the trained map of the first has no energy, the first reference of the second, no map of the third lacks any.
// tiny, huge: energies whose squares no float holds.
enum class Inputs { usual, empty, tiny, huge };
constexpr const char* kInputNames[] = {"usual", "empty", "tiny", "huge"};

struct Problem {
  int64_t n, positions, k;
  std::vector<int64_t> references;  // their channels
  DType type;
  AttentionMode mode;
  float weight = 0.75f;
  Inputs inputs = Inputs::usual;

  std::string name() const {
    return fmt::format("attention_loss:{}:{}x{}x{}:r{}:{}:{:g}{}{}", to_string(type), n, positions, k, fmt::join(references, "+"),
                       mode == AttentionMode::similarity ? "similarity" : "distance", weight, inputs == Inputs::usual ? "" : ":",
                       inputs == Inputs::usual ? "" : kInputNames[size_t(inputs)]);
  }
};

// After a ReLU: half of it zeros, and positions that differ in energy.
Tensor features(const Problem& p, int64_t k, uint32_t stream) {
  const float scale = p.inputs == Inputs::tiny ? 1e-11f : p.inputs == Inputs::huge ? 1e11f : 1.f;
  Tensor f = random_tensor({p.n, p.positions, k}, p.type, stream, -scale, scale);
  Rng rng(0xa77e, Purpose::test, stream);
  for (int64_t at = 0; at < f.elements(); at += k) {
    const int64_t image = at / k / p.positions;
    const bool no_energy = p.inputs == Inputs::empty && (stream == 0 ? image % 3 == 0 : stream == 1 && image % 3 == 1);
    const float strength = no_energy ? 0 : rng.uniform(0.25f, 2.f);
    for (int64_t c = at; c < at + k; ++c) {
      const float v = p.type == DType::f32 ? f.data<float>()[c] : float(f.data<bf16>()[c]);
      const float seen = v > 0 ? v * strength : 0;
      p.type == DType::f32 ? void(f.data<float>()[c] = seen) : void(f.data<bf16>()[c] = bf16(seen));
    }
  }
  return f;
}

struct Run {
  oracle::AttentionProblem in_double;
  Tensor f, df, values, loss, sums;
  std::vector<Tensor> references;
  AttentionLossArgs args{};
  AttentionLossSumsArgs sums_args{};

  Run(const Problem& p, Stream stream) {
    const Device device = stream.device;
    f = features(p, p.k, 0).to(device);
    df = Tensor::empty(f.shape(), p.type, device);
    values = Tensor::empty({p.n}, DType::f32, device), loss = Tensor::empty({}, DType::f32, device);
    args = {.trained = {f.raw(), p.k},
            .n_references = int(p.references.size()),
            .df = df.raw(),
            .values = values.data<float>(),
            .n = p.n,
            .positions = p.positions,
            .type = p.type,
            .mode = p.mode,
            .weight = p.weight};
    in_double = {
        .n = size_t(p.n), .positions = size_t(p.positions), .k = size_t(p.k), .f = to_doubles(f), .references = {}, .mode = p.mode, .weight = double(p.weight)};
    for (size_t i = 0; i < p.references.size(); ++i) {
      references.push_back(features(p, p.references[i], uint32_t(1 + i)).to(device));
      args.references[i] = {references.back().raw(), p.references[i]};
      in_double.references.push_back({size_t(p.references[i]), to_doubles(references.back())});
    }
    sums_args = {.values = args.values, .n = p.n, .weight = p.weight, .loss = loss.data<float>()};
  }
};

std::vector<Checked> check(const Problem& p, Stream stream) {
  Run run(p, stream);
  attention_loss(stream, run.args);
  attention_loss_sums(stream, run.sums_args);
  const oracle::AttentionAnswer want = oracle::attention_loss(run.in_double);
  std::vector<Checked> outputs{{"values", to_doubles(run.values), want.values, tolerance(DType::f32)},
                               {"df", to_doubles(run.df), want.df, tolerance(p.type)},
                               {"loss", to_doubles(run.loss), {want.loss}, tolerance(DType::f32)}};
  const Tensor values_only = Tensor::empty({p.n}, DType::f32, stream.device);
  run.args.df = nullptr, run.args.values = values_only.data<float>();
  attention_loss(stream, run.args);
  outputs.push_back({"values without df", to_doubles(values_only), to_doubles(run.values), 0});
  return outputs;
}

std::vector<Checked> grad(const Problem& p, Stream stream) {
  Run run(p, stream);
  attention_loss(stream, run.args);
  oracle::AttentionProblem problem = run.in_double;
  auto loss_at = [&](const std::vector<double>& f) {
    problem.f = f;
    return oracle::attention_loss(problem).loss;
  };
  return {check_gradient("df", to_doubles(run.f), loss_at, to_doubles(run.df), 1e-4, tolerance(p.type))};
}

// Three batches, counted from 1: the sums of one batch after another, the loss of the last.
std::vector<Checked> check_sums(int64_t n, Stream stream) {
  constexpr float kWeight = -0.375f;
  const double before[2] = {1, 1};
  const Tensor sums = Tensor::empty({int64_t(sizeof before)}, DType::u8, stream.device), loss = Tensor::empty({2}, DType::f32, stream.device);
  copy_bytes(sums.raw(), stream.device, before, Device::cpu, sums.bytes());
  auto* counting = static_cast<double*>(sums.raw());
  double want_loss = 1, want_value = 1, batch = 0;
  for (uint32_t step = 0; step < 3; ++step) {
    const Tensor values = random_tensor({n}, DType::f32, step, 0.f, 2.f);
    batch = 0;
    for (double v : to_doubles(values)) batch += double(kWeight) * v / double(n), want_loss += double(kWeight) * v, want_value += v;
    const Tensor there = values.to(stream.device);
    AttentionLossSumsArgs args{
        .values = there.data<float>(), .n = n, .weight = kWeight, .loss = loss.data<float>(), .loss_sum = counting, .value_sum = counting + 1};
    attention_loss_sums(stream, args);
    args.loss = loss.data<float>() + 1, args.loss_sum = args.value_sum = nullptr;
    attention_loss_sums(stream, args);
  }
  double got[2];
  copy_bytes(got, Device::cpu, sums.raw(), stream.device, sums.bytes());
  return {{"loss", to_doubles(loss), {batch, batch}, 1e-7}, {"sum of loss", {got[0]}, {want_loss}, 1e-13}, {"sum of values", {got[1]}, {want_value}, 1e-13}};
}

Case make_case(const Problem& p) {
  Case c{.name = p.name(), .check = [=](Stream stream) { return check(p, stream); }, .grad = {}, .perf = {}};
  // 48 evaluations of the whole oracle are slow on large maps; a map without energy has no derivative, and the step is for numbers near 1.
  if (p.inputs == Inputs::usual && p.n * p.positions * p.k <= 5000) c.grad = [=](Stream stream) { return grad(p, stream); };
  return c;
}

Case make_perf(const Problem& p) {
  return {.name = p.name() + ":step", .check = {}, .grad = {}, .perf = [=](Stream stream) {
            auto run = std::make_shared<Run>(p, stream);
            double channels = 3 * double(p.k);
            for (int64_t k : p.references) channels += double(k);
            return Work{.run =
                            [=] {
                              attention_loss(stream, run->args);
                              attention_loss_sums(stream, run->sums_args);
                            },
                        .bytes = channels * double(p.n * p.positions * size_of(p.type)),
                        .flops = 0};
          }};
}

}  // namespace

void add_attention_loss_cases(Cases& all) {
  using enum AttentionMode;
  for (AttentionMode mode : {similarity, distance})
    for (DType type : {DType::f32, DType::bf16}) {
      // A student beside its teacher; channels that nothing divides; one that does beside one that does not; fewer and more positions than warps; more
      // channels than a warp takes at a time.
      all.push_back(make_case({3, 16, 128, {128}, type, mode}));
      all.push_back(make_case({5, 12, 13, {5, 24}, type, mode}));
      all.push_back(make_case({2, 49, 16, {64, 64, 13}, type, mode}));
      all.push_back(make_case({4, 2, 8, {8}, type, mode}));
      all.push_back(make_case({2, 9, 264, {600, 257}, type, mode}));
      all.push_back(make_case({2, 20, 24, {8, 16, 24, 32, 40, 48, 56, 64}, type, mode, -2.f}));
      all.push_back(make_case({7, 6, 16, {16, 8}, type, mode, 0.75f, Inputs::empty}));
      all.push_back(make_case({6, 6, 16, {16}, type, mode, 0.75f, Inputs::empty}));
      for (Inputs inputs : {Inputs::tiny, Inputs::huge}) all.push_back(make_case({3, 16, 32, {16}, type, mode, 0.75f, inputs}));
    }
  for (int64_t n : {1, 31, 256, 257, 1000})
    all.push_back({.name = fmt::format("attention_loss:sums:{}", n), .check = [=](Stream stream) { return check_sums(n, stream); }, .grad = {}, .perf = {}});

  for (DType type : {DType::f32, DType::bf16}) {
    all.push_back(make_perf({64, 16, 128, {128}, type, similarity}));
    all.push_back(make_perf({128, 49, 512, {2048, 2048}, type, distance}));
  }
}

}  // namespace kd::cases
