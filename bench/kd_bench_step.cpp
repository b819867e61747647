// kd_bench_step: whole training, inference and distillation steps, timed. One row a case: median with p10-p90, images/s, GFLOP/s.
// `--serve` keeps the cases in memory and times on request, so that tools/bench_against_torch.py can alternate with PyTorch in one run.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <map>
#include <sstream>

#include "bench/timing.h"
#include "engine/optim.h"
#include "kd/losses.h"
#include "models/resnet.h"

namespace kd {
namespace {

struct StepCase {
  std::string name;
  Arch arch;
  Stem stem;
  int64_t px, batch;
  int teachers;  // resnet50 teachers in evaluation mode
  enum class Kind { train, infer } kind;
};

const std::vector<StepCase>& step_cases() {
  using Kind = StepCase::Kind;
  static const std::vector<StepCase> cases{
      {"r18_train_32_b128", Arch::resnet18, Stem::cifar, 32, 128, 0, Kind::train},
      {"r18_train_224_b16", Arch::resnet18, Stem::imagenet, 224, 16, 0, Kind::train},
      {"r50_infer_224_b16", Arch::resnet50, Stem::imagenet, 224, 16, 0, Kind::infer},
      {"kd_2xr50_r18_32_b64", Arch::resnet18, Stem::cifar, 32, 64, 2, Kind::train},
  };
  return cases;
}

// One case with everything it needs, ready to step. Data are random: the arithmetic does not depend on them.
class Step {
 public:
  Step(const StepCase& c, DType type) : case_(c), model_(std::make_unique<Resnet>(ResnetConfig{.arch = c.arch, .stem = c.stem, .classes = 100})) {
    images_ = Tensor::empty({c.batch, c.px, c.px, 3}, type);
    labels_ = Tensor::empty({c.batch}, DType::i32);
    Rng rng(1, Purpose::test);
    for (int64_t i = 0; i < images_.elements(); ++i) {
      float v = rng.uniform(-2.f, 2.f);
      if (type == DType::f32)
        images_.data<float>()[i] = v;
      else
        images_.data<bf16>()[i] = bf16(v);
    }
    for (int64_t i = 0; i < c.batch; ++i) labels_.data<int32_t>()[i] = int32_t(rng.below(100));
    for (int i = 0; i < c.teachers; ++i)
      teachers_.push_back(std::make_unique<Resnet>(ResnetConfig{.arch = Arch::resnet50, .stem = c.stem, .classes = 100, .seed = uint64_t(i + 1)}));
  }

  void run() {
    const Var x(images_);
    if (case_.kind == StepCase::Kind::infer) {
      NoGrad no_grad;
      (*model_)(x, Mode::eval);
      return;
    }
    std::vector<Tensor> teacher_logits;
    for (auto& teacher : teachers_) {
      NoGrad no_grad;
      teacher_logits.push_back((*teacher)(x, Mode::eval).value());
    }
    Var logits = (*model_)(x, Mode::train);
    LossValue loss = teachers_.empty() ? cross_entropy(logits, labels_) : distill_loss(logits, labels_, teacher_logits, {});
    Tape::current().backward(loss.total);
    sgd(model_->params(), {}, 1e-4f);
  }

 private:
  StepCase case_;
  std::unique_ptr<Resnet> model_;
  std::vector<std::unique_ptr<Resnet>> teachers_;
  Tensor images_, labels_;
};

const StepCase& find_case(const std::string& name) {
  for (const StepCase& c : step_cases())
    if (c.name == name) return c;
  std::string known;
  for (const StepCase& c : step_cases()) known += " " + c.name;
  throw Error(fmt::format("unknown case '{}'; known:{}", name, known));
}

DType type_from_name(const std::string& name) {
  if (name == "fp32") return DType::f32;
  KD_INPUT(name == "bf16", "unknown precision '{}'; known: fp32, bf16", name);
  KD_INPUT(cpu_info().avx512_bf16, "precision bf16 needs a CPU with AVX512_BF16, '{}' has none; use fp32", cpu_info().name);
  return DType::bf16;
}

// Protocol: a line "CASE PRECISION SECONDS" in, a line of milliseconds per step out. The first request for a case builds and warms it.
void serve() {
  std::map<std::string, std::unique_ptr<Step>> ready;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream in(line);
    std::string name, precision;
    double seconds = 0;
    in >> name >> precision >> seconds;
    KD_INPUT(in && seconds > 0, "--serve: cannot read '{}'; expected: CASE PRECISION SECONDS", line);
    if (!ready.count(name + " " + precision)) {
      ready.clear();  // one case at a time: activations at 224 px are gigabytes
      release_cached_memory();
      auto fresh = std::make_unique<Step>(find_case(name), type_from_name(precision));
      ready[name + " " + precision] = std::move(fresh);
    }
    Step& now = *ready[name + " " + precision];
    for (double s : bench::sample([&] { now.run(); }, seconds, 3)) std::cout << fmt::format("{:.4f} ", 1e3 * s);
    std::cout << std::endl;
  }
}

int run_main(int argc, char** argv) {
  CLI::App app{"kd_bench_step: time whole steps of the engine"};
  std::vector<std::string> only, precisions{"fp32", "bf16"};
  double seconds = 5;
  bool server = false;
  app.add_option("--case", only, "cases to run (default: all)");
  app.add_option("--precision", precisions, "fp32, bf16 (default: both where the CPU can)");
  app.add_option("--seconds", seconds, "time spent on each row")->check(CLI::PositiveNumber);
  app.add_flag("--serve", server, "time on request from standard input");
  CLI11_PARSE(app, argc, argv);
  if (server) return serve(), 0;

  fmt::print("{} · {} threads\n{:<22} {:<5} {:>10} {:>21} {:>9} {:>6}\n", cpu_info().name, cpu_info().threads, "case", "", "median ms", "p10 - p90 ms", "img/s",
             "runs");
  for (const StepCase& c : step_cases()) {
    if (!only.empty() && std::find(only.begin(), only.end(), c.name) == only.end()) continue;
    for (const std::string& precision : precisions) {
      if (precision == "bf16" && !cpu_info().avx512_bf16 && only.empty()) {
        fmt::print("{:<22} {:<5} left out: this CPU has no AVX512_BF16\n", c.name, precision);
        continue;
      }
      Step step(c, type_from_name(precision));
      step.run();
      const bench::Spread t = bench::measure([&] { step.run(); }, seconds, 5);
      fmt::print("{:<22} {:<5} {:>10.1f} {:>10.1f} - {:>8.1f} {:>9.0f} {:>6}\n", c.name, precision, 1e3 * t.median, 1e3 * t.p10, 1e3 * t.p90,
                 double(c.batch) / t.median, t.runs);
      std::fflush(stdout);
    }
    release_cached_memory();
  }
  for (const std::string& name : only) find_case(name);
  return 0;
}

}  // namespace
}  // namespace kd

int main(int argc, char** argv) {
  try {
    kd::start_process(argv);
    return kd::run_main(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "kd_bench_step: {}\n", e.what());
    return 1;
  }
}
