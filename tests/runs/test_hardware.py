"""How many threads a run takes, and what it does with memory."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from hf_minibert.runs import hardware
from hf_minibert.runs.hardware import flops_per_token


@pytest.mark.parametrize("is_launched", [False, True])
@pytest.mark.parametrize("chosen", [None, "1"])
def test_a_chosen_number_of_threads_is_kept_and_a_launcher_s_is_not(
    is_launched: bool, chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher leaves every process with one thread unless the user has chosen."""
    threads = list[int]()
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(hardware, "cores", lambda: 3)
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    if chosen:
        monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    waits = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(waits, stdin=subprocess.PIPE) as launcher:  # begun as the user chose
        if is_launched:
            monkeypatch.setenv("OMP_NUM_THREADS", "1")
            monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
            monkeypatch.setattr(os, "getppid", lambda: launcher.pid)
        hardware.use_all_cores(torch.device("cpu"))
    assert threads == ([] if chosen else [3])


@pytest.mark.parametrize("name", ["MiniBertForMaskedLM", "MiniGPTForCausalLM"])
def test_a_head_is_counted_once_whether_it_has_a_matrix_of_its_own_or_not(
    name: str, make_model: Callable[..., PreTrainedModel]
) -> None:
    tied, untied = (make_model(name, tie_word_embeddings=is_tied) for is_tied in (True, False))
    assert untied.num_parameters() > tied.num_parameters()
    without, half, whole = (flops_per_token(tied, 16, head_share=share) for share in (0.0, 0.5, 1.0))
    assert [flops_per_token(untied, 16, head_share=share) for share in (0.0, 0.5, 1.0)] == [without, half, whole]
    head = tied.get_output_embeddings()
    assert isinstance(head, nn.Module)
    assert isinstance(head.weight, torch.Tensor)
    assert whole - without == 6 * head.weight.numel() == 2 * (half - without)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which cores a process may use")
def test_the_hardware_of_a_run_is_the_cores_that_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, words in (({2}, "1 CPU core"), ({0, 2, 5}, "3 CPU cores")):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: cores)
        assert hardware.hardware(torch.device("cpu")) == words


FAULTS = """
import resource, sys, torch
from hf_minibert.runs.hardware import keep_memory
if sys.argv[1] == "kept":
    keep_memory(torch.device("cpu"))
for step in range(16):
    if step == 6:  # by then it has nearly all that it needs
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [torch.ones(10_000_000) for _ in range(3)]
    del pieces
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting, and are left as they are"
)
def test_a_step_uses_the_memory_of_the_one_before() -> None:
    """Pages that the system has to give anew: few, in place of all in each step."""
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True).stdout)
        for word in ("kept", "given back")
    )
    assert given_back > 200_000
    assert kept < given_back / 4
