// SPDX-License-Identifier: MIT
// The certificate of an assignment of one pair of point clouds, or by a matrix of costs, by one
// thread block.
//
// Dual and certified gap: common/assign.h. The gap is computed in float64 from nothing but
// coordinates or costs, prices and partners. Float scans filter which objects can give a row
// minimum.
#pragma once

#include "block.cuh"
#include "scan.cuh"

namespace pointloss {

// The scalars are the same in every thread; only the arrays and `shared` are shared.
struct Certificate {
  PairArrays c;
  BlockShared& shared;
  // With more objects than bidders, L - K identical dummy bidders of cost 0 are represented by one
  // number: the common price of their objects, and a lower bound on all prices.
  double level = 0.0;
  double mean_cost = 0.0;   // of the assignment that was measured last
  double mean_size = 0.0;   // of its costs, |c|: of distances the same
  double mean_above = 0.0;  // of its costs above the bidders' least: of distances the same
  double exact = 0.0;       // the gap of the last certificate that is as good as 0

  __device__ double cost(int64_t i, int64_t j) const {
    if (c.dim == 0) return c.matrix.above(i, j, c.least[i]);
    return assign_cost(c.bidder + i, c.K, c.object + j, c.L, c.dim, c.squared);
  }
  // Of a matrix: whether no bidder is forbidden all objects.
  __device__ bool every_bidder_has_objects() const {
    return block_over(shared, c.K, -INFINITY, Max(), [&](int64_t i) { return c.least[i]; }) <
           INFINITY;
  }
  // Of the present assignment, which is complete.
  __device__ __noinline__ AssignPrimal measure() {
    const auto bidders = static_cast<double>(c.K);
    const double above =
        block_over(shared, c.K, 0.0, Sum(), [&](int64_t i) { return cost(i, c.partner[i]); });
    mean_cost = mean_size = mean_above = above / bidders;
    if (c.dim > 0) return AssignPrimal::of_points(above);
    const auto value = [&](int64_t i) { return c.matrix.scale(c.matrix.given(i, c.partner[i])); };
    const double sum = block_over(shared, c.K, 0.0, Sum(), value);
    const double size =
        block_over(shared, c.K, 0.0, Sum(), [&](int64_t i) { return fabs(value(i)); });
    const AssignPrimal primal = AssignPrimal::of_matrix(above, size);
    mean_cost = sum / bidders, mean_size = primal.size / bidders;
    return primal;
  }
  __device__ double effective(int64_t j) const { return fmax(c.price[j], level); }
  __device__ void set_price(int64_t j, double price) const {
    c.price[j] = price;
    c.price_f[j] = static_cast<float>(price);
  }

  // Lowers all prices together until the least is zero.
  __device__ __noinline__ void normalise() {
    const double least =
        block_over(shared, c.L, INFINITY, Min(), [&](int64_t j) { return effective(j); });
    for (int64_t j = threadIdx.x; j < c.L; j += kGeneralThreads) {
      set_price(j, effective(j) - least);
    }
    level = 0.0;
    __syncthreads();
  }

  // min_j (c_ij + q_j) in float64 by one warp, prices normalised. Exact float coordinates allow a
  // float scan as a filter: it errs by at most (dim + 6) units relative, and assign_float_tiny, so
  // the true minimum is among the values within four times that.
  template <typename S>
  __device__ __noinline__ double row_minimum(int64_t i) const {
    const int lane = threadIdx.x % 32;
    S least = static_cast<S>(INFINITY);
    scan<S>(c, S(0), i, lane, 32, [&](int64_t, S v) { least = v < least ? v : least; });
    const double best = group_reduce(static_cast<double>(least), Min());
    if (sizeof(S) == sizeof(double)) return best;
    const double unit = 0x1p-24 * static_cast<double>(c.dim + 6);
    const double limit = best * (1.0 + 4.0 * unit) + assign_float_tiny(c.dim);
    double exact = INFINITY;
    scan<S>(c, S(0), i, lane, 32, [&](int64_t j, S v) {
      if (static_cast<double>(v) <= limit) exact = fmin(exact, cost(i, j) + c.price[j]);
    });
    return group_reduce(exact, Min());
  }

  // The certified gap of the present assignment, from coordinates, prices and the row minima in
  // best.
  __device__ __noinline__ double gap_of_rows() {
    const double rows = block_over(shared, c.K, 0.0, Sum(), [&](int64_t i) { return c.best[i]; });
    const double prices =
        block_over(shared, c.L, 0.0, Sum(), [&](int64_t j) { return c.price[j]; });
    return assign_gap(measure(), rows, prices, c.K, c.dim, block_adds(c.L), exact);
  }

  // Into best the row minima of bidders `first`, `first` + `step`, ..., and of the block's further
  // warps those next to them; prices normalised.
  __device__ __noinline__ void find_rows(int64_t first, int64_t step) {
    for (int64_t i = first + threadIdx.x / 32; i < c.K; i += step) {
      const double least = c.float_exact ? row_minimum<float>(i) : row_minimum<double>(i);
      if (threadIdx.x % 32 == 0) c.best[i] = least;
    }
    __syncthreads();
  }

  // The certified gap of the present assignment, from nothing but coordinates and prices.
  __device__ __noinline__ double certify() {
    normalise();
    find_rows(0, kGeneralWarps);
    return gap_of_rows();
  }

  // Lowers every price as far as no row minimum in best falls: q_j = max(0, max_i (best_i - c_ij)),
  // the c-transform of G. Peyre and M. Cuturi, "Computational Optimal Transport", Foundations and
  // Trends in Machine Learning 11 (2019), section 5.1. The certified gap falls or stays, whatever
  // the prices.
  __device__ __noinline__ void tighten() const {
    for (int64_t j = threadIdx.x; j < c.L; j += kGeneralThreads) {
      double price = 0.0;
      for (int64_t i = 0; i < c.K; ++i) price = fmax(price, c.best[i] - cost(i, j));
      set_price(j, price);
    }
    __syncthreads();
  }

  // True if every partner is an object's owner and the other way round: an injection, if complete.
  __device__ bool consistent() const {
    const auto wrong = [&](int64_t i) {
      const int64_t j = c.partner[i];
      return j < -1 || j >= c.L || (j >= 0 && c.owner[j] != i) ? 1.0 : 0.0;
    };
    const auto stray = [&](int64_t j) {
      const int64_t i = c.owner[j];
      return i < -1 || i >= c.K || (i >= 0 && c.partner[i] != j) ? 1.0 : 0.0;
    };
    return block_over(shared, c.K, 0.0, Max(), wrong) == 0.0 &&
           block_over(shared, c.L, 0.0, Max(), stray) == 0.0;
  }

  // Bidders without an object.
  __device__ double unassigned() const {
    return block_over(shared, c.K, 0.0, Sum(), [&](int64_t i) { return c.partner[i] < 0; });
  }
};

}  // namespace pointloss
