"""Compute one step of an earlier run again, and show its rows one by one."""

from dataclasses import dataclass

from hf_minibert.errors import UserError
from hf_minibert.pretraining.saved_arguments import of_run


@dataclass(kw_only=True)
class Arguments:
    """Compute one step of a run again, and show the loss of its worst rows; nothing is written."""

    output_dir: str
    """Folder of the run."""
    step: int
    """The step, counted from 1."""

    def __post_init__(self) -> None:
        if self.step < 1:
            raise UserError(f"step must be 1 or more, got {self.step}")


def main(arguments: Arguments) -> int:
    """Read the arguments that the run saved, and show the step."""
    saved = of_run(arguments.output_dir)
    from hf_minibert.pretraining.plan import make_plan
    from hf_minibert.pretraining.replay import replay

    return replay(make_plan(saved), arguments.step)
