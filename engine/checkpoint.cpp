#include "engine/checkpoint.h"

#include <cstring>
#include <set>

namespace kd {
namespace {

constexpr const char* kTracked = "num_batches_tracked";

// [K,R,S,C] <-> [K,C,R,S]; everything else is the same in both worlds.
Tensor to_torch_layout(const Tensor& w) {
  if (w.rank() != 4) return w.clone();
  const int64_t k = w.dim(0), r = w.dim(1), s = w.dim(2), c = w.dim(3);
  Tensor out = Tensor::empty({k, c, r, s}, DType::f32);
  const float* from = w.data<float>();
  for (int64_t i = 0; i < k; ++i)
    for (int64_t a = 0; a < r * s; ++a)
      for (int64_t j = 0; j < c; ++j) out.data<float>()[(i * c + j) * r * s + a] = from[(i * r * s + a) * c + j];
  return out;
}

void from_torch_layout(const Tensor& from, const Tensor& into) {
  if (into.rank() != 4) {
    std::memcpy(into.raw(), from.raw(), size_t(into.bytes()));
    return;
  }
  const int64_t k = into.dim(0), rs = into.dim(1) * into.dim(2), c = into.dim(3);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t a = 0; a < rs; ++a)
      for (int64_t j = 0; j < c; ++j) into.data<float>()[(i * rs + a) * c + j] = from.data<float>()[(i * c + j) * rs + a];
}

Shape torch_shape(const Shape& s) { return s.rank() == 4 ? Shape{s[0], s[3], s[1], s[2]} : s; }

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

std::vector<NamedTensor> state_dict(const ParamArena& arena) {
  std::vector<NamedTensor> out;
  for (const auto& p : arena.parameters()) out.push_back({p.name, to_torch_layout(p.slot->value())});
  const std::string variance = "running_var";
  for (const auto& b : arena.buffers()) {
    out.push_back({b.name, b.slot->clone()});
    if (ends_with(b.name, variance)) {
      Tensor count = Tensor::empty({}, DType::i64);
      *count.data<int64_t>() = arena.batches_tracked;
      out.push_back({b.name.substr(0, b.name.size() - variance.size()) + kTracked, count});
    }
  }
  return out;
}

void load_state_dict(ParamArena& arena, const TensorFile& file, const std::string& where) {
  std::map<std::string, const Tensor*> by_name;
  for (const NamedTensor& t : file.tensors) by_name[t.name.rfind("module.", 0) == 0 ? t.name.substr(7) : t.name] = &t.value;

  auto take = [&](const std::string& name, const Shape& shape) {
    auto it = by_name.find(name);
    KD_INPUT(it != by_name.end(), "{}: has no tensor '{}', which the model needs; is it another architecture or stem?", where, name);
    const Tensor* t = it->second;
    const bool head = name.rfind("fc.", 0) == 0;
    KD_INPUT(t->shape() == torch_shape(shape), "{}: '{}' is {}, the model needs {}{}", where, name, to_string(t->shape()), to_string(torch_shape(shape)),
             head ? " (another number of classes?)" : " (another width or stem?)");
    Tensor value = *t;
    if (value.dtype() == DType::bf16) {
      value = Tensor::empty(t->shape(), DType::f32);
      for (int64_t i = 0; i < value.elements(); ++i) value.data<float>()[i] = float(t->data<bf16>()[i]);
    }
    KD_INPUT(value.dtype() == DType::f32, "{}: '{}' is {}, expected f32", where, name, to_string(t->dtype()));
    by_name.erase(it);
    return value;
  };
  // Read everything before writing anything: a bad file leaves the model as it was.
  std::vector<Tensor> parameters, buffers;
  for (const auto& p : arena.parameters()) parameters.push_back(take(p.name, p.shape));
  for (const auto& b : arena.buffers()) buffers.push_back(take(b.name, b.shape));
  int64_t tracked = 0;
  for (auto it = by_name.begin(); it != by_name.end();) {
    if (ends_with(it->first, kTracked)) {
      KD_INPUT(it->second->dtype() == DType::i64 && it->second->elements() == 1, "{}: '{}' must be one i64", where, it->first);
      tracked = *it->second->data<int64_t>();
      it = by_name.erase(it);
    } else {
      ++it;
    }
  }
  by_name.erase(kMomentumName);
  KD_INPUT(by_name.empty(), "{}: has tensor '{}', which the model does not know ({} such); is it another architecture?", where, by_name.begin()->first,
           by_name.size());

  for (size_t i = 0; i < parameters.size(); ++i) from_torch_layout(parameters[i], arena.parameters()[i].slot->value());
  for (size_t i = 0; i < buffers.size(); ++i) from_torch_layout(buffers[i], *arena.buffers()[i].slot);
  arena.batches_tracked = tracked;
  arena.touch();
}

}  // namespace kd
