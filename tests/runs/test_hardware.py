"""How many threads a run takes."""

import os
import subprocess
import sys

import pytest

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
