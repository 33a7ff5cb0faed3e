// SPDX-License-Identifier: MIT
// The search for neighbours that nearest and chamfer share.
#pragma once

#include "../common/nearest_call.h"

namespace pointloss {

// Enqueues it on the current stream; the clouds' device must be the current one.
void search_nearest_cuda(const NearestCall& call, const NearestOutput& out);

}  // namespace pointloss
