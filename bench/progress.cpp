#include "bench/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "engine/base/check.h"

namespace kd {
namespace {

constexpr double kRedrawSeconds = 0.1, kPlainSeconds = 30;

std::string duration(double seconds) {
  const int64_t s = std::llround(std::clamp(seconds, 0.0, 1e9));
  return s < 3600 ? fmt::format("{}:{:02}", s / 60, s % 60) : fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

int terminal_columns() {
  const char* term = std::getenv("TERM");
  if (!::isatty(STDOUT_FILENO) || (term && std::string_view(term) == "dumb")) return 0;
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

ProgressOutput ProgressOutput::standard() {
  const char* no_color = std::getenv("NO_COLOR");
  return {.write =
              [](std::string_view text) {
                std::fwrite(text.data(), 1, text.size(), stdout);
                std::fflush(stdout);
              },
          .seconds = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); },
          .columns = terminal_columns,
          .color = terminal_columns() > 0 && !(no_color && *no_color)};
}

Progress::Progress(const ProgressConfig& config, ProgressOutput out) : config_(config), out_(std::move(out)), start_(out_.seconds()), epoch_start_(start_) {
  if (config_.first_epoch >= config_.epochs) return;
  show(config_.first_epoch == 0 ? fmt::format("{} epochs", config_.epochs) : fmt::format("goes on at epoch {}/{}", config_.first_epoch + 1, config_.epochs),
       true);
}

Progress::~Progress() {
  if (live_) out_.write("\n");  // what comes next, an error perhaps, gets a line of its own
}

void Progress::step(int64_t epoch, int64_t images, int64_t images_in_epoch, double loss) {
  if (config_.quiet) return;
  const double now = out_.seconds();
  const bool terminal = out_.columns() > 0;
  const bool first = !stepped_;
  stepped_ = true;
  if (!first && now - last_shown_ < (terminal ? kRedrawSeconds : kPlainSeconds)) return;
  last_shown_ = now;
  const double share = double(images) / double(images_in_epoch);
  show(fmt::format("epoch {}/{}  {}/{} images  {} left  loss {:.4f}  {:.0f} img/s", epoch + 1, config_.epochs, images, images_in_epoch,
                   duration(seconds_left(now, share)), loss, double(images) / std::max(now - epoch_start_, 1e-9)),
       !terminal);
}

void Progress::epoch_done(int64_t epoch, const Record& record) {
  const double now = out_.seconds();
  ++epochs_done_;
  epoch_start_ = last_shown_ = now;
  std::string line = fmt::format("epoch {}/{}", epoch + 1, config_.epochs);
  auto add = [&](const char* key, auto&& format) {
    if (const double value = number_of(record, key); !std::isnan(value)) line += "  " + format(value);
  };
  add("loss", [](double v) { return fmt::format("loss {:.4f}", v); });
  add("train_top1", [](double v) { return fmt::format("train {:.2f} %", v); });
  add("holdout_top1", [](double v) { return fmt::format("holdout {:.2f} %", v); });
  add("test_top1", [](double v) { return fmt::format("test {:.2f} %", v); });
  add("lr", [](double v) { return fmt::format("lr {:.4g}", v); });
  add("img_per_s", [](double v) { return fmt::format("{:.0f} img/s", v); });
  line += epoch + 1 < config_.epochs ? fmt::format("  {} left", duration(seconds_left(now, 0))) : fmt::format("  took {}", duration(now - start_));
  show(line, true);
}

// At the pace of this process's whole epochs, evaluation included; before there is one, at the pace of the steps so far.
double Progress::seconds_left(double now, double epoch_share) const {
  const double epochs_left = double(config_.epochs - config_.first_epoch - epochs_done_) - epoch_share;
  const double epoch_seconds = epochs_done_ > 0 ? (epoch_start_ - start_) / double(epochs_done_) : (now - start_) / std::max(epoch_share, 1e-9);
  return epochs_left * epoch_seconds;
}

void Progress::show(const std::string& line, bool lasting) {
  if (config_.quiet) return;
  std::string text = config_.name + "  " + line;
  const int columns = out_.columns();
  if (columns == 0) return out_.write(text + "\n");
  if (!lasting) text = text.substr(0, size_t(std::max(columns - 1, 1)));  // a wrapped line could not be redrawn
  if (out_.color && text.size() > config_.name.size()) text = "\x1b[1m" + config_.name + "\x1b[0m" + text.substr(config_.name.size());
  out_.write("\r" + text + "\x1b[K" + (lasting ? "\n" : ""));  // ESC [K clears what is left of the line before
  live_ = !lasting;
}

}  // namespace kd
