// safetensors: what the official writer wrote, round trips, and headers made to hurt.
#include "engine/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/base/rng.h"

namespace kd {
namespace {

class Safetensors : public testing::Test {
 protected:
  void SetUp() override { make_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write_bytes(const std::string& bytes) { std::ofstream(file_, std::ios::binary) << bytes; }
  static std::string with_length(const std::string& header, uint64_t length) { return std::string(reinterpret_cast<const char*>(&length), 8) + header; }

  std::string error_of(const std::string& bytes) {
    write_bytes(bytes);
    try {
      read_safetensors(file_);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }
  // `header` as given, then `data_bytes` zeros.
  void expect_refused(const std::string& header, size_t data_bytes, std::initializer_list<const char*> parts) {
    const std::string error = error_of(with_length(header, header.size()) + std::string(data_bytes, '\0'));
    EXPECT_EQ(error.rfind(file_.string() + ": ", 0), 0u) << error;
    for (const char* part : parts) EXPECT_NE(error.find(part), std::string::npos) << "'" << part << "' is missing in: " << error.substr(0, 500);
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
    EXPECT_LT(error.size(), 500u);
  }

  Path folder_ = std::filesystem::temp_directory_path() / fmt::format("kd_safetensors_{}", ::getpid());
  Path file_ = folder_ / "t.safetensors";
};

template <class T>
std::vector<T> values_of(const TensorFile& file, std::string_view name, const Shape& shape) {
  const Tensor* t = file.find(name);
  EXPECT_NE(t, nullptr) << name;
  if (!t) return {};
  EXPECT_EQ(t->shape(), shape) << name << " is " << to_string(t->shape());
  EXPECT_EQ(t->dtype(), dtype_of<T>()) << name;
  return {t->data<T>(), t->data<T>() + t->elements()};
}

void expect_same(const std::vector<float>& got, const std::vector<float>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(expected[i]))
      EXPECT_TRUE(std::isnan(got[i])) << i;
    else
      EXPECT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(expected[i])) << i << ": " << got[i] << ", expected " << expected[i];
  }
}

TEST_F(Safetensors, ReadsWhatTheOfficialWriterWrote) {
  const TensorFile file = read_safetensors(KD_GOLDEN_DIR "/safetensors/official.safetensors");
  EXPECT_EQ(file.tensors.size(), 11u);
  EXPECT_EQ(file.metadata, (std::map<std::string, std::string>{{"format", "pt"}, {"who", "the official writer"}}));
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  expect_same(values_of<float>(file, "f32", {1, 11}), {0.f, -0.f, 1.f, -2.5f, 65504.f, 6e-8f, 6.1e-5f, inf, -inf, nan, 1.f / 3});
  expect_same(values_of<float>(file, "f64", {11}), {0.f, -0.f, 1.f, -2.5f, 65504.f, 6e-8f, 6.1e-5f, inf, -inf, nan, 1.f / 3});
  // Halves: 6e-8 is the smallest subnormal 2^-24, 6.1e-5 the subnormal 1023 * 2^-24, 1/3 rounds to 1365 * 2^-12.
  expect_same(values_of<float>(file, "f16", {11}), {0.f, -0.f, 1.f, -2.5f, 65504.f, 0x1p-24f, 1023 * 0x1p-24f, inf, -inf, nan, 1365 * 0x1p-12f});
  std::vector<float> widened;
  for (bf16 v : values_of<bf16>(file, "bf16", {11})) widened.push_back(float(v));
  expect_same(widened, {0.f, -0.f, 1.f, -2.5f, 65536.f, float(bf16(6e-8f)), float(bf16(6.1e-5f)), inf, -inf, nan, 171 * 0x1p-9f});
  EXPECT_EQ(values_of<int64_t>(file, "i64", {3}), (std::vector<int64_t>{-(int64_t(1) << 62), 0, int64_t(1) << 62}));
  EXPECT_EQ(values_of<int32_t>(file, "i32", {2, 1}), (std::vector<int32_t>{INT32_MIN, INT32_MAX}));
  const auto bytes = values_of<uint8_t>(file, "u8", {2, 3, 2, 2});
  ASSERT_EQ(bytes.size(), 24u);
  for (size_t i = 0; i < 24; ++i) EXPECT_EQ(bytes[i], i);
  EXPECT_EQ(values_of<uint8_t>(file, "bool", {3}), (std::vector<uint8_t>{1, 0, 1}));
  EXPECT_EQ(values_of<int64_t>(file, "scalar", {}), (std::vector<int64_t>{7}));
  EXPECT_EQ(values_of<float>(file, "empty", {3, 0}).size(), 0u);
  EXPECT_EQ(values_of<float>(file, "a \"name\" – é", {1}), (std::vector<float>{1.5f}));
  EXPECT_EQ(file.find("nobody"), nullptr);
}

TEST_F(Safetensors, RoundTrip) {
  TensorFile file;
  file.tensors = {{"odd", Tensor::of<uint8_t>({3}, {1, 2, 3})},  {"w", Tensor::of<float>({2, 1, 1, 2}, {1.f, -0.f, 1e-40f, 3e38f})},
                  {"half", Tensor::of<bf16>({1}, {bf16(0.1f)})}, {"steps", Tensor::of<int64_t>({}, {int64_t(1) << 60})},
                  {"none", Tensor::empty({0, 5}, DType::f32)},   {"line\nbreak", Tensor::of<int32_t>({1}, {-5})}};
  file.metadata = {{"arch", "resnet18"}, {"note", "tab\t\"quoted\""}};
  write_safetensors(file_, file);
  const TensorFile back = read_safetensors(file_);
  ASSERT_EQ(back.tensors.size(), file.tensors.size());
  for (const NamedTensor& t : file.tensors) {
    const Tensor* other = back.find(t.name);
    ASSERT_NE(other, nullptr) << t.name;
    EXPECT_EQ(other->dtype(), t.value.dtype()) << t.name;
    ASSERT_EQ(other->shape(), t.value.shape()) << t.name;
    EXPECT_TRUE(t.value.bytes() == 0 || std::memcmp(other->raw(), t.value.raw(), size_t(t.value.bytes())) == 0) << t.name;
  }
  auto metadata = file.metadata;
  metadata["format"] = "pt";
  EXPECT_EQ(back.metadata, metadata);
  EXPECT_FALSE(std::filesystem::exists(file_.string() + ".tmp"));
}

// What other readers rely on: the header's form, and that every tensor is aligned to its element size.
TEST_F(Safetensors, FormOfAWrittenFile) {
  write_safetensors(file_, {{{"a", Tensor::of<uint8_t>({1}, {9})}, {"b", Tensor::of<float>({1}, {2.f})}, {"c", Tensor::of<int64_t>({}, {5})}}, {}});
  const std::string bytes = read_text(file_);
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  EXPECT_EQ(length % 8, 0u);
  ASSERT_EQ(bytes.size(), 8 + length + 13);
  const auto header = nlohmann::json::parse(bytes.substr(8, length));
  EXPECT_EQ(header, nlohmann::json::parse(R"({"__metadata__": {"format": "pt"}, "a": {"dtype": "U8", "shape": [1], "data_offsets": [12, 13]},
      "b": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}, "c": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]}})"));
  EXPECT_EQ(bytes[8], '{');
}

TEST_F(Safetensors, RefusesHostileHeaders) {
  const std::string good = R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  EXPECT_EQ(error_of(with_length(good, good.size()) + std::string(8, '\0')), "no error") << "the control";
  expect_refused("{}  ", 1, {"1 bytes after the last tensor"});
  EXPECT_EQ(error_of(with_length("{}  ", 4)), "no error") << "no tensors at all are fine";

  // The container.
  for (size_t n = 0; n < 8; ++n) EXPECT_NE(error_of(std::string(n, '{')).find("shorter than its length field"), std::string::npos);
  for (uint64_t length : {uint64_t(good.size() + 9), uint64_t(1) << 60, ~uint64_t(0)})
    EXPECT_NE(error_of(with_length(good, length) + std::string(8, '\0')).find(fmt::format("a header of {} bytes", length)), std::string::npos);
  expect_refused(good, 9, {"1 bytes after the last tensor"});
  expect_refused(good, 7, {"\"w\"", "[0, 8]", "7 data bytes"});

  // The JSON.
  expect_refused("", 0, {"byte 8"});
  expect_refused(" " + good, 8, {"byte 8"});
  expect_refused("[1]", 0, {"byte 8"});
  expect_refused("{\"w\" 1}", 0, {"not JSON", "byte 13"});
  expect_refused(good.substr(0, 20), 0, {"not JSON"});
  expect_refused(good + "x", 8, {"not JSON"});
  expect_refused(good + std::string("\0", 1), 8, {"not JSON"});
  expect_refused("{\"\xff\":1}", 0, {"not JSON"});
  expect_refused("{\"w\":1e999}", 0, {"out of range"});
  expect_refused("{\"w\":" + std::string(1 << 20, '['), 0, {"nested too deeply"});
  expect_refused("{\"w\":{\"dtype\":{\"a\":{\"b\":{}}}}}", 0, {"nested too deeply"});
  expect_refused(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, {"\"w\"", "twice"});
  expect_refused(R"({"w":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}})", 4, {"\"dtype\"", "twice"});
  expect_refused(R"({"__metadata__":{"a":"1","a":"2"}})", 0, {"\"a\"", "twice"});
  expect_refused(R"({"__metadata__":{"a":1}})", 0, {"metadata \"a\""});
  expect_refused(R"({"__metadata__":[]})", 0, {"__metadata__"});

  // One tensor's entry. A name never breaks the line.
  auto entry = [](const char* dtype, const char* shape, const char* offsets) {
    return fmt::format(R"({{"w":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", dtype, shape, offsets);
  };
  expect_refused(R"({"w":3})", 0, {"\"w\"", "not an object"});
  expect_refused(R"({"a\nb":{"dtype":"F32","shape":[2]}})", 8, {"\"a\\nb\"", "data_offsets"});
  expect_refused("{\"" + std::string(10'000, 'n') + "\":3}", 0, {"nnn..."});
  expect_refused(R"({"w":{"shape":[2],"data_offsets":[0,8]}})", 8, {"no 'dtype'"});
  expect_refused(entry("3", "[2]", "[0,8]"), 8, {"dtype"});
  expect_refused(entry("\"F8_E4M3\"", "[8]", "[0,8]"), 8, {"\"F8_E4M3\" is not supported", "BF16"});
  expect_refused(entry("\"f32\"", "[2]", "[0,8]"), 8, {"\"f32\" is not supported"});
  for (const char* shape : {"2", "[-1]", "[2.0]", "[\"2\"]", "[null]", "[99999999999999999999]"})
    expect_refused(entry("\"F32\"", shape, "[0,8]"), 8, {"\"w\"", "shape"});
  expect_refused(entry("\"F32\"", "[1,1,1,1,2]", "[0,8]"), 8, {"rank is 5", "at most 4"});
  for (const char* shape : {"[4611686018427387904]", "[4294967296,4294967296]", "[18446744073709551615]", "[9223372036854775808]", "[0,9223372036854775808]"})
    expect_refused(entry("\"F32\"", shape, "[0,8]"), 8, {"\"w\"", "overflows"});
  for (const char* offsets : {"8", "[0]", "[0,4,8]", "[-8,0]", "[0,8.0]", "[\"0\",\"8\"]"})
    expect_refused(entry("\"F32\"", "[2]", offsets), 8, {"data_offsets"});
  expect_refused(entry("\"F32\"", "[2]", "[8,0]"), 8, {"[8, 0]"});
  expect_refused(entry("\"F32\"", "[2]", "[0,18446744073709551615]"), 8, {"18446744073709551615"});
  expect_refused(entry("\"F32\"", "[3]", "[0,8]"), 8, {"needs 12 bytes", "hold 8"});
  expect_refused(entry("\"F32\"", "[]", "[0,8]"), 8, {"needs 4 bytes"});

  // Several tensors.
  auto two = [](const char* a, const char* b) {
    return fmt::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":{}}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{}}}}})", a, b);
  };
  expect_refused(two("[0,4]", "[2,6]"), 8, {"\"b\" overlaps", "byte 2"});
  expect_refused(two("[0,4]", "[0,4]"), 4, {"overlaps"});
  expect_refused(two("[0,4]", "[5,9]"), 9, {"data bytes 4 to 5 belong to no tensor"});
  expect_refused(two("[1,5]", "[5,9]"), 9, {"data bytes 0 to 1 belong to no tensor"});
}

TEST_F(Safetensors, DamagedFilesNeverDoAnythingElseThanLoadOrExplain) {
  const std::string whole = read_text(KD_GOLDEN_DIR "/safetensors/official.safetensors");
  uint64_t length = 0;
  std::memcpy(&length, whole.data(), 8);
  Rng rng(11, Purpose::test);
  int refused = 0;
  for (int round = 0; round < 400; ++round) {
    std::string bytes = whole;
    for (int k = 0; k < 2; ++k) bytes[rng.below(uint32_t(length) + 8)] = round % 2 ? char(rng.below(256)) : "{}[]\",:0129"[rng.below(11)];
    if (round % 7 == 0) bytes.resize(rng.below(uint32_t(bytes.size())));
    refused += error_of(bytes) != "no error";
  }
  EXPECT_GT(refused, 300);
  EXPECT_LT(refused, 400) << "some damage is inside names and metadata";
}

TEST_F(Safetensors, WriterContracts) {
  EXPECT_THROW(write_safetensors(file_, {{{"a", Tensor::zeros({1}, DType::f32)}, {"a", Tensor::zeros({1}, DType::f32)}}, {}}), Error);
  EXPECT_THROW(write_safetensors(file_, {{{"a", Tensor()}}, {}}), Error);
  EXPECT_THROW(write_safetensors(folder_ / "no" / "folder", {}), Error);
  EXPECT_FALSE(std::filesystem::exists(file_));
}

}  // namespace
}  // namespace kd
