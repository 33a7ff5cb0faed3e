// SPDX-License-Identifier: MIT
// pointloss::price_cache_read and price_cache_write on the CPU.
#include "../common/calls/price_cache_call.h"

namespace pointloss {
namespace {

PriceCacheStart price_cache_read_cpu(Tensor kept_price, Tensor kept_idx, Tensor ids, int64_t N,
                                     int64_t points) {
  PriceCacheStart start{ids, ids};
  const PriceCacheRead params = check_price_cache_read(kept_price, kept_idx, ids, N, points, start);
  for (int64_t b = 0; b < params.B; ++b) {
    for (int64_t k = 0; k < points; ++k) price_cache_read(params, b, k);
  }
  return start;
}

Tensor price_cache_write_cpu(Tensor kept_price, Tensor kept_idx, Tensor age, Tensor ids,
                             Tensor price, Tensor idx, Tensor cost) {
  const PriceCacheWriteCall call(kept_price, kept_idx, age, ids, price, idx, cost);
  const PriceCacheWrite& params = call.params;
  for (int64_t s = 0; s < params.samples; ++s) ++params.age[s];
  for (int64_t b = 0; b < params.B; ++b) {  // in turn: of one row's clouds the last one stays
    const int64_t row = params.row(b);
    params.judged[b] = row < 0 ? NAN : params.cost[b];
    if (row < 0) continue;
    params.age[row] = 0;
    for (int64_t k = 0; k < params.points; ++k) price_cache_write(params, b, k);
  }
  return call.judged;
}

}  // namespace
}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CPU, m) {
  m.impl("price_cache_read", TORCH_BOX(&pointloss::price_cache_read_cpu));
  m.impl("price_cache_write", TORCH_BOX(&pointloss::price_cache_write_cpu));
}
