// SPDX-License-Identifier: MIT
// The gradient that nearest and chamfer share.
#pragma once

#include "../common/calls/nearest_backward_call.h"

namespace pointloss {

// Enqueues it on the current stream; the clouds' device must be the current one.
Gradients gradients_cuda(const BackwardCall& call, bool deterministic);

}  // namespace pointloss
