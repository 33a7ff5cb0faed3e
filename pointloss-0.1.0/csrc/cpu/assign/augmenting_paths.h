// SPDX-License-Identifier: MIT
// Finishes a phase of the CPU auction by shortest augmenting paths.
//
// Bids of eps apiece take forever where a group of bidders must pay far more than eps before one of
// them leaves it (two far groups, one bidder too many in one; squared costs of two scales). A path
// search lifts all of the group's prices at once, by just what it takes.
// Method: Dijkstra's search from one bidder without an object, over objects. The step from bidder i
// to object j is as long as c_ij + p_j exceeds the bidder's least value, the step from an object to
// its owner has length 0. The search ends at the nearest object that is free; every object nearer
// than that is raised by the difference, and along the path each bidder moves on to the next
// object. No bidder's slack (own value less least value) grows by this, those on the path have none
// after it, and prices only rise: the phase's guarantee of K * eps holds as if all had bid.
// The phantoms (auction.h) are one node: all of them pay the level for unowned objects, and
// may take any other object as soon as the level has risen to its price. An unowned object that is
// dearer than the level is free; so are those at the level, while they outnumber the phantoms.
// Source: R. Jonker, A. Volgenant, "A shortest augmenting path algorithm for dense and sparse
// linear assignment problems", Computing 38 (1987); the phantoms are ours.
//
// Cost: a search settles objects, each with one scan of its owner's row, in double: at most K rows,
// mostly some tens. At most one search for each bidder and each phantom without an object. A search
// is one round of the default bound, which K rows cannot make endless; of a bound that the caller
// sets every step is, or a round would take K times as long as most bids do.
#pragma once

#include "frame.h"

namespace pointloss {
namespace assign_detail {

class Paths {
 public:
  Paths(const Frame& frame, State& state)
      : frame_(frame),
        state_(state),
        point_(frame.dim),
        values_(frame.stride),
        distance_(frame.objects),
        from_(frame.objects),
        settled_(frame.objects) {}

  // Gives every bidder and every phantom an object; false when the bound on rounds was hit first: a
  // search that it cuts short changes nothing.
  bool finish(int64_t round_limit) {
    for (int32_t i = 0; i < frame_.bidders; ++i) {
      if (state_.partner[i] >= 0) continue;
      if (state_.rounds >= round_limit) return false;
      ++state_.rounds;
      if (!augment(i, round_limit)) return false;
    }
    while (frame_.bidders < frame_.objects && any_stranded()) {
      if (state_.rounds >= round_limit) return false;
      ++state_.rounds;
      if (!augment(kPhantom, round_limit)) return false;
    }
    return true;
  }

 private:
  static constexpr int32_t kPhantom = -1;

  double price(int64_t j) const { return std::max(state_.price[j], state_.level); }
  bool at_level(int64_t j) const { return state_.owner[j] < 0 && state_.price[j] <= state_.level; }
  bool any_stranded() const {
    for (int64_t j = 0; j < frame_.objects; ++j) {
      if (state_.owner[j] < 0 && !at_level(j)) return true;
    }
    return false;
  }

  bool augment(int32_t source, int64_t round_limit);
  void step(int32_t row, double start);
  void step_of_phantoms(double start, int32_t entry);
  void raise(double length);
  void move_along(int32_t end, int32_t source);

  const Frame& frame_;
  State& state_;
  std::vector<double> point_, values_;
  std::vector<double> distance_;  // [objects] from the source, as far as known
  std::vector<int32_t> from_;     // [objects] the bidder that the last step comes from
  std::vector<char> settled_;     // [objects] the distance is final
  std::vector<int32_t> order_;    // settled objects that a bidder owns
  double phantom_distance_ = INFINITY;
  int32_t phantom_entry_ = -1;  // the object at the level that was reached first
};

// Steps from a bidder at distance `start` to all objects.
inline void Paths::step(int32_t row, double start) {
  for (int64_t d = 0; d < frame_.dim; ++d) {
    point_[d] = frame_.bidder[d * frame_.bidders + row];
  }
  const ScanView<double> view{frame_.object.data(), state_.price.data(), frame_.stride,
                              frame_.objects,       frame_.dim,          frame_.squared,
                              state_.level};
  const double best = scan_row(view, point_.data(), values_.data(), scan_uses_avx2()).best;
  for (int64_t j = 0; j < frame_.objects; ++j) {
    const double distance = start + (values_[j] - best);
    if (distance < distance_[j] && !settled_[j]) {
      distance_[j] = distance;
      from_[j] = row;
    }
  }
}

// Steps from the phantoms, which is the end for the objects at the level: they are theirs.
inline void Paths::step_of_phantoms(double start, int32_t entry) {
  phantom_distance_ = start;
  phantom_entry_ = entry;
  for (int64_t j = 0; j < frame_.objects; ++j) {
    if (at_level(j)) settled_[j] = true;
    const double distance = start + (price(j) - state_.level);
    if (distance < distance_[j] && !settled_[j]) {
      distance_[j] = distance;
      from_[j] = kPhantom;
    }
  }
}

inline bool Paths::augment(int32_t source, int64_t round_limit) {
  std::fill(distance_.begin(), distance_.end(), INFINITY);
  std::fill(settled_.begin(), settled_.end(), false);
  order_.clear();
  phantom_distance_ = INFINITY;
  int64_t level_count = 0;
  for (int64_t j = 0; j < frame_.objects; ++j) level_count += at_level(j);
  const bool level_is_free = level_count > frame_.objects - frame_.bidders;

  source == kPhantom ? step_of_phantoms(0.0, -1) : step(source, 0.0);
  while (true) {
    state_.spend(frame_.objects * (frame_.dim + 1));
    int32_t nearest = -1;
    for (int32_t j = 0; j < frame_.objects; ++j) {
      if (!settled_[j] && (nearest < 0 || distance_[j] < distance_[nearest])) nearest = j;
    }
    const double distance = distance_[nearest];
    const bool goes_on = state_.owner[nearest] >= 0 || (at_level(nearest) && !level_is_free);
    if (goes_on && state_.count_steps) {
      if (state_.rounds >= round_limit) return false;
      ++state_.rounds;
    }
    settled_[nearest] = true;
    if (state_.owner[nearest] >= 0) {
      order_.push_back(nearest);
      step(state_.owner[nearest], distance);
    } else if (at_level(nearest) && !level_is_free) {
      step_of_phantoms(distance, nearest);
    } else {
      raise(distance);
      move_along(nearest, source);
      return true;
    }
  }
}

// Raises what is nearer than the end of the path, whose length is given.
inline void Paths::raise(double length) {
  for (const int32_t j : order_) state_.price[j] = price(j) + (length - distance_[j]);
  if (phantom_distance_ < length) state_.level += length - phantom_distance_;
}

inline void Paths::move_along(int32_t end, int32_t source) {
  for (int32_t j = end;;) {
    const int32_t row = from_[j];
    int32_t previous = phantom_entry_;
    if (row == kPhantom) {
      state_.owner[j] = -1;
      state_.level = std::max(state_.level, state_.price[j]);  // equal but for rounding
    } else {
      previous = state_.partner[row];
      state_.owner[j] = row;
      state_.partner[row] = j;
    }
    if (row == source) return;
    j = previous;
  }
}

}  // namespace assign_detail
}  // namespace pointloss
