"""A line of the network is changed, part by part: whatever answers follows, steps aside, or refuses."""

import inspect
import logging
import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_server import byte_tokenizer

from nanochat_core.base.errors import ConfigError
from nanochat_core.config import GPTConfig
from nanochat_core.evals.core import plain_scoring
from nanochat_core.evals.core.prompts import Prompt
from nanochat_core.evals.core.scoring import GPTScorer
from nanochat_core.export.admission import check_modeling_file
from nanochat_core.inference import admission as decoding
from nanochat_core.inference import native_step
from nanochat_core.inference.decoder import Decoder
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.native import library
from nanochat_core.inference.next_token import next_token_logits
from nanochat_core.inference.plain_decoder import PlainDecoder
from nanochat_core.inference.sampling import Sampling
from nanochat_core.model import admission, attention, gpt, probe, rotary, stream
from nanochat_core.train.advantage import policy_terms

PROMPT = [256, *b"what is the river?"]
# part of the network, owner of the function, its name, what stands there, what it becomes
CHANGES = {
    "MLP": (gpt.MLP, "forward", "squared_relu(self.fc(x))", "1.5 * self.fc(x).relu()"),
    "MLP's factor": (gpt.MLP, "forward", "return self.proj(squared", "return 1.1 * self.proj(squared"),
    "norm": (gpt.Block, "forward", "x = x + self.attn(rms_norm(x)", "x = x + self.attn(0.9 * rms_norm(x)"),
    "no norm": (gpt.Block, "forward", "return x + self.mlp(rms_norm(x))", "return x + self.mlp(x)"),
    "smear": (gpt.GPT, "_smear", ".to(gate.dtype) * gate", ".to(gate.dtype) * gate / 2"),
    "mix": (gpt.GPT, "hidden", "x0_weight=self.skip_weights[layer]", "x0_weight=2 * self.skip_weights[layer]"),
    "value gate": (attention.Attention, "added_values", "self.gate_scale * torch", "2.0 * torch"),
    "backout": (gpt.GPT, "hidden", "rms_norm(x - self", "rms_norm(x + self"),
    "where backout looks": (gpt.GPT, "hidden", "self.config.n_layer // 2", "0"),
    "softcap": (gpt.GPT, "logits", "sigmoid().mul(2 * cap).sub(cap)", "sigmoid().mul(40.0).sub(20.0)"),
    "head": (gpt.GPT, "logits", "logits.float()", "(1.2 * logits.float())"),
    "rotary": (rotary, "_rotate", "return torch", "sin = 0.5 * sin; return torch"),
    "window": (attention.Attention, "forward", "window=self.window", "window=5"),
}  # fmt: skip


@pytest.fixture
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def make_model(tokenizer):
    """Every parameter drawn, as the self-tests have it, at a shape of its own."""

    def make(**changes):
        shape = {"sequence_len": 128, "n_layer": 3, "n_head": 2, "n_kv_head": 1, "n_embd": 64}
        return probe.drawn(GPTConfig(vocab_size=tokenizer.vocab_size, **{**shape, **changes}))

    return make


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    caches = (decoding.why_plain, decoding.is_compiled, plain_scoring.why_plain, admission.is_loss_of_logits)
    for cached in caches:
        cached.cache_clear()
    for module in (decoding, plain_scoring, admission):  # ours may have been silenced by a test before
        monkeypatch.setattr(module, "log", logging.getLogger(f"admission of {module.__name__}"))
    yield
    for cached in caches:
        cached.cache_clear()


def change(monkeypatch, owner, name, old, new):
    source = textwrap.dedent(inspect.getsource(getattr(owner, name)))
    assert old in source
    module = owner if inspect.ismodule(owner) else inspect.getmodule(owner)
    names = dict(vars(module))
    exec(source.replace(old, new), names)
    monkeypatch.setattr(owner, name, names[name])


def paths(model, tokenizer):
    """Each way to an answer -> how far it is from the cross entropy or the logits of the model's own forward."""
    text = torch.tensor([[*PROMPT, *b" a carrier of stones under the bridge"]])
    with torch.no_grad():
        logits = model(text)
    own = logits.log_softmax(-1)
    targets = text.roll(-1, dims=1)
    losses = F.cross_entropy(logits[0], targets[0], reduction="none")
    off = {}
    loss = model.loss(text, targets)
    off["training loss"] = abs(float(loss.detach() - losses.mean()))
    with torch.no_grad():
        off["validation loss"] = float((model.loss(text, targets, reduction="none")[0] - losses).abs().max())
    engine = Engine(model, tokenizer, weights="plain")
    answer = engine.generate(
        [PROMPT], [Sampling(max_new_tokens=9, num_logprobs=model.config.vocab_size, use_tools=False)]
    )[0]
    with torch.no_grad():
        again = model(torch.tensor([[*PROMPT, *answer.tokens]]))[0, len(PROMPT) - 1 :].log_softmax(-1)
    told = torch.tensor([[value for _, value in sorted(entry.top)] for entry in answer.logprobs])
    off["answers"] = float((told - again[: len(told)]).abs().max())
    candidates = list(range(model.config.vocab_size))
    chosen = next_token_logits(model, [PROMPT], [candidates], batch_tokens=64)[0]
    off["letters of choices"] = float((torch.tensor(chosen) - model(text)[0, len(PROMPT) - 1]).abs().max())
    ids = text[0].numpy().astype(np.uint16)
    prompt = Prompt(ids[:30], [ids[30:40], ids[30:36]], [10, 6], 0)
    score = plain_scoring.scorer_for(model, batch_tokens=256).score([prompt], lambda done: None)[0]
    expected = [float(-own[0, 29 : 29 + n].gather(1, text[0, 30 : 30 + n, None]).mean()) for n in (10, 6)]
    off["CORE"] = float(np.abs(np.subtract(score.losses, expected)).max())
    terms = policy_terms(model, text, targets, row_advantages=torch.ones(1))
    off["policy"] = abs(float(terms.loss.detach() - losses.sum())) / losses.numel()
    return off


@pytest.mark.parametrize("part", CHANGES)
def test_no_path_answers_with_another_network(part, make_model, tokenizer, monkeypatch, caplog):
    owner, name, old, new = CHANGES[part]
    model = make_model()
    before = model(torch.tensor([PROMPT])).detach()
    change(monkeypatch, owner, name, old, new)
    off = (model(torch.tensor([PROMPT])) - before).abs().max()
    assert off > 1e-2, "the change changes nothing: no test of anything"
    with caplog.at_level(logging.WARNING):
        assert {path: off for path, off in paths(model, tokenizer).items() if off > 1e-3} == {}
    assert isinstance(Engine(model, tokenizer).decoder(num_rows=1, max_len=8), PlainDecoder)
    assert "model's own forward" in caplog.text
    with pytest.raises(ConfigError, match="does not compute this model"):
        check_modeling_file(model.config, tokenizer)


@pytest.mark.skipif(library() is None, reason="no C compiler")
def test_a_compiled_step_that_is_off_gives_way_to_operations(make_model, tokenizer, monkeypatch, caplog):
    """As a compiler's fault would be, or a change of the model that the operations have followed and the C has not."""
    monkeypatch.setattr(native_step, "RMS_EPS", 0.5)
    model = make_model()
    with caplog.at_level(logging.WARNING):
        decoder = Engine(model, tokenizer).decoder(num_rows=1, max_len=8)
    assert isinstance(decoder, Decoder)
    assert not decoder.is_compiled
    assert "compiled decoding steps are not used: its logits differ" in caplog.text


def test_the_network_as_it_is_takes_every_fast_path(make_model, tokenizer, caplog):
    model = make_model()
    assert {path: off for path, off in paths(model, tokenizer).items() if off > 1e-3} == {}
    decoder = Engine(model, tokenizer).decoder(num_rows=1, max_len=8)
    assert isinstance(decoder, Decoder)
    assert decoder.is_compiled == (library() is not None)
    assert isinstance(plain_scoring.scorer_for(model, batch_tokens=64), GPTScorer)
    assert admission.is_loss_of_logits(model.config)
    assert not caplog.text
    check_modeling_file(model.config, tokenizer)


def test_a_new_parameter_is_seen_although_it_starts_neutral(make_model, tokenizer, monkeypatch):
    """A gain of one changes no logit of a fresh model; it will after a training."""
    original = gpt.MLP.__init__

    def with_gain(self, config):
        original(self, config)
        self.gain = torch.nn.Parameter(torch.ones(config.n_embd))

    monkeypatch.setattr(gpt.MLP, "__init__", with_gain)
    change(monkeypatch, gpt.MLP, "forward", "return self.proj(squared_relu(self.fc(x)))",
           "return self.gain * self.proj(squared_relu(self.fc(x)))")  # fmt: skip
    config = make_model().config
    assert decoding.why_plain(config) is not None
    assert plain_scoring.why_plain(config) is None  # it runs the model's own MLP


def test_one_formula_of_two_is_refused_before_a_training(make_model, monkeypatch):
    """With gradients rms_norm has a formula of its own: a change of the other one would only be measured."""
    change(monkeypatch, stream, "rms_norm", "return F.rms_norm(x, (x.size(-1),), eps=RMS_EPS)",
           "return 0.9 * F.rms_norm(x, (x.size(-1),), eps=RMS_EPS)")  # fmt: skip
    monkeypatch.setattr(gpt, "rms_norm", stream.rms_norm)
    with pytest.raises(ConfigError, match="with gradients the network computes something else"):
        admission.is_loss_of_logits(make_model().config)


def test_an_mlp_in_fp8_is_that_of_the_model(make_model, monkeypatch, caplog):
    model = make_model(n_embd=64, n_head=2, n_kv_head=2)
    assert admission.is_fused_mlp(model)
    assert not caplog.text
    change(monkeypatch, gpt.MLP, "forward", "squared_relu(self.fc(x))", "self.fc(x).relu()")
    assert not admission.is_fused_mlp(model)
    assert "product by product" in caplog.text


def test_a_self_test_that_stumbles_says_over_what(make_model):
    def compute(model, ids):
        raise AttributeError("no smear here")

    assert "AttributeError: no smear here" in probe.why_not(make_model().config, compute)


def test_the_plain_decoder_takes_what_the_fast_one_takes(make_model):
    model = make_model()
    fast, plain = Decoder(model, num_rows=3, max_len=40, weights="plain"), PlainDecoder(model, num_rows=3, max_len=40)
    for decoder in (fast, plain):
        decoder.prefill_rows([0, 1], torch.tensor([PROMPT, PROMPT]))
        decoder.step([5], [0])
        decoder.copy_row(0, 2)
        decoder.clear_row(1)
        decoder.prefill_rows([1], torch.tensor([[256, 7]]))
        decoder.shrink([2, 1])
    assert fast.lengths == plain.lengths == [len(PROMPT) + 1, 2]
    torch.testing.assert_close(fast.step([3, 4]), plain.step([3, 4]), atol=1e-4, rtol=0)
    with pytest.raises(ConfigError, match="do not fit"):
        plain.prefill_rows([0], torch.tensor([[1] * 30]))
