import pytest
import torch
from torch import nn

from hf_minibert.errors import UserError
from hf_minibert.pretraining.arguments import PretrainArguments, parse_duration
from hf_minibert.pretraining.checkpoint import TrainState
from hf_minibert.pretraining.optimization import EMBEDDINGS_RATE, build_optimizers
from hf_minibert.pretraining.schedule import End, learning_rate_factor

# ---------------------------------------------------------------- when a run ends


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1.5h", 5400), ("2d", 172_800), (" 3m ", 180), ("0.5s", 0.5)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "-5m", "0m", "5min", "1h30m", ".5h", "5M", "1e3s", "infs"])
def test_what_is_no_duration(text):
    with pytest.raises(UserError, match="budget must be a time such as 90s, 5m or 2h"):
        parse_duration(text)
    with pytest.raises(UserError, match="budget must be a time"):
        PretrainArguments(output_dir="x", budget=text)


def test_the_end_is_what_the_arguments_say():
    assert End.of(PretrainArguments(output_dir="x")) == End(300.0, None, None), "five minutes, if nothing is said"
    assert End.of(PretrainArguments(output_dir="x", max_steps=7)) == End(None, 7, None)
    assert End.of(PretrainArguments(output_dir="x", budget="1m", max_tokens=9)) == End(60.0, None, 9)


def test_the_first_limit_ends_the_run():
    state = TrainState(step=10, tokens=3_000, seconds=30.0)
    assert End(None, 40, None).progress(state) == 0.25
    assert End(60.0, 40, None).progress(state) == 0.5
    assert End(60.0, 40, 4_000).progress(state) == 0.75
    assert End(60.0, 40, 2_000).progress(state) == 1.0, "never more than all of it"
    assert End(60.0, 40, 4_000).progress(TrainState()) == 0.0


def test_the_schedule_waits_while_the_model_is_compiled():
    end = End(60.0, None, None)
    assert end.progress(TrainState(seconds=20.0, compile_seconds=20.0)) == 0.0
    assert end.progress(TrainState(seconds=40.0, compile_seconds=20.0)) == 0.5
    assert end.progress(TrainState(seconds=60.0, compile_seconds=20.0)) == 1.0
    assert end.progress(TrainState(seconds=70.0, compile_seconds=70.0)) == 0.0, "at least one step is taken"
    assert end.progress(TrainState(seconds=71.0, compile_seconds=70.0)) == 1.0


# ---------------------------------------------------------------- the learning rate

KINDS = ["linear", "cosine", "warmup_stable_decay"]


def schedule(kind: str, warmup_steps: float, num_steps: int) -> list[float]:
    return [learning_rate_factor(kind, warmup_steps, step, step / num_steps) for step in range(num_steps + 1)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("warmup_steps", [0, 0.05, 0.2, 1, 100])
def test_every_schedule_begins_moving_rises_to_its_peak_and_ends_at_zero(kind, warmup_steps):
    rates = schedule(kind, warmup_steps, 1_000)
    peak = rates.index(max(rates))
    assert rates[0] > 0
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert all(before <= after for before, after in zip(rates[: peak + 1], rates[1 : peak + 1], strict=False))
    assert all(before >= after - 1e-12 for before, after in zip(rates[peak:], rates[peak + 1 :], strict=False))
    if warmup_steps != 1:
        assert max(abs(before - after) for before, after in zip(rates, rates[1:], strict=False)) < 0.025, "no jumps"


@pytest.mark.parametrize("warmup_steps", [0.1, 100])
def test_warmup_is_linear_and_the_same_in_steps_and_as_a_share(warmup_steps):
    rates = schedule("linear", warmup_steps, 1_000)
    assert rates[50] == pytest.approx(0.5, abs=0.011)
    assert rates[100] == pytest.approx(1, abs=0.001)
    assert rates[550] == pytest.approx(0.5, abs=0.001)


def test_shapes_by_hand():
    def factor(kind: str, progress: float) -> float:
        return learning_rate_factor(kind, 0.2, 170, progress)

    assert [factor("linear", progress) for progress in (0.1, 0.2, 0.6, 0.8, 1)] == pytest.approx([0.5, 1, 0.5, 0.25, 0])
    assert [factor("cosine", progress) for progress in (0.1, 0.2, 0.6, 1)] == pytest.approx([0.5, 1, 0.5, 0])
    assert factor("cosine", 0.4) == pytest.approx(0.5 * (1 + 2**-0.5))
    stable = [factor("warmup_stable_decay", progress) for progress in (0.1, 0.2, 0.5, 0.8, 0.9, 1)]
    assert stable == pytest.approx([0.5, 1, 1, 1, 0.5, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_warmup_longer_than_the_run(kind):
    rates = schedule(kind, 20, 10)
    assert rates == pytest.approx([(step + 1) / 20 for step in range(11)])
    assert learning_rate_factor(kind, 10, 10, 1.0) == 0


@pytest.mark.parametrize("warmup_steps", [1.5, 2.5])
def test_no_warmup_goes_beyond_the_peak(warmup_steps):
    assert max(schedule("linear", warmup_steps, 10)) <= 1


# ---------------------------------------------------------------- the optimizer


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_matrices_of_the_layers_decay_and_nothing_else_does(make_model, kind):
    for name in ("MiniBertForPreTraining", "MiniGPTForCausalLM"):
        model = make_model(name)
        arguments = PretrainArguments(output_dir="x", weight_decay=0.3, optimizer=kind)
        groups = [group for each in build_optimizers(model, arguments, 0.01) for group in each.param_groups]
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        by_decay = {group["weight_decay"]: {names[id(each)] for each in group["params"]} for group in groups}
        assert by_decay.keys() == {0.3, 0.0}
        decayed, spared = by_decay[0.3], by_decay[0.0]
        assert decayed | spared == set(names.values())
        assert not decayed & spared
        assert all(name.endswith("weight") for name in decayed)
        assert any("layers.0.self_attn.q_proj.weight" in name for name in decayed)
        assert any("embed_tokens" in name for name in spared)
        assert not any("embed" in name or "norm" in name or name.endswith("bias") for name in decayed)


def test_settings_of_adamw():
    model = nn.Linear(3, 2)
    arguments = PretrainArguments(
        output_dir="x", adam_beta1=0.5, adam_beta2=0.6, adam_epsilon=0.1, weight_decay=0.1, optimizer="adamw"
    )
    (optimizer,) = build_optimizers(model, arguments, 0.01)
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.01, (0.5, 0.6), 0.1)


def test_all_but_the_matrices_learns_faster_beside_muon(make_model):
    model = make_model("MiniBertForMaskedLM")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for kind, times in (("muon", EMBEDDINGS_RATE), ("adamw", 1)):
        optimizers = build_optimizers(model, PretrainArguments(output_dir="x", optimizer=kind, weight_decay=0.1), 0.01)
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        rates = {names[id(each)]: group["initial_lr"] for group in groups for each in group["params"]}
        for name, parameter in model.named_parameters():
            is_matrix = parameter.ndim == 2 and "embed" not in name
            assert rates[name] == pytest.approx(0.01 * (1 if is_matrix else times)), name


@pytest.mark.parametrize("name", ["MiniBertForMaskedLM", "MiniGPTForCausalLM"])
def test_a_head_over_the_vocabulary_is_no_matrix_of_a_layer(make_model, name):
    model = make_model(name, tie_word_embeddings=False)
    muon, _ = build_optimizers(model, PretrainArguments(output_dir="x", optimizer="muon", weight_decay=0.1), 0.01)
    head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert head is not table
    assert not any(each is head or each is table for group in muon.param_groups for each in group["params"])


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    optimizers = build_optimizers(model, PretrainArguments(output_dir="x", weight_decay=0.1), 0.01)
    assert sum(len(group["params"]) for optimizer in optimizers for group in optimizer.param_groups) == 2


def test_decay_pulls_matrices_alone():
    model = nn.Linear(3, 2)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizers = build_optimizers(model, PretrainArguments(output_dir="x", weight_decay=0.5), 0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    assert torch.allclose(model.weight, before["weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(model.bias, before["bias"])


# ---------------------------------------------------------------- the arguments


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": 0}, "max_steps must be positive, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be positive, got -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
        ({"warmup_steps": -0.1}, "warmup_steps must not be negative"),
        ({"seed": -1}, "seed must not be negative"),
        ({"adam_beta2": 1.0}, r"adam_beta2 must be in \[0, 1\)"),
        ({"mlm_probability": 1.0}, "mlm_probability must be between 0 and 1"),
        ({"max_seq_length": 7}, "max_seq_length must be at least 8"),
        ({"resume": True, "overwrite_output_dir": True}, "give one of them"),
    ],
)
def test_arguments_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        PretrainArguments(output_dir="x", **settings)
