// SPDX-License-Identifier: MIT
// The CPU's matching of clouds of equal size on a line, or close to one: see common/assign_line.h.
//
// Cost: two sorts, and the certificate's scan of all pairs.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "../../common/assign_line.h"
#include "opening.h"

namespace pointloss {
namespace assign_detail {

// The line through the first bidder and the point that is farthest from it, if all are close to it.
inline std::optional<AssignLine> find_line(const Frame& frame) {
  const double *first = frame.bidder.data(), *end = first;
  int64_t end_stride = frame.bidders;
  double farthest = 0.0;
  const auto over_points = [&](auto use) {
    for (int64_t i = 0; i < frame.bidders; ++i) {
      if (!use(&frame.bidder[i], frame.bidders)) return false;
    }
    for (int64_t j = 0; j < frame.objects; ++j) {
      if (!use(&frame.object[j], frame.stride)) return false;
    }
    return true;
  };
  over_points([&](const double* point, int64_t stride) {
    const double far = assign_cost(first, frame.bidders, point, stride, frame.dim, true);
    if (far > farthest) farthest = far, end = point, end_stride = stride;
    return true;
  });
  const AssignLine line(first, frame.bidders, end, end_stride, frame.dim);
  const auto near = [&](const double* point, int64_t stride) {
    return line.is_near(point, stride);
  };
  if (line.length > 0.0 && (frame.dim == 1 || over_points(near))) return line;
  return std::nullopt;
}

struct OnLine {
  double at;
  int32_t point;
};

// The points of one cloud, in order.
inline std::vector<OnLine> in_order(const AssignLine& line, const std::vector<double>& points,
                                    int64_t count, int64_t stride) {
  std::vector<OnLine> order(count);
  for (int64_t k = 0; k < count; ++k) {
    order[k] = {line.along(&points[k], stride), static_cast<int32_t>(k)};
  }
  std::sort(order.begin(), order.end(), [](const OnLine& a, const OnLine& b) {
    return a.at != b.at ? a.at < b.at : a.point < b.point;
  });
  return order;
}

// Gives the matching in order and its prices to `state`; returns the mean cost, or nothing if that
// is too far above the cost along the line.
inline std::optional<double> match_in_order(const Frame& frame, const AssignLine& line,
                                            AssignTolerance tolerance, State& state) {
  const auto bidders = in_order(line, frame.bidder, frame.bidders, frame.bidders);
  const auto objects = in_order(line, frame.object, frame.objects, frame.stride);
  CarrySum excess, primal, price;
  int64_t fitting = 0;
  for (int64_t k = 0; k < frame.objects; ++k) {
    const OnLine &a = bidders[k], &b = objects[k];
    const double cost = frame.cost(a.point, b.point);
    const double along = assign_line_cost(a.at, b.at, frame.squared);
    primal.add(cost);
    excess.add(cost - along);
    fitting += assign_line_fits(cost, along, tolerance);
  }
  const double mean = primal.total() / static_cast<double>(frame.bidders);
  const double most = std::max(tolerance.relative(mean), kAssignLineExcess);
  if (excess.total() > most * primal.total() || 2 * fitting < frame.objects) return std::nullopt;
  for (int64_t k = 0; k < frame.objects; ++k) {
    const OnLine &a = bidders[k], &b = objects[k];
    state.partner[a.point] = b.point;
    state.owner[b.point] = a.point;
    state.price[b.point] = price.total();
    if (k + 1 == frame.objects) break;
    price.add(assign_line_step(a.at, b.at, bidders[k + 1].at, objects[k + 1].at, frame.squared));
  }
  state.level = -INFINITY;  // prices count from their least
  return mean;
}

// Solves clouds of equal size on or close to a line, if that is within the tolerance; returns the
// certified gap.
inline std::optional<double> solve_on_line(const Frame& frame, AssignTolerance tolerance,
                                           State& state) {
  if (frame.matrix || frame.bidders != frame.objects) return std::nullopt;
  const std::optional<AssignLine> line = find_line(frame);
  if (!line) return std::nullopt;
  const std::optional<double> mean = match_in_order(frame, *line, tolerance, state);
  if (!mean) return std::nullopt;
  Auction<double> auction(frame, state);
  const double gap = auction.certify();
  if (gap <= std::max(tolerance.relative(*mean), state.exact)) return gap;
  drop_prices(frame, auction, state);
  return std::nullopt;
}

}  // namespace assign_detail
}  // namespace pointloss
