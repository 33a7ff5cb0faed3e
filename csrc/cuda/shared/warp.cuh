// SPDX-License-Identifier: MIT
// What the lanes of a warp do together: reductions, scans, choices.
//
// Contract of every reduction: all lanes of the warp call it, and all lanes get the same result.
// Sums of floats add pairs of lanes 16, 8, 4, 2, 1 apart, so their order is fixed.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

namespace pointloss {

constexpr unsigned kWholeWarp = 0xffffffffu;

// How many lanes of `mask` come before this one.
__device__ __forceinline__ int rank_in(unsigned mask) {
  return __popc(mask & ((1u << threadIdx.x % 32) - 1));
}

// Floats as unsigned integers of the same order (NaN excepted), so that they reduce as integers.
__device__ __forceinline__ unsigned to_ordered(float v) {
  const unsigned bits = __float_as_uint(v);
  return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}
__device__ __forceinline__ float from_ordered(unsigned v) {
  return __uint_as_float(v ^ (v >> 31 ? 0x80000000u : 0xffffffffu));
}

// `op` over each aligned group of kLanes lanes.
template <int kLanes = 32, class T, class Op>
__device__ __forceinline__ T group_reduce(T value, Op op) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    value = op(value, __shfl_xor_sync(kWholeWarp, value, offset));
  }
  return value;
}
template <int kLanes, class T>
__device__ __forceinline__ T group_min(T value) {
  return group_reduce<kLanes>(value, [](T a, T b) { return min(a, b); });
}
template <int kLanes, class T>
__device__ __forceinline__ T group_max(T value) {
  return group_reduce<kLanes>(value, [](T a, T b) { return max(a, b); });
}
template <int kLanes, class T>
__device__ __forceinline__ T group_sum(T value) {
  return group_reduce<kLanes>(value, [](T a, T b) { return a + b; });
}

// Whether one instruction reduces a type over a warp: 32-bit integers, from compute capability 8
// on.
#if __CUDA_ARCH__ >= 800
template <class T>
constexpr bool kReducesAtOnce = std::is_integral_v<T> && sizeof(T) == 4;
#else
template <class T>
constexpr bool kReducesAtOnce = false;
#endif

template <class T>
__device__ __forceinline__ T warp_min(T value) {
  if constexpr (std::is_same_v<T, float>) {
    return from_ordered(warp_min(to_ordered(value)));
  } else if constexpr (kReducesAtOnce<T>) {
    return __reduce_min_sync(kWholeWarp, value);
  } else {
    return group_min<32>(value);
  }
}
template <class T>
__device__ __forceinline__ T warp_max(T value) {
  if constexpr (std::is_same_v<T, float>) {
    return from_ordered(warp_max(to_ordered(value)));
  } else if constexpr (kReducesAtOnce<T>) {
    return __reduce_max_sync(kWholeWarp, value);
  } else {
    return group_max<32>(value);
  }
}
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  if constexpr (kReducesAtOnce<T>) {
    return __reduce_add_sync(kWholeWarp, value);
  } else {
    return group_sum<32>(value);
  }
}

// For values >= +0, whose bits have their order already.
__device__ __forceinline__ float warp_max_positive(float v) {
  return __uint_as_float(warp_max(__float_as_uint(v)));
}

// Sum over this lane and those before it.
template <class T>
__device__ __forceinline__ T warp_inclusive_sum(T value) {
  const int lane = threadIdx.x % 32;
  for (int offset = 1; offset < 32; offset *= 2) {
    const T other = __shfl_up_sync(kWholeWarp, value, offset);
    if (lane >= offset) value += other;
  }
  return value;
}

// The lane of `lanes` (not empty) with about the least unsigned number, or value >= 0, whose bits
// have its order: the low five give way to the lane, which only decides what is visited first.
__device__ __forceinline__ int lane_of_least(unsigned lanes, unsigned ordered) {
  const unsigned lane = threadIdx.x % 32;
  const bool in = (lanes >> lane) & 1;
  return warp_min(in ? (ordered & ~31u) | lane : 0xffffffffu) & 31;
}
__device__ __forceinline__ int lane_of_least(unsigned lanes, float value) {
  return lane_of_least(lanes, __float_as_uint(value));
}

// The same for values of any sign.
__device__ __forceinline__ int lane_of_lowest(unsigned lanes, float value) {
  return lane_of_least(lanes, to_ordered(value));
}

// Among the lanes that share the least value, the one with the lowest `rank`.
__device__ __forceinline__ int lane_of_least(unsigned lanes, float value, int rank) {
  const int lane = threadIdx.x % 32, first = lane_of_least(lanes, value);
  const float least = __shfl_sync(kWholeWarp, value, first);  // by all lanes
  const bool equal = ((lanes >> lane) & 1) && value == least;
  const unsigned equals = __ballot_sync(kWholeWarp, equal);
  if ((equals & (equals - 1)) == 0) return first;
  const unsigned lowest = warp_min(equal ? static_cast<unsigned>(rank) : 0xffffffffu);
  return __ffs(__ballot_sync(kWholeWarp, equal && static_cast<unsigned>(rank) == lowest)) - 1;
}

}  // namespace pointloss
