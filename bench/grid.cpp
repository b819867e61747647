#include "bench/grid.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <sstream>

#include "bench/claim.h"
#include "bench/grid_cost.h"
#include "bench/run_dir.h"
#include "bench/verbs.h"
#include "engine/base/check.h"

namespace kd {
namespace {

constexpr const char* kGridKeys[] = {"grid.teachers",     "grid.students", "grid.seeds", "grid.teacher",
                                     "grid.teacher_arms", "grid.student",  "grid.arms",  "grid.max_students"};

bool parse_whole(const std::string& text, int64_t& value) {
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && rest == end && value >= 0 && value <= int64_t(1) << 53;
}

std::vector<std::string> parts_of(const std::string& name) {
  std::vector<std::string> parts;
  std::istringstream in(name);
  for (std::string part; std::getline(in, part, '_');) parts.push_back(part);
  return parts;
}

bool is_view_letter(char c) { return c == 'w' || c == 's'; }
// T1w: teacher `number` of a name.
bool is_teacher(const std::string& text, size_t number) {
  const std::string front = fmt::format("T{}", number);
  return text.size() == front.size() + 1 && text.starts_with(front) && is_view_letter(text.back());
}
bool is_student_view(const std::string& text) { return text.size() == 2 && text[0] == 'S' && is_view_letter(text[1]); }

bool is_name(const std::string& name) {
  const std::vector<std::string> parts = parts_of(name);
  if (parts.size() < 2 || name.back() == '_' || !is_student_view(parts.back())) return false;
  if (parts.size() == 2 && parts[0] == "only") return true;
  for (size_t i = 0; i + 1 < parts.size(); ++i)
    if (!is_teacher(parts[i], i + 1)) return false;
  return true;
}

// A teacher as the file gives it: a seed to train it with, or where it is; one for all students, or one for each of their seeds.
struct TeacherSource {
  std::string name, where;
  std::vector<std::string> paths;  // either these ...
  std::vector<int64_t> seeds;      // ... or these
  size_t count() const { return paths.size() + seeds.size(); }
};

struct Arm {
  std::string name;
  std::vector<Setting> settings;
  std::string where;
};

// What the file says, or the words: they stand above the file, for all runs and for one role.
struct Layer {
  std::vector<Setting> base, teacher, student;
};

class Planner {
 public:
  Planner(const Path& file, const std::vector<std::string>& words, const Path& out) : grid_{.file = file, .out = out}, file_(file.string()) {
    for (const Setting& s : read_settings(file)) read(s, of_file_);
    KD_INPUT(has_grid_, "{}: has no 'grid:' section; a plain recipe is run with 'kd_bench train' or 'kd_bench distill'", file_);
    for (const std::string& word : words) read(read_word(word), of_words_);
    KD_INPUT(!names_.empty() || !teachers_.empty(), "{}: grid.students and grid.teachers are empty; nothing to run", file_);
    KD_INPUT(names_.empty() || !seeds_.empty(), "{}: no grid.seeds; say e.g. seeds: [0, 1, 2]", file_);
  }

  Grid plan() {
    for (const auto& [name, arms] : teacher_arms_)
      KD_INPUT(std::any_of(teachers_.begin(), teachers_.end(), [&, of = name](const TeacherSource& t) { return t.name == of; }),
               "{}: grid.teacher_arms: {} is not in grid.teachers", arms[0].where, name);
    for (const TeacherSource& t : teachers_) add_teachers(t);
    require_different_teachers();
    grid_.groups = groups_of(0, grid_.runs.size(), true);
    const size_t first_student = grid_.runs.size();
    for (const auto& [name, where] : names_) add_students(name, where);
    for (GridGroup& group : groups_of(first_student, grid_.runs.size(), false)) grid_.groups.push_back(std::move(group));
    return std::move(grid_);
  }

 private:
  // ---- The file. ----

  // A setting of the recipe goes to the layer, one of the grid to its place; of two for one place the later stays.
  void read(const Setting& s, Layer& layer) {
    if (s.key != "grid" && !s.key.starts_with("grid.")) {
      require_free(s, s.key);
      layer.base.push_back(s);
      return;
    }
    has_grid_ = true;
    auto under = [&](const char* section) {
      const std::string front = fmt::format("grid.{}.", section);
      return s.key.starts_with(front) ? s.key.substr(front.size()) : "";
    };
    const bool is_empty = s.kind == Setting::Kind::empty || s.kind == Setting::Kind::section;
    const std::string in_teachers = under("teachers"), in_teacher = under("teacher"), in_teacher_arms = under("teacher_arms"), in_student = under("student"),
                      in_arms = under("arms");
    if (!in_teachers.empty())
      read_teacher(in_teachers, s);
    else if (!in_teacher.empty())
      read_role(in_teacher, s, layer.teacher);
    else if (!in_student.empty())
      read_role(in_student, s, layer.student);
    else if (!in_teacher_arms.empty())
      read_teacher_arm(in_teacher_arms, s);
    else if (!in_arms.empty())
      read_arm(in_arms, s, arms_, "grid.arms");
    else if (s.key == "grid.students")
      read_students(s);
    else if (s.key == "grid.seeds")
      seeds_ = read_seeds(s);
    else if (s.key == "grid.max_students")
      KD_INPUT(s.kind == Setting::Kind::text && parse_whole(s.values[0], max_students_) && max_students_ >= 1,
               "{}: grid.max_students is '{}', expected a whole number from 1", s.where, fmt::join(s.values, ", "));
    else if (is_empty && is_section(s.key))
      return;
    else if (s.key == "grid.teachers")
      throw Error(fmt::format("{}: grid.teachers needs a seed or a path for each, e.g. teachers: {{T1w: 1, T2s: 2}}", s.where));
    else if (is_section(s.key))
      throw Error(fmt::format("{}: {} is '{}', expected 'key: value' lines", s.where, s.key, fmt::join(s.values, ", ")));
    else
      throw Error(fmt::format("{}: unknown key '{}'{}", s.where, s.key, hint(s.key)));
  }

  static bool is_section(const std::string& key) {
    static const std::set<std::string> sections{"grid", "grid.teachers", "grid.teacher", "grid.teacher_arms", "grid.student", "grid.arms"};
    return sections.count(key) > 0;
  }

  static std::string hint(const std::string& key) {
    const std::string near = did_you_mean(key, {std::begin(kGridKeys), std::end(kGridKeys)});
    return near.empty() ? "; docs/grid.md lists all keys" : near;
  }

  static void require_free(const Setting& s, const std::string& key) {
    const char* instead = key == "seed" ? "grid.seeds" : key == "view" || key == "name" ? "grid.students" : key == "teachers" ? "grid.teachers" : nullptr;
    KD_INPUT(!instead, "{}: '{}' is what a grid varies; see {}", s.where, key, instead);
  }

  static void read_role(const std::string& key, const Setting& s, std::vector<Setting>& role) {
    require_free(s, key);
    role.push_back(s);
    role.back().key = key;
  }

  static void read_arm(const std::string& key, const Setting& s, std::vector<Arm>& arms, const std::string& section) {
    const size_t dot = key.find('.');
    const std::string name = key.substr(0, dot);
    auto arm = std::find_if(arms.begin(), arms.end(), [&](const Arm& a) { return a.name == name; });
    if (arm == arms.end()) arm = arms.insert(arm, {name, {}, s.where});
    if (dot != key.npos) return read_role(key.substr(dot + 1), s, arm->settings);
    KD_INPUT(s.kind == Setting::Kind::empty || s.kind == Setting::Kind::section, "{}: {}.{} is '{}', expected settings, or {{}} for none", s.where, section,
             name, fmt::join(s.values, ", "));
  }

  void read_teacher_arm(const std::string& key, const Setting& s) {
    const size_t dot = key.find('.');
    const std::string teacher = key.substr(0, dot);
    KD_INPUT(dot != key.npos, "{}: grid.teacher_arms: {} needs arms, e.g. {}: {{plain: {{}}, long: {{optim.epochs: 30}}}}", s.where, teacher, teacher);
    read_arm(key.substr(dot + 1), s, teacher_arms_[teacher], "grid.teacher_arms." + teacher);
  }

  void read_teacher(const std::string& name, const Setting& s) {
    bool known = false;
    for (size_t i = 1; i <= 8; ++i) known |= is_teacher(name, i);
    KD_INPUT(known, "{}: grid.teachers: '{}' is no teacher's name; expected T1w, T1s, T2w, ...", s.where, name);
    KD_INPUT(s.kind == Setting::Kind::text || s.kind == Setting::Kind::list, "{}: grid.teachers: {} needs a seed or a path", s.where, name);
    TeacherSource teacher{name, s.where, {}, {}};
    for (const std::string& value : s.values) {
      int64_t seed;
      if (parse_whole(value, seed))
        teacher.seeds.push_back(seed);
      else
        teacher.paths.push_back(value);
    }
    KD_INPUT(teacher.count() > 0 && (teacher.seeds.empty() || teacher.paths.empty()), "{}: grid.teachers: {} needs seeds or paths, one or the other", s.where,
             name);
    auto before = std::find_if(teachers_.begin(), teachers_.end(), [&](const TeacherSource& t) { return t.name == name; });
    if (before == teachers_.end())
      teachers_.push_back(teacher);
    else
      *before = teacher;
  }

  void read_students(const Setting& s) {
    KD_INPUT(s.kind == Setting::Kind::list || s.kind == Setting::Kind::text, "{}: grid.students needs names, e.g. [2T, only_Sw]", s.where);
    names_.clear();
    std::set<std::string> seen;
    for (const std::string& what : s.values) {
      const std::vector<std::string> names = grid_names(what);
      KD_INPUT(!names.empty(), "{}: grid.students: '{}' is none of 1T, 2T, 3T, only_Sw, only_Ss and no name like T1w_T2s_Sw", s.where, what);
      for (const std::string& name : names) {
        KD_INPUT(seen.insert(name).second, "{}: grid.students: {} is in it twice", s.where, name);
        names_.push_back({name, s.where});
      }
    }
  }

  static std::vector<int64_t> read_seeds(const Setting& s) {
    std::vector<int64_t> seeds;
    int64_t first, last;
    auto bad = [&] {
      return Error(fmt::format("{}: grid.seeds is '{}', expected different whole numbers, e.g. [0, 1, 2] or 0-2", s.where, fmt::join(s.values, ", ")));
    };
    if (s.kind == Setting::Kind::text && s.values[0].find('-') != std::string::npos) {
      const size_t dash = s.values[0].find('-');
      if (!parse_whole(s.values[0].substr(0, dash), first) || !parse_whole(s.values[0].substr(dash + 1), last) || last < first || last - first >= 1000)
        throw bad();
      for (int64_t seed = first; seed <= last; ++seed) seeds.push_back(seed);
      return seeds;
    }
    if (s.values.empty() || s.kind == Setting::Kind::nested) throw bad();
    for (const std::string& value : s.values)
      if (!parse_whole(value, seeds.emplace_back())) throw bad();
    if (std::set<int64_t>(seeds.begin(), seeds.end()).size() != seeds.size()) throw bad();
    return seeds;
  }

  // ---- The runs. ----

  // at, of: which of how many seeds this is; networks with as many have one for each.
  GridRun run_of(const std::vector<const std::vector<Setting>*>& layers, const std::string& name, const std::string& view, int64_t seed,
                 const std::vector<std::string>& teachers, const std::string& where, size_t at, size_t of) const {
    std::vector<Setting> settings;
    for (const auto* layer : layers) settings.insert(settings.end(), layer->begin(), layer->end());
    auto set = [&](const char* key, std::vector<std::string> values, Setting::Kind kind = Setting::Kind::text) {
      settings.push_back({key, kind, std::move(values), where});
    };
    set("name", {name});
    set("view", {view});
    set("seed", {fmt::format("{}", seed)});
    set("teachers", teachers, Setting::Kind::list);
    GridRun run{make_recipe(settings), {}};
    for (std::string& reference : run.recipe.attention.references) reference = reference_of(reference, name, where, at, of);
    run.dir = run_path(run.recipe, grid_.out);
    return run;
  }

  // A teacher of this grid, by name and seed, or a path.
  std::string reference_of(const std::string& reference, const std::string& by, const std::string& where, size_t at, size_t of) const {
    const auto known = sources_.find(reference);
    if (known == sources_.end()) {
      std::vector<std::string> names;
      for (const auto& [name, source] : sources_) names.push_back(name);
      KD_INPUT(std::filesystem::exists(reference),
               "{}: attention.references of {}: '{}' is no run directory or file, and no teacher that stands before it ({})", where, by, reference,
               names.empty() ? "there is none" : fmt::format("{}", fmt::join(names, ", ")));
      model_path(reference, "attention reference");  // says what is wrong with it
      return reference;
    }
    const auto& each = known->second;
    KD_INPUT(each.size() == 1 || each.size() == of, "{}: attention.references of {}: {} has {} seeds for {}; give one, or one for each", where, by, reference,
             each.size(), of);
    return each[each.size() == 1 ? 0 : at];
  }

  void add_teachers(const TeacherSource& t) {
    KD_INPUT(names_.empty() || t.count() == 1 || t.count() == seeds_.size(), "{}: grid.teachers: {} has {} values for {} seeds; give one, or one for each",
             t.where, t.name, t.count(), seeds_.size());
    const auto armed = teacher_arms_.find(t.name);
    const std::vector<Arm>& arms = armed == teacher_arms_.end() ? no_arms() : armed->second;
    KD_INPUT(t.paths.empty() || armed == teacher_arms_.end(), "{}: grid.teacher_arms: {} is not trained here; arms are for teachers with a seed", arms[0].where,
             t.name);
    for (const std::string& path : t.paths) {
      model_path(path);  // says what is wrong with it
      sources_[t.name].push_back(path);
    }
    for (const Arm& arm : arms) {
      const std::string name = with_arm(t.name, arm);
      variants_[t.name].push_back(name);
      const std::string& where = arm.where.empty() ? t.where : arm.where;
      std::map<int64_t, GridRun> trained;  // a seed may stand there for several students
      for (size_t i = 0; i < t.seeds.size(); ++i) {
        const GridRun run = run_of({&of_file_.base, &of_file_.teacher, &arm.settings, &of_words_.base, &of_words_.teacher}, name,
                                   t.name.back() == 'w' ? "weak" : "strong", t.seeds[i], {}, where, i, t.count());
        const auto [before, is_new] = trained.try_emplace(t.seeds[i], run);
        KD_INPUT(before->second.recipe == run.recipe, "{}: {} with seed {} would be two networks: {}", where, name, t.seeds[i],
                 recipe_difference(before->second.recipe, run.recipe));
        if (is_new) grid_.runs.push_back(run);
        sources_[name].push_back(run.dir.string());
      }
    }
  }

  static const std::vector<Arm>& no_arms() {
    static const std::vector<Arm> one{{"", {}, ""}};
    return one;
  }
  static std::string with_arm(const std::string& name, const Arm& arm) { return arm.name.empty() ? name : name + "_" + arm.name; }

  // Teachers 1 and 2 of one view differ in the seed alone, so with one seed they would be one network under two names.
  void require_different_teachers() const {
    std::map<std::string, const GridRun*> known;
    std::set<Path> dirs;
    for (const GridRun& run : grid_.runs) {
      Recipe nameless = run.recipe;
      nameless.name = "";
      if (nameless.attention.weight == 0) nameless.attention = {};  // only measured
      const auto [other, is_new] = known.try_emplace(to_yaml(nameless), &run);
      KD_INPUT(is_new, "{}: {} and {} would be the same network: both have seed {} and the {} view; give them different seeds", file_,
               other->second->recipe.name, run.recipe.name, run.recipe.seed, run.recipe.view);
      KD_CHECK(dirs.insert(run.dir).second, "two teachers in {}", run.dir.string());
    }
  }

  void add_students(const std::string& name, const std::string& where) {
    const std::vector<std::string> teachers = teachers_of(name);
    for (const std::string& teacher : teachers)
      KD_INPUT(variants_.count(teacher), "{}: {} needs the teacher {}; give its seed or path in grid.teachers", where, name, teacher);
    // Every combination of the teachers' arms, the last teacher's varying fastest.
    std::vector<std::vector<std::string>> choices{{}};
    for (const std::string& teacher : teachers) {
      std::vector<std::vector<std::string>> longer;
      for (const auto& choice : choices)
        for (const std::string& variant : variants_.at(teacher)) {
          longer.push_back(choice);
          longer.back().push_back(variant);
        }
      choices = std::move(longer);
    }
    for (const auto& choice : choices) {
      std::string chosen = name;
      for (size_t t = 0; t < teachers.size(); ++t) chosen += choice[t].substr(teachers[t].size());
      for (const Arm& arm : arms_.empty() || teachers.empty() ? no_arms() : arms_)  // arms are variants of distillation: a baseline has none
        for (size_t i = 0; i < seeds_.size(); ++i) {
          std::vector<std::string> paths;
          for (const std::string& variant : choice) {
            const auto& of_seeds = sources_.at(variant);
            paths.push_back(of_seeds.size() == 1 ? of_seeds[0] : of_seeds[i]);
          }
          const std::string full = with_arm(chosen, arm), &from = arm.where.empty() ? where : arm.where;
          grid_.runs.push_back(run_of({&of_file_.base, &of_file_.student, &arm.settings, &of_words_.base, &of_words_.student}, full, view_of(name), seeds_[i],
                                      paths, from, i, seeds_.size()));
          KD_INPUT(student_dirs_.insert(grid_.runs.back().dir).second, "{}: two students would be called {}; rename an arm", from, full);
        }
    }
  }

  // ---- The groups. ----

  // Runs [first, last) by the batches that they see, each group at most max_students long and the parts of a divided one of like length. A teacher that
  // is compared with another one comes after it, so it cannot be in one group with it: the second key is the length of the longest such chain.
  std::vector<GridGroup> groups_of(size_t first, size_t last, bool teachers) const {
    std::map<std::pair<std::string, int>, std::vector<size_t>> streams;
    std::vector<const std::vector<size_t>*> order;
    std::map<Path, int> depths;
    for (size_t i = first; i < last; ++i) {
      const Recipe& recipe = grid_.runs[i].recipe;
      int& depth = depths[grid_.runs[i].dir];
      for (const std::string& before : frozen_networks(recipe))
        if (const auto known = depths.find(before); known != depths.end()) depth = std::max(depth, known->second + 1);
      auto [stream, is_new] = streams.try_emplace({batch_stream(recipe), depth});
      stream->second.push_back(i);
      if (is_new) order.push_back(&stream->second);
    }
    std::set<Path> trained_here;
    for (const GridRun& run : grid_.runs)
      if (run_kind(run.recipe) == "teacher") trained_here.insert(run.dir);
    std::vector<GridGroup> groups;
    for (const std::vector<size_t>* runs : order) {
      const size_t n = runs->size(), parts = (n + size_t(max_students_) - 1) / size_t(max_students_);
      for (size_t part = 0; part < parts; ++part) {
        GridGroup group{.teachers = teachers};
        group.runs.assign(runs->begin() + ptrdiff_t(part * n / parts), runs->begin() + ptrdiff_t((part + 1) * n / parts));
        std::set<Path> needs;
        for (size_t i : group.runs)
          for (const std::string& network : frozen_networks(grid_.runs[i].recipe))
            if (trained_here.count(network)) needs.insert(network);
        group.needs.assign(needs.begin(), needs.end());
        groups.push_back(std::move(group));
      }
    }
    return groups;
  }

  Grid grid_;
  std::string file_;
  bool has_grid_ = false;
  Layer of_file_, of_words_;
  std::vector<Arm> arms_;
  std::vector<TeacherSource> teachers_;
  std::vector<std::pair<std::string, std::string>> names_;  // and where they stand
  std::vector<int64_t> seeds_;
  int64_t max_students_ = 16;
  std::map<std::string, std::vector<Arm>> teacher_arms_;
  std::map<std::string, std::vector<std::string>> variants_;  // of a teacher: its names with arms, or itself
  std::map<std::string, std::vector<std::string>> sources_;   // of such a name: its directory or file, one or one for each seed
  std::set<Path> student_dirs_;
};

}  // namespace

std::vector<std::string> grid_names(const std::string& what) {
  if (is_name(what)) return {what};
  if (what != "1T" && what != "2T" && what != "3T") return {};
  const int teachers = what[0] - '0';
  std::vector<std::string> names;
  for (int bits = 0; bits < 2 << teachers; ++bits) {  // from the highest bit: teacher 1, 2, ..., the student
    std::string name;
    for (int t = 1; t <= teachers; ++t) name += fmt::format("T{}{}_", t, bits >> (teachers + 1 - t) & 1 ? 's' : 'w');
    names.push_back(name + (bits & 1 ? "Ss" : "Sw"));
  }
  return names;
}

std::vector<std::string> teachers_of(const std::string& name) {
  std::vector<std::string> parts = parts_of(name);
  KD_CHECK(is_name(name), "'{}' is no cell of a grid", name);
  parts.pop_back();
  if (parts[0] == "only") parts.clear();
  return parts;
}

std::string view_of(const std::string& name) {
  KD_CHECK(is_name(name), "'{}' is no cell of a grid", name);
  return name.back() == 'w' ? "weak" : "strong";
}

Grid plan_grid(const Path& file, const std::vector<std::string>& words, const Path& out) { return Planner(file, words, out).plan(); }

RunState state_of(const GridRun& run, double stale_seconds) {
  using Kind = RunState::Kind;
  RunState state;
  if (holds_epochs(run.dir) && std::filesystem::exists(run.dir / "config.yaml")) {
    try {
      const std::string difference = recipe_difference(load_recipe(run.dir / "config.yaml", {}), run.recipe);
      if (!difference.empty()) return {.kind = Kind::refused, .note = fmt::format("holds a run of another recipe ({} now)", difference)};
    } catch (const Error& e) {
      return {.kind = Kind::refused, .note = e.what()};
    }
  }
  const Path metrics = run.dir / "metrics.jsonl";
  if (std::filesystem::exists(metrics) && std::filesystem::exists(run.dir / "ckpt" / "state.safetensors"))
    for (const Record& record : read_metrics(metrics))
      if (text_of(record, "event") == "epoch") state.epochs_done = int64_t(number_of(record, "epoch")) + 1;
  if (std::filesystem::exists(run.dir / "DONE"))
    state.kind = std::filesystem::exists(run.dir / "analysis" / "eval.json") ? Kind::done : Kind::trained;
  else if (state.epochs_done > 0)
    state.kind = Kind::unfinished;
  if (state.kind != Kind::done) state.note = claimed_by(run.dir, stale_seconds);
  return state;
}

namespace {

std::string state_text(const RunState& state, const Recipe& recipe) {
  const std::string by = state.note.empty() ? "" : ", " + state.note + " is at it";
  switch (state.kind) {
    case RunState::Kind::done: return "done";
    case RunState::Kind::trained: return "trained, to evaluate" + by;
    case RunState::Kind::unfinished: return fmt::format("unfinished, {} of {} epochs{}", state.epochs_done, recipe.optim.epochs, by);
    case RunState::Kind::refused: return "REFUSED: " + state.note;
    case RunState::Kind::to_do: break;
  }
  return "to do" + by;
}

// "T1w/seed1" of runs/shapes/T1w/seed1, "T3w.safetensors" of a file.
std::string short_path(const Path& path) {
  const Path name = path.filename();
  return name.string().starts_with("seed") ? (path.parent_path().filename() / name).string() : name.string();
}

std::string plural(size_t n, const char* what) { return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s"); }

}  // namespace

std::string describe_grid(const Grid& grid, double stale_seconds) {
  std::vector<RunState> states;
  size_t teachers = 0, name_width = 4, teacher_width = 8;
  std::map<RunState::Kind, size_t> counts;
  std::vector<std::string> learns_from;
  for (const GridRun& run : grid.runs) {
    states.push_back(state_of(run, stale_seconds));
    ++counts[states.back().kind];
    teachers += run_kind(run.recipe) == "teacher";
    std::string from;
    for (const std::string& teacher : run.recipe.teachers) from += (from.empty() ? "" : " ") + short_path(teacher);
    if (!run.recipe.attention.references.empty()) from += from.empty() ? "beside" : " beside";
    for (const std::string& reference : run.recipe.attention.references) from += " " + short_path(reference);
    learns_from.push_back(from.empty() ? "-" : from);
    name_width = std::max(name_width, run.recipe.name.size());
    teacher_width = std::max(teacher_width, learns_from.back().size());
  }
  std::string text = fmt::format("{}: {} and {} in {}, in {}\n\n", grid.file.string(), plural(teachers, "teacher"),
                                 plural(grid.runs.size() - teachers, "student"), plural(grid.groups.size(), "group"), grid.out.string());

  text += fmt::format("{:<{}}  {:<6}  {:>6}  {:<{}}  state\n", "name", name_width, "view", "seed", "teachers", teacher_width);
  for (size_t i = 0; i < grid.runs.size(); ++i) {
    const Recipe& r = grid.runs[i].recipe;
    text += fmt::format("{:<{}}  {:<6}  {:>6}  {:<{}}  {}\n", r.name, name_width, r.view, r.seed, learns_from[i], teacher_width, state_text(states[i], r));
  }
  text += fmt::format("{} done, {} trained, {} unfinished, {} to do, {} refused\n\n", counts[RunState::Kind::done], counts[RunState::Kind::trained],
                      counts[RunState::Kind::unfinished], counts[RunState::Kind::to_do], counts[RunState::Kind::refused]);

  text += "group  runs  view    seed  teacher forwards a batch\n";
  for (size_t g = 0; g < grid.groups.size(); ++g) {
    const GridGroup& group = grid.groups[g];
    const Recipe& first = grid.runs[group.runs[0]].recipe;
    const Forwards forwards = forwards_of(grid, group);
    text += fmt::format("{:>5}  {:>4}  {:<6}  {:>4}  {}\n", g + 1, group.runs.size(), first.view, first.seed,
                        forwards.alone == 0 ? "-" : fmt::format("{} instead of {}", forwards.shared, forwards.alone));
  }
  return text + "\n" + cost_text(grid, states);
}

}  // namespace kd
