# SPDX-License-Identifier: MIT
"""What this project's tests and benchmarks share, for tests of one's own ops over clouds.

`clouds` makes clouds that break implementations; `streams` calls an op on another CUDA stream and
captures it as a CUDA graph.
"""
