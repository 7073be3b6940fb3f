"""Other people's models: a tiny GPT-2 with its own vocabulary, against plain loops and lm-evaluation-harness."""

import json
import sys

import numpy as np
import pytest
import torch

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.evals.core.bundle import read_bundle
from nanochat_core.evals.core.huggingface import load_huggingface, measure_huggingface
from nanochat_core.evals.core.prompts import Prompt, Prompts, write_prompts

NUM_LOGLIKELIHOODS = 200
MAX_TOKENS = 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 of random weights and a byte-level vocabulary, as save_pretrained writes them."""
    transformers = pytest.importorskip("transformers", reason="needs the optional extra transformers")
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("gpt2")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(["Question: How do I open the jar? Answer: Turn it around the lid."] * 3, trainer)
    end = "<|endoftext|>"
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=end, eos_token=end)
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=MAX_TOKENS, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def loaded(folder):
    return load_huggingface(str(folder), device="cpu", dtype="fp32", batch_tokens=512)


def _prompts(count, *, longest):
    """Random prompts of three choices, some of them of one token."""
    generator = np.random.default_rng(0)

    def ids(length):
        return generator.integers(1, 256, length).astype(np.uint16)

    found = []
    for _ in range(count):
        suffixes = [ids(generator.integers(1, 9)) for _ in range(3)]
        found.append(Prompt(ids(generator.integers(1, longest)), suffixes, [len(suffix) for suffix in suffixes], 0))
    return found


@torch.no_grad()
def _plain(model, prompt, choice):
    """Mean loss of one choice, by itself, after nanochat's cropping from the left."""
    whole = np.concatenate([prompt.prefix, prompt.suffixes[choice]]).astype(np.int64)[-MAX_TOKENS:]
    ids = torch.from_numpy(whole)[None]
    losses = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    return float(losses[-len(prompt.suffixes[choice]) :].mean())


@pytest.mark.slow
def test_losses_are_those_of_one_sequence_at_a_time_also_beyond_the_positions(loaded):
    _, scorer = loaded
    prompts = _prompts(40, longest=150)
    for prompt, score in zip(prompts, scorer.score(prompts, lambda done: None), strict=True):
        np.testing.assert_allclose(score.losses, [_plain(scorer.model, prompt, n) for n in range(3)], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_model_that_does_more_than_a_head_is_scored_through_its_own_logits(loaded):
    _, scorer = loaded
    prompts = _prompts(10, longest=40)
    through_head = scorer.score(prompts, lambda done: None)
    assert scorer._has_plain_head
    scorer._has_plain_head = False
    try:
        through_logits = scorer.score(prompts, lambda done: None)
    finally:
        scorer._has_plain_head = True
    for one, other in zip(through_head, through_logits, strict=True):
        np.testing.assert_allclose(one.losses, other.losses, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_core_of_such_a_model_has_every_item_and_its_own_tokens(folder, bundle_folder, tmp_path):
    bundle = read_bundle(bundle_folder)
    heard = []
    measured = measure_huggingface(
        str(folder),
        bundle,
        tmp_path / "p",
        max_per_benchmark=3,
        progress=lambda *args: heard.append(args),
        device="cpu",
    )
    assert len(measured.outcomes) == 12
    assert measured.summary["max_per_benchmark"] == 3
    assert heard[-1] == (12, 12, "jeopardy")
    encoder, _ = load_huggingface(str(folder), device="cpu", dtype="fp32", batch_tokens=512)
    first = Prompts(tmp_path / "p").prompt(0)
    text = encoder.tokenizer.decode([*first.prefix, *first.suffixes[0]])
    assert text.startswith("<|endoftext|>The man turned on tap")
    assert encoder.bos == encoder.tokenizer.convert_tokens_to_ids("<|endoftext|>")


@pytest.mark.slow
def test_the_harness_gives_the_same_loglikelihoods(loaded):
    """lm-evaluation-harness scores the same token sequences with code of its own."""
    lm_eval = pytest.importorskip("lm_eval.models.huggingface", reason="needs lm-eval")
    encoder, scorer = loaded
    harness = lm_eval.HFLM(pretrained=scorer.model, tokenizer=encoder.tokenizer, batch_size=8, device="cpu")
    prompts = _prompts(NUM_LOGLIKELIHOODS // 3 + 1, longest=60)
    requests, ours = [], []
    for prompt, score in zip(prompts, scorer.score(prompts, lambda done: None), strict=True):
        for suffix, loss, is_greedy in zip(prompt.suffixes, score.losses, score.is_greedy, strict=True):
            requests.append((("", ""), prompt.prefix.tolist(), suffix.tolist()))
            ours.append((-loss * len(suffix), is_greedy))
    theirs = harness._loglikelihood_tokens(requests, disable_tqdm=True)
    assert len(ours) >= NUM_LOGLIKELIHOODS
    np.testing.assert_allclose([value for value, _ in ours], [value for value, _ in theirs], atol=1e-4, rtol=0)
    assert [greedy for _, greedy in ours] == [bool(greedy) for _, greedy in theirs]


@pytest.mark.slow
def test_a_folder_without_a_model_says_what_is_needed(folder, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(MissingError) as caught:
        load_huggingface(str(tmp_path), device="cpu", dtype="fp32", batch_tokens=512)
    assert "save_pretrained" in (caught.value.hint or "")


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError) as caught:
        load_huggingface("gpt2", device="cpu", dtype="fp32", batch_tokens=512)
    assert caught.value.hint == "pip install 'nanochat-prefect[transformers]'"


@pytest.mark.slow
def test_several_processes_write_the_same_prompts(loaded, bundle_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("nanochat_core.evals.core.prompts.MIN_ITEMS_FOR_PROCESSES", 1)
    encoder, _ = loaded
    for workers in (1, 2):
        write_prompts(
            read_bundle(bundle_folder),
            encoder,
            tmp_path / str(workers),
            max_per_benchmark=None,
            progress=lambda done, total: None,
            num_workers=workers,
        )
    for name in ("tokens.npy", "items.npz", "index.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
