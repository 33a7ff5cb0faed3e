# SPDX-License-Identifier: MIT
"""`python -m pointloss` is `pointloss info`."""

import sys

from pointloss.cli import main

sys.exit(main())
