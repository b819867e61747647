// Recipes: what a file or a word may say, what it is told otherwise, and the learning rate.
#include "kd/recipe.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "engine/base/check.h"
#include "engine/base/rng.h"
#include "kd/switches.h"

namespace kd {
namespace {

class RecipeFile : public testing::Test {
 protected:
  void SetUp() override { make_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Recipe load(const std::string& text, const std::vector<std::string>& words = {}) {
    std::ofstream(file_) << text;  // not write_atomically: hundreds of small files need no sync
    return load_recipe(file_, words);
  }
  std::string error_of(const std::string& text, const std::vector<std::string>& words = {}) {
    try {
      load(text, words);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }
  void expect_refused(const std::string& text, std::initializer_list<const char*> parts, const std::vector<std::string>& words = {}) {
    const std::string error = error_of(text, words);
    for (const char* part : parts) EXPECT_NE(error.find(part), std::string::npos) << "'" << part << "' is missing in: " << error;
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
  }

  Path folder_ = std::filesystem::temp_directory_path() / fmt::format("kd_recipe_{}", ::getpid());
  Path file_ = folder_ / "r.yaml";
};

TEST_F(RecipeFile, NothingGivesTheDefaults) {
  for (const Recipe& r : {load_recipe({}, {}), load(""), load("# only a comment\n"), load("optim:\n"), load("---\n")}) {
    EXPECT_EQ(r.name, "only_Sw");
    EXPECT_EQ(r.optim.epochs, 60);
    EXPECT_EQ(r.optim.milestones, (std::vector<int64_t>{30, 45, 54}));
    EXPECT_DOUBLE_EQ(r.loss.soft_weight, 0.4);
    EXPECT_EQ(r.data.px, 32);
  }
}

TEST_F(RecipeFile, NestedAndDottedMeanTheSame) {
  const Recipe nested = load("optim:\n  lr: 0.05\n  milestones: [3, 7]\nloss: {tau: 4, zscore: true}\nteachers:\n  - a/T1w/seed0\n  - T2s.safetensors\n");
  const Recipe dotted = load("optim.lr: 5e-2\noptim.milestones: [3, 7]\nloss.tau: 4.0\nloss.zscore: true\nteachers: [a/T1w/seed0, T2s.safetensors]\n");
  const Recipe words =
      load_recipe({}, {"optim.lr=.05", "optim.milestones=[3, 7]", "loss.tau=4", "loss.zscore=true", "teachers=[a/T1w/seed0, T2s.safetensors]"});
  EXPECT_EQ(nested.optim.lr, 0.05);
  EXPECT_EQ(nested.loss.tau, 4);
  EXPECT_TRUE(nested.loss.zscore);
  EXPECT_EQ(nested.teachers, (std::vector<std::string>{"a/T1w/seed0", "T2s.safetensors"}));
  EXPECT_EQ(nested.name, "T1w_T2s_Sw");
  EXPECT_EQ(nested, dotted);
  EXPECT_EQ(nested, words);
}

TEST_F(RecipeFile, WordsBeatTheFileAndLaterWordsEarlierOnes) {
  const Recipe r = load("optim.lr: 0.5\nseed: 4\n", {"optim.lr=0.1", "optim.lr=0.2", "data.root=a=b: [c] #d"});
  EXPECT_EQ(r.optim.lr, 0.2);
  EXPECT_EQ(r.seed, 4);
  EXPECT_EQ(r.data.root, "a=b: [c] #d");
}

TEST_F(RecipeFile, PresetsStandBelowTheFile) {
  const Recipe published = load("optim: {epochs: 10}\npreset: as-published\n");
  EXPECT_EQ(published.data.px, 224);
  EXPECT_EQ(published.optim.milestones, (std::vector<int64_t>{190, 195}));
  EXPECT_EQ(published.optim.epochs, 10) << "the file's, although it comes before the preset";
  const Recipe smoke = load("preset: as-published\n", {"preset=smoke"});
  EXPECT_EQ(smoke.optim.epochs, 2);
  EXPECT_EQ(smoke.model.width, 0.25);
  EXPECT_EQ(smoke.data.train_size, 512);
  EXPECT_EQ(smoke.data.test_size, 256);
  EXPECT_EQ(smoke.data.px, 32) << "nothing of the preset that was overridden";
  EXPECT_EQ(load("preset: paper\n"), load("preset: as-published\n")) << "an older name";
  EXPECT_EQ(load("preset: paper\n").preset, "as-published");
}

// The training of arXiv 2405.00739 as its scripts run it: role, long tail, epochs, milestones, network.
TEST_F(RecipeFile, PublishedBudgetsByRoleAndData) {
  struct Budget {
    std::vector<std::string> words;
    int64_t epochs;
    std::vector<int64_t> milestones;
    std::string arch;
  };
  const Budget budgets[] = {{{"name=T1w"}, 61, {25, 40, 60}, "resnet50"},
                            {{"name=T1w", "data.imbalance=100"}, 61, {55, 65}, "resnet50"},
                            {{}, 200, {190, 195}, "resnet18"},
                            {{"name=only_Ss"}, 200, {190, 195}, "resnet18"},
                            {{"teachers=[T1w.safetensors]"}, 200, {190, 195}, "resnet18"},
                            {{"teachers=[T1w.safetensors]", "name=mine", "data.imbalance=100"}, 175, {160, 165, 170}, "resnet18"},
                            {{"name=T1s", "data.name=imagenet_lt"}, 60, {35, 50}, "resnet50"},
                            {{"data.name=imagenet_lt"}, 165, {150, 155, 160}, "resnet18"},
                            {{"data.name=imagenet"}, 60, {}, "resnet18"}};
  for (const char* preset : {"as-published", "clean"})
    for (const Budget& budget : budgets) {
      std::vector<std::string> words{fmt::format("preset={}", preset), "data.name=cifar100"};
      words.insert(words.end(), budget.words.begin(), budget.words.end());
      const Recipe r = load_recipe({}, words);
      EXPECT_EQ(r.optim.epochs, budget.epochs) << r.name;
      EXPECT_EQ(r.optim.milestones, budget.milestones) << r.name;
      EXPECT_EQ(r.model.arch, budget.arch) << r.name;
      EXPECT_EQ(r.data.px, 224);
      EXPECT_EQ(r.model.stem, "imagenet");
      EXPECT_EQ(r.optim.weight_decay, 0);
      EXPECT_EQ(r.optim.lr, 0.1);
      EXPECT_EQ(r.optim.momentum, 0.9);
      EXPECT_EQ(r.optim.batch, 128);
      EXPECT_EQ(r.optim.warmup, budget.milestones.empty() ? 0 : 8);
      EXPECT_EQ(r.optim.schedule, budget.milestones.empty() ? "cosine" : "step");
      EXPECT_EQ(r.data.norm, r.data.name != "cifar100" ? "imagenet" : r.preset == "clean" ? "cifar100" : "cifar10");
      EXPECT_EQ(r.loss.alpha, 0.6);
      EXPECT_EQ(r.loss.tau, 3);
      const bool imagenet = r.data.name != "cifar100", published = r.preset == "as-published";
      EXPECT_EQ(view_pipeline(r.data), imagenet ? "imagenet" : "cifar");
      EXPECT_EQ(r.data.randaugment, published ? "timm_old" : "increasing");
      EXPECT_EQ(r.data.test_interp, published || imagenet ? "bilinear" : "bicubic") << "clean: as in training";
      EXPECT_EQ(r.optim.last_batch, published && imagenet ? "drop" : "keep");
    }
}

TEST_F(RecipeFile, PipelineFollowsTheDataUnlessItIsGiven) {
  auto pipeline = [](const std::vector<std::string>& words) { return view_pipeline(load_recipe({}, words).data); };
  for (const char* data : {"shapes", "cifar10", "cifar100"}) EXPECT_EQ(pipeline({std::string("data.name=") + data}), "cifar") << data;
  for (const char* data : {"images", "imagenet", "imagenet_lt"}) EXPECT_EQ(pipeline({std::string("data.name=") + data}), "imagenet") << data;
  EXPECT_EQ(pipeline({"data.pipeline=imagenet"}), "imagenet");
  EXPECT_EQ(pipeline({"data.name=imagenet", "data.pipeline=cifar"}), "cifar");
  EXPECT_EQ(load_recipe({}, {"preset=clean", "data.name=imagenet", "data.pipeline=cifar"}).data.test_interp, "bicubic");
  EXPECT_EQ(load_recipe({}, {}).data.test_interp, "bilinear");
}

TEST_F(RecipeFile, KindOfARun) {
  EXPECT_EQ(run_kind(load_recipe({}, {})), "baseline");
  EXPECT_EQ(run_kind(load_recipe({}, {"name=only_S"})), "baseline");
  EXPECT_EQ(run_kind(load_recipe({}, {"name=T1w"})), "teacher");
  EXPECT_EQ(run_kind(load_recipe({}, {"name=only_Sw", "teachers=[T1w.safetensors]"})), "student");
  const std::vector<std::string> compared{"attention.mode=similarity", "attention.references=[T1w.safetensors]"};
  EXPECT_EQ(run_kind(load_recipe({}, {"name=T2w", compared[0], compared[1]})), "teacher");
  EXPECT_EQ(run_kind(load_recipe({}, compared)), "baseline");
}

TEST_F(RecipeFile, AttentionIsComparedWithReferencesOrTeachers) {
  const Recipe student = load("teachers: [a/T1w/seed0, b/T2w/seed0]\nattention: {mode: distance, weight: -0.5}\n");
  EXPECT_EQ(attention_references(student), student.teachers);
  EXPECT_EQ(frozen_networks(student), student.teachers);
  const Recipe other = load("teachers: [a/T1w/seed0]\nattention: {mode: similarity, references: [c/T3w/seed0, a/T1w/seed0]}\n");
  EXPECT_EQ(attention_references(other), (std::vector<std::string>{"c/T3w/seed0", "a/T1w/seed0"}));
  EXPECT_EQ(frozen_networks(other), (std::vector<std::string>{"a/T1w/seed0", "c/T3w/seed0"}));
  EXPECT_TRUE(attention_references(load("teachers: [a]\n")).empty());

  expect_refused("name: T2w\nattention.mode: similarity\n", {"T2w: attention.mode is similarity", "attention.references or teachers"});
  expect_refused("name: T2w\nattention.weight: 0.5\n", {"T2w: attention.weight is set", "attention.mode is none"});
  expect_refused("attention.references: [a]\n", {"attention.references is set"});
  expect_refused("attention.mode: cosine\n", {"r.yaml:1:", "'cosine'", "none | similarity | distance"});
  expect_refused("attention.weight: 1001\n", {"r.yaml:1:", "from -1000 to 1000"});

  auto id = [](std::vector<std::string> words) { return recipe_id(load_recipe({}, words)); };
  const std::string base = id({"name=T2w", "attention.mode=similarity", "attention.references=[x/T1w/seed0]"});
  EXPECT_EQ(id({"name=T2w", "attention.mode=similarity", "attention.references=[/elsewhere/T1w/seed0/]"}), base);
  EXPECT_NE(id({"name=T2w", "attention.mode=similarity", "attention.references=[x/T1w/seed1]"}), base);
  EXPECT_NE(id({"name=T2w"}), base);
}

TEST_F(RecipeFile, NamesAreDerivedFromTeachersAndView) {
  EXPECT_EQ(load_recipe({}, {"view=strong"}).name, "only_Ss");
  EXPECT_EQ(load_recipe({}, {"teachers=[runs/shapes/T1w/seed0]"}).name, "T1w_Sw");
  EXPECT_EQ(load_recipe({}, {"teachers=[x/T1w/seed0/, ./T2s/seed12, T3w.safetensors]", "view=strong"}).name, "T1w_T2s_T3w_Ss");
  EXPECT_EQ(load_recipe({}, {"teachers=[runs/shapes/T1w/seed0]", "name=mine"}).name, "mine");
  expect_refused("teachers: ['runs/my teacher/seed0']\n", {"'my teacher_Sw'", "set name="});
}

TEST_F(RecipeFile, EveryValueSurvivesAsYaml) {
  const std::vector<std::vector<std::string>> settings{
      {},
      {"preset=as-published", "optim.lr=0.30000000000000004", "optim.weight_decay=1e-7", "seed=9007199254740992"},
      {"teachers=[\"a, b/T1w/seed0\", 'x: \"y\"/T2s/seed1', null/T3s]", "data.root=#tab\there \\ \"quoted\" \x01 äöü", "name=null"},
      {"optim.schedule=cosine", "model.init=~", "loss.alpha=2", "loss.soft_weight=9", "name=true", "loss.zscore=true"}};
  for (const auto& words : settings) {
    const Recipe r = load_recipe({}, words);
    EXPECT_EQ(load(to_yaml(r)), r) << to_yaml(r);
    EXPECT_EQ(to_yaml(load(to_yaml(r))), to_yaml(r));
  }
  const std::string text = to_yaml(load_recipe({}, {}));
  for (const char* line :
       {"preset: lite32\n", "\noptim:\n  lr: 0.1\n", "\n  milestones: [30, 45, 54]\n", "\n  soft_weight: 0.4\n", "\nteachers: []\n", "\n  root: \"\"\n"})
    EXPECT_NE(text.find(line), std::string::npos) << line << "is missing in:\n" << text;
}

TEST_F(RecipeFile, UnknownKeys) {
  expect_refused("optim:\n  lr: 0.1\n  lrr: 0.2\n", {"r.yaml:3:", "'optim.lrr'", "did you mean optim.lr?"});
  expect_refused("lr: 0.1\n", {"r.yaml:1:", "did you mean optim.lr?"});
  expect_refused("teacher: [a]\n", {"did you mean teachers?"});
  expect_refused("optim.weightdecay: 0\n", {"did you mean optim.weight_decay?"});
  expect_refused("xyzzy: 1\n", {"r.yaml:1:", "xyzzy", "docs/recipes.md"});
  expect_refused("data:\n  name:\n    a: 1\n", {"r.yaml:3:", "data.name is a section"});
  expect_refused("optim: 3\n", {"r.yaml:1:", "optim is '3'"});
  expect_refused("base: &b {lr: 1}\noptim:\n  <<: *b\n", {"r.yaml:1:", "'base.lr'"});
  expect_refused("optim:\n  <<: {lr: 1}\n", {"r.yaml:2:", "'optim.<<.lr'"});
  expect_refused("? [a, b]\n: 1\n", {"r.yaml:1:", "a key is a list"});
  expect_refused("", {"command line", "'optim.lrr'", "did you mean optim.lr?"}, {"optim.lrr=1"});
  expect_refused("", {"command line", "'seed'", "key=value"}, {"seed"});
  expect_refused("", {"command line", "'=3'", "key=value"}, {"=3"});
  expect_refused("seed: 1\ngrid: {seeds: [0]}\n", {"r.yaml:2:", "kd_bench grid"});
  expect_refused("", {"command line", "kd_bench grid"}, {"grid.seeds=[0]"});
  expect_refused(std::string(900, 'k') + ": 1\n", {"r.yaml:1:", "unknown key"});
}

TEST_F(RecipeFile, RepeatedKeys) {
  expect_refused("seed: 1\nview: weak\nseed: 2\n", {"r.yaml:3:", "seed is set twice", "r.yaml:1"});
  expect_refused("optim:\n  lr: 1\noptim.lr: 2\n", {"r.yaml:3:", "optim.lr is set twice", "r.yaml:2"});
  expect_refused("optim: {lr: 1}\nloss: {tau: 1}\noptim: {batch: 8}\n", {"r.yaml:3:", "optim is set twice"});
}

TEST_F(RecipeFile, WrongTypesAndRanges) {
  expect_refused("optim:\n  lr: fast\n", {"r.yaml:2:", "optim.lr is 'fast'", "a number from 0 to 100"});
  for (const char* bad :
       {"seed: 1.5", "seed: 1e3", "seed: 0x10", "seed: [1]", "seed:", "seed: ~", "seed: -1", "seed: 99999999999999999999", "seed: 1 2", "seed: {a: 1}"})
    expect_refused(bad, {"r.yaml:1:", "seed is", "a whole number"});
  for (const char* bad : {"loss.tau: .nan", "loss.tau: .inf", "loss.tau: inf", "loss.tau: nan", "loss.tau: 1e999", "loss.tau: 0", "loss.tau: true"})
    expect_refused(bad, {"r.yaml:1:", "loss.tau is", "a number"});
  for (const char* bad : {"yes", "1", "True", "on", "\"\""}) expect_refused(fmt::format("loss.zscore: {}", bad), {"loss.zscore is", "true or false"});
  expect_refused("view: sideways\n", {"r.yaml:1:", "'sideways'", "weak | strong"});
  expect_refused("model: {arch: resnet19}\n", {"resnet19", "resnet18"});
  expect_refused("teachers: runs/T1w\n", {"teachers is 'runs/T1w'", "a list"});
  expect_refused("teachers: [[a]]\n", {"teachers is a list", "expected a list"});
  expect_refused("optim.milestones: [5, 3]\n", {"optim.milestones", "ascending"});
  expect_refused("optim.milestones: [0]\n", {"optim.milestones"});
  expect_refused("optim.milestones: [a]\n", {"optim.milestones"});
  expect_refused("loss.alpha: 2\n", {"loss.alpha is 2", "loss.soft_weight"});
  for (const char* bad : {"../up", ".hidden", "a/b", "a b", "a\\nb"}) expect_refused(fmt::format("name: \"{}\"\n", bad), {"r.yaml:1:", "name is", "letters"});
  expect_refused("", {"command line", "optim.batch is '0'"}, {"optim.batch=0"});
  expect_refused("", {"command line", "data.holdout is '1'"}, {"data.holdout=1"});
  expect_refused("", {"command line", "teachers", "not a valid list"}, {"teachers=[a, b"});
}

TEST_F(RecipeFile, NotYaml) {
  expect_refused("optim: [unclosed\n", {"r.yaml:", "not valid YAML"});
  expect_refused("optim:\n\tlr: 1\n", {"r.yaml:2:"});
  expect_refused("- a\n- b\n", {"r.yaml:1:", "a list", "key: value"});
  expect_refused("hello\n", {"r.yaml:1:", "'hello'"});
  expect_refused("seed: 1\n---\nseed: 2\n", {"r.yaml", "one document"});
  for (const char* text : {"{seed: 1}\n{seed: 2}\n", "{seed: 1} x\n", ", seed: 1\n", "seed: 1\n...\nseed: 2\n"}) expect_refused(text, {"r.yaml"});
  EXPECT_EQ(load("---\nseed: 3\n...\n").seed, 3);
  expect_refused("seed: *nobody\n", {"r.yaml:1:", "not valid YAML"});
  expect_refused(std::string(100'000, '['), {"r.yaml:1:"});
  expect_refused(std::string(2 << 20, ' '), {"r.yaml", "1 MB"});
  expect_refused("a: &a {b: *a}\n", {"r.yaml:1:"});
  std::string doubling = "a0: &a0 {x: 1, y: 2}\n";  // a megabyte of such lines names more leaves than there are atoms
  for (int i = 1; i < 100; ++i) doubling += fmt::format("a{}: &a{} {{x: *a{}, y: *a{}}}\n", i, i, i - 1, i - 1);
  expect_refused(doubling, {"r.yaml:", "too deep or too long"});
  EXPECT_THROW(load_recipe(folder_ / "nowhere.yaml", {}), Error);
  EXPECT_THROW(load_recipe(folder_, {}), Error) << "a folder";
}

TEST_F(RecipeFile, DamagedFilesNeverDoAnythingElseThanLoadOrExplain) {
  const std::string whole = to_yaml(load_recipe({}, {"teachers=[a/T1w/seed0, b/T2s/seed0]"}));
  Rng rng(7, Purpose::test);
  int refused = 0;
  for (int round = 0; round < 400; ++round) {
    std::string text = whole;
    for (int k = 0; k < 3; ++k) text[rng.below(uint32_t(text.size()))] = char(rng.below(256));
    try {
      load(text);
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 100);
}

TEST_F(RecipeFile, IdentityIsTheExperimentNotThePlace) {
  auto id = [](std::vector<std::string> words) { return recipe_id(load_recipe({}, words)); };
  const std::string base = id({"name=S", "teachers=[runs/shapes/T1w/seed0]"});
  EXPECT_EQ(base.size(), 10u);
  EXPECT_EQ(base.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(id({"name=S", "teachers=[/else/where/T1w/seed0/]", "seed=5", "data.root=x", "data.packs=y"}), base);
  EXPECT_EQ(id({"name=S", "teachers=[runs/shapes/T1w/seed0]", "loss.soft_weight=0.4"}), base) << "written out or derived";
  std::set<std::string> ids{base};
  for (const char* word : {"optim.lr=0.2", "view=strong", "teachers=[runs/shapes/T1w/seed1]", "loss.zscore=true", "optim.milestones=[1]", "eval_every=2"})
    ids.insert(id({"name=S", "teachers=[runs/shapes/T1w/seed0]", word}));
  EXPECT_EQ(ids.size(), 7u);
  EXPECT_EQ(id({"data.train_list=a/b.txt"}), id({"data.train_list=/c/b.txt"}));
  EXPECT_NE(id({"data.train_list=a/b.txt"}), id({"data.train_list=a/d.txt"}));

  const Recipe a = load_recipe({}, {}), b = load_recipe({}, {"optim.lr=0.05", "seed=3"});
  EXPECT_EQ(recipe_difference(a, b), "optim.lr is 0.1 and 0.05");
  EXPECT_EQ(recipe_difference(a, load_recipe({}, {"seed=3"})), "");
}

TEST_F(RecipeFile, TheRecipesOfTheRepositoryLoad) {
  int count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(KD_GOLDEN_DIR "/../../recipes")) {
    if (entry.path().extension() != ".yaml") continue;
    const std::string text = read_text(entry.path());
    EXPECT_LE(std::count(text.begin(), text.end(), '\n'), 35) << entry.path();
    if (text.find("\ngrid:") != text.npos) continue;  // tests/bench/grid_test.cpp
    const Recipe r = load_recipe(entry.path(), {});
    EXPECT_EQ(r.teachers.empty(), entry.path().filename().string().find("teacher") != std::string::npos) << entry.path();
    ++count;
  }
  EXPECT_EQ(count, 5);
}

TEST_F(RecipeFile, HelpShowsEveryKey) {
  const std::string help = recipe_help();
  for (const char* part : {"optim.lr ", "0.0005", "mean_loss | mean_probs", "eval_every"}) EXPECT_NE(help.find(part), std::string::npos) << part;
}

// ---- Where values come from, and the switches of published code. ----

TEST_F(RecipeFile, EveryValueHasItsOrigin) {
  std::ofstream(file_) << "preset: clean\noptim:\n  lr: 0.05\n  epochs: 10\nview: weak\n";
  std::vector<Setting> settings = read_settings(file_);
  for (const char* word : {"optim.epochs=12", "optim.milestones=[]", "seed=0"}) settings.push_back(read_word(word));
  std::map<std::string, RecipeValue> values;
  for (const RecipeValue& v : recipe_values(settings)) EXPECT_TRUE(values.emplace(v.key, v).second) << v.key;
  auto expect = [&](const char* key, const std::string& value, const std::string& origin) {
    EXPECT_EQ(values.at(key).value, value) << key;
    EXPECT_EQ(values.at(key).origin, origin) << key;
  };
  expect("preset", "clean", file_.string() + ":1");
  expect("optim.lr", "0.05", file_.string() + ":3");
  expect("optim.epochs", "12", "command line");
  expect("optim.milestones", "[6, 9, 11]", "command line");
  expect("view", "weak", file_.string() + ":5");
  expect("seed", "0", "command line");
  expect("data.px", "224", "preset clean");
  expect("optim.batch", "128", "default");
  expect("loss.soft_weight", "0.4", "derived");
  expect("name", "only_Sw", "derived");
  expect("teachers", "[]", "default");
}

TEST_F(RecipeFile, ShowIsARecipeWithItsOriginsAligned) {
  std::ofstream(file_) << "preset: as-published\noptim: {lr: 0.05}\n";
  const std::string text = recipe_show(file_, {"data.root=#tab\there \" \x01", "teachers=[runs/T1w/seed0, \"T 2.safetensors\"]", "name=x"});
  const Recipe r = load_recipe(file_, {"data.root=#tab\there \" \x01", "teachers=[runs/T1w/seed0, \"T 2.safetensors\"]", "name=x"});
  EXPECT_EQ(load(text), r) << text;
  std::set<size_t> columns;
  std::istringstream lines(text);
  int origins = 0;
  for (std::string line; std::getline(lines, line);) {
    const size_t at = line.find("  # ");
    if (at == line.npos) continue;
    ++origins;
    columns.insert(at);
  }
  EXPECT_EQ(columns.size(), 1u) << text;
  EXPECT_EQ(size_t(origins), recipe_values({}).size());
  for (const char* part : {"r.yaml:2\n", "# command line\n", "# preset as-published, P14\n", "# default\n", "# derived\n"})
    EXPECT_NE(text.find(part), text.npos) << part << "is missing in:\n" << text;
  EXPECT_NE(text.find("# id " + recipe_id(r) + "\n"), text.npos) << text;
}

TEST_F(RecipeFile, DiffShowsWhatDiffersAndNothingElse) {
  std::ofstream(file_) << "preset: clean\noptim: {lr: 0.05}\n";
  const std::string text = recipe_diff("as-published", file_.string(), {});
  std::map<std::string, std::pair<std::string, std::string>> rows;
  std::istringstream lines(text);
  std::string line;
  std::getline(lines, line);
  EXPECT_NE(line.find("as-published"), line.npos);
  EXPECT_NE(line.find("r.yaml"), line.npos);
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string key, a, b;
    words >> key >> a >> b;
    rows[key] = {a, b};
  }
  const std::map<std::string, std::pair<std::string, std::string>> expected{{"preset", {"as-published", "clean"}},
                                                                            {"data.holdout", {"0", "0.1"}},
                                                                            {"data.norm", {"cifar10", "cifar100"}},
                                                                            {"data.cutout", {"16", "112"}},
                                                                            {"data.randaugment", {"timm_old", "increasing"}},
                                                                            {"data.test_interp", {"bilinear", "bicubic"}},
                                                                            {"teacher_bn", {"batch", "running"}},
                                                                            {"optim.lr", {"0.1", "0.05"}},
                                                                            {"optim.lr_shift", {"1", "0"}},
                                                                            {"select", {"test_best", "holdout"}},
                                                                            {"published_metrics", {"from_first_drop", "never"}}};
  EXPECT_EQ(rows, expected) << text;
  EXPECT_EQ(recipe_diff("smoke", "smoke", {"seed=3"}), "no difference\n");
  EXPECT_NE(recipe_diff("as-published", "clean", {"name=T1w", "data.cutout=8"}).find("select"), text.npos);
  EXPECT_EQ(recipe_diff("as-published", "clean", {"data.cutout=8"}).find("data.cutout"), text.npos) << "the words are for both";
  make_directories(folder_ / "run");
  std::ofstream(folder_ / "run" / "config.yaml") << to_yaml(load_recipe({}, {"seed=4"}));
  EXPECT_NE(recipe_diff((folder_ / "run").string(), "lite32", {}).find("seed"), text.npos) << "a run directory is its config.yaml";
  for (const char* wrong : {"as-publishd", "nowhere.yaml"}) {
    try {
      recipe_diff(wrong, "clean", {});
      ADD_FAILURE() << wrong;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(wrong), std::string::npos) << e.what();
    }
  }
}

TEST_F(RecipeFile, TheSwitchesAreWhatThePresetsSet) {
  auto values = [](const char* preset, const std::string& data) {
    std::map<std::string, std::string> out;
    for (const RecipeValue& v : recipe_values({read_word(std::string("preset=") + preset), read_word("data.name=" + data)})) out[v.key] = v.value;
    return out;
  };
  std::set<std::string> switched{"preset"};
  ASSERT_EQ(switches().size(), 30u);
  for (size_t i = 0; i < 30; ++i) {
    const Switch& s = switches()[i];
    EXPECT_EQ(s.id, fmt::format("P{}", i + 1));
    EXPECT_FALSE(s.fact.empty()) << s.id;
    EXPECT_TRUE(!s.settings.empty() || !s.here.empty()) << s.id;
    for (const Switch::Value& v : s.settings) {
      EXPECT_EQ(values("as-published", v.data).at(v.key), v.published) << s.id;
      EXPECT_EQ(values("clean", v.data).at(v.key), v.clean) << s.id;
      switched.insert(v.key);
    }
  }
  for (const char* data : {"cifar100", "imagenet", "imagenet_lt"}) {
    const auto published = values("as-published", data), clean = values("clean", data);
    for (const auto& [key, value] : published)
      EXPECT_TRUE(value == clean.at(key) || switched.count(key)) << key << " differs between the presets for " << data << " and is no switch";
  }
}

TEST_F(RecipeFile, TheSwitchesAreInTheDocumentation) {
  const std::string text = read_text(KD_GOLDEN_DIR "/../../docs/recipes.md");
  for (const Switch& s : switches()) {
    const size_t row = text.find("| " + s.id + " |");
    ASSERT_NE(row, text.npos) << s.id;
    const std::string line = text.substr(row, text.find('\n', row) - row);
    std::string plain;
    for (char c : line)
      if (c != '`') plain += c;
    EXPECT_NE(plain.find(s.reproduced), plain.npos) << s.id << ": " << line;
    for (const Switch::Value& v : s.settings) EXPECT_NE(line.find("`" + v.key + "=" + v.published + "`"), line.npos) << s.id << ": " << line;
  }
}

// ---- Learning rate: the ranges of epochs that the published schedules give, and one epoch later without the early step. ----

struct Range {
  int64_t first, last;
  double lr;
};

void expect_rates(Recipe::Optim optim, int64_t shift, const std::vector<Range>& ranges) {
  optim.lr_shift = shift;
  int64_t epoch = 0;
  for (const Range& r : ranges) {
    EXPECT_EQ(r.first, epoch) << "the table has a gap";
    for (; epoch <= r.last; ++epoch) {
      const double lr = learning_rate(optim, epoch);
      EXPECT_TRUE(std::isfinite(lr) && std::abs(lr - r.lr) <= 1e-12 * r.lr) << "epoch " << epoch << ", shift " << shift << ": " << lr << ", expected " << r.lr;
    }
  }
  EXPECT_EQ(epoch, optim.epochs) << "the table ends early";
}

TEST(LearningRate, StepSchedules) {
  struct Job {
    int64_t epochs;
    std::vector<int64_t> milestones;
    std::vector<int64_t> last_official;  // last epoch of each plateau with the early step
  };
  const Job jobs[] = {{200, {190, 195}, {188, 193, 199}},
                      {175, {160, 165, 170}, {158, 163, 168, 174}},
                      {165, {150, 155, 160}, {148, 153, 158, 164}},
                      {61, {25, 40, 60}, {23, 38, 58, 60}},
                      {60, {35, 50}, {33, 48, 59}}};
  for (const Job& job : jobs) {
    Recipe::Optim optim;
    optim.epochs = job.epochs;
    optim.milestones = job.milestones;
    for (int64_t shift : {0, 1}) {
      std::vector<Range> ranges;
      for (int64_t e = 0; e < 8 - shift; ++e) ranges.push_back({e, e, 0.0125 * double(e + 1 + shift)});
      double lr = 0.1;
      for (int64_t last : job.last_official) {
        last = std::min(last + 1 - shift, job.epochs - 1);
        ranges.push_back({ranges.back().last + 1, last, lr});
        lr /= 10;
      }
      expect_rates(optim, shift, ranges);
    }
  }
}

TEST(LearningRate, Cosine) {
  Recipe::Optim o;
  o.schedule = "cosine";
  o.epochs = 60;
  o.warmup = 0;
  EXPECT_DOUBLE_EQ(learning_rate(o, 0), 0.1);
  EXPECT_NEAR(learning_rate(o, 30), 0.05, 1e-12);
  EXPECT_NEAR(learning_rate(o, 59), 6.85e-5, 5e-8);
  o.lr_shift = 1;
  EXPECT_NEAR(learning_rate(o, 0), 0.099931, 5e-7);
  EXPECT_NEAR(learning_rate(o, 29), 0.05, 1e-12);
  EXPECT_NEAR(learning_rate(o, 58), 6.85e-5, 5e-8);
  EXPECT_EQ(learning_rate(o, 59), 0.0);
  o.lr_shift = 0;
  o.eta_min = 0.02;
  EXPECT_NEAR(learning_rate(o, 30), 0.06, 1e-12);
  o.warmup = 4;
  EXPECT_DOUBLE_EQ(learning_rate(o, 0), 0.025);
}

TEST(LearningRate, DropsOfShortRuns) {
  Recipe::Optim o;
  o.warmup = 0;
  o.epochs = 2;  // 50, 75 and 90 % of 2, rounded up: 1, 2, 2
  EXPECT_DOUBLE_EQ(learning_rate(o, 0), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(o, 1), 0.01);
  o.epochs = 1;
  EXPECT_DOUBLE_EQ(learning_rate(o, 0), 0.1);
}

TEST(TeacherName, IsTheRunOrTheFile) {
  EXPECT_EQ(teacher_name("runs/shapes/T1w/seed0"), "T1w");
  EXPECT_EQ(teacher_name("runs/shapes/T1w/seed0/"), "T1w");
  EXPECT_EQ(teacher_name("T1w/seed0"), "T1w");
  EXPECT_EQ(teacher_name("some/where/resnet50.safetensors"), "resnet50");
  EXPECT_EQ(teacher_name("runs/T9"), "T9");
}

}  // namespace
}  // namespace kd
