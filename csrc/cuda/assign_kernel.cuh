// SPDX-License-Identifier: MIT
// Certified assignment of a batch of point clouds on CUDA: workspace and kernels.
//
// Three solvers: in integers for (nearly) equal sizes (assign_solver.cuh) and for unequal ones
// (assign_rectangular.cuh), each with a team of blocks for a cloud; and a general one, one block
// for a cloud, which certifies what those leave and goes on where they do not suffice
// (assign_auction.cuh). Nothing is allocated and nothing returns to the host. Bad input never
// hangs: a length outside [0, N] or [0, M] gives idx -1, a non-finite coordinate an arbitrary
// injection, both with cost NaN and gap infinity. Never to be compiled with fast math: the
// certificate counts correct roundings.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "../common/assign_batch.h"
#include "assign_finish.cuh"
#include "assign_rectangular.cuh"
#include "assign_solver.cuh"

namespace pointloss {

// Clouds that differ by no more than this part of the smaller are solved as equally large, with
// bidders to whom all objects cost nothing for the rest. By emulation at 1024 bidders that takes up
// to 1.4 times the turns of equal clouds at 1100 objects, 1.2 to 2.1 times at 5 / 4; the auction
// for unequal ones takes 400 rounds there, and thousands at 33 / 32.
constexpr int kPhantomPart = 4;

__host__ __device__ constexpr int64_t largest_square(int64_t K, int64_t L) {
  return L < K + K / kPhantomPart ? L : K + K / kPhantomPart;
}
// Which of the two integer solvers serves K bidders for L objects, if any.
__host__ __device__ constexpr bool square_serves(int64_t K, int64_t L, int64_t dim) {
  return largest_square(K, L) == L && solver_serves(L, dim);
}
__host__ __device__ constexpr bool unequal_serves(int64_t K, int64_t L, int64_t dim) {
  return K < L && !square_serves(K, L, dim) && rectangular_serves(L, dim);
}

// Lays the arrays of one cloud out from `base`, which may be null; returns the bytes they take.
__host__ __device__ inline size_t lay_out(AuctionCloud& c, char* base) {
  size_t used = 0;
  const auto take = [&](auto*& array, int64_t count) {
    array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(base + used);
    const size_t bytes = static_cast<size_t>(count) * sizeof(*array);
    used += (bytes + 255) / 256 * 256;  // aligned for any type and for coalesced access
  };
  const int64_t square = largest_square(c.K, c.L);
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
  take(c.queue[0], square);
  take(c.queue[1], c.K);
  take(c.target, square);
  take(c.bid, c.K);
  take(c.best, c.K);
  take(c.slack, c.K);
  take(c.order, c.L);
  const bool integers = solver_serves(square, c.dim);
  take(c.cache, integers ? 32 * square : 0);
  take(c.board, 1);
  take(c.state, integers ? static_cast<int64_t>(solver_bytes<int>(square)) : 0);
  const bool unequal = rectangular_serves(c.L, c.dim);
  take(c.rectangle, unequal ? static_cast<int64_t>(rectangular_bytes(c.K, c.L)) : 0);
  take(c.head, 1);
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

// What the kernels need of a batch beside its coordinates and results.
struct AssignPlan {
  const int64_t *x_lengths, *y_lengths;
  const double* price_in;
  const int64_t* idx_in;
  int64_t B, N, M, D, max_rounds;
  bool squared, float_exact, deterministic;
  double rtol;
  char* workspace;
  size_t cloud_bytes;

  // Cloud b in the workspace. A bad length gives K = -1.
  __device__ AuctionCloud cloud(int64_t b, bool* swapped) const {
    const int64_t n = x_lengths ? x_lengths[b] : N, m = y_lengths ? y_lengths[b] : M;
    const bool sound = n >= 0 && n <= N && m >= 0 && m <= M;
    *swapped = n > m;
    AuctionCloud c{};
    c.K = N < M ? N : M;
    c.L = N < M ? M : N;
    c.dim = D;
    lay_out(c, workspace + b * cloud_bytes);
    c.K = !sound ? -1 : *swapped ? m : n;
    c.L = !sound ? -1 : *swapped ? n : m;
    c.squared = squared;
    c.float_exact = float_exact;
    return c;
  }
};

// Map: block = cloud. Clears the results and scales the clouds.
template <typename T>
__global__ void __launch_bounds__(kAssignThreads)
    assign_prepare(AssignBatch<T> batch, AssignPlan plan) {
  __shared__ BlockShared shared;
  const int64_t wide = batch.N < batch.M ? batch.M : batch.N;
  for (int64_t b = blockIdx.x; b < batch.B; b += gridDim.x) {
    bool swapped;
    AuctionCloud c = plan.cloud(b, &swapped);
    for (int64_t i = threadIdx.x; i < batch.N; i += kAssignThreads) batch.idx[b * batch.N + i] = -1;
    for (int64_t j = threadIdx.x; j < wide; j += kAssignThreads) batch.price[b * wide + j] = 0.0;
    if (threadIdx.x == 0) *c.head = {true, false, 0, 0, 0.0};
    __syncthreads();
    if (c.K <= 0) continue;
    const T *x = batch.x + b * batch.N * batch.D, *y = batch.y + b * batch.M * batch.D;
    int exponent = 0;
    const bool finite = scale_clouds(c, shared, swapped ? y : x, swapped ? x : y, exponent);
    if (threadIdx.x == 0) *c.head = {finite, false, exponent, 0, 0.0};
    __syncthreads();
  }
}

__device__ inline bool open_to(bool (*serves)(int64_t, int64_t, int64_t), const AuctionCloud& c) {
  return c.K > 0 && serves(c.K, c.L, c.dim) && c.head->finite && c.head->exponent != INT_MIN;
}

// What the integer solvers get of cloud b, and where they leave what they find.
__device__ inline SolverInput input_of(const AssignPlan& plan, const AuctionCloud& c, int64_t b,
                                       bool swapped) {
  const int units = c.head->exponent * (plan.squared ? 2 : 1);
  const int64_t wide = plan.N < plan.M ? plan.M : plan.N;
  return {c.bidder_f,
          c.object_f,
          c.bidder,
          c.object,
          plan.price_in ? plan.price_in + b * wide : nullptr,
          plan.price_in && plan.idx_in ? plan.idx_in + b * plan.N : nullptr,
          swapped,
          ldexp(1.0, -units),
          static_cast<int>(c.K),
          static_cast<int>(c.L),
          static_cast<int>(c.dim),
          plan.rtol,
          assign_round_limit(plan.max_rounds, c.L),
          plan.deterministic};
}
__device__ inline SolverOutput output_of(const AuctionCloud& c) {
  return {c.price, c.price_f, c.owner, c.partner, c.best, 0, 0.0, false};
}

// The integer solver's arrays in global memory.
template <class Id>
__device__ __forceinline__ SolverState<Id> state_of(const AuctionCloud& c) {
  SolverState<Id> state = solver_state<Id>(c.L);
  state.cache = reinterpret_cast<Pair<Id>*>(c.cache);
  state.bound = c.queue[0];
  state.bids = c.key;
  state.slack = c.target;
  state.board = c.board;
  return state;
}

// Leaves the rest with the cloud, by the first block of the team.
__device__ inline void keep(const SolverOutput& out, const AuctionCloud& c, const Team& team) {
  if (threadIdx.x == 0 && team.rank == 0) {
    c.head->rounds = out.rounds;
    c.head->eps = out.eps;
    c.head->solved = out.solved;
  }
  __syncthreads();
}

// Map: team of blocks = cloud. The integer solver for (nearly) equal sizes, where it serves.
template <class Id, bool kSquared>
__global__ void __launch_bounds__(kSolverThreads) assign_integers(AssignPlan plan) {
  extern __shared__ __align__(16) char memory[];
  __shared__ SolverShared shared;
  const Team team = Team::here();
  for (int64_t b = blockIdx.x / team.size; b < plan.B; b += gridDim.x / team.size) {
    bool swapped;
    const AuctionCloud c = plan.cloud(b, &swapped);
    if (!open_to(square_serves, c)) continue;
    const SolverState<Id> state = state_of<Id>(c);
    char* arrays = sizeof(Id) == sizeof(int) ? c.state : memory;
    SolverOutput out = output_of(c);
    const SolverInput in = input_of(plan, c, b, swapped);
    solve_integers<Id, kSquared>(in, shared, state, arrays, c.order, out);
    keep(out, c, team);
  }
}

// Map: team of blocks = cloud. The integer solver for more objects than bidders, where it serves;
// `in_shared`: its arrays fit shared memory.
template <bool kSquared>
__global__ void __launch_bounds__(kSolverThreads)
    assign_rectangular(AssignPlan plan, bool in_shared) {
  extern __shared__ __align__(16) char memory[];
  __shared__ RectangularShared shared;
  const Team team = Team::here();
  for (int64_t b = blockIdx.x / team.size; b < plan.B; b += gridDim.x / team.size) {
    bool swapped;
    const AuctionCloud c = plan.cloud(b, &swapped);
    if (!open_to(unequal_serves, c)) continue;
    RectangularState sizes = rectangular_state(c.K, c.L);
    char* arrays = in_shared ? memory : c.rectangle + lay_out_shared(sizes, nullptr);
    SolverOutput out = output_of(c);
    const SolverInput in = input_of(plan, c, b, swapped);
    solve_rectangular<kSquared>(in, shared, c.board, c.rectangle, arrays, c.order, out);
    keep(out, c, team);
  }
}

template <typename T>
__device__ void finish_assignment(const AssignBatch<T>& batch, const AssignPlan& plan, int64_t b,
                                  BlockShared& shared) {
  const int64_t wide = batch.N < batch.M ? batch.M : batch.N;
  bool swapped;
  const AuctionCloud cloud = plan.cloud(b, &swapped);
  int64_t* idx = batch.idx + b * batch.N;
  double cost = 0.0, gap = 0.0, exact = 0.0;
  int64_t rounds = 0;
  if (cloud.K < 0) cost = NAN, gap = INFINITY;
  if (cloud.K == 0 && cloud.L > 0) cost = INFINITY;
  if (cloud.K > 0) {
    const int exponent = cloud.head->exponent;
    const bool finite = cloud.head->finite;
    if (!finite) cost = NAN, gap = INFINITY;
    Auction auction{cloud, shared};
    auction.rounds = cloud.head->rounds;
    const double identity =
        finite && exponent != INT_MIN
            ? block_over(shared, cloud.K, 0.0, Sum(), [&](int64_t i) { return auction.cost(i, i); })
            : 0.0;
    if (identity == 0.0) {
      rounds = 0;
      for (int64_t i = threadIdx.x; i < cloud.K; i += kAssignThreads) idx[i] = i;
    } else {
      const int units = exponent * (batch.squared ? 2 : 1);
      gap = solve_cloud(auction, batch.rtol, batch.max_rounds,
                        batch.price_in ? batch.price_in + b * wide : nullptr, units,
                        kAssignOpeningPart * identity / static_cast<double>(cloud.K), &cost);
      cost = ldexp(cost, units);
      rounds = auction.rounds;
      exact = auction.exact;
      for (int64_t i = threadIdx.x; i < cloud.K; i += kAssignThreads) {
        const int64_t j = cloud.partner[i];
        idx[swapped ? j : i] = swapped ? i : j;
      }
      for (int64_t j = threadIdx.x; j < cloud.L; j += kAssignThreads) {
        batch.price[b * wide + j] = ldexp(cloud.price[j], units);
      }
    }
  }
  if (gap == 0.0 && cloud.K > 0) {
    __syncthreads();
    const int64_t D = batch.D;
    const T *x = batch.x + b * batch.N * D, *y = batch.y + b * batch.M * D;
    const auto apart = [&](int64_t i) {
      return idx[i] >= 0 && !assign_coincide(x + i * D, y + idx[i] * D, D) ? 1.0 : 0.0;
    };
    if (block_over(shared, batch.N, 0.0, Max(), apart) > 0.0) gap = 1.0;
  }
  if (threadIdx.x == 0) {
    batch.cost[b] = cost;
    batch.gap[b] = gap;
    batch.rounds[b] = rounds;
    batch.converged[b] = gap <= fmax(batch.rtol, exact);
  }
  __syncthreads();
}

// Map: block = cloud. Certificate and results; solves what the integer solver does not serve.
template <typename T>
__global__ void __launch_bounds__(kAssignThreads)
    assign_finish(AssignBatch<T> batch, AssignPlan plan) {
  __shared__ BlockShared shared;
  for (int64_t b = blockIdx.x; b < batch.B; b += gridDim.x) {
    finish_assignment(batch, plan, b, shared);
  }
}

}  // namespace pointloss
