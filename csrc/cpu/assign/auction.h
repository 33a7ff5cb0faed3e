// SPDX-License-Identifier: MIT
// Certified assignment of two point clouds on one CPU core.
//
// Problem: see common/assign.h. Bidders are the points of the smaller cloud, objects the others'.
// Method: Gauss-Seidel auction with eps-scaling. An unassigned bidder finds its best and second
// best value v_ij = c_ij + p_j, takes the best object from whoever owns it and raises its price by
// (second - best) + eps. A phase ends when all bidders own an object; then each is within eps of
// its best, so the gap is at most K * eps; eps shrinks until the certificate meets rtol.
// More objects than bidders: L - K phantom bidders of cost zero make the problem square. They are
// all alike, hence one number stands for them: `level`, the price of everything they own, which is
// the least price of all. When real bidders leave dear objects unowned, refill() lets the phantoms
// bid their way up at once.
// Source: D. P. Bertsekas, "The auction algorithm", Annals of Operations Research 14 (1988);
// phantoms: D. P. Bertsekas, D. A. Castanon, Computational Optimization and Applications 1 (1992).
//
// Scans run in float while eps is coarse enough for it and in double after that; prices are double
// throughout. A phase that becomes a price war is finished by the paths of augmenting_paths.h.
// Cost: 20 to 50 bids a bidder, of which some 5 to 10 scan all objects.
// Guaranteed: an injection on every input; termination (each bid raises a price by at least eps,
// bids and rounds are bounded); a gap recomputed in float64 over all pairs with the roundings taken
// off.
#pragma once

#include <limits>

#include "../../common/assign_phases.h"
#include "augmenting_paths.h"

namespace pointloss {

namespace assign_detail {

// A cached second best that is cut off closer than this many eps to the best is looked up anew.
constexpr double kCutoffEps = 2.0;
// A phase is easy if it takes at most so many bids a bidder: no object is contended for, which is
// what scaling is for, so phases in between would only bid again. It also has to leave at least
// this part of eps as slack, or eps was merely too coarse to tell objects apart. Mean slack after
// the first phase: noisy copies 0.32 eps, uniform clouds of 16 dimensions 0.13, of 64 0.06.
constexpr double kEasyBids = 1.5, kEasySlack = 0.25;
// From this dimension on, costs that a scan has computed are kept for the next: reading a row takes
// less than computing it again. Up to so many bytes of them for each thread.
constexpr int64_t kKeptDim = 6;
constexpr int64_t kMostKept = 1 << 25;

template <typename S>
class Auction {
 public:
  Auction(const Frame& frame, State& state)
      : frame_(frame),
        state_(state),
        avx2_(scan_uses_avx2()),
        values_(frame.stride),
        price_(frame.stride),
        found_(kCandidates + kScanBlock),
        candidate_(frame.bidders * kCandidates),
        candidate_cost_(frame.bidders * kCandidates),
        size_(frame.bidders, 0),
        bound_(frame.bidders),
        slack_(frame.bidders) {
    if (frame.matrix) {
      costs_to_scan();
    } else {
      point_ = to_scan(frame.bidder, frame.bidders, true);
      coords_ = to_scan(frame.object, frame.stride, false);
      if (frame.dim >= kKeptDim &&
          frame.bidders * frame.stride <= kMostKept / static_cast<int64_t>(sizeof(S))) {
        row_.resize(frame.bidders);
        no_price_.assign(frame.stride, S(0));
      }
    }
    refresh_prices();
  }

  // Best values, under the present prices, of all bidders or of `count` that are evenly spread.
  std::vector<double> best_values(int64_t count) {
    std::vector<double> best(count);
    for (int64_t k = 0; k < count; ++k) {
      best[k] = static_cast<double>(look((2 * k + 1) * frame_.bidders / (2 * count), S(0)).best);
    }
    return best;
  }
  std::vector<double> best_values() { return best_values(frame_.bidders); }

  // Mean of what a bidder's second best is worse by, over those that have one.
  double mean_regret() {
    double total = 0.0;
    int64_t count = 0;
    for (int64_t i = 0; i < frame_.bidders; ++i) {
      const BestTwo<S> top = look(i, S(0));
      if (!std::isfinite(top.second)) continue;
      total += static_cast<double>(top.second) - static_cast<double>(top.best);
      ++count;
    }
    return count > 0 ? total / static_cast<double>(count) : 0.0;
  }

  // Takes over prices that have risen.
  void refresh_prices() {
    for (int64_t j = 0; j < frame_.stride; ++j) price_[j] = static_cast<S>(state_.price[j]);
  }

  // Takes over prices that have fallen, which makes all candidates worthless.
  void forget() {
    std::fill(size_.begin(), size_.end(), 0);
    refresh_prices();
  }

  // Phases from `eps` on, and what assign_phases() asks for.
  AssignOutcome run(double& eps, AssignTolerance tolerance, int64_t round_limit, int64_t bid_limit,
                    double& gap) {
    return assign_phases<S>(*this, eps, tolerance, round_limit, bid_limit, gap);
  }
  bool run_phase(S, double& eps, int64_t round_limit, int64_t bid_limit);
  double float_floor() const { return assign_float_floor(frame_.dim, frame_.squared); }
  bool feasible() const { return state_.feasible; }
  bool was_easy() const { return bids_ <= kEasyBids && mean_slack_ >= kEasySlack * eps_; }
  bool certifies_float() const { return frame_.float_exact; }
  int64_t rounds() const { return state_.rounds; }
  void keep_phase() { assign_detail::keep_phase(state_); }
  void restore_or_complete() { assign_detail::restore_or_complete(frame_, state_); }
  double certify();

  AssignSlack measure_slack(S, AssignTolerance tolerance);

  // Takes its object from every bidder whose slack was above eps.
  void drop_slack(double eps) {
    for (int64_t i = 0; i < frame_.bidders; ++i) {
      if (slack_[i] <= eps || state_.partner[i] < 0) continue;
      state_.owner[state_.partner[i]] = -1;
      state_.partner[i] = -1;
    }
  }

 private:
  ScanView<S> view() const {
    return {coords_.data(),
            price_.data(),
            frame_.stride,
            frame_.objects,
            frame_.dim,
            frame_.squared,
            static_cast<S>(state_.level)};
  }
  ScanVector<S> to_scan(const std::vector<double>& from, int64_t stride, bool by_point) const;
  void costs_to_scan();
  const S* point(int64_t i) const {
    return &point_[i * (frame_.matrix ? frame_.stride : frame_.dim)];
  }
  ScanRow<S> scan(int64_t i);
  BestTwo<S> look(int64_t i, S width);
  void rescan(int64_t i);
  void bid(int32_t i, double eps);
  void refill();
  void normalise();
  double row_minimum(int64_t i);

  const Frame& frame_;
  State& state_;
  bool avx2_;
  ScanVector<S> point_;   // [bidders, dim], or the matrix [bidders, stride]
  ScanVector<S> coords_;  // [dim, stride]
  ScanVector<S> values_, price_;
  std::vector<ScanVector<S>> row_;  // [bidders] costs [stride] of a bidder that was scanned
  ScanVector<S> no_price_;          // [stride]
  std::vector<int32_t> found_;
  ScanVector<int32_t> candidate_;  // [bidders, kCandidates]
  ScanVector<S> candidate_cost_;
  std::vector<int32_t> size_;  // 0: no candidates yet
  std::vector<S> bound_;       // no object outside the candidates has a value below this
  std::vector<double> slack_;
  std::vector<int32_t> queue_, next_;
  double bids_ = INFINITY, eps_ = 0.0, mean_slack_ = 0.0;  // of the last phase, a bidder
};

template <typename S>
ScanVector<S> Auction<S>::to_scan(const std::vector<double>& from, int64_t stride,
                                  bool by_point) const {
  const bool shift = std::is_same_v<S, float> && !frame_.float_exact;
  ScanVector<S> to(from.size());
  for (int64_t d = 0; d < frame_.dim; ++d) {
    const double centre = shift ? frame_.centre[d] : 0.0;
    for (int64_t k = 0; k < stride; ++k) {
      to[by_point ? k * frame_.dim + d : d * stride + k] =
          static_cast<S>(from[d * stride + k] - centre);
    }
  }
  return to;
}

template <typename S>
void Auction<S>::costs_to_scan() {
  point_.assign(frame_.bidders * frame_.stride, S(0));
  for (int64_t i = 0; i < frame_.bidders; ++i) {
    state_.spend(frame_.work(frame_.objects));
    S* row = &point_[i * frame_.stride];
    for (int64_t j = 0; j < frame_.objects; ++j) row[j] = static_cast<S>(frame_.cost(i, j));
  }
}

// Sets values_ to those of bidder i.
template <typename S>
ScanRow<S> Auction<S>::scan(int64_t i) {
  state_.spend(frame_.work(frame_.objects));
  ScanView<S> objects = view();
  if (row_.empty()) return scan_row(objects, point(i), values_.data(), avx2_);
  ScanVector<S>& row = row_[i];
  if (row.empty()) {
    row.resize(frame_.stride);
    objects.price = no_price_.data();
    objects.level = S(0);
    scan_row(objects, point(i), row.data(), avx2_);
    objects = view();
  }
  objects.dim = 0;
  return scan_row(objects, row.data(), values_.data(), avx2_);
}

template <typename S>
void Auction<S>::rescan(int64_t i) {
  constexpr S kInf = std::numeric_limits<S>::infinity();
  const ScanView<S> objects = view();
  const ScanRow<S> row = scan(i);
  S threshold = row.threshold;
  int count = collect(objects, values_.data(), threshold, found_.data(), avx2_);
  // Ties and clusters can put too many below the threshold. Those at the best value are all
  // as good.
  while (count > kCandidates && threshold > row.best) {
    threshold = lower_threshold(values_.data(), found_.data(), row.best, threshold);
    count = collect(objects, values_.data(), threshold, found_.data(), avx2_);
  }
  count = std::min(count, kCandidates);  // collect() goes beyond by up to a register
  bound_[i] = count == frame_.objects ? kInf : threshold;
  int32_t* candidate = &candidate_[i * kCandidates];
  S* cost = &candidate_cost_[i * kCandidates];
  for (int k = 0; k < count; ++k) {
    candidate[k] = found_[k];
    cost[k] = values_[found_[k]] - std::max(price_[found_[k]], objects.level);
  }
  for (; count % 8 != 0; ++count) {
    candidate[count] = 0;
    cost[count] = kInf;
  }
  size_[i] = count;
}

// Best two values of bidder i. The second may be cut off at the bound (a bid stays valid with a
// smaller raise), but only where at least `width` remains.
template <typename S>
BestTwo<S> Auction<S>::look(int64_t i, S width) {
  const int64_t at = i * kCandidates;
  const S level = static_cast<S>(state_.level);
  for (bool fresh = false;; fresh = true) {
    if (fresh || size_[i] == 0) {
      rescan(i);
      fresh = true;
    }
    BestTwo<S> top =
        best_two(&candidate_[at], &candidate_cost_[at], size_[i], price_.data(), level, avx2_);
    const S bound = bound_[i];
    const bool valid = top.best <= bound && (top.second <= bound || bound - top.best >= width);
    if (valid || fresh) {
      top.second = std::min(top.second, bound);
      return top;
    }
  }
}

template <typename S>
void Auction<S>::bid(int32_t i, double eps) {
  const BestTwo<S> top = look(i, static_cast<S>(kCutoffEps * eps));
  const int32_t j = top.object;
  const double raise = static_cast<double>(top.second) - static_cast<double>(top.best);
  double& price = state_.price[j];
  const double before = std::max(price, state_.level);
  price = before + std::clamp(raise, 0.0, state_.raise_cap) + eps;
  // Near an outlier's price eps may be less than a unit in the last place.
  if (!(price > before)) price = std::nextafter(before, INFINITY);
  price_[j] = static_cast<S>(price);
  const int32_t evicted = state_.owner[j];
  state_.owner[j] = i;
  state_.partner[i] = j;
  if (evicted >= 0) {
    state_.partner[evicted] = -1;
    next_.push_back(evicted);
  }
}

// Unowned objects dearer than the level have lost their phantom: as many phantoms bid for the
// cheapest objects that are not theirs, which lifts the level and may evict bidders.
template <typename S>
void Auction<S>::refill() {
  if (frame_.bidders == frame_.objects) return;
  state_.spend(frame_.objects);
  std::vector<int32_t> rest;
  int64_t missing = 0;
  for (int64_t j = 0; j < frame_.objects; ++j) {
    const bool stranded = state_.owner[j] < 0 && state_.price[j] > state_.level;
    missing += stranded;
    if (stranded || state_.owner[j] >= 0) rest.push_back(static_cast<int32_t>(j));
  }
  if (missing == 0) return;
  // Equal prices: unowned objects first, then the lowest index.
  const auto cheaper = [this](int32_t a, int32_t b) {
    if (state_.price[a] != state_.price[b]) return state_.price[a] < state_.price[b];
    const bool owned_a = state_.owner[a] >= 0, owned_b = state_.owner[b] >= 0;
    return owned_a != owned_b ? owned_b : a < b;
  };
  std::nth_element(rest.begin(), rest.begin() + (missing - 1), rest.end(), cheaper);
  state_.level = std::max(state_.level, state_.price[rest[missing - 1]]);
  std::sort(rest.begin(), rest.begin() + missing);
  for (int64_t k = 0; k < missing; ++k) {
    int32_t& owner = state_.owner[rest[k]];
    if (owner < 0) continue;
    state_.partner[owner] = -1;
    queue_.push_back(owner);
    owner = -1;
  }
}

// Assigns every bidder; false when a bound was hit first, or when that is not feasible. A price war
// in the first phase says that eps is too small to begin with, in a later one that paths are the
// way out; so they are if pairs are forbidden, where the war may be over too few objects.
template <typename S>
bool Auction<S>::run_phase(S, double& eps, int64_t round_limit, int64_t bid_limit) {
  queue_.clear();
  for (int64_t i = 0; i < frame_.bidders; ++i) {
    if (state_.partner[i] < 0) queue_.push_back(static_cast<int32_t>(i));
  }
  int64_t bids = 0, war_start = 0;
  double growth = kAssignTheta * kAssignTheta;
  while (true) {
    if (queue_.empty()) refill();
    if (queue_.empty()) {
      bids_ = static_cast<double>(bids) / static_cast<double>(frame_.bidders);
      eps_ = eps;
      return true;
    }
    if (state_.rounds >= round_limit || (bid_limit >= 0 && bids > bid_limit)) return false;
    if (bids - war_start > kAssignWarBids * frame_.bidders) {
      if (!state_.last_partner.empty() || frame_.forbids) {
        bids_ = INFINITY;
        const bool whole = Paths(frame_, state_).finish(round_limit);
        refresh_prices();
        return whole;
      }
      eps = std::max(eps, std::min(eps * growth, 1.0));  // no cost is much above 1
      growth *= growth;
      state_.raise_cap = std::max(state_.raise_cap, kAssignRaiseCap * eps);
      war_start = bids;
    }
    ++state_.rounds;
    state_.spend(kCandidates * static_cast<int64_t>(queue_.size()));
    bids += static_cast<int64_t>(queue_.size());
    next_.clear();
    for (const int32_t i : queue_) bid(i, eps);
    queue_.swap(next_);
  }
}

// Estimates the gap from the slack (own value - best value) of every bidder that has an object,
// nearly free of charge.
template <typename S>
AssignSlack Auction<S>::measure_slack(S, AssignTolerance tolerance) {
  normalise();
  std::vector<double> best = best_values();
  double total = 0.0, primal = 0.0, size = 0.0, mean = 0.0, largest = 0.0;
  for (int64_t i = 0; i < frame_.bidders; ++i) {
    const int32_t j = state_.partner[i];
    const double c = j < 0 ? 0.0 : frame_.cost(i, j);
    slack_[i] = j < 0 ? 0.0 : std::max(0.0, c + std::max(state_.price[j], state_.level) - best[i]);
    total += slack_[i];
    primal += c;
    if (frame_.matrix && j >= 0) size += std::fabs(frame_.value(i, j));
    mean += best[i] / static_cast<double>(frame_.bidders);
    largest = std::max(largest, best[i]);
  }
  mean_slack_ = total / static_cast<double>(frame_.bidders);
  const size_t middle = (best.size() - 1) / 2;
  std::nth_element(best.begin(), best.begin() + middle, best.end());
  const double median = best[middle];
  return assign_slack(total, frame_.primal(primal, size), frame_.bidders, tolerance, mean, median,
                      largest, float_floor(), frame_.float_exact);
}

template <typename S>
void Auction<S>::normalise() {
  const double least = lower_prices(frame_, state_);
  for (S& bound : bound_) bound -= static_cast<S>(least);
  refresh_prices();
}

// min_j (c_ij + q_j) in float64. Exact float coordinates allow a float scan as a filter: it errs by
// at most (dim + 6) units relative, and assign_float_tiny, so the true minimum is among the values
// within four times that. Coordinates that float had to round allow no such bound.
template <typename S>
double Auction<S>::row_minimum(int64_t i) {
  if constexpr (std::is_same_v<S, float>) {
    const ScanView<float> objects = view();
    const float best = scan(i).best;
    const double unit = 0x1p-24 * static_cast<double>(frame_.dim + 6);
    const double limit =
        static_cast<double>(best) * (1.0 + 4.0 * unit) + assign_float_tiny(frame_.dim);
    const float threshold = std::nextafter(static_cast<float>(limit), INFINITY);
    const int count = collect(objects, values_.data(), threshold, found_.data(), avx2_);
    const bool all = !frame_.float_exact || count > kCandidates;  // no bound, or massive ties
    double least = INFINITY;
    for (int64_t k = 0; k < (all ? frame_.objects : count); ++k) {
      const int64_t j = all ? k : found_[k];
      least = std::min(least, frame_.cost(i, j) + state_.price[j]);
    }
    return least;
  } else {
    return scan(i).best;
  }
}

// The certified gap of the present assignment, from nothing but coordinates and prices.
template <typename S>
double Auction<S>::certify() {
  normalise();
  CarrySum primal, size, rows, prices;
  for (int64_t i = 0; i < frame_.bidders; ++i) {
    primal.add(frame_.cost(i, state_.partner[i]));
    if (frame_.matrix) size.add(std::fabs(frame_.value(i, state_.partner[i])));
    rows.add(row_minimum(i));
  }
  for (int64_t j = 0; j < frame_.objects; ++j) prices.add(state_.price[j]);
  return assign_gap(frame_.primal(primal.total(), size.total()), rows.total(), prices.total(),
                    frame_.bidders, frame_.dim, kCarryAdds, state_.exact);
}

}  // namespace assign_detail
}  // namespace pointloss
