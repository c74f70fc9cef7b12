"""What a run computes on."""

import os
import sys

import torch
from accelerate import Accelerator


def hardware(device: torch.device) -> str:
    """What a run computed on, as a class of machine."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"


def computes_in_bfloat16() -> bool:
    """Whether the device has instructions for bfloat16; without them it is several times slower than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def use_all_cores(accelerator: Accelerator) -> None:
    """Share a machine's cores between its processes on CPU: launchers leave each with one thread."""
    if accelerator.device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
