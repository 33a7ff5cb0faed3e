// SPDX-License-Identifier: MIT
// Certified assignment of a batch of point clouds on CUDA: workspace, kernel, launch.
//
// One thread block solves one cloud from checks to certificate (see assign_auction.cuh); nothing
// is allocated and nothing returns to the host. Bad input never hangs: a length outside [0, N] or
// [0, M] gives idx -1, a non-finite coordinate an arbitrary injection, both with cost NaN and gap
// infinity. Never to be compiled with fast math: the certificate counts correct roundings.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "assign_auction.cuh"

namespace pointloss {

// A batch of pairs of clouds; every pointer is a contiguous device array. N and M stay below 2^31.
template <typename T>
struct AssignBatch {
  const T* x;                // [B, N, D]
  const T* y;                // [B, M, D]
  const int64_t* x_lengths;  // [B] or null (all N); any value is safe
  const int64_t* y_lengths;  // [B] or null (all M)
  int64_t B, N, M, D;
  bool squared;
  double rtol;
  int64_t max_rounds;      // <= 0: default bound
  const double* price_in;  // [B, max(N, M)] warm start, any values; or null
  int64_t* idx;            // [B, N]
  double* price;           // [B, max(N, M)]
  double* cost;            // [B]
  double* gap;             // [B]
  int64_t* rounds;         // [B]
  bool* converged;         // [B]
};

// Lays the arrays of one cloud out from `base`, which may be null; returns the bytes they take.
__host__ __device__ inline size_t lay_out(AuctionCloud& c, char* base) {
  size_t used = 0;
  const auto take = [&](auto*& array, int64_t count) {
    array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(base + used);
    const size_t bytes = static_cast<size_t>(count) * sizeof(*array);
    used += (bytes + 255) / 256 * 256;  // aligned for any type and for coalesced access
  };
  take(c.bidder, c.dim * c.K);
  take(c.object, c.dim * c.L);
  take(c.bidder_f, c.dim * c.K);
  take(c.object_f, c.dim * c.L);
  take(c.price, c.L);
  take(c.last_price, c.L);
  take(c.price_f, c.L);
  take(c.key, c.L);
  take(c.winner, c.L);
  take(c.owner, c.L);
  take(c.partner, c.K);
  take(c.last_partner, c.K);
  take(c.queue[0], c.K);
  take(c.queue[1], c.K);
  take(c.target, c.K);
  take(c.bid, c.K);
  take(c.best, c.K);
  take(c.slack, c.K);
  return used;
}

inline size_t assign_cloud_bytes(int64_t N, int64_t M, int64_t D) {
  AuctionCloud cloud{};
  cloud.K = N < M ? N : M;
  cloud.L = N < M ? M : N;
  cloud.dim = D;
  return lay_out(cloud, nullptr);
}

// Bytes of device workspace (256-byte aligned) that launch_assign needs.
template <typename T>
size_t assign_workspace_bytes(int64_t B, int64_t N, int64_t M, int64_t D) {
  return static_cast<size_t>(B) * assign_cloud_bytes(N, M, D);
}

// Scales both clouds; false when a coordinate is not finite. `exponent` is INT_MIN when all points
// coincide.
template <typename T>
__device__ __noinline__ bool scale_clouds(AuctionCloud& c, BlockShared& shared, const T* bidder,
                                          const T* object, int& exponent) {
  double half_extent = 0.0, bad = 0.0;
  const auto bounds = [&](int64_t d, auto op, double start) {
    const double a = block_over(shared, c.K, start, op, [&](int64_t k) {
      return static_cast<double>(bidder[k * c.dim + d]);
    });
    const double b = block_over(shared, c.L, start, op, [&](int64_t k) {
      return static_cast<double>(object[k * c.dim + d]);
    });
    return op(a, b);
  };
  const auto not_finite = [](T v) { return isfinite(v) ? 0.0 : 1.0; };
  bad +=
      block_over(shared, c.K * c.dim, 0.0, Max(), [&](int64_t k) { return not_finite(bidder[k]); });
  bad +=
      block_over(shared, c.L * c.dim, 0.0, Max(), [&](int64_t k) { return not_finite(object[k]); });
  if (bad > 0.0) return false;
  for (int64_t d = 0; d < c.dim; ++d) {
    const double low = bounds(d, Min(), INFINITY), high = bounds(d, Max(), -INFINITY);
    half_extent = fmax(half_extent, high / 2 - low / 2);
  }
  exponent = half_extent > 0.0 ? assign_exponent(half_extent) : INT_MIN;
  if (half_extent == 0.0) return true;

  const double scale = ldexp(1.0, -exponent);
  for (int64_t d = 0; d < c.dim; ++d) {
    // Float input is exact in float as it is; double input is so only around its centre.
    const double centre =
        c.float_exact ? 0.0
                      : (bounds(d, Min(), INFINITY) / 2 + bounds(d, Max(), -INFINITY) / 2) * scale;
    for (int64_t k = threadIdx.x; k < c.K; k += kAssignThreads) {
      const double v = static_cast<double>(bidder[k * c.dim + d]) * scale;
      c.bidder[d * c.K + k] = v;
      c.bidder_f[d * c.K + k] = static_cast<float>(v - centre);
    }
    for (int64_t k = threadIdx.x; k < c.L; k += kAssignThreads) {
      const double v = static_cast<double>(object[k * c.dim + d]) * scale;
      c.object[d * c.L + k] = v;
      c.object_f[d * c.L + k] = static_cast<float>(v - centre);
    }
  }
  __syncthreads();
  return true;
}

// min_j (c_ij + q_j) in float64 by one warp, prices normalised. Exact float coordinates allow a
// float scan as a filter: it errs by at most (dim + 6) units relative (and 1e-18 where squares
// underflow), so the true minimum is among the values within four times that.
template <typename S>
__device__ __noinline__ double Auction::row_minimum(int64_t i) {
  const int lane = threadIdx.x % 32;
  S least = static_cast<S>(INFINITY);
  scan<S>(c, S(0), i, lane, 32, [&](int64_t, S v) { least = v < least ? v : least; });
  const double best = warp_reduce(static_cast<double>(least), Min());
  if (sizeof(S) == sizeof(double)) return best;
  const double unit = 0x1p-24 * static_cast<double>(c.dim + 6);
  const double limit = best * (1.0 + 4.0 * unit) + 1e-18;
  double exact = INFINITY;
  scan<S>(c, S(0), i, lane, 32, [&](int64_t j, S v) {
    if (static_cast<double>(v) <= limit) exact = fmin(exact, cost(i, j) + c.price[j]);
  });
  return warp_reduce(exact, Min());
}

// The certified gap of the present assignment, from nothing but coordinates and prices.
template <typename S>
__device__ __noinline__ double Auction::certify(double* mean_cost) {
  normalise();
  for (int64_t i = threadIdx.x / 32; i < c.K; i += kAssignWarps) {
    const double least = row_minimum<S>(i);
    if (threadIdx.x % 32 == 0) c.best[i] = least;
  }
  __syncthreads();
  const double rows = block_over(shared, c.K, 0.0, Sum(), [&](int64_t i) { return c.best[i]; });
  const double prices = block_over(shared, c.L, 0.0, Sum(), [&](int64_t j) { return c.price[j]; });
  const double primal =
      block_over(shared, c.K, 0.0, Sum(), [&](int64_t i) { return cost(i, c.partner[i]); });
  *mean_cost = primal / static_cast<double>(c.K);
  return assign_gap(primal, rows, prices, c.K, c.dim, block_adds(c.L));
}

__device__ inline void Auction::clear() {
  __syncthreads();
  for (int64_t j = threadIdx.x; j < c.L; j += kAssignThreads) {
    set_price(j, 0.0);
    c.key[j] = 0;
    c.winner[j] = INT_MAX;
    c.owner[j] = -1;
  }
  for (int64_t i = threadIdx.x; i < c.K; i += kAssignThreads) c.partner[i] = -1;
  level = 0.0;
  __syncthreads();
}

// After a phase that was cut short: the last whole phase, if any, else the nearest free objects.
__device__ inline void Auction::restore_or_complete() {
  __syncthreads();
  if (has_last) {
    level = last_level;
    for (int64_t j = threadIdx.x; j < c.L; j += kAssignThreads) set_price(j, c.last_price[j]);
    for (int64_t i = threadIdx.x; i < c.K; i += kAssignThreads) c.partner[i] = c.last_partner[i];
    __syncthreads();
    return;
  }
  for (int64_t i = 0; i < c.K; ++i) {
    if (c.partner[i] >= 0) continue;
    const auto free_cost = [&](int64_t j) { return c.owner[j] < 0 ? cost(i, j) : INFINITY; };
    const double least = block_over(shared, c.L, INFINITY, Min(), free_cost);
    const auto j = static_cast<int>(block_over(shared, c.L, INFINITY, Min(), [&](int64_t k) {
      return c.owner[k] < 0 && free_cost(k) == least ? static_cast<double>(k) : INFINITY;
    }));
    __syncthreads();
    if (threadIdx.x == 0) c.partner[i] = j, c.owner[j] = static_cast<int>(i);
    __syncthreads();
  }
}

// Installs warm prices (in input units; what is not finite counts as 0) if they give a better
// lower bound than no prices, `nearest`, do.
__device__ inline bool load_prices(Auction& auction, const double* price_in, int exponent,
                                   double nearest) {
  const AuctionCloud& c = auction.c;
  for (int64_t j = threadIdx.x; j < c.L; j += kAssignThreads) {
    const double p = ldexp(price_in[j], -exponent);
    c.price[j] = isfinite(p) ? p : 0.0;
  }
  __syncthreads();
  const double least =
      block_over(auction.shared, c.L, INFINITY, Min(), [&](int64_t j) { return c.price[j]; });
  for (int64_t j = threadIdx.x; j < c.L; j += kAssignThreads) {
    auction.set_price(j, c.price[j] - least);
  }
  __syncthreads();
  const double prices =
      block_over(auction.shared, c.L, 0.0, Sum(), [&](int64_t j) { return c.price[j]; });
  if (auction.best_sum<float>() - prices > nearest) return true;
  auction.clear();
  return false;
}

// Solves a cloud that is neither empty nor degenerate; returns the certified gap.
__device__ inline double solve_cloud(Auction& auction, double rtol, int64_t max_rounds,
                                     const double* price_in, int exponent, double opening,
                                     double* mean_cost) {
  const AuctionCloud& c = auction.c;
  const int64_t limit = assign_round_limit(max_rounds, c.L);
  auction.clear();
  auction.war_bids = kAssignWarBids * c.K;
  const double nearest = auction.best_sum<float>();
  // Coincident points can make every nearest cost 0 while the assignment is not free.
  double eps = nearest > 0.0 ? nearest / static_cast<double>(c.K) : opening;
  double gap = INFINITY;
  auction.raise_cap = kAssignRaiseCap * eps;
  const bool warm = price_in != nullptr && load_prices(auction, price_in, exponent, nearest);
  if (warm) eps /= kAssignWarmRatio;
  Outcome outcome =
      auction.run<float>(eps, rtol, limit, warm ? kAssignWarmBids * c.K : -1, gap, mean_cost);
  if (outcome == Outcome::kDropWarm) {
    auction.clear();
    eps *= kAssignWarmRatio;
    outcome = auction.run<float>(eps, rtol, limit, -1, gap, mean_cost);
  }
  if (outcome == Outcome::kNeedsDouble) auction.run<double>(eps, rtol, limit, -1, gap, mean_cost);
  return gap;
}

template <typename T>
__device__ void assign_cloud(const AssignBatch<T>& batch, int64_t b, char* workspace,
                             BlockShared& shared) {
  const int64_t N = batch.N, M = batch.M, wide = N < M ? M : N;
  const int64_t n = batch.x_lengths ? batch.x_lengths[b] : N;
  const int64_t m = batch.y_lengths ? batch.y_lengths[b] : M;
  const bool sound = n >= 0 && n <= N && m >= 0 && m <= M, swapped = n > m;
  int64_t* idx = batch.idx + b * N;
  double* price = batch.price + b * wide;
  for (int64_t i = threadIdx.x; i < N; i += kAssignThreads) idx[i] = -1;
  for (int64_t j = threadIdx.x; j < wide; j += kAssignThreads) price[j] = 0.0;
  __syncthreads();

  AuctionCloud cloud{};
  cloud.K = sound ? (swapped ? m : n) : 0;
  cloud.L = swapped ? n : m;
  cloud.dim = batch.D;
  cloud.squared = batch.squared;
  cloud.float_exact = sizeof(T) == sizeof(float);
  double cost = 0.0, gap = 0.0;
  int64_t rounds = 0;
  if (!sound) cost = NAN, gap = INFINITY;
  if (cloud.K > 0) {
    lay_out(cloud, workspace);
    const T *x = batch.x + b * N * batch.D, *y = batch.y + b * M * batch.D;
    int exponent = 0;
    const bool finite = scale_clouds(cloud, shared, swapped ? y : x, swapped ? x : y, exponent);
    if (!finite) cost = NAN, gap = INFINITY;
    Auction auction{cloud, shared};
    const double identity =
        finite && exponent != INT_MIN
            ? block_over(shared, cloud.K, 0.0, Sum(), [&](int64_t i) { return auction.cost(i, i); })
            : 0.0;
    if (identity == 0.0) {
      for (int64_t i = threadIdx.x; i < cloud.K; i += kAssignThreads) idx[i] = i;
    } else {
      const int units = exponent * (batch.squared ? 2 : 1);
      gap = solve_cloud(auction, batch.rtol, batch.max_rounds,
                        batch.price_in ? batch.price_in + b * wide : nullptr, units,
                        kAssignOpeningPart * identity / static_cast<double>(cloud.K), &cost);
      cost = ldexp(cost, units);
      rounds = auction.rounds;
      for (int64_t i = threadIdx.x; i < cloud.K; i += kAssignThreads) {
        const int64_t j = cloud.partner[i];
        idx[swapped ? j : i] = swapped ? i : j;
      }
      for (int64_t j = threadIdx.x; j < cloud.L; j += kAssignThreads) {
        price[j] = ldexp(cloud.price[j], units);
      }
    }
  }
  if (threadIdx.x == 0) {
    batch.cost[b] = cost;
    batch.gap[b] = gap;
    batch.rounds[b] = rounds;
    batch.converged[b] = isfinite(gap) && (gap <= batch.rtol || gap == 0.0);
  }
  __syncthreads();  // before the workspace serves the next cloud
}

template <typename T>
__global__ void __launch_bounds__(kAssignThreads)
    assign_kernel(AssignBatch<T> batch, char* workspace, size_t cloud_bytes) {
  __shared__ BlockShared shared;
  for (int64_t b = blockIdx.x; b < batch.B; b += gridDim.x) {
    assign_cloud(batch, b, workspace + b * cloud_bytes, shared);
  }
}

// Enqueues the solver on `stream`: no allocation, no synchronisation, capturable in a graph.
template <typename T>
cudaError_t launch_assign(const AssignBatch<T>& batch, void* workspace, cudaStream_t stream) {
  if (batch.B == 0) return cudaSuccess;
  constexpr int64_t kMaxBlocks = 0x7fffffff;
  const auto blocks = static_cast<unsigned>(batch.B < kMaxBlocks ? batch.B : kMaxBlocks);
  assign_kernel<T><<<blocks, kAssignThreads, 0, stream>>>(
      batch, static_cast<char*>(workspace), assign_cloud_bytes(batch.N, batch.M, batch.D));
  return cudaGetLastError();
}

}  // namespace pointloss
