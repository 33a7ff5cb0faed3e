// SPDX-License-Identifier: MIT
// Values c_ij + p_j of a bidder of the general assignment solver, in float or in double.
//
// On an NVIDIA H200 double arithmetic has half the rate of float, on consumer GPUs 1/64: so scans
// are in float while eps is coarse enough for it.
#pragma once

#include <cmath>

#include "../workspace.cuh"

namespace pointloss {

template <typename S>
struct ScanArrays;
template <>
struct ScanArrays<float> {
  const float *bidder, *object, *price;
  __device__ explicit ScanArrays(const PairArrays& c)
      : bidder(c.bidder_f), object(c.object_f), price(c.price_f) {}
  // Errs by up to two units (2^-23), the sum under the root by (dim + 2) / 2, price and addition by
  // two more: within the dim + 6 that row_minimum allows for.
  __device__ static float root(float a) { return approximate_root(a); }
};
template <>
struct ScanArrays<double> {
  const double *bidder, *object, *price;
  __device__ explicit ScanArrays(const PairArrays& c)
      : bidder(c.bidder), object(c.object), price(c.price) {}
  __device__ static double root(double a) { return __dsqrt_rn(a); }
};

// Calls use(j, value) for the objects first, first + step, ... of bidder i, with prices of at least
// `level`. kDim = 0: any.
template <typename S, int kDim, class Use>
__device__ __forceinline__ void scan_values(const PairArrays& c, S level, int64_t i, int64_t first,
                                            int64_t step, Use use) {
  const ScanArrays<S> a(c);
  const int64_t K = c.K, L = c.L, dim = kDim > 0 ? kDim : c.dim;
  const bool squared = c.squared;
  S own[kDim > 0 ? kDim : 1];
  for (int d = 0; d < kDim; ++d) own[d] = a.bidder[d * K + i];
#pragma unroll(kDim > 0 ? 4 : 1)
  for (int64_t j = first; j < L; j += step) {
    S sum = 0;
#pragma unroll(kDim > 0 ? kDim : 1)
    for (int64_t d = 0; d < dim; ++d) {
      const S t = (kDim > 0 ? own[kDim > 0 ? d : 0] : a.bidder[d * K + i]) - a.object[d * L + j];
      sum = fma(t, t, sum);
    }
    const S p = a.price[j];
    use(j, (squared ? sum : ScanArrays<S>::root(sum)) + (p > level ? p : level));
  }
}

template <typename S, class Use>
__device__ __forceinline__ void scan(const PairArrays& c, S level, int64_t i, int64_t first,
                                     int64_t step, Use use) {
  if (c.dim == 3) return scan_values<S, 3>(c, level, i, first, step, use);
  if (c.dim == 2) return scan_values<S, 2>(c, level, i, first, step, use);
  scan_values<S, 0>(c, level, i, first, step, use);
}

}  // namespace pointloss
