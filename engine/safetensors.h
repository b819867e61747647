// safetensors: named tensors in one file, the format of github.com/huggingface/safetensors:
//   u64 little-endian N | N bytes of JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end)}, ..., "__metadata__": {string: string}} | data
// Offsets count from the start of the data; every byte belongs to exactly one tensor; row-major, little-endian.
// A file may come from anywhere: nothing in its header is believed before it is checked, and every error names the file and the tensor.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/file.h"
#include "engine/base/tensor.h"

namespace kd {

struct NamedTensor {
  std::string name;
  Tensor value;
};

struct TensorFile {
  std::vector<NamedTensor> tensors;
  std::map<std::string, std::string> metadata;
  const Tensor* find(std::string_view name) const;  // null if there is none
};

// F32, BF16, I64, I32, U8 as they are; BOOL as u8; F16 and F64 converted to f32. Rank at most 4. Tensors come in the order of their data.
TensorFile read_safetensors(const Path&);

// Atomically. Wider types first, else in the order given; header padded with spaces to a multiple of 8; "format" = "pt" is added to the metadata.
void write_safetensors(const Path&, const TensorFile&);

}  // namespace kd
