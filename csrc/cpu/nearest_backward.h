// SPDX-License-Identifier: MIT
// The gradient that nearest and chamfer share.
#pragma once

#include "../common/calls/nearest_backward_call.h"

namespace pointloss {

Gradients gradients_cpu(const BackwardCall& call);

}  // namespace pointloss
