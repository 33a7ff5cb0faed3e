// SPDX-License-Identifier: MIT
// Flat bounds of patches of a surface, for queries that are far from it.
//
// A box with sides along the axes is thick around a tilted patch, so from afar many leaves look as
// near as the nearest one (their number grows with the square root of the points). A disc, that is
// a flat cylinder along the patch's normal, is thin. Any normal gives a valid bound, a good one a
// sharp bound; here it comes from the two points that span the patch best. With discs a blob of a
// million points against a surface took an eighth less time, two surfaces 2 % more.
//
// Rounding, u = 2^-24, v = query - centre: the component along the normal is off by less than 8 u
// |v|, the one across by less than 20 u |v| (rsqrt and the length of the normal included), and the
// distance that the bound is compared with by 4 u of itself: below 2e-6 |v| together. Twice that
// is taken off both components. NaN, which only overflow makes, leaves the bound at 0.
#pragma once

#include "nearest_tree_warp.cuh"

namespace pointloss {

constexpr float kDiscSlack = 4e-6f;
constexpr float kDiscFloor = 1e-36f;  // below it squares of differences underflow

struct alignas(32) Disc {
  float3 centre;
  float half_height;
  float3 normal;  // of length 1, or 0 for a ball
  float radius;

  // Whether everything inside is farther from q than the squared distance `bound`.
  __device__ __forceinline__ bool beyond(float3 q, float bound) const {
    const float3 v = make_float3(q.x - centre.x, q.y - centre.y, q.z - centre.z);
    float along, across;
    components(v, along, across);
    const float slack = kDiscSlack * (along + across);
    const float a = fmaxf(along - half_height - slack, 0.f);
    const float b = fmaxf(across - radius - slack, 0.f);
    return fmaf(a, a, b * b) > bound + kDiscFloor;
  }
  // Lengths of v along the normal and across it.
  __device__ __forceinline__ void components(float3 v, float& along, float& across) const {
    const float t = fmaf(normal.z, v.z, fmaf(normal.y, v.y, normal.x * v.x));
    const float square =
        sum_of_squares(fmaf(-t, normal.x, v.x), fmaf(-t, normal.y, v.y), fmaf(-t, normal.z, v.z));
    along = fabsf(t);
    across = square > 0 ? square * rsqrtf(square) : 0.f;
  }
};

// The lane among kLanes neighbours with about the largest value >= 0.
template <int kLanes>
__device__ __forceinline__ int lane_of_most(float value) {
  unsigned key = (__float_as_uint(value) & ~31u) | threadIdx.x % 32;
  for (int offset = 1; offset < kLanes; offset *= 2) {
    key = max(key, __shfl_xor_sync(kWholeWarp, key, offset));
  }
  return key & 31;
}

template <int kLanes>
__device__ __forceinline__ float most_of(float value) {  // of values >= 0; NaN is above all
  int bits = __float_as_int(value);
  for (int offset = 1; offset < kLanes; offset *= 2) {
    bits = max(bits, __shfl_xor_sync(kWholeWarp, bits, offset));
  }
  return __int_as_float(bits);
}

__device__ __forceinline__ float3 from_lane(float3 v, int lane) {
  return make_float3(__shfl_sync(kWholeWarp, v.x, lane), __shfl_sync(kWholeWarp, v.y, lane),
                     __shfl_sync(kWholeWarp, v.z, lane));
}

// By kLanes neighbouring lanes: the normal of the plane that two of their vectors span best.
template <int kLanes>
__device__ __forceinline__ float3 spanned_normal(float3 v) {
  constexpr float kLeastSquare = 1e-30f;  // of a cross product that still has digits
  const float3 u = from_lane(v, lane_of_most<kLanes>(sum_of_squares(v.x, v.y, v.z)));
  const float3 cross =
      make_float3(u.y * v.z - u.z * v.y, u.z * v.x - u.x * v.z, u.x * v.y - u.y * v.x);
  const float3 n =
      from_lane(cross, lane_of_most<kLanes>(sum_of_squares(cross.x, cross.y, cross.z)));
  const float square = sum_of_squares(n.x, n.y, n.z);
  const float unit = square > kLeastSquare && square < kInfinity ? rsqrtf(square) : 0.f;
  return unit > 0 ? make_float3(n.x * unit, n.y * unit, n.z * unit) : make_float3(0, 0, 0);
}

__device__ __forceinline__ float3 centre_of(const Box& box) {
  return make_float3(0.5f * box.lower.x + 0.5f * box.upper.x,
                     0.5f * box.lower.y + 0.5f * box.upper.y,
                     0.5f * box.lower.z + 0.5f * box.upper.z);
}

// By the kLeafPoints lanes of a leaf, each with one of its points, or absent.
__device__ __forceinline__ Disc disc_of_points(const Box& box, float3 p, bool present) {
  Disc disc;
  disc.centre = centre_of(box);
  float3 v = make_float3(0, 0, 0);
  if (present) v = make_float3(p.x - disc.centre.x, p.y - disc.centre.y, p.z - disc.centre.z);
  disc.normal = spanned_normal<kLeafPoints>(v);
  float along, across;
  disc.components(v, along, across);
  const float pad = 2 * kDiscSlack * (along + across);
  disc.half_height = most_of<kLeafPoints>(along + pad);
  disc.radius = most_of<kLeafPoints>(across + pad);
  return disc;
}

// By a warp, a lane for each of up to 32 discs inside `box`.
__device__ __forceinline__ Disc disc_of_discs(const Box& box, const Disc& part, bool present) {
  Disc disc;
  disc.centre = centre_of(box);
  float3 v = make_float3(0, 0, 0);
  if (present) {
    v = make_float3(part.centre.x - disc.centre.x, part.centre.y - disc.centre.y,
                    part.centre.z - disc.centre.z);
  }
  disc.normal = spanned_normal<32>(v);
  float along, across;
  disc.components(v, along, across);
  const float cosine =
      disc.normal.x * part.normal.x + disc.normal.y * part.normal.y + disc.normal.z * part.normal.z;
  constexpr float kSineFloor = 1e-5f;  // 1 - cosine^2 is known to a few u
  const float sine = sqrtf(fmaxf(0.f, 1 - cosine * cosine) + kSineFloor);
  along += part.half_height * (fabsf(cosine) + kSineFloor) + part.radius * sine;
  across += part.half_height + part.radius;
  const float pad = 2 * kDiscSlack * (along + across);
  disc.half_height = most_of<32>(present ? along + pad : 0.f);
  disc.radius = most_of<32>(present ? across + pad : 0.f);
  return disc;
}

}  // namespace pointloss
