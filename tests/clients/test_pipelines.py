"""transformers' pipelines: every one that the heads allow."""

from typing import Any

import pytest
from opening import LABELS, Place, run

TEXT = "He opened the door and went into the house."


def job(place: Place) -> dict[str, Any]:
    import torch
    from transformers import pipeline

    def open_pipeline(task: str, folder: str) -> Any:
        return pipeline(task, model=folder, trust_remote_code=place.trust, dtype=torch.float32)

    masked = open_pipeline("fill-mask", place.encoder)(TEXT.replace("door", "[MASK]"))
    features = open_pipeline("feature-extraction", place.encoder)(TEXT)
    classify = open_pipeline("text-classification", place.classifier)
    zero_shot = open_pipeline("zero-shot-classification", place.classifier)
    entities = open_pipeline("token-classification", place.tagger)(TEXT, aggregation_strategy="simple")
    generate = open_pipeline("text-generation", place.decoder)
    return {
        "filled": [[guess["token_str"].strip(), guess["score"]] for guess in masked],
        "features": [len(features[0]), len(features[0][0]), features[0][1][:4]],
        "labels": classify([TEXT, "No."], top_k=None),
        "zero_shot": zero_shot(TEXT, candidate_labels=["house", "sea"]),
        "entities": [
            [each["entity_group"], TEXT[each["start"] : each["end"]], float(each["score"])] for each in entities
        ],
        "batch": [each["label"] for each in classify([TEXT] * 3 + ["No."] * 2, batch_size=4)],
        "generated": generate("The history of", max_new_tokens=12, do_sample=False)[0]["generated_text"],
        "batch_generated": [
            each[0]["generated_text"]
            for each in generate(["The history of", "He"], max_new_tokens=8, do_sample=False, batch_size=2)
        ],
    }


def test_pipelines(mode: str):
    found, expected = run(job, mode), run(job, "native")
    assert "door" in [word for word, _ in found["filled"]]
    assert [word for word, _ in found["filled"]] == [word for word, _ in expected["filled"]]
    assert [score for _, score in found["filled"]] == pytest.approx(
        [score for _, score in expected["filled"]], abs=1e-4
    )
    assert found["features"][:2] == expected["features"][:2]
    assert found["features"][2] == pytest.approx(expected["features"][2], abs=1e-3)
    for ours, theirs in zip(found["labels"], expected["labels"], strict=True):
        assert [each["label"] for each in ours] == [each["label"] for each in theirs]
        assert {each["label"] for each in ours} == set(LABELS)
        assert sum(each["score"] for each in ours) == pytest.approx(1, abs=1e-4)
    assert sum(found["zero_shot"]["scores"]) == pytest.approx(1, abs=1e-4)
    assert found["zero_shot"]["labels"] == expected["zero_shot"]["labels"]
    assert found["entities"]
    assert "".join(text for _, text, _ in found["entities"]).replace(" ", "") == TEXT.replace(" ", "")
    assert [each[:2] for each in found["entities"]] == [each[:2] for each in expected["entities"]]
    assert found["batch"] == [found["labels"][0][0]["label"]] * 3 + [found["labels"][1][0]["label"]] * 2
    assert found["generated"].startswith("The history of")
    assert found["generated"] == expected["generated"]
    assert found["generated"].startswith(found["batch_generated"][0]), "padding on the left changes nothing"
