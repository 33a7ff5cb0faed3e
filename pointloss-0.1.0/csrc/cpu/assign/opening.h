// SPDX-License-Identifier: MIT
// Where the CPU assignment solver (solve.h) begins when prices, and maybe a matching, are
// given.
#pragma once

#include <numeric>

#include "auction.h"

namespace pointloss {
namespace assign_detail {

// A warm start begins at this many times what dear objects miss being a bidder's best by, but at a
// part of a cold start's eps. A training's prices of the last epoch miss by 0.06 nearest costs and
// take 10 to 40 % more rounds than a cold start from a twentieth of its eps, but up to a quarter
// fewer from here; those of its last step miss by 0.003 to 0.03.
constexpr double kMissEps = 8.0;
// Objects from which that is estimated.
constexpr int64_t kColumns = 32;

inline void drop_assignment(State& state) {
  std::fill(state.partner.begin(), state.partner.end(), -1);
  std::fill(state.owner.begin(), state.owner.end(), -1);
}

// Back to a cold start.
template <typename S>
void drop_prices(const Frame& frame, Auction<S>& auction, State& state) {
  std::fill_n(state.price.begin(), frame.objects, 0.0);
  state.level = 0.0;
  drop_assignment(state);
  auction.forget();
}

// By how much a dear object misses being the best of a bidder, in the mean of a sample: its price
// is off by that much at least. `best`: the bidders' best values.
inline double mean_miss(const Frame& frame, const std::vector<double>& best, State& state) {
  double total = 0.0;
  int64_t dear = 0;
  for (int64_t k = 0; k < kColumns; ++k) {
    const int64_t j = (2 * k + 1) * frame.objects / (2 * kColumns);
    if (!(state.price[j] > 0.0)) continue;
    state.spend(frame.bidders * frame.dim);
    double least = INFINITY;
    for (int64_t i = 0; i < frame.bidders; ++i) {
      least = std::min(least, frame.cost(i, j) + state.price[j] - best[i]);
    }
    total += std::max(least, 0.0);
    ++dear;
  }
  return dear > 0 ? total / static_cast<double>(dear) : 0.0;
}

enum class Opening { kCold, kWarm, kHolds };

// Takes over warm prices, if they give a better lower bound than `nearest`, which no prices at all
// give, and lowers eps to what they may be off. A matching that came with them is all there is to
// do where the pair of both still meets rtol (kHolds, with its certified gap); else, of equal
// clouds, bidders who are within eps of their best begin with their object.
template <typename S>
Opening open_warm(const Frame& frame, const double* price_in, const int64_t* idx_in, double rtol,
                  double nearest, Auction<S>& auction, State& state, double& eps, double& gap) {
  load_prices(frame, price_in, state);
  auction.refresh_prices();
  if (idx_in != nullptr) {
    const bool whole = load_matching(frame, idx_in, state);
    if (auction.measure_slack(S(0)).gap <= rtol && whole) {
      gap = auction.certify();
      if (gap <= rtol) return Opening::kHolds;
    }
  }
  const std::vector<double> best = auction.best_values();
  double bound = std::accumulate(best.begin(), best.end(), 0.0);
  for (int64_t j = 0; j < frame.objects; ++j) bound -= state.price[j];
  if (bound <= nearest) {
    drop_prices(frame, auction, state);
    return Opening::kCold;
  }
  if (frame.bidders == frame.objects) {
    const double off = kMissEps * mean_miss(frame, best, state);
    eps = std::clamp(off, eps / kAssignWarmRatio, eps / 2);
    auction.drop_slack(eps);
  } else {
    eps /= kAssignWarmRatio;
    drop_assignment(state);  // kept, it takes more rounds, for its dear objects without a bidder
  }
  return Opening::kWarm;
}

}  // namespace assign_detail
}  // namespace pointloss
