// The dump of an evaluation and the numbers that are made of it.
#include "bench/analysis.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/base/check.h"
#include "engine/safetensors.h"

namespace kd {
namespace {

using nlohmann::json;

constexpr int64_t kPx = 4;

Tensor tensor(Shape shape, std::vector<float> values) { return Tensor::of<float>(shape, values); }

// Four images of three classes. S is right on 0 and 1, T1 on 0, 1 and 2, T2 on 3 alone; every map has its maximum in one corner of 2x2.
Dump small_dump() {
  auto corner = [](std::vector<int> at) {
    std::vector<float> maps(at.size() * 4, 0.f);
    for (size_t i = 0; i < at.size(); ++i) maps[i * 4 + size_t(at[i])] = 1;
    return tensor({int64_t(at.size()), 2, 2}, maps);
  };
  auto says = [](std::vector<int> classes) {
    std::vector<float> logits(classes.size() * 3, 0.f);
    for (size_t i = 0; i < classes.size(); ++i) logits[i * 3 + size_t(classes[i])] = 2;
    return tensor({int64_t(classes.size()), 3}, logits);
  };
  DumpedView test{.labels = {0, 1, 2, 0}, .models = {}};
  test.models.push_back({.name = "S", .logits = says({0, 1, 0, 2}), .maps = {{Cam::pred_class, corner({0, 1, 2, 3})}}});
  test.models.push_back({.name = "T1", .logits = says({0, 1, 2, 2}), .maps = {{Cam::pred_class, corner({0, 1, 2, 3})}}});
  test.models.push_back({.name = "T2", .logits = says({1, 0, 0, 0}), .maps = {{Cam::pred_class, corner({3, 2, 1, 0})}}});
  Dump dump{.px = kPx, .seed = 7, .views = {}, .heads = {}, .train_counts = {200, 50, 5}, .numbers = {{"train_top1_running", 60}}};
  test.masks = Tensor::zeros({4, kPx, kPx}, DType::u8);
  for (int64_t i = 0; i < 4; ++i) test.masks.data<uint8_t>()[i * kPx * kPx] = 1;
  dump.views["test"] = test;
  dump.views["train"] = {.labels = {0, 1, 2, 0, 1}, .models = {{.name = "S", .logits = says({0, 1, 2, 0, 0})}}};
  for (const char* m : {"S", "T1", "T2"}) dump.heads[m] = tensor({3, 2}, {1, 0, 0, 1, 1, 1});
  return dump;
}

class Files : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / fmt::format("kd_analysis_{}", ::getpid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void expect_refused(const TensorFile& file, const std::vector<std::string>& parts) {
    write_safetensors(folder_ / "bad.safetensors", file);
    try {
      read_dump(folder_ / "bad.safetensors");
      ADD_FAILURE() << "accepted: " << parts.at(0);
    } catch (const Error& e) {
      const std::string message = e.what();
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      for (const std::string& part : parts) EXPECT_NE(message.find(part), std::string::npos) << "\"" << part << "\" is missing in: " << message;
    }
  }

  // A whole dump as a file, to be spoiled.
  TensorFile good_file() {
    write_dump(folder_ / "good.safetensors", small_dump());
    return read_safetensors(folder_ / "good.safetensors");
  }
  static Tensor& tensor_of(TensorFile& file, const std::string& name) {
    for (NamedTensor& t : file.tensors)
      if (t.name == name) return t.value;
    throw Error("no " + name);
  }

  Path folder_;
};

TEST(Analysis, CountsWhatCanBeCountedByHand) {
  const json eval = json::parse(analyse(small_dump(), {}));
  EXPECT_EQ(eval["format"], 2);
  const json &test = eval["views"]["test"], &models = test["models"], &pairs = test["pairs"];
  EXPECT_EQ(models["S"]["top1"], 50);
  EXPECT_EQ(models["T1"]["top1"], 75);
  EXPECT_EQ(models["T2"]["top1"], 25);
  EXPECT_EQ(models["S"]["top1_many"], 50) << "class 0: images 0 and 3";
  EXPECT_EQ(models["S"]["top1_medium"], 100);
  EXPECT_EQ(models["S"]["top1_few"], 0);
  EXPECT_EQ(pairs["T1-S"]["agreement"], 0.75);
  EXPECT_EQ(pairs["T2-S"]["agreement"], 0.25);
  EXPECT_EQ(pairs["T1-T2"]["agreement"], 0);
  EXPECT_TRUE(pairs.contains("Ens-S") && pairs.contains("Ens-T1"));
  EXPECT_EQ(test["rk"]["1Tand1S_f"], 0.75) << "one batch";
  EXPECT_EQ(test["rk"]["T1T2_f"], 0);
  EXPECT_FALSE(test["rk"].contains("3Tand1S_f"));
  EXPECT_GT(pairs["T1-S"]["wasserstein_class"], 0);
  EXPECT_FALSE(models["S"].contains("ece_rk")) << "there are no training images in the student's view";
  EXPECT_FALSE(eval.contains("affinity"));
  EXPECT_EQ(eval["gap"]["gap"], 80 - 50);
  EXPECT_EQ(eval["gap"]["gap_rk"], 60 - 50);
  EXPECT_TRUE(eval["gap"]["gap_view"].is_null()) << "there is no student's view in this dump";
}

TEST(Analysis, TeachersAsTheRunHadThemAreThoseOfThePublishedNumbers) {
  Dump dump = small_dump();
  DumpedView view = dump.views["test"];
  view.masks = {};
  std::vector<float> wrong(3 * 3, 0.f);
  for (size_t i = 0; i < 3; ++i) wrong[i * 3 + 2 - (i == 2)] = 2;  // 2 2 1, where S says 0 1 0: never the same
  view.as_run = {{.name = "T1", .logits = tensor({3, 3}, wrong)}, {.name = "T2", .logits = tensor({3, 3}, wrong)}};
  dump.views["train_view"] = view;  // where the short batch counts
  const json eval = json::parse(analyse(dump, {})), &seen = eval["views"]["train_view"];
  EXPECT_EQ(seen["rk"]["1Tand1S_f"], 0);
  EXPECT_EQ(seen["pairs"]["T1-S"]["agreement"], 0.75) << "the textbook numbers are of teachers in evaluation mode";
  EXPECT_EQ(eval["views"]["test"]["models"]["S"]["ece_rk"], seen["models"]["S"]["ece_unweighted"]);
  write_dump(std::filesystem::temp_directory_path() / fmt::format("kd_as_run_{}", ::getpid()), dump);
  const Path file = std::filesystem::temp_directory_path() / fmt::format("kd_as_run_{}", ::getpid());
  EXPECT_EQ(json::parse(analyse(read_dump(file), {})), eval);
  std::filesystem::remove(file);
}

TEST(Analysis, Affinity) {
  Dump dump = small_dump();
  dump.numbers = {{"top1_base", .61}, {"top1_weak", .52}, {"top1_strong", .305}, {"top1_test", .65}};
  const json a = json::parse(analyse(dump, {}))["affinity"];
  EXPECT_NEAR(a["weak_base"].get<double>(), .852459, 1e-6);
  EXPECT_NEAR(a["strong_base"].get<double>(), .5, 1e-12);
  EXPECT_NEAR(a["weak_test"].get<double>(), .8, 1e-12);
}

TEST(Analysis, AttentionOfEqualAndOfOppositeCorners) {
  const json maps = json::parse(analyse(small_dump(), {}))["attention"]["views"]["test"]["pred_class"];
  EXPECT_EQ(maps["iou"]["T1-S"], 1);
  EXPECT_EQ(maps["iou"]["T1-T2"], 0);
  EXPECT_EQ(maps["iou"]["T1-T2-S"], 0);
  EXPECT_EQ(maps["iou_rk"]["T1-S"], 1);
  EXPECT_EQ(maps["skipped"]["T1-S"], 0);
  ASSERT_EQ(maps["sweep"]["T1-S"].size(), 6u);
  // Bilinear 2x2 -> 4x4 of a 1 in a corner: 9/16 and more in that quarter's four pixels, 1 in one of them.
  EXPECT_EQ(maps["area"]["S"], 4. / 16) << "threshold 0.4";
  const double inside = maps["truth_iou"]["S"];  // the object is the first pixel: a quarter of image 0's mask, outside of the others
  EXPECT_DOUBLE_EQ(inside, (1. / 4) / 4);
}

TEST_F(Files, RoundTripGivesTheSameNumbers) {
  const Dump dump = small_dump();
  write_dump(folder_ / "d.safetensors", dump);
  const Dump back = read_dump(folder_ / "d.safetensors");
  EXPECT_EQ(back.seed, dump.seed);
  EXPECT_EQ(back.numbers, dump.numbers);
  EXPECT_EQ(back.train_counts, dump.train_counts);
  EXPECT_EQ(analyse(back, {}), analyse(dump, {}));
  EXPECT_NE(analyse(back, {.threshold = 0.6}), analyse(dump, {})) << "the threshold can be changed afterwards";
}

TEST_F(Files, SpoiledDumpsAreRefused) {
  EXPECT_THROW(read_dump(folder_ / "nowhere.safetensors"), Error);
  TensorFile file = good_file();
  file.metadata["analysis_format"] = "1";
  expect_refused(file, {"bad.safetensors", "another version", "kd_bench eval"});
  file = good_file();
  file.metadata.erase("px");
  expect_refused(file, {"px"});
  file = good_file();
  std::erase_if(file.tensors, [](const NamedTensor& t) { return t.name == "test.labels"; });
  expect_refused(file, {"'test'", "labels"});
  file = good_file();
  std::erase_if(file.tensors, [](const NamedTensor& t) { return t.name.starts_with("test."); });
  expect_refused(file, {"no test view"});
  file = good_file();
  std::erase_if(file.tensors, [](const NamedTensor& t) { return t.name == "test.T1.logits"; });
  expect_refused(file, {"T1"});
  file = good_file();
  tensor_of(file, "test.T1.logits") = Tensor::zeros({3, 3}, DType::f32);
  expect_refused(file, {"T1", "other images"});
  file = good_file();
  tensor_of(file, "test.T2.logits") = Tensor::zeros({4, 2}, DType::f32);
  expect_refused(file, {"T2"});
  file = good_file();
  tensor_of(file, "test.S.cam.pred_class") = Tensor::zeros({4, 4}, DType::f32);
  expect_refused(file, {"pred_class", "S"});
  file = good_file();
  file.tensors.push_back({"test.S.cam.nonsense", Tensor::zeros({4, 2, 2}, DType::f32)});
  expect_refused(file, {"nonsense"});
  file = good_file();
  tensor_of(file, "train_counts") = Tensor::of<int64_t>({2}, {1, 2});
  expect_refused(file, {"2 class counts for 3 classes"});
  file = good_file();
  tensor_of(file, "test.masks") = Tensor::zeros({4, 4, 3}, DType::u8);
  expect_refused(file, {"masks"});
}

}  // namespace
}  // namespace kd
