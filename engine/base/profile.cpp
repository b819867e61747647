#include "engine/base/profile.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <utility>
#include <vector>

#include "engine/base/check.h"

namespace kd::profile {
namespace {

bool wanted() {
  const char* value = std::getenv("KD_VERBOSE");
  return value && *value && std::string_view(value) != "0";
}

struct Sum {
  int64_t calls = 0;
  double seconds = 0, flops = 0, bytes = 0;
  void add(const Sum& other) { calls += other.calls, seconds += other.seconds, flops += other.flops, bytes += other.bytes; }
};

struct Counted {
  bool open = false, saw_cuda = false;
  Call* current = nullptr;
  int64_t steps = 0;
  double wall = 0;
  std::map<std::string, std::map<std::string, Sum>> ops;  // op -> what -> sum
};
thread_local Counted counted;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

template <class Key>
std::vector<std::pair<Key, Sum>> slowest_first(const std::map<Key, Sum>& sums) {
  std::vector<std::pair<Key, Sum>> rows(sums.begin(), sums.end());
  std::stable_sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  return rows;
}

}  // namespace

const bool enabled = wanted();

Window::Window() {
  if (!enabled) return;
  KD_CHECK(!counted.open, "a profile window inside another");
  counted.open = true;
  start_ = Clock::now();
}

Window::~Window() {
  if (!enabled) return;
  counted.wall += seconds_since(start_);
  counted.steps += steps;
  counted.open = false;
}

void Call::start(const char* op, Device device, const void* args, Describe describe) {
  if (!counted.open || counted.current) return;
  if (device == Device::cuda) {
    counted.saw_cuda = true;
    return;
  }
  op_ = op, args_ = args, describe_ = describe;
  counted.current = this;
  start_ = Clock::now();
}

void Call::stop() {
  const double seconds = seconds_since(start_);
  counted.current = nullptr;
  Work work = describe_ ? describe_(args_) : Work{};
  if (!algorithm_.empty()) work.what += " " + algorithm_;
  counted.ops[op_][work.what].add({1, seconds, work.flops, work.bytes});
}

void algorithm(std::string_view name) {
  if (enabled && counted.current && counted.current->algorithm_.empty()) counted.current->algorithm_ = name;
}

std::string take_table() {
  if (!enabled) return {};
  const Counted all = std::exchange(counted, {});
  if (all.saw_cuda) return "KD_VERBOSE: no table of ops, as launches on CUDA return before their work is done; the CPU's are counted\n";
  if (all.steps == 0 || all.ops.empty()) return "KD_VERBOSE: no step was counted\n";

  const double steps = double(all.steps);
  std::string table = fmt::format("{:<66}{:>9}{:>11}{:>9}{:>10}{:>8}\n", "op", "calls", "ms", "share", "GFLOP/s", "GB/s");
  const auto add_row = [&](const std::string& name, const Sum& sum) {
    const auto rate = [&](double work) { return work > 0 && sum.seconds > 0 ? fmt::format("{:.1f}", work / sum.seconds / 1e9) : std::string("-"); };
    table += fmt::format("{:<66}{:>9.4g}{:>11.3f}{:>7.2f} %{:>10}{:>8}\n", name, double(sum.calls) / steps, 1e3 * sum.seconds / steps,
                         100 * sum.seconds / all.wall, rate(sum.flops), rate(sum.bytes));
  };
  std::map<std::string, Sum> totals;
  double explained = 0;
  for (const auto& [op, rows] : all.ops)
    for (const auto& [what, sum] : rows) {
      totals[op].add(sum);
      explained += sum.seconds;
    }
  for (const auto& [op, total] : slowest_first(totals)) {
    add_row(op, total);
    const auto rows = slowest_first(all.ops.at(op));
    if (rows.size() == 1 && rows[0].first.empty()) continue;
    for (const auto& [what, sum] : rows) add_row("  " + what, sum);
  }
  const double rest = std::max(0.0, all.wall - explained);
  table += fmt::format("{:<66}{:>9}{:>11.3f}{:>7.2f} %\n", "(the rest: no kernel ran)", "", 1e3 * rest / steps, 100 * rest / all.wall);
  return table + fmt::format("explained: {:.2f} % of {:.3f} ms a step, {} step{} counted\n", 100 * explained / all.wall, 1e3 * all.wall / steps, all.steps,
                             all.steps == 1 ? "" : "s");
}

}  // namespace kd::profile
