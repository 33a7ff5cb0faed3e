// SPDX-License-Identifier: MIT
// Boxes and leaves of the tree searches, and the distances to them that are never too large.
#pragma once

#include <climits>
#include <cstdint>

#include "../../common/distance.h"
#include "../shared/warp.cuh"
#include "tuning.cuh"

namespace pointloss {

constexpr float kInfinity = INFINITY;

__device__ __forceinline__ float3 from_lane(float3 v, int lane) {
  return make_float3(__shfl_sync(kWholeWarp, v.x, lane), __shfl_sync(kWholeWarp, v.y, lane),
                     __shfl_sync(kWholeWarp, v.z, lane));
}

// max(0, a, b), the distance along an axis, of numbers that are not NaN: their bits, as signed
// integers, have their order wherever it matters (all negative ones give 0).
__device__ __forceinline__ float separation(float a, float b) {
  return __int_as_float(__vimax_s32_relu(__float_as_int(a), __float_as_int(b)));
}

__device__ __forceinline__ float sum_of_squares(float dx, float dy, float dz) {
  return fmaf(dz, dz, fmaf(dy, dy, dx * dx));
}

__device__ __forceinline__ float3 load_point(const float* points, int64_t i) {
  return make_float3(points[3 * i], points[3 * i + 1], points[3 * i + 2]);
}

__device__ __forceinline__ bool is_finite(float3 p) {
  return isfinite(p.x) && isfinite(p.y) && isfinite(p.z);
}

// The box of a set of points; lower.w holds the least index of them.
struct alignas(32) Box {
  float4 lower, upper;

  __device__ __forceinline__ int least() const { return __float_as_int(lower.w); }
};

// Squared distance from a box of query points to a box of target points. Each difference is a
// rounded difference of the same two kinds of coordinates as in the distance of two points,
// rounding is monotone, and so are squaring and fma in the same order: never above the computed
// distance of any two points inside. Finite coordinates give no NaN; an overflow gives inf, which
// the distances inside then have as well.
__device__ __forceinline__ float box_box(float3 low, float3 high, const Box& box) {
  const float4 lower = box.lower, upper = box.upper;
  return sum_of_squares(separation(low.x - upper.x, lower.x - high.x),
                        separation(low.y - upper.y, lower.y - high.y),
                        separation(low.z - upper.z, lower.z - high.z));
}
__device__ __forceinline__ float point_box(float3 p, const Box& box) { return box_box(p, p, box); }

// Target points that are neighbours on the curve, coordinate by coordinate: 16-byte loads of four.
// Absent points are at infinity, which no distance comes below.
template <class Index>
struct alignas(16) Leaf {
  float4 x[kLeafPoints / 4], y[kLeafPoints / 4], z[kLeafPoints / 4];
  Index index[kLeafPoints];

  __device__ __forceinline__ void set(int slot, float3 p, Index i) {
    reinterpret_cast<float*>(x)[slot] = p.x;
    reinterpret_cast<float*>(y)[slot] = p.y;
    reinterpret_cast<float*>(z)[slot] = p.z;
    index[slot] = i;
  }
  __device__ __forceinline__ float3 point(int slot) const {
    return make_float3(reinterpret_cast<const float*>(x)[slot],
                       reinterpret_cast<const float*>(y)[slot],
                       reinterpret_cast<const float*>(z)[slot]);
  }
  __device__ __forceinline__ void distances(float3 q, int quad, float d[4]) const {
    const float4 a = x[quad], b = y[quad], c = z[quad];
    d[0] = sum_of_squares(q.x - a.x, q.y - b.x, q.z - c.x);
    d[1] = sum_of_squares(q.x - a.y, q.y - b.y, q.z - c.y);
    d[2] = sum_of_squares(q.x - a.z, q.y - b.z, q.z - c.z);
    d[3] = sum_of_squares(q.x - a.w, q.y - b.w, q.z - c.w);
  }
  // Distances are >= +0 or NaN with a positive sign, so the integer minimum of their bits is
  // theirs.
  __device__ __forceinline__ float least_distance(float3 q) const {
    int least = __float_as_int(kInfinity);
#pragma unroll
    for (int quad = 0; quad < kLeafPoints / 4; ++quad) {
      float d[4];
      distances(q, quad, d);
      least = __vimin3_s32(least, __float_as_int(d[0]), __float_as_int(d[1]));
      least = __vimin3_s32(least, __float_as_int(d[2]), __float_as_int(d[3]));
    }
    return __int_as_float(least);
  }
  // The lowest index of the points at exactly this distance.
  __device__ __forceinline__ int lowest_index(float3 q, float distance) const {
    int lowest = INT_MAX;
#pragma unroll 1  // seldom run: the code of the walk should stay small
    for (int quad = 0; quad < kLeafPoints / 4; ++quad) {
      float d[4];
      distances(q, quad, d);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (d[k] == distance) lowest = min(lowest, static_cast<int>(index[4 * quad + k]));
      }
    }
    return lowest;
  }
};

}  // namespace pointloss
