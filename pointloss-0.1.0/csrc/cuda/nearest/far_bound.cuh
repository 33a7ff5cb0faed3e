// SPDX-License-Identifier: MIT
// Can a target point be nearer to any of a warp's queries than one that is known, the pivot?
//
// Unlike a test against the largest distance that is known, both answers here stay sharp if the
// queries are far away and many points look equally near. FarTest is cheaper and as sharp unless
// the queries are very far: with FarBound in its place 20 clusters of a million points took a
// quarter longer. FarBound also tests points, and its margin is seven times smaller.
#pragma once

#include "box.cuh"
#include "cylinder.cuh"

namespace pointloss {

// For a box: |t - q|^2 - |p - q|^2 with t and q taken relative to the pivot p is t * (t - 2 q) per
// axis: least for t at q clamped to the box, and concave in q, so the ends of the queries' box
// suffice.
// For a cylinder the same sum is known for the query in the middle, from the cylinder's distance D
// to it and the pivot's P: at least D^2 - P^2. It is linear in q, with a gradient of twice t - p,
// so for a query at most `spread` away it is less by at most twice `spread` times the distance from
// the pivot to the farthest point of the cylinder.
//
// Rounding, u = 2^-24. For a box, with e the sum of the largest squares of t and q, the sum is off
// by less than 14 u e, the distance to the point by less than 10 u e and that to the pivot by less
// than 5 u e; together below 2e-6 e. For a cylinder the errors of D^2, P^2 and the two distances
// compared are again below 2e-6 of D^2 + P^2 + spread^2 together. Twice that is left as a margin,
// and kFloor covers what underflows.
struct FarTest {
  static constexpr float kSlack = 4e-6f, kFloor = 1e-30f;
  float3 low, high;  // box of the queries relative to the pivot
  float3 pivot;
  float3 middle;  // a query in the middle
  float known;    // squared distance from there to the pivot
  float spread;   // of the queries around the one in the middle

  __device__ __forceinline__ bool wants(const Cylinder& cylinder) const {
    const float3 v = make_float3(cylinder.centre.x - pivot.x, cylinder.centre.y - pivot.y,
                                 cylinder.centre.z - pivot.z);
    const float farthest =
        sqrtf(sum_of_squares(v.x, v.y, v.z)) + cylinder.radius + cylinder.half_height;
    const float square = cylinder.distance(middle);
    const float slack = fmaf(kSlack, square + known + spread * spread, kFloor);
    return !(square - known > fmaf(2.0001f * spread, farthest, slack));
  }
  __device__ __forceinline__ bool wants(const Box& box) const {
    const float4 lower = box.lower, upper = box.upper;
    float sum = 0, size = kFloor;
    const auto axis = [&](float q0, float q1, float t0, float t1) {
      const float a = fminf(fmaxf(q0, t0), t1), b = fminf(fmaxf(q1, t0), t1);
      sum += fminf(a * (a - 2 * q0), b * (b - 2 * q1));
      const float q = fmaxf(fabsf(q0), fabsf(q1)), t = fmaxf(fabsf(t0), fabsf(t1));
      size = fmaf(q, q, fmaf(t, t, size));
    };
    axis(low.x, high.x, lower.x - pivot.x, upper.x - pivot.x);
    axis(low.y, high.y, lower.y - pivot.y, upper.y - pivot.y);
    axis(low.z, high.z, lower.z - pivot.z, upper.z - pivot.z);
    return !(sum > kSlack * size);  // true also when something overflowed to NaN
  }
};

// With the pivot as the origin, t the point, q a query and c + d the same query as the centre of
// the queries' box and an offset of at most h per axis: |t - q|^2 - |q|^2 = t (t - 2 c) - 2 t d, at
// least t (t - 2 c) - 2 |t| h, all summed over the axes.
//
// Rounding, u = 2^-24. Distances are compared as they are computed, each off by less than 5 u of
// itself: 10 u of the pivot's, of which the sum of the largest squares of q is a bound. Everything
// else is off by less than 16 u of |t| (|t| + 2 |q|) per axis (of q the largest), which `half` and
// kShrink take in. If squares overflow, a test that gives NaN or infinity keeps the point.
struct FarBound {
  static constexpr float kSlack = 6.1e-7f, kSpread = 1e-6f, kShrink = 1 - kSpread;
  static constexpr float kFloor = 4e-36f;  // of the slack: far above what underflows
  // Below this squares may underflow: queries whose distances are less are not far.
  static constexpr float kLeastRadius = 1e-20f;

  float3 pivot;
  float3 centre, half;  // twice those of the box of queries relative to the pivot
  float slack;

  __device__ __forceinline__ void place(float3 low, float3 high, float3 at) {
    pivot = at, slack = kFloor;
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
  // At least that much over a cylinder: it is a difference of squares, taken apart so that only
  // what the cylinder spans is squared.
  __device__ __forceinline__ float excess(const Cylinder& cylinder, float3 t) const {
    const float3 v = make_float3(fmaf(0.5f, centre.x, -t.x), fmaf(0.5f, centre.y, -t.y),
                                 fmaf(0.5f, centre.z, -t.z));
    float along, across;
    cylinder.components(v, along, across);
    const float pad = kCylinderSlack * (along + across);
    const float a = fminf(along, cylinder.half_height), b = fminf(across, cylinder.radius);
    return excess(t) - fmaf(a, 2 * (along + pad) - a, b * (2 * (across + pad) - b));
  }
  // How much less that can be for a query than for the centre, t being off by up to `more`.
  __device__ __forceinline__ float spread(float3 t, float more) const {
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
  // The same for a cylinder; `order` becomes its excess.
  __device__ __forceinline__ bool wants(const Cylinder& cylinder, float& order) const {
    const float3 t = relative(cylinder.centre);
    order = excess(cylinder, t);
    return wants(order - spread(t, cylinder.radius + cylinder.half_height));
  }
};

}  // namespace pointloss
