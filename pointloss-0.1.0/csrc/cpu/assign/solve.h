// SPDX-License-Identifier: MIT
// Certified assignment of one pair of point clouds on one CPU core: solve_assignment().
//
// Checks and scales the input, runs the auction of auction.h (float scans, then double scans
// when eps asks for it), and writes matching, prices and certificate in input units.
// Bad input never throws or hangs: a length outside [0, N] or [0, M] gives idx -1, a non-finite
// coordinate an arbitrary injection, both with cost NaN and gap infinity.
#pragma once

#include "opening.h"

namespace pointloss {

// One pair of clouds. x is [N, D], y is [M, D], contiguous; the first n and m points are valid.
// N and M stay below 2^31 (their product need not).
template <typename T>
struct AssignProblem {
  const T* x;
  const T* y;
  int64_t N, M, D;
  int64_t n, m;            // valid lengths; any value is safe
  bool squared;            // cost: squared distance instead of distance
  double rtol;             // wanted certified relative gap; 0 = as exact as float64 allows
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

// Solves a problem that is neither empty nor degenerate; returns the certified gap.
inline double solve_frame(const Frame& frame, double rtol, int64_t max_rounds,
                          const double* price_in, const int64_t* idx_in, State& state) {
  const int64_t limit = assign_round_limit(max_rounds, frame.objects);
  state.count_steps = max_rounds > 0;
  state.price.assign(frame.stride, INFINITY);
  std::fill_n(state.price.begin(), frame.objects, 0.0);
  state.partner.assign(frame.bidders, -1);
  state.owner.assign(frame.stride, -1);
  double eps = 0.0, gap = INFINITY;
  {
    Auction<float> auction(frame, state);
    std::vector<double> best = auction.best_values();
    double nearest = std::accumulate(best.begin(), best.end(), 0.0);
    const auto bidders = static_cast<double>(frame.bidders);
    if (nearest < assign_float_floor(frame.squared) * bidders) {
      best = Auction<double>(frame, state).best_values(std::min(frame.bidders, kNearestSample));
      const double sum = std::accumulate(best.begin(), best.end(), 0.0);
      nearest = sum * (bidders / static_cast<double>(best.size()));
    }
    // Coincident points can make every nearest cost 0 while the assignment is not free.
    const double cold =
        nearest > 0.0 ? nearest / bidders : kAssignOpeningPart * identity_cost(frame);
    state.raise_cap = kAssignRaiseCap * cold;
    eps = cold;
    Opening opening = Opening::kCold;
    if (price_in != nullptr) {
      opening = open_warm(frame, price_in, idx_in, rtol, nearest, auction, state, eps, gap);
    }
    if (opening == Opening::kHolds) return gap;
    const int64_t bids = opening == Opening::kWarm ? kAssignWarmBids * frame.bidders : -1;
    AssignOutcome outcome = auction.run(eps, rtol, limit, bids, gap);
    if (outcome == AssignOutcome::kDropWarm) {
      drop_prices(frame, auction, state);
      eps = cold;
      outcome = auction.run(eps, rtol, limit, -1, gap);
    }
    if (outcome != AssignOutcome::kNeedsDouble) return gap;
  }
  Auction<double> auction(frame, state);
  auction.run(eps, rtol, limit, -1, gap);
  const bool retry = gap > std::max(rtol, kAssignExactEnough) && state.rounds < limit;
  return retry ? retry_by_paths(frame, limit, auction, state, gap) : gap;
}

}  // namespace assign_detail

// Solves a cloud that is not empty; false when a coordinate is not finite.
template <typename T>
bool solve_pairs(const AssignProblem<T>& problem, Interrupt& interrupt, AssignResult& result,
                 double& exact) {
  using namespace assign_detail;
  interrupt.check();
  Frame frame;
  frame.dim = problem.D;
  frame.squared = problem.squared;
  frame.swapped = problem.n > problem.m;
  frame.bidders = std::min(problem.n, problem.m);
  frame.objects = std::max(problem.n, problem.m);
  const bool finite = scale_clouds(frame.swapped ? problem.y : problem.x,
                                   frame.swapped ? problem.x : problem.y, frame);
  if (!finite || frame.stride == 0 || identity_cost(frame) == 0.0) {
    for (int64_t i = 0; i < frame.bidders; ++i) result.idx[i] = i;
    if (finite) result.cost = result.gap = 0.0;
    return finite;
  }

  State state{interrupt};
  result.gap =
      solve_frame(frame, problem.rtol, problem.max_rounds, problem.price_in, problem.idx_in, state);
  result.rounds = state.rounds;
  exact = state.exact;
  CarrySum cost;
  for (int64_t i = 0; i < frame.bidders; ++i) {
    const int64_t j = state.partner[i];
    cost.add(frame.cost(i, j));
    result.idx[frame.swapped ? j : i] = frame.swapped ? i : j;
  }
  const int exponent = frame.exponent * (problem.squared ? 2 : 1);
  result.cost = std::ldexp(cost.total() / static_cast<double>(frame.bidders), exponent);
  for (int64_t j = 0; j < frame.objects; ++j) {
    result.price[j] = std::ldexp(state.price[j], exponent);
  }
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
  double exact = 0.0;
  if (problem.n == 0 || problem.m == 0) {  // nothing to match, whatever the other cloud holds
    result.cost = problem.n == problem.m ? 0.0 : INFINITY;
    result.gap = 0.0;
  } else if (!solve_pairs(problem, interrupt, result, exact)) {
    return;
  }
  if (result.gap == 0.0 && !partners_coincide(problem, result.idx)) result.gap = 1.0;
  result.converged = result.gap <= std::max(problem.rtol, exact);
}

}  // namespace pointloss
