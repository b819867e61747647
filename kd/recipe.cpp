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
  std::function<void(Recipe&, const YAML::Node&, const std::string& where)> set;
  std::function<std::string(const Recipe&)> print;
  std::string expected, help;
  Identity identity;
};

std::string shown(const YAML::Node& node) {
  if (node.IsScalar()) return fmt::format("'{}'", shortened(node.Scalar()));
  return node.IsNull() ? "empty" : node.IsSequence() ? "a list" : "a section";
}

template <class T>
bool from_yaml(const YAML::Node& node, T& out) {
  return node.IsScalar() && parse(node.Scalar(), out);
}
template <class T>
bool from_yaml(const YAML::Node& node, std::vector<T>& out) {
  if (!node.IsSequence()) return false;
  std::vector<T> values;
  for (const YAML::Node& item : node)
    if (!from_yaml(item, values.emplace_back())) return false;
  out = values;
  return true;
}

template <class Member, class Rule>
Field field(const char* key, Member member, Rule rule, const char* help, Identity identity = Identity::counts) {
  using T = std::remove_reference_t<decltype(member(std::declval<Recipe&>()))>;
  const std::string limits = rule.expected();
  std::string expected = std::is_same_v<T, std::string> && !limits.empty() ? limits : kTypeName<T> + (limits.empty() ? "" : " " + limits);
  auto set = [=](Recipe& recipe, const YAML::Node& node, const std::string& where) {
    T value{};
    KD_INPUT(from_yaml(node, value) && rule.allows(value), "{}: {} is {}, expected {}", where, key, shown(node), expected);
    member(recipe) = value;
  };
  auto print_value = [=](const Recipe& recipe) { return print(member(recipe)); };
  return {key, set, print_value, expected, help, identity};
}
#define KD_KEY(member) \
#member, [](auto& r) -> auto& { return r.member; }

// The one place to add a setting. Order is the order of to_yaml.
const std::vector<Field>& fields() {
  static const std::vector<Field> table{
      field(KD_KEY(name), DirectoryName{}, "of the run directory; empty: derived from teachers and view"),
      field(KD_KEY(preset), OneOf{{"lite32", "paper", "smoke"}}, "set of defaults: native 32 px | 224 px as published | two tiny epochs", Identity::ignored),
      field(KD_KEY(data.name), OneOf{{"shapes", "cifar10", "cifar100"}}, "dataset; shapes is generated on the spot"),
      field(KD_KEY(data.root), Any{}, "folder of the CIFAR binary files", Identity::ignored),
      field(KD_KEY(data.imbalance), Between{1, 1000}, "largest class over smallest; 1: as it is"),
      field(KD_KEY(data.holdout), Between{0, 0.9}, "share of the training images kept for choosing the checkpoint"),
      field(KD_KEY(data.train_size), Between{10, 10'000'000}, "training images (shapes only)"),
      field(KD_KEY(data.test_size), Between{10, 10'000'000}, "test images (shapes only)"),
      field(KD_KEY(data.px), Between{8, 1024}, "side of the network's input; above 32 images are enlarged"),
      field(KD_KEY(data.norm), OneOf{{"cifar100", "cifar10", "imagenet"}}, "whose mean and deviation normalize the pixels"),
      field(KD_KEY(data.cutout), Between{0, 1024}, "side of the black square in the strong view; 0: none"),
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
      field(KD_KEY(precision), OneOf{{"fp32", "bf16"}}, "of activations and matrix products"),
      field(KD_KEY(select), OneOf{{"holdout", "last", "test_best"}}, "which checkpoint is 'best'; test_best looks at the test images, as published code does"),
      field(KD_KEY(seed), Between{0, 9007199254740992.0}, "of initialisation, order and augmentation", Identity::ignored),
      field(KD_KEY(eval_every), Between{1, 100'000}, "epochs between evaluations"),
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

// The remedy for an unknown key: the nearest one, the section counting for at most one letter.
std::string suggestion(const std::string& key) {
  if (key.size() > 100) return "";
  const Field* best = nullptr;
  size_t distance = SIZE_MAX;
  for (const Field& f : fields()) {
    size_t d = std::min(edit_distance(key, f.key), edit_distance(last_part(key), last_part(f.key)) + 1);
    if (d < distance) best = &f, distance = d;
  }
  const size_t close = std::max<size_t>(1, last_part(key).size() / 2);
  return distance <= close ? fmt::format("; did you mean {}?", best->key) : "; docs/recipes.md lists all keys";
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

  // The file's settings in order, each with its place.
  struct Setting {
    const Field* field;
    YAML::Node value;
    std::string where;
  };
  std::vector<Setting> settings() {
    walk(root_, "");
    return std::move(settings_);
  }

 private:
  std::string at(const YAML::Mark& mark) const { return mark.is_null() ? path_ : fmt::format("{}:{}", path_, mark.line + 1); }

  void walk(const YAML::Node& section, const std::string& prefix) {
    if (section.IsNull()) return;
    KD_INPUT(section.IsMap(), "{}: {} is {}, expected 'key: value' lines", at(section.Mark()), prefix.empty() ? "the recipe" : prefix, shown(section));
    for (const auto& entry : section) {
      const std::string where = at(entry.first.Mark());
      KD_INPUT(entry.first.IsScalar(), "{}: a key is {}, expected a word", where, shown(entry.first));
      const std::string key = (prefix.empty() ? "" : prefix + ".") + entry.first.Scalar();
      auto [first, is_new] = seen_.emplace(key, where);
      KD_INPUT(is_new, "{}: {} is set twice, first at {}", where, shortened(key), first->second);
      if (const Field* f = find_field(key))
        settings_.push_back({f, entry.second, where});
      else if (is_section(key))
        walk(entry.second, key);
      else
        throw Error(fmt::format("{}: unknown key '{}'{}", where, shortened(key), suggestion(key)));
    }
  }

  std::string path_;
  YAML::Node root_;
  std::vector<Setting> settings_;
  std::map<std::string, std::string> seen_;
};

FileReader::Setting read_word(const std::string& word) {
  const size_t equals = word.find('=');
  KD_INPUT(equals != word.npos, "command line: '{}' is not a setting, expected key=value", shortened(word));
  const std::string key = word.substr(0, equals), text = word.substr(equals + 1), where = "command line";
  const Field* f = find_field(key);
  KD_INPUT(f, "{}: unknown key '{}'{}", where, shortened(key), suggestion(key));
  // Only lists have a syntax of their own; anything else is taken as it stands, so that a path may hold any character.
  YAML::Node value(text);
  if (!text.empty() && text[0] == '[') {
    try {
      value = YAML::Load(text);
    } catch (const YAML::Exception& e) {
      throw Error(fmt::format("{}: {}={}: not a valid list: {}", where, key, shortened(text), e.msg));
    }
  }
  return {f, value, where};
}

void apply_preset(Recipe& r) {
  if (r.preset == "paper") {
    r.data.px = 224;
    r.data.norm = "cifar10";
    r.model.stem = "imagenet";
    r.optim.weight_decay = 0;
    r.optim.epochs = 200;
    r.optim.milestones = {190, 195};
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
  for (std::string& t : r.teachers) t = without_folders(t);
  r.model.init = without_folders(r.model.init);
  return r;
}

}  // namespace

Recipe load_recipe(const Path& file, const std::vector<std::string>& overrides) {
  std::vector<FileReader::Setting> settings;
  if (!file.empty()) settings = FileReader(file).settings();
  for (const std::string& word : overrides) settings.push_back(read_word(word));

  Recipe recipe;
  for (const auto& s : settings)
    if (s.field->key == "preset") s.field->set(recipe, s.value, s.where);
  apply_preset(recipe);
  for (const auto& s : settings) s.field->set(recipe, s.value, s.where);

  if (recipe.loss.soft_weight < 0) {
    KD_INPUT(recipe.loss.alpha <= 1, "loss.alpha is {}, so loss.soft_weight cannot be 1 - alpha; set it too", recipe.loss.alpha);
    recipe.loss.soft_weight = 1 - recipe.loss.alpha;
  }
  if (recipe.optim.schedule == "step" && recipe.optim.milestones.empty()) recipe.optim.milestones = default_milestones(recipe.optim.epochs);
  if (recipe.name.empty()) {
    recipe.name = derived_name(recipe);
    KD_INPUT(DirectoryName{}.allows(recipe.name), "the teachers give the run the name '{}', expected {}; set name=", recipe.name, DirectoryName{}.expected());
  }
  return recipe;
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
