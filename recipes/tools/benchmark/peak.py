"""Peak memory of this process; imports nothing that would add to it."""

import resource
import sys
from pathlib import Path


def reset_peak():
    """Make the peak of this process what it uses now (Linux)."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes():
    """Return the most bytes of memory that this process has used."""
    # In ru_maxrss a new process begins with the peak of its parent.
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
