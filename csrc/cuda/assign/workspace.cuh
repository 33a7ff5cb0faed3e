// SPDX-License-Identifier: MIT
// Memory of the CUDA assignment solvers: what a pair of clouds has in global memory, and which
// solver takes it.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "../../common/arena.h"
#include "../../common/assign.h"
#include "integer/state.cuh"

namespace pointloss {

// The most of L objects with which the solver for equal sizes takes K bidders.
__host__ __device__ constexpr int64_t equal_size(int64_t K, int64_t L) {
  const int64_t few = K + K / kDummyPart, most = few > kSmallObjects ? few : kSmallObjects;
  return L < most ? L : most;
}

enum class Solver { kEqual, kUnequal, kGeneral };

__host__ __device__ constexpr Solver choose_solver(int64_t K, int64_t L, int64_t dim) {
  if (dim < 1 || dim > 3) return Solver::kGeneral;
  if (equal_size(K, L) == L && L < kEqualMostPoints) return Solver::kEqual;
  return K < L && L < kUnequalMostPoints ? Solver::kUnequal : Solver::kGeneral;
}
// Whether any pair of at most K bidders and L objects may be solved as equal or as unequal sizes.
__host__ __device__ constexpr bool has_equal(int64_t K, int64_t L, int64_t dim) {
  return dim >= 1 && dim <= 3 && equal_size(K, L) < kEqualMostPoints;
}
__host__ __device__ constexpr bool has_unequal(int64_t L, int64_t dim) {
  return dim >= 1 && dim <= 3 && L < kUnequalMostPoints;
}

// What the kernels that follow each other on a pair tell the next.
struct PairHead {
  bool finite, solved;  // the input is; prices and an assignment are there to be certified
  bool in_order;        // matched along a line, which is not certified yet
  int exponent;  // the clouds or costs are scaled by 2^-exponent; INT_MIN: all points coincide
  int ended;     // blocks that have certified their part of a matching along a line
  int64_t rounds;
  double eps;
};

// Rows of a matrix begin at multiples of 16 bytes. What is behind the last cost is infinite.
__host__ __device__ constexpr int64_t row_stride(int64_t objects) { return (objects + 3) / 4 * 4; }

// One pair of clouds, scaled by 2^-exponent, or a matrix of costs (dim 0); arrays as long as their
// comment says.
struct PairArrays {
  double *bidder, *object;     // [D, K], [D, L]
  float *bidder_f, *object_f;  // the same, double input with the centre taken off
  double* least;               // [K] of a matrix, as given
  float* above_f;              // [K, row_stride(L)] of a matrix: costs above the least, scaled
  AssignMatrix matrix;         // for the general solver
  double* price;               // [L]
  float* price_f;              // [L], and as far as rows go
  int *owner, *partner;        // [L] bidder or -1; [K] object or -1
  double* best;                // [K] best value or row minimum of a bidder
  int* order;                  // [L] of an integer solver: objects along the curve
  ClusterExchange* exchange;   // [1]
  TeamMeeting* meeting;        // [1]
  PairHead* head;              // [1]

  // Of the general solver. Last_*: at the end of the last complete phase.
  double* last_price;       // [L]
  int* last_partner;        // [K]
  unsigned long long* key;  // [L] bits of the highest bid of the round, else 0
  int* winner;              // [L] lowest bidder with the highest bid
  int* queue[2];            // [K] bidders of this and of the next round
  int* target;              // [K] object of the bid of queue entry q
  double *bid, *slack;      // [K] bid price of queue entry q; slack of bidder i

  // Of the solver for equal sizes N, at the same place: what a cluster shares, and what a team has.
  unsigned long long *equal_bid, *cache;  // [N], [N, 32]
  int* found;                             // [N]
  IntegerShared* team_shared;             // [1]
  char* equal_block;

  // Of the solver for unequal sizes, at the same place: likewise.
  char *unequal_shared, *unequal_block;

  int64_t K, L, dim;
  bool squared, float_exact;
};

// Lays the arrays of a pair of at most K and L points out from `base`, which may be null; returns
// the bytes that they take. Aligned for any type and for coalesced access.
__host__ __device__ inline size_t lay_out(PairArrays& c, char* base) {
  Arena<256> arena(base);
  arena.take(c.bidder, c.dim * c.K);
  arena.take(c.object, c.dim * c.L);
  arena.take(c.bidder_f, c.dim * c.K);
  arena.take(c.object_f, c.dim * c.L);
  arena.take(c.least, c.dim == 0 ? c.K : 0);
  arena.take(c.above_f, c.dim == 0 ? c.K * row_stride(c.L) : 0);
  arena.take(c.price, c.L);
  arena.take(c.price_f, row_stride(c.L));
  arena.take(c.owner, c.L);
  arena.take(c.partner, c.K);
  arena.take(c.best, c.K);
  arena.take(c.order, c.L);
  arena.take(c.exchange, 1);
  arena.take(c.meeting, 1);
  arena.take(c.head, 1);
  const auto general = [&] {
    arena.take(c.last_price, c.L);
    arena.take(c.last_partner, c.K);
    arena.take(c.key, c.L);
    arena.take(c.winner, c.L);
    arena.take(c.queue[0], c.K);
    arena.take(c.queue[1], c.K);
    arena.take(c.target, c.K);
    arena.take(c.bid, c.K);
    arena.take(c.slack, c.K);
  };
  const auto equal = [&] {
    if (!has_equal(c.K, c.L, c.dim)) return;
    const int64_t N = equal_size(c.K, c.L);
    arena.take(c.equal_bid, N);
    arena.take(c.found, N);
    arena.take(c.cache, 32 * N);
    arena.take(c.team_shared, 1);
    arena.take(c.equal_block, static_cast<int64_t>(equal_block_bytes<int>(N)));
  };
  const auto unequal = [&] {
    if (!has_unequal(c.L, c.dim)) return;
    arena.take(c.unequal_shared, static_cast<int64_t>(unequal_shared_bytes(c.K, c.L)));
    arena.take(c.unequal_block, static_cast<int64_t>(unequal_block_bytes(c.K, c.L)));
  };
  arena.overlay(general, equal, unequal);
  return arena.used();
}

inline size_t assign_pair_bytes(int64_t N, int64_t M, int64_t D) {
  PairArrays pair{};
  pair.K = N < M ? N : M;
  pair.L = N < M ? M : N;
  pair.dim = D;
  return lay_out(pair, nullptr);
}

// What the kernels need of a batch beside its coordinates and results. No larger: with those, the
// integer solvers spill twice as much.
struct AssignPlan : AssignSettings {
  bool float_exact;  // the input is given in float, else in double
  char* workspace;   // 256-byte aligned
  size_t pair_bytes;

  template <typename T>
  AssignPlan(const AssignBatch<T>& batch, void* workspace)
      : AssignSettings(batch),
        float_exact(sizeof(T) == sizeof(float)),
        workspace(static_cast<char*>(workspace)),
        pair_bytes(assign_pair_bytes(N, M, D)) {}

  __host__ __device__ int64_t least() const { return N < M ? N : M; }
  __host__ __device__ int64_t most() const { return N < M ? M : N; }
  __device__ const double* price_of(int64_t b) const {
    return price_in ? price_in + b * most() : nullptr;
  }

  // Of pair b, from the whole batch's costs; not scaled.
  template <typename T>
  __device__ AssignMatrix matrix_of(const T* costs, int64_t b, bool swapped) const {
    return AssignMatrix::of(costs + b * N * M, M, swapped);
  }

  // Pair b in the workspace. A bad length gives K = -1.
  __device__ PairArrays pair(int64_t b, bool* swapped) const {
    const int64_t n = x_lengths ? x_lengths[b] : N, m = y_lengths ? y_lengths[b] : M;
    const bool sound = n >= 0 && n <= N && m >= 0 && m <= M;
    *swapped = n > m;
    PairArrays c{};
    c.K = least();
    c.L = most();
    c.dim = D;
    lay_out(c, workspace + b * pair_bytes);
    c.K = !sound ? -1 : *swapped ? m : n;
    c.L = !sound ? -1 : *swapped ? n : m;
    c.squared = squared;
    c.float_exact = float_exact || D == 0;  // a cost is rounded relative to itself
    return c;
  }
};

}  // namespace pointloss
