// SPDX-License-Identifier: MIT
// Gradient of nearest: each row a_i with neighbour b_j adds its term to a_i and takes it from b_j.
//
// Map: one thread = one row of one direction; blockIdx.y = direction. The own term is a gather and
// needs no atomics; the neighbours' terms meet, and are added in one of two ways:
//   any order      kStore writes the own terms, kAdd adds the neighbours' by float atomics. In
//   large
//                  clouds of float32 a point may be nearest to so many that plain sums lose digits:
//                  kAddMany gathers the terms of a warp's commonest target first, and what a sum's
//                  rounding loses is kept beside it and brought back (add_kept).
//   deterministic  integers add to the same bits in every order. kBound finds the largest term that
//                  arrives at each coordinate of each target (atomic maximum), kAddFixed adds every
//                  term as an integer multiple of a power of two that this maximum fixes (one word
//                  for float32, two for float64: 40 and 80 bits below the largest term for up to 2
//                  million rows, where float sums keep 24 and 53), kFinishFixed stores own + sum.
// Cost: O(B (N + M) D) memory traffic, 2 or 3 launches. kAddMany writes one more float a coordinate
// and waits for the result of an atomic.
#pragma once

#include <cstdint>

#include "../../common/reduction.h"
#include "../launch.cuh"

namespace pointloss {

constexpr int kBackwardThreads = 256;

// One direction: rows a [B, N, D] with neighbours idx [B, N] in b [B, M, D].
template <class T>
struct BackwardDirection {
  DistanceGradient gradient;
  const int64_t* idx;  // [B, N]
  const T* a;
  const T* b;
  T* grad_a;
  T* grad_b;
  int64_t N, M;
  T* lost_a;  // kAddMany only: what rounding left out of grad_a and grad_b
  T* lost_b;
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

enum class BackwardPass { kStore, kAdd, kAddMany, kBound, kAddFixed, kFinishFixed };

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

// Rows of a cloud from which on kAddMany is taken: with fewer, float sums keep six digits even if
// all have one neighbour.
constexpr int64_t kManyRows = 8192;
// A sum this many times its next term has had many; before that, what rounding loses is less than
// the rounding of the result.
constexpr float kManyTimes = 32;
// Lanes with one target that are worth gathering.
constexpr int kManyLanes = 8;

// Second half of adding a term to *sum, which was `old`. An atomic addition rounds as any other, so
// its error is known exactly (fast two-sum: Dekker 1971; compensated: Neumaier 1974). Errors add up
// in *lost and join the sum as soon as they change it, so *sum needs no last pass: it ends within a
// unit in the last place of what float64 would give, whatever the number of terms.
__device__ inline void keep_lost(float* sum, float* lost, float old, float term) {
  // False for NaN. The loop ends with an error too small to change the sum.
  while (fabsf(old) >= kManyTimes * fabsf(term)) {
    const float now = old + term, error = term - (now - old);
    if (error == 0 || !isfinite(error)) return;
    const float left = atomicAdd(lost, error) + error;
    if (now + left == now) return;
    term = atomicExch(lost, 0.f);
    if (term == 0) return;
    old = atomicAdd(sum, term);
  }
}

// Adds the terms of a warp's rows to those of their targets.
template <int kTerms>
__device__ void add_kept(float* grad, float* lost, const float (&term)[kTerms], int64_t target,
                         int64_t stride) {
  const unsigned active = __activemask();
  const int leader = __ffs(active) - 1;
  const unsigned alike = __ballot_sync(active, target == __shfl_sync(active, target, leader));
  const int lane = threadIdx.x % 32;
  const bool together = __popc(alike) >= kManyLanes;
  const bool gathered = together && (alike >> lane & 1);
  float sum[kTerms], old[kTerms];
#pragma unroll
  for (int k = 0; k < kTerms; ++k) sum[k] = term[k];
  if (together) {  // the same for all of these lanes
#pragma unroll
    for (int k = 0; k < kTerms; ++k) {
      double total = 0;
      for (unsigned rest = alike; rest != 0; rest &= rest - 1) {
        total += __shfl_sync(active, term[k], __ffs(rest) - 1);
      }
      if (lane == leader) sum[k] = static_cast<float>(total);
    }
  }
  if (gathered && lane != leader) return;
#pragma unroll
  for (int k = 0; k < kTerms; ++k) old[k] = atomicAdd(grad + target * stride + k, sum[k]);
#pragma unroll
  for (int k = 0; k < kTerms; ++k) {
    const int64_t at = target * stride + k;
    keep_lost(grad + at, lost + at, old[k], sum[k]);
  }
}

// Row i of cloud b of direction d; its counterpart `back` brings the terms that arrive at rows of
// a.
template <int kNorm, BackwardPass kPass, int kDim, class T>
__device__ void backward_row(const BackwardDirection<T>& d, const BackwardDirection<T>& back,
                             int64_t b, int64_t i, int64_t dim, int bits) {
  constexpr bool kOwn = kPass == BackwardPass::kStore || kPass == BackwardPass::kFinishFixed;
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
  if constexpr (kPass == BackwardPass::kAddMany) {
    constexpr int kTerms = kDim > 0 ? kDim : 1;
    for (int64_t first = 0; first < dims; first += kTerms) {
      T term[kTerms];
#pragma unroll
      for (int k = 0; k < kTerms; ++k) term[k] = -term_of(first + k);
      wait_for_previous_kernel();
      add_kept(d.grad_b + first, d.lost_b + first, term, target, dims);
    }
    return;
  }
#pragma unroll
  for (int64_t k = 0; k < dims; ++k) {
    const int64_t own = r * dims + k, other = target * dims + k;
    const T term = term_of(k);
    if (kPass == BackwardPass::kStore) {
      d.grad_a[own] = term;
      if (d.lost_a != nullptr) d.lost_a[own] = 0;
    } else if (kPass == BackwardPass::kAdd) {
      wait_for_previous_kernel();
      atomicAdd(d.grad_b + other, -term);
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
  if (kPass == BackwardPass::kStore) let_next_kernel_start();
  const BackwardDirection<T>& d = p.direction[blockIdx.y];
  const int64_t chunks = (d.N + kBackwardThreads - 1) / kBackwardThreads;
  for (int64_t task = blockIdx.x; task < p.B * chunks; task += gridDim.x) {
    const int64_t b = task / chunks;  // once a block: a 64-bit division costs as much as the row
    const int64_t i = (task - b * chunks) * kBackwardThreads + threadIdx.x;
    if (i >= d.N) continue;
    backward_row<kNorm, kPass, kDim>(d, p.direction[1 - blockIdx.y], b, i, p.D, p.bits);
  }
  // Also where no row added anything: what runs after this kernel relies on kStore being done.
  if (kPass == BackwardPass::kAdd || kPass == BackwardPass::kAddMany) wait_for_previous_kernel();
}

}  // namespace pointloss
