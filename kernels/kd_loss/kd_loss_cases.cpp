// The oracle is kd_loss_oracle.h. Logits are multiples of 1/8, exact in float at every offset used.
#include "engine/base/rng.h"
#include "kernels/common/cases.h"
#include "kernels/kd_loss/kd_loss_oracle.h"

namespace kd::cases {
namespace {

enum class Inputs { usual, ties, negative, shifted, huge, constant };
constexpr const char* kInputNames[] = {"usual", "ties", "negative", "shifted", "huge", "constant"};

struct Problem {
  int64_t n, k;
  int teachers;
  Combine combine;
  Standardize standardize;
  Inputs inputs = Inputs::usual;

  std::string name() const {
    constexpr const char* kCombineNames[] = {"mean_loss", "mean_probs", "mean_logits", "log_mean_prob"};
    return fmt::format("kd_loss:f32:{}x{}:t{}:{}{}{}{}", n, k, teachers, kCombineNames[size_t(combine)], standardize == Standardize::zscore ? ":zscore" : "",
                       inputs == Inputs::usual ? "" : ":", inputs == Inputs::usual ? "" : kInputNames[size_t(inputs)]);
  }
};

Tensor logits(const Problem& p, uint32_t stream) {
  Tensor x = Tensor::empty({p.n, p.k}, DType::f32);
  Rng rng(0x10617, Purpose::test, stream);
  for (int64_t i = 0; i < x.elements(); ++i) {
    float draw = float(int(rng.below(65))) / 8.f - 4.f;  // [-4, 4]
    switch (p.inputs) {
      case Inputs::usual: break;
      case Inputs::ties: draw = draw < 0 ? -1.f : 2.f; break;
      case Inputs::negative: draw -= 50.f; break;
      case Inputs::shifted: draw += 1e4f; break;
      case Inputs::huge: draw *= 2500.f; break;                        // e^x overflows, and so does e^-x: most probabilities are 0
      case Inputs::constant: draw = i / p.k % 2 ? draw : 0.1f; break;  // every other row: sd = 0
    }
    x.data<float>()[i] = draw;
  }
  return x;
}

Tensor some_labels(const Problem& p) {
  Tensor labels = Tensor::empty({p.n}, DType::i32);
  Rng rng(0x10617, Purpose::test, 99);
  for (int64_t n = 0; n < p.n; ++n) labels.data<int32_t>()[n] = int32_t(rng.below(uint32_t(p.k)));
  return labels;
}

struct Run {
  Stream stream;
  oracle::KdProblem in_double;
  Tensor s, labels, ds, records, values_only, loss, sums;
  std::vector<Tensor> teachers;
  KdLossArgs args;
  KdLossSumsArgs sums_args;

  Run(const Problem& p, Stream on) : stream(on) {
    const Device device = stream.device;
    s = logits(p, 0).to(device);
    const Tensor host_labels = some_labels(p);
    labels = host_labels.to(device);
    ds = Tensor::empty({p.n, p.k}, DType::f32, device);
    records = Tensor::empty({p.n, int64_t(sizeof(KdRecord))}, DType::u8, device), values_only = records.clone();
    loss = Tensor::empty({}, DType::f32, device), sums = Tensor::zeros({int64_t(sizeof(KdSums))}, DType::u8, device);
    args = {.s = s.data<float>(),
            .labels = labels.data<int32_t>(),
            .n_teachers = p.teachers,
            .ds = ds.data<float>(),
            .records = static_cast<KdRecord*>(records.raw()),
            .n = p.n,
            .k = p.k,
            .combine = p.combine,
            .standardize = p.standardize,
            .alpha = 0.625f,
            .soft_weight = 0.375f,
            .tau = 3.f};
    in_double = {.n = size_t(p.n),
                 .k = size_t(p.k),
                 .s = to_doubles(s),
                 .labels = {host_labels.data<int32_t>(), host_labels.data<int32_t>() + p.n},
                 .teachers = {},
                 .combine = p.combine,
                 .standardize = p.standardize,
                 .alpha = double(args.alpha),
                 .soft_weight = double(args.soft_weight),
                 .tau = double(args.tau)};
    for (int i = 0; i < p.teachers; ++i) {
      teachers.push_back(logits(p, uint32_t(1 + i)).to(device));
      in_double.teachers.push_back(to_doubles(teachers.back()));
      args.teachers[i] = teachers.back().data<float>();
    }
    sums_args = {.records = args.records,
                 .n = p.n,
                 .hard_weight = p.teachers ? args.alpha : 1,
                 .soft_weight = p.teachers ? args.soft_weight : 0,
                 .loss = loss.data<float>(),
                 .sums = static_cast<KdSums*>(sums.raw())};
  }
};

std::vector<double> field(const Tensor& records, auto KdRecord::*which) {
  const Tensor host = records.to(Device::cpu);
  const auto* record = static_cast<const KdRecord*>(host.raw());
  std::vector<double> out;
  for (int64_t n = 0; n < host.dim(0); ++n) out.push_back(double(record[n].*which));
  return out;
}

std::vector<Checked> check(const Problem& p, Stream stream) {
  Run run(p, stream);
  kd_loss(stream, run.args);
  const oracle::KdAnswer want = oracle::kd_loss(run.in_double);
  const auto ce = field(run.records, &KdRecord::ce), kd = field(run.records, &KdRecord::kd);
  std::vector<Checked> outputs{{"ce", ce, want.ce, tolerance(DType::f32)},
                               {"ds", to_doubles(run.ds), want.ds, tolerance(DType::f32)},
                               {"right", field(run.records, &KdRecord::right), want.right, 0},
                               {"agree", field(run.records, &KdRecord::agree), want.agree, 0}};
  if (p.teachers > 0) outputs.push_back({"kd", kd, want.kd, tolerance(DType::f32)});

  run.args.ds = nullptr, run.args.records = static_cast<KdRecord*>(run.values_only.raw());
  kd_loss(stream, run.args);
  outputs.push_back({"records without ds", to_doubles(run.values_only), to_doubles(run.records), 0});  // byte for byte
  return outputs;
}

std::vector<Checked> grad(const Problem& p, Stream stream) {
  Run run(p, stream);
  kd_loss(stream, run.args);
  oracle::KdProblem problem = run.in_double;
  auto loss_at = [&](const std::vector<double>& s) {
    problem.s = s;
    return oracle::total(problem);
  };
  return {check_gradient("ds", to_doubles(run.s), loss_at, to_doubles(run.ds), 1e-3, tolerance(DType::f32))};
}

// Three batches, counted from 1: the sums of one batch after another, the mean of the last.
std::vector<Checked> check_sums(int64_t n, Stream stream) {
  constexpr float kHard = 0.625f, kSoft = 0.375f;
  const KdSums before{.loss = 1, .ce = 1, .kd = 1, .images = 1, .right = 1, .agree = 1};
  Tensor sums = Tensor::empty({int64_t(sizeof before)}, DType::u8, stream.device), loss = Tensor::empty({2}, DType::f32, stream.device);
  copy_bytes(sums.raw(), stream.device, &before, Device::cpu, sums.bytes());
  std::vector<double> want(6, 1.0);
  double batch = 0;
  for (uint32_t step = 0; step < 3; ++step) {
    Rng rng(0x5075, Purpose::test, step);
    std::vector<KdRecord> records(static_cast<size_t>(n));
    batch = 0;
    for (KdRecord& r : records) {
      r = {.ce = rng.uniform(0.f, 5.f), .kd = rng.uniform(0.f, 50.f), .right = rng.coin(0.5f), .agree = rng.coin(0.25f)};
      const double weighted = double(kHard) * double(r.ce) + double(kSoft) * double(r.kd),
                   terms[] = {weighted, r.ce, r.kd, 1, double(r.right), double(r.agree)};
      for (size_t i = 0; i < want.size(); ++i) want[i] += terms[i];
      batch += weighted / double(n);
    }
    Tensor there = Tensor::empty({n, int64_t(sizeof(KdRecord))}, DType::u8, stream.device);
    copy_bytes(there.raw(), stream.device, records.data(), Device::cpu, there.bytes());
    KdLossSumsArgs args{.records = static_cast<const KdRecord*>(there.raw()),
                        .n = n,
                        .hard_weight = kHard,
                        .soft_weight = kSoft,
                        .loss = loss.data<float>(),
                        .sums = static_cast<KdSums*>(sums.raw())};
    kd_loss_sums(stream, args);
    args.loss = loss.data<float>() + 1, args.sums = nullptr;
    kd_loss_sums(stream, args);
  }
  KdSums got;
  copy_bytes(&got, Device::cpu, sums.raw(), stream.device, sums.bytes());
  std::vector<Checked> outputs{{"loss", to_doubles(loss), {batch, batch}, 1e-7}};
  const double values[] = {got.loss, got.ce, got.kd, double(got.images), double(got.right), double(got.agree)};
  const char* names[] = {"sum of loss", "sum of ce", "sum of kd", "images", "right", "agree"};
  for (size_t i = 0; i < want.size(); ++i) outputs.push_back({names[i], {values[i]}, {want[i]}, i < 3 ? 1e-13 : 0});
  return outputs;
}

Case make_case(const Problem& p) {
  Case c{.name = p.name(), .check = [=](Stream stream) { return check(p, stream); }, .grad = {}, .perf = {}};
  // 48 evaluations of the whole oracle are slow at many classes, and a constant row has no derivative under z-score.
  if (p.n * p.k < 15000 && p.inputs != Inputs::constant) c.grad = [=](Stream stream) { return grad(p, stream); };
  return c;
}

Case make_perf(const Problem& p) {
  return {.name = p.name() + ":step", .check = {}, .grad = {}, .perf = [=](Stream stream) {
            auto run = std::make_shared<Run>(p, stream);
            return Work{.run =
                            [=] {
                              kd_loss(stream, run->args);
                              kd_loss_sums(stream, run->sums_args);
                            },
                        .bytes = 4.0 * double((p.teachers + 2) * p.n * p.k),
                        .flops = 0};
          }};
}

}  // namespace

void add_kd_loss_cases(Cases& all) {
  using enum Combine;
  using enum Standardize;
  constexpr Combine kCombines[] = {mean_loss, mean_probs, mean_logits, log_mean_prob};
  constexpr std::pair<int64_t, int64_t> kSizes[] = {{5, 2}, {7, 13}, {33, 10}, {13, 100}, {4, 1000}};  // 7x13: nothing divides it
  for (auto [n, k] : kSizes) all.push_back(make_case({n, k, 0, mean_loss, none}));
  for (Standardize standardize : {none, zscore})
    for (Combine combine : kCombines) {
      for (auto [n, k] : kSizes)
        for (int teachers : {1, 2, 3}) all.push_back(make_case({n, k, teachers, combine, standardize}));
      all.push_back(make_case({3, 40, kMaxTeachers, combine, standardize}));
      for (Inputs inputs : {Inputs::ties, Inputs::negative, Inputs::shifted, Inputs::huge, Inputs::constant}) {
        all.push_back(make_case({7, 13, 3, combine, standardize, inputs}));
        all.push_back(make_case({3, 300, 2, combine, standardize, inputs}));
      }
    }
  // Around a warp's width, where blocks take over from warps, and where a block's threads take a second turn; rows that do not fill a block of four.
  for (auto [n, k] : {std::pair<int64_t, int64_t>{1, 1}, {4, 31}, {5, 32}, {3, 33}, {2, 256}, {2, 257}, {1, 1024}, {1, 1025}, {2, 2300}})
    all.push_back(make_case({n, k, 2, log_mean_prob, zscore}));
  for (int64_t n : {1, 31, 256, 257, 1000})
    all.push_back({.name = fmt::format("kd_loss:sums:{}", n), .check = [=](Stream stream) { return check_sums(n, stream); }, .grad = {}, .perf = {}});

  for (auto [n, k] : {std::pair<int64_t, int64_t>{128, 10}, {128, 100}, {512, 100}, {256, 1000}})
    for (int teachers : {0, 1, 2, 3}) all.push_back(make_perf({n, k, teachers, mean_loss, none}));
}

}  // namespace kd::cases
