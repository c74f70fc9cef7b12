"""DeepSpeed's ZeRO: what it wants otherwise than DDP and FSDP 2.

Its engine reduces, clips and steps in `accelerator.backward`, leaves out a step whose gradient is not finite, and
keeps moments in flat parts. What a checkpoint holds is the same as without it.
"""

import os
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DeepSpeedPlugin, DistributedType, is_deepspeed_available
from torch import nn

from hf_minibert.errors import UserError
from hf_minibert.training.arguments import PretrainArguments

STAGES = (1, 2)
MOMENTS = ("exp_avg", "exp_avg_sq")


def zero_plugin(arguments: PretrainArguments) -> DeepSpeedPlugin | None:
    """How DeepSpeed is to work, if the launcher asks for it; batches and clipping are those of the arguments.

    Raises:
        UserError: it is asked for something that this script does not do with it.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return None
    if not is_deepspeed_available():
        raise UserError("ZeRO needs its package: pip install deepspeed; or divide with scripts/configs/fsdp2.yaml")
    if arguments.optimizer == "muon":
        raise UserError(
            "ZeRO divides matrices, of which optimizer muon needs the whole; begin with --optimizer adamw, or use "
            "FSDP 2 (scripts/configs/fsdp2.yaml)"
        )
    if os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none") != "none":
        raise UserError(
            "deepspeed_config_file would say again what the flags say; configure accelerate as in "
            "scripts/configs/zero2.yaml"
        )
    plugin = DeepSpeedPlugin(
        gradient_accumulation_steps=arguments.gradient_accumulation_steps, gradient_clipping=arguments.max_grad_norm
    )
    if plugin.zero_stage not in STAGES:
        raise UserError(
            f"zero_stage must be 1 or 2, got {plugin.zero_stage}; stage 3 divides the weights, too, as FSDP 2 does "
            "(scripts/configs/fsdp2.yaml)"
        )
    if (plugin.offload_optimizer_device, plugin.offload_param_device) != ("none", "none"):
        raise UserError("this script keeps all on the device; set offload_optimizer_device to none")
    plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = arguments.per_device_train_batch_size
    return plugin


def uses_zero(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed does the steps."""
    return bool(accelerator.distributed_type == DistributedType.DEEPSPEED)


def start_zero_on_cpu(accelerator: Accelerator, plugin: DeepSpeedPlugin) -> None:
    """Make accelerate, which takes DDP on CPUs whatever the launcher says, hand the steps to DeepSpeed."""
    import deepspeed

    # Else it compiles sums of its own at the start, for most of a minute, which only one node could use.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    plugin.set_mixed_precision("no")
    plugin.select(_from_accelerator_state=True)
    accelerator.state.deepspeed_plugins = plugin
    for state in (PartialState(), accelerator.state):
        state.distributed_type = DistributedType.DEEPSPEED


def autocast_forward(model: nn.Module, device: torch.device) -> None:
    """Compute in bfloat16 as accelerate does elsewhere, also in evaluations, with weights and their sums in float32.

    DeepSpeed's own `bf16` would make the weights bfloat16, and its `torch_autocast` knows nothing of evaluations.
    """
    model.forward = torch.autocast(device.type, torch.bfloat16)(model.forward)


def make_moments(optimizer: Any) -> None:
    """AdamW's moments before the first step, which DeepSpeed makes only in it: a checkpoint may come before."""
    for flat in optimizer.single_partition_of_fp32_groups:
        moments = {name: torch.zeros_like(flat) for name in MOMENTS}
        optimizer.optimizer.state[flat] = {"step": torch.zeros((), device=flat.device), **moments}
    optimizer._lazy_init_hp_params_optimizer_state()  # the only way to have the parts known by parameter


def get_moments(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    """The moments by name and undivided, as `get_optimizer_state_dict` gives them elsewhere; all take part."""
    from deepspeed.utils import safe_get_full_optimizer_state

    names = {parameter: name for name, parameter in model.named_parameters()}
    groups, state = [], {}
    parts = zip(optimizer.param_groups, optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups, strict=True)
    for group, parameters, flat in parts:
        groups.append(group | {"params": [names[parameter] for parameter in parameters]})
        step = optimizer.optimizer.state[flat]["step"]
        for parameter in parameters:
            moments = {name: safe_get_full_optimizer_state(parameter, name).cpu() for name in MOMENTS}
            state[names[parameter]] = {"step": step.to("cpu", copy=True), **moments}
    return {"state": state, "param_groups": groups}


def set_moments(model: nn.Module, optimizer: Any, moments: dict[str, Any]) -> None:
    """Put back what `get_moments` or `get_optimizer_state_dict` gave, each process its part."""
    from deepspeed.utils import safe_set_full_optimizer_state

    names = {parameter: name for name, parameter in model.named_parameters()}
    for parameters, flat in zip(optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups, strict=True):
        for parameter in parameters:
            whole = moments["state"][names[parameter]]
            optimizer.optimizer.state[flat]["step"].copy_(whole["step"])
            for name in MOMENTS:
                safe_set_full_optimizer_state(parameter, whole[name], name)
