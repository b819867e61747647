// progress: how far a run is, for the person who waits. On a terminal one live line, redrawn at most ten times a second, that turns into a lasting
// line when its epoch is done; elsewhere plain lines: one at once, one after the first step, one per epoch, and one every 30 s inside long epochs.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "bench/run_dir.h"

namespace kd {

// Where the lines go and what time it is; a test brings its own.
struct ProgressOutput {
  std::function<void(std::string_view)> write;
  std::function<double()> seconds;  // monotonic
  std::function<int()> columns;     // of the terminal now; 0: not a terminal
  bool color = false;

  static ProgressOutput standard();  // stdout; no color if NO_COLOR is set, plain lines if TERM is "dumb"
};

struct ProgressConfig {
  std::string name = {};    // of the run
  int64_t epochs = 0;       // of the whole run
  int64_t first_epoch = 0;  // 0-based; above 0 the run goes on
  bool quiet = false;       // nothing at all
};

class Progress {
 public:
  explicit Progress(const ProgressConfig&, ProgressOutput = ProgressOutput::standard());
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // After a step: images seen in this 0-based epoch, images in it, mean loss so far.
  void step(int64_t epoch, int64_t images, int64_t images_in_epoch, double loss);

  // After an epoch and its evaluation; shows loss, train_top1, holdout_top1, test_top1, lr and img_per_s where the record has them.
  void epoch_done(int64_t epoch, const Record&);

 private:
  void show(const std::string& line, bool lasting);
  double seconds_left(double now, double epoch_share) const;

  ProgressConfig config_;
  ProgressOutput out_;
  double start_, epoch_start_;
  double last_shown_ = -1e9;
  int64_t epochs_done_ = 0;  // by this process
  bool live_ = false;        // a live line stands unfinished
  bool stepped_ = false;
};

}  // namespace kd
