// augment on a GPU: a block makes whole views, one after the other, from the resident images to the network's input, without a trip through global memory
// in between where that fits.
//   parts   view    the u8 view, px*px*3 bytes; before it is written, the taps of the horizontal resize lie there
//           spare   the rows between the two passes of the resize; then the second image of operations that read neighbours or move pixels
//           taps    of the vertical resize
//           Each part is in shared memory as long as there is room, in the order taps, view, spare, else in global scratch of the block's own:
//           at 32 px all are shared (15 KB a block); at 224 px taps and view are (158 KB), and the spare image (150 KB) stays in L2.
//   bits    the pixels' arithmetic is augment_pixel.h's, the same source as the CPU's and free of a*b + c (no fma in the PTX, whatever -fmad says);
//           sums are integers, so the order of threads cannot matter.
//   moves   what augment.h says + the records (224 bytes each)
//   cost    H200, 2026-11-27, 32x32 images: at 224 px b256 182 us weak, 253 strong, 105 test; at 32 px b512 13, 19, 12. By accesses to shared memory alone (one
//           warp's a clock and SM: 19 a pixel for the vertical resize, 6 to 8 for each later pass) 70 to 80 us were predicted at 224 px, and 10 at 32; the
//           bytes, 103 MB of 4-channel bf16, need 25.
#include <algorithm>

#include "engine/base/memory.h"
#include "kernels/augment/augment.h"
#include "kernels/augment/augment_pixel.h"
#include "kernels/common/vec.cuh"
#include "simt/simt.h"

namespace kd {
namespace KD_GPU {
namespace {

constexpr int kMaxThreads = 1024;
constexpr unsigned kAllLanes = 0xffffffffu;

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// What a launch is given
// ---------------------------------------------------------------------------------------------------------------------------------------------------

struct Part {
  int64_t offset;
  bool shared;
};
struct Layout {
  Part taps, view, spare;
  int64_t shared_bytes = 0, scratch_bytes = 0;  // of a block
};

struct Params {
  const uint8_t* images;
  int h, w, px;
  const PreparedRecord* records;
  int64_t batch;
  void* out;
  DType type;
  int channels;
  float mean[3], std[3];
  Layout layout;
  uint8_t* scratch;
};

// The fixed part of a block's shared memory.
struct alignas(16) Tables {
  float normalised[3][256];
  unsigned counts[3][256];  // histogram
  uint8_t remapped[3][256];
  unsigned long long luma_sum;
  pixel::Affine turn;  // of a rotation between pixels
};

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Loops of a block
// ---------------------------------------------------------------------------------------------------------------------------------------------------

// f(y, x) for every pixel of an image of h x w. Divides once per thread, not once per pixel.
template <class F>
__device__ void for_each_pixel(int h, int w, F&& f) {
  const int threads = int(blockDim.x), step_y = threads / w, step_x = threads % w;
  int y = int(threadIdx.x) / w, x = int(threadIdx.x) % w;
  while (y < h) {
    f(y, x);
    y += step_y, x += step_x;
    if (x >= w) x -= w, ++y;
  }
}

// Replaces every value by f(value), four at a time; `image` is padded to whole words.
template <class F>
__device__ void map_values(uint8_t* image, int n, F&& f) {
  auto* words = reinterpret_cast<uint32_t*>(image);
  for (int i = int(threadIdx.x); i < (n + 3) / 4; i += int(blockDim.x)) {
    const uint32_t in = words[i];
    uint32_t out = 0;
    for (int k = 0; k < 32; k += 8) out |= uint32_t(f(int(in >> k & 255u))) << k;
    words[i] = out;
  }
}

__device__ void fill_pixel(uint8_t* to, const Rgb& fill) { to[0] = fill.r, to[1] = fill.g, to[2] = fill.b; }
__device__ void copy_pixel(uint8_t* to, const uint8_t* from) { to[0] = from[0], to[1] = from[1], to[2] = from[2]; }

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Crop, resize, window, flip
// ---------------------------------------------------------------------------------------------------------------------------------------------------

// One axis of the resize, for the outputs [begin, begin + size) that the window shows. An axis that keeps its size is a resize with one tap of weight 1,
// which in fixed point is the pixel itself. Host and device agree on how many taps there can be: see taps_bytes.
struct Axis {
  int n_in, n_out, begin, size, most_taps;
  bool cubic;
  int32_t *first, *count, *weights;  // [size], [size], [size][most_taps]
};

__device__ Axis make_axis(int n_in, int n_out, int window, int px, bool cubic, uint8_t* memory) {
  const int begin = min(max(window, 0), n_out), end = min(max(window + px, begin), n_out), size = end - begin;
  auto* numbers = reinterpret_cast<int32_t*>(memory);
  return {n_in, n_out, begin, size, (cubic ? 4 : 2) * max(n_in, n_out) / n_out + 2, cubic, numbers, numbers + size, numbers + 2 * size};
}

// The bytes that make_axis needs at most: of `size` outputs (at most px and n_out) each has 2 + 4 max(1, n_in / n_out) + 2 numbers.
int64_t taps_bytes(int64_t n_in, int64_t px) { return 4 * (4 * n_in + 8 * px); }

__device__ void set_taps(const Axis& axis, int i) {
  int32_t* weights = axis.weights + i * axis.most_taps;
  if (axis.n_in == axis.n_out) {
    axis.first[i] = axis.begin + i, axis.count[i] = 1, weights[0] = 1 << pixel::kWeightBits;
    return;
  }
  const pixel::ResizeTaps taps = pixel::resize_taps(axis.begin + i, axis.n_in, axis.n_out, axis.cubic);
  axis.first[i] = taps.first, axis.count[i] = taps.count;
  double sum = 0;
  // Unrolled, the kernel function would be a third of the whole program, for loops that are short and run once.
#pragma unroll 1
  for (int tap = 0; tap < taps.count; ++tap) sum += taps.weight(tap, axis.cubic);
#pragma unroll 1
  for (int tap = 0; tap < taps.count; ++tap) {
    const double weight = taps.weight(tap, axis.cubic);
    weights[tap] = pixel::quantize_weight(sum != 0 ? weight / sum : weight);
  }
}

// Output i of the axis, of three channels, from its first input at p on; inputs are `stride` bytes apart.
__device__ void weighted_pixel(const Axis& axis, int i, const uint8_t* p, int stride, uint8_t* out) {
  const int32_t* weights = axis.weights + i * axis.most_taps;
  int32_t sum[3] = {1 << (pixel::kWeightBits - 1), 1 << (pixel::kWeightBits - 1), 1 << (pixel::kWeightBits - 1)};
  for (int tap = 0, count = axis.count[i]; tap < count; ++tap, p += stride)
    for (int c = 0; c < 3; ++c) sum[c] += weights[tap] * p[c];
  for (int c = 0; c < 3; ++c) out[c] = pixel::clip8(sum[c] >> pixel::kWeightBits);
}

__device__ void make_window(const Params& params, const PreparedRecord& r, uint8_t* taps, uint8_t* view, uint8_t* rows) {
  const int px = params.px, w = params.w;
  const bool cubic = r.resample == Resample::bicubic;
  const Axis down = make_axis(r.crop.height, r.resized_height, r.window_top, px, cubic, taps);
  const Axis across = make_axis(r.crop.width, r.resized_width, r.window_left, px, cubic, view);
  for (int i = int(threadIdx.x); i < down.size + across.size; i += int(blockDim.x))
    if (i < down.size)
      set_taps(down, i);
    else
      set_taps(across, i - down.size);
  __syncthreads();

  // Only the rows that the window's rows are made of.
  const int first_row = down.size > 0 ? down.first[0] : 0, end_row = down.size > 0 ? down.first[down.size - 1] + down.count[down.size - 1] : 0;
  const uint8_t* crop = params.images + ((r.image * params.h + r.crop.top) * w + r.crop.left) * 3;
  if (across.size > 0)
    for_each_pixel(end_row - first_row, across.size, [&](int y, int x) {
      weighted_pixel(across, x, crop + (int64_t(first_row + y) * w + across.first[x]) * 3, 3, rows + (y * across.size + x) * 3);
    });
  __syncthreads();

  const int row_bytes = across.size * 3, top = r.window_top - down.begin, left = r.window_left - across.begin;
  const bool flip = r.flip;
  for_each_pixel(px, px, [&](int y, int x) {
    uint8_t* to = view + (y * px + x) * 3;
    const int from_y = y + top, from_x = (flip ? px - 1 - x : x) + left;
    if (from_y < 0 || from_y >= down.size || from_x < 0 || from_x >= across.size)
      fill_pixel(to, Rgb{});
    else
      weighted_pixel(down, from_y, rows + (down.first[from_y] - first_row) * row_bytes + from_x * 3, row_bytes, to);
  });
  __syncthreads();
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Colours
// ---------------------------------------------------------------------------------------------------------------------------------------------------

__device__ int mean_luma(const uint8_t* image, int n, Tables& tables) {
  if (threadIdx.x == 0) tables.luma_sum = 0;
  __syncthreads();
  unsigned sum = 0;  // of a warp's pixels: at most 2^26 / 8 pixels of 255
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) sum += unsigned(pixel::luma(image[3 * i], image[3 * i + 1], image[3 * i + 2]));
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
  if (threadIdx.x % 32 == 0) atomicAdd(&tables.luma_sum, static_cast<unsigned long long>(sum));
  __syncthreads();
  return int(double(tables.luma_sum) / double(n) + 0.5);
}

// Each thread counts a stretch of neighbouring pixels and adds a run of equal values at once: flat areas, where all threads would add to the same few
// counters, cost little. An odd number of pixels per thread spreads the threads' reads over the memory banks.
__device__ void count_values(const uint8_t* image, int n, Tables& tables) {
  for (int i = int(threadIdx.x); i < 3 * 256; i += int(blockDim.x)) tables.counts[i / 256][i % 256] = 0;
  __syncthreads();
  const int stretch = ((n + int(blockDim.x) - 1) / int(blockDim.x)) | 1, begin = int(threadIdx.x) * stretch, end = min(n, begin + stretch);
  for (int c = 0; c < 3 && begin < end; ++c) {
    int value = image[3 * begin + c];
    unsigned run = 1;
    for (int i = begin + 1; i < end; ++i, ++run) {
      const int next = image[3 * i + c];
      if (next == value) continue;
      atomicAdd(&tables.counts[c][value], run);
      value = next, run = 0;
    }
    atomicAdd(&tables.counts[c][value], run);
  }
  __syncthreads();
}

// From counts to the map of each channel: one warp a channel, eight values a lane.
__device__ void make_map(PixelOp op, int n, Tables& tables) {
  constexpr int kPerLane = 8;
  const int c = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, begin = lane * kPerLane;
  if (c < 3) {
    const unsigned* counts = tables.counts[c];
    uint8_t* map = tables.remapped[c];
    int low = 0, high = 0;  // the lowest and highest value of this lane that occur
    unsigned own = 0;
    for (int v = begin + kPerLane - 1; v >= begin; --v)
      if (counts[v] > 0) low = v, high = own == 0 ? v : high, own += counts[v];
    const unsigned occupied = __ballot_sync(kAllLanes, own > 0);
    low = __shfl_sync(kAllLanes, low, __ffs(int(occupied)) - 1);
    high = __shfl_sync(kAllLanes, high, 31 - __clz(int(occupied)));
    unsigned up_to = own;  // pixels of all values up to this lane's last
    for (int lanes = 1; lanes < 32; lanes *= 2) {
      const unsigned before = __shfl_up_sync(kAllLanes, up_to, unsigned(lanes));
      if (lane >= lanes) up_to += before;
    }
    int below = int(up_to - own);
    const int step = pixel::equalize_step(n, int(counts[high]));
    for (int v = begin; v < begin + kPerLane; ++v) {
      map[v] = op == PixelOp::autocontrast ? pixel::autocontrast(v, low, high) : step == 0 ? uint8_t(v) : pixel::equalize(below, step);
      below += int(counts[v]);
    }
  }
  __syncthreads();
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Neighbours and geometry: from `in` to `out`. The operation comes by value: behind a reference it would be read again after every pixel written.
// ---------------------------------------------------------------------------------------------------------------------------------------------------

// The outermost pixels have no full neighbourhood and stay as they are.
__device__ void sharpen(const uint8_t* in, int px, float factor, uint8_t* out) {
  for_each_pixel(px, px, [&](int y, int x) {
    const uint8_t* here = in + (y * px + x) * 3;
    uint8_t* to = out + (y * px + x) * 3;
    if (y == 0 || x == 0 || y == px - 1 || x == px - 1) return copy_pixel(to, here);
    for (int c = 0; c < 3; ++c) {
      int sum = 4 * here[c];
      for (int row = -1; row <= 1; ++row)
        for (int column = -1; column <= 1; ++column) sum += here[(row * px + column) * 3 + c];
      to[c] = pixel::blend(pixel::smooth(sum), here[c], factor);
    }
  });
}

// Shears, and translations between pixels.
__device__ void slide(const uint8_t* in, int px, const PreparedOp call, uint8_t* out) {
  const bool along_x = call.op == PixelOp::shear_x || call.op == PixelOp::translate_x, cubic = call.resample == Resample::bicubic;
  const LineMap map = call.line;
  for_each_pixel(px, px, [&](int y, int x) {
    uint8_t* to = out + (y * px + x) * 3;
    const double from = along_x ? pixel::mapped_position(x, y, map) : pixel::mapped_position(y, x, map);
    if (from < 0 || from >= px) return fill_pixel(to, call.fill);
    const pixel::Between between(from);
    for (int c = 0; c < 3; ++c) {
      const pixel::Line line{in + (along_x ? y * px : x) * 3 + c, px, along_x ? 3 : 3 * px};
      to[c] = pixel::truncated(cubic ? pixel::cubic_at(line, between) : pixel::linear_at(line, between));
    }
  });
}

__device__ void shift_nearest(const uint8_t* in, int px, const PreparedOp call, uint8_t* out) {
  const bool along_x = call.op == PixelOp::translate_x;
  const int shift = call.shift.by, carry = call.shift.carry;
  for_each_pixel(px, px, [&](int y, int x) {
    const int i = along_x ? x : y, from = i + shift + (i >= carry);
    uint8_t* to = out + (y * px + x) * 3;
    if (from < 0 || from >= px) return fill_pixel(to, call.fill);
    copy_pixel(to, in + (along_x ? y * px + from : from * px + x) * 3);
  });
}

// Its numbers stay in memory: with them in registers a thread needs more than the 64 that a block of 1024 leaves it.
__device__ void turn(const uint8_t* in, int px, const PreparedOp& call, Tables& tables, uint8_t* out) {
  if (threadIdx.x == 0) tables.turn = pixel::about_centre(call.turn, px, px);
  __syncthreads();
  const pixel::Affine& m = tables.turn;
  for_each_pixel(px, px, [&](int y, int x) {
    uint8_t* to = out + (y * px + x) * 3;
    const double from_x = m.x(x + 0.5, y + 0.5), from_y = m.y(x + 0.5, y + 0.5);
    if (from_x < 0 || from_x >= px || from_y < 0 || from_y >= px) return fill_pixel(to, call.fill);
    const pixel::Between across(from_x), down(from_y);
    const bool cubic = call.resample == Resample::bicubic;
#pragma unroll 1
    for (int c = 0; c < 3; ++c) {
      const pixel::Plane plane{in + c, px, px};
      to[c] = cubic ? pixel::cubic_at(plane, across, down) : pixel::linear_at(plane, across, down);
    }
  });
}

__device__ void turn_nearest(const uint8_t* in, int px, const PreparedOp call, uint8_t* out) {
  const FixedAffine& m = call.turn_nearest;
  for_each_pixel(px, px, [&](int y, int x) {
    const int from_x = (m.c + m.b * y + m.a * x) >> 16, from_y = (m.f + m.e * y + m.d * x) >> 16;
    uint8_t* to = out + (y * px + x) * 3;
    if (from_x < 0 || from_x >= px || from_y < 0 || from_y >= px) return fill_pixel(to, call.fill);
    copy_pixel(to, in + (from_y * px + from_x) * 3);
  });
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// The kernel
// ---------------------------------------------------------------------------------------------------------------------------------------------------

// The result is in `view`, which may have changed places with `spare`. Every thread of the block is in the same case.
__device__ void apply(const PreparedOp& call, int px, Tables& tables, uint8_t*& view, uint8_t*& spare) {
  const int pixels = px * px, values = 3 * pixels;
  const bool nearest = call.resample == Resample::nearest;
  bool moved = false;
  switch (call.op) {
    case PixelOp::none: return;
    case PixelOp::brightness: map_values(view, values, [factor = call.factor](int v) { return pixel::blend(0, v, factor); }); break;
    case PixelOp::contrast: {
      const int grey = mean_luma(view, pixels, tables);
      map_values(view, values, [grey, factor = call.factor](int v) { return pixel::blend(grey, v, factor); });
      break;
    }
    case PixelOp::color: {
      const float factor = call.factor;
      for (int i = int(threadIdx.x); i < pixels; i += int(blockDim.x)) {
        uint8_t* p = view + 3 * i;
        const int grey = pixel::luma(p[0], p[1], p[2]);
        for (int c = 0; c < 3; ++c) p[c] = pixel::blend(grey, p[c], factor);
      }
      break;
    }
    case PixelOp::autocontrast:
    case PixelOp::equalize:
      count_values(view, pixels, tables);
      make_map(call.op, pixels, tables);
      for (int i = int(threadIdx.x); i < pixels; i += int(blockDim.x))
        for (int c = 0; c < 3; ++c) view[3 * i + c] = tables.remapped[c][view[3 * i + c]];
      break;
    case PixelOp::invert: map_values(view, values, [](int v) { return uint8_t(255 - v); }); break;
    case PixelOp::solarize: map_values(view, values, [level = call.level](int v) { return pixel::solarize(v, level); }); break;
    case PixelOp::solarize_add: map_values(view, values, [level = call.level](int v) { return pixel::solarize_add(v, level); }); break;
    case PixelOp::posterize: map_values(view, values, [level = call.level](int v) { return pixel::posterize(v, level); }); break;
    case PixelOp::sharpness: sharpen(view, px, call.factor, spare), moved = true; break;
    case PixelOp::shear_x:
    case PixelOp::shear_y: slide(view, px, call, spare), moved = true; break;
    case PixelOp::translate_x:
    case PixelOp::translate_y: nearest ? shift_nearest(view, px, call, spare) : slide(view, px, call, spare), moved = true; break;
    case PixelOp::rotate: nearest ? turn_nearest(view, px, call, spare) : turn(view, px, call, tables, spare), moved = true; break;
  }
  __syncthreads();
  if (moved) {
    uint8_t* result = spare;
    spare = view, view = result;
  }
}

__device__ bool is_cut_out(const PixelRect& hole, int y, int x) {
  return y >= hole.top && y < hole.top + hole.height && x >= hole.left && x < hole.left + hole.width;
}

// Cutout, normalisation and the network's layout.
template <class T>
__device__ void write_pixels(const uint8_t* view, int px, const PixelRect hole, const Tables& tables, int channels, T* out) {
  for_each_pixel(px, px, [&](int y, int x) {
    const int i = y * px + x;
    const bool black = is_cut_out(hole, y, x);
    Pack<T, 4> values;
    for (int c = 0; c < 3; ++c) values.v[c] = T(tables.normalised[c][black ? 0 : view[3 * i + c]]);
    T* to = out + int64_t(i) * channels;
    if (channels == 3) {
      for (int c = 0; c < 3; ++c) to[c] = values.v[c];
      return;
    }
    values.v[3] = T(0.f);
    *reinterpret_cast<Pack<T, 4>*>(to) = values;
    if (channels == 8) *reinterpret_cast<Pack<T, 4>*>(to + 4) = {{T(0.f), T(0.f), T(0.f), T(0.f)}};
  });
}

__device__ void write_view(const uint8_t* view, const Params& params, const PixelRect hole, const Tables& tables, int64_t i) {
  const int px = params.px;
  const int64_t at = i * px * px * params.channels;
  switch (params.type) {
    case DType::f32: return write_pixels(view, px, hole, tables, params.channels, static_cast<float*>(params.out) + at);
    case DType::bf16: return write_pixels(view, px, hole, tables, params.channels, static_cast<bf16*>(params.out) + at);
    default:
      for_each_pixel(px, px, [&](int y, int x) {
        uint8_t* to = static_cast<uint8_t*>(params.out) + at + (y * px + x) * 3;
        if (is_cut_out(hole, y, x)) return fill_pixel(to, Rgb{});
        copy_pixel(to, view + (y * px + x) * 3);
      });
  }
}

__global__ void __launch_bounds__(kMaxThreads) augment_records_kernel(Params params) {
  SIMT_SHARED(tables, Tables);
  SIMT_DYNAMIC_SHARED(uint8_t, shared);
  uint8_t* scratch = params.scratch + blockIdx.x * params.layout.scratch_bytes;
  auto memory_of = [&](const Part& part) { return (part.shared ? shared : scratch) + part.offset; };
  for (int i = int(threadIdx.x); i < 3 * 256; i += int(blockDim.x))
    tables.normalised[i / 256][i % 256] = pixel::normalised(i % 256, params.mean[i / 256], params.std[i / 256]);
  for (int64_t i = blockIdx.x; i < params.batch; i += gridDim.x) {
    const PreparedRecord& record = params.records[i];
    uint8_t *view = memory_of(params.layout.view), *spare = memory_of(params.layout.spare);
    make_window(params, record, memory_of(params.layout.taps), view, spare);
#pragma unroll 1
    for (int k = 0; k < kViewOps; ++k) apply(record.ops[k], params.px, tables, view, spare);
    write_view(view, params, record.cutout, tables, i);
    __syncthreads();  // before the next view overwrites this one
  }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// The launcher
// ---------------------------------------------------------------------------------------------------------------------------------------------------

// What a block may have in all.
int64_t shared_memory_limit() {
#if defined(__CUDACC__)
  int device = 0, bytes = 0;
  const bool known = cudaGetDevice(&device) == cudaSuccess && cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess;
  KD_CHECK(known, "augment: the device does not say how much shared memory a block may have");
  return bytes;
#else
  return 227 << 10;  // an H100's and H200's
#endif
}

Layout make_layout(const AugmentShape& s, int64_t shared_room) {
  Layout layout;
  auto place = [&](int64_t bytes) {
    bytes = (bytes + 15) / 16 * 16;
    const bool shared = layout.shared_bytes + bytes <= shared_room;
    int64_t& end = shared ? layout.shared_bytes : layout.scratch_bytes;
    const Part part{end, shared};
    end += bytes;
    return part;
  };
  const int64_t view_bytes = s.px * s.px * 3;
  layout.taps = place(taps_bytes(s.h, s.px));
  layout.view = place(std::max(view_bytes, taps_bytes(s.w, s.px)));
  layout.spare = place(std::max(view_bytes, s.h * s.px * 3));
  return layout;
}

}  // namespace

void augment_records(Stream stream, const AugmentRecordsArgs& args) {
  check_args(args);
  KD_CHECK(is_aligned16(args.out), "augment: out is not 16-byte aligned");
  if (args.batch == 0) return;
  const auto& s = args.shape;
  const Layout layout = make_layout(s, shared_memory_limit() - int64_t(sizeof(Tables)));
  const int threads = s.px <= 64 ? 256 : kMaxThreads;
  // Without scratch every view has a block of its own, which the hardware hands out as others end; with scratch, only as many as run at once.
  int64_t blocks = args.batch;
  if (layout.scratch_bytes > 0) blocks = std::min<int64_t>(blocks, simt::max_resident_blocks(augment_records_kernel, threads, size_t(layout.shared_bytes)));
  const auto scratch = Storage::allocate(blocks * layout.scratch_bytes, stream.device);
  Params params{.images = args.images,
                .h = int(s.h),
                .w = int(s.w),
                .px = int(s.px),
                .records = args.records,
                .batch = args.batch,
                .out = args.out,
                .type = args.type,
                .channels = int(args.channels),
                .mean = {args.mean[0], args.mean[1], args.mean[2]},
                .std = {args.std[0], args.std[1], args.std[2]},
                .layout = layout,
                .scratch = reinterpret_cast<uint8_t*>(scratch->data())};
  simt::launch(augment_records_kernel, blocks, threads, size_t(layout.shared_bytes), simt::stream_t(stream.handle), params);
}

}  // namespace KD_GPU
}  // namespace kd
