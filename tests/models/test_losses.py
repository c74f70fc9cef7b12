"""What each head's loss is, checked by hand, and that batches can be split."""

import pytest
import torch
from torch.nn import functional as F

from hf_minibert.models import losses
from hf_minibert.models.losses import classification_loss

DROPOUTS = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def masked_labels(tokens):
    """Predict 1, 4 and 7 tokens of three rows."""
    labels = torch.full_like(tokens, -100)
    for row, count in enumerate((1, 4, 7)):
        labels[row, 2 : 2 + count] = tokens[row, 2 : 2 + count]
    return labels


def by_hand(logits, labels):
    """The mean, over the labels that count, of minus the logarithm of the softmax."""
    picked = [
        -logits[row, column].log_softmax(dim=0)[labels[row, column]]
        for row, column in (labels != -100).nonzero().tolist()
    ]
    return sum(picked) / len(picked)


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-5, msg=lambda t, n=name: f"{n}: {t}")


def test_masked_lm(make_model, tokens):
    model = make_model("MiniBertForMaskedLM")
    labels = masked_labels(tokens)
    outputs = model(tokens, labels=labels)
    assert outputs.logits.shape == (3, 12, 99)
    torch.testing.assert_close(outputs.loss, by_hand(outputs.logits, labels))


@pytest.mark.parametrize("name", ["MiniBertForMaskedLM", "MiniBertForPreTraining"])
def test_the_sparse_masked_lm_loss_is_the_dense_one(make_model, tokens, name):
    model = make_model(name).train()
    batch = {"labels": masked_labels(tokens)}
    if name == "MiniBertForPreTraining":
        batch["next_sentence_label"] = torch.tensor([0, 1, 1])
    sparse, dense = model(tokens, full_logits=False, **batch), model(tokens, full_logits=True, **batch)
    logits = "logits" if name == "MiniBertForMaskedLM" else "prediction_logits"
    assert sparse[logits].shape == (12, 99)
    assert not sparse[logits].requires_grad
    torch.testing.assert_close(sparse[logits], dense[logits][batch["labels"] != -100])

    by_cross_entropy = F.cross_entropy(dense[logits].flatten(0, 1), batch["labels"].flatten())
    if name == "MiniBertForPreTraining":
        by_cross_entropy = by_cross_entropy + dense.nsp_loss
    torch.testing.assert_close(sparse.loss, by_cross_entropy)
    expected = gradient(model, by_cross_entropy)
    loss_only = model(tokens, **batch)
    assert getattr(loss_only, logits) is None
    assert_same(gradient(model, loss_only.loss), expected)
    assert_same(gradient(model, model(tokens, full_logits=True, **batch).loss), expected)
    assert model.eval()(tokens, full_logits=False, **batch)[logits].shape == (12, 99)
    assert model(tokens, **batch)[logits].shape == (3, 12, 99)


@pytest.mark.parametrize("name", ["MiniBertForMaskedLM", "MiniGPTForCausalLM"])
@pytest.mark.parametrize("count", [None, 0, torch.tensor(0)])  # 0 is what `Trainer` counts
def test_nothing_to_predict_is_a_loss_of_zero(make_model, tokens, name, count):
    model = make_model(name).train()
    loss = model(tokens, labels=torch.full_like(tokens, -100), num_items_in_batch=count).loss
    assert loss == 0
    assert all(grad.abs().sum() == 0 for grad in gradient(model, loss).values())


@pytest.mark.parametrize("name", ["MiniBertForMaskedLM", "MiniGPTForCausalLM"])
@pytest.mark.parametrize("size", [5, 512])
def test_the_loss_is_the_same_fused_or_not_and_in_chunks_of_any_size(make_model, tokens, monkeypatch, name, size):
    model = make_model(name).train()
    found = []
    for is_fused, tokens_per_chunk in ((True, size), (False, size), (False, 10_000)):
        monkeypatch.setattr(losses, "is_plain", lambda _, is_fused=is_fused: is_fused)
        monkeypatch.setattr(losses, "chunk_size", lambda *_, tokens_per_chunk=tokens_per_chunk: tokens_per_chunk)
        loss = model(tokens, labels=masked_labels(tokens), num_items_in_batch=torch.tensor(20)).loss
        found.append((loss.detach(), gradient(model, loss)))
    for loss, gradients in found[:-1]:
        torch.testing.assert_close(loss, found[-1][0])
        assert_same(gradients, found[-1][1])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("is_frozen", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_fused_loss_and_its_gradients_by_hand(monkeypatch, bias, is_frozen, smoothing, is_weighted):
    monkeypatch.setattr(losses, "chunk_size", lambda *_: 7)
    torch.manual_seed(0)
    decoder, states = torch.nn.Linear(8, 99, bias=bias).double(), torch.randn(20, 8, dtype=torch.float64)
    decoder.requires_grad_(not is_frozen)
    labels = torch.randint(0, 99, (20,)).masked_fill(torch.arange(20) % 3 == 0, -100)

    def loss_and_gradients(loss):
        inputs = [states, *(parameter for parameter in decoder.parameters() if parameter.requires_grad)]
        return loss.detach(), *torch.autograd.grad(3 * loss, inputs)

    states.requires_grad_()
    weights = torch.rand(20) if is_weighted else torch.ones(20)
    by_token = F.cross_entropy(decoder(states), labels, label_smoothing=smoothing, reduction="none")
    expected = loss_and_gradients((by_token * weights).sum() / (labels != -100).sum())
    for is_fused in (True, False):
        monkeypatch.setattr(losses, "is_plain", lambda _, is_fused=is_fused: is_fused)
        given = {"label_smoothing": smoothing, "weights": weights if is_weighted else None}
        actual = loss_and_gradients(losses.vocabulary_cross_entropy(states, decoder, labels, **given))
        assert len(actual) == 2 + (not is_frozen) * (1 + bias)
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other.to(one.dtype), rtol=1e-5, atol=1e-7)


def test_the_fused_loss_under_autocast_is_that_of_logits_in_half_precision():
    torch.manual_seed(0)
    decoder, states = torch.nn.Linear(64, 99, bias=False), torch.randn(600, 64, requires_grad=True)
    labels = torch.randint(0, 99, (600,))
    gradients = []
    for way in (losses.vocabulary_cross_entropy, lambda *given: losses.chunked_losses(*given).mean()):
        with torch.autocast("cpu", torch.bfloat16):
            loss = way(states, decoder, labels)
        gradients.append((loss.detach(), *torch.autograd.grad(loss, (states, decoder.weight))))
    for one, other in zip(*gradients, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert (one - other).norm() <= 0.01 * other.norm()
    assert gradients[0][0] == pytest.approx(float(gradients[1][0]), rel=1e-5)


@pytest.mark.parametrize("label", [-1, 99])
def test_a_label_that_is_no_class_is_refused(label):
    decoder, states = torch.nn.Linear(8, 99), torch.randn(4, 8)
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        losses.vocabulary_cross_entropy(states, decoder, torch.tensor([label, 2, 3, -100]))


def test_without_gradients_the_fused_loss_computes_none(monkeypatch):
    decoder, states = torch.nn.Linear(8, 99), torch.randn(4, 8)
    asked = []
    forward = losses.FusedCrossEntropy.forward

    def look(ctx, *given):
        asked.append(ctx.needs_input_grad[:3])
        return forward(ctx, *given)

    monkeypatch.setattr(losses.FusedCrossEntropy, "forward", staticmethod(look))
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            losses.vocabulary_cross_entropy(states, decoder, torch.arange(4))
    losses.vocabulary_cross_entropy(states, decoder, torch.arange(4))
    assert asked == [(False, False, False)] * 2 + [(False, True, True)]


def test_the_fused_loss_has_no_second_derivative():
    decoder, states = torch.nn.Linear(8, 99), torch.randn(4, 8, requires_grad=True)
    loss = losses.vocabulary_cross_entropy(states, decoder, torch.arange(4))
    (gradient,) = torch.autograd.grad(loss, states, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_loss_is_still_summed_in_full(dtype):
    torch.manual_seed(0)
    decoder = torch.nn.Linear(8, 999).to(dtype)
    states, labels = torch.randn(16384, 8, dtype=dtype), torch.randint(0, 999, (16384,))
    expected = F.cross_entropy(decoder(states).float(), labels)
    torch.testing.assert_close(losses.vocabulary_cross_entropy(states, decoder, labels), expected, rtol=0, atol=1e-5)


def test_pretraining_is_the_sum_of_its_parts(make_model, tokens):
    model = make_model("MiniBertForPreTraining")
    labels, order = masked_labels(tokens), torch.tensor([0, 1, 1])
    outputs = model(tokens, labels=labels, next_sentence_label=order)
    torch.testing.assert_close(outputs.mlm_loss, by_hand(outputs.prediction_logits, labels))
    log_probabilities = outputs.seq_relationship_logits.log_softmax(dim=1)
    nsp = -(log_probabilities[0, 0] + log_probabilities[1, 1] + log_probabilities[2, 1]) / 3
    torch.testing.assert_close(outputs.nsp_loss, nsp)
    torch.testing.assert_close(outputs.loss, outputs.mlm_loss + outputs.nsp_loss)
    assert model(tokens).loss is None


@pytest.mark.parametrize("given", ["labels", "next_sentence_label"])
def test_a_label_without_its_partner_is_refused(make_model, tokens, given):
    labels = {"labels": masked_labels(tokens), "next_sentence_label": torch.tensor([0, 1, 1])}
    with pytest.raises(ValueError, match="both labels and next_sentence_label, or neither"):
        make_model("MiniBertForPreTraining")(tokens, **{given: labels[given]})


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_pooling(make_model, tokens, pooling, is_masked):
    model = make_model("MiniBertForSequenceClassification", classifier_pooling=pooling)
    mask = (torch.arange(12) < torch.tensor([[12], [9], [5]])).long() if is_masked else None
    states = model.model(tokens, attention_mask=mask).last_hidden_state
    lengths = (12, 9, 5) if is_masked else (12, 12, 12)
    vectors = []
    for row, length in zip(states, lengths, strict=True):
        real = row[:length]
        vectors.append({"cls": real[0], "mean": real.mean(dim=0), "max": real.max(dim=0).values}[pooling])
    pooler = model.model.pooler
    expected = model.classifier(pooler.activation(pooler.dense(torch.stack(vectors))))
    torch.testing.assert_close(model(tokens, attention_mask=mask).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "max", "pair", "siamese"])
def test_a_row_without_real_tokens_is_pooled_to_nothing(make_model, tokens, pooling):
    """As a choice that a question does not have; in bfloat16, the lowest number would become infinity."""
    model = make_model("MiniBertForSequenceClassification", classifier_pooling=pooling, eos_token_id=3)
    mask = (torch.arange(12) < torch.tensor([[12], [9], [0]])).long()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens, attention_mask=mask).logits
    logits[:2].float().sum().backward()
    assert torch.isfinite(logits).all()
    assert all(one.grad.isfinite().all() for one in model.parameters() if one.grad is not None)


@pytest.mark.parametrize("pooling", ["pair", "siamese"])
@pytest.mark.parametrize("is_masked", [False, True])
def test_a_pair_is_compared_by_the_means_of_both(make_model, tokens, is_masked, pooling):
    tokens = tokens.masked_fill(tokens == 3, 4)
    tokens[0, 5] = tokens[0, 11] = tokens[1, 2] = tokens[1, 8] = 3  # the last row has one text only
    model = make_model("MiniBertForSequenceClassification", classifier_pooling=pooling, eos_token_id=3)
    mask = (torch.arange(12) < torch.tensor([[12], [9], [5]])).long() if is_masked else None
    states = model.model(tokens, attention_mask=mask).last_hidden_state
    vectors = []
    for row, end, length in zip(states, (6, 3, 12), (12, 9, 5) if is_masked else (12, 12, 12), strict=True):
        first, second = row[: min(end, length)].mean(dim=0), row[end:length].mean(dim=0).nan_to_num()
        vectors.append(torch.cat((first, second, (first - second).abs(), first * second)))
    pooler = model.model.pooler
    expected = model.classifier(pooler.activation(pooler.compare(torch.stack(vectors))))
    torch.testing.assert_close(model(tokens, attention_mask=mask).logits, expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=f"{pooling} pooling needs input_ids"):
        model(inputs_embeds=model.get_input_embeddings()(tokens), attention_mask=mask)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_siamese_reads_each_text_alone(make_model, tokens, implementation):
    """Also beside padding, in front (where positions are relative) or behind; the classifier judges what it read."""
    tokens = tokens[:1].masked_fill(tokens[:1] == 3, 4)
    tokens[0, 4] = tokens[0, 9] = 3
    model = make_model(
        "MiniBertForSequenceClassification",
        attention=implementation,
        classifier_pooling="siamese",
        eos_token_id=3,
    )
    is_relative = model.config.position_embedding_type == "rotary"
    alone = [model.model(tokens[:, some]).last_hidden_state for some in (slice(0, 5), slice(5, 10))]
    for left, right in ((0, 0), (0, 3), (3 * is_relative, 0)):
        padded = F.pad(tokens[:, :10], (left, right), value=0)
        mask = F.pad(torch.ones(1, 10, dtype=torch.long), (left, right))
        found = model.model(padded, attention_mask=mask if left or right else None).last_hidden_state
        torch.testing.assert_close(found[:, left : left + 10], torch.cat(alone, dim=1), rtol=0, atol=1e-5)
        torch.testing.assert_close(model(padded, attention_mask=mask).logits, model(tokens[:, :10]).logits)


def test_padding_with_the_token_that_ends_a_text_ends_none(make_model, tokens):
    tokens = tokens[:1, :10].masked_fill(tokens[:1, :10] == 3, 4)
    tokens[0, 4] = tokens[0, 9] = 3
    model = make_model("MiniBertForSequenceClassification", classifier_pooling="siamese", eos_token_id=3)
    is_relative = model.config.position_embedding_type == "rotary"
    for left, right in ((0, 3), (3 * is_relative, 0)):
        padded = F.pad(tokens, (left, right), value=3)
        mask = F.pad(torch.ones_like(tokens), (left, right))
        torch.testing.assert_close(model(padded, attention_mask=mask).logits, model(tokens).logits)


def test_siamese_refuses_attention_that_takes_no_mask(make_model, tokens):
    model = make_model("MiniBertForSequenceClassification", classifier_pooling="siamese", eos_token_id=3)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="siamese pooling needs attn_implementation eager, sdpa, flex_attention"):
        model(tokens)


def test_a_number_that_looks_like_no_label_is_a_number(make_model, tokens):
    scores, numbers = torch.tensor([[1.0], [2.0]]), torch.tensor([-100.0, 4.0])
    torch.testing.assert_close(classification_loss(scores, numbers, 1, "regression"), torch.tensor((101**2 + 4) / 2))
    model = make_model("MiniGPTForSequenceClassification", num_labels=1, problem_type="regression")
    loss = [model(tokens[:2], labels=torch.tensor(some)).lm_loss for some in ([-100.0, 4.0], [3.0, 4.0])]
    torch.testing.assert_close(*loss)


def test_classification_losses():
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
    one = classification_loss(logits, torch.tensor([1, 2]), 3, None)
    expected = -(logits[0].log_softmax(dim=0)[1] + logits[1].log_softmax(dim=0)[2]) / 2
    torch.testing.assert_close(one, expected)

    several = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    chances = logits.sigmoid()
    expected = -(several * chances.log() + (1 - several) * (1 - chances).log()).mean()
    torch.testing.assert_close(classification_loss(logits, several, 3, None), expected)
    torch.testing.assert_close(classification_loss(logits, several.long(), 3, "multi_label_classification"), expected)

    targets = torch.tensor([3, 5])
    single = logits[:, :1]
    torch.testing.assert_close(classification_loss(single, targets, 1, None), torch.tensor((4.0 + 25.0) / 2))
    several_targets = logits + torch.tensor([1.0, 2.0, 3.0])
    expected = torch.tensor((1.0 + 4.0 + 9.0) / 3)
    torch.testing.assert_close(classification_loss(logits, several_targets, 3, "regression"), expected)
    # Trainer counts every number that is to be predicted.
    torch.testing.assert_close(classification_loss(logits, several_targets, 3, "regression", 12), expected / 2)
    torch.testing.assert_close(
        classification_loss(logits, several, 3, None, 12), classification_loss(logits, several, 3, None) / 2
    )

    with pytest.raises(ValueError, match="problem_type 'ranking' is unknown"):
        classification_loss(logits, targets, 3, "ranking")


def test_next_sentence_prediction(make_model, tokens):
    outputs = make_model("MiniBertForNextSentencePrediction")(tokens, labels=torch.tensor([0, 1, 1]))
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits, torch.tensor([0, 1, 1])))


@pytest.mark.parametrize("name", ["MiniBertForTokenClassification", "MiniGPTForTokenClassification"])
def test_token_classification(make_model, tokens, name):
    model = make_model(name, num_labels=3)
    labels = masked_labels(tokens)
    labels = torch.where(labels == -100, labels, labels % 3)
    outputs = model(tokens, labels=labels)
    states = model.model(tokens).last_hidden_state
    torch.testing.assert_close(outputs.logits, model.token_classifier(states))
    assert outputs.logits.shape == (3, 12, 3)
    torch.testing.assert_close(outputs.loss, by_hand(outputs.logits, labels))


@pytest.mark.parametrize("name", ["MiniBertForQuestionAnswering", "MiniGPTForQuestionAnswering"])
def test_question_answering(make_model, tokens, name):
    model = make_model(name)
    starts, ends = torch.tensor([1, 11, -1]), torch.tensor([3, 12, 40])  # the last two ends were cut off
    outputs = model(tokens, start_positions=starts, end_positions=ends)
    logits = model.qa_outputs(model.model(tokens).last_hidden_state)
    torch.testing.assert_close(torch.stack((outputs.start_logits, outputs.end_logits), dim=2), logits)
    start_loss = F.cross_entropy(logits[..., 0], torch.tensor([1, 11, 0]))
    end_loss = F.cross_entropy(logits[:1, :, 1], torch.tensor([3]))
    torch.testing.assert_close(outputs.loss, (start_loss + end_loss) / 2)
    # A label is a number for each example, with or without a dimension of its own.
    again = model(tokens, start_positions=starts[:, None], end_positions=ends[:, None])
    assert torch.equal(again.loss, outputs.loss)
    assert model(tokens, start_positions=ends + 40, end_positions=ends + 40).loss == 0
    assert model(tokens).loss is None
    with pytest.raises(ValueError, match="both start_positions and end_positions, or neither"):
        model(tokens, start_positions=starts)


@pytest.mark.parametrize("name", ["MiniBertForQuestionAnswering", "MiniGPTForQuestionAnswering"])
def test_batches_of_questions_can_be_split(make_model, tokens, name):
    model = make_model(name).train()
    starts, ends = torch.tensor([1, 11, 0]), torch.tensor([3, 11, 7])
    whole = model(tokens, start_positions=starts, end_positions=ends).loss
    parts = [
        model(tokens[rows], start_positions=starts[rows], end_positions=ends[rows], num_items_in_batch=3).loss
        for rows in (slice(0, 2), slice(2, 3))
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=0, atol=1e-5)
    assert_same(gradient(model, sum(parts)), gradient(model, whole))


@pytest.mark.parametrize("name", ["MiniBertForMultipleChoice", "MiniGPTForMultipleChoice"])
def test_multiple_choice(make_model, tokens, name):
    model = make_model(name)
    choices, mask = torch.stack((tokens, tokens.flip(1)), dim=1), torch.ones(3, 2, 12, dtype=torch.long)
    mask[2, 1, 9:] = 0
    labels = torch.tensor([0, 1, 1])
    outputs = model(choices, mask, labels=labels)
    assert outputs.logits.shape == (3, 2)
    for row in range(3):
        for choice in range(2):
            outputs_alone = model.model(choices[row, choice][None], mask[row, choice][None])
            last = outputs_alone.last_hidden_state[:, mask[row, choice].sum() - 1]
            pooled = outputs_alone.pooler_output if name.startswith("MiniBert") else last
            layer = model.score if name.startswith("MiniBert") else model.classifier
            torch.testing.assert_close(outputs.logits[row, choice], layer(pooled).squeeze())
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits, labels))
    with pytest.raises(ValueError, match=r"input_ids \(batch, choices, sequence\)"):
        model(tokens)


@pytest.mark.parametrize(
    "name", ["MiniBertForSequenceClassification", "MiniBertForMultipleChoice", "MiniGPTForTokenClassification"]
)
def test_the_dropout_before_a_classifier(make_model, name):
    assert make_model(name, hidden_dropout_prob=0.2).dropout.p == 0.2
    assert make_model(name, hidden_dropout_prob=0.2, classifier_dropout=0.0).dropout.p == 0.0


def test_causal_lm_is_the_shifted_cross_entropy(make_model, tokens):
    model = make_model("MiniGPTForCausalLM").train()
    labels = tokens.masked_fill(torch.arange(12) >= torch.tensor([[12], [9], [5]]), -100)
    assert model(tokens, labels=labels).logits is None
    outputs = model(tokens, labels=labels, full_logits=True)
    expected = by_hand(outputs.logits[:, :-1], labels[:, 1:])
    torch.testing.assert_close(outputs.loss, expected)
    assert_same(gradient(model, model(tokens, labels=labels).loss), gradient(model, expected))
    assert model(tokens).logits.shape == (3, 12, 99)
    torch.testing.assert_close(
        model(tokens, labels=labels, full_logits=False).logits, outputs.logits[:, :-1][labels[:, 1:] != -100]
    )


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("told_by", ["attention_mask", "pad_token_id"])
def test_minigpt_classifies_the_last_real_token(make_model, tokens, side, told_by):
    model = make_model("MiniGPTForSequenceClassification", num_labels=3)
    real = torch.arange(12) < torch.tensor([[12], [9], [5]])
    real = real if side == "right" else real.flip(1)
    ids = tokens.masked_fill(~real, 0)
    mask = real.long()
    options = {"attention_mask": mask, "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)}
    options = options if told_by == "attention_mask" else {}
    states = model.model(ids, **options).last_hidden_state
    last = states[torch.arange(3), torch.tensor([11, 8, 4] if side == "right" else [11, 11, 11])]
    torch.testing.assert_close(model(ids, **options).logits, model.score(last), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("num_labels", "labels", "kind"),
    [
        (1, torch.tensor([0.5, 1.0, 2.0]), "regression"),
        (3, torch.tensor([0, 2, 1]), "single_label_classification"),
        (3, torch.tensor([[0.0, 1.0, 1.0]] * 3), "multi_label_classification"),
    ],
)
@pytest.mark.parametrize("name", ["MiniBertForSequenceClassification", "MiniGPTForSequenceClassification"])
def test_a_classifier_remembers_what_its_labels_were(make_model, tokens, name, num_labels, labels, kind):
    model = make_model(name, num_labels=num_labels)
    assert model.config.problem_type is None
    model(tokens, labels=labels)
    assert model.config.problem_type == kind


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("MiniBertForSequenceClassification", {"classifier_pooling": "mean"}),
        ("MiniBertForSequenceClassification", {"classifier_pooling": "max"}),
        ("MiniBertForSequenceClassification", {"classifier_pooling": "pair", "eos_token_id": 3}),
        ("MiniBertForSequenceClassification", {"classifier_pooling": "siamese", "eos_token_id": 3}),
        ("MiniGPTForSequenceClassification", {}),
    ],
)
def test_who_must_know_what_is_padding_refuses_other_masks(make_model, tokens, name, fields):
    with pytest.raises(ValueError, match=r"needs an attention_mask of \(batch, sequence\) .* got \(3, 1, 12, 12\)"):
        make_model(name, **fields)(tokens, attention_mask=torch.zeros(3, 1, 12, 12))


def test_pairs_without_a_label_do_not_count(make_model, tokens):
    model = make_model("MiniBertForPreTraining")
    order = torch.tensor([0, -100, 1])
    outputs = model(tokens, labels=masked_labels(tokens), next_sentence_label=order)
    torch.testing.assert_close(outputs.nsp_loss, F.cross_entropy(outputs.seq_relationship_logits, order))


def test_rows_without_a_label_count_nowhere(make_model, tokens):
    model = make_model("MiniGPTForSequenceClassification", num_labels=3)
    labels = torch.tensor([0, 2, -100])
    parts = [
        model(tokens[rows], labels=labels[rows], num_items_in_batch=2).lm_loss for rows in (slice(0, 2), slice(2, 3))
    ]
    assert parts[1] == 0
    torch.testing.assert_close(parts[0], model(tokens, labels=labels).lm_loss)


def test_minigpt_needs_to_know_where_rows_end(make_model, tokens):
    model = make_model("MiniGPTForSequenceClassification", pad_token_id=None)
    with pytest.raises(ValueError, match="attention_mask or config.pad_token_id"):
        model(tokens)
    assert model(tokens[:1]).logits.shape == (1, 2)


def test_the_language_model_loss_of_fine_tuning_does_not_depend_on_the_side_of_the_padding(make_model, tokens):
    model, labels = make_model("MiniGPTForSequenceClassification"), torch.tensor([0, 1, 1])
    lengths = torch.tensor([[12], [9], [5]])
    right = torch.arange(12) < lengths
    left = right.flip(1)
    rows = torch.zeros_like(tokens).masked_scatter(left, tokens[right])
    outputs = [
        model(ids, attention_mask=mask.long(), position_ids=(mask.cumsum(1) - 1).clamp(min=0), labels=labels)
        for ids, mask in ((tokens, right), (rows, left))
    ]
    for name in ("lm_loss", "classification_loss"):
        torch.testing.assert_close(outputs[1][name], outputs[0][name])


@pytest.mark.parametrize("weight", [0, 0.5, 2.0])
def test_fine_tuning_minigpt_keeps_the_language_model_loss(make_model, tokens, weight):
    model = make_model("MiniGPTForSequenceClassification", lm_loss_weight=weight)
    real = torch.arange(12) < torch.tensor([[12], [9], [5]])
    ids, labels = tokens.masked_fill(~real, 0), torch.tensor([0, 1, 1])
    outputs = model(ids, attention_mask=real.long(), labels=labels)
    l2 = F.cross_entropy(outputs.logits, labels)
    torch.testing.assert_close(outputs.classification_loss, l2)
    logits = model.lm_head(model.model(ids, attention_mask=real.long()).last_hidden_state)
    l1 = sum(
        F.cross_entropy(row[: length - 1], own[1:length])
        for row, own, length in zip(logits, ids, (12, 9, 5), strict=True)
    )
    if weight == 0:
        assert outputs.lm_loss is None
    else:
        torch.testing.assert_close(outputs.lm_loss, l1 / 3)
    torch.testing.assert_close(outputs.loss, l2 + weight * l1 / 3)


CASES = {
    "MiniBertForMaskedLM": ("MiniBertForMaskedLM", {}, masked_labels),
    "MiniBertForPreTraining": ("MiniBertForPreTraining", {}, masked_labels),
    "MiniBertForNextSentencePrediction": ("MiniBertForNextSentencePrediction", {}, lambda _: torch.tensor([0, 1, 1])),
    "MiniBertForMultipleChoice": ("MiniBertForMultipleChoice", {}, lambda _: torch.tensor([1, 0, 0])),
    "MiniGPTForMultipleChoice": ("MiniGPTForMultipleChoice", {}, lambda _: torch.tensor([1, 0, 0])),
    "MiniGPTForCausalLM": ("MiniGPTForCausalLM", {}, masked_labels),
}
for kind in ("MiniBert", "MiniGPT"):
    name = f"{kind}ForTokenClassification"
    CASES[name] = (name, {"num_labels": 99}, masked_labels)
    classifier = f"{kind}ForSequenceClassification"
    CASES[classifier] = (classifier, {"num_labels": 3}, lambda _: torch.tensor([2, 0, 1]))
    CASES[f"{classifier}-regression"] = (classifier, {"num_labels": 1}, lambda _: torch.tensor([2.0, 0.5, 1.0]))
    CASES[f"{classifier}-several-numbers"] = (
        classifier,
        {"num_labels": 3, "problem_type": "regression"},
        lambda _: torch.tensor([[2.0, 0.5, 1.0], [0.0, 1.0, 0.2], [0.1, 0.2, 0.3]]),
    )
    CASES[f"{classifier}-several-labels"] = (
        classifier,
        {"num_labels": 3},
        lambda _: torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]),
    )


@pytest.mark.parametrize("case", CASES)
def test_batches_can_be_split(make_model, tokens, case):
    name, fields, make_labels = CASES[case]
    model = make_model(name, **fields).train()
    real = torch.arange(12) < torch.tensor([[12], [11], [10]])
    labels = make_labels(tokens)
    batch = {"input_ids": tokens.masked_fill(~real, 0), "attention_mask": real.long(), "labels": labels}
    if name == "MiniBertForPreTraining":
        batch["next_sentence_label"] = torch.tensor([0, 1, 1])
    if name.endswith("MultipleChoice"):
        batch |= {key: torch.stack((batch[key], batch[key].flip(1)), dim=1) for key in ("input_ids", "attention_mask")}

    whole = model(**batch).loss
    # As Trainer counts.
    counted = labels[:, 1:] if name == "MiniGPTForCausalLM" else labels
    count = (counted != -100).sum()
    options = {"num_sentences_in_batch": 3} if name == "MiniBertForPreTraining" else {}
    parts = [
        model(**{key: value[rows] for key, value in batch.items()}, num_items_in_batch=count, **options).loss
        for rows in (slice(0, 2), slice(2, 3))
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=0, atol=1e-5)
    assert_same(gradient(model, sum(parts)), gradient(model, model(**batch).loss))


def test_the_order_of_sentences_keeps_its_weight_where_only_tokens_are_counted(make_model, tokens):
    # Trainer counts tokens alone: the parts are then weighted by their tokens, and the weights add up to one.
    model = make_model("MiniBertForPreTraining")
    labels, order = masked_labels(tokens), torch.tensor([0, 1, 1])
    parts = [
        model(
            tokens[row : row + 1],
            labels=labels[row : row + 1],
            next_sentence_label=order[row : row + 1],
            num_items_in_batch=12,
        ).nsp_loss
        for row in range(3)
    ]
    alone = F.cross_entropy(model(tokens).seq_relationship_logits, order, reduction="none")
    torch.testing.assert_close(sum(parts), (alone * torch.tensor([1, 4, 7]) / 12).sum())
