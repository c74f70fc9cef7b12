"""What a run computes on."""

import ctypes
import os
import platform
import re
import shutil
import statistics
import sys
import sysconfig
import time
from functools import cache
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from torch import nn
from transformers import PreTrainedModel

SECONDS_THAT_COMPILING_NEEDS = {"bf16": 300, "fp32": 900}
LONGEST_ROW_THAT_COMPILING_SPEEDS = {"bf16": 512, "fp32": 256}
TOKENS_PER_BATCH = {"cpu": 2_048, "cuda": 16_384}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Settings of glibc's mallopt(3): how much free memory may stay, and how many large pieces may come one by one from the
system, which gets them back at once."""
WATTS_OF_A_CPU_CORE = 12
"""What Green Algorithms takes for a CPU that it does not know (Lannelongue et al. 2021, doi:10.1002/advs.202100707)."""
WATTS_OF_A_GPU = {
    "A100": 400,
    "H100": 700,
    "H200": 700,
    "L4": 72,
    "RTX 3090": 350,
    "RTX 4090": 450,
    "T4": 70,
    "V100": 300,
}
"""The most that a device takes by its maker's data sheet, by a part of its name."""


OTHER_FORMS = ("PCIe", "PCIE", "NVL", "MIG", "Ti", "SUPER", "Super", "Laptop", "Max")
"""Words in the names of devices that take less, or of parts of one."""


def hardware(device: torch.device) -> str:
    """The kind of device that a run computes on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type.upper()
    return f"{cores()} CPU core{'s' if cores() > 1 else ''}"


def cores() -> int:
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def nominal_watts(kind: str, num_devices: int) -> float | None:
    """The power of a run's hardware in watts by its class: not measured, and without memory, cooling or the rest.

    Args:
        kind: what `hardware` says.
        num_devices: GPUs that the run computes on; a machine's CPU cores count as they are.

    Returns:
        Watts; None for a device whose power is not known here.
    """
    if cores := re.fullmatch(r"(\d+) CPU cores?", kind):
        return int(cores[1]) * WATTS_OF_A_CPU_CORE
    words = f" {re.sub(r'[ -]', ' ', kind)} "
    if any(f" {form} " in words for form in OTHER_FORMS):
        return None
    found = [watts for name, watts in WATTS_OF_A_GPU.items() if f" {name} " in words]
    return found[0] * num_devices if found else None


@cache  # asking a GPU takes a while, and Muon asks for every shape in every step
def computes_in_bfloat16() -> bool:
    """Whether the device has instructions for bfloat16; without them it is several times slower than float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fastest_attention(length: int, *, is_compiled: bool = False) -> Literal["eager", "sdpa"]:
    """The attention implementation to train with: on a CPU, plain products win in bfloat16 while rows are short.

    They win longer in a compiled model, where one kernel computes all that is between them. See
    `benchmarks/step_speed.py`, which measures both.
    """
    is_cpu = not torch.accelerator.is_available()
    longest = 512 if is_compiled else 256
    return "eager" if is_cpu and length <= longest and computes_in_bfloat16() else "sdpa"


def compiling_pays(length: int, seconds: float | None) -> bool:
    """Whether compiling pays in a run of so many seconds (None: unknown): on a CPU, for short rows and long runs.

    See `benchmarks/step_speed.py --compile`.
    """
    precision = "bf16" if computes_in_bfloat16() else "fp32"
    is_long = seconds is not None and seconds >= SECONDS_THAT_COMPILING_NEEDS[precision]
    return is_long and length <= LONGEST_ROW_THAT_COMPILING_SPEEDS[precision] and not torch.accelerator.is_available()


def tokens_per_batch() -> int:
    """Tokens of a batch: more on a GPU, which takes them in the same time, since a small model does not fill it.

    See `benchmarks/recipe.py --budget`, which measures both.
    """
    return TOKENS_PER_BATCH["cuda" if torch.cuda.is_available() else "cpu"]


def has_compiler() -> bool:
    """Whether torch.compile can build its kernels, for which it needs C++ on a CPU."""
    if torch.accelerator.is_available():
        return True
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return shutil.which(compiler) is not None and Path(sysconfig.get_path("include"), "Python.h").exists()


def use_all_cores(device: torch.device) -> None:
    """Share a machine's cores between its processes on CPU, unless `OMP_NUM_THREADS` says how many threads to take."""
    if device.type == "cpu" and not _are_threads_chosen():
        torch.set_num_threads(max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def keep_memory(device: torch.device) -> None:
    """On a CPU, keep the memory of freed tensors for those of the next step, where the C library is glibc.

    glibc gives large pieces back to the system and gets them again at once, page by page and filled with zeros, which
    takes a good part of a training step of a small model. A process keeps the most that it ever needed, so call this
    once the text is prepared.
    """
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)


def _are_threads_chosen() -> bool:
    """Whether the user has set `OMP_NUM_THREADS`: launchers set it to 1 for those who have not."""
    value = os.environ.get("OMP_NUM_THREADS")
    is_launched = "LOCAL_WORLD_SIZE" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    if value != "1" or not is_launched:
        return value is not None
    try:
        return psutil.Process(os.getppid()).environ().get("OMP_NUM_THREADS") is not None
    except psutil.Error:  # the launcher's environment cannot be read
        return False


def matrix_product_rate(device: torch.device, dtype: torch.dtype, rows: int, width: int) -> float:
    """A device's floating-point operations per second, measured on one matrix product of a feed-forward layer.

    Args:
        device: to measure.
        dtype: type of the factors.
        rows: tokens of a batch.
        width: hidden size.
    """
    numbers = torch.Generator(device).manual_seed(0)  # its own: measuring must not change what dropout draws
    left = torch.randn(rows, width, device=device, dtype=dtype, generator=numbers)
    right = torch.randn(width, 4 * width, device=device, dtype=dtype, generator=numbers)
    times, products = [], 1 if device.type == "cpu" else 50  # a device that is waited for each time stands still
    for _ in range(10):
        begin = now(device)
        for _ in range(products):
            left @ right
        times.append((now(device) - begin) / products)
    return 2 * rows * width * 4 * width / statistics.median(times)


def now(device: torch.device) -> float:
    """The time in seconds, once the device has done all its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def _head_of(module: nn.Module) -> Any:
    """The matrix that predicts tokens, which a model may share with its embeddings, or not."""
    return module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None


def flops_per_token(model: nn.Module, length: int, *, head_share: float) -> float:
    """Arithmetic of a training step per token: 6 operations for each weight, attention, and the head where it runs.

    Args:
        model: its matrices count, except embeddings, which are only looked up, and the head, which counts by itself.
        length: tokens in a row; attention is taken to compare all of them.
        head_share: the share of tokens that are predicted.
    """
    config: Any = model.config
    elsewhere = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    elsewhere |= {id(head.weight) for module in model.modules() if (head := _head_of(module)) is not None}
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2 and id(parameter) not in elsewhere]
    weights = sum(matrix.numel() for matrix in matrices) + head_share * config.vocab_size * config.hidden_size
    return float(6 * weights + 12 * config.num_hidden_layers * config.hidden_size * length)
