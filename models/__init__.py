# SPDX-License-Identifier: MIT
"""Single-image reconstruction with pointloss, run from the checkout.

This file is read before torch: OpenMP's threads sleep while they wait for one another and do not
spin. On a machine that does other work, too, spinning takes the cores from the threads that are
waited for: a training step took three to four times as long on two cores with a load of 10.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
