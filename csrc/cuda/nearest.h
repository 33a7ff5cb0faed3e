// SPDX-License-Identifier: MIT
// What nearest, k_nearest and chamfer share: the search for neighbours, and the index of y.
#pragma once

#include "../common/calls/nearest_call.h"

namespace pointloss {

// Enqueues it on the current stream; the clouds' device must be the current one.
void search_nearest_cuda(const NearestCall& call, const NearestOutput& out);

// The trees of all y (tree/forest.cuh), enqueued likewise; no bytes where there are none.
Tensor nearest_index_cuda(Tensor y, std::optional<Tensor> y_lengths);

// An error unless an index may be one of y.
void check_index_cuda(const Tensor& index, const Tensor& y);

}  // namespace pointloss
