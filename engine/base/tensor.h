// tensor: a typed, shaped view of shared storage. Always dense and row-major; images are NHWC on every device and in every precision.
// A Tensor is a handle: copying it shares the data, `clone` copies the data.
#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/bf16.h"
#include "engine/base/check.h"
#include "engine/base/device.h"
#include "engine/base/memory.h"

namespace kd {

enum class DType : unsigned char { f32, bf16, u8, i32, i64 };
int64_t size_of(DType);
std::string to_string(DType);

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>)
    return DType::f32;
  else if constexpr (std::is_same_v<T, kd::bf16>)
    return DType::bf16;
  else if constexpr (std::is_same_v<T, uint8_t>)
    return DType::u8;
  else if constexpr (std::is_same_v<T, int32_t>)
    return DType::i32;
  else {
    static_assert(std::is_same_v<T, int64_t>, "no DType for this C++ type");
    return DType::i64;
  }
}

// Up to four extents; rank 0 is a scalar with one element.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);
  explicit Shape(const std::vector<int64_t>& dims);
  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[size_t(i)]; }
  int64_t elements() const;
  bool operator==(const Shape&) const = default;

 private:
  std::array<int64_t, 4> dims_{};
  int rank_ = 0;
};
std::string to_string(const Shape&);  // "[128,32,32,3]"

class Tensor {
 public:
  Tensor() = default;  // undefined: no storage
  static Tensor empty(Shape, DType, Device = Device::cpu);
  static Tensor zeros(Shape, DType, Device = Device::cpu);
  template <class T>
  static Tensor of(Shape shape, const std::vector<T>& values) {
    Tensor t = empty(shape, dtype_of<T>());
    KD_CHECK(int64_t(values.size()) == shape.elements(), "Tensor::of: {} values for shape {}", values.size(), to_string(shape));
    std::copy(values.begin(), values.end(), t.data<T>());
    return t;
  }

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t elements() const { return shape_.elements(); }
  int64_t bytes() const { return elements() * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return storage_ ? storage_->device() : Device::cpu; }

  void* raw() const { return storage_ ? storage_->data() + offset_bytes_ : nullptr; }
  // Device memory is for kernels: dereferencing the pointer of a tensor that is not on the CPU ends the program.
  template <class T>
  T* data() const {
    KD_CHECK(defined() && dtype_ == dtype_of<T>(), "{} was asked for its data as {}", describe("tensor"), to_string(dtype_of<T>()));
    return static_cast<T*>(raw());
  }

  Tensor view(Shape) const;                          // same elements, other shape
  Tensor slice(int64_t first_element, Shape) const;  // a dense window that shares the storage
  Tensor clone() const;                              // on the same device
  Tensor to(Device) const;                           // itself where it is there already, else a copy
  void copy_from(const Tensor& other) const;         // same shape and type, any device
  void zero_() const;
  bool is_sole_owner() const { return storage_.use_count() == 1; }  // true: nobody else can see a write to it

  std::string describe(const char* name) const;  // "weight f32[64,3,3,16] cpu"

 private:
  std::shared_ptr<Storage> storage_;
  int64_t offset_bytes_ = 0;
  Shape shape_;
  DType dtype_ = DType::f32;
};

}  // namespace kd
