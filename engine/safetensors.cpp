#include "engine/safetensors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

namespace kd {
namespace {

using nlohmann::json;
static_assert(std::endian::native == std::endian::little, "tensors are written as they lie in memory");

constexpr uint64_t kMaxHeader = 100'000'000;
constexpr int kMaxDepth = 4;  // file, tensor, shape: more is an attack on the parser's stack

struct StoredType {
  const char* name;
  int64_t bytes;
  DType type;  // what it becomes here
};
constexpr StoredType kStoredTypes[] = {{"F32", 4, DType::f32}, {"BF16", 2, DType::bf16}, {"F16", 2, DType::f32}, {"F64", 8, DType::f32},
                                       {"I64", 8, DType::i64}, {"I32", 4, DType::i32},   {"U8", 1, DType::u8},   {"BOOL", 1, DType::u8}};

const char* stored_name(DType type) {
  for (const StoredType& s : kStoredTypes)
    if (s.type == type) return s.name;  // the first of a type is its own
  KD_FAIL("no stored type for {}", to_string(type));
}

float half_to_float(uint16_t h) {
  const int exponent = (h >> 10) & 31, mantissa = h & 1023;
  const float sign = h & 0x8000 ? -1.f : 1.f;
  if (exponent == 31) return mantissa ? std::nanf("") : sign * HUGE_VALF;
  return sign * (exponent ? std::ldexp(float(1024 + mantissa), exponent - 25) : std::ldexp(float(mantissa), -24));
}

template <class T>
T load(const uint8_t* from) {  // data in a file are not aligned
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

Tensor convert(const StoredType& stored, Shape shape, const uint8_t* from) {
  Tensor t = Tensor::empty(shape, stored.type);
  const std::string_view name = stored.name;
  if (name == "F16") {
    for (int64_t i = 0; i < t.elements(); ++i) t.data<float>()[i] = half_to_float(load<uint16_t>(from + 2 * i));
  } else if (name == "F64") {
    for (int64_t i = 0; i < t.elements(); ++i) t.data<float>()[i] = float(load<double>(from + 8 * i));
  } else if (t.bytes() > 0) {
    std::memcpy(t.raw(), from, size_t(t.bytes()));
  }
  return t;
}

// A name from a file, fit for one line of a message.
std::string shown(const std::string& name) {
  return json(name.size() <= 80 ? name : name.substr(0, 77) + "...").dump(-1, ' ', true, json::error_handler_t::replace);
}

// The header as JSON; a repeated key anywhere is refused, since a parser that keeps one of two would hide the other.
json parse_header(const std::string& where, const uint8_t* begin, const uint8_t* end) {
  KD_INPUT(begin < end && *begin == '{', "{}: not a safetensors file: its header does not begin with '{{' at byte 8", where);
  // Depth is bounded before the parser builds anything: brackets outside strings.
  int depth = 0;
  bool in_string = false;
  for (const uint8_t* p = begin; p < end; ++p) {
    if (in_string) {
      if (*p == '\\')
        ++p;
      else if (*p == '"')
        in_string = false;
    } else if (*p == '"') {
      in_string = true;
    } else if (*p == '{' || *p == '[') {
      KD_INPUT(++depth <= kMaxDepth, "{}: not a safetensors file: its header is nested too deeply at byte {}", where, 8 + (p - begin));
    } else if (*p == '}' || *p == ']') {
      --depth;
    }
  }
  std::vector<std::set<std::string>> open;  // the keys so far of every object that is being read
  auto refuse_duplicates = [&](int, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start) open.emplace_back();
    if (event == json::parse_event_t::object_end) open.pop_back();
    if (event == json::parse_event_t::key) KD_INPUT(open.back().insert(value).second, "{}: {} is in the header twice", where, shown(value));
    return true;
  };
  try {
    const json header = json::parse(begin, end, refuse_duplicates);
    KD_INPUT(std::find(begin, end, 0) == end, "{}: not a safetensors file: its header is not JSON, it holds a zero byte", where);  // the parser's end of input
    return header;
  } catch (const json::parse_error& e) {
    throw Error(fmt::format("{}: not a safetensors file: its header is not JSON at byte {}", where, 7 + e.byte));  // the parser counts from 1
  } catch (const json::exception&) {                                                                               // a number that no double can hold
    throw Error(fmt::format("{}: not a safetensors file: its header holds a number out of range", where));
  }
}

struct Entry {
  std::string name;
  const StoredType* type;
  Shape shape;
  uint64_t begin, end;
};

Entry read_entry(const std::string& where, const std::string& name, const json& entry, uint64_t data_bytes) {
  auto wrong = [&](const std::string& what) { return Error(fmt::format("{}: tensor {}: {}", where, shown(name), what)); };
  if (!entry.is_object()) throw wrong("its entry is not an object");
  for (const char* key : {"dtype", "shape", "data_offsets"})
    if (!entry.contains(key)) throw wrong(fmt::format("its entry has no '{}'", key));
  if (!entry["dtype"].is_string()) throw wrong("its dtype is not a string");
  const std::string dtype = entry["dtype"];
  auto type = std::find_if(std::begin(kStoredTypes), std::end(kStoredTypes), [&](const StoredType& s) { return dtype == s.name; });
  if (type == std::end(kStoredTypes)) throw wrong(fmt::format("dtype {} is not supported (F32 F16 BF16 F64 I64 I32 U8 BOOL are)", shown(dtype)));

  auto is_count = [](const json& v) { return v.is_number_unsigned(); };
  const json &dims = entry["shape"], &offsets = entry["data_offsets"];
  if (!dims.is_array() || !std::all_of(dims.begin(), dims.end(), is_count)) throw wrong("its shape is not a list of sizes");
  if (dims.size() > 4) throw wrong(fmt::format("its rank is {}, at most 4 is supported", dims.size()));
  if (!offsets.is_array() || offsets.size() != 2 || !std::all_of(offsets.begin(), offsets.end(), is_count))
    throw wrong("its data_offsets are not [begin, end]");
  const uint64_t begin = offsets[0], end = offsets[1];
  if (begin > end || end > data_bytes) throw wrong(fmt::format("its data_offsets [{}, {}] do not lie in the file's {} data bytes", begin, end, data_bytes));

  std::vector<int64_t> extents;
  uint64_t bytes = uint64_t(type->bytes);
  for (const json& dim : dims) {
    const uint64_t extent = dim;
    if (__builtin_mul_overflow(bytes, extent, &bytes) || extent > uint64_t(INT64_MAX)) throw wrong("its shape overflows");
    extents.push_back(int64_t(extent));
  }
  if (bytes != end - begin) throw wrong(fmt::format("its shape needs {} bytes, its data_offsets hold {}", bytes, end - begin));
  return {name, &*type, Shape(extents), begin, end};
}

}  // namespace

const Tensor* TensorFile::find(std::string_view name) const {
  for (const NamedTensor& t : tensors)
    if (t.name == name) return &t.value;
  return nullptr;
}

TensorFile read_safetensors(const Path& path) {
  const std::string where = path.string();
  const std::vector<uint8_t> bytes = read_bytes(path);
  KD_INPUT(bytes.size() >= 8, "{}: not a safetensors file: {} bytes, shorter than its length field", where, bytes.size());
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  KD_INPUT(header_bytes <= kMaxHeader && header_bytes <= bytes.size() - 8,
           "{}: not a safetensors file, or a truncated one: it claims a header of {} bytes and has {} after its length field", where, header_bytes,
           bytes.size() - 8);
  const uint8_t* data = bytes.data() + 8 + header_bytes;
  const uint64_t data_bytes = bytes.size() - 8 - header_bytes;
  const json header = parse_header(where, bytes.data() + 8, data);

  TensorFile file;
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name != "__metadata__") {
      entries.push_back(read_entry(where, name, value, data_bytes));
      continue;
    }
    KD_INPUT(value.is_object(), "{}: __metadata__ is not an object", where);
    for (const auto& [key, text] : value.items()) {
      KD_INPUT(text.is_string(), "{}: metadata {} is not a string", where, shown(key));
      file.metadata[key] = text;
    }
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  uint64_t at = 0;
  for (const Entry& e : entries) {
    KD_INPUT(e.begin >= at, "{}: tensor {} overlaps the one before it at data byte {}", where, shown(e.name), e.begin);
    KD_INPUT(e.begin == at, "{}: data bytes {} to {} belong to no tensor", where, at, e.begin);
    at = e.end;
  }
  KD_INPUT(at == data_bytes, "{}: {} bytes after the last tensor", where, data_bytes - at);
  for (const Entry& e : entries) file.tensors.push_back({e.name, convert(*e.type, e.shape, data + e.begin)});
  return file;
}

void write_safetensors(const Path& path, const TensorFile& file) {
  // Widest type first, as the official writer does: every tensor then lies at a multiple of its element size, and readers may map it in place.
  std::vector<const NamedTensor*> order;
  for (const NamedTensor& t : file.tensors) order.push_back(&t);
  std::stable_sort(order.begin(), order.end(), [](auto* a, auto* b) { return size_of(a->value.dtype()) > size_of(b->value.dtype()); });

  json header = json::object();
  header["__metadata__"] = file.metadata;
  header["__metadata__"]["format"] = "pt";
  int64_t offset = 0;
  for (const NamedTensor* t : order) {
    KD_CHECK(t->value.defined() && !header.contains(t->name), "write_safetensors: '{}' is undefined or there twice", t->name);
    const Shape& shape = t->value.shape();
    json dims = json::array();
    for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
    header[t->name] = {{"dtype", stored_name(t->value.dtype())}, {"shape", dims}, {"data_offsets", {offset, offset + t->value.bytes()}}};
    offset += t->value.bytes();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  write_atomically(path, [&](FileWriter& out) {
    const uint64_t size = text.size();
    out.write(std::span(reinterpret_cast<const uint8_t*>(&size), 8));
    out.write(text);
    for (const NamedTensor* t : order) out.write(std::span(static_cast<const uint8_t*>(t->value.raw()), size_t(t->value.bytes())));
  });
}

}  // namespace kd
