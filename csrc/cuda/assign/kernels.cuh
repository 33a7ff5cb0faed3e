// SPDX-License-Identifier: MIT
// Certified assignment of a batch of point clouds on CUDA: the kernels, in the order of a call.
//
// prepare scales the clouds or costs, and matches clouds on a line in order (general/line.cuh),
// which line certifies. Two integer solvers, each with a cluster or a team of blocks per pair, take
// what they support: integer/equal.cuh (nearly) equal sizes, integer/unequal.cuh the others.
// finish, one block per pair, certifies what those leave; the general solver (general/auction.cuh)
// goes on where they do not suffice. Nothing is allocated and nothing returns to the host. Bad
// input never hangs: a length outside [0, N] or [0, M] gives idx -1, a non-finite coordinate or a
// cost of NaN or -infinity an arbitrary injection, all with cost NaN and gap infinity; costs
// without a matching give idx -1, with cost and gap infinity. Never to be compiled with fast math:
// the certificate counts correct roundings.
//
// A kernel is a loop of its function for one pair, which tests/emulator/assign.cpp calls as well.
#pragma once

#include "general/auction.cuh"
#include "general/line.cuh"
#include "general/scale.cuh"
#include "integer/equal.cuh"
#include "integer/unequal.cuh"
#include "workspace.cuh"

namespace pointloss {

__device__ inline AssignTolerance scaled_tolerance(const AssignPlan& plan, int exponent) {
  return plan.tolerance.scaled(-exponent * (plan.squared ? 2 : 1));
}

// Clears the results of pair b, scales its clouds, and matches them in order if they are on a line,
// by one block.
template <typename T>
__device__ void prepare_pair(const AssignBatch<T>& batch, const AssignPlan& plan, int64_t b,
                             BlockShared& shared) {
  bool swapped;
  PairArrays c = plan.pair(b, &swapped);
  const int64_t most = plan.most();
  for (int64_t i = threadIdx.x; i < plan.N; i += kGeneralThreads) batch.idx[b * plan.N + i] = -1;
  for (int64_t j = threadIdx.x; j < most; j += kGeneralThreads) batch.price[b * most + j] = 0.0;
  if (threadIdx.x == 0) *c.head = {true, false, false, 0, 0, 0, 0.0}, *c.meeting = {0, 0};
  __syncthreads();
  if (c.K <= 0) return;
  int exponent = 0;
  bool finite = false;
  if (plan.D == 0) {
    c.matrix = plan.matrix_of(batch.x, b, swapped);
    finite = scale_costs(c, shared, exponent);
  } else {
    const T *x = batch.x + b * batch.N * batch.D, *y = batch.y + b * batch.M * batch.D;
    finite = scale_clouds(c, shared, swapped ? y : x, swapped ? x : y, exponent);
  }
  const bool in_order = finite && exponent != INT_MIN &&
                        LineMatching(c, shared).run(scaled_tolerance(plan, exponent));
  if (threadIdx.x == 0) *c.head = {finite, false, in_order, exponent, 0, 0, 0.0};
  __syncthreads();
}

template <typename T>
__global__ void __launch_bounds__(kGeneralThreads, 2)
    assign_prepare_kernel(AssignBatch<T> batch, AssignPlan plan) {
  __shared__ BlockShared shared;
  for (int64_t b = blockIdx.x; b < batch.B; b += gridDim.x) prepare_pair(batch, plan, b, shared);
}

// Certifies pair b by `parts` blocks, of which this is number `part`, if it was matched in order.
__device__ inline void certify_line_pair(const AssignPlan& plan, int64_t b, int part, int parts,
                                         BlockShared& shared) {
  bool swapped;
  const PairArrays c = plan.pair(b, &swapped);
  if (c.K <= 0 || !c.head->in_order) return;
  certify_line(c, shared, scaled_tolerance(plan, c.head->exponent), part, parts);
}

// Map: `parts` blocks = pair.
static __global__ void __launch_bounds__(kGeneralThreads)
    assign_line_kernel(AssignPlan plan, int parts) {
  __shared__ BlockShared shared;
  const int part = static_cast<int>(blockIdx.x) % parts, step = static_cast<int>(gridDim.x) / parts;
  for (int64_t b = blockIdx.x / parts; b < plan.B; b += step) {
    certify_line_pair(plan, b, part, parts, shared);
    __syncthreads();
  }
}

__device__ inline bool is_for(Solver solver, const PairArrays& c) {
  return c.K > 0 && choose_solver(c.K, c.L, c.dim) == solver && c.head->finite && !c.head->solved &&
         c.head->exponent != INT_MIN;
}

// What an integer solver gets of pair b.
__device__ inline IntegerInput input_of(const AssignPlan& plan, const PairArrays& c, int64_t b,
                                        bool swapped) {
  const int units = c.head->exponent * (plan.squared ? 2 : 1);
  return {c.bidder_f,
          c.object_f,
          c.bidder,
          c.object,
          plan.price_of(b),
          plan.price_in && plan.idx_in ? plan.idx_in + b * plan.N : nullptr,
          swapped,
          ldexp(1.0, -units),
          static_cast<int>(c.K),
          static_cast<int>(c.L),
          static_cast<int>(c.dim),
          plan.tolerance.scaled(-units),
          assign_round_limit(plan.max_rounds, c.L),
          plan.deterministic};
}
template <class State>
__device__ __forceinline__ State state_of(const PairArrays& c, const IntegerInput& in) {
  State state = empty_state<State>(c.L);
  state.in = &in;
  state.order = c.order;
  state.exchange = c.exchange;
  return state;
}

// Solves pair b if it is for the solver for equal sizes. `memory`: for the arrays of a block, or in
// global memory of a team. `box`: shared memory for a team's boxes, or null.
template <class Id, Cost kCost, class Blocks>
__device__ __forceinline__ void solve_equal_pair(const AssignPlan& plan, const PairArrays& c,
                                                 int64_t b, bool swapped, Blocks blocks,
                                                 IntegerShared& shared, char* memory, float* box) {
  using State = EqualState<Id, kCost, Blocks>;
  if (!is_for(Solver::kEqual, c)) return;
  const IntegerInput in = input_of(plan, c, b, swapped);
  State state = state_of<State>(c, in);
  state.cluster = blocks;
  state.cache = c.cache;
  state.bid = state.best_count = c.equal_bid;
  state.found_best = state.found_slack = c.found;
  solve_equal(state, shared, memory, box, c);
}

// By a cluster. `memory`: shared memory for its arrays; with wide ids they lie in global memory,
// and a pair has one block.
template <class Id, Cost kCost>
__device__ __forceinline__ void solve_by_cluster(const AssignPlan& plan, int64_t b,
                                                 IntegerShared& shared, char* memory) {
  constexpr bool kWide = sizeof(Id) == sizeof(int);
  bool swapped;
  const PairArrays c = plan.pair(b, &swapped);
  solve_equal_pair<Id, kCost>(plan, c, b, swapped, kWide ? Cluster{} : Cluster::here(), shared,
                              kWide ? c.equal_block : memory, nullptr);
}

// Map: cluster of blocks = pair.
template <class Id, Cost kCost>
__global__ void __launch_bounds__(kIntegerThreads) assign_equal_kernel(AssignPlan plan) {
  extern __shared__ __align__(16) char memory[];
  __shared__ IntegerShared shared;
  const int size = cluster_size();
  for (int64_t b = blockIdx.x / size; b < plan.B; b += gridDim.x / size) {
    solve_by_cluster<Id, kCost>(plan, b, shared, memory);
  }
}

// By a team of `size` blocks, of which this is number `block`. `box`: shared memory for boxes, or
// null if they do not fit.
template <Cost kCost>
__device__ __forceinline__ void solve_by_team(const AssignPlan& plan, int64_t b, int block,
                                              int size, float* box) {
  bool swapped;
  const PairArrays c = plan.pair(b, &swapped);
  solve_equal_pair<int, kCost>(plan, c, b, swapped, Team{block, size, c.meeting}, *c.team_shared,
                               c.equal_block, box);
}

// Map: team of `size` blocks = pair. All blocks run at once.
template <Cost kCost>
__global__ void __launch_bounds__(kIntegerThreads)
    assign_team_kernel(AssignPlan plan, int size, bool in_shared) {
  extern __shared__ __align__(16) char memory[];
  const int block = static_cast<int>(blockIdx.x), teams = static_cast<int>(gridDim.x) / size;
  for (int64_t b = block / size; b < plan.B; b += teams) {
    solve_by_team<kCost>(plan, b, block % size, size,
                         in_shared ? reinterpret_cast<float*>(memory) : nullptr);
  }
}

// Solves pair b if it is for the solver for unequal sizes. `memory`: shared memory for its arrays,
// or null if they do not fit.
template <Cost kCost>
__device__ __forceinline__ void solve_unequal_pair(const AssignPlan& plan, int64_t b,
                                                   UnequalShared& shared, char* memory) {
  using State = UnequalState<kCost>;
  bool swapped;
  const PairArrays c = plan.pair(b, &swapped);
  if (!is_for(Solver::kUnequal, c)) return;
  const IntegerInput in = input_of(plan, c, b, swapped);
  State state = state_of<State>(c, in);
  state.cluster = Cluster::here();
  Arena<16> arena(c.unequal_shared);
  take_shared_arrays(state, c.K, arena);
  solve_unequal(state, shared, memory != nullptr ? memory : c.unequal_block, c);
}

// Map: cluster of blocks = pair.
template <Cost kCost>
__global__ void __launch_bounds__(kIntegerThreads)
    assign_unequal_kernel(AssignPlan plan, bool in_shared) {
  extern __shared__ __align__(16) char memory[];
  __shared__ UnequalShared shared;
  const int size = cluster_size();
  for (int64_t b = blockIdx.x / size; b < plan.B; b += gridDim.x / size) {
    solve_unequal_pair<kCost>(plan, b, shared, in_shared ? memory : nullptr);
  }
}

// The matching and the prices that the general solver has found, in the input's units. Where the
// gap is that to the least costs of a matrix's bidders, no prices prove it, and those tried less.
__device__ inline void store(const AssignPlan& plan, const AssignResults& results,
                             const Certificate& found, int64_t b, bool swapped, int units,
                             double gap) {
  const PairArrays& c = found.c;
  for (int64_t i = threadIdx.x; i < c.K; i += kGeneralThreads) {
    const int64_t j = c.partner[i];
    results.idx[b * plan.N + (swapped ? j : i)] = swapped ? i : j;
  }
  if (plan.D == 0 && found.mean_above <= gap * found.mean_size) return;
  for (int64_t j = threadIdx.x; j < c.L; j += kGeneralThreads) {
    results.price[b * plan.most() + j] = ldexp(c.price[j], units);
  }
}

// Whether `idx` has pairs of points that do not coincide, or costs that are not their bidder's
// least.
__device__ inline bool has_apart(const AssignPlan& plan, const PairArrays& c, const void* x,
                                 const void* y, int64_t b, bool swapped, const int64_t* idx,
                                 BlockShared& shared) {
  const auto apart = [&](int64_t i) {
    if (idx[i] < 0) return 0.0;
    if (plan.D == 0) {
      const int64_t bidder = swapped ? idx[i] : i, object = swapped ? i : idx[i];
      return c.matrix.given(bidder, object) == c.least[bidder] ? 0.0 : 1.0;
    }
    const int64_t at = (b * plan.N + i) * plan.D, other = (b * plan.M + idx[i]) * plan.D;
    const auto differ = [&](const auto* u, const auto* v) {
      return assign_coincide(u + at, v + other, plan.D) ? 0.0 : 1.0;
    };
    return plan.float_exact ? differ(static_cast<const float*>(x), static_cast<const float*>(y))
                            : differ(static_cast<const double*>(x), static_cast<const double*>(y));
  };
  return block_over(shared, plan.N, 0.0, Max(), apart) > 0.0;
}

// Certificate and results of pair b, by one block; solves what the integer solvers do not.
// `x` and `y`: the clouds as they were given, or the costs and null.
__device__ inline void finish_pair(const AssignPlan& plan, const AssignResults& results,
                                   const void* x, const void* y, int64_t b, BlockShared& shared) {
  bool swapped;
  PairArrays c = plan.pair(b, &swapped);
  int64_t* idx = results.idx + b * plan.N;
  double cost = 0.0, gap = 0.0, enough = 0.0;  // `enough`: the gap that counts as converged
  int64_t rounds = 0;
  if (c.K < 0) cost = NAN, gap = INFINITY;
  if (c.K == 0 && c.L > 0) cost = INFINITY;
  if (c.K > 0) {
    const int exponent = c.head->exponent;
    const bool finite = c.head->finite;
    if (!finite) cost = NAN, gap = INFINITY;
    if (plan.D == 0) {
      c.matrix = plan.float_exact ? plan.matrix_of(static_cast<const float*>(x), b, swapped)
                                  : plan.matrix_of(static_cast<const double*>(x), b, swapped);
      c.matrix.scale = AssignScale(exponent);
    }
    Auction auction{{c, shared}};
    auction.rounds_taken = c.head->rounds;
    const double identity =
        finite && exponent != INT_MIN
            ? block_over(shared, c.K, 0.0, Sum(), [&](int64_t i) { return auction.cost(i, i); })
            : 0.0;
    const int units = exponent * (plan.squared ? 2 : 1);
    const bool possible = plan.D > 0 || !finite || auction.every_bidder_has_objects();
    if (!possible) {
      cost = gap = INFINITY;
    } else if (identity == 0.0) {
      rounds = 0;
      for (int64_t i = threadIdx.x; i < c.K; i += kGeneralThreads) {
        idx[i] = i;
        c.partner[i] = static_cast<int>(i);
      }
      __syncthreads();
      if (finite && plan.D == 0) {
        auction.measure();
        cost = ldexp(auction.mean_cost, units);
      }
    } else {
      const AssignTolerance tolerance = plan.tolerance.scaled(-units);
      gap = auction.solve(tolerance, plan.max_rounds, plan.price_of(b), units,
                          kAssignOpeningPart * identity / static_cast<double>(c.K));
      cost = ldexp(auction.mean_cost, units);
      rounds = auction.rounds();
      enough = fmax(tolerance.relative(auction.mean_size), auction.exact);
      if (plan.D > 0 || (auction.possible && isfinite(auction.mean_cost))) {
        store(plan, results, auction, b, swapped, units, gap);
      } else {  // forbidden pairs leave no matching, or the search for one was ended
        cost = gap = INFINITY;
        enough = 0.0;
      }
    }
  }
  if (gap == 0.0 && c.K > 0) {
    __syncthreads();
    if (has_apart(plan, c, x, y, b, swapped, idx, shared)) gap = plan.D == 0 ? INFINITY : 1.0;
  }
  if (threadIdx.x == 0) {
    results.cost[b] = cost;
    results.gap[b] = gap;
    results.rounds[b] = rounds;
    results.converged[b] = gap <= enough;
  }
  __syncthreads();
}

static __global__ void __launch_bounds__(kGeneralThreads)
    assign_finish_kernel(AssignPlan plan, AssignResults results, const void* x, const void* y) {
  __shared__ BlockShared shared;
  for (int64_t b = blockIdx.x; b < plan.B; b += gridDim.x) {
    finish_pair(plan, results, x, y, b, shared);
  }
}

}  // namespace pointloss
