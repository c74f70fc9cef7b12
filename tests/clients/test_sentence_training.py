"""sentence-transformers: an encoder becomes a model of sentences, is trained on pairs, saved, and opened again."""

from typing import Any

from opening import Place, run

PAIRS = {
    "anchor": ["A ship sails on the sea.", "The king rules the land.", "She drinks hot tea.", "He plays a song."],
    "positive": ["A boat is on the water.", "The monarch governs.", "A woman has a warm drink.", "A man makes music."],
}


def build(place: Place) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    options = {"trust_remote_code": place.trust}
    words = Transformer(place.encoder, model_kwargs=options, config_kwargs=options)
    pooling = Pooling(words.get_embedding_dimension(), pooling_mode="mean")
    return SentenceTransformer(modules=[words, pooling], device="cpu")


def job(place: Place) -> dict[str, Any]:
    import numpy as np
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = build(place)
    texts = PAIRS["anchor"] + PAIRS["positive"]
    before = model.encode(texts, show_progress_bar=False)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=f"{place.out}/run",
        max_steps=25,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(PAIRS), loss=MultipleNegativesRankingLoss(model)
    )
    trainer.train()
    after = model.encode(texts, show_progress_bar=False)
    model.save_pretrained(f"{place.out}/saved")
    again = SentenceTransformer(f"{place.out}/saved", trust_remote_code=place.trust, device="cpu")
    scores = again.similarity(again.encode(PAIRS["anchor"]), again.encode(PAIRS["positive"]))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "before": before[:, :3].tolist(),
        "losses": losses,
        "reopened": float(np.abs(again.encode(texts, show_progress_bar=False) - after).max()),
        "found": scores.argmax(dim=1).tolist(),
    }


def test_sentence_transformers(mode: str):
    found, expected = run(job, mode), run(job, "native")
    differences = [
        abs(a - b) for x, y in zip(found["before"], expected["before"], strict=True) for a, b in zip(x, y, strict=True)
    ]
    assert max(differences) < 1e-3
    assert found["losses"][-1] < 0.3 * found["losses"][0]
    assert found["reopened"] < 1e-5
    assert found["found"] == [0, 1, 2, 3]
