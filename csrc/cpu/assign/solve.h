// SPDX-License-Identifier: MIT
// Certified assignment of one pair of point clouds, or by one matrix of costs, on one CPU core:
// solve_assignment().
//
// Checks and scales the input, matches clouds on a line in order (line.h) and runs the auction of
// auction.h for the others (float scans, then double scans when eps asks for it), and writes
// matching, prices and certificate in input units.
// Bad input never throws or hangs: a length outside [0, N] or [0, M] gives idx -1, a non-finite
// coordinate or a cost of NaN or -infinity an arbitrary injection, both with cost NaN and gap
// infinity; costs without a matching idx -1, with cost and gap infinity.
#pragma once

#include "line.h"

namespace pointloss {

// One pair of clouds. x is [N, D], y is [M, D], contiguous; the first n and m points are valid.
// N and M stay below 2^31 (their product need not). If D is 0, x is a matrix of costs [N, M].
template <typename T>
struct AssignProblem {
  const T* x;
  const T* y;
  int64_t N, M, D;
  int64_t n, m;  // valid lengths; any value is safe
  bool squared;  // cost: squared distance instead of distance
  AssignTolerance tolerance;
  int64_t max_rounds;      // <= 0: default bound
  const double* price_in;  // [max(N, M)] warm start, any values; or null
  const int64_t* idx_in;   // [N] matching of those prices, any values; or null
};

// Outputs. The caller owns idx [N] and price [max(N, M)]; both are always written in full.
struct AssignResult {
  int64_t* idx;
  double* price;
  double cost;
  double gap;
  int64_t rounds;
  bool converged;
};

namespace assign_detail {

// Bidders from which the nearest costs are estimated where float cannot tell them from 0.
constexpr int64_t kNearestSample = 64;

// Prices much above the costs lose the costs' digits. Paths raise them no more than they must when
// they begin without any; returns the better gap of the two solutions and leaves that one.
inline double retry_by_paths(const Frame& frame, int64_t limit, Auction<double>& auction,
                             State& state, double gap) {
  keep_phase(state);
  drop_prices(frame, auction, state);
  if (Paths(frame, state).finish(limit)) {
    auction.forget();
    const double retried = auction.certify();
    if (retried < gap) return retried;
  }
  restore_or_complete(frame, state);
  return gap;
}

// The eps of a cold start. `nearest`: the sum of the bidders' least costs, which is set if floats
// are too coarse for it.
inline double cold_eps(const Frame& frame, Auction<float>& auction, State& state, double& nearest) {
  std::vector<double> best = auction.best_values();
  nearest = std::accumulate(best.begin(), best.end(), 0.0);
  if (frame.matrix) {  // every least cost is 0
    const double regret = auction.mean_regret();
    if (regret > 0.0) return regret;
    const double mean = mean_cost(frame);
    return kAssignMatrixPart * (mean > 0.0 ? mean : 1.0);
  }
  const auto bidders = static_cast<double>(frame.bidders);
  if (nearest < auction.float_floor() * bidders) {
    best = Auction<double>(frame, state).best_values(std::min(frame.bidders, kNearestSample));
    const double sum = std::accumulate(best.begin(), best.end(), 0.0);
    nearest = sum * (bidders / static_cast<double>(best.size()));
  }
  // Coincident points can make every nearest cost 0 while the assignment is not free.
  return nearest > 0.0 ? nearest / bidders : kAssignOpeningPart * identity_cost(frame);
}

// Solves a problem that is neither empty nor degenerate; returns the certified gap.
inline double solve_frame(const Frame& frame, AssignTolerance tolerance, int64_t max_rounds,
                          const double* price_in, const int64_t* idx_in, State& state) {
  const int64_t limit = assign_round_limit(max_rounds, frame.objects);
  state.count_steps = max_rounds > 0;
  state.price.assign(frame.stride, INFINITY);
  std::fill_n(state.price.begin(), frame.objects, 0.0);
  state.partner.assign(frame.bidders, -1);
  state.owner.assign(frame.stride, -1);
  double eps = 0.0, gap = INFINITY;
  if (const auto on_line = solve_on_line(frame, tolerance, state)) return *on_line;
  {
    Auction<float> auction(frame, state);
    double nearest = 0.0;
    const double cold = cold_eps(frame, auction, state, nearest);
    state.raise_cap = kAssignRaiseCap * cold;
    eps = cold;
    Opening opening = Opening::kCold;
    if (price_in != nullptr) {
      opening = open_warm(frame, price_in, idx_in, tolerance, nearest, auction, state, eps, gap);
    }
    if (opening == Opening::kHolds) return gap;
    const int64_t bids = opening == Opening::kWarm ? kAssignWarmBids * frame.bidders : -1;
    AssignOutcome outcome = auction.run(eps, tolerance, limit, bids, gap);
    if (outcome == AssignOutcome::kDropWarm) {
      drop_prices(frame, auction, state);
      eps = cold;
      outcome = auction.run(eps, tolerance, limit, -1, gap);
    }
    if (outcome != AssignOutcome::kNeedsDouble) return gap;
  }
  Auction<double> auction(frame, state);
  const bool done = auction.run(eps, tolerance, limit, -1, gap) == AssignOutcome::kDone;
  const bool retry = !done && gap > std::max(kAssignExactEnough, state.exact) && state.feasible &&
                     state.rounds < limit;
  return retry ? retry_by_paths(frame, limit, auction, state, gap) : gap;
}

// Scales the clouds or the matrix into `frame`; false when a number is not to be judged.
template <typename T>
bool load_frame(const AssignProblem<T>& problem, Frame& frame) {
  frame.dim = problem.D;
  frame.squared = problem.squared;
  frame.swapped = problem.n > problem.m;
  frame.bidders = std::min(problem.n, problem.m);
  frame.objects = std::max(problem.n, problem.m);
  if (problem.D > 0) {
    return scale_clouds(frame.swapped ? problem.y : problem.x,
                        frame.swapped ? problem.x : problem.y, frame);
  }
  return scale_costs(AssignMatrix::of(problem.x, problem.M, frame.swapped), frame);
}

inline void take_identity(const Frame& frame, State& state) {
  state.partner.resize(frame.bidders);
  std::iota(state.partner.begin(), state.partner.end(), 0);
}

// Writes the matching that was found; `enough` becomes the gap that it may have. Leaves the result
// without one, at infinite cost, if there is none or if it has a forbidden pair.
inline void report(const Frame& frame, const State& state, AssignTolerance tolerance, int exponent,
                   AssignResult& result, double& enough) {
  result.rounds = state.rounds;
  CarrySum cost, size, above;
  bool exact = true;  // every cost of a matrix is its bidder's least
  for (int64_t i = 0; state.feasible && i < frame.bidders; ++i) {
    const double value = frame.value(i, state.partner[i]);
    cost.add(value);
    size.add(std::fabs(value));
    above.add(frame.cost(i, state.partner[i]));
    exact &= !frame.matrix || frame.matrix->given(i, state.partner[i]) == frame.least[i];
  }
  if (!state.feasible || !std::isfinite(cost.total())) {
    result.cost = result.gap = INFINITY;
    return;
  }
  if (result.gap == 0.0 && !exact) result.gap = INFINITY;  // costs have underflowed
  const auto bidders = static_cast<double>(frame.bidders);
  const AssignPrimal primal = frame.primal(above.total(), size.total());
  enough = std::max(tolerance.relative(primal.size / bidders), state.exact);
  result.cost = std::ldexp(cost.total() / bidders, exponent);
  for (int64_t i = 0; i < frame.bidders; ++i) {
    const int64_t j = state.partner[i];
    result.idx[frame.swapped ? j : i] = frame.swapped ? i : j;
  }
  // Where the gap is that to the bidders' least costs, no prices prove it, and those tried less.
  if (frame.matrix && primal.cost <= result.gap * primal.size) return;
  for (size_t j = 0; j < std::min<size_t>(frame.objects, state.price.size()); ++j) {
    result.price[j] = std::ldexp(state.price[j], exponent);
  }
}

}  // namespace assign_detail

// Solves a cloud that is not empty; false when a coordinate is not finite, or a cost as bad.
// `enough` becomes the gap that counts as converged.
template <typename T>
bool solve_pairs(const AssignProblem<T>& problem, Interrupt& interrupt, AssignResult& result,
                 double& enough) {
  using namespace assign_detail;
  interrupt.check();
  Frame frame;
  const bool finite = load_frame(problem, frame);
  if (!finite || frame.stride == 0) {  // all points coincide
    for (int64_t i = 0; i < frame.bidders; ++i) result.idx[i] = i;
    if (finite) result.cost = result.gap = 0.0;
    return finite;
  }

  State state{interrupt};
  const int exponent = frame.exponent * (problem.squared ? 2 : 1);
  const AssignTolerance tolerance = problem.tolerance.scaled(-exponent);
  state.feasible = std::count(frame.least.begin(), frame.least.end(), INFINITY) == 0;
  if (state.feasible && identity_cost(frame) == 0.0) {
    take_identity(frame, state);
    result.gap = 0.0;
  } else if (state.feasible) {
    result.gap =
        solve_frame(frame, tolerance, problem.max_rounds, problem.price_in, problem.idx_in, state);
  }
  report(frame, state, tolerance, exponent, result, enough);
  return true;
}

template <typename T>
bool partners_coincide(const AssignProblem<T>& problem, const int64_t* idx) {
  const int64_t dim = problem.D;
  for (int64_t i = 0; i < problem.n; ++i) {
    if (idx[i] < 0) continue;
    if (!assign_coincide(problem.x + i * dim, problem.y + idx[i] * dim, dim)) return false;
  }
  return true;
}

template <typename T>
void solve_assignment(const AssignProblem<T>& problem, Interrupt& interrupt, AssignResult& result) {
  std::fill_n(result.idx, problem.N, int64_t{-1});
  std::fill_n(result.price, std::max(problem.N, problem.M), 0.0);
  result.cost = std::numeric_limits<double>::quiet_NaN();
  result.gap = INFINITY;
  result.rounds = 0;
  result.converged = false;
  if (problem.n < 0 || problem.n > problem.N || problem.m < 0 || problem.m > problem.M) return;
  double enough = 0.0;
  if (problem.n == 0 || problem.m == 0) {  // nothing to match, whatever the other cloud holds
    result.cost = problem.n == problem.m ? 0.0 : INFINITY;
    result.gap = 0.0;
  } else if (!solve_pairs(problem, interrupt, result, enough)) {
    return;
  }
  const bool points = problem.D > 0;
  if (points && result.gap == 0.0 && !partners_coincide(problem, result.idx)) result.gap = 1.0;
  result.converged = result.gap <= enough;
}

}  // namespace pointloss
