// Every choice is made once, before the problem's first use, in this order: a run directory's (pinned), this machine's file, a short timing, and without
// timing the order of preference. The file's first line names the machine it was made on; another machine's file is left alone and replaced.
#include "kernels/conv/conv_choice.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "engine/base/file.h"

namespace kd {

std::string to_string(const ConvShape& s) { return fmt::format("n{}h{}w{}c{}k{}r{}s{}st{}p{}", s.n, s.h, s.w, s.c, s.k, s.r, s.s, s.stride, s.pad); }

namespace cpu {

const char* name_of(ConvOp op) { return op == ConvOp::fprop ? "fprop" : op == ConvOp::dgrad ? "dgrad" : "wgrad"; }
std::string to_string(const ConvProblem& p) {
  return fmt::format("{}{} {} {}", name_of(p.op), p.adds ? "+add" : "", to_string(p.type), kd::to_string(p.shape));
}

namespace {

// In the order of preference (but see first_choice).
const std::vector<const ConvAlgorithm*>& known_algorithms() {
  static const std::vector<const ConvAlgorithm*> all = [] {
    std::vector<const ConvAlgorithm*> list;
    for (const auto& table : {winograd_algorithms(), onednn_algorithms(), direct_algorithms()}) {
      // Within a table the most capable instruction set comes first.
      std::vector<const ConvAlgorithm*> own;
      for (const ConvAlgorithm& a : table) own.push_back(&a);
      std::stable_sort(own.begin(), own.end(), [](auto* a, auto* b) { return a->isa > b->isa; });
      list.insert(list.end(), own.begin(), own.end());
    }
    return list;
  }();
  return all;
}

std::vector<const ConvAlgorithm*> candidates(const ConvProblem& problem, ConvMath math) {
  std::vector<const ConvAlgorithm*> able;
  for (const ConvAlgorithm* a : known_algorithms())
    if (a->isa <= cpu_isa() && (a->exact || math == ConvMath::fast) && a->offers(problem)) able.push_back(a);
  return able;
}

// Without a timing: the least arithmetic, Winograd's, unless instructions for bf16 make up for it. In multiplications of f32 a second Winograd saves 4x, with
// stride 2 1.78x; vdpbf16ps is worth 2x, tiles 8x and more.
const ConvAlgorithm* first_choice(const ConvProblem& problem, const std::vector<const ConvAlgorithm*>& able) {
  const bool cheap_products = problem.type == DType::bf16 && cpu_isa() >= (problem.shape.stride == 1 ? CpuIsa::amx : CpuIsa::avx512_bf16);
  const auto exact = std::find_if(able.begin(), able.end(), [](const ConvAlgorithm* a) { return a->exact; });
  return cheap_products && exact != able.end() ? *exact : able[0];
}

constexpr int64_t kImagesAtOnce = 16;

// The problem that stands for all of its kind.
ConvProblem representative(ConvProblem problem) {
  const int64_t most = timed_batch(problem.shape);
  int64_t& n = problem.shape.n;
  if (n > most) n = most - (kImagesAtOnce - n % kImagesAtOnce) % kImagesAtOnce;
  return problem;
}

const char* name_of(ConvMath math) { return math == ConvMath::exact ? "exact" : "fast"; }
std::string key_of(const ConvProblem& p, ConvMath math) { return to_string(p) + " " + name_of(math); }

// "fprop f32 n1h8... fast winograd.avx2" -> key and name; nothing where it is no such line.
struct Line {
  std::string key, name;
};
std::optional<Line> parse(const std::string& text) {
  std::istringstream in(text);
  std::string op, type, shape, math, name, rest;
  if (!(in >> op >> type >> shape >> math >> name) || (in >> rest)) return std::nullopt;
  if ((op != "fprop" && op != "fprop+add" && op != "dgrad" && op != "dgrad+add" && op != "wgrad") || (type != "f32" && type != "bf16") ||
      (math != "fast" && math != "exact") || shape[0] != 'n')
    return std::nullopt;
  return Line{op + " " + type + " " + shape + " " + math, name};
}

// By name also the emulated ones: never chosen, but a test may pin them.
const ConvAlgorithm* find(const std::string& name) {
  for (const auto& table : {winograd_algorithms(), onednn_algorithms(), direct_algorithms(), emulated_winograd_algorithms(), emulated_direct_algorithms()})
    for (const ConvAlgorithm& a : table)
      if (name == a.name) return &a;
  return nullptr;
}

// Raised with every change that makes an algorithm faster or slower, so that what was fastest before is timed again.
constexpr int kChoicesOf = 6;
std::string machine_line() {
  return fmt::format("retort convolutions {} | {} | {} | {} threads", kChoicesOf, cpu_info().name, to_string(cpu_isa()), cpu_info().threads);
}

Path cache_path() {
  const auto variable = [](const char* name) { return std::string(std::getenv(name) ? std::getenv(name) : ""); };
  Path folder = variable("KD_CONV_CACHE");
  if (folder.empty() && !variable("XDG_CACHE_HOME").empty()) folder = Path(variable("XDG_CACHE_HOME")) / "retort";
  if (folder.empty() && !variable("HOME").empty()) folder = Path(variable("HOME")) / ".cache" / "retort";
  if (folder.empty()) return {};
  return folder / fmt::format("conv_{}_{}threads.txt", to_string(cpu_isa()), cpu_info().threads);
}

// Holds the file's lock while it lives: of two processes that time the same problem, the second takes the first one's choice.
class FileLock {
 public:
  explicit FileLock(const Path& path) : fd_(::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0666)) {
    if (fd_ >= 0) ::flock(fd_, LOCK_EX);
  }
  ~FileLock() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  bool held() const { return fd_ >= 0; }

 private:
  int fd_;
};

void warn_once(const std::string& line) {
  static std::mutex mutex;
  static std::map<std::string, bool> said;
  std::lock_guard lock(mutex);
  if (!std::exchange(said[line], true)) fmt::print(stderr, "{}\n", as_one_line(line));
}

// The machine's file; empty where there is none that fits. A line that cannot be read (the file was cut or edited) is left out: its problem is timed again.
std::map<std::string, std::string> read_cache(const Path& path) {
  std::map<std::string, std::string> lines;
  std::error_code code;
  if (!std::filesystem::exists(path, code)) return lines;
  std::istringstream in;
  try {
    in.str(read_text(path));
  } catch (const Error& e) {
    warn_once(fmt::format("{}; convolutions are timed again", e.what()));
    return lines;
  }
  std::string text;
  std::getline(in, text);
  if (text != machine_line()) {
    warn_once(fmt::format("{}: made for another machine or by another version ('{}'); convolutions are timed again and the file is replaced", path.string(),
                          text.substr(0, 120)));
    return lines;
  }
  int unknown = 0;
  std::string first;
  for (int number = 2; std::getline(in, text); ++number) {
    const auto line = parse(text);
    if (line && find(line->name) && find(line->name)->isa <= cpu_isa())
      lines[line->key] = line->name;
    else if (unknown++ == 0)
      first = fmt::format("{}:{}: '{}'", path.string(), number, text.substr(0, 120));
  }
  if (unknown == 1) warn_once(fmt::format("{} is no choice of a convolution here; it is timed again", first));
  if (unknown > 1) warn_once(fmt::format("{} and {} more lines are no choices of convolutions here; they are timed again", first, unknown - 1));
  return lines;
}

// Two sets of tensors, used in turn: like a step's, they come from memory where they are larger than the caches, and from a cache where they are not.
class Operands {
 public:
  explicit Operands(const ConvProblem& p) : p_(p), w_(filled(p.shape.k * p.shape.r * p.shape.s * p.shape.c, DType::f32)) {
    const ConvShape& s = p.shape;
    const int64_t x = s.n * s.h * s.w * s.c, y = s.n * s.p() * s.q() * s.k;
    for (Tensors& t : sets_) t = {filled(x, p.type), filled(y, p.type)};
  }

  // Null: the filter as it is. Not part of an fprop's time, because a network that is only evaluated packs once; part of a dgrad's, whose filter is always new.
  std::shared_ptr<Storage> pack(const ConvAlgorithm& a) const {
    const int64_t bytes = p_.op == ConvOp::wgrad ? 0 : a.packed_bytes(p_, DType::f32);
    if (bytes == 0) return nullptr;
    auto packed = Storage::allocate(bytes, Device::cpu);
    a.pack(p_, w_->data(), DType::f32, packed->data());
    return packed;
  }
  void run(const ConvAlgorithm& a, Storage* packed_filter) {
    const void* packed = packed_filter ? packed_filter->data() : w_->data();
    const Tensors& t = sets_[std::exchange(turn_, 1 - turn_)];
    switch (p_.op) {
      case ConvOp::fprop:
        return a.fprop({.shape = p_.shape, .type = p_.type, .x = t.x->data(), .w = w_->data(), .y = t.y->data(), .z = p_.adds ? t.y->data() : nullptr}, packed);
      case ConvOp::dgrad:
        if (packed_filter) a.pack(p_, w_->data(), DType::f32, packed_filter->data());
        return a.dgrad({.shape = p_.shape,
                        .type = p_.type,
                        .dy = t.y->data(),
                        .w = w_->data(),
                        .dx = t.x->data(),
                        .accumulate = p_.adds ? Accumulate::yes : Accumulate::no},
                       packed);
      case ConvOp::wgrad:
        return a.wgrad({.shape = p_.shape, .type = p_.type, .x = t.x->data(), .dy = t.y->data(), .dw = w_->data(), .accumulate = Accumulate::no});
    }
  }

 private:
  struct Tensors {
    std::shared_ptr<Storage> x, y;  // what is added lies in y, as in an evaluation
  };
  // Ordinary numbers: subnormals and NaNs take other times.
  static std::shared_ptr<Storage> filled(int64_t n, DType type) {
    auto block = Storage::allocate(n * size_of(type), Device::cpu);
    for (int64_t i = 0; i < n; ++i) {
      const float v = float(int(i * 2654435761u >> 20 & 255) - 128) / 256.f;
      if (type == DType::bf16)
        reinterpret_cast<bf16*>(block->data())[i] = bf16(v);
      else
        reinterpret_cast<float*>(block->data())[i] = v;
    }
    return block;
  }

  ConvProblem p_;
  std::shared_ptr<Storage> w_;
  Tensors sets_[2];
  int turn_ = 0;
};

// The fastest of `able`; a later one must win by 3 %, which is more than two runs of the same code differ by. Each by its best run, in three rounds in which
// all take turns: on a shared machine minutes pass in which everything takes twice as long, and seconds.
const ConvAlgorithm* fastest(const ConvProblem& problem, const std::vector<const ConvAlgorithm*>& able) {
  if (able.size() == 1) return able[0];
  using Clock = std::chrono::steady_clock;
  struct Candidate {
    const ConvAlgorithm* algorithm;
    std::shared_ptr<Storage> packed;
    double seconds = HUGE_VAL;
    bool hopeless = false;
  };
  Operands operands(problem);
  std::vector<Candidate> candidates;
  for (const ConvAlgorithm* a : able) candidates.push_back({a, operands.pack(*a)});
  double best = HUGE_VAL;
  for (int round = 0; round < 3; ++round)
    for (Candidate& c : candidates) {
      if (c.hopeless) continue;
      double spent = 0;
      const int least = round == 0 ? 2 : 1;  // the very first run finds its memory and code, and does not count
      for (int run = 0; run < 3 && (run < least || spent < 0.02); ++run) {
        const auto start = Clock::now();
        operands.run(*c.algorithm, c.packed.get());
        const double took = std::chrono::duration<double>(Clock::now() - start).count();
        spent += took;
        if (round == 0 && run == 0) {
          if ((c.hopeless = took > 3 * best)) break;
          continue;
        }
        c.seconds = std::min(c.seconds, took), best = std::min(best, took);
      }
    }
  const Candidate* chosen = &candidates[0];
  for (const Candidate& c : candidates)
    if (c.seconds < 0.97 * chosen->seconds) chosen = &c;
  return chosen->algorithm;
}

class Choices {
 public:
  std::atomic<ConvMath> math = ConvMath::fast;

  void set_tuning(ConvTuning tuning) {
    std::lock_guard lock(mutex_);
    tuning_ = tuning;
    cache_read_ = false;
  }

  const ConvAlgorithm& choose(const ConvProblem& asked) {
    const ConvProblem problem = representative(asked);
    const std::string key = key_of(problem, math);
    std::lock_guard lock(mutex_);
    if (auto found = chosen_.find(key); found != chosen_.end()) return *found->second;
    return *(chosen_[key] = decide(problem, key));
  }

  std::string lines() {
    std::lock_guard lock(mutex_);
    std::map<std::string, const ConvAlgorithm*> all = chosen_;
    for (const auto& [key, pin] : pinned_) all[key] = pin.algorithm;
    std::string text;
    for (const auto& [key, algorithm] : all) text += fmt::format("{} {}\n", key, algorithm->name);
    return text;
  }

  void pin(std::string_view text, const std::string& where) {
    std::istringstream in{std::string(text)};
    std::map<std::string, Pin> pinned;
    std::string line;
    for (int number = 1; std::getline(in, line); ++number) {
      const auto choice = parse(line);
      KD_INPUT(choice, "{}:{}: '{}' is no choice of a convolution; delete the file to choose again (the run then goes on with other roundings)", where, number,
               line.substr(0, 120));
      const ConvAlgorithm* a = find(choice->name);
      KD_INPUT(a && a->isa <= cpu_isa(),
               "{}:{}: the run used '{}', which this machine lacks ('{}' offers {}); go on where it began, or delete the file to choose "
               "again (the run then goes on with other roundings)",
               where, number, choice->name, cpu_info().name, to_string(cpu_isa()));
      pinned[choice->key] = {a, fmt::format("{}:{}", where, number)};
    }
    std::lock_guard lock(mutex_);
    for (const auto& [key, pin] : pinned) pinned_[key] = pin, chosen_.erase(key);
  }

 private:
  struct Pin {
    const ConvAlgorithm* algorithm;
    std::string where;
  };

  const ConvAlgorithm* decide(const ConvProblem& problem, const std::string& key) {
    if (const auto found = pinned_.find(key); found != pinned_.end()) {
      const auto& [a, where] = found->second;
      KD_INPUT(a->offers(problem), "{}: '{}' does not do {}; delete the file to choose again (the run then goes on with other roundings)", where, a->name,
               to_string(problem));
      return a;
    }
    const auto able = candidates(problem, math);
    KD_CHECK(!able.empty(), "conv {}: no algorithm on this CPU ({}){}", to_string(problem), to_string(cpu_isa()),
             problem.type == DType::bf16 ? "; use precision=fp32, or channels that 16 divides (model.width)" : "");
    if (tuning_ == ConvTuning::fixed) return first_choice(problem, able);
    const Path path = cache_path();
    if (path.empty()) return fastest(problem, able);
    if (!cache_read_) cache_ = read_cache(path), cache_read_ = true;
    const auto kept = [&]() -> const ConvAlgorithm* {
      const auto found = cache_.find(key);
      for (const ConvAlgorithm* a : able)
        if (found != cache_.end() && found->second == a->name) return a;
      return nullptr;
    };
    if (const ConvAlgorithm* a = kept()) return a;
    const ConvAlgorithm* best = fastest(problem, able);
    try {
      make_directories(path.parent_path());
      const FileLock lock(path.string() + ".lock");
      KD_INPUT(lock.held(), "{}.lock cannot be opened", path.string());
      cache_ = read_cache(path);
      if (const ConvAlgorithm* a = kept()) return a;
      cache_[key] = best->name;
      std::string text = machine_line() + "\n";
      for (const auto& [k, name] : cache_) text += k + " " + name + "\n";
      write_atomically(path, text);
    } catch (const Error& e) {
      warn_once(fmt::format("the choice of convolutions is not kept: {}; another run may choose otherwise. --no-tune makes it fixed", e.what()));
    }
    return best;
  }

  std::mutex mutex_;
  ConvTuning tuning_ = ConvTuning::fixed;
  std::map<std::string, const ConvAlgorithm*> chosen_;
  std::map<std::string, Pin> pinned_;
  std::map<std::string, std::string> cache_;
  bool cache_read_ = false;
};

Choices& choices() {
  static Choices all;
  return all;
}

}  // namespace

int64_t timed_batch(const ConvShape& s) {
  const int64_t pixels = std::max<int64_t>(1, s.p() * s.q()), images = 2048 / pixels;  // no pixels: nobody offers it, and decide() says so
  return std::max<int64_t>(32, images / kImagesAtOnce * kImagesAtOnce);
}

const ConvAlgorithm& choose(const ConvProblem& problem) { return choices().choose(problem); }

}  // namespace cpu

void set_conv_math(ConvMath math) { cpu::choices().math = math; }
void set_conv_tuning(ConvTuning tuning) { cpu::choices().set_tuning(tuning); }
bool can_convolve(const ConvShape& shape, DType type) {
  using cpu::ConvOp;
  for (ConvOp op : {ConvOp::fprop, ConvOp::dgrad, ConvOp::wgrad})
    if (cpu::candidates({op, shape, type}, ConvMath::exact).empty()) return false;
  return true;
}
std::string conv_choices() { return cpu::choices().lines(); }
void pin_conv_choices(std::string_view lines, const std::string& where) { cpu::choices().pin(lines, where); }

}  // namespace kd
