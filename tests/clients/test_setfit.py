"""SetFit: eight labelled sentences."""

from typing import Any

from opening import Place, run
from test_sentence_training import build
from test_trainer_and_trackers import BAD, GOOD


def job(place: Place) -> dict[str, Any]:
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments
    from sklearn.linear_model import LogisticRegression

    model = SetFitModel(model_body=build(place), model_head=LogisticRegression(), labels=["sad", "happy"])
    rows = Dataset.from_dict({"text": GOOD + BAD, "label": [1] * len(GOOD) + [0] * len(BAD)})

    def share(predicted: Any, labels: Any) -> dict[str, float]:  # its own would be fetched from the Hub
        return {"accuracy": sum(int(a) == int(b) for a, b in zip(predicted, labels, strict=True)) / len(labels)}

    arguments = TrainingArguments(
        output_dir=f"{place.out}/run",
        num_epochs=1,
        max_steps=15,
        batch_size=8,
        body_learning_rate=1e-3,
        report_to="none",
        show_progress_bar=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows, metric=share)
    trainer.train()
    model.save_pretrained(f"{place.out}/saved")
    again = SetFitModel.from_pretrained(f"{place.out}/saved", trust_remote_code=place.trust)
    texts = ["a happy child", "a sad child"]
    return {
        "accuracy": trainer.evaluate()["accuracy"],
        "predicted": list(model.predict(texts)),
        "again": list(again.predict(texts)),
    }


def test_setfit(mode: str):
    found = run(job, mode)
    assert found["accuracy"] == 1
    assert found["predicted"] == found["again"] == ["happy", "sad"]
