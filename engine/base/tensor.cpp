#include "engine/base/tensor.h"

namespace kd {

int64_t size_of(DType type) {
  switch (type) {
    case DType::f32: return 4;
    case DType::bf16: return 2;
    case DType::u8: return 1;
    case DType::i32: return 4;
    case DType::i64: return 8;
  }
  KD_FAIL("unknown dtype {}", int(type));
}

std::string to_string(DType type) {
  switch (type) {
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::u8: return "u8";
    case DType::i32: return "i32";
    case DType::i64: return "i64";
  }
  KD_FAIL("unknown dtype {}", int(type));
}

Shape::Shape(std::initializer_list<int64_t> dims) : Shape(std::vector<int64_t>(dims)) {}

Shape::Shape(const std::vector<int64_t>& dims) : rank_(int(dims.size())) {
  KD_CHECK(dims.size() <= 4, "shape of rank {}: at most 4", dims.size());
  int64_t elements = 1;
  for (size_t i = 0; i < dims.size(); ++i) {
    KD_CHECK(dims[i] >= 0, "shape with extent {}", dims[i]);
    KD_CHECK(!__builtin_mul_overflow(elements, dims[i], &elements), "shape with more than 2^63 elements");
    dims_[i] = dims[i];
  }
}

int64_t Shape::elements() const {
  int64_t n = 1;
  for (int i = 0; i < rank_; ++i) n *= (*this)[i];
  return n;
}

std::string to_string(const Shape& shape) {
  std::string s = "[";
  for (int i = 0; i < shape.rank(); ++i) s += fmt::format("{}{}", i ? "," : "", shape[i]);
  return s + "]";
}

Tensor Tensor::empty(Shape shape, DType type, Device device) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = type;
  t.storage_ = Storage::allocate(shape.elements() * size_of(type), device);
  return t;
}

Tensor Tensor::zeros(Shape shape, DType type, Device device) {
  Tensor t = empty(shape, type, device);
  t.zero_();
  return t;
}

void Tensor::zero_() const { fill_bytes(raw(), device(), 0, bytes()); }

Tensor Tensor::view(Shape shape) const {
  KD_CHECK(shape.elements() == elements(), "view of {} as {}", describe("tensor"), to_string(shape));
  Tensor t = *this;
  t.shape_ = shape;
  return t;
}

Tensor Tensor::slice(int64_t first, Shape shape) const {
  KD_CHECK(first >= 0 && first <= elements() && shape.elements() <= elements() - first, "slice of {} elements from {} in {}", shape.elements(), first,
           describe("tensor"));
  Tensor t = *this;
  t.offset_bytes_ += first * size_of(dtype_);
  t.shape_ = shape;
  return t;
}

Tensor Tensor::clone() const {
  Tensor t = empty(shape_, dtype_, device());
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(Device device) const {
  if (!defined() || device == this->device()) return *this;
  Tensor t = empty(shape_, dtype_, device);
  t.copy_from(*this);
  return t;
}

void Tensor::copy_from(const Tensor& other) const {
  KD_CHECK(defined() && shape_ == other.shape_ && dtype_ == other.dtype_, "copy of {} into {}", other.describe("tensor"), describe("tensor"));
  copy_bytes(raw(), device(), other.raw(), other.device(), bytes());
}

std::string Tensor::describe(const char* name) const {
  if (!defined()) return fmt::format("{} (undefined)", name);
  return fmt::format("{} {}{} {}", name, to_string(dtype_), to_string(shape_), to_string(device()));
}

}  // namespace kd
