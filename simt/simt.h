// simt: one source for a CUDA kernel on the GPU and on the CPU. Every .cu file includes this instead of cuda_runtime.h and is compiled twice:
//   by nvcc            into namespace kd::cuda      kernels run on the GPU
//   by g++ or clang++  into namespace kd::emulated  kernels run on the CPU, every CUDA thread with its own stack, so that a debugger steps through one thread
//                      and the sanitizers report the kernel's own lines. README.md says what this finds and what only a GPU can tell.
//
//   namespace kd { namespace KD_GPU {
//   __global__ void __launch_bounds__(256) histogram_kernel(const unsigned char* data, int n, unsigned* bins) {
//     SIMT_SHARED(local, unsigned[256]);           // __shared__ unsigned local[256];
//     local[threadIdx.x] = 0;
//     __syncthreads();
//     for (int i = blockIdx.x * 256 + threadIdx.x; i < n; i += gridDim.x * 256) atomicAdd(&local[data[i]], 1u);
//     __syncthreads();
//     atomicAdd(&bins[threadIdx.x], local[threadIdx.x]);
//   }
//   void histogram(simt::stream_t stream, const unsigned char* data, int n, unsigned* bins) {
//     simt::launch(histogram_kernel, (n + 255) / 256, 256, /*dynamic_smem*/ 0, stream, data, n, bins);   // a template: simt::launch(kernel<float>, ...)
//   }
//   }}
//
// What one source must observe: shared memory through the two macros below (a plain __shared__ stops the build), no threads or blocks that wait for each
// other by spinning (grid_sync is the one exception), code that needs inline PTX under #ifdef __CUDACC__.
#pragma once
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <utility>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define KD_GPU cuda
#else
#include "simt/simt_types.h"
#define KD_GPU emulated
#endif

namespace simt {

// A launch that could not be made, or a kernel that went wrong: where it was launched (file:line), what happened, who waits where.
class Error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Everything below exists once per target, under a name of its own, so that both targets can be linked into one program.
inline namespace KD_GPU {

#if defined(__CUDACC__)
using stream_t = cudaStream_t;
#else
using stream_t = void*;  // ignored: a launch has finished when it returns
#endif

// The number of blocks, and where the launch stands in the source. 64-bit, so that a count that does not fit the device is refused, not cut off.
struct Grid {
  int64_t x, y = 1, z = 1;
  const char* file;
  int line;
  template <std::integral T>
  Grid(T blocks, const char* at_file = __builtin_FILE(), int at_line = __builtin_LINE()) : x(int64_t(blocks)), file(at_file), line(at_line) {}
  Grid(dim3 blocks, const char* at_file = __builtin_FILE(), int at_line = __builtin_LINE())
      : x(blocks.x), y(blocks.y), z(blocks.z), file(at_file), line(at_line) {}
};

namespace detail {
enum class Blocks : unsigned char { independent, cooperative };
struct Launch {
  Grid grid;
  dim3 block;
  size_t dynamic_smem;
  stream_t stream;
  Blocks blocks;
};
// Throws simt::Error. CUDA: `arguments` points to one pointer per parameter. Emulated: `call(arguments)` runs one thread of the kernel.
#if defined(__CUDACC__)
void run(const Launch&, const void* kernel, void** arguments);
int max_resident_blocks(const void* kernel, int block_threads, size_t dynamic_smem);
#else
void run(const Launch&, void (*call)(void*), void* arguments);
int max_resident_blocks();
#endif

template <class... P, size_t... I>
void launch_with(const Launch& how, void (*kernel)(P...), std::tuple<P...>& values, std::index_sequence<I...>) {
#if defined(__CUDACC__)
  void* pointers[sizeof...(P) + 1] = {&std::get<I>(values)...};
  run(how, reinterpret_cast<const void*>(kernel), pointers);
#else
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...>& values;
  } call{kernel, values};
  run(
      how, [](void* c) { static_cast<Call*>(c)->kernel(std::get<I>(static_cast<Call*>(c)->values)...); }, &call);
#endif
}
template <class... P, class... A>
void launch(const Launch& how, void (*kernel)(P...), A&&... args) {
  static_assert(sizeof...(P) == sizeof...(A), "the launch passes a different number of arguments than the kernel takes");
  static_assert((... && !std::is_reference_v<P>), "a kernel takes its parameters by value");
  std::tuple<P...> values(std::forward<A>(args)...);
  launch_with(how, kernel, values, std::index_sequence_for<P...>());
}
}  // namespace detail

// Runs kernel(args...) on grid x block threads with `dynamic_smem` bytes of SIMT_DYNAMIC_SHARED memory. Arguments convert to the parameters' types.
// Throws simt::Error with the position of the call: an impossible shape (0 blocks, more than 1024 threads or 227 KB, ...) or CUDA's refusal; emulated, also
// everything the kernel does wrong that can be seen (README.md). With KD_SYNC=1 in the environment a CUDA launch also waits, unless its stream is being
// captured, so that a fault is reported with the kernel that caused it.
template <class... P, class... A>
void launch(void (*kernel)(P...), Grid grid, dim3 block, size_t dynamic_smem, stream_t stream, A&&... args) {
  detail::launch({grid, block, dynamic_smem, stream, detail::Blocks::independent}, kernel, std::forward<A>(args)...);
}

// The same with all blocks resident at once, as grid_sync needs. The grid must not exceed max_resident_blocks.
template <class... P, class... A>
void launch_cooperative(void (*kernel)(P...), Grid grid, dim3 block, size_t dynamic_smem, stream_t stream, A&&... args) {
  detail::launch({grid, block, dynamic_smem, stream, detail::Blocks::cooperative}, kernel, std::forward<A>(args)...);
}

// How many blocks of this shape the whole device holds at once (0: the kernel does not fit). Emulated: a small number, see set_max_resident_blocks.
template <class... P>
int max_resident_blocks([[maybe_unused]] void (*kernel)(P...), [[maybe_unused]] int block_threads, [[maybe_unused]] size_t dynamic_smem) {
#if defined(__CUDACC__)
  return detail::max_resident_blocks(reinterpret_cast<const void*>(kernel), block_threads, dynamic_smem);
#else
  return detail::max_resident_blocks();
#endif
}

// Shared memory. SIMT_SHARED's type may hold commas; it must be trivially constructible. Both are at least 16-byte aligned and start out undefined
// (emulated: all bits set, which is NaN or -1). A kernel may give its dynamic memory several names; all are the same bytes.
#if defined(__CUDACC__)
#define SIMT_SHARED(name, ...) __shared__ __align__(16) std::type_identity_t<__VA_ARGS__> name
#define SIMT_DYNAMIC_SHARED(type, name)                                           \
  static_assert(alignof(type) <= 16, "dynamic shared memory is 16-byte aligned"); \
  extern __shared__ __align__(16) unsigned char simt_dynamic_shared_bytes[];      \
  type* const name = reinterpret_cast<type*>(simt_dynamic_shared_bytes)
#else
namespace detail {
// This block's variable for `key`; the first thread to ask creates it.
void* shared_variable(const void* key, size_t bytes, size_t align);
void* dynamic_shared();
template <class T>
concept SharedType = std::is_trivially_default_constructible_v<T> && std::is_trivially_destructible_v<T>;
}  // namespace detail
#define SIMT_SHARED(name, ...)                                                                                          \
  static_assert(::simt::detail::SharedType<__VA_ARGS__>, "shared memory is not constructed: the type must be trivial"); \
  static char simt_key_of_##name;                                                                                       \
  std::type_identity_t<__VA_ARGS__>& name =                                                                             \
      *static_cast<std::type_identity_t<__VA_ARGS__>*>(::simt::detail::shared_variable(&simt_key_of_##name, sizeof(__VA_ARGS__), alignof(__VA_ARGS__)))
#define SIMT_DYNAMIC_SHARED(type, name)                                           \
  static_assert(alignof(type) <= 16, "dynamic shared memory is 16-byte aligned"); \
  type* const name = static_cast<type*>(::simt::detail::dynamic_shared())
#endif

// Device code: a barrier between blocks of one launch_cooperative. All threads of the block call it; it returns once all `blocks` blocks of the group have,
// and everything that any of them wrote before is visible to all of them after. Groups that use different words do not disturb each other.
//   word    in global memory, one per group, set to zero once when it is allocated. It needs no reset, ever: not between barriers, launches, or groups of
//           different size. A barrier adds 2^31 in total, of which rank 0 brings 2^31 - (blocks - 1) and every other block 1, so the top bit flips exactly
//           with the last arrival, whoever that is, and the low 31 bits are back at zero. (A count that only grows would break where it wraps unless
//           2^32 is a multiple of `blocks`, or where a later launch has another number of blocks; a reset by the last block to arrive would cost every
//           barrier one more dependent round trip to L2.)
//   blocks  how many blocks take part
//   rank    this block's number among them: each of 0..blocks-1 once
#if defined(__CUDACC__)
__device__ inline void grid_sync(unsigned* word, unsigned blocks, unsigned rank) {
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0) {
    __threadfence();  // cumulative: publishes what the whole block wrote before its __syncthreads
    const unsigned before = atomicAdd(word, rank == 0 ? 0x80000000u - (blocks - 1) : 1u);
    while (((before ^ *static_cast<volatile unsigned*>(word)) & 0x80000000u) == 0) {
    }
    __threadfence();  // keeps the reads that follow from being served before the barrier
  }
  __syncthreads();
}
__device__ inline void grid_sync(unsigned* word) {
  grid_sync(word, gridDim.x * gridDim.y * gridDim.z, (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
}
#else
void grid_sync(unsigned* word, unsigned blocks, unsigned rank, const char* file = __builtin_FILE(), int line = __builtin_LINE());
void grid_sync(unsigned* word, const char* file = __builtin_FILE(), int line = __builtin_LINE());
#endif

#if !defined(__CUDACC__)
// The order in which threads run between barriers, lanes within a warp, and blocks. 0: ascending, 1: descending, n > 1: random, the same for the same n.
// A kernel whose result depends on it has a race; run every kernel's tests with 0, 1, 2 and 3. Applies to the launches that follow, of all host threads.
void set_schedule(int);
int schedule();
class ScheduleScope {
 public:
  explicit ScheduleScope(int n) : before_(schedule()) { set_schedule(n); }
  ~ScheduleScope() { set_schedule(before_); }
  ScheduleScope(const ScheduleScope&) = delete;
  ScheduleScope& operator=(const ScheduleScope&) = delete;

 private:
  int before_;
};

// What max_resident_blocks answers, and the largest grid that launch_cooperative accepts; 4 until set. Each thread of such a grid has a stack of its own.
void set_max_resident_blocks(int);

// Called before and after the kernel of every launch, also after one that fails; null: nothing. For memory that only kernels may touch.
void set_launch_guard(void (*enter)(), void (*leave)());
#endif

}  // namespace KD_GPU
}  // namespace simt

#if !defined(__CUDACC__)
#include "simt/simt_device.h"
#endif
