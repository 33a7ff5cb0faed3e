// SPDX-License-Identifier: MIT
// Data of the CPU assignment solver: scaled clouds, auction state, compensated sums.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../../common/assign.h"
#include "../interrupt.h"
#include "scan.h"

namespace pointloss {
namespace assign_detail {

// Both clouds scaled by 2^-exponent, coordinate by coordinate.
struct Frame {
  int64_t bidders = 0, objects = 0, dim = 0;
  int64_t stride = 0;  // objects padded to kScanBlock
  bool squared = false;
  bool swapped = false;  // bidders are y
  bool float_exact = false;
  int exponent = 0;
  std::vector<double> bidder;  // [dim, bidders]
  std::vector<double> object;  // [dim, stride]
  std::vector<double> centre;  // [dim], taken off before rounding to float

  double cost(int64_t i, int64_t j) const {
    return assign_cost(&bidder[i], bidders, &object[j], stride, dim, squared);
  }
};

// A thread looks whether it is interrupted after so much work, in coordinates: some 0.1 ms.
constexpr int64_t kWorkPerCheck = 1 << 18;

struct State {
  explicit State(Interrupt& given) : interrupt(given) {}

  Interrupt& interrupt;
  int64_t work = 0;
  // Every loop over all objects says how much it does; throws Interrupted.
  void spend(int64_t more) {
    work += more;
    if (work < kWorkPerCheck) return;
    work = 0;
    interrupt.check();
  }

  std::vector<double> price;  // [stride], padding infinity
  double level = 0.0;         // every price counts as at least this
  double raise_cap = 0.0;
  std::vector<int32_t> partner;  // [bidders] object or -1
  std::vector<int32_t> owner;    // [stride] bidder or -1
  int64_t rounds = 0;
  double exact = 0.0;        // the gap of the last certificate that is as good as 0
  bool count_steps = false;  // a step of a path search is a round, as is a bid without rivals
  // As they were at the end of the last whole phase; empty before the first one ends.
  std::vector<double> last_price;
  double last_level = 0.0;
  std::vector<int32_t> last_partner;
};

// Sum with the roundings carried along (Neumaier 1974): two roundings in effect for any length.
struct CarrySum {
  double sum = 0.0, carry = 0.0;
  void add(double a) {
    const double next = sum + a;
    carry += std::fabs(sum) >= std::fabs(a) ? (sum - next) + a : (a - next) + sum;
    sum = next;
  }
  double total() const { return sum + carry; }
};
constexpr int64_t kCarryAdds = 4;

// Scales [bidders, dim] and [objects, dim] into `frame`, whose sizes are set. Returns false when a
// coordinate is not finite; leaves frame.stride 0 when all points coincide.
template <typename T>
bool scale_clouds(const T* bidder, const T* object, Frame& frame) {
  const int64_t dim = frame.dim;
  frame.float_exact = std::is_same_v<T, float>;
  double half_extent = 0.0;
  frame.centre.resize(dim);
  for (int64_t d = 0; d < dim; ++d) {
    double low = INFINITY, high = -INFINITY;
    const auto include = [&](const T* points, int64_t count) {
      for (int64_t k = 0; k < count; ++k) {
        const double c = static_cast<double>(points[k * dim + d]);
        if (!std::isfinite(c)) return false;
        low = std::min(low, c);
        high = std::max(high, c);
      }
      return true;
    };
    if (!include(bidder, frame.bidders) || !include(object, frame.objects)) return false;
    half_extent = std::max(half_extent, high / 2 - low / 2);
    frame.centre[d] = low / 2 + high / 2;
  }
  if (half_extent == 0.0) return true;

  frame.exponent = assign_exponent(half_extent);
  const AssignScale scale(frame.exponent);
  frame.stride = (frame.objects + kScanBlock - 1) / kScanBlock * kScanBlock;
  frame.bidder.resize(dim * frame.bidders);
  frame.object.assign(dim * frame.stride, 0.0);
  for (int64_t d = 0; d < dim; ++d) {
    frame.centre[d] = scale(frame.centre[d]);
    for (int64_t i = 0; i < frame.bidders; ++i) {
      frame.bidder[d * frame.bidders + i] = scale(static_cast<double>(bidder[i * dim + d]));
    }
    for (int64_t j = 0; j < frame.objects; ++j) {
      frame.object[d * frame.stride + j] = scale(static_cast<double>(object[j * dim + d]));
    }
  }
  return true;
}

// Mean cost of pairing bidder i with object i.
inline double identity_cost(const Frame& frame) {
  double sum = 0.0;
  for (int64_t i = 0; i < frame.bidders; ++i) sum += frame.cost(i, i);
  return sum / static_cast<double>(frame.bidders);
}

// Warm prices in scaled units with minimum 0; whatever is not a finite number counts as 0.
inline void load_prices(const Frame& frame, const double* price_in, State& state) {
  const int exponent = -frame.exponent * (frame.squared ? 2 : 1);
  double least = INFINITY;
  for (int64_t j = 0; j < frame.objects; ++j) {
    const double p = std::ldexp(price_in[j], exponent);
    state.price[j] = std::isfinite(p) ? p : 0.0;
    least = std::min(least, state.price[j]);
  }
  for (int64_t j = 0; j < frame.objects; ++j) state.price[j] -= least;
}

// Lowers all prices together until the least is zero, which changes nothing but the numbers' size;
// returns by how much.
inline double lower_prices(const Frame& frame, State& state) {
  double least = INFINITY;
  for (int64_t j = 0; j < frame.objects; ++j) {
    least = std::min(least, std::max(state.price[j], state.level));
  }
  for (int64_t j = 0; j < frame.objects; ++j) {
    state.price[j] = std::max(state.price[j], state.level) - least;
  }
  state.level = 0.0;
  return least;
}

// A matching as it is returned, of which an object goes to the first that asks for it and whatever
// is no object to nobody; returns whether every bidder has one.
inline bool load_matching(const Frame& frame, const int64_t* idx_in, State& state) {
  const int64_t n = frame.swapped ? frame.objects : frame.bidders;
  const int64_t m = frame.swapped ? frame.bidders : frame.objects;
  int64_t pairs = 0;
  for (int64_t k = 0; k < n; ++k) {
    if (idx_in[k] < 0 || idx_in[k] >= m) continue;
    const int64_t i = frame.swapped ? idx_in[k] : k, j = frame.swapped ? k : idx_in[k];
    if (state.partner[i] >= 0 || state.owner[j] >= 0) continue;
    state.partner[i] = static_cast<int32_t>(j);
    state.owner[j] = static_cast<int32_t>(i);
    ++pairs;
  }
  return pairs == frame.bidders;
}

// Gives each bidder that is left the nearest unowned object.
inline void complete_greedily(const Frame& frame, State& state) {
  for (int64_t i = 0; i < frame.bidders; ++i) {
    if (state.partner[i] >= 0) continue;
    state.spend(frame.objects * frame.dim);
    int64_t nearest = -1;
    double least = INFINITY;
    for (int64_t j = 0; j < frame.objects; ++j) {
      if (state.owner[j] >= 0) continue;
      const double c = frame.cost(i, j);
      if (nearest < 0 || c < least) {
        nearest = j;
        least = c;
      }
    }
    state.partner[i] = static_cast<int32_t>(nearest);
    state.owner[nearest] = static_cast<int32_t>(i);
  }
}

// A phase has ended: what a later one that is cut short falls back to.
inline void keep_phase(State& state) {
  state.last_price = state.price;
  state.last_level = state.level;
  state.last_partner = state.partner;
}

// After a phase that was cut short: the assignment and prices of the last whole phase, if any.
inline void restore_or_complete(const Frame& frame, State& state) {
  if (state.last_partner.empty()) return complete_greedily(frame, state);
  state.price = state.last_price;
  state.level = state.last_level;
  state.partner = state.last_partner;
}

}  // namespace assign_detail
}  // namespace pointloss
