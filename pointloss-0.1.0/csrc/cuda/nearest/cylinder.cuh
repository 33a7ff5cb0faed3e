// SPDX-License-Identifier: MIT
// Bounding cylinders of patches of a surface, for queries that are far from it.
//
// A box with sides along the axes is thick around a tilted patch, so from afar many leaves look as
// near as the nearest one (their number grows with the square root of the points). A flat cylinder
// along the patch's normal is thin. Any normal gives a valid bound, a good one a sharp bound; here
// it is about the direction in which the points vary least. Measured on an H200: a blob of a
// million points against a surface took an eighth less time, two surfaces 2 % more.
//
// Rounding, u = 2^-24, v = query - centre: the component along the normal is off by less than 8 u
// |v|, the one across by less than 20 u |v| (rsqrt and the length of the normal included), and the
// distance that the bound is compared with by 4 u of itself: below 2e-6 |v| together. Twice that
// is taken off both components. If squares overflow the cylinder is infinite, and a NaN leaves
// the bound at 0.
#pragma once

#include <cfloat>
#include <cmath>

#include "box.cuh"

namespace pointloss {

constexpr float kCylinderSlack = 4e-6f;
constexpr float kCylinderFloor = 1e-36f;  // below it squares of differences underflow

struct alignas(32) Cylinder {
  float3 centre;
  float half_height;
  float3 normal;  // of length 1, or 0 for a ball
  float radius;

  // A squared distance from q that, but for kCylinderFloor, nothing inside is nearer than.
  __device__ __forceinline__ float distance(float3 q) const {
    const float3 v = make_float3(q.x - centre.x, q.y - centre.y, q.z - centre.z);
    float along, across;
    components(v, along, across);
    const float slack = kCylinderSlack * (along + across);
    const float a = fmaxf(along - half_height - slack, 0.f);
    const float b = fmaxf(across - radius - slack, 0.f);
    return fmaf(a, a, b * b);
  }
  // Lengths of v along the normal and across it.
  __device__ __forceinline__ void components(float3 v, float& along, float& across) const {
    const float t = fmaf(normal.z, v.z, fmaf(normal.y, v.y, normal.x * v.x));
    const float square =
        sum_of_squares(fmaf(-t, normal.x, v.x), fmaf(-t, normal.y, v.y), fmaf(-t, normal.z, v.z));
    along = fabsf(t);
    across = square > 0 ? square * rsqrtf(square) : 0.f;
  }
  // The same for v to something inside: infinite if squares overflow, so that the cylinder is too
  // large and never too small.
  __device__ __forceinline__ void extents(float3 v, float& along, float& across) const {
    components(v, along, across);
    if (!(sum_of_squares(v.x, v.y, v.z) <= FLT_MAX)) along = across = INFINITY;
  }
};

// By kLanes neighbouring lanes, each with a point that is present or not: about the direction in
// which the points vary least, or 0. It is the largest column of the adjugate of their covariance,
// which is the covariance's inverse but for a factor: one step of inverse iteration.
template <int kLanes>
__device__ __forceinline__ float3 flattest_direction(float3 v, bool present, float unit) {
  const float x = present ? v.x * unit : 0.f, y = present ? v.y * unit : 0.f,
              z = present ? v.z * unit : 0.f;
  const float share = __fdividef(1.f, fmaxf(group_sum<kLanes>(present ? 1.f : 0.f), 1.f));
  const float mx = group_sum<kLanes>(x), my = group_sum<kLanes>(y), mz = group_sum<kLanes>(z);
  const auto moment = [&](float p, float q, float sum_p, float sum_q) {
    return group_sum<kLanes>(p * q) - sum_p * sum_q * share;
  };
  const float xx = moment(x, x, mx, mx), xy = moment(x, y, mx, my), xz = moment(x, z, mx, mz);
  const float yy = moment(y, y, my, my), yz = moment(y, z, my, mz), zz = moment(z, z, mz, mz);
  const float ax = yy * zz - yz * yz, ay = xx * zz - xz * xz, az = xx * yy - xy * xy;
  const float axy = xz * yz - xy * zz, axz = xy * yz - xz * yy, ayz = xy * xz - yz * xx;
  const float3 n = ax >= ay && ax >= az ? make_float3(ax, axy, axz)
                   : ay >= az           ? make_float3(axy, ay, ayz)
                                        : make_float3(axz, ayz, az);
  constexpr float kLeastSquare = 1e-16f;  // of what still has digits, in units of the extent
  const float square = sum_of_squares(n.x, n.y, n.z);
  const float scale = square > kLeastSquare && square < kInfinity ? rsqrtf(square) : 0.f;
  return scale > 0 ? make_float3(n.x * scale, n.y * scale, n.z * scale) : make_float3(0, 0, 0);
}

__device__ __forceinline__ float dot(float3 a, float3 b) {
  return fmaf(a.z, b.z, fmaf(a.y, b.y, a.x * b.x));
}

__device__ __forceinline__ float3 centre_of(const Box& box) {
  return make_float3(0.5f * box.lower.x + 0.5f * box.upper.x,
                     0.5f * box.lower.y + 0.5f * box.upper.y,
                     0.5f * box.lower.z + 0.5f * box.upper.z);
}

// The scale that gives a box an extent of about 1; 0 if it has none.
__device__ __forceinline__ float unit_of(const Box& box) {
  const float extent =
      fmaxf(fmaxf(box.upper.x - box.lower.x, box.upper.y - box.lower.y), box.upper.z - box.lower.z);
  return extent > FLT_MIN && extent < kInfinity ? __fdividef(1.f, extent) : 0.f;
}

// By kLanes neighbouring lanes, each with a part inside `box`, or none: a point (the centre of
// `part`) or all of the cylinder `part`. The centre is in the middle between the planes along the
// normal that enclose all parts.
template <int kLanes, bool kPoints>
__device__ __forceinline__ Cylinder bounding_cylinder(const Box& box, const Cylinder& part,
                                                      bool present) {
  // How far a part extends from its centre along a direction of length 1.
  const auto support = [&](float3 normal) {
    const float cosine = dot(normal, part.normal);
    constexpr float kSineFloor = 1e-5f;  // 1 - cosine^2 is known to a few u
    const float sine = sqrtf(fmaxf(0.f, 1 - cosine * cosine) + kSineFloor);
    return part.half_height * (fabsf(cosine) + kSineFloor) + part.radius * sine;
  };
  const float3 c = centre_of(box), p = part.centre;
  const float3 v = make_float3(p.x - c.x, p.y - c.y, p.z - c.z);
  Cylinder all;
  all.normal = flattest_direction<kLanes>(v, present, unit_of(box));
  const float t = dot(all.normal, v), r = kPoints ? 0.f : support(all.normal);
  const float above = group_max<kLanes>(present ? t + r : -kInfinity);
  const float below = group_max<kLanes>(present ? r - t : -kInfinity);
  const float middle = 0.5f * (above - below);
  all.centre = make_float3(fmaf(middle, all.normal.x, c.x), fmaf(middle, all.normal.y, c.y),
                           fmaf(middle, all.normal.z, c.z));
  float along, across;
  all.extents(make_float3(p.x - all.centre.x, p.y - all.centre.y, p.z - all.centre.z), along,
              across);
  if (!kPoints) along += r, across += part.half_height + part.radius;
  const float pad = 2 * kCylinderSlack * (along + across);
  all.half_height = group_max<kLanes>(present ? along + pad : 0.f);
  all.radius = group_max<kLanes>(present ? across + pad : 0.f);
  return all;
}

}  // namespace pointloss
