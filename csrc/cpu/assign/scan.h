// SPDX-License-Identifier: MIT
// Scans of the CPU assignment solver: values v_j = c_ij + max(p_j, level) of one bidder, given by
// its coordinates or, if there are none (dim 0), by its row c_i of a matrix.
//
// A full scan writes all v_j and returns a threshold that some 20 to 60 of them do not pass; these
// become the bidder's candidates. Prices only rise, so as long as the best candidate is not worse
// than the threshold, it is the best of all objects and the scan need not be repeated.
// Every loop exists twice: portable, and AVX2 + FMA behind a run-time check (the library is built
// without -march). Rounding may differ between the two; the solver's certificate depends on
// neither.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

#include "../../common/macros.h"

#ifdef POINTLOSS_HAS_AVX2_VARIANT
#include <immintrin.h>
#define POINTLOSS_AVX2_INLINE __attribute__((target("avx2,fma"), always_inline)) inline
#endif

namespace pointloss {

// Objects are padded to a multiple of this with price infinity: eight AVX2 registers of floats.
constexpr int64_t kScanBlock = 64;
// The threshold is the largest of this many interleaved groups' minima. By the coupon collector
// some 54 values lie below it, and the capacity holds that twice over.
constexpr int kScanGroups = 16;
constexpr int kCandidates = 96;

// Arrays that scans read or write begin at a cache line: else half of the loads may straddle two.
template <typename T>
struct LineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};
  LineAllocator() = default;
  template <typename U>
  LineAllocator(const LineAllocator<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kLine)); }
  void deallocate(T* p, size_t) { ::operator delete(p, kLine); }
  bool operator==(const LineAllocator&) const { return true; }
  bool operator!=(const LineAllocator&) const { return false; }
};
template <typename T>
using ScanVector = std::vector<T, LineAllocator<T>>;

template <typename S>
struct ScanView {
  const S* coords;  // [dim, stride]
  const S* price;   // [stride]
  int64_t stride;   // padded count, a multiple of kScanBlock
  int64_t count;
  int64_t dim;
  bool squared;
  S level;  // every price counts as at least this
};

template <typename S>
struct ScanRow {
  S best;
  S threshold;
};

// The best and second-best candidate of one bidder; `second` is a value only.
template <typename S>
struct BestTwo {
  S best, second, cost;
  int32_t object;
};

// Of the groups' minima.
template <typename S>
ScanRow<S> reduce_groups(const S* least) {
  ScanRow<S> row{least[0], least[0]};
  for (int g = 1; g < kScanGroups; ++g) {
    row.best = std::min(row.best, least[g]);
    row.threshold = std::max(row.threshold, least[g]);
  }
  return row;
}

template <typename S>
ScanRow<S> scan_row_portable(const ScanView<S>& view, const S* point, S* values) {
  S group[kScanGroups];
  std::fill(group, group + kScanGroups, std::numeric_limits<S>::infinity());
  for (int64_t j = 0; j < view.stride; ++j) {
    S cost = view.dim > 0 ? S(0) : point[j];
    for (int64_t d = 0; d < view.dim; ++d) {
      const S t = point[d] - view.coords[d * view.stride + j];
      cost += t * t;
    }
    if (view.dim > 0 && !view.squared) cost = std::sqrt(cost);
    values[j] = cost + std::max(view.price[j], view.level);
    group[j % kScanGroups] = std::min(group[j % kScanGroups], values[j]);
  }
  return reduce_groups(group);
}

// Indices of the values <= threshold in ascending order; stops beyond kCandidates.
template <typename S>
int collect_portable(const S* values, int64_t count, S threshold, int32_t* found) {
  int size = 0;
  for (int64_t j = 0; j < count && size <= kCandidates; ++j) {
    if (values[j] <= threshold) found[size++] = static_cast<int32_t>(j);
  }
  return size;
}

// A threshold that fewer values pass, when more than kCandidates were found to: the value of a
// twelfth of those found, at most a quarter as far from the best. In the end it is the best itself.
template <typename S>
S lower_threshold(const S* values, const int32_t* found, S best, S threshold) {
  S sample[kCandidates];
  for (int k = 0; k < kCandidates; ++k) sample[k] = values[found[k]];
  S* const few = sample + kCandidates / 12;
  std::nth_element(sample, few, sample + kCandidates);
  return std::min(*few, best + (threshold - best) / 4);
}

template <typename S>
BestTwo<S> best_two_portable(const int32_t* object, const S* cost, int size, const S* price,
                             S level) {
  constexpr S kInf = std::numeric_limits<S>::infinity();
  BestTwo<S> top{kInf, kInf, kInf, object[0]};
  for (int k = 0; k < size; ++k) {
    const S v = cost[k] + std::max(price[object[k]], level);
    if (v < top.best) {
      top = {v, top.best, cost[k], object[k]};
    } else {
      top.second = std::min(top.second, v);
    }
  }
  return top;
}

#ifdef POINTLOSS_HAS_AVX2_VARIANT
// One name per AVX2 instruction for float and double, so that the loops below are written once.
struct Avx2Float {
  using S = float;
  using V = __m256;
  static constexpr int kLanes = 8;
  POINTLOSS_AVX2_INLINE static V set(S a) { return _mm256_set1_ps(a); }
  POINTLOSS_AVX2_INLINE static V load(const S* a) { return _mm256_loadu_ps(a); }
  POINTLOSS_AVX2_INLINE static void store(S* a, V v) { _mm256_storeu_ps(a, v); }
  POINTLOSS_AVX2_INLINE static V add(V a, V b) { return _mm256_add_ps(a, b); }
  POINTLOSS_AVX2_INLINE static V sub(V a, V b) { return _mm256_sub_ps(a, b); }
  POINTLOSS_AVX2_INLINE static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  POINTLOSS_AVX2_INLINE static V sqrt(V a) { return _mm256_sqrt_ps(a); }
  POINTLOSS_AVX2_INLINE static V min(V a, V b) { return _mm256_min_ps(a, b); }
  POINTLOSS_AVX2_INLINE static V max(V a, V b) { return _mm256_max_ps(a, b); }
  POINTLOSS_AVX2_INLINE static V less(V a, V b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  POINTLOSS_AVX2_INLINE static V blend(V a, V b, V m) { return _mm256_blendv_ps(a, b, m); }
  POINTLOSS_AVX2_INLINE static unsigned mask_le(V a, V b) {
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LE_OQ)));
  }
  // The masked form: GCC warns about an uninitialised operand inside its own plain one.
  POINTLOSS_AVX2_INLINE static V gather(const S* base, const int32_t* index) {
    const __m256i at = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index));
    return _mm256_mask_i32gather_ps(set(0), base, at, less(set(0), set(1)), 4);
  }
};

struct Avx2Double {
  using S = double;
  using V = __m256d;
  static constexpr int kLanes = 4;
  POINTLOSS_AVX2_INLINE static V set(S a) { return _mm256_set1_pd(a); }
  POINTLOSS_AVX2_INLINE static V load(const S* a) { return _mm256_loadu_pd(a); }
  POINTLOSS_AVX2_INLINE static void store(S* a, V v) { _mm256_storeu_pd(a, v); }
  POINTLOSS_AVX2_INLINE static V add(V a, V b) { return _mm256_add_pd(a, b); }
  POINTLOSS_AVX2_INLINE static V sub(V a, V b) { return _mm256_sub_pd(a, b); }
  POINTLOSS_AVX2_INLINE static V fma(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
  POINTLOSS_AVX2_INLINE static V sqrt(V a) { return _mm256_sqrt_pd(a); }
  POINTLOSS_AVX2_INLINE static V min(V a, V b) { return _mm256_min_pd(a, b); }
  POINTLOSS_AVX2_INLINE static V max(V a, V b) { return _mm256_max_pd(a, b); }
  POINTLOSS_AVX2_INLINE static V less(V a, V b) { return _mm256_cmp_pd(a, b, _CMP_LT_OQ); }
  POINTLOSS_AVX2_INLINE static V blend(V a, V b, V m) { return _mm256_blendv_pd(a, b, m); }
  POINTLOSS_AVX2_INLINE static unsigned mask_le(V a, V b) {
    return static_cast<unsigned>(_mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_LE_OQ)));
  }
  POINTLOSS_AVX2_INLINE static V gather(const S* base, const int32_t* index) {
    const __m128i at = _mm_loadu_si128(reinterpret_cast<const __m128i*>(index));
    return _mm256_mask_i32gather_pd(set(0), base, at, less(set(0), set(1)), 8);
  }
};

inline Avx2Float avx2_for(float) { return {}; }
inline Avx2Double avx2_for(double) { return {}; }

// kDim = 0: any dimension; kRowOfCosts: none, `point` is a row of a matrix, as long as the stride.
constexpr int kRowOfCosts = -1;
template <class A, int kDim>
POINTLOSS_AVX2 ScanRow<typename A::S> scan_row_avx2(const ScanView<typename A::S>& view,
                                                    const typename A::S* point,
                                                    typename A::S* values) {
  using V = typename A::V;
  constexpr int kUnroll = 8;
  const V level = A::set(view.level);
  V group[kUnroll];
  for (int u = 0; u < kUnroll; ++u) group[u] = A::set(INFINITY);
  const int64_t dim = kDim > 0 ? kDim : view.dim;  // of a matrix 0
  V own[kDim > 0 ? kDim : 1];
  for (int d = 0; d < kDim; ++d) own[d] = A::set(point[d]);
  for (int64_t j = 0; j < view.stride; j += kUnroll * A::kLanes) {
#pragma GCC unroll 8
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t at = j + u * A::kLanes;
      V sum = kDim == kRowOfCosts ? A::load(point + at) : A::set(0);
#pragma GCC unroll 4
      for (int64_t d = 0; d < dim; ++d) {
        const V a = kDim > 0 ? own[kDim > 0 ? d : 0] : A::set(point[d]);
        const V t = A::sub(a, A::load(view.coords + d * view.stride + at));
        sum = A::fma(t, t, sum);
      }
      if (kDim != kRowOfCosts && !view.squared) sum = A::sqrt(sum);
      const V v = A::add(sum, A::max(A::load(view.price + at), level));
      A::store(values + at, v);
      group[u] = A::min(group[u], v);
    }
  }
  constexpr int kParts = kScanGroups / A::kLanes;
  typename A::S least[kScanGroups];
  for (int u = kParts; u < kUnroll; ++u) group[u % kParts] = A::min(group[u % kParts], group[u]);
  for (int u = 0; u < kParts; ++u) A::store(least + u * A::kLanes, group[u]);
  return reduce_groups(least);
}

template <class A>
POINTLOSS_AVX2 int collect_avx2(const typename A::S* values, int64_t stride,
                                typename A::S threshold, int32_t* found) {
  const typename A::V limit = A::set(threshold);
  int size = 0;
  for (int64_t j = 0; j < stride && size <= kCandidates; j += A::kLanes) {
    unsigned mask = A::mask_le(A::load(values + j), limit);
    for (; mask != 0; mask &= mask - 1) {
      found[size++] = static_cast<int32_t>(j + __builtin_ctz(mask));
    }
  }
  return size;
}

template <class A>
POINTLOSS_AVX2 BestTwo<typename A::S> best_two_avx2(const int32_t* object,
                                                    const typename A::S* cost, int size,
                                                    const typename A::S* price,
                                                    typename A::S level_value) {
  using S = typename A::S;
  using V = typename A::V;
  const V level = A::set(level_value);
  V best = A::set(INFINITY), second = best, where = A::set(0);
  for (int k = 0; k < size; k += A::kLanes) {
    const V p = A::max(A::gather(price, object + k), level);
    const V v = A::add(A::load(cost + k), p);
    const V better = A::less(v, best);
    second = A::min(second, A::max(v, best));
    where = A::blend(where, A::set(static_cast<S>(k)), better);
    best = A::min(best, v);
  }
  S bests[A::kLanes], seconds[A::kLanes], wheres[A::kLanes];
  A::store(bests, best);
  A::store(seconds, second);
  A::store(wheres, where);
  int top = 0;
  for (int l = 1; l < A::kLanes; ++l) top = bests[l] < bests[top] ? l : top;
  S runner_up = seconds[top];
  for (int l = 0; l < A::kLanes; ++l) {
    if (l != top) runner_up = std::min(runner_up, bests[l]);
  }
  const int k = static_cast<int>(wheres[top]) + top;
  return {bests[top], runner_up, cost[k], object[k]};
}
#endif

inline bool scan_uses_avx2() {
#ifdef POINTLOSS_HAS_AVX2_VARIANT
  static const bool yes = cpu_has_avx2();
  return yes;
#else
  return false;
#endif
}

template <typename S>
ScanRow<S> scan_row(const ScanView<S>& view, const S* point, S* values, bool avx2) {
#ifdef POINTLOSS_HAS_AVX2_VARIANT
  using A = decltype(avx2_for(S{}));
  if (avx2 && view.dim == 3) return scan_row_avx2<A, 3>(view, point, values);
  if (avx2 && view.dim == 2) return scan_row_avx2<A, 2>(view, point, values);
  if (avx2 && view.dim == 0) return scan_row_avx2<A, kRowOfCosts>(view, point, values);
  if (avx2) return scan_row_avx2<A, 0>(view, point, values);
#endif
  (void)avx2;
  return scan_row_portable(view, point, values);
}

template <typename S>
int collect(const ScanView<S>& view, const S* values, S threshold, int32_t* found, bool avx2) {
  // Padding has value infinity and must stay out even where fewer objects than groups exist.
  threshold = std::min(threshold, std::numeric_limits<S>::max());
#ifdef POINTLOSS_HAS_AVX2_VARIANT
  using A = decltype(avx2_for(S{}));
  if (avx2) return collect_avx2<A>(values, view.stride, threshold, found);
#endif
  (void)avx2;
  return collect_portable(values, view.count, threshold, found);
}

// `size` is a multiple of 8 (cost infinity fills up).
template <typename S>
BestTwo<S> best_two(const int32_t* object, const S* cost, int size, const S* price, S level,
                    bool avx2) {
#ifdef POINTLOSS_HAS_AVX2_VARIANT
  using A = decltype(avx2_for(S{}));
  if (avx2) return best_two_avx2<A>(object, cost, size, price, level);
#endif
  (void)avx2;
  return best_two_portable(object, cost, size, price, level);
}

}  // namespace pointloss
