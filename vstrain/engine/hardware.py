"""What accelerators can do at most, from their vendors' data sheets: dense FLOP/s, without sparsity."""

from __future__ import annotations

# name as torch reports it contains -> (bfloat16, float32 as torch computes it by default)
PEAK = {
    "H200": (989e12, 67e12),
    "H100 PCIe": (756e12, 51e12),
    "H100": (989e12, 67e12),
    "B200": (2250e12, 80e12),
    "A100": (312e12, 19.5e12),
    "A40": (149.7e12, 37.4e12),
    "A10": (125e12, 31.2e12),
    "L40S": (362e12, 91.6e12),
    "L4": (121e12, 30.3e12),
    "V100": (125e12, 15.7e12),
    "RTX 4090": (165.2e12, 82.6e12),
    "RTX 3090": (71e12, 35.6e12),
}


def peak(name: str, half: bool) -> float | None:
    """FLOP/s of the device of that name; None when the table does not have it."""
    found = next((rates for part, rates in PEAK.items() if part in name), None)
    return found and found[0 if half else 1]
