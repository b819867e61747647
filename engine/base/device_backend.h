// device_backend: what memory.cpp and device.cpp need to know about each device; not for anyone else.
#pragma once
#include <cstddef>

#include "engine/base/device.h"

namespace kd::backend {

struct Memory {
  int64_t free, total;  // bytes; 0 where unknown
};

namespace cuda {  // device_cuda.cpp; each throws kd::Error with the CUDA call's text
bool available(std::string* why_not);
GpuInfo info();
Stream stream();
void synchronize();
void copy(void* to, const void* from, int64_t bytes, bool both_on_device);
void fill(void* to, unsigned char value, int64_t bytes);
std::byte* map(int64_t bytes);  // null when memory is out
void unmap(std::byte*, int64_t bytes);
Memory memory();
}  // namespace cuda

namespace emulated {  // device_emulated.cpp
std::byte* map(int64_t bytes);
void unmap(std::byte*, int64_t bytes);
void open();   // nestable
void close();  // the last one makes the memory inaccessible
}  // namespace emulated

}  // namespace kd::backend
