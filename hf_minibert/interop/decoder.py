"""The decoder in an encoder that was trained for both: MiniGPT with the weights of a hybrid MiniBERT."""

from collections.abc import Mapping

from torch import Tensor, nn

from hf_minibert.errors import UserError
from hf_minibert.models.configuration_minibert import MiniBertConfig
from hf_minibert.models.configuration_minigpt import MiniGPTConfig
from hf_minibert.models.configuration_transformer import TransformerConfig
from hf_minibert.models.modeling_minibert import MiniBertForMaskedLM
from hf_minibert.models.modeling_minigpt import MiniGPTForCausalLM


def decoder_config(config: MiniBertConfig) -> MiniGPTConfig:
    """The configuration of the decoder.

    Raises:
        UserError: the encoder was not trained as one, or has parts that MiniGPT lacks.
    """
    needed = {"shifted_predictions": True, "type_vocab_size": 0, "mlm_head_transform": False, "use_bias": False}
    wrong = [f"{name}={getattr(config, name)!r}" for name, value in needed.items() if getattr(config, name) != value]
    if wrong:
        raise UserError(f"only a MiniBERT of `--objective hybrid` is a decoder, too; this one has {', '.join(wrong)}")
    shared = {name: getattr(config, name) for name in TransformerConfig.__annotations__ if name != "auto_map"}
    return MiniGPTConfig(**shared)


def decoder_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the encoder, by their names in the decoder."""
    return {name.replace("lm_head.decoder.", "lm_head."): weight for name, weight in weights.items()}


def as_decoder(model: MiniBertForMaskedLM) -> MiniGPTForCausalLM:
    """The causal model in an encoder of `--objective hybrid`; the weights are copied.

    Raises:
        UserError: see `decoder_config`.
    """
    decoder = MiniGPTForCausalLM(decoder_config(model.config))
    decoder.load_state_dict(decoder_weights(model.state_dict()))
    nn.Module.to(decoder, device=model.device, dtype=model.dtype)
    decoder.train(model.training)
    return decoder
