"""The machine that carries out a run, as far as the last bits may depend on it: it is recorded, and decides nothing."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path
from typing import Any

# What has torch and its libraries compute in another way than the processor and the card suggest.
VARIABLES = (
    *("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE"),
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
    *("OPENBLAS_CORETYPE", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG"),
)


def machine(device: str) -> dict[str, Any]:
    """The processor, its instructions as torch uses them, the variables that change that, and the card or None."""
    import torch

    card = None
    if device.startswith("cuda") and torch.cuda.is_available():
        card = torch.cuda.get_device_name(torch.device(device))
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "variables": {name: os.environ[name] for name in VARIABLES if os.environ.get(name)},
        "card": card,
    }


def words(found: Any) -> str:
    """A machine in a few words, for a message."""
    if not isinstance(found, dict):
        return "an unknown machine"
    said = [found.get("card") or found.get("processor"), found.get("instructions")]
    variables = found.get("variables")
    said += [f"{name}={value}" for name, value in variables.items()] if isinstance(variables, dict) else []
    return ", ".join(str(word) for word in said if word)


@functools.cache
def _processor() -> str:
    """The processor's name as the kernel has it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()
