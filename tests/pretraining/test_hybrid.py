"""One set of weights as an encoder and as a decoder."""

import pytest
import torch

from hf_minibert import MiniBertConfig, MiniBertForMaskedLM
from hf_minibert.errors import UserError
from hf_minibert.export.stock import to_stock
from hf_minibert.pretraining.hybrid import MiniBertForHybridPreTraining, as_decoder

SHAPE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = torch.randint(5, 50, (4, 12), generator=torch.Generator().manual_seed(0))
LABELS = torch.where(torch.rand(4, 12, generator=torch.Generator().manual_seed(1)) < 0.4, IDS, -100)
CAUSAL_ROWS = torch.tensor([True, False, False, True])


@pytest.fixture(params=["eager", "sdpa"])
def model(request: pytest.FixtureRequest) -> MiniBertForHybridPreTraining:
    torch.manual_seed(0)
    config = MiniBertConfig(**SHAPE, initializer_range=0.2, shifted_predictions=True)
    model = MiniBertForHybridPreTraining(config)
    model.set_attn_implementation(request.param)
    return model


def test_causal_rows_are_what_the_decoder_computes(model):
    decoder = as_decoder(model).eval()
    positions = torch.tensor([[*range(5), *range(7)]]).expand(4, -1)  # two documents in a row
    for given in ({}, {"position_ids": positions}):
        ours = model.eval()(IDS, causal_rows=torch.ones(4, dtype=torch.bool), **given).logits
        theirs = decoder(IDS, **given).logits
        torch.testing.assert_close(ours[:, 1:], theirs[:, :-1])


def test_each_row_is_computed_as_if_all_were_of_its_kind(model):
    model.eval()
    mixed = model(IDS, causal_rows=CAUSAL_ROWS).logits
    for kind in (True, False):
        alone = model(IDS, causal_rows=torch.full((4,), kind)).logits
        torch.testing.assert_close(mixed[kind == CAUSAL_ROWS], alone[kind == CAUSAL_ROWS])
    torch.testing.assert_close(mixed[~CAUSAL_ROWS], model(IDS[~CAUSAL_ROWS]).logits)


def test_a_masked_token_is_predicted_from_the_state_before_it(model):
    model.eval()
    states = model.model(IDS).last_hidden_state
    expected = model.lm_head(states)
    torch.testing.assert_close(model(IDS).logits[:, 1:], expected[:, :-1])


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_the_loss_is_that_of_both_kinds_by_their_share(model, share):
    model.train()
    losses = model(IDS, labels=LABELS, causal_rows=CAUSAL_ROWS, masked_share=share)
    encoder = MiniBertForMaskedLM(model.config).train()
    encoder.load_state_dict(model.state_dict())
    for kind, loss in ((False, losses.mlm_loss), (True, losses.clm_loss)):
        rows = kind == CAUSAL_ROWS
        alone = encoder(IDS[rows], labels=LABELS[rows], causal_rows=CAUSAL_ROWS[rows]).loss
        torch.testing.assert_close(loss, alone)
    torch.testing.assert_close(losses.loss, share * losses.mlm_loss + (1 - share) * losses.clm_loss)


def test_a_batch_of_one_kind_has_a_loss_and_gradients(model):
    model.train()
    losses = model(IDS, labels=LABELS, causal_rows=torch.zeros(4, dtype=torch.bool))
    losses.loss.backward()
    assert losses.clm_loss == 0
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("fields", [{}, {"shifted_predictions": True, "type_vocab_size": 2}])
def test_other_encoders_are_no_decoders(fields):
    with pytest.raises(UserError, match="only a MiniBERT of `--objective hybrid` is a decoder"):
        as_decoder(MiniBertForMaskedLM(MiniBertConfig(**SHAPE, **fields)))


def test_no_stock_class_predicts_from_the_state_before(model):
    encoder = MiniBertForMaskedLM(model.config)
    with pytest.raises(UserError, match="shifted_predictions=True where a token is predicted from its own state"):
        to_stock(encoder)
    to_stock(encoder.model)  # the encoder itself is as any other
