"""Compute one step of an earlier run again, row by row, to find out why a loss was not finite."""

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from hf_minibert.data.loader import training_batches
from hf_minibert.errors import UserError
from hf_minibert.pretraining.checkpoint import TrainState, checkpoints, is_whole, load_state, load_weights
from hf_minibert.pretraining.data import read_data
from hf_minibert.pretraining.plan import Plan, build_model
from hf_minibert.pretraining.saved_arguments import NUM_PROCESSES, read_arguments

SHOWN_ROWS = 3
SHOWN_TOKENS = 24


def replay(plan: Plan, step: int) -> int:
    """Show the worst rows of a step, by loss, under the newest saved weights from before the step; write nothing.

    Raises:
        UserError: there are several processes; or the run was resumed with other batches beside the step, so that
            nothing tells which rows it had.
    """
    arguments = plan.arguments
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=arguments.mixed_precision)
    if accelerator.num_processes > 1:
        raise UserError("replay looks at rows one by one, in one process; start it without a launcher")
    data = read_data(plan, accelerator)
    torch.manual_seed(arguments.seed)
    model = build_model(plan)
    state, after = TrainState(), None
    origin = "the weights that the run began with"
    processes = read_arguments(plan.folder).get(NUM_PROCESSES, 1)
    rows_per_step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * processes
    for checkpoint in filter(is_whole, checkpoints(plan.folder)):
        if int(checkpoint.name.removeprefix("checkpoint-")) < step:
            load_weights(model, checkpoint)
            state, origin = load_state(checkpoint), str(checkpoint)
            break
        after = load_state(checkpoint)
        rows_per_step = after.rows_per_step or rows_per_step  # of the step, if it was resumed since
    if after is not None and after.rows - state.rows != (after.step - state.step) * rows_per_step:
        raise UserError(
            f"between step {state.step} and step {after.step} the run changed how many rows a step has, so that those "
            f"of step {step} are not known; give a step after {after.step}"
        )
    model.to(accelerator.device).train()
    first = state.rows + (step - 1 - state.step) * rows_per_step
    rows = training_batches(data.train, batch_size=1, first_row=first, last_row=first + rows_per_step)
    found = []
    for row in tqdm(rows, desc=f"step {step}", total=rows_per_step):
        batch = {name: value.to(accelerator.device) for name, value in row.items()}
        with accelerator.autocast():
            loss, fault = loss_and_first_fault(model, batch | plan.objective.forward_settings(arguments))
        torch.autograd.backward(loss)
        norms = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
        model.zero_grad()
        found.append(
            (float(loss.detach()), float(torch.stack(norms).norm()), fault, row["input_ids"][0, :SHOWN_TOKENS])
        )
    losses = torch.tensor([loss for loss, *_ in found])
    lines = [
        f"step {step}: rows {first:,} to {first + rows_per_step - 1:,}, with {origin}",
        f"loss of a row: least {losses.min():.3f}, median {losses.median():.3f}, most {losses.max():.3f}; the worst:",
    ]
    worst = losses.nan_to_num(nan=math.inf).argsort(descending=True)[:SHOWN_ROWS].tolist()
    for index in worst:
        loss, norm, fault, tokens = found[index]
        where = f", first not finite after {fault}" if fault else ""
        lines.append(f"  row {first + index:,}: loss {loss:.3f}, gradient norm {norm:.3f}{where}")
        lines.append(f"    {plan.tokenizer.decode(tokens)!r}")
    tqdm.write("\n".join(lines), file=sys.stdout)
    return 0


def loss_and_first_fault(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, str | None]:
    """The mean loss of a batch, and the name of the first module whose output was not finite."""
    faults: list[str] = []

    def hook_for(name: str) -> Callable[..., None]:
        def look(_module: nn.Module, _inputs: object, output: object) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            if any(isinstance(one, Tensor) and not bool(torch.isfinite(one).all()) for one in tensors):
                faults.append(name)

        return look

    handles = [module.register_forward_hook(hook_for(name)) for name, module in model.named_modules()]
    loss: Tensor = model(**batch).loss
    for handle in handles:
        handle.remove()
    return loss, faults[0] if faults else None
