"""Stand-in: starts the ranks of distributed tests, on the CPU."""

import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# The server imports once and never runs a model, so ranks start in a moment and inherit no threads.
mp.set_forkserver_preload(["hf_minibert", "tests.test_fsdp_mixin", "tests.test_tensor_parallel_mixin"])


def _get_distributed_device_type() -> str:
    return "cpu"


def _get_distributed_backend() -> str:
    return "gloo"


def _get_rank_device(rank: int) -> torch.device:  # noqa: ARG001 (transformers' signature)
    return torch.device("cpu")


def _set_rank_device(rank: int) -> None:
    """Nothing to choose on the CPU."""


def _start_rank_processes(function: Callable[..., None], args: tuple[Any, ...], nprocs: int) -> None:
    mp.start_processes(function, args=args, nprocs=nprocs, start_method="forkserver")


def _run_rank(rank: int, function: Callable[..., None], args: tuple[Any, ...], world_size: int, store: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, world_size), rank=rank, world_size=world_size)
    try:
        function(rank, *args)
    finally:
        dist.destroy_process_group()


def run_distributed(world_size: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make of `function(rank, ...)` one that runs it in so many processes."""

    def distribute(function: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any) -> None:
            with tempfile.TemporaryDirectory() as folder:
                _start_rank_processes(_run_rank, (function, args, world_size, f"{folder}/store"), world_size)

        return run

    return distribute
