from pathlib import Path

import pytest

from hf_minibert.training.arguments import PretrainArguments
from hf_minibert.training.inputs import make_plan


def test_the_default_tokenizer_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(PretrainArguments(output_dir="x", model="minibert-tiny"))
    assert len(plan.tokenizer) == plan.config.vocab_size == 8192
