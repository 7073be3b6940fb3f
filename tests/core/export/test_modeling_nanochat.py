"""The model as transformers loads it: our logits, our tokens, safe padding, and the cache's promises."""

import copy
import sys

import nanochat_golden
import pytest
import torch

from nanochat_core.export.huggingface import model_config
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.sampling import Sampling
from nanochat_core.inference.tool_loop import End, ToolCall, ToolLoop
from nanochat_core.model.import_checkpoint import load_nanochat_checkpoint
from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer

TOLERANCE = 1e-5
NO_END = {"eos_token_id": None, "pad_token_id": 0}


def _ids(rows, tokens, seed=2):
    return torch.randint(0, 592, (rows, tokens), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 2, 129, 300, 512])
def test_logits_equal_ours(model, hf_model, tokens):
    ids = _ids(2, tokens)
    torch.testing.assert_close(hf_model(ids).logits, model(ids), atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["smear_weight", "residual_weights", "skip_weights", "backout_weight", "value_embeds"])
def test_each_feature_changes_the_logits_as_in_ours(model, hf_model, name):
    """Without this a feature that both leave out would go unseen."""
    ids, changed, theirs = _ids(1, 200), copy.deepcopy(model), copy.deepcopy(hf_model)
    for one in (changed, theirs):
        for parameter_name, parameter in one.named_parameters():
            if parameter_name.startswith(name):
                parameter.mul_(0.5)
    assert (changed(ids) - model(ids)).abs().max() > 100 * TOLERANCE
    torch.testing.assert_close(theirs(ids).logits, changed(ids), atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_a_short_window_hides_what_is_behind_it(hf_model):
    windows = hf_model.config.windows
    assert min(windows) < max(windows)
    wide = copy.deepcopy(hf_model)
    wide.config.windows = [max(windows)] * len(windows)
    ids = _ids(1, 300)
    before = min(windows) + 1
    torch.testing.assert_close(wide(ids[:, :before]).logits, hf_model(ids[:, :before]).logits)
    assert (wide(ids).logits - hf_model(ids).logits).abs().max() > 100 * TOLERANCE


@torch.no_grad()
def test_logits_equal_nanochats(hf_model, tokenizer, golden_d4):
    ours = load_nanochat_checkpoint(golden_d4)
    config = type(hf_model.config)(**model_config(ours.config, tokenizer, dtype="float32"))
    theirs = type(hf_model)(config).eval()
    theirs.load_state_dict(ours.state_dict())
    golden = nanochat_golden.numbers()
    ids = torch.tensor(golden["ids"])[:, :-1]
    expected = nanochat_golden.arrays("expected")["logits_last32"]
    torch.testing.assert_close(theirs(ids).logits[:, -32:], expected, atol=1e-4, rtol=0)
    prompt = torch.tensor([golden["greedy_prompt"]])
    answer = theirs.generate(prompt, max_new_tokens=48, attention_mask=torch.ones_like(prompt), **NO_END)
    assert answer[0, prompt.size(1) :].tolist() == golden["greedy_next_48"]


def test_the_loss_equals_ours(model, hf_model):
    ids = _ids(2, 100)
    labels = ids.clone()
    labels[0, :30] = -100
    targets = labels[:, 1:].masked_fill(labels[:, 1:] == -100, -1)
    ours, theirs = model.loss(ids[:, :-1], targets), hf_model(ids, labels=labels).loss
    assert theirs.item() == pytest.approx(ours.item(), abs=TOLERANCE)
    hf_model.zero_grad()
    theirs.backward()
    assert all(parameter.grad is not None for parameter in hf_model.parameters())
    hf_model.zero_grad()


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_generation_equals_our_engine(model, tokenizer, hf_model, use_cache):
    """100 tokens behind 60: past the short windows."""
    prompt = _ids(1, 60, seed=5)
    answer = Engine(model, tokenizer).generate([prompt[0].tolist()], [Sampling(max_new_tokens=100)])[0]
    assert not any(isinstance(event, ToolCall) for event in answer.events)
    written = hf_model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=100, use_cache=use_cache)
    assert written[0, 60:].tolist() == answer.tokens
    assert len(answer.tokens) > 70


def test_generation_ends_at_the_tokens_that_end_our_engines_answers(tokenizer, hf_model):
    ends = []
    for name in SPECIAL_TOKENS:
        events = ToolLoop(tokenizer).feed(tokenizer.special(name))
        ends += [tokenizer.special(name)] if any(isinstance(event, End) for event in events) else []
    assert sorted(hf_model.generation_config.eos_token_id) == sorted(ends)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_logits(hf_model, side):
    ids, mask = _ids(3, 200), torch.ones(3, 200, dtype=torch.long)
    for row, padding in enumerate((0, 7, 150)):
        mask[row, slice(0, padding) if side == "left" else slice(200 - padding, 200)] = 0
    logits = hf_model(ids, attention_mask=mask).logits
    assert logits.isfinite().all()
    for row in range(3):
        kept = mask[row].bool()
        alone = hf_model(ids[row : row + 1, kept]).logits[0]
        torch.testing.assert_close(logits[row, kept], alone, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("use_cache", [True, False])
def test_padded_rows_generate_as_alone(hf_model, use_cache):
    lengths, width = (5, 130, 141), 141
    ids, mask = _ids(3, width), torch.zeros(3, width, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, width - length :] = 1
    options = {"max_new_tokens": 12, "use_cache": use_cache, **NO_END}
    written = hf_model.generate(ids, attention_mask=mask, **options)
    for row, length in enumerate(lengths):
        alone = ids[row : row + 1, width - length :]
        expected = hf_model.generate(alone, attention_mask=torch.ones_like(alone), **options)
        assert written[row, width:].tolist() == expected[0, length:].tolist()


def test_a_hole_in_the_attention_mask_is_refused(hf_model):
    mask = torch.ones(1, 10, dtype=torch.long)
    mask[0, 4] = 0
    with pytest.raises(ValueError, match="pad on the left"):
        hf_model(_ids(1, 10), attention_mask=mask)


@torch.no_grad()
def test_a_sequence_in_pieces_equals_the_whole(transformers, hf_model):
    ids = _ids(2, 200)
    whole, cache, parts = hf_model(ids).logits, transformers.DynamicCache(), []
    for piece in ids.split([1, 2, 130, 1, 66], dim=1):
        out = hf_model(piece, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        parts.append(out.logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=TOLERANCE, rtol=0)


def test_beam_search_does_not_depend_on_the_cache(hf_model):
    """Beams change rows: keys, values and the embedding that the smear needs have to move together."""
    prompt = _ids(2, 30, seed=9)
    options = {"num_beams": 3, "max_new_tokens": 15, "attention_mask": torch.ones_like(prompt), **NO_END}
    with_cache, without = (hf_model.generate(prompt, use_cache=use, **options) for use in (True, False))
    assert with_cache.tolist() == without.tolist()


@torch.no_grad()
def test_only_the_wanted_logits_are_computed(hf_model):
    ids = _ids(1, 20)
    torch.testing.assert_close(hf_model(ids, logits_to_keep=1).logits, hf_model(ids).logits[:, -1:])


@torch.no_grad()
@pytest.mark.parametrize("num_past", [0, 77])
def test_attention_in_blocks_equals_the_fused_one_of_a_gpu(hf_model, monkeypatch, num_past):
    """The route of a GPU, taken here: what it multiplies and hides does not depend on the device."""
    module = sys.modules[type(hf_model).__module__]
    ids = _ids(2, 77 + 140)
    cache = hf_model(ids[:, :num_past], use_cache=True).past_key_values if num_past else None
    again = copy.deepcopy(cache)
    blocks = hf_model(ids[:, num_past:], past_key_values=cache).logits

    def fused(q, k, v, bias, *, window):
        groups = q.size(1) // k.size(1)
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)

    monkeypatch.setattr(module, "attend_in_blocks", fused)
    torch.testing.assert_close(hf_model(ids[:, num_past:], past_key_values=again).logits, blocks, atol=1e-4, rtol=0)


def test_what_it_cannot_do_it_says(transformers, hf_model):
    with pytest.raises(ValueError, match="input_ids"):
        hf_model(inputs_embeds=torch.zeros(1, 3, 64))
    with pytest.raises(NotImplementedError):
        hf_model.resize_token_embeddings(700)
    with pytest.raises((ValueError, NotImplementedError)):
        hf_model.generate(_ids(1, 4), max_new_tokens=2, cache_implementation="static")


def test_save_pretrained_writes_a_folder_that_loads_again(transformers, hf_model, hf_tokenizer, tokenizer, tmp_path):
    hf_model.save_pretrained(tmp_path)
    hf_tokenizer.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True).eval()
    ids = _ids(1, 50)
    assert torch.equal(again(ids).logits, hf_model(ids).logits)
    read = transformers.AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)
    assert read.encode("two  blanks, 123", add_special_tokens=False) == tokenizer.encode("two  blanks, 123")


def test_the_tokenizers_special_tokens_have_our_ids(hf_tokenizer, tokenizer: Tokenizer):
    assert len(hf_tokenizer) == tokenizer.vocab_size
    assert hf_tokenizer.bos_token_id == tokenizer.bos
    assert hf_tokenizer.eos_token_id == tokenizer.special("<|assistant_end|>")
    assert hf_tokenizer.padding_side == "left"
    text = "a <|bos|> b"
    assert hf_tokenizer(text, split_special_tokens=True)["input_ids"] == tokenizer.encode(text)
