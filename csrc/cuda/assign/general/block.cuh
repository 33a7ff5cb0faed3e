// SPDX-License-Identifier: MIT
// Block-wide tools of the general assignment solver: reductions, selection of the k-th smallest.
// Map: one block of kGeneralThreads; all of its threads call each of these, with the same arguments
// but for the value reduced, and all get the result.
// Deterministic: fixed order of sums.
#pragma once

#include <climits>
#include <cstdint>

#include "../../shared/warp.cuh"
#include "../best_two.cuh"
#include "../tuning.cuh"

namespace pointloss {

// Associative, and breaks ties by the lowest object: the result does not depend on how the objects
// were dealt out.
template <typename S>
__device__ __forceinline__ void merge(BestTwo<S>& a, const BestTwo<S>& b) {
  const S larger = a.best > b.best ? a.best : b.best;
  const S second = a.second < b.second ? a.second : b.second;
  const bool take = b.best < a.best || (b.best == a.best && b.object < a.object);
  a.object = take ? b.object : a.object;
  a.best = take ? b.best : a.best;
  a.second = larger < second ? larger : second;
}

// Merges each aligned group of `lanes` (a power of two) lanes; all lanes of the warp take part.
template <typename S>
__device__ __forceinline__ BestTwo<S> lanes_merge(BestTwo<S> top, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    const BestTwo<S> other{__shfl_xor_sync(kWholeWarp, top.best, offset),
                           __shfl_xor_sync(kWholeWarp, top.second, offset),
                           __shfl_xor_sync(kWholeWarp, top.object, offset)};
    merge(top, other);
  }
  return top;
}

struct BlockShared {
  double reduced[kGeneralWarps];
  unsigned histogram[256];
  unsigned long long prefix;
  int64_t rank;
  int count[2];  // lengths of the two queues
  BestTwo<double> part[kGeneralWarps];
};

struct Sum {
  __device__ double operator()(double a, double b) const { return a + b; }
};
struct Min {
  __device__ double operator()(double a, double b) const { return b < a ? b : a; }
};
struct Max {
  __device__ double operator()(double a, double b) const { return b > a ? b : a; }
};

template <class Op>
__device__ __noinline__ double block_reduce(BlockShared& shared, double value, Op op) {
  value = group_reduce(value, op);
  __syncthreads();  // the last result may still be being read
  if (threadIdx.x % 32 == 0) shared.reduced[threadIdx.x / 32] = value;
  __syncthreads();
  // By every warp; of one lane, because lanes may differ in what they make of NaN.
  static_assert(kGeneralWarps <= 32 && (kGeneralWarps & (kGeneralWarps - 1)) == 0);
  value = group_reduce<kGeneralWarps>(shared.reduced[threadIdx.x % kGeneralWarps], op);
  return __shfl_sync(kWholeWarp, value, 0);
}

// Reduces term(k) over k in [0, count).
template <class Op, class Term>
__device__ double block_over(BlockShared& shared, int64_t count, double start, Op op, Term term) {
  double value = start;
  for (int64_t k = threadIdx.x; k < count; k += kGeneralThreads) value = op(value, term(k));
  return block_reduce(shared, value, op);
}

// At least as many as the roundings on any path through block_over with Sum.
__device__ inline int64_t block_adds(int64_t count) {
  return count / kGeneralThreads + kGeneralWarps + 8;
}

// The bits of a double >= 0 have its order.
__device__ __forceinline__ unsigned long long key_of(double value) {
  return static_cast<unsigned long long>(__double_as_longlong(value));
}
constexpr unsigned long long kNoKey = ~0ull;

// The k-th smallest (k from 0) of the values whose key is not kNoKey, by radix from the top byte.
template <class Key>
__device__ double block_select(BlockShared& shared, int64_t count, int64_t k, Key key) {
  __syncthreads();
  if (threadIdx.x == 0) shared.prefix = 0, shared.rank = k;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int bin = threadIdx.x; bin < 256; bin += kGeneralThreads) shared.histogram[bin] = 0;
    __syncthreads();
    const unsigned long long prefix = shared.prefix;
    for (int64_t j = threadIdx.x; j < count; j += kGeneralThreads) {
      const unsigned long long value = key(j);
      const bool in = shift == 56 || (value >> (shift + 8)) == (prefix >> (shift + 8));
      if (value != kNoKey && in) atomicAdd(&shared.histogram[(value >> shift) & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int64_t rank = shared.rank;
      unsigned long long bin = 0;
      while (bin < 255 && rank >= shared.histogram[bin]) rank -= shared.histogram[bin++];
      shared.rank = rank;
      shared.prefix = prefix | (bin << shift);
    }
    __syncthreads();
  }
  return __longlong_as_double(static_cast<long long>(shared.prefix));
}

}  // namespace pointloss
