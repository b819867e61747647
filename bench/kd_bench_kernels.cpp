// kd_bench_kernels: times every case that the kernel families offer for timing, through Google Benchmark.
//   kd_bench_kernels --filter 'conv:f32.*st2' --seconds 1 --benchmark_out=conv.json
//   kd_bench_kernels --algorithms --filter 'direct.amx:wgrad.*r3s3st1'     who does a convolution how fast: what the choice at run time is made from
// First it measures what the machine can do at best (ceilings.h). A row's rates and its share of the ceiling use the cold time: the operands come from
// memory, as they do inside a training step whose activations exceed the caches. Hot is the same work again on what the caches kept. FLOPs are those of
// the definition, so an algorithm that saves arithmetic (Winograd) may pass 100 %; where there are none the ceiling is the triad's bandwidth.
#include <benchmark/benchmark.h>

#include <regex>

#include "bench/ceilings.h"
#include "bench/timing.h"
#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "kernels/common/cases.h"
#include "kernels/conv/conv_algorithm.h"
#include "kernels/conv/zoo.h"

namespace kd::bench {
namespace {

constexpr const char* kUsage =
    "usage: kd_bench_kernels [--algorithms] [--filter REGEX] [--list] [--seconds S] [Google Benchmark's flags]\n"
    "  --algorithms     instead of the kernels: every algorithm of this CPU for each convolution of ResNet-18 and 50, by itself\n"
    "  --filter REGEX   only the cases whose name contains a match\n"
    "  --list           print the names of the cases and stop\n"
    "  --seconds S      time each case for S seconds hot and S seconds cold (0.2)\n"
    "  --benchmark_out=FILE --benchmark_out_format=json|csv   also write the rows to a file\n"
    "  --benchmark_format=json|csv                            print them so\n";

struct Options {
  std::string filter;
  bool list = false, algorithms = false;
  double seconds = 0.2;
};

// Takes our own flags out of argv and leaves Google Benchmark's.
Options parse(int& argc, char** argv) {
  Options options;
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    std::string flag = argv[i], value;
    if (auto equals = flag.find('='); equals != flag.npos) value = flag.substr(equals + 1), flag.resize(equals);
    auto take_value = [&] {
      if (value.empty() && i + 1 < argc) value = argv[++i];
      KD_INPUT(!value.empty(), "{} needs a value\n{}", flag, kUsage);
      return value;
    };
    if (flag == "--filter")
      options.filter = take_value();
    else if (flag == "--list")
      options.list = true;
    else if (flag == "--algorithms")
      options.algorithms = true;
    else if (flag == "--seconds") {
      char* end = nullptr;
      options.seconds = std::strtod(take_value().c_str(), &end);
      KD_INPUT(*end == 0 && options.seconds > 0 && options.seconds <= 3600, "--seconds {}: expected a number above 0, up to 3600", value);
    } else
      argv[kept++] = argv[i];
  }
  argc = kept;
  return options;
}

// One algorithm's work on one problem, operands of ordinary numbers. The filter is packed beforehand: once per update, or once for all where nothing learns.
cases::Work work_of(const cpu::ConvAlgorithm& algorithm, const cpu::ConvProblem& problem) {
  const ConvShape& s = problem.shape;
  const auto filled = [](int64_t n, DType type) {
    auto block = Storage::allocate(n * size_of(type), Device::cpu);
    with_float_type(type, [&](auto zero) {
      for (int64_t i = 0; i < n; ++i) reinterpret_cast<decltype(zero)*>(block->data())[i] = decltype(zero)(float(i * 2654435761 >> 20 & 255) / 128.f - 1.f);
    });
    return block;
  };
  const int64_t filter = s.k * s.r * s.s * s.c;
  auto x = filled(s.n * s.h * s.w * s.c, problem.type), y = filled(s.n * s.p() * s.q() * s.k, problem.type), w = filled(filter, DType::f32), packed = w;
  if (const int64_t bytes = problem.op == cpu::ConvOp::wgrad ? 0 : algorithm.packed_bytes(problem, DType::f32)) {
    packed = Storage::allocate(bytes, Device::cpu);
    algorithm.pack(problem, w->data(), DType::f32, packed->data());
  }
  cases::Work work{.run = {}, .bytes = double(x->bytes() + y->bytes() + w->bytes()), .flops = s.flops()};
  switch (problem.op) {
    case cpu::ConvOp::fprop:
      work.run = [=] { algorithm.fprop({.shape = s, .type = problem.type, .x = x->data(), .w = w->data(), .y = y->data()}, packed->data()); };
      break;
    case cpu::ConvOp::dgrad:
      work.run = [=] { algorithm.dgrad({.shape = s, .type = problem.type, .dy = y->data(), .w = w->data(), .dx = x->data()}, packed->data()); };
      break;
    case cpu::ConvOp::wgrad:
      work.run = [=] { algorithm.wgrad({.shape = s, .type = problem.type, .x = x->data(), .dy = y->data(), .dw = w->data(), .accumulate = Accumulate::no}); };
  }
  return work;
}

// "direct.amx:fprop:bf16:n16h56..."; the batches of kd_bench_step on the CPU.
cases::Cases algorithm_cases() {
  std::vector<cpu::ConvAlgorithm> algorithms;
  for (const auto& table : {cpu::winograd_algorithms(), cpu::direct_algorithms(), cpu::onednn_algorithms()})
    for (const cpu::ConvAlgorithm& a : table)
      if (a.isa <= cpu_isa()) algorithms.push_back(a);
  std::vector<ConvShape> shapes;
  for (auto [stem, batch, px] : {std::tuple{ZooStem::cifar, 128, 32}, {ZooStem::imagenet, 16, 224}})
    for (ZooNet net : {ZooNet::resnet18, ZooNet::resnet50})
      for (const ZooConv& conv : zoo_convs(net, stem, batch, px))
        if (std::find(shapes.begin(), shapes.end(), conv.shape) == shapes.end()) shapes.push_back(conv.shape);
  cases::Cases all;
  for (cpu::ConvOp op : {cpu::ConvOp::fprop, cpu::ConvOp::dgrad, cpu::ConvOp::wgrad})
    for (DType type : {DType::f32, DType::bf16})
      for (const ConvShape& shape : shapes)
        for (const cpu::ConvAlgorithm& a : algorithms)
          if (const cpu::ConvProblem problem{op, shape, type}; a.offers(problem))
            all.push_back(
                {.name = fmt::format("{}:{}:{}:{}", a.name, cpu::name_of(op), to_string(type), to_string(shape)), .check = {}, .grad = {}, .perf = [=](Stream) {
                   return work_of(a, problem);
                 }});
  return all;
}

cases::Cases timed_cases(const std::string& filter, bool algorithms) {
  std::regex pattern;
  try {
    pattern = std::regex(filter);
  } catch (const std::regex_error& e) {
    throw Error(fmt::format("--filter {}: not a regular expression: {}", filter, e.what()));
  }
  cases::Cases chosen;
  for (cases::Case& c : algorithms ? algorithm_cases() : cases::all_cases())
    if (c.perf && cases::runs_on(c, Device::cpu) && std::regex_search(c.name, pattern)) chosen.push_back(std::move(c));
  KD_INPUT(!chosen.empty(), "no timed case matches --filter {}; --list shows their names", filter);
  return chosen;
}

// Seconds that the busier of memory and arithmetic would need at its ceiling; 0 where the contract names no work. Without FLOPs the ceiling is the triad.
double best_seconds(const cases::Case& problem, const cases::Work& work, const Ceilings& top) {
  const double gflops = problem.name.find(":bf16") == std::string::npos ? top.f32.best : top.bf16_gflops();
  return std::max(work.bytes / top.triad.best, work.flops / gflops) * 1e-9;
}

void time_case(benchmark::State& state, const cases::Case& problem, const Ceilings& top, double seconds, int& failures) {
  try {
    cases::Work work = problem.perf(Stream{});
    Spread hot = measure(work.run, seconds, 10), cold = measure(work.run, seconds, 10, scrub_caches);
    for (auto _ : state) state.SetIterationTime(cold.median);
    state.SetLabel(problem.name);  // Google Benchmark appends to the name it prints
    state.counters = {{"cold_us", cold.median * 1e6},
                      {"cold_p10_us", cold.p10 * 1e6},
                      {"cold_p90_us", cold.p90 * 1e6},
                      {"runs", double(cold.runs)},
                      {"hot_us", hot.median * 1e6},
                      {"hot_p10_us", hot.p10 * 1e6},
                      {"hot_p90_us", hot.p90 * 1e6},
                      {"GB_per_s", work.bytes / cold.median / 1e9},
                      {"GFLOP_per_s", work.flops / cold.median / 1e9}};
    if (double best = best_seconds(problem, work, top); best > 0) state.counters["percent_of_ceiling"] = 100 * best / cold.median;
  } catch (const std::exception& e) {
    ++failures;
    fmt::print(stderr, "{}: {}\n", problem.name, e.what());
    state.SkipWithError(e.what());
  }
  release_cached_memory();
}

// One line a case; '-' where the contract names no bytes or no FLOPs.
class Table : public benchmark::BenchmarkReporter {
 public:
  explicit Table(size_t longest_name) : width_(std::max<size_t>(44, longest_name + 1)) {}
  bool ReportContext(const Context&) override {
    fmt::print("{:<{}}{:>12}{:>22}{:>12}{:>9}{:>10}{:>11}\n", "case", width_, "cold us", "p10 - p90", "hot us", "GB/s", "GFLOP/s", "% ceiling");
    return true;
  }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration || !run.counters.count("cold_us")) continue;
      auto number = [&](const char* name) {
        auto at = run.counters.find(name);
        return at == run.counters.end() || at->second.value == 0 ? std::string("-") : fmt::format("{:.1f}", at->second.value);
      };
      fmt::print("{:<{}}{:>12}{:>22}{:>12}{:>9}{:>10}{:>11}\n", run.run_name.function_name, width_, number("cold_us"),
                 number("cold_p10_us") + " - " + number("cold_p90_us"), number("hot_us"), number("GB_per_s"), number("GFLOP_per_s"),
                 number("percent_of_ceiling"));
      std::fflush(stdout);
    }
  }

 private:
  size_t width_;
};

int run(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const Options options = parse(argc, argv);
  bool own_table = true;
  for (const std::string& a : arguments) {
    if (a == "--help" || a == "-h") return fmt::print("{}", kUsage), 0;
    if (a.rfind("--benchmark_format", 0) == 0) own_table = false;
  }
  const cases::Cases chosen = timed_cases(options.filter, options.algorithms);
  if (options.list) {
    for (const cases::Case& c : chosen) fmt::print("{}\n", c.name);
    return 0;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return fmt::print(stderr, "{}", kUsage), 1;

  const Ceilings top = measure_ceilings();
  const auto rate = [](const Rate& r, const std::string& what) { return fmt::format("{:.1f} (median {:.1f}, p90 {:.1f}) {}", r.best, r.median, r.slow, what); };
  const CpuInfo& cpu = cpu_info();
  std::string command = "kd_bench_kernels";
  for (const std::string& a : arguments) command += " '" + a + "'";
  const std::vector<std::pair<std::string, std::string>> context{
      {"machine", fmt::format("{}, {} threads", cpu.name, cpu.threads)},
      {"f32 peak", rate(top.f32, "GFLOP/s, multiply-adds from registers")},
      {"matrix peak",
       top.matrix.best > 0 ? rate(top.matrix, "GFLOP/s, bf16 by " + top.matrix_name) : "none: no AMX or vdpbf16ps here; bf16 is held against the f32 peak"},
      {"gemm", rate(top.gemm, "GFLOP/s, oneDNN's sgemm of 1024x1024x1024")},
      {"triad", rate(top.triad, "GB/s, arrays beyond the caches")},
      {"core to core", top.round_trip.best > 0 ? rate(top.round_trip, "ns for a cache line to go there and back") : "none: one thread"},
      {"again", command}};
  for (const auto& [key, value] : context) {
    benchmark::AddCustomContext(key, value);
    if (own_table) fmt::print("{:<18}{}\n", key, value);
  }
  int failures = 0;
  for (const cases::Case& c : chosen)
    benchmark::RegisterBenchmark(c.name.c_str(), [&](benchmark::State& state) { time_case(state, c, top, options.seconds, failures); })
        ->Iterations(1)
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
  size_t longest = 0;
  for (const cases::Case& c : chosen) longest = std::max(longest, c.name.size());
  Table table(longest);
  size_t ran = own_table ? benchmark::RunSpecifiedBenchmarks(&table) : benchmark::RunSpecifiedBenchmarks();
  return ran == 0 || failures > 0;
}

}  // namespace
}  // namespace kd::bench

int main(int argc, char** argv) {
  try {
    kd::start_process(argv);
    const int status = kd::bench::run(argc, argv);
    kd::flush_output();
    return status;
  } catch (const std::exception& e) {
    fmt::print(stderr, "kd_bench_kernels: {}\n", kd::as_one_line(e.what()));
    return 1;
  }
}
