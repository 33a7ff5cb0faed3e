// SPDX-License-Identifier: MIT
// pointloss::price_cache_read and price_cache_write on CUDA: check, allocate, launch.
#include "../common/calls/price_cache_call.h"
#include "price_cache/rows.cuh"
#include "shared/stream.h"

namespace pointloss {
namespace {

PriceCacheStart price_cache_read_cuda(Tensor kept_price, Tensor kept_idx, Tensor ids, int64_t N,
                                      int64_t points) {
  const torch::stable::accelerator::DeviceGuard guard(ids.get_device_index());
  PriceCacheStart start{ids, ids};
  const PriceCacheRead params = check_price_cache_read(kept_price, kept_idx, ids, N, points, start);
  check_launch("price_cache_read",
               launch_price_cache_read(params, current_stream(ids.get_device_index())));
  return start;
}

Tensor price_cache_write_cuda(Tensor kept_price, Tensor kept_idx, Tensor age, Tensor ids,
                              Tensor price, Tensor idx, Tensor cost) {
  const torch::stable::accelerator::DeviceGuard guard(ids.get_device_index());
  const PriceCacheWriteCall call(kept_price, kept_idx, age, ids, price, idx, cost);
  check_launch("price_cache_write",
               launch_price_cache_write(call.params, current_stream(ids.get_device_index())));
  return call.judged;
}

}  // namespace
}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CUDA, m) {
  m.impl("price_cache_read", TORCH_BOX(&pointloss::price_cache_read_cuda));
  m.impl("price_cache_write", TORCH_BOX(&pointloss::price_cache_write_cuda));
}
