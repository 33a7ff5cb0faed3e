// SPDX-License-Identifier: MIT
// The matching of clouds of equal size on a line, or close to one: see common/assign_line.h. It
// keeps such clouds, whose price wars are long, from the auctions.
//
// Map: one block matches: a thread takes points k, k + kGeneralThreads, ...; of the prices, points
// next to each other. Many blocks certify: a warp takes a bidder.
// Cost: three passes over the points of other clouds; else two bitonic sorts in global memory and
// the certificate, a scan of all pairs. Points closer than the low bits of a key can tell are
// ordered by number, which costs the certificate and never the result.
#pragma once

#include "../../../common/assign_line.h"
#include "certificate.cuh"

namespace pointloss {

struct LineMatching {
  const PairArrays& c;
  BlockShared& shared;
  int number_bits = 1;  // of the low bits of what the sorts order, which number the points

  __device__ LineMatching(const PairArrays& c, BlockShared& shared) : c(c), shared(shared) {
    while (int64_t{1} << number_bits < c.K) ++number_bits;
  }
  __device__ int number_of(unsigned long long key) const {
    return static_cast<int>(key & ((1ull << number_bits) - 1));
  }
  __device__ unsigned long long* bidders() const {
    return reinterpret_cast<unsigned long long*>(c.bid);
  }
  __device__ unsigned long long* objects() const { return c.key; }

  // Point k of both clouds, the bidders first; all of `count` have their coordinates c.K apart.
  __device__ const double* point(int64_t k) const {
    return k < c.K ? c.bidder + k : c.object + (k - c.K);
  }

  // The line through the first bidder and the point that is farthest from it.
  __device__ AssignLine find() const {
    const auto far = [&](int64_t k) {
      return assign_cost(c.bidder, c.K, point(k), c.K, c.dim, true);
    };
    const double farthest = block_over(shared, 2 * c.K, 0.0, Max(), far);
    const auto first = static_cast<int64_t>(block_over(
        shared, 2 * c.K, static_cast<double>(2 * c.K - 1), Min(),
        [&](int64_t k) { return far(k) == farthest ? static_cast<double>(k) : INFINITY; }));
    return {c.bidder, c.K, point(first), c.K, c.dim};
  }

  __device__ bool all_near(const AssignLine& line) const {
    for (int64_t k0 = 0; k0 < 2 * c.K; k0 += kGeneralThreads) {
      const int64_t k = k0 + threadIdx.x;
      if (__syncthreads_count(k < 2 * c.K && !line.is_near(point(k), c.K)) > 0) return false;
    }
    return true;
  }

  // Ascending, by Batcher's bitonic network in the form whose comparators all point upwards: those
  // that reach beyond the last key have nothing to do.
  __device__ __noinline__ void sort(unsigned long long* keys) const {
    const int64_t count = c.K;
    for (int64_t run = 2; run < 2 * count; run *= 2) {
      for (int64_t flip = run - 1, step = run / 2; step > 0; step /= 2, flip = step) {
        __syncthreads();
        for (int64_t q = threadIdx.x; q < run * ((count + run - 1) / run) / 2;
             q += kGeneralThreads) {
          const int64_t a = 2 * q - (q & (step - 1)), b = a ^ flip;
          if (b >= count) continue;
          const auto u = keys[a], v = keys[b];
          if (u > v) keys[a] = v, keys[b] = u;
        }
      }
    }
    __syncthreads();
  }

  // The points of one cloud in order; `least`: of all positions. The bits of a double >= 0 have its
  // order.
  __device__ void order(const AssignLine& line, double least, const double* points,
                        unsigned long long* keys) const {
    for (int64_t k = threadIdx.x; k < c.K; k += kGeneralThreads) {
      const auto at = key_of(line.along(points + k, c.K) - least);
      keys[k] = at >> number_bits << number_bits | static_cast<unsigned long long>(k);
    }
    sort(keys);
  }

  // Sums of step(k) over the k before, into use(k, sum), for k in [0, c.K); each thread's share is
  // a stretch of them.
  template <class Step, class Use>
  __device__ void sums_before(Step step, Use use) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t share = (c.K + kGeneralThreads - 1) / kGeneralThreads;
    const int64_t begin = threadIdx.x * share, end = min(begin + share, c.K);
    double own = 0.0;
    for (int64_t k = begin; k < end; ++k) own += step(k);
    const double upto = warp_inclusive_sum(own);
    __syncthreads();
    if (lane == 31) shared.reduced[warp] = upto;
    __syncthreads();
    double sum = upto - own;
    for (int w = 0; w < warp; ++w) sum += shared.reduced[w];
    for (int64_t k = begin; k < end; ++k) {
      use(k, sum);
      sum += step(k);
    }
    __syncthreads();
  }

  // Pairs the points in order and sets the prices, of which the least is 0; false if that cannot be
  // within the tolerance.
  __device__ bool match(const AssignLine& line, AssignTolerance tolerance) const {
    const double least = block_over(shared, 2 * c.K, 0.0, Min(),
                                    [&](int64_t k) { return line.along(point(k), c.K); });
    order(line, least, c.bidder, bidders());
    order(line, least, c.object, objects());
    const auto bidder = [&](int64_t k) { return c.bidder + number_of(bidders()[k]); };
    const auto object = [&](int64_t k) { return c.object + number_of(objects()[k]); };
    const auto cost = [&](int64_t k) {
      return assign_cost(bidder(k), c.K, object(k), c.K, c.dim, c.squared);
    };
    const auto along = [&](int64_t k) {
      return assign_line_cost(line.along(bidder(k), c.K), line.along(object(k), c.K), c.squared);
    };
    const auto excess = [&](int64_t k) { return cost(k) - along(k); };
    const auto fits = [&](int64_t k) {
      return assign_line_fits(cost(k), along(k), tolerance) ? 1.0 : 0.0;
    };
    const double primal = block_over(shared, c.K, 0.0, Sum(), cost);
    const double mean = primal / static_cast<double>(c.K);
    const double most = fmax(tolerance.relative(mean), kAssignLineExcess) * primal;
    if (block_over(shared, c.K, 0.0, Sum(), excess) > most) return false;
    if (2.0 * block_over(shared, c.K, 0.0, Sum(), fits) < static_cast<double>(c.K)) return false;
    const auto step = [&](int64_t k) {
      if (k + 1 == c.K) return 0.0;
      return assign_line_step(line.along(bidder(k), c.K), line.along(object(k), c.K),
                              line.along(bidder(k + 1), c.K), line.along(object(k + 1), c.K),
                              c.squared);
    };
    sums_before(step, [&](int64_t k, double price) {
      const int i = number_of(bidders()[k]), j = number_of(objects()[k]);
      c.price[j] = price;
      c.partner[i] = j;
      c.owner[j] = i;
    });
    const double lowest =
        block_over(shared, c.K, INFINITY, Min(), [&](int64_t j) { return c.price[j]; });
    for (int64_t j = threadIdx.x; j < c.K; j += kGeneralThreads) c.price[j] -= lowest;
    __syncthreads();
    return true;
  }

  // Whether the clouds are on a line, or so close to it that their matching in order may be within
  // the tolerance; it is left with the pair.
  __device__ bool run(AssignTolerance tolerance) const {
    if (c.K != c.L || c.dim == 0) return false;
    const AssignLine line = find();
    if (!(line.length > 0.0) || !all_near(line) || !match(line, tolerance)) return false;
    Certificate{c, shared}.normalise();
    return true;
  }
};

// Part `part` of `parts` of the certificate of a matching in order, by a block each. The block that
// ends last decides whether it is within the tolerance, and leaves it with row minima as an integer
// solver does.
__device__ inline void certify_line(const PairArrays& c, BlockShared& shared,
                                    AssignTolerance tolerance, int part, int parts) {
  Certificate certificate{c, shared};
  certificate.find_rows(part * kGeneralWarps, parts * kGeneralWarps);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) shared.count[0] = atomicAdd(&c.head->ended, 1);
  __syncthreads();
  if (shared.count[0] != parts - 1) return;
  __threadfence();
  const double gap = certificate.gap_of_rows();
  if (threadIdx.x != 0) return;
  c.head->solved = gap <= fmax(tolerance.relative(certificate.mean_size), certificate.exact);
}

}  // namespace pointloss
