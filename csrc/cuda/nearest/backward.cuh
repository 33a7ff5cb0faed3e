// SPDX-License-Identifier: MIT
// Gradient of nearest: each row a_i with neighbour b_j adds its term to a_i and takes it from b_j.
//
// Map: one thread = one row of one direction; blockIdx.y = direction. The own term is a gather and
// needs no atomics; the neighbours' terms meet, and are added in one of three ways:
//   any order      kStore writes the own terms, kAdd adds the neighbours' by atomics; gather.cuh
//                  does both in many small clouds.
//   wide           in large clouds of float32 a point may be nearest to so many that a float sum
//                  loses digits: kAddWide adds in float64, kFinishWide stores own + sum.
//   deterministic  integers add to the same bits in every order. kBound finds the largest term that
//                  arrives at each coordinate of each target (atomic maximum), kAddFixed adds every
//                  term as an integer multiple of a power of two that this maximum fixes (one word
//                  for float32, two for float64: 40 and 80 bits below the largest term for up to 2
//                  million rows, where float sums keep 24 and 53), kFinishFixed stores own + sum.
// Cost: O(B (N + M) D) memory traffic, 2 or 3 launches.
#pragma once

#include <cstdint>

#include "../../common/reduction.h"
#include "../shared/launch.cuh"
#include "../shared/warp.cuh"

namespace pointloss {

constexpr int kBackwardThreads = 256;

// One direction: rows a [B, N, D] with neighbours idx [B, N] in b [B, M, D].
template <class T>
struct BackwardDirection {
  DistanceGradient gradient;
  const int64_t* idx;  // [B, N]
  const T* a;
  const T* b;
  T* grad_a;  // null, like grad_b, where nobody needs it
  T* grad_b;
  int64_t N, M;
  double* wide;  // wide only, zeroed: [B, M, D] what arrives at each row of b
  // Deterministic only, zeroed: what arrives at each row of b.
  unsigned long long* bound;  // [B, M, D] bits of the largest |term| as a double
  unsigned long long* sum;    // [B, M, D, kWords]
};

template <class T>
struct BackwardParams {
  BackwardDirection<T> direction[2];
  int64_t B, D;
  int bits;  // of a term below its target's largest, per word
};

enum class BackwardPass { kStore, kAdd, kAddWide, kFinishWide, kBound, kAddFixed, kFinishFixed };

// Whether a pass writes the gradient of a row itself, not what its neighbour gets.
template <BackwardPass kPass>
constexpr bool kWritesOwn = kPass == BackwardPass::kStore || kPass == BackwardPass::kFinishWide ||
                            kPass == BackwardPass::kFinishFixed;

// Rows of a cloud above which float32 is summed wide. A float sum of as many terms of one sign is
// off by about 2e-6 at worst; H200: 1 x 131072 points take 4 % longer so, 8 x 16384 would 10 %.
constexpr int64_t kManyRows = 65536;

template <class T>
constexpr int kWords = sizeof(T) / 4;

// A term takes bits + 1 bits and a sum of `rows` of them must stay below 2^62.
inline int fixed_point_bits(int64_t rows) {
  int bits = 40;
  while (bits > 1 && rows > int64_t{1} << (61 - bits)) --bits;
  return bits;
}

constexpr unsigned long long kInfinityBits = 0x7ff0000000000000ull;
// A sum of terms that are not finite keeps which ones it saw in its first word.
constexpr unsigned long long kSawNaN = 1, kSawPlus = 2, kSawMinus = 4;

// Ordered like |term|, with infinity and then NaN above all numbers.
template <class T>
__device__ unsigned long long magnitude_bits(T term) {
  return __double_as_longlong(fabs(static_cast<double>(term)));
}

template <class T>
__device__ void add_fixed(unsigned long long* sum, unsigned long long bound, T term, int bits) {
  if (bound >= kInfinityBits) {
    if (!isfinite(term)) {
      atomicOr(sum, isnan(term) ? kSawNaN : term > 0 ? kSawPlus : kSawMinus);
    }
    return;
  }
  double scaled = scalbn(static_cast<double>(term), bits - ilogb(__longlong_as_double(bound)));
  for (int w = 0; w < kWords<T>; ++w) {
    const double whole = rint(scaled);
    atomicAdd(sum + w, static_cast<unsigned long long>(static_cast<long long>(whole)));
    scaled = scalbn(scaled - whole, bits);
  }
}

template <class T>
__device__ double fixed_value(const unsigned long long* sum, unsigned long long bound, int bits) {
  if (bound == 0) return 0;
  if (bound >= kInfinityBits) {
    const bool both = (*sum & kSawPlus) && (*sum & kSawMinus);
    const double infinity = __longlong_as_double(kInfinityBits);
    if ((*sum & kSawNaN) || both) return infinity - infinity;
    return *sum & kSawPlus ? infinity : *sum & kSawMinus ? -infinity : 0;
  }
  const int exponent = ilogb(__longlong_as_double(bound));
  double value = 0;
  for (int w = kWords<T> - 1; w >= 0; --w) {
    value += scalbn(static_cast<double>(static_cast<long long>(sum[w])), exponent - (w + 1) * bits);
  }
  return value;
}

// Adds `term` to *sum; once per warp where all its lanes have one target.
__device__ inline void add_wide(double* sum, double term) {
  if (__activemask() == kWholeWarp) {
    const auto target = reinterpret_cast<unsigned long long>(sum);
    if (__all_sync(kWholeWarp, target == __shfl_sync(kWholeWarp, target, 0))) {
      term = warp_sum(term);
      if (threadIdx.x % 32 != 0) return;
    }
  }
  atomicAdd(sum, term);
}

// Row i of cloud b of direction d; its counterpart `back` brings the terms that arrive at rows of
// a.
template <int kNorm, BackwardPass kPass, int kDim, class T>
__device__ void backward_row(const BackwardDirection<T>& d, const BackwardDirection<T>& back,
                             int64_t b, int64_t i, int64_t dim, int bits) {
  constexpr bool kOwn = kWritesOwn<kPass>;
  const int64_t dims = kDim > 0 ? kDim : dim, r = b * d.N + i;
  const int64_t j = d.gradient.grad == nullptr ? -1 : d.idx[r];
  const Neighbour neighbour(j, d.M);
  if (!kOwn && !neighbour.found) return;
  const int64_t target = b * d.M + (neighbour.found ? j : 0);
  const T grad = neighbour.found ? d.gradient.template at<kNorm, kDim>(b, i, d.a + r * dims,
                                                                       d.b + target * dims, dim)
                                 : T(0);
  const auto term_of = [&](int64_t k) -> T {
    if (kOwn && !neighbour.found) return neighbour.template otherwise<T>();
    return grad * distance_slope<kNorm>(d.a[r * dims + k] - d.b[target * dims + k]);
  };
#pragma unroll
  for (int64_t k = 0; k < dims; ++k) {
    const int64_t own = r * dims + k, other = target * dims + k;
    const T term = term_of(k);
    if (kPass == BackwardPass::kStore) {
      d.grad_a[own] = term;
    } else if (kPass == BackwardPass::kAdd) {
      wait_for_previous_kernel();
      atomicAdd(d.grad_b + other, -term);
    } else if (kPass == BackwardPass::kAddWide) {
      add_wide(d.wide + other, -static_cast<double>(term));
    } else if (kPass == BackwardPass::kFinishWide) {
      wait_for_previous_kernel();
      d.grad_a[own] = static_cast<T>(static_cast<double>(term) + back.wide[own]);
    } else if (kPass == BackwardPass::kBound) {
      if (term != 0) atomicMax(d.bound + other, magnitude_bits(term));
    } else if (kPass == BackwardPass::kAddFixed) {
      add_fixed(d.sum + other * kWords<T>, d.bound[other], -term, bits);
    } else {
      const double sum = fixed_value<T>(back.sum + own * kWords<T>, back.bound[own], bits);
      d.grad_a[own] = static_cast<T>(static_cast<double>(term) + sum);
    }
  }
}

template <int kNorm, BackwardPass kPass, int kDim, class T>
__global__ void __launch_bounds__(kBackwardThreads)
    nearest_backward_kernel(const BackwardParams<T> p) {
  constexpr bool kFirst = kPass == BackwardPass::kStore || kPass == BackwardPass::kAddWide;
  constexpr bool kSecond = kPass == BackwardPass::kAdd || kPass == BackwardPass::kFinishWide;
  if (kPass == BackwardPass::kStore) wait_for_previous_kernel();
  if (kFirst) let_next_kernel_start();
  const BackwardDirection<T>& d = p.direction[blockIdx.y];
  constexpr bool kOwn = kWritesOwn<kPass>;
  const bool needed = (kOwn ? d.grad_a : d.grad_b) != nullptr;
  const int64_t chunks = (d.N + kBackwardThreads - 1) / kBackwardThreads;
  for (int64_t task = blockIdx.x; needed && task < p.B * chunks; task += gridDim.x) {
    const int64_t b = task / chunks;  // once a block: a 64-bit division costs as much as the row
    const int64_t i = (task - b * chunks) * kBackwardThreads + threadIdx.x;
    if (i >= d.N) continue;
    backward_row<kNorm, kPass, kDim>(d, p.direction[1 - blockIdx.y], b, i, p.D, p.bits);
  }
  // Also where no row did: what runs after this kernel relies on the first one being done.
  if (kSecond) wait_for_previous_kernel();
}

}  // namespace pointloss
