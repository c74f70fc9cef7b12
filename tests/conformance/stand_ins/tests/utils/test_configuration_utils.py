"""Stand-in: a value other than the default for every field of `PreTrainedConfig`."""

config_common_kwargs = {
    "architectures": ["SomeModel"],
    "chunk_size_feed_forward": 3,
    "dtype": "float16",
    "id2label": {0: "only"},
    "label2id": {"only": 0},
    "output_hidden_states": True,
    "problem_type": "regression",
    "return_dict": False,
}
