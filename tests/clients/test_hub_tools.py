"""`hf upload`, `hf download` and `accelerate estimate-memory`, against a small honest Hub on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opening import Place, run


def job(place: Place) -> dict[str, Any]:
    from loopback_hub import TOKEN, serving

    with serving() as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}

        def command(*words: str) -> str:
            done = subprocess.run(
                [sys.executable, *words], env=os.environ | settings, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert TOKEN not in done.stdout + done.stderr
            return done.stdout

        command("-m", "huggingface_hub.cli.hf", "upload", "me/model", place.encoder, ".", "--private")
        copy = Path(place.out, "copy")
        command("-m", "huggingface_hub.cli.hf", "download", "me/model", "--local-dir", str(copy))
        trust = ["--trust_remote_code"] if place.trust else []
        told = command(
            "-m", "accelerate.commands.accelerate_cli", "estimate-memory", "me/model",
            "--library_name", "transformers", "--dtypes", "float32", *trust,
        )  # fmt: skip
    config = json.loads(Path(place.encoder, "config.json").read_text())
    names = [path.name for path in Path(place.encoder).iterdir() if path.is_file()]
    return {
        "same": [(copy / name).read_bytes() == Path(place.encoder, name).read_bytes() for name in names],
        "names": sorted(names),
        "megabytes": Path(place.encoder, "model.safetensors").stat().st_size / 2**20,
        "embedding_megabytes": config["vocab_size"] * config["hidden_size"] * 4 / 2**20,
        "told": told,
    }


@pytest.mark.parametrize("mode", ["remote", "exported"])
def test_hub_tools(mode: str):
    found = run(job, mode)
    assert all(found["same"])
    assert "model.safetensors" in found["names"]
    assert ("modeling_minibert.py" in found["names"]) == (mode == "remote")
    row = next(line for line in found["told"].splitlines() if "float32" in line)
    total = float(row.replace("│", "|").split("|")[3].split()[0])
    # Where the configuration names a head, accelerate makes it on no device, and counts tied weights twice.
    tied = found["embedding_megabytes"] if mode == "remote" else 0
    assert total == pytest.approx(found["megabytes"] + tied, rel=0.02), found["told"]
