"""Pre-train a MiniBERT or MiniGPT."""

from pathlib import Path

from hf_minibert.assets import require_tokenizer
from hf_minibert.data.sources import require_corpus
from hf_minibert.hub.runs import claim, publish_run
from hf_minibert.pretraining.arguments import PretrainArguments as Arguments
from hf_minibert.pretraining.saved_arguments import resumed
from hf_minibert.runs.stopping import StopSignal

__all__ = ["Arguments", "main"]


def main(arguments: Arguments) -> int:
    """Train; with --resume, flags override the arguments of the run, and a new end replaces the old one."""
    with StopSignal() as stop:
        if arguments.resume:
            arguments = resumed(arguments)
        require_corpus(arguments.corpus)
        if arguments.tokenizer is not None:
            require_tokenizer(arguments.tokenizer)
        claim(arguments, Path(arguments.output_dir), is_resumed=arguments.resume)
        from hf_minibert.pretraining.loop import pretrain

        status = pretrain(arguments, stop)
    return status or publish_run(arguments, Path(arguments.output_dir))
