"""Open a checkpoint on a page on this machine, or write the page as a Space; foreign code runs only if that is agreed.

In: a checkpoint of ours or a stock one. Out: a server on loopback, or a folder that Hugging Face Spaces run.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hf_minibert.assets import without_model
from hf_minibert.errors import UserError, needs_extra, reason_of
from hf_minibert.files import TARGET_TOKENIZER, shown, write_json
from hf_minibert.output_folder import check_folder, replaced_folder

VERB = "demo"
PACKAGES = ("torch", "transformers", "matplotlib", "safetensors")


def require_gradio() -> None:
    """Check that Gradio is installed.

    Raises:
        UserError: it is not.
    """
    with needs_extra("demo"):
        import gradio  # noqa: F401


def may_run_code(name: str, *, trusts: bool, ask: Callable[[str], str] = input) -> bool:
    """Whether a checkpoint needs code that lies beside its weights, and may run it; a person at a terminal is asked.

    Args:
        name: a folder, or a name on the Hub.
        trusts: whether that was agreed already.
        ask: shows a question and returns the answer.

    Raises:
        UserError: there is no such checkpoint, it needs code and nobody agreed.
    """
    from transformers import CONFIG_MAPPING, PreTrainedConfig
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    import hf_minibert  # makes our models known

    assert hf_minibert.MiniBertConfig.model_type in CONFIG_MAPPING
    try:
        config, _ = PreTrainedConfig.get_config_dict(name)
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(name)} {without_model(name)}: {' '.join(str(error).split())[:300]}") from error
    if not config.get("model_type"):
        raise UserError(f"{shown(name)} holds no model: its config.json is missing, or has no model_type")
    if not config.get("auto_map") or config.get("model_type") in CONFIG_MAPPING:
        return False
    if trusts:
        return True
    tokenizers = [get_tokenizer_config(name, subfolder=place) for place in ("", TARGET_TOKENIZER)]
    files = ", ".join(code_files(config, *tokenizers))
    if not sys.stdin.isatty():
        raise UserError(
            f"{shown(name)} is opened by code of its own ({shown(files)}, and what these import), which may do "
            "anything on this machine; read it, and give --trust_remote_code if you agree"
        )
    question = f"{shown(name)} is opened by code of its own: {shown(files)}, and what these import. Run it? [y/N] "
    if ask(question).strip().lower() not in ("y", "yes"):
        raise UserError("the code was not agreed to, so that the model cannot be opened")
    return True


def serve(name: str, *, trust_remote_code: bool, port: int | None) -> int:
    """Show the page until Ctrl-C, to this machine only. Returns the exit status.

    Raises:
        UserError: the checkpoint cannot be opened, or the port is taken.
    """
    trusts = may_run_code(name, trusts=trust_remote_code)
    from hf_minibert.demo.page import build_page, open_checkpoint
    from hf_minibert.models.answering import answers

    with opening(name):
        checkpoint = open_checkpoint(name, answers, title=Path(name).name, trust_remote_code=trusts)
    page = build_page(checkpoint)
    try:
        page.launch(server_name="127.0.0.1", server_port=port, show_error=True)
    except OSError as error:
        raise UserError(f"the page cannot be served on port {port}: {' '.join(str(error).split())[:200]}") from error
    return 0


def write_space(name: str, folder: str, *, trust_remote_code: bool) -> int:
    """Write a Space: the page, the model with its code, what it needs, and the front matter that Spaces read.

    Raises:
        UserError: the checkpoint cannot be opened, or the folder holds something else.
    """
    trusts = may_run_code(name, trusts=trust_remote_code)
    check_folder(folder, VERB, "a Space", replaces=True, remedy="", inputs=[name])
    from hf_minibert.demo import page
    from hf_minibert.models import answering

    title = Path(name).name
    with opening(name):
        checkpoint = page.open_checkpoint(name, answering.answers, trust_remote_code=trusts)
    with replaced_folder(folder, VERB, "a Space", inputs=[name], last="app.py") as staged:
        checkpoint.model.save_pretrained(staged / "model")
        checkpoint.tokenizer.save_pretrained(staged / "model")
        if checkpoint.target_tokenizer is not None:
            checkpoint.target_tokenizer.save_pretrained(staged / "model" / TARGET_TOKENIZER)
        is_own = type(checkpoint.model).__module__.partition(".")[0] == "hf_minibert"
        if not trusts:  # what the checkpoint names was not run here, and is not run there
            names = {"tokenizer_config.json"} if is_own else {"tokenizer_config.json", "config.json"}
            for path in [path for path in (staged / "model").rglob("*config.json") if path.name in names]:
                settings = json.loads(path.read_text(encoding="utf-8"))
                settings.pop("auto_map", None)
                write_json(path, settings)
        for module in (page, answering):
            shutil.copyfile(str(module.__file__), staged / Path(str(module.__file__)).name)
        requirements = [f"{package}=={version(package).partition('+')[0]}" for package in PACKAGES]
        (staged / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
        trusted = trusts or is_own
        (staged / "app.py").write_text(
            '"""Shows the model in the folder `model`, whose own code runs."""\n\n'
            "from answering import answers\n"
            "from page import build_page, open_checkpoint\n\n"
            f"checkpoint = open_checkpoint('model', answers, title={title!r}, trust_remote_code={trusted})\n"
            "build_page(checkpoint).launch(show_error=True)\n",
            encoding="utf-8",
        )
        front = {"title": title, "sdk": "gradio", "sdk_version": version("gradio"), "app_file": "app.py"}
        lines = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in front.items())
        readme = f"---\n{lines}---\n\nA page to try a model that hf_minibert made. Upload this folder as a Space.\n"
        (staged / "README.md").write_text(readme, encoding="utf-8")
    return 0


@contextmanager
def opening(name: str) -> Iterator[None]:
    """Say in one line why a checkpoint cannot be opened: transformers and safetensors each have their own errors."""
    try:
        yield
    except Exception as error:
        raise UserError(f"cannot open {shown(name)}: {reason_of(error)[:300]}") from error


def code_files(*configs: dict[str, Any]) -> list[str]:
    """The files of code that a checkpoint's configurations name, and the repository of those that lie elsewhere."""
    entries = [
        one
        for config in configs
        for values in [config.get("auto_map") or {}]
        for value in (values.values() if isinstance(values, dict) else [values])  # a list, in old tokenizers
        for one in ([value] if isinstance(value, str) else value)
    ]
    found = set()
    for entry in filter(None, entries):
        repository, _, name = entry.rpartition("--")
        found.add(f"{name.partition('.')[0]}.py" + (f" of {repository}" if repository else ""))
    return sorted(found)
