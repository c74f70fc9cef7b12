"""Back ends: how processes share a run. One process, DDP and FSDP 2 work alike; DeepSpeed's ZeRO has its own class.

A checkpoint holds the same with all of them: weights and moments by name and undivided, so that a run goes on with any
back end and any number of processes.
"""

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    is_deepspeed_available,
)
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from hf_minibert.errors import UserError
from hf_minibert.models.modeling_transformer import TransformerLayer
from hf_minibert.presets import PretrainingModel
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.runs.hardware import use_all_cores

DATA_PARALLEL = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.MULTI_XPU)
STORE_TIMEOUT = timedelta(hours=12)
OLDEST_DEEPSPEED = (0, 19, 8)
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
ZERO_STAGES = (1, 2)
ZERO_MOMENTS = ("exp_avg", "exp_avg_sq")


def build_backend(arguments: PretrainArguments, folder: Path) -> "Backend":
    """Join the processes: alone, with DDP, with FSDP 2 or with ZeRO, as the launcher says.

    Raises:
        UserError: the launcher is configured for something else.
    """
    plugin = zero_plugin(arguments)
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # unless told, accelerate does not join processes on CPU
        mixed_precision=arguments.mixed_precision if plugin is None else "no",  # see `ZeroBackend.prepare`
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        log_with=[tracker for tracker in arguments.report_to if tracker != "none"] or None,
        project_config=ProjectConfiguration(str(folder), logging_dir=str(folder / "logs")),
        deepspeed_plugin=plugin,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=STORE_TIMEOUT)],  # while the first process tokenises
    )
    wants_fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if wants_fsdp and accelerator.distributed_type == DistributedType.MULTI_CPU:  # accelerate takes DDP there, silently
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    if plugin is not None and accelerator.distributed_type == DistributedType.MULTI_CPU:
        start_zero_on_cpu(accelerator, plugin)
    # `accelerate launch` has a number of its own for DeepSpeed, which it would put before ours.
    accelerator.gradient_accumulation_steps = arguments.gradient_accumulation_steps
    if accelerator.is_fsdp2 and accelerator.mixed_precision == "bf16":  # accelerate's would round losses and sums too
        accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32
        )
    uses_zero = accelerator.distributed_type == DistributedType.DEEPSPEED
    if accelerator.distributed_type not in DATA_PARALLEL and not accelerator.is_fsdp2 and not uses_zero:
        kind = accelerator.distributed_type.value
        raise UserError(
            f"this script trains alone, with DDP, FSDP 2 or ZeRO, but accelerate is configured for {kind}"
            f"{' 1' if kind == 'FSDP' else ''}; give `accelerate launch` a file of scripts/configs, or use torchrun"
        )
    use_all_cores(accelerator.device)
    if uses_zero:
        return ZeroBackend(accelerator, in_bfloat16=arguments.mixed_precision == "bf16")
    return Backend(accelerator)


class Backend:
    """One process, DDP or FSDP 2, as accelerate runs them."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        has_group = accelerator.num_processes > 1 and accelerator.device.type != "cpu"
        self._on_cpu = torch.distributed.new_group(backend="gloo", timeout=STORE_TIMEOUT) if has_group else None

    def sum_on_cpu(self, mine: Tensor) -> Tensor:
        """The sum of a tensor over all processes, which stays on the CPU, so that nobody waits for a GPU."""
        if self.accelerator.num_processes > 1:
            torch.distributed.all_reduce(mine, group=self._on_cpu)
        return mine

    def prepare(self, model: PretrainingModel, optimizers: list[torch.optim.Optimizer]) -> None:
        """Divide or copy the model over the processes; from here on, `wrapped` computes and `optimizers` step."""
        self.model = model
        self.wrapped, *self.optimizers = self.accelerator.prepare(model, *optimizers)
        self.inner_optimizers = [optimizer.optimizer for optimizer in self.optimizers]

    def compile(self, model: nn.Module) -> None:
        """Compile the model as one graph, for any number of predicted tokens; with FSDP, each layer by itself."""
        if not self.accelerator.is_fsdp2:
            model.compile(fullgraph=True)
            return
        for module in model.modules():
            if isinstance(module, TransformerLayer):
                module.compile()

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Scale the gradients down to `max_norm`, if their norm is larger. Returns the norm that they had."""
        norm = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), max_norm)
        # FSDP returns a DTensor; ZeRO a plain number: its `backward` has taken the step, if the norm was finite.
        return norm.full_tensor() if isinstance(norm, DTensor) else torch.as_tensor(norm)

    def step(self, is_finite: Tensor) -> None:
        """Let the optimizers step, if the gradient is finite."""
        if self.decides_on_device(is_finite):
            for optimizer in self.inner_optimizers:
                optimizer.found_inf = (~is_finite).float()  # as a GradScaler says it
        elif not is_finite:
            return
        for optimizer in self.optimizers:
            optimizer.step()

    def decides_on_device(self, is_finite: Tensor) -> bool:
        """Whether optimizers find out on the device that a step is to be left out: then nobody waits for it."""
        return is_finite.device.type == "cuda" and not self.accelerator.is_fsdp2  # of others not all optimizers can

    def tensors(self) -> Iterator[Tensor]:
        """This process's part of the weights and moments."""
        yield from self.model.parameters()
        for optimizer in self.inner_optimizers:
            for moments in optimizer.state.values():
                yield from (moment for moment in moments.values() if isinstance(moment, Tensor))

    def is_finite(self) -> bool:
        """Whether weights, moments and their squares are finite (layers square); the same answer on all processes."""
        total = torch.zeros((), device=self.accelerator.device)
        with torch.no_grad():
            for tensor in self.tensors():
                mine = tensor.to_local() if isinstance(tensor, DTensor) else tensor
                total += mine.float().square().sum().to(total.device)
        return bool(torch.isfinite(self.accelerator.reduce(total, reduction="sum")))

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """The shapes of the weights that are trained, undivided, by name."""
        return {name: weight.shape for name, weight in self.model.named_parameters() if weight.requires_grad}

    def weights(self) -> dict[str, Tensor]:
        """The model's weights, undivided, on the first process; tied weights, which FSDP gathers twice, appear once."""
        weights: dict[str, Any] = get_model_state_dict(self.model, options=WHOLE)
        tied = self.model._tied_weights_keys if self.model.config.tie_word_embeddings else {}
        return {name: weight for name, weight in weights.items() if name not in tied}

    def moments(self) -> dict[str, Any]:
        """What the optimizers remember, by parameter name and undivided; all processes take part."""
        moments: dict[str, Any] = get_optimizer_state_dict(self.model, self.inner_optimizers, options=WHOLE)
        return moments

    def restore_moments(self, moments: dict[str, Any]) -> None:
        """Put back what `moments` gave, each process its part; rates and decays stay what the arguments say."""
        options = [
            [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
            for optimizer in self.inner_optimizers
        ]
        self._set_moments(moments)
        for optimizer, groups in zip(self.inner_optimizers, options, strict=True):
            for group, own in zip(optimizer.param_groups, groups, strict=True):
                group |= own

    def _set_moments(self, moments: dict[str, Any]) -> None:
        set_optimizer_state_dict(self.model, self.inner_optimizers, optim_state_dict=moments, options=WHOLE)

    def close(self) -> None:
        """Free the model, then end the trackers and the process group. In another order processes may hang."""
        self.wrapped, *self.optimizers = self.accelerator.free_memory(self.wrapped, *self.optimizers)
        self.accelerator.end_training()


class ZeroBackend(Backend):
    """DeepSpeed's ZeRO 1 and 2, which divide moments and gradients.

    Its engine reduces, clips and steps in `accelerator.backward`, leaves out a step whose gradient is not finite, and
    keeps moments in flat parts.
    """

    def __init__(self, accelerator: Accelerator, *, in_bfloat16: bool) -> None:
        super().__init__(accelerator)
        self._in_bfloat16 = in_bfloat16

    def prepare(self, model: PretrainingModel, optimizers: list[torch.optim.Optimizer]) -> None:
        """See `Backend.prepare`; computes in bfloat16 as accelerate does elsewhere, with weights and sums in float32.

        DeepSpeed's own `bf16` would make the weights bfloat16, and its `torch_autocast` leaves evaluations out.
        """
        if self._in_bfloat16:
            module: nn.Module = model
            module.forward = torch.autocast(self.accelerator.device.type, torch.bfloat16)(model.forward)
        super().prepare(model, optimizers)
        self._make_moments(self.inner_optimizers[0])

    def tensors(self) -> Iterator[Tensor]:
        """See `Backend.tensors`."""
        yield from self.model.parameters()
        for moments in self.inner_optimizers[0].optimizer.state.values():
            yield from (moment for moment in moments.values() if isinstance(moment, Tensor))

    @staticmethod
    def _make_moments(optimizer: Any) -> None:
        """Make AdamW's moments before the first step, since a checkpoint may come before it; DeepSpeed makes none."""
        for flat in optimizer.single_partition_of_fp32_groups:
            moments = {name: torch.zeros_like(flat) for name in ZERO_MOMENTS}
            optimizer.optimizer.state[flat] = {"step": torch.zeros((), device=flat.device), **moments}
        optimizer._lazy_init_hp_params_optimizer_state()  # the only way to have the parts known by parameter

    def moments(self) -> dict[str, Any]:
        """See `Backend.moments`."""
        from deepspeed.utils import safe_get_full_optimizer_state

        optimizer: Any = self.inner_optimizers[0]
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        groups, state = [], {}
        parts = zip(
            optimizer.param_groups, optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups, strict=True
        )
        for group, parameters, flat in parts:
            groups.append(group | {"params": [names[parameter] for parameter in parameters]})
            step = optimizer.optimizer.state[flat]["step"]
            for parameter in parameters:
                moments = {name: safe_get_full_optimizer_state(parameter, name).cpu() for name in ZERO_MOMENTS}
                state[names[parameter]] = {"step": step.to("cpu", copy=True), **moments}
        return {"state": state, "param_groups": groups}

    def _set_moments(self, moments: dict[str, Any]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        optimizer: Any = self.inner_optimizers[0]
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for parameters, flat in zip(optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups, strict=True):
            for parameter in parameters:
                whole = moments["state"][names[parameter]]
                optimizer.optimizer.state[flat]["step"].copy_(whole["step"])
                for name in ZERO_MOMENTS:
                    safe_set_full_optimizer_state(parameter, whole[name], name)


def zero_plugin(arguments: PretrainArguments) -> DeepSpeedPlugin | None:
    """Settings for DeepSpeed if the launcher asks for it, else None; the arguments decide batches and clipping.

    Raises:
        UserError: the launcher or the arguments ask for something that this script does not do with DeepSpeed.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return None
    if not is_deepspeed_available():
        raise UserError("ZeRO needs its package: pip install deepspeed; or divide with scripts/configs/fsdp2.yaml")
    if tuple(map(int, re.findall(r"\d+", found := metadata.version("deepspeed"))[:3])) < OLDEST_DEEPSPEED:
        oldest = ".".join(map(str, OLDEST_DEEPSPEED))
        raise UserError(
            f"deepspeed is {found}, and versions before {oldest} step on gradients that are not finite in silence; "
            "pip install --upgrade deepspeed"
        )
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
    if plugin.zero_stage not in ZERO_STAGES:
        raise UserError(
            f"zero_stage must be 1 or 2, got {plugin.zero_stage}; stage 3 divides the weights, too, as FSDP 2 does "
            "(scripts/configs/fsdp2.yaml)"
        )
    if (plugin.offload_optimizer_device, plugin.offload_param_device) != ("none", "none"):
        raise UserError("this script keeps all on the device; set offload_optimizer_device to none")
    plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = arguments.per_device_train_batch_size
    return plugin


def start_zero_on_cpu(accelerator: Accelerator, plugin: DeepSpeedPlugin) -> None:
    """Make accelerate use DeepSpeed on CPUs, where it uses DDP whatever the launcher says."""
    import deepspeed

    # Else DeepSpeed spends most of a minute at the start compiling sums of its own, which work on one node only.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    plugin.set_mixed_precision("no")
    plugin.select(_from_accelerator_state=True)
    accelerator.state.deepspeed_plugins = plugin
    for state in (PartialState(), accelerator.state):
        state.distributed_type = DistributedType.DEEPSPEED


def generator_state(accelerator: Accelerator) -> Tensor:
    """The state of the generator that this process's dropout draws from, as bytes."""
    state: Tensor = _generator(accelerator).get_rng_state()
    return state.to(accelerator.device)


def _generator(accelerator: Accelerator) -> Any:
    """The module whose generator the device draws from."""
    device = accelerator.device
    return torch if device.type == "cpu" else torch.get_device_module(device)


def generator_file(accelerator: Accelerator, rank: int) -> str:
    """The checkpoint's file with one process's `generator_state`. CPU and GPU cannot read each other's."""
    return f"generator-{accelerator.device.type}-{rank}.pt"


def restore_generator(state: Tensor, accelerator: Accelerator) -> None:
    """Set this process's generator to what `generator_state` returned."""
    module = _generator(accelerator)
    if state.numel() != module.get_rng_state().numel():  # of a version that kept the CPU's for every device but CUDA
        module = torch
    module.set_rng_state(state)
