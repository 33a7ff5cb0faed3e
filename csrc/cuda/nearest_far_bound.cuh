// SPDX-License-Identifier: MIT
// Can a target point be nearer to any of a warp's queries than one that is known, the pivot?
//
// With the pivot as the origin, t the point, q a query and c + d the same query as the centre of
// the queries' box and an offset of at most h an axis: |t - q|^2 - |q|^2 = t (t - 2 c) - 2 t d, at
// least t (t - 2 c) - 2 |t| h, all summed over the axes. Unlike a test against the largest distance
// that is known it stays sharp when the queries are far away, and many points look equally near.
//
// The walk's FarTest answers the same question for the queries' box or sphere. It is cheaper and as
// sharp where queries are not very far (with this one in its place 20 clusters of a million points
// took a quarter longer); this one also tests points, and its margin is seven times smaller.
//
// Rounding, u = 2^-24. Distances are compared as they are computed, each off by less than 5 u of
// itself: 10 u of the pivot's, of which the sum of the largest squares of q is a bound. Everything
// else is off by less than 16 u of |t| (|t| + 2 |q|) an axis (of q the largest), which `half` and
// kShrink take in. Where squares overflow, a test that gives NaN or infinity keeps the point.
#pragma once

#include "nearest_tree_disc.cuh"
#include "nearest_tree_warp.cuh"

namespace pointloss {

struct FarBound {
  static constexpr float kSlack = 6.1e-7f, kSpread = 1e-6f, kShrink = 1 - kSpread;
  // Below this squares may underflow: queries whose distances are less are not far.
  static constexpr float kLeastRadius = 1e-20f;

  float3 pivot;
  float3 centre, half;  // twice those of the box of queries relative to the pivot
  float slack;

  __device__ __forceinline__ void place(float3 low, float3 high, float3 at) {
    pivot = at, slack = 0;
    const auto axis = [&](float from, float to, float& middle, float& offset) {
      const float most = fmaxf(fabsf(from), fabsf(to));
      middle = from + to;
      offset = fmaf(2 * kSpread, most, to - from);
      slack = fmaf(kSlack * most, most, slack);
    };
    axis(low.x - at.x, high.x - at.x, centre.x, half.x);
    axis(low.y - at.y, high.y - at.y, centre.y, half.y);
    axis(low.z - at.z, high.z - at.z, centre.z, half.z);
  }
  __device__ __forceinline__ float3 relative(float3 p) const {
    return make_float3(p.x - pivot.x, p.y - pivot.y, p.z - pivot.z);
  }
  // How much larger the squared distance to t is than that to the pivot, for the centre.
  __device__ __forceinline__ float excess(float3 t) const {
    const float x = fmaf(kShrink, t.x, -centre.x), y = fmaf(kShrink, t.y, -centre.y),
                z = fmaf(kShrink, t.z, -centre.z);
    return fmaf(t.z, z, fmaf(t.y, y, t.x * x));
  }
  // At least that much over a disc: it is a difference of squares, taken apart so that only what
  // the disc spans is squared.
  __device__ __forceinline__ float excess(const Disc& disc, float3 t) const {
    const float3 v = make_float3(fmaf(0.5f, centre.x, -t.x), fmaf(0.5f, centre.y, -t.y),
                                 fmaf(0.5f, centre.z, -t.z));
    float along, across;
    disc.components(v, along, across);
    const float pad = kDiscSlack * (along + across);
    const float a = fminf(along, disc.half_height), b = fminf(across, disc.radius);
    return excess(t) - fmaf(a, 2 * (along + pad) - a, b * (2 * (across + pad) - b));
  }
  // How much less that can be for a query than for the centre, t being off by up to `more`.
  __device__ __forceinline__ float reach(float3 t, float more) const {
    return fmaf(half.z, fabsf(t.z) + more,
                fmaf(half.y, fabsf(t.y) + more, half.x * (fabsf(t.x) + more)));
  }
  // The least of both together over a box.
  __device__ __forceinline__ float least(const Box& box) const {
    float sum = 0;
    const auto axis = [&](float c, float h, float t0, float t1) {
      const float q0 = c - h, q1 = c + h;  // at them, clamped to the box, the least is reached
      const float a = fminf(fmaxf(0.5f * q0, t0), t1), b = fminf(fmaxf(0.5f * q1, t0), t1);
      sum += fminf(a * fmaf(kShrink, a, -q0), b * fmaf(kShrink, b, -q1));
    };
    axis(centre.x, half.x, box.lower.x - pivot.x, box.upper.x - pivot.x);
    axis(centre.y, half.y, box.lower.y - pivot.y, box.upper.y - pivot.y);
    axis(centre.z, half.z, box.lower.z - pivot.z, box.upper.z - pivot.z);
    return sum;
  }
  __device__ __forceinline__ bool wants(float least) const { return !(least > slack); }
  // The same for a disc; `order` becomes its excess.
  __device__ __forceinline__ bool wants(const Disc& disc, float& order) const {
    const float3 t = relative(disc.centre);
    order = excess(disc, t);
    return wants(order - reach(t, disc.radius + disc.half_height));
  }
};

}  // namespace pointloss
