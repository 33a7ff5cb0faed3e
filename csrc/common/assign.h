// SPDX-License-Identifier: MIT
// What the CPU and the CUDA assignment solvers share: what they are asked, parameters, scaling,
// cost, certificate.
//
// Problem: K = min(n, m) bidders (the smaller cloud) each need their own one of L = max(n, m)
// objects (the larger cloud) at least mean distance. Linear-programming dual for prices q >= 0:
//   lower bound = sum_i min_j (c_ij + q_j) - sum_j q_j,
// which holds for any q >= 0 whatsoever, so prices never have to be trusted, only recomputed with.
// Costs are distances of points, or a matrix of any numbers, of which infinity forbids a pair. Of a
// matrix the solvers see how far each cost is above the least of its bidder: that adds the same to
// all matchings, and such costs are >= 0 and as exact, relative to themselves, as distances are.
// Source: D. P. Bertsekas, "The auction algorithm", Annals of Operations Research 14 (1988).
#pragma once

#include <cmath>
#include <cstdint>

#include "macros.h"

namespace pointloss {

// When a matching is good enough: (mean cost) - (lower bound) of at most `atol`, or of `rtol` times
// the mean size |c| of the matched costs.
struct AssignTolerance {
  double rtol, atol;

  POINTLOSS_HD AssignTolerance scaled(int exponent) const { return {rtol, ldexp(atol, exponent)}; }
  // As a relative gap, for costs of this mean size. If that is 0, the gap is too.
  POINTLOSS_HD double relative(double size) const { return fmax(rtol, atol / size); }
};

// A batch of pairs of clouds, but for coordinates and results; every pointer is a contiguous array,
// on one device. N and M stay below 2^31.
struct AssignSettings {
  const int64_t* x_lengths;  // [B] or null (all N); any value is safe
  const int64_t* y_lengths;  // [B] or null (all M)
  int64_t B, N, M, D;        // D = 0: x is a matrix of costs
  bool squared, deterministic;
  AssignTolerance tolerance;
  int64_t max_rounds;      // <= 0: default bound
  const double* price_in;  // [B, max(N, M)] warm start, any values; or null
  const int64_t* idx_in;   // [B, N] matching of those prices, any values; or null
};

struct AssignResults {
  int64_t* idx;     // [B, N]
  double* price;    // [B, max(N, M)]
  double* cost;     // [B]
  double* gap;      // [B]
  int64_t* rounds;  // [B]
  bool* converged;  // [B]
};

template <typename T>
struct AssignBatch : AssignSettings, AssignResults {
  const T* x;  // [B, N, D]; of costs [B, N, M]
  const T* y;  // [B, M, D]; of costs null
};

// Factor between the eps of two phases. Measured flat from 4 to 7 on surfaces, blobs and noise.
constexpr double kAssignTheta = 5.0;
// Where every nearest cost is 0, eps begins at this part of the cost of pairing point i with i.
constexpr double kAssignOpeningPart = 0x1p-12;
// Where the bidders of a matrix have several best objects, eps begins at this part of the mean
// cost.
constexpr double kAssignMatrixPart = 0x1p-12;
// A warm start begins this much finer than a cold one (which begins at the mean nearest cost).
constexpr double kAssignWarmRatio = 20.0;
// A warm first phase that takes more bids a bidder than this is dropped for a cold start.
constexpr int64_t kAssignWarmBids = 40;
// This many bids a bidder without an end are a price war that eps is too small for (two far groups,
// one bidder too many in one of them): eps grows by theta^2 within the phase. On CUDA, that doubles
// the allowance of what follows, so the growing comes to an end; on the CPU only the first phase
// does so, the later ones are finished by paths.
constexpr int64_t kAssignWarBids = 40;
// No bid raises a price by more than this many of the largest eps so far. A lone bidder would else
// lift the price of its only near object to the size of the whole scene, which eats the digits of
// all others.
constexpr double kAssignRaiseCap = 1024.0;
// Aim below rtol, because a failed certificate costs a whole phase and a tighter eps very little.
constexpr double kAssignAim = 0.7;
// eps never falls below this part of the median value c + p: a double holds 52 bits, so a typical
// bid still raises its price by 256 units in the last place.
constexpr double kAssignEpsFloor = 0x1p-44;
// And this part of the largest value, should the median be 0: it bounds the number of phases.
constexpr double kAssignEpsUnderflow = 0x1p-64;
// Float scans need eps above this part of the median value: 64 float units in the last place. The
// part of the mean guards the few values far above the median.
constexpr double kAssignFloatEps = 0x1p-18;
constexpr double kAssignFloatMeanEps = 0x1p-24;
// Double input is rounded to float relative to its extent (scaled to about 1), not to its value.
constexpr double kAssignFloatExtentEps = 0x1p-17;
// A gap above this is never taken for the rounding of an optimum.
constexpr double kAssignExactEnough = 1e-6;
constexpr double kUnitRoundoff = 0x1p-53;
// Components below 2^-511 of the extent vanish when squared; this covers what they could add.
constexpr double kAssignTiny = 1e-150;

// Default bound on rounds: ten times the longest run measured on rings and duplicates.
POINTLOSS_HD int64_t assign_round_limit(int64_t max_rounds, int64_t objects) {
  return max_rounds > 0 ? max_rounds : (int64_t{1} << 20) + 256 * objects;
}

// Exponent e with extent * 2^-e in [1/2, 1): scaling by it is exact and keeps squares in range.
// `half_extent` is half of the joint bounding box, which cannot overflow. At least -1000: what is
// smaller is near the end of what a double can hold.
POINTLOSS_HD int assign_exponent(double half_extent) {
  int e = 0;
  frexp(half_extent, &e);
  ++e;
  return e < -1000 ? -1000 : e;
}

// Multiplies by 2^-exponent, in two steps: 2^-e itself may be subnormal, which some CPUs are told
// to take for 0.
struct AssignScale {
  double half = 1.0, rest = 1.0;

  AssignScale() = default;
  POINTLOSS_HD explicit AssignScale(int exponent)
      : half(ldexp(1.0, -(exponent / 2))), rest(ldexp(1.0, exponent / 2 - exponent)) {}

  POINTLOSS_HD double operator()(double value) const { return value * half * rest; }
};

// Euclidean or squared distance of two points whose coordinates lie `stride` apart.
POINTLOSS_HD double assign_cost(const double* a, int64_t a_stride, const double* b,
                                int64_t b_stride, int64_t dim, bool squared) {
  double sum = 0.0;
  for (int64_t d = 0; d < dim; ++d) {
    const double t = a[d * a_stride] - b[d * b_stride];
    sum += t * t;
  }
  return squared ? sum : sqrt(sum);
}

// A cost of 0 may be one that underflowed: of no cost at all are only points that coincide.
template <typename T>
POINTLOSS_HD bool assign_coincide(const T* a, const T* b, int64_t dim) {
  bool same = true;
  for (int64_t d = 0; d < dim; ++d) same &= a[d] == b[d];
  return same;
}

// One pair's matrix of costs as it was given. scale(cost) is in [-1/2, 1/2]; costs below 2^-1022 of
// the largest may vanish, as the squares of distances do.
struct AssignMatrix {
  const float* single;  // of `single` and `twice` one is null
  const double* twice;
  int64_t bidder_step, object_step;
  AssignScale scale;

  // `width`: of a row of the matrix, whose rows are the bidders' unless `swapped`.
  template <class T>
  POINTLOSS_HD static AssignMatrix of(const T* costs, int64_t width, bool swapped) {
    AssignMatrix matrix{nullptr, nullptr, swapped ? 1 : width, swapped ? width : 1, {}};
    matrix.set(costs);
    return matrix;
  }
  POINTLOSS_HD void set(const float* costs) { single = costs; }
  POINTLOSS_HD void set(const double* costs) { twice = costs; }

  POINTLOSS_HD double given(int64_t i, int64_t j) const {
    const int64_t at = i * bidder_step + j * object_step;
    return single != nullptr ? static_cast<double>(single[at]) : twice[at];
  }
  // How far a cost is above the least of its bidder.
  POINTLOSS_HD double above(int64_t i, int64_t j, double least) const {
    return scale(given(i, j)) - scale(least);
  }
};
// Every matching costs at most this, in the mean, above the sum of the bidders' least costs.
constexpr double kAssignMatrixMost = 1.0;

// The sum of the matched costs, and that of their sizes |c|: for distances the same.
struct AssignPrimal {
  double cost, size;

  POINTLOSS_HD static AssignPrimal of_points(double cost) { return {cost, cost}; }
  // Of a matrix, whose matched costs may all be 0 and yet be above the bidders' least.
  POINTLOSS_HD static AssignPrimal of_matrix(double above, double size) {
    return {above, fmax(size, 0x1p-100 * above)};
  }
};

// Certified relative gap from the float64 sums `primal` (matched costs), `row_sum` (row minima of
// c + q) and `price_sum` (q); each sum is K or L terms with at most `adds` roundings on any path.
// A cost carries at most (dim + 4) roundings, a row minimum one more; all of it is taken off the
// lower bound and added to the primal, so the result is never below the true gap; but where primal
// is 0, the caller asks whether the partners coincide. `exact` becomes the gap that is as good as
// 0: the finest eps and the roundings leave that much of an optimum.
POINTLOSS_HD double assign_gap(AssignPrimal primal, double row_sum, double price_sum,
                               int64_t bidders, int64_t dim, int64_t adds, double& exact) {
  exact = 0.0;
  if (!(primal.cost > 0.0)) return primal.cost == 0.0 ? 0.0 : INFINITY;
  const double rel = 1.01 * kUnitRoundoff * static_cast<double>(dim + adds + 8);
  const double tiny = kAssignTiny * static_cast<double>(bidders);
  const double lower = row_sum - price_sum - rel * (row_sum + price_sum) - tiny;
  const double upper = primal.cost * (1.0 + rel) + tiny;
  const double gap = (upper - (lower > 0.0 ? lower : 0.0)) / (primal.size * (1.0 - rel));
  exact = 2.0 * (kAssignEpsFloor + rel) * (row_sum + price_sum) + 2.0 * tiny;
  exact = fmin(exact, kAssignExactEnough * fmax(primal.cost, primal.size)) / primal.size;
  exact = fmax(exact, 4.0 * kUnitRoundoff);      // of costs that are nearly their bidders' least
  const double most = dim > 0 ? 1.0 : INFINITY;  // no distance is below 0, but a cost may be
  return gap < most ? gap * (1.0 + 4.0 * kUnitRoundoff) : gap == gap ? most : INFINITY;
}

// What the components whose squares are below 2^-126, which underflow, may add to a float cost.
POINTLOSS_HD double assign_float_tiny(int64_t dim) {
  return 0x1p-62 * sqrt(static_cast<double>(dim > 0 ? dim : 1));
}

// Float scans never serve below this eps, for the same reason.
POINTLOSS_HD double assign_float_floor(int64_t dim, bool squared) {
  const auto many = static_cast<double>(dim > 64 ? dim : 64);
  return squared ? 0x1p-120 * many : 0x1p-60 * sqrt(many);
}

// The finest eps for float scans of values with this median and mean; `floor`: that of exact input.
POINTLOSS_HD double assign_float_eps(double median, double mean, double floor, bool exact) {
  floor = exact ? floor : kAssignFloatExtentEps;
  return fmax(fmax(kAssignFloatEps * median, kAssignFloatMeanEps * mean), floor);
}

// The eps after a phase that ended at `eps` with gap `gap`: theta finer, but not finer than the gap
// asks for; after an easy phase just that.
POINTLOSS_HD double assign_next_eps(double eps, double gap, double target, bool easy = false) {
  const double needed = gap > 0.0 && target > 0.0 ? eps * kAssignAim * target / gap : 0.0;
  const double finer = easy && needed > 0.0 ? needed : eps / kAssignTheta;
  const double next = needed > finer ? needed : finer;
  return next < eps / 1.5 ? next : eps / 1.5;
}

}  // namespace pointloss
