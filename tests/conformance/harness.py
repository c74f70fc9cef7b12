"""Makes the tests that transformers was released with importable, for models outside it.

The source distribution holds `tests/test_*.py` only. What these import and it lacks is in `stand_ins`.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import warnings
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.constants import HF_HOME
from transformers.models.auto import modeling_auto

from hf_minibert.models import configuration_minibert, configuration_minigpt

STAND_INS = Path(__file__).parent / "stand_ins"


def fetch_tests(version: str) -> Path:
    """The folder of the tests of that version, from the package registry when they are wanted for the first time."""
    home = Path(HF_HOME) / "hf_minibert" / "conformance" / version
    if home.exists():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as temporary:
        command = ["download", "--quiet", "--no-deps", "--no-build-isolation", "--no-binary", "transformers"]
        pip = [sys.executable, "-m", "pip", *command, "--dest", temporary, f"transformers=={version}"]
        subprocess.run(pip, check=True)
        (archive,) = Path(temporary).glob("*.tar.gz")
        tree = Path(temporary) / "tree"
        with tarfile.open(archive) as files:
            members = [file for file in files if Path(file.name).parts[1:2] == ("tests",) and file.isfile()]
            files.extractall(tree, members, filter="data")
        (extracted,) = tree.iterdir()
        for package in ("tests", "src/transformers"):  # empty: two suites look for transformers at these places
            (extracted / package).mkdir(parents=True, exist_ok=True)
            (extracted / package / "__init__.py").touch()
        try:
            extracted.rename(home)
        except OSError:  # another process was first
            if not home.exists():
                raise
    return home


def install() -> None:
    """Make transformers' `tests` importable, here and in the processes that they start, and know our classes."""
    os.environ["CONFORMANCE_TESTS"] = str(fetch_tests(transformers.__version__) / "tests")
    os.environ["TRANSFORMERS_TINY_MODEL_PATH"] = str(STAND_INS / "tiny_models")
    sys.path.insert(0, str(STAND_INS))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(STAND_INS), os.environ.get("PYTHONPATH")]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tests import test_fsdp_mixin, test_modeling_common, test_pipeline_mixin, test_tensor_parallel_mixin

    name_in_tables(vars(test_modeling_common))
    test_fsdp_mixin.FSDP_DISTRIBUTED_TEST_MODEL_TYPES |= {"minigpt", "gpt2"}
    test_tensor_parallel_mixin.TP_DISTRIBUTED_TEST_MODEL_TYPES |= {"minigpt", "gpt2", "llama"}
    for entry in test_pipeline_mixin.pipeline_test_mapping.values():
        entry["test"] = "tests.pipelines.test_pipelines_common." + entry["test"].rsplit(".", 1)[-1]


def name_in_tables(module: dict[str, Any]) -> None:
    """Name our classes in a test module's copies of the Auto classes' tables (not in the library's own)."""
    ours = {"minibert": configuration_minibert.HEADS, "minigpt": configuration_minigpt.HEADS}
    for auto_name in sorted({auto_name for heads in ours.values() for auto_name in heads}):
        table = vars(modeling_auto)[auto_name]._model_mapping._model_mapping
        (name,) = (name for name, value in module.items() if value is table)
        added = {model_type: heads[auto_name] for model_type, heads in ours.items() if auto_name in heads}
        module[name] = {**table, **added}
