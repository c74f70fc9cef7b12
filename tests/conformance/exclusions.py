"""What a model of transformers passes and ours does not, and why. A test that passes, or that is gone, is an error."""

from hf_minibert.models.caches import CACHE_NAME

NO_CAUSAL_HEAD = "needs AutoModelForCausalLM, which MiniBERT is not made for; BERT has BertLMHeadModel"
NO_ROTATION = "rescales rotary positions, since the configuration has a field for them; here positions are learned"
NO_STORED_FREQUENCIES = "reads a buffer of frequencies; ours are computed in each pass (tests/models/test_rotary.py)"
BOTH_NAMES = "wants a warning at the cache's old name; ours takes both names for good, since 5.17 has only that one"

SINCE_5_24 = {"test_bc_cache_name_forward": BOTH_NAMES} if CACHE_NAME == "cache" else {}
MINIBERT = {"test_fsdp_plan_declared": NO_CAUSAL_HEAD}
CLASSIC = {
    "test_model_rope_scaling_from_config_0_linear": NO_ROTATION,
    "test_model_rope_scaling_from_config_1_dynamic": NO_ROTATION,
    "test_model_rope_scaling_from_config_2_yarn": NO_ROTATION,
}
ROTARY = {"test_model_rope_scaling_frequencies": NO_STORED_FREQUENCIES}

EXCLUSIONS: dict[str, dict[str, str]] = {
    "MiniBertClassic": MINIBERT | CLASSIC,
    "MiniGPTClassic": CLASSIC | SINCE_5_24,
    "MiniBertModern": MINIBERT | ROTARY,
    "MiniGPTModern": ROTARY | SINCE_5_24,
}
