#include "data/pickle.h"

#include <cstring>
#include <deque>
#include <string_view>
#include <unordered_map>

#include "engine/base/check.h"

namespace kd {
namespace {

// Bounds every structure below at once: none grows by more than one entry an operation. The official files have about 400,000.
constexpr size_t kMaxOperations = size_t(1) << 22;
constexpr int64_t kMaxFileBytes = int64_t(1) << 30;

enum class Kind : uint8_t { none, integer, bytes, list, tuple, dict, reconstruct, ndarray, dtype, encode, array, uint8_type };

struct Value {
  Kind kind = Kind::none;
  int64_t integer = 0;
  std::string_view bytes = {};       // into the file; an array's elements
  std::vector<uint32_t> items = {};  // of a list or tuple; a dict's keys and values in turn; an array's extents
};

std::string shown(std::string_view text) {
  std::string out;
  for (char c : text.substr(0, 60)) out += c >= 0x20 && c < 0x7f ? c : '?';
  return out;
}

}  // namespace

struct PickledDict::Machine {
  explicit Machine(const Path& path) : name(path.string()) {
    KD_INPUT(kd::file_size(path) <= kMaxFileBytes, "{}: larger than 1 GiB, surely no CIFAR file", name);
    file = read_bytes(path);
    values.emplace_back();  // value 0: None
    run();
  }

  // ---- The file as a stream. ----

  void need(uint64_t bytes) const {
    KD_INPUT(bytes <= file.size() - at, "{}: byte {}: the pickle ends in the middle of something; the file is truncated, fetch it again", name, file.size());
  }
  std::string_view take(uint64_t bytes) {
    need(bytes);
    std::string_view text(reinterpret_cast<const char*>(file.data()) + at, size_t(bytes));
    at += size_t(bytes);
    return text;
  }
  uint64_t number(size_t bytes) {  // little-endian
    uint64_t value = 0;
    const std::string_view text = take(bytes);
    for (size_t i = 0; i < bytes; ++i) value |= uint64_t(uint8_t(text[i])) << (8 * i);
    return value;
  }
  std::string_view line() {
    const void* end = std::memchr(file.data() + at, '\n', file.size() - at);
    KD_INPUT(end, "{}: byte {}: the pickle ends in the middle of a name; the file is truncated, fetch it again", name, file.size());
    std::string_view text = take(size_t(static_cast<const uint8_t*>(end) - (file.data() + at)));
    ++at;
    return text;
  }

  [[noreturn]] void broken(const char* what) const { throw Error(fmt::format("{}: byte {}: not a CIFAR pickle: {}; fetch the file again", name, op_at, what)); }

  // ---- The stack machine. ----

  uint32_t add(Value value) {
    values.push_back(std::move(value));
    return uint32_t(values.size() - 1);
  }
  void push(Value value) { stack.push_back(add(std::move(value))); }
  void push_integer(int64_t i) { push({.kind = Kind::integer, .integer = i}); }
  uint32_t pop() {
    if (stack.empty() || (!marks.empty() && marks.back() == stack.size())) broken("an operation without its operands");
    const uint32_t top = stack.back();
    stack.pop_back();
    return top;
  }
  Value& top(Kind kind) {
    if (stack.empty() || values[stack.back()].kind != kind) broken("items for something that holds none");
    return values[stack.back()];
  }
  std::vector<uint32_t> pop_to_mark() {
    if (marks.empty()) broken("the end of a group without its beginning");
    const size_t begin = marks.back();
    marks.pop_back();
    std::vector<uint32_t> items(stack.begin() + std::ptrdiff_t(begin), stack.end());
    stack.resize(begin);
    return items;
  }
  void remember(uint64_t slot) {
    if (stack.empty()) broken("a memo of nothing");
    // Slots are handed out in order, so a slot far beyond the values so far is an attempt to make a reader allocate.
    if (slot > values.size()) broken("a memo slot out of order");
    memo[slot] = stack.back();
  }
  void recall(uint64_t slot) {
    const auto found = memo.find(slot);
    if (found == memo.end()) broken("a memo slot that was never filled");
    stack.push_back(found->second);
  }

  void global() {
    const std::string_view module = line(), function = line();
    auto is = [&](std::string_view m, std::string_view f) { return module == m && function == f; };
    const Kind kind = is("numpy.core.multiarray", "_reconstruct") ? Kind::reconstruct
                      : is("numpy", "ndarray")                    ? Kind::ndarray
                      : is("numpy", "dtype")                      ? Kind::dtype
                      : is("_codecs", "encode")                   ? Kind::encode
                                                                  : Kind::none;
    KD_INPUT(kind != Kind::none, "{}: byte {}: asks for code ({}.{}), which no CIFAR file needs; refused, get the file from a source that you trust", name,
             op_at, shown(module), shown(function));
    push({.kind = kind});
  }

  const Value& item(const Value& of, size_t i, Kind kind) const {
    if (i >= of.items.size() || values[of.items[i]].kind != kind) broken("an unexpected argument");
    return values[of.items[i]];
  }

  void reduce() {
    const uint32_t arguments_at = pop(), function = pop();
    const Value& arguments = values[arguments_at];
    if (arguments.kind != Kind::tuple) broken("arguments that are no tuple");
    switch (values[function].kind) {
      case Kind::reconstruct:  // (ndarray, (0,), 'b'): an empty array, filled by `build`
        item(arguments, 0, Kind::ndarray);
        return push({.kind = Kind::array});
      case Kind::dtype:  // ('u1', 0, 1)
        if (item(arguments, 0, Kind::bytes).bytes != "u1") broken("an array of something other than uint8");
        return push({.kind = Kind::uint8_type});
      case Kind::encode: {  // (text, 'latin1'): the bytes whose numbers are the text's characters
        if (const std::string_view codec = item(arguments, 1, Kind::bytes).bytes; codec != "latin1" && codec != "latin-1") broken("an unknown text encoding");
        return push({.kind = Kind::bytes, .bytes = latin1(item(arguments, 0, Kind::bytes).bytes)});
      }
      default: broken("a call of something that is no function");
    }
  }

  // UTF-8 of characters below 256 to one byte each. Never longer than the text, so all of them together stay below the file's size times the number of
  // calls on one text; each text may be used once.
  std::string_view latin1(std::string_view text) {
    encoded_bytes += text.size();
    if (encoded_bytes > file.size()) broken("one text encoded again and again");
    std::string& out = encoded.emplace_back();
    for (size_t i = 0; i < text.size(); ++i) {
      const uint8_t c = uint8_t(text[i]);
      if (c < 0x80) {
        out += char(c);
      } else {
        if ((c != 0xc2 && c != 0xc3) || i + 1 == text.size() || (uint8_t(text[i + 1]) & 0xc0) != 0x80) broken("text that is no byte string");
        out += char(((c & 3) << 6) | (uint8_t(text[++i]) & 0x3f));
      }
    }
    return out;
  }

  void build() {
    const Value& state = values[pop()];
    if (stack.empty() || state.kind != Kind::tuple) broken("a state that is no tuple");
    Value& target = values[stack.back()];
    if (target.kind == Kind::uint8_type) return;  // byte order and alignment: one byte has neither
    if (target.kind != Kind::array) broken("a state for something that has none");
    // (version, shape, dtype, is_fortran, bytes)
    const Value& shape = item(state, 1, Kind::tuple);
    item(state, 2, Kind::uint8_type);
    if (item(state, 3, Kind::integer).integer != 0) broken("an array in Fortran order");
    const Value& bytes = item(state, 4, Kind::bytes);
    uint64_t elements = 1;
    std::vector<uint32_t> extents;
    for (size_t i = 0; i < shape.items.size(); ++i) {
      const int64_t extent = item(shape, i, Kind::integer).integer;
      if (extent < 0 || extent > kMaxFileBytes || elements > uint64_t(kMaxFileBytes)) broken("an array of impossible size");
      elements *= uint64_t(extent);
      extents.push_back(uint32_t(extent));
    }
    if (elements != bytes.bytes.size()) broken("an array whose shape and bytes disagree");
    target.items = std::move(extents);
    target.bytes = bytes.bytes;
  }

  void extend_dict(const std::vector<uint32_t>& items) {
    if (items.size() % 2 != 0) broken("a key without a value");
    Value& dict = top(Kind::dict);
    dict.items.insert(dict.items.end(), items.begin(), items.end());
  }
  void extend_list(const std::vector<uint32_t>& items) {
    Value& list = top(Kind::list);
    list.items.insert(list.items.end(), items.begin(), items.end());
  }
  void push_tuple(std::vector<uint32_t> items) { push({.kind = Kind::tuple, .items = std::move(items)}); }
  void push_tuple_of(size_t n) {
    std::vector<uint32_t> items(n);
    for (size_t i = n; i > 0; --i) items[i - 1] = pop();
    push_tuple(std::move(items));
  }

  void run() {
    KD_INPUT(file.size() >= 2 && file[0] == 0x80, "{}: byte 0: not a Python pickle; fetch the file again", name);
    KD_INPUT(file[1] <= 2, "{}: byte 1: pickle protocol {}, but CIFAR's files have 2; this is not the official file", name, file[1]);
    at = 2;
    for (size_t operations = 0;; ++operations) {
      op_at = at;
      KD_INPUT(operations < kMaxOperations, "{}: byte {}: more than {} operations, surely no CIFAR file; refused", name, op_at, kMaxOperations);
      const auto op = uint8_t(number(1));
      switch (op) {
        case 'N': stack.push_back(0); break;
        case 0x88: push_integer(1); break;  // True
        case 0x89: push_integer(0); break;  // False
        case 'K': push_integer(int64_t(number(1))); break;
        case 'M': push_integer(int64_t(number(2))); break;
        case 'J': push_integer(int32_t(uint32_t(number(4)))); break;
        case 'U': push({.kind = Kind::bytes, .bytes = take(number(1))}); break;
        case 'T':
        case 'X': push({.kind = Kind::bytes, .bytes = take(number(4))}); break;
        case ']': push({.kind = Kind::list}); break;
        case '}': push({.kind = Kind::dict}); break;
        case ')': push_tuple({}); break;
        case 0x85: push_tuple_of(1); break;
        case 0x86: push_tuple_of(2); break;
        case 0x87: push_tuple_of(3); break;
        case '(': marks.push_back(stack.size()); break;
        case 't': push_tuple(pop_to_mark()); break;
        case 'a': {
          const uint32_t item = pop();
          extend_list({item});
          break;
        }
        case 'e': {
          const auto items = pop_to_mark();
          extend_list(items);
          break;
        }
        case 's': {
          const uint32_t value = pop(), key = pop();
          extend_dict({key, value});
          break;
        }
        case 'u': {
          const auto items = pop_to_mark();
          extend_dict(items);
          break;
        }
        case 'q': remember(number(1)); break;
        case 'r': remember(number(4)); break;
        case 'h': recall(number(1)); break;
        case 'j': recall(number(4)); break;
        case 'c': global(); break;
        case 'R': reduce(); break;
        case 'b': build(); break;
        case '.':
          if (stack.size() != 1 || values[stack[0]].kind != Kind::dict) broken("it holds no dict");
          root = stack[0];
          return;
        case 'i':
        case 'o':
        case 'P':
        case 'Q':
        case 0x81:
        case 0x82:
        case 0x83:
        case 0x84:
        case 0x92:
        case 0x93:
          throw Error(fmt::format(
              "{}: byte {}: asks for code (pickle operation 0x{:02x}), which no CIFAR file needs; refused, get the file from a source that you trust", name,
              op_at, op));
        default:
          throw Error(fmt::format("{}: byte {}: pickle operation 0x{:02x} does not occur in CIFAR's files; refused, fetch the file again", name, op_at, op));
      }
    }
  }

  // ---- What is inside. ----

  const Value* find(const std::string& key) const {
    const std::vector<uint32_t>& items = values[root].items;
    for (size_t i = 0; i + 1 < items.size(); i += 2)
      if (values[items[i]].kind == Kind::bytes && values[items[i]].bytes == key) return &values[items[i + 1]];
    return nullptr;
  }
  const Value& get(const std::string& key, Kind kind, const char* what) const {
    const Value* value = find(key);
    KD_INPUT(value, "{}: has no '{}'; it is not the official file, fetch it again", name, key);
    KD_INPUT(value->kind == kind, "{}: '{}' is not {}; it is not the official file, fetch it again", name, key, what);
    return *value;
  }

  std::string name;
  std::vector<uint8_t> file;
  size_t at = 0, op_at = 0;
  std::vector<Value> values;  // never freed, so a list that contains itself is only a number in a vector
  std::vector<uint32_t> stack;
  std::vector<size_t> marks;
  std::unordered_map<uint64_t, uint32_t> memo;
  std::deque<std::string> encoded;  // a deque, because views of its strings must stay valid
  size_t encoded_bytes = 0;
  uint32_t root = 0;
};

PickledDict::PickledDict(const Path& path) : machine_(std::make_unique<Machine>(path)) {}
PickledDict::~PickledDict() = default;
PickledDict::PickledDict(PickledDict&&) noexcept = default;

bool PickledDict::has(const std::string& key) const { return machine_->find(key) != nullptr; }

std::vector<int64_t> PickledDict::integers(const std::string& key) const {
  const Value& list = machine_->get(key, Kind::list, "a list of whole numbers");
  std::vector<int64_t> out;
  for (uint32_t i : list.items) {
    const Value& value = machine_->values[i];
    KD_INPUT(value.kind == Kind::integer, "{}: '{}' is not a list of whole numbers; it is not the official file, fetch it again", machine_->name, key);
    out.push_back(value.integer);
  }
  return out;
}

std::vector<std::string> PickledDict::strings(const std::string& key) const {
  const Value& list = machine_->get(key, Kind::list, "a list of texts");
  std::vector<std::string> out;
  size_t total = 0;
  for (uint32_t i : list.items) {
    const Value& value = machine_->values[i];
    KD_INPUT(value.kind == Kind::bytes, "{}: '{}' is not a list of texts; it is not the official file, fetch it again", machine_->name, key);
    // One long text may stand in the list a million times through the memo; copies are bounded like everything else.
    total += value.bytes.size();
    KD_INPUT(total <= machine_->file.size(), "{}: '{}' repeats its texts; it is not the official file, fetch it again", machine_->name, key);
    out.emplace_back(value.bytes);
  }
  return out;
}

PickledDict::Bytes2d PickledDict::array(const std::string& key) const {
  const Value& value = machine_->get(key, Kind::array, "an array of uint8");
  KD_INPUT(value.items.size() == 2, "{}: '{}' is an array of {} dimensions, expected images x bytes; it is not the official file, fetch it again",
           machine_->name, key, value.items.size());
  return {.rows = value.items[0], .columns = value.items[1], .data = reinterpret_cast<const uint8_t*>(value.bytes.data())};
}

}  // namespace kd
