// stem_forms: what the launchers of both forms need on the host, and what their kernels share.
#pragma once
#include <initializer_list>

#include "kernels/stem/stem.h"

namespace kd::stem {

// Throws unless the kernels can run this.
void check(const char* kernel, const StemShape&, std::initializer_list<const void*> pointers);
bool can_run(StemForm, Device);  // automatic: any form
// The form that this stream's device runs: `wanted`, or what `automatic` means there. Throws where the device cannot run it.
StemForm form_for(Stream, const char* kernel, StemForm wanted);

constexpr int kWindow = 7;                  // filter rows, and columns
constexpr int kFilterElements = 7 * 7 * 4;  // of one filter
constexpr int kPixelBytes = 128;            // of an output pixel: 64 filters
constexpr int kUnitBytes = 16;              // of a unit, two input pixels
constexpr int kLead = 2;                    // units of zeros before the first pixel of a row in shared memory
constexpr int kRowK = 32;                   // products of a filter row: 8 pixels of 4 channels

// What a kernel needs to know of the problem.
struct Geometry {
  int n, h, w, p, q;
};
inline Geometry geometry_of(const StemShape& s) { return {int(s.n), int(s.h), int(s.w), int(s.p()), int(s.q())}; }

// A contiguous share of `all` for each of `parts` blocks.
struct Share {
  int begin, end;
};
KD_HOST_DEVICE inline Share share_of(int all, unsigned part, unsigned parts) {
  return {int(int64_t(all) * part / parts), int(int64_t(all) * (part + 1) / parts)};
}

KD_HOST_DEVICE constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// Product kk of a filter row is pixel kk / 4 of eight, of which the first has weight zero (so that the window of output q begins at pixel 2q - 4, a unit), and
// channel kk % 4. The weights kk and kk + 1 of filter f, for even kk.
KD_HOST_DEVICE inline uint32_t filter_pair(const bf16* w, int f, int row, int kk) {
  if (kk < 4) return 0;
  return *reinterpret_cast<const uint32_t*>(w + f * kFilterElements + row * 28 + kk - 4);
}

}  // namespace kd::stem
