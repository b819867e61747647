// kd_bench_step: whole training, inference and distillation steps, timed. One row a case: median with p10-p90, images/s, GFLOP/s.
// With KD_VERBOSE=1 a table of the ops that its time went to follows each row (engine/base/profile.h).
// `--against torch` hands over to tools/bench_against_torch.py, which starts this program again with `--serve`: it then keeps a case in memory and times
// it on request, so that the two can alternate in one run.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <map>
#include <optional>
#include <sstream>

#include "bench/timing.h"
#include "bench/train_step.h"
#include "engine/base/file.h"
#include "engine/base/profile.h"

namespace kd {
namespace {

struct StepCase {
  std::string name;
  Arch arch;
  Stem stem;
  int64_t px, batch;
  int teachers;  // resnet50 teachers in evaluation mode
  enum class Kind { train, infer } kind;
  enum class Default { cpu, gpu, never } by_default = Default::cpu;  // where it runs without being named
};

const std::vector<StepCase>& step_cases() {
  using Kind = StepCase::Kind;
  using Default = StepCase::Default;
  static const std::vector<StepCase> cases{
      {"r18_train_32_b128", Arch::resnet18, Stem::cifar, 32, 128, 0, Kind::train},
      {"r18_train_224_b16", Arch::resnet18, Stem::imagenet, 224, 16, 0, Kind::train},
      {"r50_infer_224_b16", Arch::resnet50, Stem::imagenet, 224, 16, 0, Kind::infer},
      {"kd_2xr50_r18_32_b64", Arch::resnet18, Stem::cifar, 32, 64, 2, Kind::train},
      // Sizes for a GPU; a CPU takes minutes for them.
      {"r18_train_224_b256", Arch::resnet18, Stem::imagenet, 224, 256, 0, Kind::train, Default::gpu},
      {"r50_infer_224_b256", Arch::resnet50, Stem::imagenet, 224, 256, 0, Kind::infer, Default::gpu},
      {"r50_train_224_b256", Arch::resnet50, Stem::imagenet, 224, 256, 0, Kind::train, Default::gpu},
      {"r18_train_32_b512", Arch::resnet18, Stem::cifar, 32, 512, 0, Kind::train, Default::gpu},
      {"kd_1xr50_r18_224_b128", Arch::resnet18, Stem::imagenet, 224, 128, 1, Kind::train, Default::gpu},
      {"kd_2xr50_r18_224_b128", Arch::resnet18, Stem::imagenet, 224, 128, 2, Kind::train, Default::gpu},
      {"kd_3xr50_r18_224_b128", Arch::resnet18, Stem::imagenet, 224, 128, 3, Kind::train, Default::gpu},
      {"kd_2xr50_r18_32_b128", Arch::resnet18, Stem::cifar, 32, 128, 2, Kind::train, Default::gpu},
      // A look at a step, in a second or two.
      {"r18_train_32_b8", Arch::resnet18, Stem::cifar, 32, 8, 0, Kind::train, Default::never},
  };
  return cases;
}

// One case with everything it needs, ready to step. Data are random: the arithmetic does not depend on them.
class Step {
 public:
  Step(const StepCase& c, DType type, Device device, Launch launch)
      : case_(c),
        device_(device),
        model_(std::make_unique<Resnet>(ResnetConfig{.arch = c.arch, .stem = c.stem, .classes = 100, .device = device, .type = type})),
        inference_(device, launch) {
    Rng rng(1, Purpose::test);
    Tensor images = Tensor::zeros({c.batch, c.px, c.px, model_->input_channels()}, type), labels = Tensor::empty({c.batch}, DType::i32);
    for (int64_t i = 0; i < images.elements(); ++i) {
      if (i % images.dim(3) >= 3) continue;
      float v = rng.uniform(-2.f, 2.f);
      if (type == DType::f32)
        images.data<float>()[i] = v;
      else
        images.data<bf16>()[i] = bf16(v);
    }
    for (int64_t i = 0; i < c.batch; ++i) labels.data<int32_t>()[i] = int32_t(rng.below(100));
    images_ = images.to(device), labels_ = labels.to(device);
    std::vector<Frozen> teachers;
    for (int i = 0; i < c.teachers; ++i) {
      teachers_.push_back(std::make_unique<Resnet>(
          ResnetConfig{.arch = Arch::resnet50, .stem = c.stem, .classes = 100, .seed = uint64_t(i + 1), .device = device, .type = type}));
      teachers.push_back(teachers_.back().get());
    }
    if (c.kind != StepCase::Kind::train) return;
    Student student{.net = model_.get(), .teachers = {}};
    for (size_t i = 0; i < teachers.size(); ++i) student.teachers.push_back(i);
    training_.emplace(std::vector{student}, teachers, c.px, 0, TrainStepConfig{.launch = launch});
  }

  // Returns when the step is over.
  void run() {
    if (training_) {
      training_->inputs();
      training_->run(case_.batch, 1e-4f, [this](const std::byte*, const Tensor& images, const Tensor& labels) {
        images.copy_from(images_);
        labels.copy_from(labels_);
      });
    } else {
      inference_.run([this] {
        NoGrad no_grad;
        (*model_)(Var(images_), Mode::eval);
      });
    }
    synchronize(device_);
  }

 private:
  StepCase case_;
  Device device_;
  std::unique_ptr<Resnet> model_;
  std::vector<std::unique_ptr<Resnet>> teachers_;
  Tensor images_, labels_;
  std::optional<TrainStep> training_;
  StepGraph inference_;
};

const StepCase& find_case(const std::string& name) {
  for (const StepCase& c : step_cases())
    if (c.name == name) return c;
  std::string known;
  for (const StepCase& c : step_cases()) known += " " + c.name;
  throw Error(fmt::format("unknown case '{}'; known:{}", name, known));
}

bool has_bf16(Device device) { return device == Device::cuda ? gpu_info().major >= 8 : cpu_isa() >= CpuIsa::avx2; }

DType type_from_name(const std::string& name, Device device) {
  if (name == "fp32") return DType::f32;
  KD_INPUT(name == "bf16", "unknown precision '{}'; known: fp32, bf16", name);
  KD_INPUT(has_bf16(device), "precision bf16 needs a CPU with AVX2 or a GPU of compute capability 8.0; use fp32");
  return DType::bf16;
}

// Protocol: a line "CASE PRECISION SECONDS" in, a line of milliseconds per step out, or "error" and what is wrong with the request. The first request for a
// case builds and warms it.
void serve(Device device, Launch launch) {
  std::map<std::string, std::unique_ptr<Step>> ready;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream in(line);
    std::string name, precision;
    double seconds = 0;
    in >> name >> precision >> seconds;
    KD_INPUT(in && seconds > 0, "--serve: cannot read '{}'; expected: CASE PRECISION SECONDS", line);
    if (!ready.count(name + " " + precision)) {
      ready.clear();  // one case at a time: activations at 224 px are gigabytes
      release_cached_memory(device);
      try {
        ready.emplace(name + " " + precision, std::make_unique<Step>(find_case(name), type_from_name(precision, device), device, launch));
      } catch (const Error& e) {
        std::cout << "error " << e.what() << std::endl;
        continue;
      }
    }
    Step& now = *ready.at(name + " " + precision);
    for (double s : bench::sample([&] { now.run(); }, seconds, 3)) std::cout << fmt::format("{:.4f} ", 1e3 * s);
    std::cout << std::endl;
  }
}

// Becomes `python tools/bench_against_torch.py this-program ...`. Returns only by an error.
void compare_with_torch(const std::string& python, const std::vector<std::string>& options) {
  const auto script = std::filesystem::path(KD_TOOLS_DIR) / "bench_against_torch.py";
  std::error_code code;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", code);
  KD_INPUT(!code, "--against torch: /proc/self/exe: {}; call tools/bench_against_torch.py with the path of kd_bench_step", code.message());
  KD_INPUT(std::filesystem::exists(script), "--against torch: {} is not there (this program was built elsewhere?); call that script with the path of {}",
           script.string(), self.string());
  std::vector<std::string> words{python, "-u", script.string(), self.string()};
  words.insert(words.end(), options.begin(), options.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::fflush(stdout);
  ::execvp(argv[0], argv.data());
  throw Error(fmt::format("--python {}: {}; name a Python that has torch and torchvision", python, std::strerror(errno)));
}

int run_main(int argc, char** argv) {
  CLI::App app{"kd_bench_step: time whole steps of the engine"};
  std::vector<std::string> only, precisions{"fp32", "bf16"}, modes;
  double seconds = 5, limit_per_row = 60;
  int rounds = 5;
  bool server = false, no_graph = false, exact = false, no_tune = false;
  std::string device_name = "auto", opponent, python = "python3", prefix;
  app.add_option("--case", only, "cases to run (default: all)");
  auto* of_precision = app.add_option("--precision", precisions, "fp32, bf16 (default: both where the device can)");
  auto* time = app.add_option("--seconds", seconds, "time spent on each row; with --against on each in every round (default there: 2)");
  app.add_option("--device", device_name, "auto, cpu or cuda");
  app.add_flag("--no-graph", no_graph, "CUDA: launch kernel by kernel");
  app.add_flag("--no-tune", no_tune, "CPU: convolutions by a fixed order of preference, instead of what is fastest on this machine");
  app.add_flag("--exact", exact, "CPU: convolutions that sum the products of their definition, without Winograd");
  app.add_flag("--serve", server, "time on request from standard input");
  app.add_option("--against", opponent, "torch: the same steps in PyTorch, alternately, in one run")->check(CLI::IsMember({"torch"}));
  auto* of_python = app.add_option("--python", python, "--against: a Python that has torch and torchvision (default: python3)");
  auto* of_mode = app.add_option("--mode", modes, "--against: how PyTorch runs: eager, tuned, compile, freezing and more (default: these on the CPU)");
  auto* of_rounds = app.add_option("--rounds", rounds, "--against: alternating rounds (default: 5)");
  auto* of_limit = app.add_option("--limit-per-row", limit_per_row, "--against: seconds after which a mode is given up for a case (default: 60)");
  auto* of_prefix = app.add_option("-o,--out", prefix, "--against: also write PREFIX.txt, PREFIX.csv and PREFIX.md");
  app.failure_message([](const CLI::App*, const CLI::Error& e) { return fmt::format("kd_bench_step: {}; see kd_bench_step --help\n", as_one_line(e.what())); });
  CLI11_PARSE(app, argc, argv);
  for (const auto& [flag, value] : {std::pair{"--seconds", seconds}, {"--rounds", double(rounds)}, {"--limit-per-row", limit_per_row}})
    KD_INPUT(value > 0 && value <= 86400, "{} is {}, expected a number above 0, up to 86400", flag, value);
  for (const CLI::Option* option : {of_python, of_mode, of_rounds, of_limit, of_prefix})
    KD_INPUT(!opponent.empty() || option->count() == 0, "{} goes with --against torch", option->get_name());
  const Device device = device_from_name(device_name);
  for (const std::string& name : only) find_case(name);  // before anything is timed
  for (const std::string& precision : precisions)
    if (precision != "bf16") type_from_name(precision, device);
  const Launch launch = no_graph ? Launch::eager : Launch::graph;
  if (!opponent.empty()) {
    KD_INPUT(!server && !no_graph && !exact, "--against torch times every form of ours by itself; leave out --serve, --no-graph and --exact");
    std::vector<std::string> options{"--device",        device == Device::cuda ? "cuda" : "cpu", "--rounds", std::to_string(rounds),
                                     "--limit-per-row", fmt::format("{}", limit_per_row)};
    const auto add = [&](const char* flag, const std::vector<std::string>& values) {
      if (values.empty()) return;
      options.push_back(flag);
      options.insert(options.end(), values.begin(), values.end());
    };
    add("--case", only);
    if (of_precision->count() > 0) add("--precision", precisions);
    add("--mode", modes);
    if (time->count() > 0) add("--seconds", {fmt::format("{}", seconds)});
    if (!prefix.empty()) add("--out", {prefix});
    compare_with_torch(python, options);
  }
  set_conv_math(exact ? ConvMath::exact : ConvMath::fast);
  set_conv_tuning(no_tune ? ConvTuning::fixed : ConvTuning::timed);
  if (server) return serve(device, launch), 0;

  if (device == Device::cuda)
    fmt::print("{} · driver for CUDA {}{}\n", gpu_info().name, gpu_info().driver, no_graph ? " · no graph" : "");
  else
    fmt::print("{} · {} threads\n", cpu_info().name, cpu_info().threads);
  fmt::print("{:<22} {:<5} {:>10} {:>21} {:>9} {:>6}\n", "case", "", "median ms", "p10 - p90 ms", "img/s", "runs");
  for (const StepCase& c : step_cases()) {
    if (!only.empty() && std::find(only.begin(), only.end(), c.name) == only.end()) continue;
    if (only.empty() && c.by_default != (device == Device::cuda ? StepCase::Default::gpu : StepCase::Default::cpu)) continue;
    for (const std::string& precision : precisions) {
      if (precision == "bf16" && !has_bf16(device) && only.empty()) {
        fmt::print("{:<22} {:<5} left out: no bf16 arithmetic here\n", c.name, precision);
        continue;
      }
      Step step(c, type_from_name(precision, device), device, launch);
      for (int warm_up = 0; warm_up < 3; ++warm_up) step.run();  // plans, then the recording of the graph, then its first replay
      const bench::Spread t = bench::measure(
          [&] {
            profile::Window window;
            step.run();
            window.steps = 1;
          },
          seconds, 5);
      fmt::print("{:<22} {:<5} {:>10.1f} {:>10.1f} - {:>8.1f} {:>9.0f} {:>6}\n", c.name, precision, 1e3 * t.median, 1e3 * t.p10, 1e3 * t.p90,
                 double(c.batch) / t.median, t.runs);
      fmt::print("{}", profile::take_table());
      std::fflush(stdout);
    }
    release_cached_memory(device);
  }
  return 0;
}

}  // namespace
}  // namespace kd

int main(int argc, char** argv) {
  try {
    kd::start_process(argv);
    const int status = kd::run_main(argc, argv);
    kd::flush_output();
    return status;
  } catch (const std::exception& e) {
    fmt::print(stderr, "kd_bench_step: {}\n", kd::as_one_line(e.what()));
    return 1;
  }
}
