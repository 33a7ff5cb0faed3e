// SPDX-License-Identifier: MIT
// The phases of an auction with falling eps, over the CPU's auction and the general one on CUDA.
//
// Method: eps-scaling after D. P. Bertsekas (see assign.h). A phase assigns every bidder within eps
// of its best value; the bidders' slack then estimates the gap, and eps falls until the certificate
// meets its tolerance, or until a finer eps would drown in the digits of the values. Scans are in
// S: float while eps is coarse enough for it, double after that.
#pragma once

#include "assign.h"

namespace pointloss {

// What a phase has left, from the bidders' slack (own value - best value) and best values.
struct AssignSlack {
  double gap;           // estimate, relative
  double target;        // relative gap that is good enough
  double finest;        // eps below this teaches nothing more
  double finest_float;  // float scans need eps at least this
};

// Of this many bidders: the sum of their slack, and mean, median and largest of their best values.
POINTLOSS_HD AssignSlack assign_slack(double slack_sum, AssignPrimal primal, int64_t bidders,
                                      AssignTolerance tolerance, double mean, double median,
                                      double largest, double float_floor, bool float_exact) {
  AssignSlack slack;
  slack.gap = primal.cost > 0.0 ? slack_sum / primal.size : 0.0;
  slack.target = tolerance.relative(primal.size / static_cast<double>(bidders));
  slack.finest = fmax(kAssignEpsFloor * median, kAssignEpsUnderflow * largest);
  slack.finest_float = assign_float_eps(median, mean, float_floor, float_exact);
  return slack;
}

enum class AssignOutcome {
  kDone,         // the certificate meets its tolerance
  kNeedsDouble,  // float scans do not suffice from this eps on
  kStopped,      // by the bound on rounds or by the digits of a double; the gap is certified
  kDropWarm,     // the first phase took more than `bid_limit` bids
  kInfeasible    // not every bidder can have an object
};

// Phases at eps, eps / 5, ... Leaves the assignment complete if the outcome is kDone or kStopped,
// and then `gap` is certified. `bid_limit` bounds the first phase (negative: no bound).
//
// auction.run_phase(S(0), eps, round_limit, bid_limit) assigns every bidder, or returns false if a
// bound was hit or none is feasible(); measure_slack(S(0), tolerance) and certify() say what it is
// worth, was_easy() whether the next phase may as well be the last; keep_phase() remembers
// it, drop_slack(eps) takes its object from every bidder that is not within eps,
// restore_or_complete() makes an assignment of a phase that was cut short.
#ifdef __CUDACC__
#pragma nv_exec_check_disable  // whoever calls this on a GPU has an auction of the GPU
#endif
template <typename S, class Auction>
POINTLOSS_HD AssignOutcome assign_phases(Auction& auction, double& eps, AssignTolerance tolerance,
                                         int64_t round_limit, int64_t bid_limit, double& gap) {
  constexpr bool kFloat = sizeof(S) == sizeof(float);
  if (kFloat && eps < auction.float_floor()) return AssignOutcome::kNeedsDouble;
  for (;; bid_limit = -1) {
    if (!auction.run_phase(S(0), eps, round_limit, bid_limit)) {
      if (!auction.feasible()) return AssignOutcome::kInfeasible;
      if (auction.rounds() < round_limit) return AssignOutcome::kDropWarm;
      auction.restore_or_complete();
      gap = auction.certify();
      return AssignOutcome::kStopped;
    }
    const AssignSlack slack = auction.measure_slack(S(0), tolerance);
    gap = slack.gap;
    const bool hopeful = gap <= slack.target || gap == 0.0;
    const bool last = eps <= 1.5 * slack.finest;  // the next eps could only be the finest itself
    if (hopeful || (last && !kFloat)) {
      if (kFloat && !auction.certifies_float()) return AssignOutcome::kNeedsDouble;
      gap = auction.certify();
      if (gap <= slack.target) return AssignOutcome::kDone;
      if (last && !kFloat) return AssignOutcome::kStopped;
    }
    auction.keep_phase();
    eps = fmax(assign_next_eps(eps, gap, slack.target, auction.was_easy()), slack.finest);
    auction.drop_slack(eps);
    if (kFloat && eps < slack.finest_float) return AssignOutcome::kNeedsDouble;
  }
}

}  // namespace pointloss
