"""Show a model to people: as a folder for any server of files, which computes in the browser."""

from dataclasses import dataclass
from typing import Literal

from hf_minibert.assets import model_folder


@dataclass(kw_only=True)
class Arguments:
    """Show a model in a browser tab: fill in words, go on with a text, or classify one.

    The folder has the page, the model, its tokenizer and the library. Any server of files shows it.
    """

    model_name_or_path: str
    """Folder or Hub name of a MiniBERT or MiniGPT, or of a BERT, EuroBERT, GPT-2 or Llama."""
    static: str
    """Folder to write. Of an earlier page there, what nobody has changed is replaced, and the rest kept."""
    library: str | None = None
    """Folder with transformers.js, such as node_modules. Default: npm downloads it once, and it is kept in the cache of
    Hugging Face."""
    quantize: Literal["int8"] | None = None
    """Compute with 8-bit numbers: the page loads half as much, and is a little less accurate."""


def main(arguments: Arguments) -> int:
    """Write the page, and say how to see it."""
    from hf_minibert.export import browser

    folder = model_folder(arguments.model_name_or_path)
    done = browser.write(folder, arguments.static, library=arguments.library, quantize=arguments.quantize)
    print(f"wrote {arguments.static}: the {done['from']} {arguments.model_name_or_path} as a page. See it with\n")
    print(f"    python3 -m http.server --bind 127.0.0.1 --directory {arguments.static} 8000\n")
    print("at http://127.0.0.1:8000")
    return 0
