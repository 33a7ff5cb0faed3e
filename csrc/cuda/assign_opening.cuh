// SPDX-License-Identifier: MIT
// Where the integer assignment solver begins (see assign_solver.cuh): prices and first eps.
//
// Cold: a cloud that is small beside its distance from the objects, as a prediction early in a
// training is, wants much the same prices as a bidder in its centre, to whom all objects shall be
// equally good: the higher, the nearer they are. They are taken if they give the better lower
// bound, and leave to the auction what the extent of the cloud makes.
// Warm: what the prices are off shows from the other side. An object whose price is right is the
// best of some bidder; one that is too dear by d is missed by every bidder by d at least. Of the
// matching that came with the prices, what is within the first eps of a bidder's best stays. If
// that is all of it and the gap is met, nothing is left to do: 32 x 2048 points of a blob that go a
// tenth of the way to their partners, at 0.1 %, are done in 0.5 ms instead of 2.5.
#pragma once

#include "assign_load.cuh"

namespace pointloss {

// A cold start begins at this many times the mean nearest cost, or at fewer if the clouds are so
// alike or so far apart that prices need not rise much beyond it (see unevenness()).
constexpr double kOpeningEps = 4.0;
constexpr double kNearEps = 0.5;
// Two samples of one shape (surfaces: 1.6 to 1.7, a standard deviation of 1.7 sqrt(64 / N)); noisy
// copies have 0.3 to 0.6, a cloud that bids for a few objects hundreds.
constexpr double kTwoSamples = 1.7, kFarCloud = 16.0;
// After prices of the centre: this part of what they may be off.
constexpr double kCentreEps = 0.05;
// Objects from which misses() are estimated.
constexpr int kColumns = 128;

// Prices of the centre. bidder(i) gives coordinates, as object[j] does.
template <bool kSquared, class Bidder>
struct Centre {
  SolverShared& h;
  const float4* object;  // [N]
  int K, N;
  Bidder bidder;

  __device__ __forceinline__ static int cost(const float4& a, const float4& b) {
    return cost_of<kSquared>(a.x - b.x, a.y - b.y, a.z - b.z);
  }

  // Mean of the bidders. Every block sums in the same order.
  __device__ __forceinline__ float4 mean() const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    auto* part = reinterpret_cast<float*>(h.found);  // [3, kSolverWarps]
    float sum[3] = {0.0f, 0.0f, 0.0f};
    for (int i = threadIdx.x; i < K; i += kSolverThreads) {
      const float4 p = bidder(i);
      sum[0] += p.x, sum[1] += p.y, sum[2] += p.z;
    }
    __syncthreads();
    for (int d = 0; d < 3; ++d) {
      sum[d] = warp_sum(sum[d]);
      if (lane == 0) part[d * kSolverWarps + warp] = sum[d];
    }
    __syncthreads();
    for (int d = 0; d < 3; ++d) {
      sum[d] = part[d * kSolverWarps];
      for (int w = 1; w < kSolverWarps; ++w) sum[d] += part[d * kSolverWarps + w];
      sum[d] /= static_cast<float>(K);
    }
    return make_float4(sum[0], sum[1], sum[2], 0.0f);
  }

  // Mean of cost_at(k) over k in [0, count).
  template <class Cost>
  __device__ __forceinline__ double mean_cost(int count, Cost cost_at) const {
    __syncthreads();
    if (threadIdx.x == 0) h.cost_sum = 0;
    __syncthreads();
    unsigned long long costs = 0;
    for (int k = threadIdx.x; k < count; k += kSolverThreads) costs += cost_at(k);
    costs = warp_sum(costs);
    if (threadIdx.x % 32 == 0) atomicAdd(&h.cost_sum, costs);
    __syncthreads();
    return static_cast<double>(h.cost_sum) / count;
  }

  // Mean nearest cost of a few bidders, one a warp.
  __device__ __forceinline__ double sampled_nearest() const {
    const int64_t warp = threadIdx.x / 32;
    const float4 p = bidder(static_cast<int>((2 * warp + 1) * K / (2 * kSolverWarps)));
    int nearest = INT_MAX;
    for (int j = threadIdx.x % 32; j < N; j += 32) nearest = min(nearest, cost(object[j], p));
    nearest = warp_min(nearest);
    return mean_cost(kSolverThreads, [&](int) { return nearest; });
  }

  // The K-th smallest cost of an object for `at`, bit by bit.
  __device__ __forceinline__ int level(const float4& at) const {
    int level = 0;
    for (int bit = kCostBits + 2; bit >= 0; --bit) {
      const int tried = level + (1 << bit) - 1;
      int within = 0;
      for (int j0 = 0; j0 < N; j0 += kSolverThreads) {
        const int j = j0 + static_cast<int>(threadIdx.x);
        within += __syncthreads_count(j < N && cost(object[min(j, N - 1)], at) <= tried);
      }
      if (within < K) level += 1 << bit;
    }
    return level;
  }

  // Calls set(j, price) for every object, if prices of the centre promise a better bound than none
  // do. Returns by how much they may be off in the mean, or a negative number.
  template <class Set>
  __device__ __forceinline__ double prices(Set set) const {
    const float4 at = mean();
    const int most = level(at);
    const auto price = [&](int j) { return max(0, most - cost(object[j], at)); };
    const double far = most - mean_cost(N, price) * N / K;  // lower bound if all were there
    const double own = mean_cost(K, [&](int i) { return cost(bidder(i), at); });
    // About how far a bidder's best value is below the centre's at most, in the mean: by the
    // triangle inequality, or, in squares, by that of Cauchy and Schwarz.
    const double extent = kSquared ? 2.0 * sqrt(own * far) : own;
    if (far <= extent || far - extent <= sampled_nearest()) return -1.0;
    for (int j = threadIdx.x; j < N; j += kSolverThreads) set(j, price(j));
    __syncthreads();
    return extent;
  }
};

template <bool kSquared, class Bidder>
__device__ __forceinline__ Centre<kSquared, Bidder> centre_of(SolverShared& h, const float4* object,
                                                              int K, int N, Bidder bidder) {
  return {h, object, K, N, bidder};
}

template <class Id, bool kSquared>
struct Opening {
  using Scan = Scanner<Id, kSquared>;

  const SolverState<Id>& s;
  SolverShared& h;
  const SolverInput& in;
  const int* order;  // [N] object at position j of the curve

  // Sets the prices of the centre, if they serve; see there. Boxes are not refreshed.
  __device__ __forceinline__ double centre_prices() const {
    const auto centre =
        centre_of<kSquared>(h, s.object, in.K, s.N, [&](int i) { return s.bidder[i]; });
    return centre.prices([&](int j, int price) { s.object[j].w = __int_as_float(price); });
  }

  // Takes over the matching that came with warm prices: a point of y goes to the first of x that
  // asks for it, and whatever is no point of y to none. Nobody may have an object yet. Returns
  // whether all K bidders have one now. Uses word[].
  __device__ __forceinline__ bool given_matching() const {
    const int n = in.swapped ? in.N : in.K, m = in.swapped ? in.K : in.N;
    for (int k = threadIdx.x; k < m; k += kSolverThreads) s.word[k] = kNobody;
    __syncthreads();
    for (int k = threadIdx.x; k < n; k += kSolverThreads) {
      const int64_t asked = in.idx_in[k];
      if (asked >= 0 && asked < m) atomicMin(s.word + asked, static_cast<unsigned long long>(k));
    }
    __syncthreads();
    int pairs = 0;
    for (int j0 = 0; j0 < in.N; j0 += kSolverThreads) {
      const int j = j0 + static_cast<int>(threadIdx.x);
      bool paired = false;
      if (j < in.N) {
        const int64_t k = order[j], asked = in.swapped ? in.idx_in[k] : k;
        const bool real = asked >= 0 && asked < m;
        const auto first = real ? static_cast<unsigned>(s.word[asked]) : kNobody;
        paired = in.swapped ? first == k : first != kNobody;
        const auto i = static_cast<int>(in.swapped ? asked : first);
        if (paired) s.owner[j] = static_cast<Id>(i), s.partner[i] = static_cast<Id>(j);
      }
      pairs += __syncthreads_count(paired);
    }
    __syncthreads();
    return pairs == in.K;  // what others own costs nothing
  }

  // How unevenly the best objects lie among the groups, after a first pass: the variance of the
  // bidders for a group, in units of their mean (32 if none is missing). See kTwoSamples.
  __device__ __forceinline__ double unevenness() const {
    const int64_t mean = (int64_t{32} * in.K + s.N / 2) / s.N;
    if (threadIdx.x == 0) h.price_sum = 0;
    __syncthreads();
    for (int g = threadIdx.x; g < s.N / 32; g += kSolverThreads) {
      const auto count = s.team.size > 1 ? load_fresh(s.bids + g) : s.bids[g];
      const long long more = static_cast<long long>(count) - mean;
      atomicAdd(&h.price_sum, static_cast<unsigned long long>(more * more));
    }
    s.team.sync();  // before anyone turns the counts into words (Bids::run)
    const double squares = static_cast<double>(h.price_sum);
    __syncthreads();
    return squares / fmax(static_cast<double>(mean * (s.N / 32)), 1.0);
  }

  // Mean nearest costs to begin at: three standard deviations below two samples is a noisy copy.
  __device__ __forceinline__ double nearest_costs() const {
    const double uneven = unevenness(), groups = s.N / 32;
    const bool alike = groups > 0.0 && uneven < kTwoSamples * (1.0 - 3.0 * sqrt(2.0 / groups));
    return alike || uneven > kFarCloud ? kNearEps : kOpeningEps;
  }

  // By how much objects miss being the best of a bidder, in a sample; the bidders' best values are
  // in reach[].
  struct Misses {
    double mean, worst;
  };
  __device__ __forceinline__ Misses misses() const {
    if (threadIdx.x == 0) h.price_sum = 0, h.worst = 0;
    __syncthreads();
    for (int k = threadIdx.x / 32; k < kColumns; k += kSolverWarps) {
      const float4 o = s.object[(2 * k + 1) * int64_t{s.N} / (2 * kColumns)];
      int least = INT_MAX;
      for (int i = threadIdx.x % 32; i < s.N; i += 32) {
        least = min(least, Scan::value(o, s.bidder[i]) - s.reach[i]);
      }
      least = max(warp_min(least), 0);
      if (threadIdx.x % 32 == 0) {
        atomicAdd(&h.price_sum, static_cast<unsigned long long>(least));
        atomicMax(&h.worst, least);
      }
    }
    __syncthreads();
    const Misses found{static_cast<double>(h.price_sum) / kColumns, static_cast<double>(h.worst)};
    __syncthreads();  // before anyone writes the next sums
    return found;
  }
};

}  // namespace pointloss
