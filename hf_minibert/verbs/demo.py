"""Try a checkpoint on a page in the browser, or write the page: as a Space, or so that it computes in the browser."""

from dataclasses import dataclass
from typing import Literal

from hf_minibert.assets import model_folder
from hf_minibert.demo.serve import require_gradio, serve, write_space
from hf_minibert.errors import UserError


@dataclass(kw_only=True)
class Arguments:
    """Try a checkpoint in the browser: masked words, texts that go on, labels, entities, answers, and more.

    The page has a tab for each thing that the checkpoint's head can do. It needs the extra `demo`, which is Gradio.
    With --static a smaller page is written, which any server of files shows, since it computes in the browser.
    """

    model_name_or_path: str
    """Folder of a checkpoint, its name on the Hub, or `minibert-tiny` or `minigpt-tiny`. A stock one will do, too."""
    port: int | None = None
    """Port of this machine to serve on. Default: the first free one from 7860."""
    trust_remote_code: bool = False
    """Agree to run the code that lies beside the weights, where the checkpoint needs any; else you are asked."""
    space: str | None = None
    """Write the page as a folder that Hugging Face Spaces run, with the model in it, instead of showing it here."""
    static: str | None = None
    """Write a folder with a page, the model, its tokenizer and the library, for any server of files. Of an earlier page
    there, what nobody has changed is replaced, and the rest kept."""
    library: str | None = None
    """With --static: folder with transformers.js, such as node_modules. Default: npm downloads it once, and it is kept
    in the cache of Hugging Face."""
    quantize: Literal["int8"] | None = None
    """With --static: compute with 8-bit numbers. The model is a third to a half as large, and a bit less accurate."""

    def __post_init__(self) -> None:
        if self.port is not None and not 0 < self.port < 65_536:
            raise UserError(f"port must be from 1 to 65535, got {self.port}")
        if self.space is not None and self.static is not None:
            raise UserError("--space and --static write different pages; give one of them")
        if self.port is not None and (self.space or self.static):
            raise UserError("--port is for a page on this machine; --space and --static write a folder instead")
        if self.static is None and (self.library or self.quantize):
            raise UserError("--library and --quantize are for --static FOLDER, which is missing")
        if self.static is not None and self.trust_remote_code:
            raise UserError("--trust_remote_code is not for --static, whose page runs no code of a checkpoint")


def main(arguments: Arguments) -> int:
    """Show the page, or write it and say how to see it."""
    name = model_folder(arguments.model_name_or_path)
    if arguments.static is not None:
        from hf_minibert.export import browser

        done = browser.write(name, arguments.static, library=arguments.library, quantize=arguments.quantize)
        print(f"wrote {arguments.static}: the {done['from']} {arguments.model_name_or_path} as a page. See it with\n")
        print(f"    python3 -m http.server --bind 127.0.0.1 --directory {arguments.static} 8000\n")
        print("at http://127.0.0.1:8000")
        return 0
    require_gradio()
    if arguments.space is not None:
        write_space(name, arguments.space, trust_remote_code=arguments.trust_remote_code)
        print(f"wrote {arguments.space}: try it with `python app.py` there, then upload the folder as a Space")
        return 0
    return serve(name, trust_remote_code=arguments.trust_remote_code, port=arguments.port)
