// SPDX-License-Identifier: MIT
// The search for neighbours that nearest and chamfer share.
#pragma once

#include "../common/calls/nearest_call.h"

namespace pointloss {

void search_nearest_cpu(const NearestCall& call, const NearestOutput& out);

}  // namespace pointloss
