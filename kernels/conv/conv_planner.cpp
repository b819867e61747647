#include "kernels/conv/conv_planner.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <set>

namespace kd::cuda {
namespace {

bool verbose() {
  const char* value = std::getenv("KD_VERBOSE");
  return value && std::string_view(value) != "0";
}

// A measured plan for the same sums is a better guess than the heuristics when only the adding to what is there differs.
ConvKey without_accumulation(ConvKey key) {
  if (key.op == 'A') key.op = 'D';
  if (key.op == 'V') key.op = 'W';
  return key;
}

std::string describe(const ConvKey& key) {
  const auto spec = graph_spec(key);
  return fmt::format("conv {} (op {})", cudnn::to_string(spec.op), to_string(key));
}

}  // namespace

std::vector<NamedBook> default_books() {
  std::vector<NamedBook> books;
  if (const char* path = std::getenv("KD_PLAN_BOOK"); path && *path) {
    std::vector<std::string> problems;
    books.push_back({path, PlanBook::parse(read_text(path), path, problems)});
    for (const std::string& problem : problems) std::fprintf(stderr, "%s\n", problem.c_str());
  }
  books.push_back({"plan book", PlanBook::embedded()});
  return books;
}

ConvPlanner::ConvPlanner(cudnn::DeviceDescription device, std::vector<NamedBook> books, int cudnn_major)
    : device_(std::move(device)), books_(std::move(books)), cudnn_major_(cudnn_major) {}

const cudnn::Plan& ConvPlanner::plan(const ConvKey& key) {
  std::lock_guard lock(mutex_);
  if (auto known = plans_.find(key); known != plans_.end()) {
    ++stats_.hits;
    return known->second->plan;
  }
  ++stats_.misses;
  std::unique_ptr<Made> made;
  try {
    made = std::make_unique<Made>(make(key));
  } catch (const Error& e) {
    throw Error(fmt::format("{} on {}, cuDNN {}: {}", describe(key), device_.name(), cudnnGetVersion(), e.what()));
  }
  if (verbose())
    std::fprintf(stderr, "conv plan: %s: %s, workspace %lld, %s\n", to_string(key).c_str(), cudnn::to_string(made->plan.choice()).c_str(),
                 static_cast<long long>(made->plan.workspace_bytes()), made->source.c_str());
  return (plans_[key] = std::move(made))->plan;
}

ConvPlanner::Made ConvPlanner::make(const ConvKey& key) {
  const cudnn::ConvGraph graph(graph_spec(key), device_);
  std::string note;
  std::vector<ConvKey> wanted{key};
  if (const ConvKey stand_in = without_accumulation(key); !(stand_in == key)) wanted.push_back(stand_in);
  for (const ConvKey& book_key : wanted)
    for (const NamedBook& book : books_)
      if (const PlanEntry* entry = book.book.find(device_.device_class(), cudnn_major_, book_key)) {
        std::string why_not;
        if (auto plan = graph.build(entry->choice, kConvWorkspaceBytes, &why_not)) {
          ++stats_.from_book;
          return {std::move(*plan), book_key == key ? book.name : fmt::format("{} ({})", book.name, book_key.op)};
        }
        ++stats_.refused;
        note += fmt::format("; {}'s {} refused: {}", book.name, cudnn::to_string(entry->choice), why_not);
      }

  std::set<std::string> reasons;
  for (auto heuristic : {cudnn::Heuristic::a, cudnn::Heuristic::fallback})
    for (const cudnn::EngineChoice& choice : graph.proposals(heuristic)) {
      std::string why_not;
      if (auto plan = graph.build(choice, kConvWorkspaceBytes, &why_not)) return {std::move(*plan), "heuristic" + note};
      reasons.insert(fmt::format("engine {}: {}", choice.engine, why_not));
    }
  throw Error(reasons.empty() ? "no engine is proposed for this" : fmt::format("no acceptable engine:\n  {}", fmt::join(reasons, "\n  ")));
}

std::optional<cudnn::Plan> ConvPlanner::booked(const ConvKey& key) const {
  const cudnn::ConvGraph graph(graph_spec(key), device_);
  for (const NamedBook& book : books_)
    if (const PlanEntry* entry = book.book.find(device_.device_class(), cudnn_major_, key))
      if (auto plan = graph.build(entry->choice, kConvWorkspaceBytes)) return plan;
  return std::nullopt;
}

std::vector<cudnn::Plan> ConvPlanner::candidates(const ConvKey& key, size_t limit) const {
  const cudnn::ConvGraph graph(graph_spec(key), device_);
  std::vector<cudnn::Plan> all;
  std::vector<cudnn::EngineChoice> seen;
  for (auto heuristic : {cudnn::Heuristic::a, cudnn::Heuristic::b, cudnn::Heuristic::fallback})
    for (cudnn::EngineChoice& choice : graph.proposals(heuristic)) {
      if (all.size() == limit) return all;
      if (std::find(seen.begin(), seen.end(), choice) != seen.end()) continue;
      if (auto plan = graph.build(choice, kConvWorkspaceBytes)) all.push_back(std::move(*plan));
      seen.push_back(std::move(choice));
    }
  return all;
}

PlanStats ConvPlanner::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

std::string ConvPlanner::list() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> lines;
  for (const auto& [key, made] : plans_)
    lines.push_back(
        fmt::format("{} engine {}, workspace {}, {}\n", to_string(key), cudnn::to_string(made->plan.choice()), made->plan.workspace_bytes(), made->source));
  std::sort(lines.begin(), lines.end());
  return fmt::format("{}", fmt::join(lines, ""));
}

}  // namespace kd::cuda
