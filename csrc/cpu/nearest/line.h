// SPDX-License-Identifier: MIT
// Nearest neighbours in clouds of one axis, exact: what brute force answers, bit for bit.
//
// Method: both clouds are sorted, and a place among the targets goes up with the queries. Rounding
// is monotone, so to either side of it distances as computed do not fall: those that equal the
// least are a run around the place, whose lowest index a tree of minima tells.
// Cost: three passes of a radix sort for float, six for double, then some operations a query.
// Memory: 20 bytes a point for float and 24 for double, 16 and 32 more while it is sorted. The sort
// of a cloud runs on one thread.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "../../common/distance.h"

namespace pointloss {

template <class T>
class SortedLine {
 public:
  // The cloud [m, 1].
  void set_points(const T* points, int64_t m) {
    std::vector<Item> items;
    items.reserve(m);
    for (int64_t i = 0; i < m; ++i) {
      if (std::isfinite(points[i])) {
        items.push_back({ordered(points[i]), static_cast<Word>(i)});
      } else {
        (points[i] != points[i] ? nan_ : infinite_).push_back(i);
      }
    }
    sort(items);
    at_.resize(items.size());
    lowest_.resize(2 * items.size());
    const auto size = static_cast<int64_t>(items.size());
    for (int64_t i = 0; i < size; ++i) {
      at_[i] = value(items[i].key);
      lowest_[size + i] = static_cast<int64_t>(items[i].id);
    }
    for (int64_t i = size - 1; i > 0; --i) {
      lowest_[i] = std::min(lowest_[2 * i], lowest_[2 * i + 1]);
    }
  }

  // Points that are finite.
  int64_t size() const { return static_cast<int64_t>(at_.size()); }

  // The neighbours in `targets` of points [begin, end), in sorted order; dist and idx, [m], are in
  // the order of the cloud.
  template <int kNorm>
  void search(int64_t begin, int64_t end, const SortedLine& targets, T* dist, int64_t* idx) const {
    if (begin >= end) return;
    const std::vector<T>& at = targets.at_;
    const auto count = static_cast<int64_t>(at.size());
    int64_t place = std::lower_bound(at.begin(), at.end(), at_[begin]) - at.begin();
    for (int64_t i = begin; i < end; ++i) {
      const T query = at_[i];
      const auto to = [&](int64_t k) { return distance<kNorm, 1, T>(&query, &at[k], 1, 1); };
      while (place < count && at[place] < query) ++place;
      T best = place < count ? to(place) : std::numeric_limits<T>::infinity();
      if (place > 0) best = std::min(best, to(place - 1));
      int64_t first = place, last = place;  // the run at this distance
      if (place > 0 && to(place - 1) == best) {
        first = place - 1;
        if (first > 0 && to(first - 1) == best) {
          first = partition(0, first, [&](int64_t k) { return to(k) > best; });
        }
      }
      if (place < count && to(place) == best) {
        last = place + 1;
        if (last < count && to(last) == best) {
          last = partition(last, count, [&](int64_t k) { return to(k) == best; });
        }
      }
      const int64_t own = lowest_[size() + i];
      dist[own] = best;
      idx[own] = best < std::numeric_limits<T>::infinity() ? targets.lowest(first, last) : -1;
    }
  }

  // The answers of the points that are not finite: they have no neighbour.
  void answer_rest(T* dist, int64_t* idx) const {
    for (const int64_t i : nan_) dist[i] = std::numeric_limits<T>::quiet_NaN(), idx[i] = -1;
    for (const int64_t i : infinite_) dist[i] = std::numeric_limits<T>::infinity(), idx[i] = -1;
  }

 private:
  using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  static constexpr Word kSign = Word{1} << (8 * sizeof(T) - 1);
  struct Item {
    Word key, id;
  };

  // Bits that have the order of the values.
  static Word ordered(T v) {
    Word bits;
    std::memcpy(&bits, &v, sizeof bits);
    return bits & kSign ? ~bits : bits | kSign;
  }
  static T value(Word key) {
    const Word bits = key & kSign ? key ^ kSign : ~key;
    T v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
  }

  static void sort(std::vector<Item>& items) {
    constexpr int kBits = 11, kPasses = (8 * sizeof(T) + kBits - 1) / kBits;
    std::vector<std::array<int64_t, 1 << kBits>> counts(kPasses);
    const auto digit = [](const Item& item, int pass) {
      return (item.key >> (kBits * pass)) & ((1 << kBits) - 1);
    };
    for (const Item& item : items) {
      for (int pass = 0; pass < kPasses; ++pass) ++counts[pass][digit(item, pass)];
    }
    std::vector<Item> moved(items.size());
    for (int pass = 0; pass < kPasses; ++pass) {
      int64_t before = 0;
      for (int64_t& count : counts[pass]) before += std::exchange(count, before);
      for (const Item& item : items) moved[counts[pass][digit(item, pass)]++] = item;
      items.swap(moved);
    }
  }

  // The first k of [begin, end) for which `holds` does not, which it does for all before.
  template <class Holds>
  static int64_t partition(int64_t begin, int64_t end, const Holds& holds) {
    while (begin < end) {
      const int64_t middle = begin + (end - begin) / 2;
      holds(middle) ? begin = middle + 1 : end = middle;
    }
    return begin;
  }

  // The lowest index of the points [begin, end), not none, in sorted order.
  int64_t lowest(int64_t begin, int64_t end) const {
    int64_t found = std::numeric_limits<int64_t>::max();
    for (begin += size(), end += size(); begin < end; begin /= 2, end /= 2) {
      if (begin % 2 == 1) found = std::min(found, lowest_[begin++]);
      if (end % 2 == 1) found = std::min(found, lowest_[--end]);
    }
    return found;
  }

  std::vector<T> at_;            // sorted
  std::vector<int64_t> lowest_;  // from size() on the indices, before it minima of 2 k and 2 k + 1
  std::vector<int64_t> nan_, infinite_;
};

}  // namespace pointloss
