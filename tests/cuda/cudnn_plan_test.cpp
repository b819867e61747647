// cuDNN plans for every convolution of the model zoo, without a GPU: cuDNN plans for a card that it knows by description only (devices/*.json; h100.json is
// what such a card said of itself). What is proven: plans exist, are deterministic, exact in f32 and within the workspace; the book's plans rebuild.
// What only a card can show: that they compute the right numbers (the cases of conv), engines that need the driver (those that wrap cuBLASLt, those that
// compile at run time; they refuse here and are counted), and workspaces that follow from how many blocks fit on the card.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <tuple>

#include "kernels/conv/conv_planner.h"
#include "kernels/conv/zoo.h"
#include "tests/harness/error_of.h"

namespace kd::cuda {

// Defined in conv_cuda.cpp, reached by dispatch only.
void conv_fprop(Stream, const ConvFpropArgs&);
void conv_dgrad(Stream, const ConvDgradArgs&);
void conv_wgrad(Stream, const ConvWgradArgs&);

namespace {

const char* const kDevices[] = {"h100", "h200"};
cudnn::DeviceDescription device(const std::string& name) { return cudnn::DeviceDescription::from_json(read_text(Path(KD_DEVICE_DIR) / (name + ".json"))); }

std::vector<NamedBook> embedded() { return {{"plan book", PlanBook::embedded()}}; }
std::vector<NamedBook> book_of(const std::string& text) {
  std::vector<std::string> problems;
  return {{"doctored", PlanBook::parse(text, "doctored", problems)}};
}

constexpr ConvShape kShape{.n = 128, .h = 32, .w = 32, .c = 64, .k = 64, .r = 3, .s = 3, .stride = 1, .pad = 1};
const ConvKey kKey{'F', DType::bf16, kShape};

// Distinct convolutions of both networks for one input.
std::vector<ZooConv> zoo(ZooStem stem, int64_t batch, int64_t image) {
  std::vector<ZooConv> all = zoo_convs(ZooNet::resnet18, stem, batch, image);
  for (const ZooConv& conv : zoo_convs(ZooNet::resnet50, stem, batch, image))
    if (std::none_of(all.begin(), all.end(), [&](const ZooConv& known) { return known.shape == conv.shape; })) all.push_back(conv);
  return all;
}

std::vector<ConvKey> keys(const std::vector<ZooConv>& convs, std::string_view ops, DType type) {
  std::vector<ConvKey> all;
  for (const ZooConv& conv : convs)
    for (char op : ops)
      if (!conv.is_stem || (op != 'D' && op != 'A')) all.push_back({op, type, conv.shape});
  return all;
}

TEST(Zoo, HasThePublishedNumberOfWeights) {
  // torchvision's parameter counts less its linear and batch-norm layers: 11,689,512 - 513,000 - 9,600 and 25,557,032 - 2,049,000 - 53,120.
  for (auto [net, published] : {std::pair{ZooNet::resnet18, 11'166'912}, {ZooNet::resnet50, 23'454'912}}) {
    int64_t weights = 0;
    int layers = 0;
    for (const ZooConv& conv : zoo_convs(net, ZooStem::imagenet, 1, 224)) {
      weights += conv.layers * conv.shape.k * conv.shape.r * conv.shape.s * (conv.is_stem ? 3 : conv.shape.c);
      layers += conv.layers;
    }
    EXPECT_EQ(weights, published);
    EXPECT_EQ(layers, net == ZooNet::resnet18 ? 20 : 53);
  }
  EXPECT_EQ(zoo_convs(ZooNet::resnet18, ZooStem::imagenet, 1, 224).back().shape.p(), 7);
  EXPECT_EQ(zoo_convs(ZooNet::resnet50, ZooStem::cifar, 1, 32).back().shape.h, 4);
}

TEST(CudnnPlan, ExistsForEveryConvolutionOfTheZoo) {
  std::map<std::string, std::string> on_first_device;
  for (const char* name : kDevices) {
    ConvPlanner planner(device(name), embedded());
    EXPECT_EQ(planner.device().device_class(), "sm90");
    std::printf("\n%s, cuDNN %zu\n%-42s %-8s %10s  engine\n", planner.device().name().c_str(), cudnnGetVersion(), "op type shape", "kernel", "workspace");
    int plans = 0, sm90 = 0, differing = 0;
    for (auto [stem, batch, image] : {std::tuple{ZooStem::imagenet, 128, 224},
                                      {ZooStem::imagenet, 256, 224},
                                      {ZooStem::cifar, 128, 32},
                                      {ZooStem::cifar, 256, 32},
                                      {ZooStem::cifar, 512, 32},
                                      {ZooStem::imagenet, 128, 32},
                                      {ZooStem::cifar, 16, 224}}) {
      const auto convs = zoo(stem, batch, image);
      auto wanted = keys(convs, "FIZBDAWV", DType::bf16);
      if (image == 32 && batch == 128)
        for (const ConvKey& key : keys(convs, "FIZBDAWV", DType::f32)) wanted.push_back(key);
      for (const ConvKey& key : wanted) {
        const cudnn::Plan* plan = nullptr;
        ASSERT_NO_THROW(plan = &planner.plan(key)) << to_string(key);
        ASSERT_GE(plan->workspace_bytes(), 0);
        ASSERT_LE(plan->workspace_bytes(), kConvWorkspaceBytes) << to_string(key);
        const std::string choice = cudnn::to_string(plan->choice());
        differing += on_first_device.try_emplace(to_string(key), choice).first->second != choice;
        ++plans;
        sm90 += plan->choice().hopper();
        std::printf("%-42s %-8s %10lld  %s\n", to_string(key).c_str(), plan->choice().hopper() ? "sm90" : "older",
                    static_cast<long long>(plan->workspace_bytes()), choice.c_str());
      }
    }
    const PlanStats stats = planner.stats();
    std::printf("%s: %d plans, %d with thread-block clusters, %lld from the book, %lld of the book's refused, %d other than for %s\n", name, plans, sm90,
                static_cast<long long>(stats.from_book), static_cast<long long>(stats.refused), differing, kDevices[0]);
    EXPECT_EQ(stats.misses, int64_t(on_first_device.size()));  // one plan per signature, also where two networks share it
    EXPECT_EQ(stats.hits + stats.misses, plans);
    EXPECT_GT(plans, 1800);
    EXPECT_GT(stats.from_book, 300);
  }
}

TEST(CudnnPlan, EveryWideBf16ConvolutionHasAClusterKernelToChooseFrom) {
  const auto h200 = device("h200");
  for (const ConvKey& key : keys(zoo(ZooStem::imagenet, 128, 224), "FZDAWV", DType::bf16)) {
    if (key.shape.c < 16) continue;  // the stem: cuDNN has only older kernels for 4 channels
    const cudnn::ConvGraph graph(graph_spec(key), h200);
    const auto proposals = graph.proposals(cudnn::Heuristic::a);
    EXPECT_TRUE(std::any_of(proposals.begin(), proposals.end(), [&](auto& choice) { return choice.hopper() && graph.build(choice, kConvWorkspaceBytes); }))
        << to_string(key);
  }
}

TEST(CudnnPlan, ADescriptionSurvivesBeingWrittenAndRead) {
  for (const char* name : kDevices) {
    const auto card = device(name);
    EXPECT_EQ(cudnn::DeviceDescription::from_json(card.json()).json(), card.json());
  }
  EXPECT_EQ(device("h100").name(), "NVIDIA H100 80GB HBM3");
}

TEST(CudnnPlan, RefusesRoundedFloats) {
  const auto h100 = device("h100");
  const cudnn::ConvGraph graph(graph_spec({'F', DType::f32, kShape}), h100);
  int exact = 0, rounded = 0;
  for (const auto& choice : graph.proposals(cudnn::Heuristic::a)) {
    std::string why_not;
    exact += graph.build(choice, kConvWorkspaceBytes, &why_not).has_value();
    rounded += why_not.find("tensor cores (TF32)") != why_not.npos;
  }
  EXPECT_GT(exact, 0);
  EXPECT_GT(rounded, 0);
}

TEST(CudnnPlan, KeepsToTheWorkspaceCap) {
  const auto h100 = device("h100");
  const cudnn::ConvGraph graph(graph_spec({'F', DType::bf16, {.n = 256, .h = 56, .w = 56, .c = 64, .k = 128, .r = 1, .s = 1, .stride = 2, .pad = 0}}), h100);
  const auto greedy = graph.proposals(cudnn::Heuristic::a).at(0);
  std::string why_not;
  const auto free = graph.build(greedy, int64_t(1) << 40);
  ASSERT_TRUE(free);
  ASSERT_GT(free->workspace_bytes(), kConvWorkspaceBytes);
  EXPECT_FALSE(graph.build(greedy, free->workspace_bytes() - 1, &why_not));
  EXPECT_NE(why_not.find("workspace"), why_not.npos) << why_not;
  EXPECT_TRUE(graph.build(greedy, free->workspace_bytes()));
}

TEST(CudnnPlan, ErrorsNameTheConvolutionAndTheReasons) {
  ConvPlanner planner(device("h100"), embedded());
  ConvKey key = kKey;
  key.shape.c = 0;
  const std::string error = error_of([&] { planner.plan(key); });
  EXPECT_NE(error.find("conv fprop"), error.npos) << error;
  EXPECT_NE(error.find(to_string(key)), error.npos) << error;
  EXPECT_NE(error.find("CUDNN_STATUS_"), error.npos) << error;
  EXPECT_NE(error_of([&] { planner.plan({'F', DType::u8, kShape}); }).find("dtype u8"), std::string::npos);
  EXPECT_NE(error_of([] { cudnn::DeviceDescription::from_json("{\"a\":1}"); }).find("CUDNN_STATUS_BAD_PARAM"), std::string::npos);
}

TEST(PlanCache, CountsHitsAndTellsKeysApart) {
  ConvPlanner planner(device("h100"), embedded());
  std::vector<ConvKey> all;
  for (char op : std::string_view("FBIZDAWV"))
    for (DType type : {DType::f32, DType::bf16}) all.push_back({op, type, kShape});
  for (int64_t ConvShape::*field : {&ConvShape::n, &ConvShape::h, &ConvShape::w, &ConvShape::c, &ConvShape::k, &ConvShape::stride, &ConvShape::pad}) {
    all.push_back(kKey);
    all.back().shape.*field *= 2;
  }
  std::vector<const cudnn::Plan*> plans;
  for (const ConvKey& key : all) plans.push_back(&planner.plan(key));
  EXPECT_EQ(planner.stats().misses, int64_t(all.size()));
  EXPECT_EQ(planner.stats().hits, 0);
  std::sort(plans.begin(), plans.end());
  EXPECT_EQ(std::unique(plans.begin(), plans.end()), plans.end());
  const cudnn::Plan* again = &planner.plan(all[0]);
  EXPECT_TRUE(std::binary_search(plans.begin(), plans.end(), again));
  EXPECT_EQ(planner.stats().hits, 1);
  EXPECT_EQ(planner.stats().misses, int64_t(all.size()));
  const std::string listing = planner.list();
  EXPECT_EQ(std::count(listing.begin(), listing.end(), '\n'), int64_t(all.size()));
  EXPECT_NE(listing.find("F bf16 n128h32w32c64k64r3s3st1p1 engine 62 "), listing.npos) << listing;
}

TEST(PlanBook, EveryPlanRebuildsOnBothDevices) {
  // Engines that hand a 1x1 convolution to cuBLASLt have this one knob. They ask the driver before they say yes.
  auto wraps_cublaslt = [](const PlanEntry& entry) { return entry.choice.knobs.size() == 1 && cudnn::knobs_text(entry.choice).starts_with("WORKSPACE:"); };
  for (const char* name : kDevices) {
    const auto card = device(name);
    const auto entries = PlanBook::embedded().entries();
    ASSERT_GT(entries.size(), 500u);
    int refused = 0, needs_card = 0, other_workspace = 0;
    for (const PlanEntry& entry : entries) {
      std::string why_not;
      const auto plan = cudnn::ConvGraph(graph_spec(entry.key), card).build(entry.choice, kConvWorkspaceBytes, &why_not);
      if (plan) {
        EXPECT_EQ(plan->choice(), entry.choice);
        other_workspace += plan->workspace_bytes() != entry.workspace_bytes;
      } else if (wraps_cublaslt(entry)) {
        EXPECT_EQ(entry.key.shape.r, 1) << to_string(entry);
        ++needs_card;
      } else {
        ++refused;
        std::printf("refused: %s: %s\n", to_string(entry).c_str(), why_not.c_str());
      }
    }
    std::printf("%s, cuDNN %zu: of %zu plans of the book %d are refused, %d more need a card (cuBLASLt); %d want another workspace than on the card\n", name,
                cudnnGetVersion(), entries.size(), refused, needs_card, other_workspace);
    EXPECT_LT(needs_card, int(entries.size()) / 3);
    if (cudnnGetVersion() / 100 == 919) {  // the version that the book was measured with
      EXPECT_EQ(refused, 0);
    }
  }
}

TEST(PlanBook, IsPreferredToTheHeuristics) {
  // Any plan but the first choice will do.
  const auto h100 = device("h100");
  const cudnn::ConvGraph graph(graph_spec(kKey), h100);
  const auto proposals = graph.proposals(cudnn::Heuristic::a);
  const auto plan = graph.build(proposals.at(5), kConvWorkspaceBytes);
  ASSERT_TRUE(plan && !(proposals[5] == proposals[0]));
  PlanBook mine;
  mine.add({.device = "sm90", .cudnn = 9, .key = kKey, .choice = proposals[5], .workspace_bytes = 0, .us = 1, .date = "2026-01-01"});

  ConvPlanner with_mine(device("h100"), {{"mine", mine}, {"plan book", PlanBook::embedded()}}, 9), with_book(device("h100"), embedded(), 9),
      with_none(device("h100"), {}, 9), other_version(device("h100"), {{"mine", mine}}, 8);
  EXPECT_EQ(with_mine.plan(kKey).choice(), proposals[5]);
  EXPECT_NE(with_mine.list().find(", mine\n"), std::string::npos) << with_mine.list();
  EXPECT_EQ(with_book.plan(kKey).choice(), PlanBook::embedded().find("sm90", 9, kKey)->choice);
  EXPECT_EQ(with_none.plan(kKey).choice(), proposals[0]);
  EXPECT_EQ(other_version.plan(kKey).choice(), proposals[0]);
  // Adding to what is there: the measured plan without the adding stands in.
  ConvKey added = kKey;
  added.op = 'V';
  with_book.plan(added);
  EXPECT_NE(with_book.list().find("plan book (W)"), std::string::npos) << with_book.list();
}

TEST(PlanBook, APlanThatCudnnRefusesFallsBackToTheHeuristics) {
  ConvPlanner plain(device("h100"), {});
  const auto first_choice = plain.plan(kKey).choice();
  for (const char* wrong : {"9999 -", "62 TILE_SIZE:99", "62 STREAM_K:3", "1 TILE_SIZE:0,TILE_SIZE:1", "0 KNOB77:3", "-5 -", "7 -"}) {
    ConvPlanner planner(device("h100"), book_of(fmt::format("sm90 9 F {} bf16 {} 0 1.0 2026-01-01\n", to_string(kShape), wrong)), 9);
    EXPECT_EQ(planner.plan(kKey).choice(), first_choice) << wrong;
    EXPECT_EQ(planner.stats().refused, 1) << wrong;
    EXPECT_EQ(planner.stats().from_book, 0) << wrong;
    EXPECT_NE(planner.list().find("refused"), std::string::npos) << wrong;
  }
  // A plan of another direction, and one that rounds floats.
  ConvPlanner f32(device("h100"), book_of(fmt::format("sm90 9 F {} f32 67 - 0 1.0 2026-01-01\n", to_string(kShape))), 9);
  EXPECT_NE(cudnn::to_string(f32.plan({'F', DType::f32, kShape}).choice()), "67 -");
  EXPECT_NE(f32.list().find("TF32"), std::string::npos) << f32.list();
}

TEST(PlanBook, CorruptLinesAreReportedAndSkipped) {
  const std::string good = fmt::format("sm90 9 F {} bf16 62 TILE_SIZE:4,TILEK:0 131 49.10 2026-01-01", to_string(kShape));
  auto problems_of = [&](const std::string& text, size_t entries) {
    std::vector<std::string> problems;
    EXPECT_EQ(PlanBook::parse(text, "book.txt", problems).size(), entries) << text;
    return problems;
  };
  EXPECT_TRUE(problems_of(good + "\r\n\n  # a comment\n" + good + " # and another", 1).empty());
  EXPECT_TRUE(problems_of("", 0).empty());
  for (auto [from, to, says] : {std::tuple{"sm90", "cuda90", "device 'cuda90'"},
                                {"sm90", "smx", "device"},
                                {" 9 ", " nine ", "cuDNN version 'nine'"},
                                {" F ", " Q ", "op 'Q'"},
                                {" F ", " FF ", "op 'FF'"},
                                {"bf16", "f16", "type 'f16'"},
                                {"n128", "m128", "shape 'm128"},
                                {"n128", "n0", "no convolution"},
                                {"st1", "st0", "no convolution"},
                                {"h32w32", "h-32w32", "no convolution"},
                                {"p1 ", "p1x ", "no convolution"},
                                {"n128", "n99999999999999999999", "shape"},
                                {" 62 ", " sixty ", "engine 'sixty'"},
                                {"TILEK:0", "TILEK", "knob 'TILEK'"},
                                {"TILEK:0", "TILE:0", "unknown knob 'TILE'"},
                                {"TILEK:0", "TILEK:x", "knob value 'x'"},
                                {" 131 ", " -1 ", "workspace -1"},
                                {"49.10", "nan", "not a positive"},
                                {"49.10", "0", "not a positive"},
                                {"2026-01-01", "today", "date 'today'"},
                                {" 2026-01-01", "", "9 fields"},
                                {"2026-01-01", "2026-01-01 extra", "11 fields"}}) {
    std::string line = good;
    line.replace(line.find(from), std::string_view(from).size(), to);
    const auto problems = problems_of(line + "\n" + good + "\n", 1);
    ASSERT_EQ(problems.size(), 1u) << line;
    EXPECT_TRUE(problems[0].starts_with("book.txt:1: ")) << problems[0];
    EXPECT_NE(problems[0].find(says), std::string::npos) << problems[0];
  }
  // A file of another kind: a few lines of complaint, no control characters.
  std::string garbage;
  for (int i = 0; i < 4000; ++i) garbage += char(i * 37 % 256);
  const auto problems = problems_of(garbage, 0);
  EXPECT_LE(problems.size(), 6u);
  for (const std::string& problem : problems) EXPECT_TRUE(std::all_of(problem.begin(), problem.end(), [](unsigned char c) { return c >= 32 && c < 127; }));
}

TEST(PlanBook, WritesWhatItReadsAndKeepsTheFaster) {
  const Path path = std::filesystem::temp_directory_path() / fmt::format("kd_plan_book_{}.txt", getpid());
  PlanBook::embedded().write(path, "first line\nsecond line");
  const std::string text = read_text(path);
  EXPECT_TRUE(text.starts_with("# first line\n# second line\n"));
  std::vector<std::string> problems;
  PlanBook read = PlanBook::parse(text, path.string(), problems);
  EXPECT_TRUE(problems.empty());
  ASSERT_EQ(read.size(), PlanBook::embedded().size());
  const auto before = PlanBook::embedded().entries(), after = read.entries();
  for (size_t i = 0; i < before.size(); ++i) EXPECT_EQ(to_string(before[i]), to_string(after[i]));
  std::filesystem::remove(path);

  PlanEntry entry = before[0];
  PlanBook faster, slower;
  entry.us = before[0].us * 2;
  slower.add(entry);
  entry.us = before[0].us / 2;
  faster.add(entry);
  entry.device = "sm100";  // another card: another plan
  faster.add(entry);
  read.add(slower);
  EXPECT_EQ(read.find("sm90", 9, entry.key)->us, before[0].us);
  read.add(faster);
  EXPECT_EQ(read.find("sm90", 9, entry.key)->us, before[0].us / 2);
  EXPECT_EQ(read.size(), before.size() + 1);
  EXPECT_EQ(read.find("sm90", 8, entry.key), nullptr);
}

TEST(PlanBook, ThePersonsBookComesFirst) {
  const Path path = std::filesystem::temp_directory_path() / fmt::format("kd_user_book_{}.txt", getpid());
  write_atomically(path, fmt::format("sm90 9 F {} bf16 62 - 0 1.0 2026-01-01\nnonsense\n", to_string(kShape)));
  setenv("KD_PLAN_BOOK", path.c_str(), 1);
  testing::internal::CaptureStderr();
  const auto books = default_books();
  EXPECT_NE(testing::internal::GetCapturedStderr().find(":2: 1 fields instead of 10"), std::string::npos);
  ASSERT_EQ(books.size(), 2u);
  EXPECT_EQ(books[0].book.size(), 1u);
  EXPECT_EQ(books[0].name, path.string());
  std::filesystem::remove(path);
  EXPECT_NE(error_of([] { default_books(); }).find(path.string()), std::string::npos);
  unsetenv("KD_PLAN_BOOK");
  EXPECT_EQ(default_books().size(), 1u);
}

TEST(ConvCuda, RefusesWhatCudnnWouldMisread) {
  // All of these are refused before the device is touched.
  alignas(16) static std::byte memory[64];
  const Stream stream{Device::cuda, nullptr};
  ConvFpropArgs args{.shape = kShape, .type = DType::bf16, .x = memory, .w = memory, .w_type = DType::bf16, .y = memory};
  auto says = [&](const ConvFpropArgs& wrong, const char* what) {
    const std::string error = error_of([&] { cuda::conv_fprop(stream, wrong); });
    EXPECT_NE(error.find(what), error.npos) << error;
  };
  auto wrong = args;
  wrong.w_type = DType::f32;
  says(wrong, "w is f32");
  wrong = args;
  wrong.bias = memory;
  says(wrong, "bias is f32");
  wrong = args;
  wrong.x = memory + 8;
  says(wrong, "x at ");
  wrong = args;
  wrong.z = memory + 2;
  says(wrong, "not aligned to 16 bytes");
  wrong = args;
  wrong.y = nullptr;
  says(wrong, "y is missing");
  EXPECT_NE(error_of([&] {
              cuda::conv_dgrad(stream, {.shape = kShape, .type = DType::bf16, .dy = memory + 8, .w = memory, .w_type = DType::bf16, .dx = memory});
            }).find("dy at "),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              cuda::conv_wgrad(stream, {.shape = kShape, .type = DType::bf16, .x = memory, .dy = memory, .dw = memory, .dw_type = DType::f32});
            }).find("dw is f32"),
            std::string::npos);
}

}  // namespace
}  // namespace kd::cuda
