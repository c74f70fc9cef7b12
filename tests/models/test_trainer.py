"""The models in transformers' Trainer: accumulating gradients changes nothing, and evaluation works."""

import pytest
import torch
from transformers import Trainer, TrainingArguments

from hf_minibert.export.stock import to_stock

pytestmark = pytest.mark.parametrize("architecture", ["modern"])  # losses and outputs do not depend on it


def examples(name, kind=""):
    """Eight rows with unequal numbers of labels; in pre-training with equal ones, since `Trainer` counts no pairs."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, 99, (8, 12), generator=generator)
    rows = []
    for index, row in enumerate(ids):
        length = 12 - index
        real = torch.arange(12) < length
        row = row.masked_fill(~real, 0)
        example = {"input_ids": row, "attention_mask": real.long()}
        if kind == "regression":
            example["labels"] = torch.tensor(index / 4)
        elif kind == "several labels":
            example["labels"] = torch.tensor([1.0, index % 2, index % 3 == 0])
        elif name.endswith("SequenceClassification"):
            example["labels"] = torch.tensor(index % 3)
        elif name.endswith("TokenClassification"):
            example["labels"] = (row % 3).masked_fill(~real, -100)
        elif name.endswith("QuestionAnswering"):
            example |= {"start_positions": torch.tensor(index % 3), "end_positions": torch.tensor(index % 4)}
        elif name.endswith("MultipleChoice"):
            choices = torch.stack((row, row.flip(0)))
            example = {"input_ids": choices, "attention_mask": (choices > 0).long(), "labels": torch.tensor(index % 2)}
        elif name.endswith("NextSentencePrediction"):
            example["labels"] = torch.tensor(index % 2)
        elif name.endswith("PreTraining"):
            example["labels"] = row.masked_fill(torch.arange(12) > 2, -100)
            example["next_sentence_label"] = torch.tensor(index % 2)
        else:
            example["labels"] = row.masked_fill(~real, -100)
        rows.append(example)
    return rows


def make_trainer(model, folder, rows, batch_size, **options):
    arguments = TrainingArguments(
        output_dir=str(folder),
        **{"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": 8 // batch_size},
        **{"per_device_eval_batch_size": 4, "max_steps": 1, "optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0},
        **{"lr_scheduler_type": "constant", "report_to": "none", "use_cpu": True, "save_strategy": "no"},
        **{"disable_tqdm": True, "dataloader_pin_memory": False, "train_sampling_strategy": "sequential"},
    )
    return Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows, **options)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_are_smoothed_as_those_of_the_stock_model(make_model, tmp_path, smoothing):
    ours = make_model("MiniGPTForCausalLM")
    losses = []
    for number, model in enumerate((to_stock(ours), ours)):
        trainer = make_trainer(model, tmp_path / str(number), examples("MiniGPTForCausalLM"), 8)
        trainer.args.label_smoothing_factor = smoothing
        trainer = Trainer(model=model, args=trainer.args, train_dataset=trainer.train_dataset)
        losses.append(trainer.train().training_loss)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("MiniBertForMaskedLM", ""),
        ("MiniBertForPreTraining", ""),
        ("MiniBertForNextSentencePrediction", ""),
        ("MiniGPTForCausalLM", ""),
        ("MiniBertForTokenClassification", ""),
        ("MiniGPTForTokenClassification", ""),
        ("MiniBertForQuestionAnswering", ""),
        ("MiniGPTForQuestionAnswering", ""),
        ("MiniBertForMultipleChoice", ""),
        ("MiniGPTForMultipleChoice", ""),
        *(
            (f"{family}ForSequenceClassification", kind)
            for family in ("MiniBert", "MiniGPT")
            for kind in ("", "regression", "several labels")
        ),
    ],
)
def test_one_step_of_two_halves_is_one_step(make_model, tmp_path, name, kind):
    ends = {}
    for batch_size in (8, 4):
        model = make_model(name, num_labels=1 if kind == "regression" else 3)
        start = {key: weight.clone() for key, weight in model.state_dict().items()}
        ends[batch_size] = make_trainer(model, tmp_path, examples(name, kind), batch_size), model
        ends[batch_size][0].train()
        assert not torch.equal(
            model.state_dict()["model.layers.0.self_attn.q_proj.weight"],
            start["model.layers.0.self_attn.q_proj.weight"],
        )
    (trainer, whole), (other_trainer, halves) = ends.values()
    for key, weight in whole.state_dict().items():
        torch.testing.assert_close(
            halves.state_dict()[key], weight, rtol=0, atol=1e-5, msg=lambda t, k=key: f"{k}: {t}"
        )
    losses = [each.state.log_history[-1]["train_loss"] for each in (trainer, other_trainer)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "MiniBertForMaskedLM",
        "MiniBertForPreTraining",
        "MiniGPTForCausalLM",
        "MiniBertForSequenceClassification",
        "MiniGPTForSequenceClassification",
        "MiniBertForTokenClassification",
        "MiniGPTForQuestionAnswering",
        "MiniBertForMultipleChoice",
    ],
)
def test_evaluation_hands_over_the_logits(make_model, tmp_path, name):
    rows = examples(name)
    seen = []

    def compute_metrics(prediction):
        seen.append(prediction.predictions)
        return {
            "rows": len(prediction.label_ids[0] if isinstance(prediction.label_ids, tuple) else prediction.label_ids)
        }

    model = make_model(name, num_labels=3)
    trainer = make_trainer(model, tmp_path, rows, 8, compute_metrics=compute_metrics)
    if name == "MiniBertForPreTraining":
        trainer.label_names = ["labels", "next_sentence_label"]
    metrics = trainer.evaluate()
    assert metrics["eval_rows"] == 8
    batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    with torch.no_grad():
        outputs = model.eval()(**batch)
    expected = outputs[1]
    (predictions,) = seen
    if name == "MiniBertForPreTraining":
        predictions, order = predictions
        torch.testing.assert_close(torch.from_numpy(order), outputs.seq_relationship_logits, rtol=0, atol=1e-5)
    if name == "MiniGPTForQuestionAnswering":
        predictions, ends = predictions
        torch.testing.assert_close(torch.from_numpy(ends), outputs.end_logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(predictions), expected, rtol=0, atol=1e-5)
