// SPDX-License-Identifier: MIT
// Lays arrays out one after the other in one piece of memory, or counts the bytes that they take.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "macros.h"

namespace pointloss {

// Every array begins at a multiple of kAlign bytes after `base`, which may be null for counting.
template <size_t kAlign>
class Arena {
 public:
  POINTLOSS_HD explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  POINTLOSS_HD void take(T*& array, int64_t count) {
    array = reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<size_t>(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
  }

  // Groups of arrays that share memory, because no two are in use at the same time. Each group is a
  // function that takes its arrays; all begin at the same place, and the longest ends them.
  template <class... Group>
  POINTLOSS_HD void overlay(const Group&... groups) {
    const size_t start = used_;
    size_t end = used_;
    ((used_ = start, groups(), end = used_ > end ? used_ : end), ...);
    used_ = end;
  }

  // Bytes from `base` to the end of what was taken so far.
  POINTLOSS_HD size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

}  // namespace pointloss
