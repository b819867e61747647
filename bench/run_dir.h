// run_dir: one run on disk, complete at every moment and resumable after a kill at any of them.
//   config.yaml     the recipe, every value       env.json      command, build, machine, data
//   metrics.jsonl   the truth: one JSON object a line, flushed to the disk; "event": "epoch" lines carry a whole epoch
//   metrics.csv, events.out.tfevents.*            the epoch lines again, derived: rewritten from metrics.jsonl when a run goes on
//   summary.json    the results      run.log      what happened when, for people      DONE    written last
//   ckpt/  analysis/                              model files and evaluations, written by others
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "bench/tfevents.h"
#include "engine/base/file.h"
#include "kd/recipe.h"

namespace kd {

// A flat JSON object, in order. A double that is not finite is null in the file and NaN when read back.
using Value = std::variant<bool, int64_t, double, std::string, std::vector<std::string>>;
using Record = std::vector<std::pair<std::string, Value>>;

const Value* find_value(const Record&, std::string_view key);  // null if there is none
double number_of(const Record&, std::string_view key);         // NaN if there is none or it is no number
std::string text_of(const Record&, std::string_view key);      // empty if there is none or it is no string

// Whether a run directory has anything that another recipe would spoil: a checkpoint to go on from, a line of metrics, or a finished run. A run that was
// refused or that failed before its first epoch was over has not.
bool holds_epochs(const Path& run);

struct RunInfo {
  std::string command = {};       // the command line
  std::string dataset_hash = {};  // empty: unknown
};

class RunDir {
 public:
  // Makes or opens the directory and locks it for this process until the object or the process ends. Input errors: another process has it; it
  // holds epochs of another recipe or on other data; it cannot be written. A finished run is opened without a lock and nothing in it changes.
  RunDir(const Path&, const Recipe&, const RunInfo&);
  ~RunDir();
  RunDir(const RunDir&) = delete;
  RunDir& operator=(const RunDir&) = delete;

  bool is_done() const { return done_; }

  // Call once before the first log: whatever metrics.jsonl says about epochs from `epochs_done` on is dropped, with a torn last line. Input error
  // if an epoch before is missing.
  void resume_at(int64_t epochs_done);

  // Appends one line to metrics.jsonl ("time", seconds since 1970, is added) and, for an epoch, to what is derived from it.
  void log(const Record&);

  void write_summary(const Record&);  // atomically
  void note(std::string_view line);   // to run.log, with the time
  void mark_done();                   // after this, nothing changes any more

 private:
  void write_csv() const;
  void write_event(const Record& epoch);

  Path path_;
  int lock_ = -1;
  bool done_ = false;
  std::vector<Record> epochs_;
  std::unique_ptr<EventWriter> events_;
};

// The complete lines of a metrics.jsonl. A last line without its newline, torn by a kill, is left out; any other line that is not a flat JSON object
// is an input error with its number.
std::vector<Record> read_metrics(const Path&);

Record read_record(const Path&);  // summary.json: a file that is one flat object

}  // namespace kd
