"""`transformers serve` and `transformers chat` on loopback, on an export: they know transformers' own classes only."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from opening import Place, run

MESSAGES = [{"role": "user", "content": "Tell me of the history of England."}]


def job(place: Place) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place.decoder)
    model = AutoModelForCausalLM.from_pretrained(place.decoder, trust_remote_code=place.trust, dtype=torch.float32)
    row = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    own = model.generate(**row, max_new_tokens=12, do_sample=False)[0, row["input_ids"].shape[1] :]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cli = [sys.executable, "-m", "transformers.cli.transformers"]
    trust = ["--trust-remote-code"] if place.trust else []
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32", *trust]
    url = f"http://127.0.0.1:{port}"
    with open(f"{place.out}/serve.log", "w") as log:
        server = subprocess.Popen([*cli, "serve", place.decoder, *options], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert server.poll() is None, Path(place.out, "serve.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.5)
        generation = json.dumps({"max_new_tokens": 12, "do_sample": False})
        asked = {"model": place.decoder, "messages": MESSAGES, "generation_config": generation}
        request = urllib.request.Request(
            f"{url}/v1/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            completed = json.loads(answer.read())
        chat = subprocess.run(
            [*cli, "chat", place.decoder, url, "max_new_tokens=12", "do_sample=false"],
            input=f"{MESSAGES[0]['content']}\nn\n!exit\n",  # n: not more than 12 tokens
            capture_output=True,
            text=True,
            timeout=300,
            cwd=place.out,
            env=os.environ | {"HF_HUB_OFFLINE": "0"},  # offline, its client refuses loopback, too
            check=False,
        )
    finally:
        server.terminate()
        server.wait()
    return {
        "own": tokenizer.decode(own, skip_special_tokens=True),
        "served": completed["choices"][0]["message"]["content"],
        "status": chat.returncode,
        "chat": " ".join(chat.stdout.split()),
        "error": chat.stderr[-3000:],
    }


def test_serve_and_chat():
    found = run(job, "exported")
    assert found["served"].strip() == found["own"].strip() != ""
    assert found["status"] == 0, found["error"]
    assert " ".join(found["own"].split()) in found["chat"]
