// SPDX-License-Identifier: MIT
// Clouds of equal size on a line, or close to one: their matching in order, and its prices.
//
// Of points on a line, a cost that is convex in the distance is least in order: the first with the
// first, the second with the second. The dual prices of that matching are sums of steps from each
// object to the next. Distances along the line are at most those in space, so for points beside it
// the excess of the matched costs over those along the line bounds how far they are from the
// optimum. Nothing of this is trusted: the solvers certify matching and prices as any others.
// Source: C. Villani, "Topics in Optimal Transportation" (2003), section 2.2.
#pragma once

#include <cmath>
#include <cstdint>

#include "assign.h"

namespace pointloss {

// Clouds of which a point is farther from the line than this part of its length are not tried.
constexpr double kAssignLineHeight = 0x1p-3;
// Matched costs that exceed those along the line by this part may do so by rounding.
constexpr double kAssignLineExcess = 0x1p-40;

POINTLOSS_HD double assign_line_cost(double a, double b, bool squared) {
  const double t = a - b;
  return squared ? t * t : fabs(t);
}

// Whether a pair's cost is within the tolerance of that along the line. Most pairs of clouds close
// to a line are; in the mean alone, one long pair could hide that the others are far from it.
POINTLOSS_HD bool assign_line_fits(double cost, double along, AssignTolerance tolerance) {
  return cost - along <= fmax(fmax(tolerance.rtol, kAssignLineExcess) * cost, tolerance.atol);
}

// Price of object next_b less that of b, if the bidder at a has b and the one at next_a has next_b:
// the middle of the interval in which neither prefers the other's object.
POINTLOSS_HD double assign_line_step(double a, double b, double next_a, double next_b,
                                     bool squared) {
  const double least = assign_line_cost(a, b, squared) - assign_line_cost(a, next_b, squared);
  const double most =
      assign_line_cost(next_a, b, squared) - assign_line_cost(next_a, next_b, squared);
  return 0.5 * (least + most);
}

// A line through point `from`, towards point `to`; each has its coordinates `stride` apart.
struct AssignLine {
  const double *from, *to;
  int64_t from_stride, to_stride, dim;
  double length = 0.0;

  POINTLOSS_HD AssignLine(const double* from, int64_t from_stride, const double* to,
                          int64_t to_stride, int64_t dim)
      : from(from), to(to), from_stride(from_stride), to_stride(to_stride), dim(dim) {
    double square = 0.0;
    for (int64_t d = 0; d < dim; ++d) square += towards(d) * towards(d);
    length = sqrt(square);
  }
  POINTLOSS_HD double towards(int64_t d) const { return to[d * to_stride] - from[d * from_stride]; }
  // Where a point is along the line.
  POINTLOSS_HD double along(const double* point, int64_t stride) const {
    double sum = 0.0;
    for (int64_t d = 0; d < dim; ++d) {
      sum += (point[d * stride] - from[d * from_stride]) * towards(d);
    }
    return sum / length;
  }
  // Its distance from the line, squared.
  POINTLOSS_HD double square_height(const double* point, int64_t stride) const {
    const double part = along(point, stride) / length;
    double sum = 0.0;
    for (int64_t d = 0; d < dim; ++d) {
      const double t = (point[d * stride] - from[d * from_stride]) - part * towards(d);
      sum += t * t;
    }
    return sum;
  }
  POINTLOSS_HD bool is_near(const double* point, int64_t stride) const {
    const double most = kAssignLineHeight * length;
    return square_height(point, stride) <= most * most;
  }
};

}  // namespace pointloss
