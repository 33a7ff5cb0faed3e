// SPDX-License-Identifier: MIT
// Row minima in float64 for the certificate, by the blocks that solved the cloud in integers.
//
// An integer cost errs by less than 128 units: up to 2^28 of them come from floats with five
// roundings, and double input adds its own rounding to float. So what is least in float64 is, in
// integers, within 256 units of the least. The scan of the integer solver finds all of those, and
// only they are worked out in float64, from the coordinates as they were given. What the solver's
// arithmetic or caches would be wrong about otherwise does not matter: prices are as they are.
#pragma once

#include "../common/assign.h"
#include "assign_load.cuh"

namespace pointloss {

constexpr int kCostError = 128;  // of an integer cost, in units

template <class Id, bool kSquared>
struct RowMinima {
  using Scan = Scanner<Id, kSquared>;
  static constexpr int kNone = Scan::kNone;

  const SolverState<Id>& s;
  const SolverInput& in;
  const int* order;  // [N] object at position j of the curve
  int least;         // price

  __device__ __forceinline__ double value(int i, int j) const {
    const double cost =
        assign_cost(in.bidder_exact + i, in.K, in.object_exact + order[j], in.N, in.dim, kSquared);
    return cost + (price_of(s.object[j]) - least) * (1.0 / (1 << kCostBits));
  }

  // min_j (c_ij + p_j) of bidder i, by a warp.
  __device__ __forceinline__ double of(int i) const {
    const int lane = threadIdx.x % 32;
    const float4 p = s.bidder[i];
    const int limit = Scan::best_two(s, i, 2 * kCostError).best + 2 * kCostError;
    if (load_fresh(s.bound + i) <= limit) Scan::full(s, i, p, limit + 1);
    double minimum = INFINITY;
    if (load_fresh(s.bound + i) > limit) {
      const Pair<Id> pair = load_fresh(s.cache + static_cast<int64_t>(i) * 32 + lane);
      if (pair.a != kNone) minimum = value(i, pair.a);
      if (pair.b != kNone) minimum = fmin(minimum, value(i, pair.b));
    } else {  // a lane holds more than two of them
      for (int j = lane; j < s.N; j += 32) {
        if (Scan::value(s.object[j], p) <= limit) minimum = fmin(minimum, value(i, j));
      }
    }
    for (int offset = 16; offset > 0; offset /= 2) {
      minimum = fmin(minimum, __shfl_xor_sync(kWholeWarp, minimum, offset));
    }
    return minimum;
  }

  // Of the K bidders, shared out among the warps of the team.
  __device__ __forceinline__ void run(double* minimum) const {
    const int first = s.team.rank * kSolverWarps + static_cast<int>(threadIdx.x) / 32;
    for (int i = first; i < in.K; i += s.team.size * kSolverWarps) {
      const double value = of(i);
      if (threadIdx.x % 32 == 0) minimum[i] = value;
    }
  }
};

}  // namespace pointloss
