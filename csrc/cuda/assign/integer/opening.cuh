// SPDX-License-Identifier: MIT
// Where an integer solver begins: prices and first eps.
//
// Cold: a cloud that is small beside its distance from the objects, as a prediction early in a
// training is, needs nearly the prices at which all objects are equally good for a bidder in its
// centre: the nearer an object, the higher its price. They are taken if they give the better lower
// bound; the auction then only corrects what the extent of the cloud makes of them.
// Warm: the error of a price can be read off from its object: if the price is right, some bidder
// prefers the object; if it is d too high, every bidder prefers another by at least d. From the
// matching that came with the prices, the pairs within the first eps of the bidder's best are kept.
#pragma once

#include "scan.cuh"

namespace pointloss {

// Prices at which all objects are equally good for a bidder in the centre.
template <class State>
struct CentrePrices {
  const State& s;
  IntegerShared& h;

  __device__ __forceinline__ int cost(int j, float4 at) const { return s.cost(s.object[j], at); }

  // Mean of the bidders, in the same order by however many blocks.
  __device__ __forceinline__ float4 centre() const {
    const int lane = threadIdx.x % 32, warp = s.warp(), K = s.in->K;
    float sum[3] = {0.0f, 0.0f, 0.0f};
    for (int i = warp < kIntegerWarps ? s.thread() : K; i < K; i += kIntegerThreads) {
      const float4 p = s.bidder_at(i);
      sum[0] += p.x, sum[1] += p.y, sum[2] += p.z;
    }
    s.sync();
    for (int d = 0; d < 3; ++d) {
      sum[d] = warp_sum(sum[d]);
      if (lane == 0 && warp < kIntegerWarps) h.sums[d][warp] = sum[d];
    }
    s.sync();
    for (int d = 0; d < 3; ++d) {
      sum[d] = h.sums[d][0];
      for (int w = 1; w < kIntegerWarps; ++w) sum[d] += h.sums[d][w];
      sum[d] /= static_cast<float>(K);
    }
    return make_float4(sum[0], sum[1], sum[2], 0.0f);
  }

  // Mean of cost_at(k) over k in [0, count).
  template <class Cost>
  __device__ __forceinline__ double mean_cost(int count, Cost cost_at) const {
    s.sync();
    if (s.thread() == 0) h.cost_sum = 0;
    s.sync();
    unsigned long long costs = 0;
    for (int k = s.thread(); k < count; k += s.threads()) costs += cost_at(k);
    costs = warp_sum(costs);
    if (threadIdx.x % 32 == 0) atomicAdd(&h.cost_sum, costs);
    s.sync();
    return static_cast<double>(h.cost_sum) / count;
  }

  // Mean nearest cost of a few bidders, one per warp.
  __device__ __forceinline__ double sampled_nearest() const {
    const int64_t warp = s.warp() % kIntegerWarps;
    const float4 p = s.bidder_at(static_cast<int>((2 * warp + 1) * s.in->K / (2 * kIntegerWarps)));
    int nearest = INT_MAX;
    for (int j = threadIdx.x % 32; j < s.N; j += 32) nearest = min(nearest, cost(j, p));
    nearest = warp_min(nearest);
    return mean_cost(kIntegerThreads, [&](int) { return nearest; });
  }

  // The K-th smallest cost of an object for a bidder `at`, bit by bit.
  __device__ __forceinline__ int cost_of_rank_k(float4 at) const {
    int found = 0;
    for (int bit = kCostBits + 2; bit >= 0; --bit) {
      const int tried = found + (1 << bit) - 1;
      int within = 0;
      for (int j0 = 0; j0 < s.N; j0 += s.threads()) {
        const int j = j0 + s.thread();
        within += s.count(j < s.N && cost(min(j, s.N - 1), at) <= tried);
      }
      if (within < s.in->K) found += 1 << bit;
    }
    return found;
  }

  // Sets the prices, if they promise a better lower bound than none do; boxes are not refreshed.
  // Returns their mean error, or a negative number.
  __device__ __forceinline__ double set() const {
    const float4 at = centre();
    const int most = cost_of_rank_k(at);
    const auto price = [&](int j) { return max(0, most - cost(j, at)); };
    const double far = most - mean_cost(s.N, price) * s.N / s.in->K;  // bound if all were there
    const double own = mean_cost(s.in->K, [&](int i) { return s.cost(at, s.bidder_at(i)); });
    // About how far a bidder's best value is below the centre's at most, in the mean: by the
    // triangle inequality, or, in squares, by that of Cauchy and Schwarz.
    const double extent = s.squared() ? 2.0 * sqrt(own * far) : own;
    if (far <= extent) return -1.0;
    const double nearest = sampled_nearest();
    if (far - extent <= nearest || (nearest == 0.0 && far < kFarAsExtent * extent)) return -1.0;
    for (int j = s.thread(); j < s.N; j += s.threads()) s.set_price(j, price(j));
    s.sync();
    return extent;
  }
};

// The warm start of equal sizes, and its first eps.
template <class Id, Cost kCost, class Blocks>
struct Opening {
  const EqualState<Id, kCost, Blocks>& s;
  IntegerShared& h;

  // Takes over the matching that came with warm prices: a point of y goes to the first of x that
  // claims it; an index that is no point of y is left out. Nobody may have an object yet. Returns
  // whether all K bidders have one now; dummies need none, as theirs costs nothing.
  __device__ __forceinline__ bool take_matching() const {
    const IntegerInput& in = *s.in;
    const int n = in.swapped ? in.N : in.K, m = in.swapped ? in.K : in.N;
    for (int k = s.thread(); k < m; k += s.threads()) s.claim[k] = kNobody;
    s.sync();
    for (int k = s.thread(); k < n; k += s.threads()) {
      const int64_t claimed = in.idx_in[k];
      if (claimed >= 0 && claimed < m) {
        atomicMin(s.claim + claimed, static_cast<unsigned long long>(k));
      }
    }
    s.sync();
    int pairs = 0;
    for (int j0 = 0; j0 < in.N; j0 += s.threads()) {
      const int j = j0 + s.thread();
      bool paired = false;
      if (j < in.N) {
        const int64_t k = s.order[j], claimed = in.swapped ? in.idx_in[k] : k;
        const bool real = claimed >= 0 && claimed < m;
        const auto first = real ? static_cast<unsigned>(s.claim[claimed]) : kNobody;
        paired = in.swapped ? first == k : first != kNobody;
        const auto i = static_cast<int>(in.swapped ? claimed : first);
        if (paired) s.owner[j] = static_cast<Id>(i), s.partner[i] = static_cast<Id>(j);
      }
      pairs += s.count(paired);
    }
    s.sync();
    return pairs == in.K;
  }

  // How unevenly the best objects of a first pass lie among the groups: variance / mean of the
  // bidders per group (32 if none is missing). See kTwoSamples.
  __device__ __forceinline__ double unevenness() const {
    const int64_t mean = (int64_t{32} * s.in->K + s.N / 2) / s.N;
    if (s.thread() == 0) h.price_sum = 0;
    s.sync();
    for (int g = s.thread(); g < s.N / 32; g += s.threads()) {
      const auto count = s.cluster.size > 1 ? load_fresh(s.best_count + g) : s.best_count[g];
      const long long more = static_cast<long long>(count) - mean;
      atomicAdd(&h.price_sum, static_cast<unsigned long long>(more * more));
    }
    s.cluster.sync();  // before anyone turns the counts into bids (EqualAuction::run)
    const double squares = static_cast<double>(h.price_sum);
    s.sync();
    return squares / fmax(static_cast<double>(mean * (s.N / 32)), 1.0);
  }

  // By how much objects miss being the best of a bidder, in a sample, after a first pass.
  struct Misses {
    double mean, worst;
  };
  __device__ __forceinline__ Misses misses() const {
    if (s.thread() == 0) h.price_sum = 0, h.worst = 0;
    s.sync();
    for (int k = s.warp(); k < kSampledObjects; k += s.warps()) {
      const float4 o = s.object[(2 * k + 1) * int64_t{s.N} / (2 * kSampledObjects)];
      int least = s.N > s.in->K ? s.price_of(o) - h.level : INT_MAX;  // of a dummy
      for (int i = threadIdx.x % 32; i < s.in->K; i += 32) {
        least = min(least, s.value(o, s.bidder[i]) - s.best[i]);
      }
      least = max(warp_min(least), 0);
      if (threadIdx.x % 32 == 0) {
        atomicAdd(&h.price_sum, static_cast<unsigned long long>(least));
        atomicMax(&h.worst, least);
      }
    }
    s.sync();
    const Misses found{static_cast<double>(h.price_sum) / kSampledObjects,
                       static_cast<double>(h.worst)};
    s.sync();  // before anyone writes the next sums
    return found;
  }

  // The eps to begin at, after a first pass; `mean`: best value, `wanted`: gap, both per bidder.
  __device__ __forceinline__ double first_eps(bool warm, double mean, double wanted) const {
    const double uneven = unevenness();
    if (warm) {
      const Misses miss = misses();
      const bool fits = uneven < kWarmUneven || miss.worst < kWarmMiss * wanted;
      return fits ? fmin(miss.mean, mean) : mean;
    }
    const double groups = s.N / 32;
    const bool alike = groups > 0.0 && uneven < kTwoSamples * (1.0 - 3.0 * sqrt(2.0 / groups));
    if (alike || uneven > kFarCloud) return mean * kNearEps;
    const double spare = static_cast<double>(s.N - s.in->K) / s.in->K;
    const double most = s.N > kSmallObjects ? kLargeOpeningEps : kOpeningEps;
    return mean * fmin(most, kSpareEps / spare);
  }
};

}  // namespace pointloss
