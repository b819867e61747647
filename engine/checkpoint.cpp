#include "engine/checkpoint.h"

#include <set>

namespace kd {
namespace {

constexpr const char* kTracked = "num_batches_tracked";

// [K,R,S,C] -> [K,C,R,S], the first `channels` of C; everything else is the same in both worlds.
Tensor to_torch_layout(const Tensor& on_device, int64_t channels) {
  const Tensor w = on_device.to(Device::cpu);
  if (w.rank() != 4) return w.clone();
  const int64_t k = w.dim(0), r = w.dim(1), s = w.dim(2), stored = w.dim(3);
  Tensor out = Tensor::empty({k, channels, r, s}, DType::f32);
  const float* from = w.data<float>();
  for (int64_t i = 0; i < k; ++i)
    for (int64_t a = 0; a < r * s; ++a)
      for (int64_t j = 0; j < channels; ++j) out.data<float>()[(i * channels + j) * r * s + a] = from[(i * r * s + a) * stored + j];
  return out;
}

// The way back; channels that the file does not know are zero.
void from_torch_layout(const Tensor& from, const Tensor& into) {
  if (into.rank() != 4) return into.copy_from(from);
  const int64_t k = into.dim(0), rs = into.dim(1) * into.dim(2), stored = into.dim(3), channels = from.dim(1);
  Tensor out = Tensor::zeros(into.shape(), DType::f32);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t a = 0; a < rs; ++a)
      for (int64_t j = 0; j < channels; ++j) out.data<float>()[(i * rs + a) * stored + j] = from.data<float>()[(i * channels + j) * rs + a];
  into.copy_from(out);
}

Shape torch_shape(const Shape& s) { return s.rank() == 4 ? Shape{s[0], s[3], s[1], s[2]} : s; }

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

Tensor in_torch_layout(const ParamArena::Parameter& p, const Tensor& window) { return to_torch_layout(window, p.shape.rank() == 4 ? p.shape[3] : 0); }

}  // namespace

std::vector<NamedTensor> momentum_dict(const ParamArena& arena) {
  std::vector<NamedTensor> out;
  for (const auto& p : arena.parameters()) out.push_back({kMomentumPrefix + p.name, in_torch_layout(p, arena.momentum().slice(p.offset, p.stored()))});
  return out;
}

void load_momentum(ParamArena& arena, const TensorFile& file, const std::string& where) {
  for (const auto& p : arena.parameters()) {
    const Tensor* t = file.find(kMomentumPrefix + p.name);
    KD_INPUT(t && t->shape() == torch_shape(p.shape) && t->dtype() == DType::f32, "{}: no momentum that fits '{}'; delete the run directory to start again",
             where, p.name);
  }
  for (const auto& p : arena.parameters()) from_torch_layout(*file.find(kMomentumPrefix + p.name), arena.momentum().slice(p.offset, p.stored()));
}

std::vector<NamedTensor> state_dict(const ParamArena& arena) {
  std::vector<NamedTensor> out;
  for (const auto& p : arena.parameters()) out.push_back({p.name, in_torch_layout(p, p.slot->value())});
  const std::string variance = "running_var";
  for (const auto& b : arena.buffers()) {
    out.push_back({b.name, b.slot->to(Device::cpu).clone()});
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
  for (const NamedTensor& t : file.tensors) {
    if (t.name.rfind(kMomentumPrefix, 0) == 0) continue;
    const auto [known, is_new] = by_name.emplace(t.name.rfind("module.", 0) == 0 ? t.name.substr(7) : t.name, &t.value);
    KD_INPUT(is_new, "{}: has tensor '{}' twice, with and without 'module.' before its name; remove one of them", where, known->first);
  }

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
  KD_INPUT(by_name.empty(), "{}: has tensor '{}', which the model does not know ({} such); is it another architecture?", where, by_name.begin()->first,
           by_name.size());

  for (size_t i = 0; i < parameters.size(); ++i) from_torch_layout(parameters[i], arena.parameters()[i].slot->value());
  for (size_t i = 0; i < buffers.size(); ++i) from_torch_layout(buffers[i], *arena.buffers()[i].slot);
  arena.batches_tracked = tracked;
  arena.weights_changed();
}

}  // namespace kd
