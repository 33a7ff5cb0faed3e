// SPDX-License-Identifier: MIT
// The frame in which a cloud's points get their place on the Hilbert curve.
//
// A block samples a cloud, one point per thread. Bounds are those of the sample without its
// extremes: the outermost fifth of the warps' own bounds is set aside and the rest widened by half,
// so a few far outliers do not stretch the grid; what lies outside falls into the border cells.
// Along each axis the grid is stretched where points crowd (two scales in one cloud), but no axis
// by more than the least crowded one: a flat cloud is not cut across its thickness. On surfaces and
// volumes the map is linear with one scale for all axes. The frame only decides speed: any order is
// exact.
#pragma once

#include <cfloat>

#include "../shared/curve.cuh"
#include "box.cuh"
#include "tuning.cuh"

namespace pointloss {

constexpr unsigned kCodeLevels = 2 * kGridBits;  // of a point's code

// Adding it to a number below 2^22 leaves the nearest integer in the low bits.
constexpr float kRounder = 12582912;

struct CurveFrame {
  float lower[3];
  float scale;                 // coordinates to bins, the same for all axes
  float2 knot[3][kFrameBins];  // in bin t: offset + slope * t is the place on the finest grid
  HilbertSteps steps;

  // Bin and cell are found by rounding what was shifted down by half, which is rounding down.
  __device__ __forceinline__ float bin(int axis, float v) const {
    return fminf(fmaxf(fmaf(v - lower[axis], scale, -0.5f), -0.5f), kFrameBins - 0.75f);
  }
  // Place on the finest grid, shifted down by half.
  __device__ __forceinline__ float place(int axis, float v) const {
    const float t = bin(axis, v);
    const float2 k = knot[axis][__float_as_uint(t + kRounder) % kFrameBins];
    return fmaf(k.y, t, k.x);
  }
  __device__ __forceinline__ unsigned cell(int axis, float v) const {
    return __float_as_uint(place(axis, v) + kRounder) % (1u << kGridBits);
  }
  // Places in steps of a small part of a cell: one bit per level of the curve.
  __device__ __forceinline__ uint3 code(float3 p) const {
    const auto fine = [&](int axis, float v) {
      const float at = fmaxf(place(axis, v) + 0.5f, 0.f);
      return static_cast<unsigned>(at * (1 << (kCodeLevels - kGridBits)));
    };
    return make_uint3(fine(0, p.x), fine(1, p.y), fine(2, p.z));
  }
  // Key of the top `bits` bits of the cell, of which kMostBits can be asked for.
  template <int kMostBits>
  __device__ __forceinline__ unsigned key(float3 p, int bits) const {
    constexpr int kSpare = kGridBits - kMostBits;
    return hilbert_key(steps, cell(0, p.x) >> kSpare, cell(1, p.y) >> kSpare,
                       cell(2, p.z) >> kSpare, kMostBits, bits);
  }
};

// Whether the first cloud is much smaller than the second.
__device__ __forceinline__ bool much_smaller(const CurveFrame& cloud, const CurveFrame& other) {
  return cloud.scale > kMuchSmaller * other.scale;
}

struct FrameScratch {
  unsigned low[3][32], high[3][32];  // ordered bits
  float lower[3], upper[3], steepest[3];
  int sampled;
  int mass[3][kFrameBins];
};

// By one warp: bounds of an axis from the bounds of kWarps warps.
template <int kWarps>
__device__ __forceinline__ void trim_bounds(FrameScratch& s, int axis) {
  const int lane = threadIdx.x % 32;
  unsigned low = lane < kWarps ? s.low[axis][lane] : ~0u;
  unsigned high = lane < kWarps ? s.high[axis][lane] : 0;
  const float lowest = from_ordered(warp_min(low)), highest = from_ordered(warp_max(high));
  for (int k = 0; k < kWarps / 5; ++k) {
    if (lane == __ffs(__ballot_sync(kWholeWarp, low == warp_min(low))) - 1) low = ~0u;
    if (lane == __ffs(__ballot_sync(kWholeWarp, high == warp_max(high))) - 1) high = 0;
  }
  low = warp_min(low), high = warp_max(high);
  const bool trimmed = low <= high;  // else the sample is too small, or empty
  const float from = from_ordered(low), to = from_ordered(high);
  const float margin = 0.5f * (to - from);
  if (lane != 0) return;
  const bool any = lowest <= highest;
  s.lower[axis] = trimmed ? fmaxf(lowest, from - margin) : any ? lowest : 0;
  s.upper[axis] = trimmed ? fminf(highest, to + margin) : any ? highest : 0;
}

// By one warp: how steep the map of an axis wants to be in this lane's two bins.
__device__ __forceinline__ float2 wanted_slopes(FrameScratch& s, int axis) {
  const int lane = threadIdx.x % 32;
  const float even = fmaxf(s.sampled / static_cast<float>(kFrameBins), 1.f);
  const float per_even = __fdividef(1.f, even);
  const auto slope = [&](int bin) {
    return 1 + kCrowdedBin * fmaxf(0.f, s.mass[axis][bin] * per_even - kCrowdedBin);
  };
  const float2 slopes = make_float2(slope(2 * lane), slope(2 * lane + 1));
  const float steepest = warp_max_positive(fmaxf(slopes.x, slopes.y));
  if (lane == 0) s.steepest[axis] = steepest;
  return slopes;
}

// By one warp: the knots of an axis from the slopes, no steeper than the flattest axis allows.
__device__ __forceinline__ void lay_knots(const FrameScratch& s, int axis, float2 slopes,
                                          CurveFrame& frame) {
  const int lane = threadIdx.x % 32;
  const float cap = fminf(fminf(s.steepest[0], s.steepest[1]), s.steepest[2]);
  const float first = fminf(slopes.x, cap), second = fminf(slopes.y, cap);
  const float end = warp_inclusive_sum(first + second);
  // Just below the number of cells, so that no rounding passes the last one.
  const float unit = __fdividef((1 << kGridBits) - 0.25f, __shfl_sync(kWholeWarp, end, 31));
  const auto knot = [&](int bin, float start, float slope) {  // for places shifted by half
    frame.knot[axis][bin] = make_float2((start - slope * (bin - 0.5f)) * unit - 0.5f, slope * unit);
  };
  const float start = end - first - second;
  knot(2 * lane, start, first);
  knot(2 * lane + 1, start + first, second);
}

// By a block of kThreads: the frames of kClouds clouds at once, an equal share of the threads
// sampling each. Ends with a barrier.
template <int kThreads, int kClouds>
__device__ __forceinline__ void make_frames(const float* const (&points)[kClouds],
                                            const int64_t (&count)[kClouds],
                                            FrameScratch (&s)[kClouds],
                                            CurveFrame (&frame)[kClouds]) {
  constexpr int kShare = kThreads / kClouds;
  static_assert(kThreads / 32 >= 3 * kClouds, "one warp per axis");
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int own = kClouds == 1 ? 0 : threadIdx.x / kShare, in_share = threadIdx.x % kShare;
  float sample[3] = {NAN, NAN, NAN};
  const int64_t size = own == 0 ? count[0] : count[kClouds - 1];
  if (size > 0) {
    const float* from = own == 0 ? points[0] : points[kClouds - 1];
    // At a random place in its stretch of the cloud: a stride would meet what is arranged in one.
    const int64_t first = in_share * size / kShare, last = (in_share + 1) * size / kShare;
    const unsigned random = in_share * 0x9e3779b1u;
    const float3 p =
        load_point(from, first + __umulhi(random, static_cast<unsigned>(last - first)));
    sample[0] = p.x, sample[1] = p.y, sample[2] = p.z;
  }
  const bool valid = isfinite(sample[0]) && isfinite(sample[1]) && isfinite(sample[2]);
  const unsigned found = __popc(__ballot_sync(kWholeWarp, valid));
#pragma unroll
  for (int a = 0; a < 3; ++a) {
    const unsigned bits = to_ordered(sample[a]);
    const unsigned low = warp_min(valid ? bits : ~0u), high = warp_max(valid ? bits : 0);
    if (lane == 0) s[own].low[a][in_share / 32] = low, s[own].high[a][in_share / 32] = high;
  }
  for (int k = in_share; k < 3 * kFrameBins; k += kShare) s[own].mass[0][k] = 0;
  if (in_share == 0) s[own].sampled = 0;
  if (in_share < kHilbertWords) frame[own].steps.word[in_share] = kCurveSteps.word[in_share];
  __syncthreads();
  const int cloud = warp / 3, axis = warp % 3;  // of the warps that lead
  if (cloud < kClouds) trim_bounds<kShare / 32>(s[cloud], axis);
  __syncthreads();
  float extent = FLT_MIN;
  for (int a = 0; a < 3; ++a) extent = fmaxf(extent, s[own].upper[a] - s[own].lower[a]);
  const float scale = kFrameBins / extent;
  if (in_share < 3) frame[own].lower[in_share] = s[own].lower[in_share];
  if (in_share == 0) frame[own].scale = scale;
  if (lane == 0) atomicAdd(&s[own].sampled, found);
  if (valid) {
#pragma unroll
    for (int a = 0; a < 3; ++a) {
      const float t = fminf(fmaxf((sample[a] - s[own].lower[a]) * scale, 0.f), kFrameBins - 1.f);
      atomicAdd(&s[own].mass[a][static_cast<int>(t)], 1);
    }
  }
  __syncthreads();
  float2 slopes = make_float2(1, 1);
  if (cloud < kClouds) slopes = wanted_slopes(s[cloud], axis);
  __syncthreads();
  if (cloud < kClouds) lay_knots(s[cloud], axis, slopes, frame[cloud]);
  __syncthreads();
}

}  // namespace pointloss
