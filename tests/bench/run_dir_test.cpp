// Run directories: what a kill, a second process, a full disk or a wrong recipe does to them; event files; the progress line.
#include "bench/run_dir.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "bench/progress.h"
#include "engine/base/check.h"
#include "tests/harness/error_of.h"

namespace kd {
namespace {

using nlohmann::json;

void expect_parts(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is missing in: " << text;
  EXPECT_EQ(text.find('\n'), std::string::npos) << text;
}

// ---- A decoder of event files that shares nothing with the writer: bitwise CRC, its own walk over the protobuf fields. ----

uint32_t slow_crc32c(const std::string& bytes) {
  uint32_t crc = 0xffffffff;
  for (unsigned char byte : bytes)
    for (int bit = 0; bit < 8; ++bit) {
      const uint32_t odd = (crc ^ (byte >> bit)) & 1;
      crc = crc >> 1 ^ (odd ? 0x82f63b78 : 0);
    }
  return ~crc;
}

struct Bytes {
  std::string data;
  size_t at = 0;
  template <class T>
  T take() {
    T value{};
    if (at + sizeof(T) > data.size()) throw std::runtime_error("truncated");
    std::memcpy(&value, data.data() + at, sizeof(T));
    at += sizeof(T);
    return value;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = take<uint8_t>();
      value |= uint64_t(byte & 127) << shift;
      if (byte < 128) return value;
    }
  }
  std::string string(size_t n) {
    if (at + n > data.size()) throw std::runtime_error("truncated");
    at += n;
    return data.substr(at - n, n);
  }
  bool empty() const { return at == data.size(); }
};

struct Event {
  double wall_time = 0;
  int64_t step = 0;
  std::string version;
  std::map<std::string, float> scalars;
};

std::vector<Event> decode_events(const Path& path) {
  Bytes file{read_text(path)};
  std::vector<Event> events;
  while (!file.empty()) {
    const std::string length = file.string(8);
    auto masked = [](const std::string& s) {
      const uint32_t crc = slow_crc32c(s);
      return uint32_t((crc >> 15 | crc << 17) + 0xa282ead8);
    };
    EXPECT_EQ(file.take<uint32_t>(), masked(length));
    Bytes event{file.string(Bytes{length}.take<uint64_t>())};
    EXPECT_EQ(file.take<uint32_t>(), masked(event.data));
    Event e;
    while (!event.empty()) {
      switch (event.varint()) {
        case 1 << 3 | 1: e.wall_time = event.take<double>(); break;
        case 2 << 3 | 0: e.step = int64_t(event.varint()); break;
        case 3 << 3 | 2: e.version = event.string(event.varint()); break;
        case 5 << 3 | 2: {
          Bytes summary{event.string(event.varint())};
          while (!summary.empty()) {
            EXPECT_EQ(summary.varint(), uint64_t(1 << 3 | 2));
            Bytes value{summary.string(summary.varint())};
            EXPECT_EQ(value.varint(), uint64_t(1 << 3 | 2));
            const std::string tag = value.string(value.varint());
            EXPECT_EQ(value.varint(), uint64_t(2 << 3 | 5));
            e.scalars[tag] = value.take<float>();
            EXPECT_TRUE(value.empty());
          }
          break;
        }
        default: throw std::runtime_error("unknown field");
      }
    }
    events.push_back(e);
  }
  return events;
}

TEST(Crc32c, KnownAnswers) {
  auto crc = [](const std::string& s) { return crc32c({reinterpret_cast<const uint8_t*>(s.data()), s.size()}); };
  EXPECT_EQ(crc("123456789"), 0xe3069283u);
  EXPECT_EQ(crc(""), 0u);
  EXPECT_EQ(crc(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
  EXPECT_EQ(crc(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(slow_crc32c("123456789"), 0xe3069283u) << "the test's own";
}

class RunDirTest : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove_all(root_); }
  void TearDown() override { std::filesystem::remove_all(root_); }

  static Record epoch(int64_t e, double loss) { return {{"event", std::string("epoch")}, {"epoch", e}, {"loss", loss}, {"test_top1", 10.0 * double(e)}}; }
  std::vector<Path> event_files() const {
    std::vector<Path> found;
    for (const auto& entry : std::filesystem::directory_iterator(path_))
      if (entry.path().filename().string().find("tfevents") != std::string::npos) found.push_back(entry.path());
    return found;
  }
  // A run that was killed after three epochs, its checkpoint saved after two.
  void killed_run() {
    RunDir dir(path_, recipe_, {});
    dir.resume_at(0);
    dir.log({{"event", std::string("start")}});
    for (int64_t e : {0, 1, 2}) dir.log(epoch(e, 1.0 / double(e + 1)));
  }

  Path root_ = std::filesystem::temp_directory_path() / fmt::format("kd_run_dir_{}", ::getpid());
  Path path_ = root_ / "shapes" / "T1w" / "seed0";
  Recipe recipe_ = load_recipe({}, {"name=T1w"});
};

TEST_F(RunDirTest, AFinishedRunHoldsEverything) {
  {
    RunDir dir(path_, recipe_, {.command = "kd_bench train \"x\"", .dataset_hash = "0123456789abcdef"});
    EXPECT_FALSE(dir.is_done());
    dir.resume_at(0);
    dir.log(epoch(0, 1.0 / 3));
    dir.log({{"event", std::string("note")}, {"text", std::string("a \"b\"\nc")}, {"flag", true}, {"list", std::vector<std::string>{"x", "y"}}});
    Record second = epoch(1, 0.25);
    second.push_back({"kind", std::string("a,\"b\"")});
    second.push_back({"bad", std::numeric_limits<double>::quiet_NaN()});
    dir.log(second);
    dir.write_summary({{"name", std::string("T1w")}, {"seed", int64_t(7)}, {"teachers", std::vector<std::string>{}}, {"seconds", 2.0}});
    dir.mark_done();
    EXPECT_TRUE(dir.is_done());
    EXPECT_THROW(dir.log(epoch(2, 0)), Error);
  }
  EXPECT_EQ(load_recipe(path_ / "config.yaml", {}), recipe_);
  for (const char* name : {"DONE", "ckpt", "analysis", "run.log"}) EXPECT_TRUE(std::filesystem::exists(path_ / name)) << name;

  const json env = json::parse(read_text(path_ / "env.json"));
  EXPECT_EQ(env["command"], "kd_bench train \"x\"");
  EXPECT_EQ(env["dataset_hash"], "0123456789abcdef");
  for (const char* key : {"git_commit", "cpu", "compiler", "date"}) EXPECT_FALSE(env[key].get<std::string>().empty()) << key;
  EXPECT_GT(env["threads"], 0);
  EXPECT_GT(env["memory_bytes"], 1 << 20);

  const std::string metrics = read_text(path_ / "metrics.jsonl");
  EXPECT_EQ(metrics.rfind(R"({"event":"epoch","epoch":0,"loss":0.3333333333333333,"test_top1":0.0,"time":)", 0), 0u) << metrics;
  const auto records = read_metrics(path_ / "metrics.jsonl");
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(number_of(records[0], "loss"), 1.0 / 3) << "every bit";
  EXPECT_EQ(text_of(records[1], "text"), "a \"b\"\nc");
  EXPECT_EQ(*find_value(records[1], "flag"), Value(true));
  EXPECT_EQ(*find_value(records[1], "list"), Value(std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(*find_value(records[2], "epoch"), Value(int64_t(1)));
  EXPECT_TRUE(std::isnan(number_of(records[2], "bad")));
  EXPECT_EQ(find_value(records[2], "nothing"), nullptr);

  EXPECT_EQ(read_text(path_ / "metrics.csv"), "epoch,loss,test_top1,kind,bad\r\n0,0.333333333,0,,\r\n1,0.25,10,\"a,\"\"b\"\"\",\r\n");
  const Record summary = read_record(path_ / "summary.json");
  EXPECT_EQ(number_of(summary, "seed"), 7);
  EXPECT_EQ(*find_value(summary, "seconds"), Value(2.0)) << "a double stays one";

  ASSERT_EQ(event_files().size(), 1u);
  const auto events = decode_events(event_files()[0]);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_EQ(events[2].step, 1);
  EXPECT_NEAR(events[2].wall_time, double(std::time(nullptr)), 60);
  EXPECT_EQ(events[1].scalars, (std::map<std::string, float>{{"loss", 1.f / 3}, {"test_top1", 0.f}}));
  EXPECT_EQ(events[2].scalars, (std::map<std::string, float>{{"loss", .25f}, {"test_top1", 10.f}}));

  const auto written = std::filesystem::last_write_time(path_ / "env.json");
  EXPECT_TRUE(RunDir(path_, recipe_, {}).is_done());
  EXPECT_EQ(std::filesystem::last_write_time(path_ / "env.json"), written) << "a finished run is left alone";
}

TEST_F(RunDirTest, AKilledRunGoesOnWithoutDuplicates) {
  killed_run();
  std::ofstream(path_ / "metrics.jsonl", std::ios::app) << R"({"event":"epoch","epoch":3,"lo)";
  EXPECT_EQ(read_metrics(path_ / "metrics.jsonl").size(), 4u) << "the torn line is left out";
  {
    RunDir dir(path_, recipe_, {});
    dir.resume_at(2);
    dir.log(epoch(2, 0.5));
    dir.log(epoch(3, 0.4));
  }
  const auto records = read_metrics(path_ / "metrics.jsonl");
  ASSERT_EQ(records.size(), 5u);
  EXPECT_EQ(text_of(records[0], "event"), "start") << "what is not of a dropped epoch stays";
  for (int64_t e = 0; e < 4; ++e) EXPECT_EQ(number_of(records[size_t(e) + 1], "epoch"), double(e));
  EXPECT_EQ(number_of(records[2], "loss"), 0.5);
  EXPECT_EQ(number_of(records[3], "loss"), 0.5) << "the second run's";
  EXPECT_EQ(read_text(path_ / "metrics.csv"), "epoch,loss,test_top1\r\n0,1,0\r\n1,0.5,10\r\n2,0.5,20\r\n3,0.4,30\r\n");
  ASSERT_EQ(event_files().size(), 1u);
  const auto events = decode_events(event_files()[0]);
  ASSERT_EQ(events.size(), 5u);
  for (int64_t e = 0; e < 4; ++e) EXPECT_EQ(events[size_t(e) + 1].step, e);
  expect_parts(json(read_text(path_ / "run.log")).dump(), {"goes on at epoch 2"});

  // A line torn by the kill is dropped even if nothing else is.
  std::ofstream(path_ / "metrics.jsonl", std::ios::app) << R"({"event":"epoch","epoch":4})";
  RunDir dir(path_, recipe_, {});
  dir.resume_at(4);
  EXPECT_EQ(read_metrics(path_ / "metrics.jsonl").size(), 5u);
}

TEST_F(RunDirTest, AKilledFirstEpochStartsAgain) {
  { RunDir dir(path_, recipe_, {}); }  // killed before resume_at
  killed_run();
  RunDir dir(path_, recipe_, {});
  dir.resume_at(0);
  EXPECT_EQ(read_metrics(path_ / "metrics.jsonl").size(), 1u);
  EXPECT_EQ(read_text(path_ / "metrics.csv"), "\r\n");
}

TEST_F(RunDirTest, MissingEpochsAndDamageAreErrors) {
  killed_run();
  {
    RunDir dir(path_, recipe_, {});
    expect_parts(error_of([&] { dir.resume_at(4); }), {"metrics.jsonl", "epoch 3 is missing", "delete"});
  }
  std::ofstream(path_ / "metrics.jsonl") << "{\"event\":\"start\"}\n{\"epoch\":\n";
  RunDir dir(path_, recipe_, {});
  expect_parts(error_of([&] { dir.resume_at(1); }), {"metrics.jsonl:2", "damaged"});
  for (const char* bad : {"[1]", "3", "", "{\"a\":{}}", "{\"a\":[1]}", "{} {}", "\xff", "{\"a\":1e999}"}) {
    std::ofstream(path_ / "metrics.jsonl") << "{\"a\":1}\n" << bad << "\n";
    expect_parts(error_of([&] { read_metrics(path_ / "metrics.jsonl"); }), {"metrics.jsonl:2", "damaged"});
  }
  std::ofstream(path_ / "metrics.jsonl") << std::string(200'000, '[') << "\n";
  expect_parts(error_of([&] { read_metrics(path_ / "metrics.jsonl"); }), {"metrics.jsonl:1", "damaged"});
}

TEST_F(RunDirTest, OneProcessAtATime) {
  std::optional<RunDir> first(std::in_place, path_, recipe_, RunInfo{});
  expect_parts(error_of([&] { RunDir second(path_, recipe_, {}); }), {path_.string(), "another process"});
  first.reset();
  EXPECT_EQ(error_of([&] { RunDir second(path_, recipe_, {}); }), "no error");
}

TEST_F(RunDirTest, AnotherRecipeOrOtherDataIsRefused) {
  {
    RunDir dir(path_, recipe_, {.dataset_hash = "aaaa"});
    dir.resume_at(0);
    dir.log(epoch(0, 1));
  }
  const Recipe other = load_recipe({}, {"name=T1w", "optim.lr=0.05"});
  expect_parts(error_of([&] { RunDir dir(path_, other, {}); }), {path_.string(), "another recipe", "optim.lr is 0.1 and 0.05", "name="});
  expect_parts(error_of([&] { RunDir dir(path_, recipe_, {.dataset_hash = "bbbb"}); }), {path_.string(), "other data", "aaaa", "bbbb"});
  EXPECT_EQ(load_recipe(path_ / "config.yaml", {}), recipe_) << "nothing was overwritten";
  {
    RunDir dir(path_, recipe_, {.dataset_hash = "aaaa"});
    dir.mark_done();
  }
  expect_parts(error_of([&] { RunDir dir(path_, other, {}); }), {"another recipe"});
}

TEST_F(RunDirTest, ARunThatFailedBeforeItsFirstEpochMayBeCorrected) {
  {
    RunDir dir(path_, recipe_, {.dataset_hash = "aaaa"});
    dir.resume_at(0);  // ... and the loss diverges
  }
  const Recipe other = load_recipe({}, {"name=T1w", "optim.lr=0.05"});
  { RunDir dir(path_, other, {.dataset_hash = "bbbb"}); }
  EXPECT_EQ(load_recipe(path_ / "config.yaml", {}), other);
  make_directories(path_ / "ckpt");
  std::ofstream(path_ / "ckpt" / "state.safetensors") << "x";  // an epoch's checkpoint counts, whatever became of its line
  expect_parts(error_of([&] { RunDir dir(path_, recipe_, {}); }), {"another recipe"});
}

TEST_F(RunDirTest, PlacesThatCannotBeWritten) {
  make_directories(root_);
  std::ofstream(root_ / "shapes") << "in the way";
  expect_parts(error_of([&] { RunDir dir(path_, recipe_, {}); }), {path_.string(), "cannot create the directory"});
  std::filesystem::remove(root_ / "shapes");

  RunDir dir(path_, recipe_, {});
  dir.resume_at(0);
  std::filesystem::remove(path_ / "metrics.jsonl");
  std::filesystem::create_symlink("/dev/full", path_ / "metrics.jsonl");
  expect_parts(error_of([&] { dir.log(epoch(0, 1)); }), {"metrics.jsonl", "No space left on device"});
}

// ---- The progress line. ----

struct Screen {
  double seconds = 0;
  int columns = 0;
  bool color = false;
  std::string text = {};
  ProgressOutput output() {
    return {.write = [this](std::string_view s) { text += s; }, .seconds = [this] { return seconds; }, .columns = [this] { return columns; }, .color = color};
  }
  std::string take() { return std::exchange(text, ""); }
};

const Record kEpoch{{"event", std::string("epoch")}, {"epoch", int64_t(0)}, {"loss", 1.5}, {"train_top1", 50.0}, {"lr", 0.0125}, {"img_per_s", 99.6}};

TEST(Progress, PlainLines) {
  Screen screen;
  Progress p({.name = "T1w", .epochs = 3}, screen.output());
  EXPECT_EQ(screen.take(), "T1w  3 epochs\n") << "at once";
  screen.seconds = 2;
  p.step(0, 100, 1000, 2.25);
  EXPECT_EQ(screen.take(), "T1w  epoch 1/3  100/1000 images  0:58 left  loss 2.2500  50 img/s\n") << "3 epochs at 50 images a second are 60 s";
  for (screen.seconds = 3; screen.seconds < 32; screen.seconds += 1) p.step(0, 500, 1000, 2);
  EXPECT_EQ(screen.take(), "") << "quiet for 30 s";
  p.step(0, 800, 1000, 2);
  EXPECT_EQ(screen.take(), "T1w  epoch 1/3  800/1000 images  1:28 left  loss 2.0000  25 img/s\n");
  screen.seconds = 50;
  p.epoch_done(0, kEpoch);
  EXPECT_EQ(screen.take(), "T1w  epoch 1/3  loss 1.5000  train 50.00 %  lr 0.0125  100 img/s  1:40 left\n");
  screen.seconds = 60;
  p.step(1, 500, 1000, 2);
  EXPECT_EQ(screen.take(), "") << "10 s after the epoch's line";
  screen.seconds = 85;
  p.step(1, 500, 1000, 2);
  EXPECT_EQ(screen.take(), "T1w  epoch 2/3  500/1000 images  1:15 left  loss 2.0000  14 img/s\n") << "whole epochs took 50 s";
  p.epoch_done(1, kEpoch);
  screen.take();
  screen.seconds = 4000;
  p.epoch_done(2, kEpoch);
  EXPECT_EQ(screen.take(), "T1w  epoch 3/3  loss 1.5000  train 50.00 %  lr 0.0125  100 img/s  took 1:06:40\n");
}

TEST(Progress, GoesOnAtTheRightEpochAndPace) {
  Screen screen;
  Progress p({.name = "S", .epochs = 10, .first_epoch = 8}, screen.output());
  EXPECT_EQ(screen.take(), "S  goes on at epoch 9/10\n");
  screen.seconds = 4;
  p.step(8, 10, 20, 1);
  EXPECT_EQ(screen.take(), "S  epoch 9/10  10/20 images  0:12 left  loss 1.0000  2 img/s\n");
}

TEST(Progress, OneLiveLineOnATerminal) {
  Screen screen{.columns = 40};
  {
    Progress p({.name = "T1w", .epochs = 2}, screen.output());
    EXPECT_EQ(screen.take(), "\rT1w  2 epochs\x1b[K\n");
    int drawn = 0;
    for (int i = 1; i <= 1000; ++i) {
      screen.seconds = 0.01 * i;
      p.step(0, i, 1000, 2);
      const std::string line = screen.take();
      drawn += !line.empty();
      EXPECT_EQ(line.find('\n'), std::string::npos);
      EXPECT_LE(line.size(), 39 + std::string("\r\x1b[K").size()) << line;
    }
    EXPECT_GE(drawn, 50);
    EXPECT_LE(drawn, 101) << "at most ten a second";
    p.epoch_done(0, kEpoch);
    EXPECT_EQ(screen.take().back(), '\n') << "the epoch's line stays";
    screen.seconds = 20;
    p.step(1, 1, 1000, 2);
    EXPECT_EQ(screen.take().rfind("\rT1w  epoch 2/2  1/1000", 0), 0u);
  }
  EXPECT_EQ(screen.take(), "\n") << "an error after a live line begins on a line of its own";

  Screen colored{.columns = 80, .color = true};
  Progress p({.name = "T1w", .epochs = 2}, colored.output());
  EXPECT_EQ(colored.take(), "\r\x1b[1mT1w\x1b[0m  2 epochs\x1b[K\n");
}

TEST(Progress, QuietSaysNothing) {
  for (int columns : {0, 80}) {
    Screen screen{.columns = columns};
    {
      Progress p({.name = "T1w", .epochs = 2, .quiet = true}, screen.output());
      p.step(0, 1, 10, 1);
      p.epoch_done(0, kEpoch);
    }
    EXPECT_EQ(screen.text, "");
  }
}

}  // namespace
}  // namespace kd
