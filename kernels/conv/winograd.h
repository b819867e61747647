// winograd: (contract below)
//   V   [36][channels/16][capacity][16]          transformed tiles; one position is `position` floats
//   U   [out/width][36 of filter_position][in][width]  transformed filter; the last block of `width` output channels may be 16 wide
//   M   [36][capacity][width]                    products of one block of output channels; one position is `position` floats
//   dU  [out/16][in/16][36 of kDuPosition][16][16]
#pragma once
#include "kernels/common/simd.h"

namespace kd::cpu::winograd {

constexpr int64_t kDuPosition = 16 * 16 + 16;  // 36 positions a power of two apart would share few cache sets
constexpr int64_t kDuBlock = 36 * kDuPosition;
KD_INLINE constexpr int64_t filter_position(int64_t in, int64_t width) { return in * width + 16; }  // U: for the same reason

// An NHWC tensor cut into tiles of 4x4 pixels. `pad`: the tile's 6x6 window begins so many pixels above and left of 4 times its index.
struct Tiling {
  int64_t h, w, c, pad, tiles_h, tiles_w;
};
struct TileBlock {
  float* data;
  int64_t position, capacity;  // floats from one position to the next; tiles there is room for
  int64_t first, tiles;        // which tiles of the tensor
};
struct OutputArgs {
  void* y;
  const void* z;      // null, or added
  const float* bias;  // null, or one per channel of the tensor
  bool relu;
};

struct Kernels {
  int64_t rows, width;  // of the product's microkernel: tiles, output channels
  // By storage type: [0] f32, [1] bf16.
  void (*input[2])(const Tiling&, const void* x, const void* zeros, const TileBlock&);                                        // B^T d B; zeros: c elements
  void (*gradient[2])(const Tiling&, const void* dy, const void* zeros, const TileBlock&);                                    // A dy A^T
  void (*output[2])(const Tiling&, const TileBlock& m, int64_t channel, int64_t width, const OutputArgs&);                    // A^T m A and the epilogue
  void (*pack[2])(const void* w, int64_t c, bool dgrad, int64_t in, int64_t in_count, int64_t out, int64_t width, float* u);  // G g G^T
  void (*finish[2])(const float* du, void* dw, int64_t c, int64_t out, int64_t in, bool add);                                 // G^T dU G of one 16x16 block
  // M (=|+=) V U of one position, for input channels [in, in + in_count); u holds those channels only.
  void (*multiply)(const TileBlock& v, int64_t position, int64_t in, int64_t in_count, const float* u, int64_t width, const TileBlock& m, bool add);
  // dU (=|+=) sum over the tiles of one position, for blocks of 16 x 16 channels: du of block (o, i) is du + (o*du_stride + i)*kDuBlock.
  void (*accumulate)(const TileBlock& x, const TileBlock& dy, int64_t position, int64_t in, int64_t in_blocks, int64_t out, int64_t out_blocks, float* du,
                     int64_t du_stride, bool add);
};

// What each file offers; null where the compiler or the architecture cannot build it. Data, not functions: asking must not run code of a set that the
// machine may lack (a function that filled its table on first use died of an illegal instruction on AVX2).
extern const Kernels* const avx2_kernels;
extern const Kernels* const avx512_kernels;
extern const Kernels* const portable8_kernels;
extern const Kernels* const portable16_kernels;

}  // namespace kd::cpu::winograd
