"""transformers' Trainer, and the trackers that it reports to: TensorBoard, trackio and Weights & Biases offline."""

from pathlib import Path
from typing import Any

import pytest
from opening import Place, run

GOOD = ["a fine and happy day", "what a happy song", "a happy, fine meal", "fine work, happy people"]
BAD = ["a sad and grim day", "what a sad song", "a grim, sad meal", "grim work, sad people"]


def train(place: Place, report_to: list[str]) -> tuple[Any, Any, Path]:
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(place.encoder)
    model = AutoModelForSequenceClassification.from_pretrained(
        place.encoder, num_labels=2, trust_remote_code=place.trust
    )
    rows = Dataset.from_dict({"text": GOOD + BAD, "labels": [1] * len(GOOD) + [0] * len(BAD)})
    rows = rows.map(lambda row: tokenizer(row["text"]), batched=True, remove_columns="text")
    out = Path(place.out, "run")
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=20,
        per_device_train_batch_size=8,
        learning_rate=2e-3,
        lr_scheduler_type="constant",
        logging_steps=5,
        report_to=report_to,
        run_name="clients",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)
    trainer.train()
    return trainer, rows, out


def job(place: Place) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForSequenceClassification

    trainer, rows, out = train(place, ["none"])
    predictions = trainer.predict(rows)
    trainer.save_model(str(out))
    again = AutoModelForSequenceClassification.from_pretrained(out, trust_remote_code=place.trust).eval()
    row = {key: torch.tensor([rows[0][key]]) for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        difference = (again(**row).logits - trainer.model.eval()(**row).logits).abs().max()
    return {
        "accuracy": float((predictions.predictions.argmax(-1) == predictions.label_ids).mean()),
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "difference": float(difference),
    }


def trackers(place: Place) -> dict[str, Any]:
    """The losses that each tracker has, as the tracker itself reads them."""
    import json
    import os
    import sqlite3

    os.environ |= {"TRACKIO_DIR": str(Path(place.out, "trackio")), "WANDB_DIR": place.out, "WANDB_SILENT": "true"}
    trainer, _, out = train(place, ["tensorboard", "trackio", "wandb"])
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    import wandb
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    last = dict(wandb.run.summary)["train/loss"]
    wandb.finish()
    events = next(path for path in Path(place.out).rglob("events.out.tfevents.*"))
    accumulated = EventAccumulator(str(events)).Reload()
    database = next(path for path in Path(place.out, "trackio").rglob("*.db"))
    with sqlite3.connect(database) as connection:
        columns = [row[1] for row in connection.execute("pragma table_info(metrics)")]
        rows = [dict(zip(columns, row, strict=True)) for row in connection.execute("select * from metrics")]
    tracked = [json.loads(row["metrics"]) for row in rows]
    sizes = [path.stat().st_size for path in Path(place.out).rglob("run-*.wandb")]
    return {
        "logged": logged,
        "tensorboard": [scalar.value for scalar in accumulated.Scalars("train/loss")],
        "trackio": [entry["train/loss"] for entry in tracked if "train/loss" in entry],
        "wandb": last,
        "wandb_bytes": sizes,
    }


def test_trainer(mode: str):
    found, expected = run(job, mode), run(job, "native")
    assert found["accuracy"] == 1
    assert found["losses"][-1] < 0.2 < found["losses"][0]
    assert found["difference"] < 1e-5
    assert found["losses"][0] == pytest.approx(expected["losses"][0], abs=0.3), (
        "new heads differ in their first weights"
    )


def test_trackers(mode: str):
    found = run(trackers, mode)
    assert len(found["logged"]) == 4
    for name in ("tensorboard", "trackio"):
        assert found[name] == pytest.approx(found["logged"], abs=1e-4), name
    assert len(found["wandb_bytes"]) == 1
    assert found["wandb_bytes"][0] > 1000
    assert found["wandb"] == pytest.approx(found["logged"][-1], abs=1e-4)
