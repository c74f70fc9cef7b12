"""How many threads a run takes."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from hf_minibert.runs.hardware import flops_per_token

COMMAND = (
    "import torch; from hf_minibert.runs.hardware import use_all_cores; "
    "use_all_cores(torch.device('cpu')); print(torch.get_num_threads())"
)
CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
LAUNCHER = (
    "import os, subprocess, sys; os.environ['LOCAL_WORLD_SIZE'] = '1'; os.environ.setdefault('OMP_NUM_THREADS', '1'); "
    f"sys.exit(subprocess.run([sys.executable, '-c', {COMMAND!r}]).returncode)"
)


@pytest.mark.parametrize("command", [COMMAND, LAUNCHER])
@pytest.mark.parametrize("chosen", [None, "1"])
def test_a_chosen_number_of_threads_is_kept_and_a_launcher_s_is_not(command: str, chosen: str | None) -> None:
    """A launcher leaves every process with one thread unless the user has chosen."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {} if chosen is None else {"OMP_NUM_THREADS": chosen}
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == (CORES if chosen is None else int(chosen))


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
def test_the_hardware_of_a_run_is_the_cores_that_it_may_use() -> None:
    words = "import os, torch; from hf_minibert.runs.hardware import hardware; "
    words += "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(hardware(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout == "1 CPU core\n"
