#include "bench/run_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <ctime>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/base/check.h"
#include "engine/base/device.h"

#if !defined(KD_GIT_COMMIT)
#define KD_GIT_COMMIT "unknown"
#endif

namespace kd {
namespace {

using json = nlohmann::ordered_json;

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

std::string utc(double seconds) {
  const std::time_t t = std::time_t(seconds);
  std::tm parts{};
  ::gmtime_r(&t, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

json to_json(const Record& record) {
  json object = json::object();
  for (const auto& [key, value] : record) {
    KD_CHECK(!object.contains(key), "record with '{}' twice", key);
    std::visit([&](const auto& v) { object[key] = v; }, value);
  }
  return object;
}

std::string dump(const json& object, int indent = -1) { return object.dump(indent, ' ', false, json::error_handler_t::replace) + "\n"; }

Value from_json(const json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t(INT64_MAX)) return value.get<double>();
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_number()) return value.get<double>();
  if (value.is_null()) return std::numeric_limits<double>::quiet_NaN();
  if (value.is_string()) return value.get<std::string>();
  return value.get<std::vector<std::string>>();  // throws for anything else
}

Record parse_record(std::string_view line, const std::string& where) {
  try {
    const json object = json::parse(line);
    if (!object.is_object()) throw Error("not an object");
    Record record;
    for (const auto& [key, value] : object.items()) record.push_back({key, from_json(value)});
    return record;
  } catch (const std::exception&) {
    throw Error(fmt::format("{}: damaged, expected one flat JSON object", where));
  }
}

bool is_epoch(const Record& record) { return text_of(record, "event") == "epoch"; }

// What TensorBoard and the CSV do not show.
bool is_bookkeeping(const std::string& key) { return key == "event" || key == "time"; }

// RFC 4180: a field with a comma, a quote or a line break is quoted, its quotes doubled.
std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == text.npos) return text;
  std::string quoted = "\"";
  for (char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string csv_field(const Value& value) {
  struct {
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(int64_t v) const { return fmt::format("{}", v); }
    std::string operator()(double v) const { return std::isfinite(v) ? fmt::format("{:.9g}", v) : ""; }
    std::string operator()(const std::string& v) const { return csv_field(v); }
    std::string operator()(const std::vector<std::string>& v) const { return csv_field(fmt::format("{}", fmt::join(v, " "))); }
  } as_text;
  return std::visit(as_text, value);
}

json environment(const RunInfo& info) {
  const CpuInfo& cpu = cpu_info();
  return {{"command", info.command}, {"dataset_hash", info.dataset_hash},
          {"date", utc(now())},      {"git_commit", KD_GIT_COMMIT},
          {"compiler", __VERSION__}, {"cpu", cpu.name},
          {"threads", cpu.threads},  {"memory_bytes", int64_t(::sysconf(_SC_PHYS_PAGES)) * int64_t(::sysconf(_SC_PAGESIZE))}};
}

// The lock goes with the process, however it ends.
int take_lock(const Path& path) {
  const Path file = path / "lock";
  const int fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  KD_INPUT(fd >= 0, "{}: cannot write: {}", file.string(), std::strerror(errno));
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int why = errno;
    ::close(fd);
    throw Error(why == EWOULDBLOCK ? fmt::format("{}: another process is writing this run; wait for it, or choose another name= or seed=", path.string())
                                   : fmt::format("{}: cannot lock: {}", file.string(), std::strerror(why)));
  }
  return fd;
}

void require_same_run(const Path& path, const Recipe& recipe, const RunInfo& info) {
  if (!holds_epochs(path)) return;
  const Path config = path / "config.yaml", env = path / "env.json";
  if (std::filesystem::exists(config)) {
    const std::string difference = recipe_difference(load_recipe(config, {}), recipe);
    KD_INPUT(difference.empty(), "{}: holds a run of another recipe ({} now); choose another name=, or delete it", path.string(), difference);
  }
  if (std::filesystem::exists(env) && !info.dataset_hash.empty()) {
    const std::string before = text_of(read_record(env), "dataset_hash");
    KD_INPUT(before.empty() || before == info.dataset_hash, "{}: holds a run on other data (hash {}, now {}); choose another name=, or delete it",
             path.string(), before, info.dataset_hash);
  }
}

}  // namespace

const Value* find_value(const Record& record, std::string_view key) {
  for (const auto& [name, value] : record)
    if (name == key) return &value;
  return nullptr;
}

double number_of(const Record& record, std::string_view key) {
  const Value* value = find_value(record, key);
  if (value && std::holds_alternative<double>(*value)) return std::get<double>(*value);
  if (value && std::holds_alternative<int64_t>(*value)) return double(std::get<int64_t>(*value));
  return std::numeric_limits<double>::quiet_NaN();
}

std::string text_of(const Record& record, std::string_view key) {
  const Value* value = find_value(record, key);
  return value && std::holds_alternative<std::string>(*value) ? std::get<std::string>(*value) : "";
}

bool holds_epochs(const Path& run) {
  std::error_code code;
  const auto metrics = std::filesystem::file_size(run / "metrics.jsonl", code);
  return (!code && metrics > 0) || std::filesystem::exists(run / "ckpt" / "state.safetensors") || std::filesystem::exists(run / "DONE");
}

RunDir::RunDir(const Path& path, const Recipe& recipe, const RunInfo& info) : path_(path) {
  if (std::filesystem::exists(path / "DONE")) {
    require_same_run(path, recipe, info);
    done_ = true;
    return;
  }
  make_directories(path / "ckpt");
  make_directories(path / "analysis");
  lock_ = take_lock(path);
  try {
    require_same_run(path, recipe, info);
    write_atomically(path / "config.yaml", to_yaml(recipe));
    write_atomically(path / "env.json", dump(environment(info), 2));
    note(info.command.empty() ? "started" : "started: " + info.command);
  } catch (...) {
    ::close(lock_);
    throw;
  }
}

RunDir::~RunDir() {
  if (lock_ >= 0) ::close(lock_);
}

void RunDir::resume_at(int64_t epochs_done) {
  KD_CHECK(!done_ && !events_, "resume_at: of a finished run, or twice");
  const Path metrics = path_ / "metrics.jsonl";
  std::string kept;
  if (std::filesystem::exists(metrics)) {
    for (const Record& record : read_metrics(metrics)) {
      if (number_of(record, "epoch") >= double(epochs_done)) break;
      if (is_epoch(record)) epochs_.push_back(record);
      kept += dump(to_json(record));
    }
  }
  for (int64_t e = 0; e < epochs_done; ++e)
    KD_INPUT(e < int64_t(epochs_.size()) && number_of(epochs_[size_t(e)], "epoch") == double(e),
             "{}: epoch {} is missing, though the checkpoint has {}; delete the run directory to start again", metrics.string(), e, epochs_done);
  write_atomically(metrics, kept);
  if (epochs_done > 0) note(fmt::format("goes on at epoch {}", epochs_done));

  std::vector<Path> stale;
  for (const auto& entry : std::filesystem::directory_iterator(path_))
    if (entry.path().filename().string().rfind("events.out.tfevents.", 0) == 0) stale.push_back(entry.path());
  for (const Path& p : stale) std::filesystem::remove(p);
  const double first = epochs_.empty() ? now() : number_of(epochs_[0], "time");
  const double start = std::isfinite(first) ? first : now();
  events_ = std::make_unique<EventWriter>(path_ / fmt::format("events.out.tfevents.{}.retort", int64_t(start)), start);
  for (const Record& epoch : epochs_) write_event(epoch);
  write_csv();
}

void RunDir::log(const Record& record) {
  KD_CHECK(events_ && !done_, "RunDir::log before resume_at or after mark_done");
  Record line = record;
  line.push_back({"time", std::round(now() * 1000) / 1000});
  FileWriter out(path_ / "metrics.jsonl", true);
  out.write(dump(to_json(line)));
  out.sync();
  out.close();
  if (!is_epoch(line)) return;
  epochs_.push_back(line);
  write_event(line);
  write_csv();
}

void RunDir::write_event(const Record& epoch) {
  std::vector<std::pair<std::string, double>> tagged;
  for (const auto& [key, value] : epoch)
    if (key != "epoch" && !is_bookkeeping(key) && std::isfinite(number_of(epoch, key))) tagged.push_back({key, number_of(epoch, key)});
  events_->scalars(int64_t(number_of(epoch, "epoch")), number_of(epoch, "time"), tagged);
}

void RunDir::write_csv() const {
  std::vector<std::string> columns;  // of all epochs, since some are logged without an evaluation
  for (const Record& epoch : epochs_)
    for (const auto& [key, value] : epoch)
      if (!is_bookkeeping(key) && std::find(columns.begin(), columns.end(), key) == columns.end()) columns.push_back(key);
  auto row = [](const std::vector<std::string>& cells) { return fmt::format("{}\r\n", fmt::join(cells, ",")); };
  std::string csv = row(columns);
  for (const Record& epoch : epochs_) {
    std::vector<std::string> cells;
    for (const std::string& c : columns) {
      const Value* value = find_value(epoch, c);
      cells.push_back(value ? csv_field(*value) : "");
    }
    csv += row(cells);
  }
  write_atomically(path_ / "metrics.csv", csv);
}

void RunDir::write_summary(const Record& summary) { write_atomically(path_ / "summary.json", dump(to_json(summary), 2)); }

void RunDir::note(std::string_view line) {
  FileWriter out(path_ / "run.log", true);
  out.write(fmt::format("{}  {}\n", utc(now()), line));
  out.close();
}

void RunDir::mark_done() {
  note("done");
  write_atomically(path_ / "DONE", utc(now()) + "\n");
  done_ = true;
}

std::vector<Record> read_metrics(const Path& path) {
  const std::string all = read_text(path);
  std::vector<Record> records;
  for (size_t begin = 0, end; (end = all.find('\n', begin)) != all.npos; begin = end + 1)
    records.push_back(parse_record(std::string_view(all).substr(begin, end - begin), fmt::format("{}:{}", path.string(), records.size() + 1)));
  return records;
}

Record read_record(const Path& path) { return parse_record(read_text(path), path.string()); }

}  // namespace kd
