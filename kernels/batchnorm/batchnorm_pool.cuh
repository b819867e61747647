// batchnorm_pool: the pooled form's kernels. Windows of 3x3 are centred on pixel (2p, 2q), which is always inside the image; place r*3 + t of one is pixel
// (2p - 1 + r, 2q - 1 + t).
#pragma once
#include "kernels/batchnorm/batchnorm_sums.cuh"

namespace kd {
namespace KD_GPU {
namespace {

struct Image {
  int h, w, p, q;
};
struct PoolArgs {
  const void *x, *dy;
  void *y, *dx;
  uint8_t* arg_out;
  const uint8_t* arg;
  Image image;
};

constexpr int kStrip = 4;  // outputs down a column that a thread makes: 2 kStrip + 1 rows are read for them instead of 3 kStrip

// A window's three places in one row of pixels, and the best of them, the first of equals.
template <class T>
struct RowOfThree {
  Eight<T> x[3];
};
struct RowBest {
  float v[kEight];
  int t[kEight];
};

template <class T>
__device__ RowBest best_of(const RowOfThree<T>& row, bool left, bool right, const Affine& norm) {
  RowBest best;
#pragma unroll
  for (int i = 0; i < kEight; ++i) {
    best.v[i] = left ? norm(i, row.x[0][i]) : -INFINITY;
    best.t[i] = 0;
    const float middle = norm(i, row.x[1][i]), last = right ? norm(i, row.x[2][i]) : -INFINITY;
    if (!(middle <= best.v[i])) best.v[i] = middle, best.t[i] = 1;
    if (!(last <= best.v[i])) best.v[i] = last, best.t[i] = 2;
  }
  return best;
}

// items: n * strips * q.
template <class T, bool kWhole>
__global__ void __launch_bounds__(kThreads, 2) pool_apply_kernel(PoolArgs args, Layout items, Norm norm) {
  const Block block = this_block_backwards(items);
  const Place at(items, block.slab);
  const int item = block.number * rows_of_block(items) + at.row, c = items.c;
  if (at.count <= 0 || item >= items.rows) return;
  const Image& image = args.image;
  const int strips = (image.p + kStrip - 1) / kStrip, column = item / image.q, q = item - column * image.q, n = column / strips;
  const int first_p = (column - n * strips) * kStrip, end_p = min(image.p, first_p + kStrip);
  const bool left = q > 0, right = 2 * q + 1 < image.w;
  const T* centre = static_cast<const T*>(args.x) + (int64_t(n) * image.h * image.w + 2 * q) * c + at.channel;
  const auto load = [&](int i) {  // row i of the image, the last one for any below it
    const T* x = centre + int64_t(min(i, image.h - 1)) * image.w * c;
    return RowOfThree<T>{load_eight<kWhole>(left ? x - c : x, at.count), load_eight<kWhole>(x, at.count), load_eight<kWhole>(right ? x + c : x, at.count)};
  };

  const RowOfThree<T> above = load(max(0, 2 * first_p - 1));
  const Affine affine = Affine::load<kWhole>(norm, at);
  RowBest shared = best_of(above, left, right, affine);  // by an output and the next: the row below the one and above the other
  for (int p = first_p; p < end_p; ++p) {
    const RowOfThree<T> middle = load(2 * p), below = load(2 * p + 1);
    // ReLU(v) of a window without a positive v is 0 everywhere, and its first place inside the image wins.
    float best[kEight] = {};
    int where[kEight];
#pragma unroll
    for (int i = 0; i < kEight; ++i) where[i] = (p == 0 ? 3 : 0) + (q == 0 ? 1 : 0);
    const auto merge = [&](const RowBest& row, int r) {
#pragma unroll
      for (int i = 0; i < kEight; ++i)
        if (!(row.v[i] <= best[i])) best[i] = row.v[i], where[i] = r * 3 + row.t[i];  // a NaN wins; the statistics have made the whole channel one
    };
    if (p > 0) merge(shared, 0);
    merge(best_of(middle, left, right, affine), 1);
    shared = best_of(below, left, right, affine);
    if (2 * p + 1 < image.h) merge(shared, 2);
    const int64_t to = (int64_t(n * image.p + p) * image.q + q) * c + at.channel;
    store_eight<kWhole>(static_cast<T*>(args.y) + to, best, at.count);
    store_eight_bytes<kWhole>(args.arg_out + to, where, at.count);
  }
}

// The four pixels (2p, 2q), (2p, 2q+1), (2p+1, 2q), (2p+1, 2q+1), and what arrives at each behind the ReLU. Even rows lie in one window, odd ones in two; of
// the windows (p, q), (p, q+1), (p+1, q), (p+1, q+1) every place falls on exactly one of the four.
template <class T>
struct Quad {
  Eight<T> x[4], dy[4];
  EightBytes arg[4];
};

template <class T, bool kWhole>
struct PooledBackward {
  const PoolArgs& args;
  const Layout& items;  // n * p * q
  const Place& at;

  struct Spot {
    int n, p, q;
    bool below, right;  // whether there are pixels (2p+1, .), (., 2q+1)
  };
  __device__ Spot spot(int64_t item) const {
    const Image& image = args.image;
    const int row = int(item) / image.q, q = int(item) - row * image.q, n = row / image.p, p = row - n * image.p;
    return {n, p, q, 2 * p + 1 < image.h, 2 * q + 1 < image.w};
  }
  __device__ int64_t pixel(const Spot& s, int i) const {  // a pixel that is not there: one that is
    const int h = 2 * s.p + (i / 2 && s.below ? 1 : 0), w = 2 * s.q + (i % 2 && s.right ? 1 : 0);
    return (int64_t(s.n * args.image.h + h) * args.image.w + w) * items.c + at.channel;
  }
  __device__ Quad<T> load(const Spot& s) const {
    Quad<T> in;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool there = (i / 2 == 0 || s.p + 1 < args.image.p) && (i % 2 == 0 || s.q + 1 < args.image.q);
      const int p = s.p + (i / 2 && there ? 1 : 0), q = s.q + (i % 2 && there ? 1 : 0);
      const int64_t from = (int64_t(s.n * args.image.p + p) * args.image.q + q) * items.c + at.channel;
      in.dy[i] = load_eight<kWhole>(static_cast<const T*>(args.dy) + from, at.count);
      in.arg[i] = load_eight_bytes<kWhole>(args.arg + from, at.count);
      if (!there) in.arg[i].word[0] = in.arg[i].word[1] = 0xffffffffu;  // no place
      in.x[i] = load_eight<kWhole>(static_cast<const T*>(args.x) + pixel(s, i), at.count);
    }
    return in;
  }
  // Of pixel i of the four.
  __device__ void gradient(const Spot& s, const Quad<T>& in, const Affine& norm, int i, float (&dz)[kEight]) const {
    const int below = i / 2, right = i % 2;
    const bool inside = (!below || s.below) && (!right || s.right);
#pragma unroll
    for (int k = 0; k < kEight; ++k) {
      float sum = 0;
#pragma unroll
      for (int window = 0; window < 4; ++window) {
        const int down = window / 2, across = window % 2;
        if (down > below || across > right) continue;
        const int r = below ? (down ? 0 : 2) : 1, t = right ? (across ? 0 : 2) : 1;
        if (in.arg[window][k] == r * 3 + t) sum += in.dy[window][k];
      }
      dz[k] = inside && norm(k, in.x[i][k]) > 0.f ? sum : 0.f;
    }
  }
};

template <class T, bool kWhole>
__global__ void __launch_bounds__(kThreads, blocks_at_once<T, kWhole>(2))
    pool_sum_gradient_kernel(PoolArgs args, Layout items, Layout l, Norm norm, Partials partials, Gradients gradients, float* slopes) {
  SIMT_SHARED(scratch, Scratch);
  const Block block = this_block(l);
  const Place at(l, block.slab);
  Sums sums;
  if (at.count > 0) {
    const Affine affine = Affine::load<kWhole>(norm, at);
    const PooledBackward<T, kWhole> backward{args, items, at};
    const int step = rows_of_block(l);
    for (int64_t item = int64_t(block.number) * step + at.row; item < items.rows; item += int64_t(partials.parts) * step) {
      const auto spot = backward.spot(item);
      const Quad<T> in = backward.load(spot);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float dz[kEight], x[kEight];
        backward.gradient(spot, in, affine, i, dz);
        widen(in.x[i], x);
        add_gradient(sums, affine.mean, x, dz);
      }
    }
  }
  sum_over_blocks(partials, l, block, sums, scratch, [&](int channel, const Totals& totals) {
    const Slope s = finish(gradients, l, channel, totals, norm.rstd[channel], true);
    slopes[channel] = s.mean_dz, slopes[l.c + channel] = s.slope;
  });
}

template <class T, bool kWhole>
__global__ void __launch_bounds__(kThreads, blocks_at_once<T, kWhole>(2))
    pool_apply_gradient_kernel(PoolArgs args, Layout items, Norm norm, const float* slopes) {
  const Block block = this_block_backwards(items);
  const Place at(items, block.slab);
  const int64_t item = int64_t(block.number) * rows_of_block(items) + at.row;
  if (at.count <= 0 || item >= items.rows) return;
  const PooledBackward<T, kWhole> backward{args, items, at};
  const auto spot = backward.spot(item);
  const Quad<T> in = backward.load(spot);
  const Affine affine = Affine::load<kWhole>(norm, at);
  float mean_dz[kEight], slope[kEight];
  load_channels<kWhole>(slopes, at, mean_dz);
  load_channels<kWhole>(slopes + items.c, at, slope);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if ((i / 2 && !spot.below) || (i % 2 && !spot.right)) continue;
    float dz[kEight], dx[kEight];
    backward.gradient(spot, in, affine, i, dz);
#pragma unroll
    for (int k = 0; k < kEight; ++k) dx[k] = affine.scale[k] * (dz[k] - mean_dz[k] - (in.x[i][k] - affine.mean[k]) * slope[k]);
    store_eight<kWhole>(static_cast<T*>(args.dx) + backward.pixel(spot, i), dx, at.count);
  }
}

}  // namespace
}  // namespace KD_GPU
}  // namespace kd
