// The floor: tensors and their element types, pooled memory, files.
#include "engine/base/tensor.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "engine/base/file.h"
#include "engine/base/rng.h"
#include "tests/harness/error_of.h"

namespace kd {
namespace {

void expect_parts(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* part : parts) EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is missing in: " << text;
}

float through_bf16(float x) { return float(bf16(x)); }
uint16_t bf16_bits(uint32_t float_bits) { return bf16(std::bit_cast<float>(float_bits)).bits; }

TEST(Bf16, RoundsToNearestTiesToEven) {
  EXPECT_EQ(bf16_bits(0x3f800000), 0x3f80);  // 1
  EXPECT_EQ(bf16_bits(0x3f807fff), 0x3f80);  // just below half way
  EXPECT_EQ(bf16_bits(0x3f808000), 0x3f80);  // half way, even below
  EXPECT_EQ(bf16_bits(0x3f808001), 0x3f81);  // just above
  EXPECT_EQ(bf16_bits(0x3f818000), 0x3f82);  // half way, even above
  EXPECT_EQ(bf16_bits(0xbf818000), 0xbf82);
  EXPECT_EQ(bf16_bits(0x3fffffff), 0x4000);  // the carry reaches the exponent
  EXPECT_EQ(bf16_bits(0x00008001), 0x0001);  // a subnormal
  EXPECT_EQ(bf16_bits(0x80000000), 0x8000);  // -0
}

TEST(Bf16, InfinityAndNan) {
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(through_bf16(inf), inf);
  EXPECT_EQ(through_bf16(-inf), -inf);
  EXPECT_EQ(through_bf16(std::numeric_limits<float>::max()), inf);  // closer to 2^128 than to the largest bf16
  EXPECT_EQ(bf16_bits(0x7f7f7fff), 0x7f7f);                         // the largest finite result
  for (uint32_t nan : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu}) {
    EXPECT_TRUE(std::isnan(through_bf16(std::bit_cast<float>(nan)))) << std::hex << nan;
    EXPECT_EQ(bf16_bits(nan) >> 15, int(nan >> 31)) << "sign of " << std::hex << nan;
  }
}

TEST(Bf16, EveryValueSurvivesARoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    float x = std::bit_cast<float>(bits << 16);
    if (std::isnan(x))
      EXPECT_TRUE(std::isnan(through_bf16(x)));
    else
      EXPECT_EQ(bf16(x).bits, bits);
  }
}

TEST(Bf16, ErrorIsAtMostHalfAStep) {
  Rng rng(1, Purpose::test);
  for (int i = 0; i < 100000; ++i) {
    float x = std::ldexp(rng.uniform(1.f, 2.f), int(rng.below(200)) - 100) * (rng.coin(0.5f) ? 1.f : -1.f);
    double step = std::ldexp(1.0, std::ilogb(x) - 7);
    EXPECT_LE(std::fabs(double(through_bf16(x)) - double(x)), step / 2) << x;
  }
}

TEST(DType, SizesAndNames) {
  EXPECT_EQ(size_of(dtype_of<float>()), 4);
  EXPECT_EQ(size_of(dtype_of<bf16>()), 2);
  EXPECT_EQ(size_of(dtype_of<uint8_t>()), 1);
  EXPECT_EQ(size_of(dtype_of<int32_t>()), 4);
  EXPECT_EQ(size_of(dtype_of<int64_t>()), 8);
  EXPECT_EQ(to_string(DType::bf16), "bf16");
}

TEST(Shape, ElementsAndText) {
  EXPECT_EQ(Shape{}.elements(), 1);
  EXPECT_EQ((Shape{3, 0, 2}).elements(), 0);
  EXPECT_EQ((Shape{70000, 70000}).elements(), int64_t(4900000000));
  EXPECT_EQ(to_string(Shape{128, 32, 32, 3}), "[128,32,32,3]");
  EXPECT_EQ(to_string(Shape{}), "[]");
  EXPECT_EQ((Shape{2, 3}), Shape(std::vector<int64_t>{2, 3}));
  EXPECT_NE((Shape{2, 3}), (Shape{2, 3, 1}));
  expect_parts(error_of([] { Shape{1, 2, 3, 4, 5}; }), {"rank 5", "at most 4"});
  expect_parts(error_of([] { Shape{2, -1}; }), {"extent -1"});
}

TEST(Tensor, ViewAndSliceShareCloneCopies) {
  Tensor t = Tensor::of<int32_t>({2, 3}, {0, 1, 2, 3, 4, 5});
  Tensor view = t.view({3, 2}), slice = t.slice(2, {2}), copy = slice.clone();
  EXPECT_EQ(view.raw(), t.raw());
  EXPECT_EQ(view.dim(0), 3);
  EXPECT_EQ(slice.data<int32_t>(), t.data<int32_t>() + 2);
  t.data<int32_t>()[2] = 20;
  EXPECT_EQ(view.data<int32_t>()[2], 20);
  EXPECT_EQ(slice.data<int32_t>()[0], 20);
  EXPECT_EQ(copy.data<int32_t>()[0], 2);
  slice.slice(1, {1}).zero_();  // a slice of a slice counts from the slice
  EXPECT_EQ(t.data<int32_t>()[2], 20);
  EXPECT_EQ(t.data<int32_t>()[3], 0);
  EXPECT_EQ(t.data<int32_t>()[4], 4);
  EXPECT_EQ(copy.data<int32_t>()[1], 3);
}

TEST(Tensor, OwnershipCountsEveryHandle) {
  Tensor t = Tensor::zeros({4}, DType::f32);
  EXPECT_TRUE(t.is_sole_owner());
  {
    Tensor part = t.slice(1, {2});
    EXPECT_FALSE(t.is_sole_owner());
    EXPECT_FALSE(part.is_sole_owner());
  }
  EXPECT_TRUE(t.is_sole_owner());
  EXPECT_FALSE(Tensor().is_sole_owner());
}

TEST(Tensor, ZerosScalarsAndEmptyTensors) {
  { Tensor::of<float>({3}, {7, 7, 7}); }  // leaves a dirty block in the pool
  Tensor zeros = Tensor::zeros({3}, DType::f32);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(zeros.data<float>()[i], 0.f);
  Tensor scalar = Tensor::of<float>({}, {2.5f});
  EXPECT_EQ(scalar.elements(), 1);
  EXPECT_EQ(*scalar.data<float>(), 2.5f);
  Tensor none = Tensor::zeros({0, 8}, DType::f32);
  EXPECT_TRUE(none.defined());
  EXPECT_EQ(none.clone().bytes(), 0);
  Tensor undefined;
  EXPECT_FALSE(undefined.defined());
  EXPECT_EQ(undefined.raw(), nullptr);
}

TEST(Tensor, Errors) {
  Tensor t = Tensor::zeros({2, 3}, DType::f32);
  EXPECT_EQ(t.describe("weight"), "weight f32[2,3] cpu");
  EXPECT_EQ(Tensor().describe("dx"), "dx (undefined)");
  expect_parts(error_of([&] { t.view({7}); }), {"view", "f32[2,3]", "[7]", "tensor.cpp:"});
  expect_parts(error_of([&] { t.slice(4, {3}); }), {"slice", "3 elements from 4", "f32[2,3]"});
  expect_parts(error_of([&] { t.slice(-1, {3}); }), {"slice", "from -1"});
  expect_parts(error_of([&] { t.data<int32_t>(); }), {"f32[2,3]", "as i32"});
  expect_parts(error_of([&] { Tensor().data<float>(); }), {"undefined", "as f32"});
  expect_parts(error_of([&] { Tensor::of<float>({2, 2}, {1, 2, 3}); }), {"3 values", "[2,2]"});
#if !defined(KD_WITH_CUDA)
  expect_parts(error_of([] { Tensor::empty({1}, DType::f32, Device::cuda); }), {"cuda", "without CUDA"});
#endif
}

TEST(Memory, SameShapeGetsItsBlockAgain) {
  release_cached_memory();
  const MemoryStats before = memory_stats();
  EXPECT_EQ(before.cached_bytes, 0);
  void* block = nullptr;
  int64_t taken = 0;
  {
    Tensor t = Tensor::empty({100, 7}, DType::f32);
    block = t.raw();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % 64, 0u);
    taken = memory_stats().live_bytes - before.live_bytes;
    EXPECT_GE(taken, 2800);
    EXPECT_LE(taken, 2800 * 9 / 8);  // size classes waste at most an eighth
  }
  EXPECT_EQ(memory_stats().live_bytes, before.live_bytes);
  EXPECT_EQ(memory_stats().cached_bytes, taken);
  Tensor again = Tensor::empty({7, 100}, DType::f32);
  EXPECT_EQ(again.raw(), block);
  EXPECT_EQ(memory_stats().cached_bytes, 0);
  Tensor other = Tensor::empty({7, 100}, DType::f32);
  EXPECT_NE(other.raw(), block);
}

TEST(Memory, PeakIsTheMostEverLive) {
  const int64_t live = memory_stats().live_bytes, big = 40 << 20;
  {
    Tensor a = Tensor::empty({big}, DType::u8), b = Tensor::empty({big}, DType::u8);
    EXPECT_GE(memory_stats().live_bytes, live + 2 * big);
  }
  EXPECT_EQ(memory_stats().live_bytes, live);
  const int64_t peak = memory_stats().peak_bytes;
  EXPECT_GE(peak, live + 2 * big);
  for (int i = 0; i < 3; ++i) Tensor::empty({big}, DType::u8);
  EXPECT_EQ(memory_stats().peak_bytes, peak);
  EXPECT_GE(memory_stats().cached_bytes, 2 * big);
  release_cached_memory();
  EXPECT_EQ(memory_stats().cached_bytes, 0);
  EXPECT_EQ(memory_stats().live_bytes, live);
}

class File : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "retort_file_test_XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  int64_t entries() const { return std::distance(std::filesystem::directory_iterator(dir_), {}); }
  Path dir_;
};

TEST_F(File, RoundTrip) {
  const std::string text("a\0b\n\xff", 5);
  Path path = dir_ / "x";
  write_atomically(path, text);
  EXPECT_EQ(read_text(path), text);
  EXPECT_EQ(read_bytes(path), std::vector<uint8_t>(text.begin(), text.end()));
  EXPECT_EQ(kd::file_size(path), 5);
  write_atomically(path, "");
  EXPECT_EQ(read_text(path), "");
  {
    FileWriter out(path, true);
    out.write("one,");
  }
  FileWriter more(path, true);
  more.write("two");
  more.close();
  EXPECT_EQ(read_text(path), "one,two");
  EXPECT_EQ(entries(), 1);
}

TEST_F(File, AFailedWriteLeavesTheOldFile) {
  Path path = dir_ / "weights";
  write_atomically(path, "old");
  EXPECT_THROW(write_atomically(path,
                                [&](FileWriter& out) {
                                  out.write("half of the new");
                                  EXPECT_EQ(read_text(path), "old");  // a reader meanwhile
                                  throw Error("interrupted");
                                }),
               Error);
  EXPECT_EQ(read_text(path), "old");
  EXPECT_EQ(entries(), 1) << "a temporary file was left behind";
}

TEST_F(File, TwoWritersOfOnePathTakeTurns) {
  const Path path = dir_ / "eval.json";
  std::atomic<bool> begun = false;
  std::string second;
  std::thread other([&] {
    while (!begun) std::this_thread::yield();
    second = error_of([&] { write_atomically(path, "of the second"); });
  });
  const std::string first = error_of([&] {
    write_atomically(path, [&](FileWriter& out) {
      out.write("half of the first");
      begun = true;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      EXPECT_FALSE(std::filesystem::exists(path)) << read_text(path);
      out.write(", and all of it");
    });
  });
  other.join();
  EXPECT_EQ(first, "no error");
  EXPECT_EQ(second, "no error");
  EXPECT_EQ(read_text(path), "of the second");
  EXPECT_EQ(entries(), 1);
}

TEST_F(File, FullDisk) {
  expect_parts(error_of([] { FileWriter("/dev/full").write("x"); }), {"/dev/full: cannot write", "No space left on device"});
  Path path = dir_ / "log";
  write_atomically(path, "old");
  std::filesystem::create_symlink("/dev/full", dir_ / "log.tmp");  // the temporary file lands on a full disk
  expect_parts(error_of([&] { write_atomically(path, "new"); }), {"log.tmp: cannot write", "No space left on device"});
  EXPECT_EQ(read_text(path), "old");
  EXPECT_EQ(entries(), 1);
}

TEST_F(File, Errors) {
  for (auto read : {+[](const Path& p) { read_bytes(p); }, +[](const Path& p) { read_text(p); }, +[](const Path& p) { kd::file_size(p); }}) {
    expect_parts(error_of([&] { read(dir_ / "missing"); }), {"missing: ", "No such file or directory"});
    expect_parts(error_of([&] { read(dir_); }), {dir_.c_str(), "not a regular file"});
  }
  ASSERT_EQ(::mkfifo((dir_ / "fifo").c_str(), 0600), 0);
  expect_parts(error_of([&] { read_text(dir_ / "fifo"); }), {"fifo: not a regular file"});  // nobody writes to it: waiting would never end
  expect_parts(error_of([&] { write_atomically(dir_ / "no" / "such", "x"); }), {"such.tmp: cannot write", "No such file or directory"});
  write_atomically(dir_ / "file", "x");
  expect_parts(error_of([&] { make_directories(dir_ / "file"); }), {"file: cannot create the directory"});
  expect_parts(error_of([&] { make_directories(dir_ / "file" / "below"); }), {"below: cannot create the directory", "Not a directory"});
  make_directories(dir_ / "a" / "b");
  make_directories(dir_ / "a" / "b");  // already there is fine
  EXPECT_TRUE(std::filesystem::is_directory(dir_ / "a" / "b"));
}

TEST(Check, MessagesSayWhatAndWhere) {
  expect_parts(error_of([] { KD_CHECK(1 > 2, "op: {} rows, {} labels", 3, 4); }), {"op: 3 rows, 4 labels (tensor_test.cpp:"});
  EXPECT_EQ(error_of([] { KD_INPUT(false, "run.yaml:7: no key '{}'", "lr"); }), "run.yaml:7: no key 'lr'");
  EXPECT_EQ(as_one_line("a\nb\x1b[31m\x7f κ"), "a\\x0ab\\x1b[31m\\x7f κ");
}

}  // namespace
}  // namespace kd
