#include "kd/recipe.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <numbers>
#include <sstream>
#include <type_traits>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/hash.h"

namespace kd {
namespace {

// ---- One value as text: parse and print are inverse. A parser returns false for anything that is not exactly its type. ----

template <class T>
bool parse_number(const std::string& text, T& out) {
  const char* end = text.data() + text.size();
  T value;
  auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || rest != end) return false;
  if constexpr (std::is_floating_point_v<T>)
    if (!std::isfinite(value)) return false;
  out = value;
  return true;
}
bool parse(const std::string& text, int64_t& out) { return parse_number(text, out); }
bool parse(const std::string& text, double& out) { return parse_number(text, out); }
bool parse(const std::string& text, bool& out) {
  out = text == "true";
  return out || text == "false";
}
bool parse(const std::string& text, std::string& out) {
  out = text;
  return true;
}

// For one line of YAML in double quotes, or of a message.
std::string escaped(std::string_view text) {
  std::string out;
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c < 0x20 || c == 0x7f)
      out += fmt::format("\\x{:02x}", c);
    else
      out += char(c);
  }
  return out;
}
std::string shortened(const std::string& text) { return escaped(text.size() <= 80 ? text : text.substr(0, 77) + "..."); }

std::string print(int64_t value) { return fmt::format("{}", value); }
std::string print(double value) { return fmt::format("{}", value); }  // the shortest text that reads back as the same double
std::string print(bool value) { return value ? "true" : "false"; }
std::string print(const std::string& value) {
  auto plain = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '.' || c == '/' || c == '-'; };
  const bool safe = !value.empty() && std::isalpha(static_cast<unsigned char>(value[0])) && std::all_of(value.begin(), value.end(), plain);
  if (safe && !YAML::Load(value).IsNull()) return value;
  return "\"" + escaped(value) + "\"";
}
template <class T>
std::string print(const std::vector<T>& values) {
  std::string text = "[";
  for (const T& v : values) text += (text.size() > 1 ? ", " : "") + print(v);
  return text + "]";
}

template <class T>
constexpr const char* kTypeName = "text";
template <>
constexpr const char* kTypeName<int64_t> = "a whole number";
template <>
constexpr const char* kTypeName<double> = "a number";
template <>
constexpr const char* kTypeName<bool> = "true or false";
template <>
constexpr const char* kTypeName<std::vector<int64_t>> = "a list of whole numbers, e.g. [30, 45]";
template <>
constexpr const char* kTypeName<std::vector<std::string>> = "a list, e.g. [runs/shapes/T1w/seed0, T2s.safetensors]";

// ---- What a field may hold: expected() is empty when the value is fine, else what it should be. ----

struct Any {
  template <class T>
  bool allows(const T&) const {
    return true;
  }
  std::string expected() const { return {}; }
};

struct Between {
  double low, high;
  bool allows(double v) const { return v >= low && v <= high; }
  bool allows(int64_t v) const { return allows(double(v)); }
  std::string expected() const { return fmt::format("from {} to {}", low, high); }
};

struct OneOf {
  std::vector<std::string> names;
  bool allows(const std::string& v) const { return std::find(names.begin(), names.end(), v) != names.end(); }
  std::string expected() const { return fmt::format("one of {}", fmt::join(names, " | ")); }
};

struct SoftWeight {
  bool allows(double v) const { return v == -1 || (v >= 0 && v <= 1000); }
  std::string expected() const { return "from 0 to 1000, or -1 for 1 - alpha"; }
};

struct Ascending {
  bool allows(const std::vector<int64_t>& v) const { return std::is_sorted(v.begin(), v.end()) && (v.empty() || v.front() >= 1); }
  std::string expected() const { return "ascending, from 1"; }
};

struct DirectoryName {
  bool allows(const std::string& v) const {
    auto good = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '.' || c == '-' || c == '+'; };
    return v.size() <= 200 && std::all_of(v.begin(), v.end(), good) && (v.empty() || v[0] != '.');
  }
  std::string expected() const { return "at most 200 letters, digits and _ . - +, since it names a folder"; }
};

// ---- The table of fields. ----

enum class Identity { counts, ignored, last_folders };  // whether a value is part of recipe_id; last_folders: without the folders above

struct Field {
  std::string key;
  std::function<void(Recipe&, const Setting&)> set;
  std::function<std::string(const Recipe&)> print;
  std::string expected, help;
  Identity identity;
};

std::string shown(const Setting& s) {
  if (s.kind == Setting::Kind::text) return fmt::format("'{}'", shortened(s.values.at(0)));
  return s.kind == Setting::Kind::empty ? "empty" : s.kind == Setting::Kind::section ? "a section" : "a list";
}

template <class T>
bool from_setting(const Setting& s, T& out) {
  return s.kind == Setting::Kind::text && parse(s.values.at(0), out);
}
template <class T>
bool from_setting(const Setting& s, std::vector<T>& out) {
  if (s.kind != Setting::Kind::list) return false;
  std::vector<T> values;
  for (const std::string& text : s.values)
    if (!parse(text, values.emplace_back())) return false;
  out = values;
  return true;
}

template <class Member, class Rule>
Field field(const char* key, Member member, Rule rule, const char* help, Identity identity = Identity::counts) {
  using T = std::remove_reference_t<decltype(member(std::declval<Recipe&>()))>;
  const std::string limits = rule.expected();
  std::string expected = std::is_same_v<T, std::string> && !limits.empty() ? limits : kTypeName<T> + (limits.empty() ? "" : " " + limits);
  auto set = [=](Recipe& recipe, const Setting& s) {
    T value{};
    KD_INPUT(from_setting(s, value) && rule.allows(value), "{}: {} is {}, expected {}", s.where, key, shown(s), expected);
    member(recipe) = value;
  };
  auto print_value = [=](const Recipe& recipe) { return print(member(recipe)); };
  return {key, set, print_value, expected, help, identity};
}
#define KD_KEY(member) \
#member, [](auto& r) -> auto& { return r.member; }

std::vector<std::string> accepted_presets() {
  std::vector<std::string> names = preset_names();
  names.push_back("paper");  // an older name of as-published
  return names;
}

// The one place to add a setting. Order is the order of to_yaml.
const std::vector<Field>& fields() {
  static const std::vector<Field> table{
      field(KD_KEY(name), DirectoryName{}, "of the run directory; empty: derived from teachers and view"),
      field(KD_KEY(preset), OneOf{accepted_presets()}, "set of defaults: native 32 px | the published runs | the same without their oddities | two tiny epochs",
            Identity::ignored),
      field(KD_KEY(data.name), OneOf{{"shapes", "cifar10", "cifar100", "images", "imagenet", "imagenet_lt"}}, "dataset; shapes is generated on the spot"),
      field(KD_KEY(data.root), Any{}, "folder of the dataset's files", Identity::ignored),
      field(KD_KEY(data.train_list), Any{}, "images, imagenet*: list of the training images; imagenet_lt needs it", Identity::last_folders),
      field(KD_KEY(data.test_list), Any{}, "images, imagenet*: list of the test images; imagenet_lt needs it", Identity::last_folders),
      field(KD_KEY(data.packs), Any{}, "images, imagenet*: folder of the packed files; empty: packs in the root", Identity::ignored),
      field(KD_KEY(data.pack_px), Between{0, 4096}, "images, imagenet*: larger images are packed with this short side; 0: as they are"),
      field(KD_KEY(data.imbalance), Between{1, 1000}, "largest class over smallest; 1: as it is"),
      field(KD_KEY(data.holdout), Between{0, 0.9}, "share of the training images kept for choosing the checkpoint"),
      field(KD_KEY(data.train_size), Between{10, 10'000'000}, "training images (shapes only)"),
      field(KD_KEY(data.test_size), Between{10, 10'000'000}, "test images (shapes only)"),
      field(KD_KEY(data.px), Between{8, 1024}, "side of the network's input; above 32 images are enlarged"),
      field(KD_KEY(data.norm), OneOf{{"cifar100", "cifar10", "imagenet"}}, "whose mean and deviation normalize the pixels"),
      field(KD_KEY(data.cutout), Between{0, 1024}, "side of the black square in the strong view; 0: none"),
      field(KD_KEY(data.pipeline), OneOf{{"auto", "cifar", "imagenet"}}, "operations of the views; auto: imagenet for images and imagenet*, else cifar"),
      field(KD_KEY(data.randaugment), OneOf{{"timm_old", "increasing"}}, "imagenet pipeline: what a level of RandAugment means in the strong view"),
      field(KD_KEY(data.test_interp), OneOf{{"bilinear", "bicubic"}}, "how images are resized for the test view"),
      field(KD_KEY(model.arch), OneOf{{"resnet18", "resnet50"}}, "network"),
      field(KD_KEY(model.stem), OneOf{{"cifar", "imagenet"}}, "3x3 at full resolution | 7x7 stride 2 and a pool"),
      field(KD_KEY(model.width), Between{1.0 / 64, 8}, "all channel counts times this"),
      field(KD_KEY(model.init), Any{}, "safetensors file to start from; empty: random", Identity::last_folders),
      field(KD_KEY(view), OneOf{{"weak", "strong"}}, "augmentation shown to the student and all its teachers"),
      field(KD_KEY(teachers), Any{}, "run directories or .safetensors files; none: a teacher or baseline", Identity::last_folders),
      field(KD_KEY(teacher_bn), OneOf{{"running", "batch"}}, "statistics in the teachers' batch norms"),
      field(KD_KEY(loss.combine), OneOf{{"mean_loss", "mean_probs", "mean_logits", "log_mean_prob"}}, "what of several teachers is averaged"),
      field(KD_KEY(loss.alpha), Between{0, 1000}, "weight of cross-entropy"),
      field(KD_KEY(loss.soft_weight), SoftWeight{}, "weight of distillation"),
      field(KD_KEY(loss.tau), Between{0.01, 1000}, "temperature of distillation"),
      field(KD_KEY(loss.zscore), Any{}, "standardize logits before distillation"),
      field(KD_KEY(attention.mode), OneOf{{"none", "similarity", "distance"}}, "what of the attention and the references' is added to the loss"),
      field(KD_KEY(attention.weight), Between{-1000, 1000}, "of that; similarity: below 0 imitates, distance: above 0"),
      field(KD_KEY(attention.references), Any{}, "run directories or .safetensors files; none: the teachers", Identity::last_folders),
      field(KD_KEY(optim.lr), Between{0, 100}, "learning rate after warm-up"),
      field(KD_KEY(optim.momentum), Between{0, 0.9999}, "of SGD"),
      field(KD_KEY(optim.weight_decay), Between{0, 1}, "of SGD"),
      field(KD_KEY(optim.batch), Between{2, 65536}, "images in a step"),
      field(KD_KEY(optim.epochs), Between{1, 100'000}, "passes over the training images"),
      field(KD_KEY(optim.schedule), OneOf{{"step", "cosine"}}, "of the learning rate"),
      field(KD_KEY(optim.milestones), Ascending{}, "step: epochs of the drops; empty: at 50, 75 and 90 % of epochs"),
      field(KD_KEY(optim.gamma), Between{0, 1}, "step: factor of a drop"),
      field(KD_KEY(optim.eta_min), Between{0, 100}, "cosine: learning rate at the end"),
      field(KD_KEY(optim.warmup), Between{0, 100'000}, "epochs of linear warm-up; 0: none"),
      field(KD_KEY(optim.lr_shift), Between{0, 1}, "1: schedule one epoch early, as when a scheduler is stepped before the first epoch"),
      field(KD_KEY(optim.last_batch), OneOf{{"keep", "drop"}}, "an epoch's last images that do not fill a batch"),
      field(KD_KEY(precision), OneOf{{"fp32", "bf16"}}, "of activations and matrix products"),
      field(KD_KEY(conv), OneOf{{"fast", "exact"}}, "on the CPU; fast: Winograd where it is faster; exact: sums of the products that the definition names"),
      field(KD_KEY(select), OneOf{{"holdout", "last", "test_best"}}, "which checkpoint is 'best'; test_best looks at the test images, as published code does"),
      field(KD_KEY(seed), Between{0, 9007199254740992.0}, "of initialisation, order and augmentation", Identity::ignored),
      field(KD_KEY(eval_every), Between{1, 100'000}, "epochs between evaluations"),
      field(KD_KEY(published_metrics), OneOf{{"never", "always", "from_first_drop"}}, "whether epochs record the published code's numbers while learning"),
  };
  return table;
}
#undef KD_KEY

const Field* find_field(const std::string& key) {
  for (const Field& f : fields())
    if (f.key == key) return &f;
  return nullptr;
}

bool is_section(const std::string& key) {
  return std::any_of(fields().begin(), fields().end(), [&](const Field& f) { return f.key.rfind(key + ".", 0) == 0; });
}

std::string last_part(const std::string& key) { return key.substr(key.rfind('.') + 1); }

// Levenshtein: insertions, deletions and replacements between two words.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = std::exchange(row[j], std::min({replaced, row[j] + 1, row[j - 1] + 1}));
    }
  }
  return row[b.size()];
}

// ---- Files and words. ----

// YAML::Load says nothing about what follows the first document, and YAML::LoadAll never returns from a file that begins with a comma.
bool is_one_document(const std::string& text) {
  struct Ignore : YAML::EventHandler {
    void OnDocumentStart(const YAML::Mark&) override {}
    void OnDocumentEnd() override {}
    void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
    void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
    void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
    void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
    void OnSequenceEnd() override {}
    void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
    void OnMapEnd() override {}
  } ignore;
  std::istringstream in(text);
  YAML::Parser parser(in);
  parser.HandleNextDocument(ignore);
  return !parser;
}

// yaml-cpp keeps the first of two equal keys without a word and knows nothing of ours, so the tree is walked here.
class FileReader {
 public:
  explicit FileReader(const Path& path) : path_(path.string()) {
    constexpr int64_t kMaxBytes = 1 << 20;
    KD_INPUT(kd::file_size(path) <= kMaxBytes, "{}: larger than 1 MB, surely not a recipe", path_);
    const std::string text = read_text(path);
    try {
      root_ = YAML::Load(text);
      KD_INPUT(is_one_document(text), "{}: something follows the first YAML document; a recipe is one document", path_);
    } catch (const YAML::Exception& e) {
      throw Error(fmt::format("{}: not valid YAML: {}", at(e.mark), e.msg));
    }
  }

  std::vector<Setting> settings() {
    if (root_.IsNull()) return {};
    KD_INPUT(root_.IsMap(), "{}: the recipe is {}, expected 'key: value' lines", at(root_.Mark()), shown(leaf("", root_, "")));
    walk(root_, "", 0);
    return std::move(settings_);
  }

 private:
  std::string at(const YAML::Mark& mark) const { return mark.is_null() ? path_ : fmt::format("{}:{}", path_, mark.line + 1); }

  static Setting leaf(const std::string& key, const YAML::Node& node, const std::string& where) {
    Setting s{.key = key, .where = where};
    if (node.IsScalar()) {
      s.values = {node.Scalar()};
    } else if (node.IsSequence()) {
      s.kind = Setting::Kind::list;
      for (const YAML::Node& item : node) {
        if (!item.IsScalar()) s.kind = Setting::Kind::nested;
        s.values.push_back(item.IsScalar() ? item.Scalar() : "");
      }
    } else {
      s.kind = node.IsMap() ? Setting::Kind::section : Setting::Kind::empty;
    }
    return s;
  }

  // The limits are for aliases: a file of one line can name a tree without end.
  void walk(const YAML::Node& section, const std::string& prefix, int depth) {
    for (const auto& entry : section) {
      const std::string where = at(entry.first.Mark());
      KD_INPUT(entry.first.IsScalar(), "{}: a key is {}, expected a word", where, shown(leaf("", entry.first, where)));
      const std::string key = (prefix.empty() ? "" : prefix + ".") + entry.first.Scalar();
      auto [first, is_new] = seen_.emplace(key, where);
      KD_INPUT(is_new, "{}: {} is set twice, first at {}", where, shortened(key), first->second);
      KD_INPUT(depth < 8 && seen_.size() < 10'000, "{}: too deep or too long to be a recipe", where);
      if (entry.second.IsMap() && entry.second.size() > 0)
        walk(entry.second, key, depth + 1);
      else
        settings_.push_back(leaf(key, entry.second, where));
    }
  }

  std::string path_;
  YAML::Node root_;
  std::vector<Setting> settings_;
  std::map<std::string, std::string> seen_;
};

// Null for the name of a section that holds nothing, which is harmless.
const Field* known_field(const Setting& s) {
  if (const Field* f = find_field(s.key)) return f;
  KD_INPUT(s.key != "grid" && !s.key.starts_with("grid."), "{}: 'grid' makes this a grid recipe; run it with 'kd_bench grid'", s.where);
  if (is_section(s.key)) {
    KD_INPUT(s.kind == Setting::Kind::empty || s.kind == Setting::Kind::section, "{}: {} is {}, expected 'key: value' lines", s.where, s.key, shown(s));
    return nullptr;
  }
  std::vector<std::string> known;
  for (const Field& f : fields()) {
    KD_INPUT(!s.key.starts_with(f.key + "."), "{}: {} is a section, expected {}", s.where, f.key, f.expected);
    known.push_back(f.key);
  }
  const std::string hint = did_you_mean(s.key, known);
  throw Error(fmt::format("{}: unknown key '{}'{}", s.where, shortened(s.key), hint.empty() ? "; docs/recipes.md lists all keys" : hint));
}

// ---- Presets. ----

// What arXiv 2405.00739's scripts spend on a run: network, epochs, and where the learning rate drops. Data that it does not have get CIFAR-100's.
void published_budget(Recipe& r, const Recipe& wanted) {
  const bool teacher = run_kind(wanted) == "teacher";
  struct Budget {
    int64_t epochs;
    std::vector<int64_t> milestones;  // none: cosine
  };
  auto choose = [&]() -> Budget {
    if (wanted.data.name == "imagenet") return {60, {}};
    if (wanted.data.name == "imagenet_lt") return teacher ? Budget{60, {35, 50}} : Budget{165, {150, 155, 160}};
    if (wanted.data.imbalance > 1) return teacher ? Budget{61, {55, 65}} : Budget{175, {160, 165, 170}};
    return teacher ? Budget{61, {25, 40, 60}} : Budget{200, {190, 195}};
  };
  const Budget budget = choose();
  r.data.px = 224;
  r.model.arch = teacher ? "resnet50" : "resnet18";
  r.model.stem = "imagenet";
  r.optim.weight_decay = 0;
  r.optim.epochs = budget.epochs;
  r.optim.milestones = budget.milestones;
  if (budget.milestones.empty()) {
    r.optim.schedule = "cosine";
    r.optim.warmup = 0;
  }
}

std::string published_norm(const std::string& data, const char* of_small_images) { return data.starts_with("imagenet") ? "imagenet" : of_small_images; }

// `wanted` has everything that is set: some presets depend on the data and on whether a teacher is trained.
void apply_preset(Recipe& r, const Recipe& wanted) {
  r.preset = wanted.preset == "paper" ? "as-published" : wanted.preset;
  if (r.preset == "as-published") {
    published_budget(r, wanted);
    r.data.holdout = 0;
    r.data.norm = published_norm(wanted.data.name, "cifar10");
    r.teacher_bn = "batch";
    r.published_metrics = "from_first_drop";
    r.select = "test_best";
    r.optim.lr_shift = 1;
    r.data.randaugment = "timm_old";
    if (wanted.data.name.starts_with("imagenet")) r.optim.last_batch = "drop";
  } else if (r.preset == "clean") {
    published_budget(r, wanted);
    r.data.norm = published_norm(wanted.data.name, wanted.data.name == "cifar10" ? "cifar10" : "cifar100");
    r.data.cutout = 112;  // hides as much of an enlarged image as 16 pixels do of a native one
    const bool trained_bicubic = view_pipeline(wanted.data) == "cifar";
    r.data.test_interp = trained_bicubic ? "bicubic" : "bilinear";
  } else if (r.preset == "smoke") {
    r.data.train_size = 512;
    r.data.test_size = 256;
    r.model.width = 0.25;
    r.optim.epochs = 2;
    r.optim.warmup = 0;  // eight epochs of warm-up would be all of it
  }
}

// Whole numbers, rounded up: a drop at "50 % of 3 epochs" comes after the second.
std::vector<int64_t> default_milestones(int64_t epochs) {
  std::vector<int64_t> at;
  for (int64_t percent : {50, 75, 90}) at.push_back((epochs * percent + 99) / 100);
  return at;
}

std::string derived_name(const Recipe& r) {
  std::string name = r.teachers.empty() ? "only" : "";
  for (const std::string& teacher : r.teachers) name += (name.empty() ? "" : "_") + teacher_name(teacher);
  return name + (r.view == "weak" ? "_Sw" : "_Ss");
}

Path without_trailing_slash(std::string_view text) {
  const Path path = Path(text).lexically_normal();
  return path.filename().empty() ? path.parent_path() : path;
}
bool is_seed_folder(const Path& path) { return path.filename().string().rfind("seed", 0) == 0; }

// "T1w/seed0" of runs/shapes/T1w/seed0, "T1w.safetensors" of any/T1w.safetensors.
std::string without_folders(const std::string& text) {
  const Path path = without_trailing_slash(text);
  return is_seed_folder(path) ? (path.parent_path().filename() / path.filename()).string() : path.filename().string();
}

// The recipe as recipe_id sees it.
Recipe placeless(Recipe r) {
  for (auto* networks : {&r.teachers, &r.attention.references})
    for (std::string& t : *networks) t = without_folders(t);
  for (std::string* file : {&r.model.init, &r.data.train_list, &r.data.test_list}) *file = without_folders(*file);
  return r;
}

}  // namespace

std::vector<Setting> read_settings(const Path& file) { return FileReader(file).settings(); }

Setting read_word(const std::string& word) {
  const size_t equals = word.find('=');
  KD_INPUT(equals != word.npos && equals > 0, "command line: '{}' is not a setting, expected key=value", shortened(word));
  const std::string key = word.substr(0, equals), text = word.substr(equals + 1);
  Setting s{.key = key, .values = {text}, .where = "command line"};
  // Only lists have a syntax of their own; anything else is taken as it stands, so that a path may hold any character.
  if (text.empty() || text[0] != '[') return s;
  try {
    const YAML::Node list = YAML::Load(text);
    KD_INPUT(list.IsSequence() && is_one_document(text), "{}: {}={}: not a valid list", s.where, shortened(key), shortened(text));
    s.kind = Setting::Kind::list;
    s.values.clear();
    for (const YAML::Node& item : list) {
      if (!item.IsScalar()) s.kind = Setting::Kind::nested;
      s.values.push_back(item.IsScalar() ? item.Scalar() : "");
    }
  } catch (const YAML::Exception& e) {
    throw Error(fmt::format("{}: {}={}: not a valid list: {}", s.where, shortened(key), shortened(text), e.msg));
  }
  return s;
}

namespace {

struct Resolved {
  Recipe preset, recipe;  // before and after the settings
};

Resolved resolve(const std::vector<Setting>& settings) {
  auto apply = [&](Recipe& r) {
    for (const Setting& s : settings)
      if (const Field* f = known_field(s)) f->set(r, s);
  };
  Recipe wanted, recipe;
  apply(wanted);
  apply_preset(recipe, wanted);
  const Recipe preset = recipe;
  apply(recipe);
  recipe.preset = preset.preset;

  if (recipe.loss.soft_weight < 0) {
    KD_INPUT(recipe.loss.alpha <= 1, "loss.alpha is {}, so loss.soft_weight cannot be 1 - alpha; set it too", recipe.loss.alpha);
    recipe.loss.soft_weight = 1 - recipe.loss.alpha;
  }
  if (recipe.optim.schedule == "step" && recipe.optim.milestones.empty()) recipe.optim.milestones = default_milestones(recipe.optim.epochs);
  if (recipe.name.empty()) {
    recipe.name = derived_name(recipe);
    KD_INPUT(DirectoryName{}.allows(recipe.name), "the teachers give the run the name '{}', expected {}; set name=", recipe.name, DirectoryName{}.expected());
  }
  const Recipe::Attention& attention = recipe.attention;
  if (attention.mode == "none")
    KD_INPUT(attention.weight == 0 && attention.references.empty(), "{}: attention.{} is set, but attention.mode is none; set it to similarity or distance",
             recipe.name, attention.weight != 0 ? "weight" : "references");
  else
    KD_INPUT(!attention_references(recipe).empty(), "{}: attention.mode is {}, but there is nothing to compare with; give attention.references or teachers",
             recipe.name, attention.mode);
  return {preset, recipe};
}

}  // namespace

Recipe make_recipe(const std::vector<Setting>& settings) { return resolve(settings).recipe; }

Recipe load_recipe(const Path& file, const std::vector<std::string>& words) {
  std::vector<Setting> settings;
  if (!file.empty()) settings = read_settings(file);
  for (const std::string& word : words) settings.push_back(read_word(word));
  return make_recipe(settings);
}

std::vector<RecipeValue> recipe_values(const std::vector<Setting>& settings) {
  const auto [preset, recipe] = resolve(settings);
  const Recipe plain;
  std::vector<RecipeValue> values;
  for (const Field& f : fields()) {
    const std::string value = f.print(recipe), before = f.print(preset);
    std::string origin = value != before ? "derived" : before != f.print(plain) ? "preset " + recipe.preset : "default";
    for (const Setting& s : settings)
      if (s.key == f.key) origin = s.where;
    values.push_back({f.key, value, origin});
  }
  return values;
}

std::string run_kind(const Recipe& recipe) {
  if (!recipe.teachers.empty()) return "student";
  return recipe.name.empty() || recipe.name.starts_with("only_") ? "baseline" : "teacher";
}

std::vector<std::string> attention_references(const Recipe& recipe) {
  if (recipe.attention.mode == "none") return {};
  return recipe.attention.references.empty() ? recipe.teachers : recipe.attention.references;
}

std::vector<std::string> frozen_networks(const Recipe& recipe) {
  std::vector<std::string> networks = recipe.teachers;
  for (const std::string& reference : attention_references(recipe))
    if (std::find(networks.begin(), networks.end(), reference) == networks.end()) networks.push_back(reference);
  return networks;
}

std::string view_pipeline(const Recipe::Data& data) {
  if (data.pipeline != "auto") return data.pipeline;
  return data.name == "images" || data.name.starts_with("imagenet") ? "imagenet" : "cifar";
}

const std::vector<std::string>& preset_names() {
  static const std::vector<std::string> names{"lite32", "as-published", "clean", "smoke"};
  return names;
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& known) {
  if (word.size() > 100) return "";
  const std::string* best = nullptr;
  size_t distance = SIZE_MAX;
  for (const std::string& k : known) {
    const size_t d = std::min(edit_distance(word, k), edit_distance(last_part(word), last_part(k)) + 1);  // the section counts for at most one letter
    if (d < distance) best = &k, distance = d;
  }
  const size_t close = std::max<size_t>(1, last_part(word).size() / 2);
  return best && distance <= close ? fmt::format("; did you mean {}?", *best) : "";
}

std::string to_yaml(const Recipe& recipe) {
  std::string text, section;
  for (const Field& f : fields()) {
    const size_t dot = f.key.find('.');
    const std::string now = dot == f.key.npos ? "" : f.key.substr(0, dot);
    if (now != section && !now.empty()) text += now + ":\n";
    section = now;
    text += fmt::format("{}{}: {}\n", now.empty() ? "" : "  ", last_part(f.key), f.print(recipe));
  }
  return text;
}

std::string recipe_id(const Recipe& recipe) {
  const Recipe r = placeless(recipe);
  std::string text;
  for (const Field& f : fields())
    if (f.identity != Identity::ignored) text += fmt::format("{}={}\n", f.key, f.print(r));
  return hex(fnv1a(text)).substr(0, 10);
}

std::string recipe_difference(const Recipe& a, const Recipe& b) {
  const Recipe x = placeless(a), y = placeless(b);
  for (const Field& f : fields())
    if (f.identity != Identity::ignored && f.print(x) != f.print(y)) return fmt::format("{} is {} and {}", f.key, f.print(x), f.print(y));
  return "";
}

double learning_rate(const Recipe::Optim& o, int64_t epoch) {
  const int64_t e = epoch + o.lr_shift;
  double lr = o.lr;
  if (o.schedule == "cosine") {
    lr = o.eta_min + (o.lr - o.eta_min) * (1 + std::cos(std::numbers::pi * double(e) / double(o.epochs))) / 2;
  } else {
    KD_CHECK(o.schedule == "step", "learning_rate: schedule '{}'", o.schedule);
    const auto milestones = o.milestones.empty() ? default_milestones(o.epochs) : o.milestones;
    const auto reached = std::upper_bound(milestones.begin(), milestones.end(), e) - milestones.begin();
    lr *= std::pow(o.gamma, double(reached));
  }
  return e < o.warmup ? lr * double(1 + e) / double(o.warmup) : lr;
}

std::string recipe_help() {
  const Recipe defaults;
  std::string text;
  for (const Field& f : fields()) text += fmt::format("{:<18} {:<10} {} ({})\n", f.key, f.print(defaults), f.help, f.expected);
  return text;
}

std::string teacher_name(std::string_view teacher) {
  const Path path = without_trailing_slash(teacher);
  if (path.extension() == ".safetensors") return path.stem().string();
  return (is_seed_folder(path) ? path.parent_path() : path).filename().string();
}

}  // namespace kd
