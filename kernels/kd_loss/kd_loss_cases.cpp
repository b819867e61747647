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

struct Run {
  Problem p;
  Tensor s, labels, ds, ce, kd;
  std::vector<Tensor> teachers;
  KdLossArgs args;

  explicit Run(const Problem& problem) : p(problem) {
    s = logits(p, 0);
    labels = Tensor::empty({p.n}, DType::i32);
    Rng rng(0x10617, Purpose::test, 99);
    for (int64_t n = 0; n < p.n; ++n) labels.data<int32_t>()[n] = int32_t(rng.below(uint32_t(p.k)));
    ds = Tensor::empty({p.n, p.k}, DType::f32), ce = Tensor::empty({p.n}, DType::f32), kd = Tensor::empty({p.n}, DType::f32);
    args = {.s = s.data<float>(),
            .labels = labels.data<int32_t>(),
            .n_teachers = p.teachers,
            .ds = ds.data<float>(),
            .ce = ce.data<float>(),
            .kd = kd.data<float>(),
            .n = p.n,
            .k = p.k,
            .combine = p.combine,
            .standardize = p.standardize,
            .alpha = 0.625f,
            .soft_weight = 0.375f,
            .tau = 3.f};
    for (int i = 0; i < p.teachers; ++i) {
      teachers.push_back(logits(p, uint32_t(1 + i)));
      args.teachers[i] = teachers.back().data<float>();
    }
  }
  oracle::KdProblem in_double() const {
    oracle::KdProblem out{.n = size_t(p.n),
                          .k = size_t(p.k),
                          .s = to_doubles(s),
                          .labels = {args.labels, args.labels + p.n},
                          .teachers = {},
                          .combine = p.combine,
                          .standardize = p.standardize,
                          .alpha = double(args.alpha),
                          .soft_weight = double(args.soft_weight),
                          .tau = double(args.tau)};
    for (const Tensor& t : teachers) out.teachers.push_back(to_doubles(t));
    return out;
  }
};

std::vector<Checked> check(const Problem& p, Stream stream) {
  Run run(p);
  kd_loss(stream, run.args);
  const oracle::KdAnswer want = oracle::kd_loss(run.in_double());
  std::vector<Checked> outputs{{"ce", to_doubles(run.ce), want.ce, tolerance(DType::f32)}, {"ds", to_doubles(run.ds), want.ds, tolerance(DType::f32)}};
  if (p.teachers > 0) outputs.push_back({"kd", to_doubles(run.kd), want.kd, tolerance(DType::f32)});
  return outputs;
}

std::vector<Checked> grad(const Problem& p, Stream stream) {
  Run run(p);
  kd_loss(stream, run.args);
  oracle::KdProblem problem = run.in_double();
  auto loss_at = [&](const std::vector<double>& s) {
    problem.s = s;
    return oracle::total(problem);
  };
  return {check_gradient("ds", to_doubles(run.s), loss_at, to_doubles(run.ds), 1e-3, tolerance(DType::f32))};
}

Case make_case(const Problem& p) {
  Case c{.name = p.name(), .check = [=](Stream stream) { return check(p, stream); }, .grad = {}, .perf = {}};
  // 48 evaluations of the whole oracle are slow at K = 1000, and a constant row has no derivative under z-score.
  if (p.k < 1000 && p.inputs != Inputs::constant) c.grad = [=](Stream stream) { return grad(p, stream); };
  if (p.n * p.k >= 12800 && p.combine == Combine::mean_loss)
    c.perf = [=](Stream stream) {
      auto run = std::make_shared<Run>(p);
      return Work{.run = [=] { kd_loss(stream, run->args); }, .bytes = 4.0 * double((p.teachers + 2) * p.n * p.k), .flops = 0};
    };
  return c;
}

}  // namespace

void add_kd_loss_cases(Cases& all) {
  using enum Combine;
  constexpr Combine kCombines[] = {mean_loss, mean_probs, mean_logits, log_mean_prob};
  constexpr std::pair<int64_t, int64_t> kSizes[] = {{1, 2}, {7, 13}, {128, 10}, {128, 100}, {64, 1000}};  // 7x13: nothing divides it
  for (auto [n, k] : kSizes) all.push_back(make_case({n, k, 0, mean_loss, Standardize::none}));
  for (Standardize standardize : {Standardize::none, Standardize::zscore})
    for (Combine combine : kCombines) {
      for (auto [n, k] : kSizes)
        for (int teachers : {1, 2, 3}) all.push_back(make_case({n, k, teachers, combine, standardize}));
      for (Inputs inputs : {Inputs::ties, Inputs::negative, Inputs::shifted, Inputs::huge, Inputs::constant})
        all.push_back(make_case({7, 13, 3, combine, standardize, inputs}));
    }
}

}  // namespace kd::cases
