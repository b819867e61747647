#include "bench/gpu_check.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <ctime>
#include <regex>

#include "kernels/conv/conv.h"

namespace kd::gpu_check {

Table::Table(const Path& csv, std::vector<Column> columns) : columns_(std::move(columns)), file_(csv) {
  std::vector<std::string> names;
  for (const Column& c : columns_) names.push_back(c.name);
  row(names);
}

void Table::row(const std::vector<std::string>& cells) {
  KD_CHECK(cells.size() == columns_.size(), "{} cells for {} columns", cells.size(), columns_.size());
  std::string line, fields;
  for (size_t i = 0; i < cells.size(); ++i) {
    const int width = columns_[i].width;
    line += width < 0 ? fmt::format("{:<{}}", cells[i], -width) : fmt::format("{:>{}}", cells[i], width);
    fields += (i ? "," : "") + cells[i];
  }
  fmt::print("{}\n", line);
  std::fflush(stdout);
  file_.write(fields + "\n");
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", std::gmtime(&now));
  return text;
}

bool can_run(const cases::Case& c, Device device) { return !c.can_run || c.can_run(device); }

cases::Cases choose(cases::Cases all, const Options& o) {
  std::regex pattern;
  try {
    pattern = std::regex(o.filter);
  } catch (const std::regex_error& e) {
    throw Error(fmt::format("--filter {}: not a regular expression: {}", o.filter, e.what()));
  }
  std::erase_if(all, [&](const cases::Case& c) { return !can_run(c, o.device) || !std::regex_search(c.name, pattern); });
  KD_INPUT(!all.empty(), "--filter {}: no case matches on {}", o.filter, to_string(o.device));
  return all;
}

namespace {

struct Part {
  const char *name, *what;
  int (*run)(const Options&);
  bool needs_gpu;
};

#if defined(KD_WITH_CUDA)
#define KD_GPU_PART(part) part
#else
#define KD_GPU_PART(part) nullptr  // --device cuda is refused before it would be called, the others because it needs a GPU
#endif
const Part kParts[] = {
    {"probe", "what the card and its libraries are", KD_GPU_PART(probe), true},
    {"ceilings", "copy bandwidth, matrix products, cost of a launch", KD_GPU_PART(ceilings), true},
    {"correct", "every kernel against its oracle", correct, false},
    {"verify", "admit the Hopper kernels whose cases pass here", verify, false},
    {"steps-equal", "graph against eager, run against run, losses against the CPU", steps_equal, false},
    {"kernels", "time our kernels at the sizes of a GPU", kernels, false},
    {"tune", "time cuDNN's plans and write a plan book", KD_GPU_PART(tune), true},
};

int run_main(int argc, char** argv) {
  CLI::App app{"gpu_check: checks and measures this engine on a GPU, one part at a time; tools/gpu_check.sh runs them all"};
  app.require_subcommand(1);
  Options o;
  std::string device_name = "cuda", out = o.out.string();
  for (const Part& part : kParts) {
    CLI::App* sub = app.add_subcommand(part.name, part.what);
    sub->add_option("--out", out, "folder for the part's files")->capture_default_str();
    if (std::string(part.name) == "tune")
      sub->add_option("--seconds", o.seconds, "begin no convolution after this time")->check(CLI::PositiveNumber)->capture_default_str();
    if (std::string(part.name) == "verify") sub->add_option("--commit", o.commit, "of this program, for the lines")->capture_default_str();
    if (part.needs_gpu) continue;
    sub->add_option("--device", device_name, "cuda, emulated or cpu")->capture_default_str();
    sub->add_option("--filter", o.filter, "only the cases whose name contains a match of this regular expression");
    sub->add_flag("--tiny", o.tiny, "little work: for sanitizers and for devices that are no GPU");
  }
  CLI11_PARSE(app, argc, argv);
  o.device = device_from_name(device_name);
  set_conv_math(ConvMath::exact);  // the CPU is the oracle here
  o.out = out;
  make_directories(o.out);
  for (const Part& part : kParts)
    if (app.got_subcommand(part.name)) return part.run(o) > 0;
  KD_FAIL("no part");
}

}  // namespace
}  // namespace kd::gpu_check

int main(int argc, char** argv) {
  try {
    kd::start_process(argv);
    return kd::gpu_check::run_main(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "gpu_check: {}\n", e.what());
    return 1;
  }
}
