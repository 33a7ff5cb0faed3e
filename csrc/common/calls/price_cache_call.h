// SPDX-License-Identifier: MIT
// Calls of pointloss::price_cache_read and _write as both devices check and allocate them.
#pragma once

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../checks.h"
#include "../price_cache.h"

namespace pointloss {

// `points`: of the larger cloud; `N`: of x.
inline PriceCacheRows check_price_cache(const Tensor& kept_price, const Tensor& kept_idx,
                                        const Tensor& ids, int64_t N, int64_t points) {
  STD_TORCH_CHECK(kept_price.dim() == 2 && kept_price.scalar_type() == ScalarType::Float &&
                      kept_price.is_contiguous(),
                  "the cached prices must be float32 [samples, points], contiguous");
  STD_TORCH_CHECK(kept_idx.dim() == 2 && kept_idx.size(0) == kept_price.size(0) &&
                      kept_idx.size(1) == kept_price.size(1) &&
                      kept_idx.scalar_type() == ScalarType::Int && kept_idx.is_contiguous(),
                  "the cached matching must be int32 [samples, points], contiguous");
  STD_TORCH_CHECK(ids.dim() == 1 && ids.scalar_type() == ScalarType::Long && ids.is_contiguous(),
                  "ids must be int64 [B], contiguous");
  STD_TORCH_CHECK(kept_idx.device() == kept_price.device() && ids.device() == kept_price.device(),
                  "ids and the cache are on different devices");
  STD_TORCH_CHECK(0 <= N && N <= points && points <= kept_price.size(1),
                  "the cache has no room for so many points");
  return {ids.const_data_ptr<int64_t>(),
          ids.size(0),
          N,
          points,
          kept_price.size(0),
          kept_price.size(1)};
}

using PriceCacheStart = std::tuple<Tensor, Tensor>;

inline PriceCacheRead check_price_cache_read(const Tensor& kept_price, const Tensor& kept_idx,
                                             const Tensor& ids, int64_t N, int64_t points,
                                             PriceCacheStart& start) {
  const PriceCacheRows rows = check_price_cache(kept_price, kept_idx, ids, N, points);
  auto& [price, idx] = start;
  price = new_tensor(ids, {rows.B, points}, ScalarType::Double);
  idx = new_tensor(ids, {rows.B, N}, ScalarType::Long);
  return {rows, kept_price.const_data_ptr<float>(), kept_idx.const_data_ptr<int32_t>(),
          price.mutable_data_ptr<double>(), idx.mutable_data_ptr<int64_t>()};
}

// What a write reads, contiguous, and its result.
struct PriceCacheWriteCall {
  Tensor price, idx, cost, judged;
  PriceCacheWrite params;

  PriceCacheWriteCall(Tensor& kept_price, Tensor& kept_idx, Tensor& age, const Tensor& ids,
                      const Tensor& given_price, const Tensor& given_idx, const Tensor& given_cost)
      : price(dense(given_price)), idx(dense(given_idx)), cost(dense(given_cost)), judged(cost) {
    STD_TORCH_CHECK(price.dim() == 2 && idx.dim() == 2 && cost.dim() == 1,
                    "price, idx and cost must be [B, max(N, M)], [B, N] and [B]");
    const PriceCacheRows rows =
        check_price_cache(kept_price, kept_idx, ids, idx.size(1), price.size(1));
    check_optional(price, ids, {rows.B, rows.points}, ScalarType::Double, "price",
                   "[B, max(N, M)]");
    check_optional(idx, ids, {rows.B, rows.N}, ScalarType::Long, "idx", "[B, N]");
    check_optional(cost, ids, {rows.B}, ScalarType::Double, "cost", "[B]");
    check_optional(age, ids, {rows.samples}, ScalarType::Long, "age", "[samples]");
    STD_TORCH_CHECK(age.is_contiguous(), "age must be contiguous");
    judged = new_tensor(ids, {rows.B}, ScalarType::Double);
    params = {rows,
              kept_price.mutable_data_ptr<float>(),
              kept_idx.mutable_data_ptr<int32_t>(),
              age.mutable_data_ptr<int64_t>(),
              price.const_data_ptr<double>(),
              idx.const_data_ptr<int64_t>(),
              cost.const_data_ptr<double>(),
              judged.mutable_data_ptr<double>()};
  }
};

}  // namespace pointloss
