"""MiniBERT and MiniGPT as one model of our own: its loss, its shared embeddings, and its checkpoints elsewhere."""

import pytest
import torch
from commands import elsewhere
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForSeq2SeqLM, EncoderDecoderModel

from hf_minibert import MiniEncoderDecoderConfig, MiniEncoderDecoderModel

IDS = {"decoder_start_token_id": 2, "pad_token_id": 0, "eos_token_id": 3}
OTHER_PROCESS = """
import torch
from transformers import AutoModelForSeq2SeqLM

folder = sys.argv[1]
tokens, logits, written = torch.load(folder + "/expected.pt")
for place in (folder, folder + "/copy"):
    model = AutoModelForSeq2SeqLM.from_pretrained(place, trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules")
    assert torch.equal(model(tokens, labels=tokens).logits, logits)
    assert torch.equal(model.generate(tokens, max_new_tokens=8, num_beams=3, do_sample=False), written)
    model.save_pretrained(folder + "/copy")
"""


@pytest.fixture
def make_pair(make_config):
    """A model of both parts; its choices depend on the text."""

    def make(*, encoder=None, decoder=None, **fields):
        parts = (
            make_config(name, initializer_range=0.3, **(more or {}))
            for name, more in (("MiniBertConfig", encoder), ("MiniGPTConfig", decoder))
        )
        torch.manual_seed(0)
        return MiniEncoderDecoderModel(
            MiniEncoderDecoderConfig.from_encoder_decoder_configs(*parts, **IDS | fields)
        ).eval()

    return make


def test_it_computes_what_transformers_own_class_does(make_pair, tokens):
    model = make_pair()
    stock = EncoderDecoderModel(encoder=model.encoder, decoder=model.decoder).eval()
    expected = stock(tokens, decoder_input_ids=tokens).logits
    assert torch.equal(model(tokens, decoder_input_ids=tokens).logits, expected)
    labels = tokens.clone()
    labels[1, 5:] = -100
    logits = model(tokens, labels=labels).logits
    shifted = torch.cat((torch.full((3, 1), 2), labels[:, :-1]), dim=1).masked_fill_(
        torch.cat((torch.zeros(3, 1, dtype=torch.bool), labels[:, :-1] == -100), dim=1), 0
    )
    assert torch.equal(logits, stock(tokens, decoder_input_ids=shifted).logits)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(model(tokens, labels=labels).loss, loss)


def test_its_loss_can_be_split_over_batches(make_pair, tokens):
    model, labels = make_pair(), tokens.clone()
    labels[0, 3:] = -100
    whole = model(tokens, labels=labels).loss
    count = (labels != -100).sum()
    parts = [
        model(tokens[row], labels=labels[row], num_items_in_batch=count).loss for row in (slice(0, 1), slice(1, 3))
    ]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize(("architecture", "is_tied"), [("classic", False), ("modern", True)])
def test_a_checkpoint_opens_where_the_package_is_not(make_pair, tokens, tmp_path, is_tied):
    model = make_pair(tie_word_embeddings=is_tied)
    model.save_pretrained(tmp_path)
    logits = model(tokens, labels=tokens).logits
    written = model.generate(tokens, max_new_tokens=8, num_beams=3, do_sample=False)
    for opener in (AutoModelForSeq2SeqLM, MiniEncoderDecoderModel):
        again, info = opener.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        assert torch.equal(again.eval()(tokens, labels=tokens).logits, logits)
        assert (again.encoder.embed_tokens.weight is again.decoder.lm_head.weight) == is_tied
    torch.save((tokens, logits, written), tmp_path / "expected.pt")
    elsewhere(OTHER_PROCESS, tmp_path, tmp_path)


def test_what_does_not_fit_together_is_refused(make_pair):
    with pytest.raises(StrictDataclassError, match="one shape of embeddings"):
        make_pair(encoder={"hidden_size": 48}, tie_word_embeddings=True)
    with pytest.raises(StrictDataclassError, match="never see what the encoder reads"):
        MiniEncoderDecoderConfig(decoder={"add_cross_attention": False})
    with pytest.raises(ValueError, match="an encoder and a decoder"):
        MiniEncoderDecoderModel()


def test_parts_of_different_widths_are_joined(make_pair, tokens):
    assert make_pair(encoder={"hidden_size": 48})(tokens, labels=tokens).logits.shape == (3, 12, 99)
