// SPDX-License-Identifier: MIT
// Registers of lanes for the tree search: GNU vectors, so that one text serves AVX2, SSE2 and NEON.
//
// They are written out, not left to the vectoriser, because the running minima of a packet must
// stay in registers from leaf to leaf. Every operation rounds as its scalar twin does.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "../../common/macros.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

// Lanes go in by reference and every function is inlined: without AVX no ABI is settled for 32-byte
// vectors. gcc says so at each return type all the same. In force for what includes this, too.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace pointloss {

template <class T>
struct LaneTypes;

template <>
struct LaneTypes<float> {
  typedef float Real __attribute__((vector_size(32)));
  typedef int32_t Int __attribute__((vector_size(32)));
  typedef float Quad __attribute__((vector_size(16)));
  using Index = int32_t;  // as wide as a coordinate, so that both fill equal registers
};

template <>
struct LaneTypes<double> {
  typedef double Real __attribute__((vector_size(32)));
  typedef int64_t Int __attribute__((vector_size(32)));
  typedef double Quad __attribute__((vector_size(32)));
  using Index = int64_t;
};

template <class T>
using RealLanes = typename LaneTypes<T>::Real;
template <class T>
using IntLanes = typename LaneTypes<T>::Int;
template <class T>
using TreeIndex = typename LaneTypes<T>::Index;

// Lanes of an AVX2 register: the queries of a packet, the points of a leaf, the children of a node.
template <class T>
constexpr int64_t kWidth = 32 / sizeof(T);

template <class Lanes, class T>
POINTLOSS_HD Lanes load_lanes(const T* from) {
  Lanes lanes;
  __builtin_memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

// value - 0 is value whatever its sign, so that this is a plain broadcast; value + 0 is not for -0.
template <class T>
POINTLOSS_HD RealLanes<T> broadcast(T value) {
  return value - RealLanes<T>{};
}

template <class Lanes>
POINTLOSS_HD Lanes larger(const Lanes& a, const Lanes& b) {
  return a > b ? a : b;
}

template <class Lanes>
POINTLOSS_HD Lanes smaller(const Lanes& a, const Lanes& b) {
  return a < b ? a : b;
}

// Adds one axis to a distance, in the order and the rounding of distance() in common/distance.h.
// gcc turns the loop into one fused multiply-add where the target has it.
template <int kNorm, class T>
POINTLOSS_HD RealLanes<T> add_axis(int64_t axis, const RealLanes<T>& diff,
                                   const RealLanes<T>& before) {
  if (kNorm == 1) {
    const auto size = (RealLanes<T>)((IntLanes<T>)diff & std::numeric_limits<TreeIndex<T>>::max());
    return axis == 0 ? size : before + size;
  }
  if (axis == 0) return diff * diff;
  RealLanes<T> sum;
  for (int64_t lane = 0; lane < kWidth<T>; ++lane) {
    sum[lane] = std::fma(diff[lane], diff[lane], before[lane]);
  }
  return sum;
}

// One bit per lane of a comparison.
template <class T>
POINTLOSS_HD uint32_t lane_bits(const IntLanes<T>& mask) {
#ifdef __SSE2__
  __m128i half[2];
  __builtin_memcpy(half, &mask, sizeof mask);
  if (sizeof(T) == 4) {
    return _mm_movemask_ps(_mm_castsi128_ps(half[0])) | _mm_movemask_ps(_mm_castsi128_ps(half[1]))
                                                            << 4;
  }
  return _mm_movemask_pd(_mm_castsi128_pd(half[0])) | _mm_movemask_pd(_mm_castsi128_pd(half[1]))
                                                          << 2;
#else
  uint32_t bits = 0;
  for (int64_t lane = 0; lane < kWidth<T>; ++lane) bits |= (mask[lane] & 1) << lane;
  return bits;
#endif
}

// The largest lane, halving: element by element would be a chain twice as long.
template <class T>
POINTLOSS_HD T largest_lane(const RealLanes<T>& lanes) {
  typedef T Half __attribute__((vector_size(16)));
  Half half[2];
  __builtin_memcpy(half, &lanes, sizeof lanes);
  const Half pair = larger(half[0], half[1]);
  if (sizeof(T) == 8) return pair[0] > pair[1] ? pair[0] : pair[1];
  const T even = pair[0] > pair[2 % (16 / sizeof(T))] ? pair[0] : pair[2 % (16 / sizeof(T))];
  const T odd = pair[1] > pair[3 % (16 / sizeof(T))] ? pair[1] : pair[3 % (16 / sizeof(T))];
  return even > odd ? even : odd;
}

template <class T>
POINTLOSS_HD T smallest_lane(const RealLanes<T>& lanes) {
  return -largest_lane<T>(-lanes);
}

}  // namespace pointloss
