# SPDX-License-Identifier: MIT
"""The absolute accuracy of MSN's auction as a relative one."""

# The largest distance that MSN allows for; its clouds lie in the unit cube.
LARGEST = 3.0


def relative(op: str, eps: float) -> float:
    """The rtol of an eps; raise ValueError unless that is above 0."""
    if not eps > 0:
        raise ValueError(f"{op}: eps must be above 0, got {eps}")
    return eps / LARGEST
