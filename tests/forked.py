"""Programs in processes of their own that begin at once: a server has imported what takes seconds, and forks.

It has not imported this package, which each program does for itself, and has run no model, so it has no threads.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

_PRELOADED = [
    *("torch", "torch.distributed.run", "torch.utils.tensorboard", "transformers.trainer", "transformers.pipelines"),
    *("transformers.models.auto.modeling_auto", "transformers.models.encoder_decoder", "accelerate", "datasets"),
    *("evaluate", "peft", "scipy.stats", "sklearn.metrics", "matplotlib.figure", "matplotlib.backends.backend_agg"),
    "deepspeed",  # which accelerate looks at, if it is there
]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_PRELOADED)


def server(variables: dict[str, str]) -> ForkServerContext:
    """The server, which is started at its first use; libraries read their environment when they are imported."""
    outer = dict(os.environ)
    os.environ |= variables
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ |= outer
    return _context


class Forked:
    """A program that runs, with the methods of `subprocess.Popen` that tests use; its output is kept in files."""

    def __init__(self, words: list[str], folder: Path, variables: dict[str, str]) -> None:
        """Run a script with its flags in a folder, with that environment alone, as the first of its own group."""
        os.makedirs(variables["HF_HOME"], exist_ok=True)
        self._output = Path(tempfile.mkdtemp(prefix="output-", dir=variables["HF_HOME"]))
        self._process = server(variables).Process(target=_run, args=(words, folder, variables, self._output))
        self._process.start()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        """The status it ended with, or minus the signal; None as long as it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The same when it has ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"it runs for more than {timeout} seconds")
        return self._process.exitcode

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def printed(self, stream: str) -> str:
        """What it has written to `stdout` or `stderr`."""
        return (self._output / stream).read_text()


def _run(words: list[str], folder: Path, variables: dict[str, str], output: Path) -> None:
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    os.environ.clear()
    os.environ |= variables
    os.chdir(folder)
    _move_caches(Path(variables["HF_HOME"]))
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()


def _move_caches(home: Path) -> None:
    """To where they are if the libraries are imported with that `HF_HOME`."""
    import datasets
    import evaluate
    import huggingface_hub.constants
    from transformers import dynamic_module_utils

    moved: dict[Any, dict[str, Any]] = {
        huggingface_hub.constants: {"HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub")},
        dynamic_module_utils: {"HF_MODULES_CACHE": str(home / "modules")},
        evaluate.config: {"HF_METRICS_CACHE": home / "metrics"},
        datasets.config: {
            "HF_CACHE_HOME": str(home),
            "HF_DATASETS_CACHE": home / "datasets",
            "DOWNLOADED_DATASETS_PATH": home / "datasets" / "downloads",
            "EXTRACTED_DATASETS_PATH": home / "datasets" / "extracted",
        },
    }
    for module, values in moved.items():
        for name, value in values.items():
            assert hasattr(module, name)
            setattr(module, name, value)
