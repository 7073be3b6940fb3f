"""nanochat's side: each part as nanochat's own scripts do it, through what a checkout of it offers to import.

Run as a file by the Python of nanochat's environment, in the checkout; nothing of nanochat is here. Data, weights and
tokenizer lie where nanochat looks for them, in NANOCHAT_BASE_DIR (material.py).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from clock import digest, reward, run_part
from nanochat import common, dataset
from nanochat.checkpoint_manager import load_model, save_checkpoint
from nanochat.engine import Engine
from nanochat.tokenizer import RustBPETokenizer, get_token_bytes, get_tokenizer

Given = dict[str, Any]
Model = tuple[Any, Any, Any]  # the model, its tokenizer, its device


def opened(source: str = "base", phase: str = "eval") -> Model:
    """The model of the material on the device that nanochat picks."""
    kind = common.autodetect_device_type()
    common.compute_init(kind)
    device = torch.device(kind)
    model, tokenizer, _ = load_model(source, device, phase=phase)
    return model, tokenizer, device


def about(given: Given) -> Any:
    yield
    name = str(common.COMPUTE_DTYPE).removeprefix("torch.")
    yield 1
    types = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
    yield {"type": types[name], "device": common.autodetect_device_type(), "torch": torch.__version__}


def unanswered(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """The ids up to where the assistant is to speak."""
    return tokenizer.render_for_completion({"messages": [*messages, {"role": "assistant", "content": ""}]})


def documents() -> Any:
    return (text for batch in dataset.parquets_iter_batched("train") for text in batch)


def prepare(given: Given) -> Any:
    """A tokenizer and a model at its first step, for both sides."""
    from nanochat.gpt import GPT, GPTConfig

    yield
    tokenizer = RustBPETokenizer.train_from_iterator(documents(), given["vocab_size"])
    folder = Path(common.get_base_dir()) / "tokenizer"
    tokenizer.save(str(folder))
    special = {tokenizer.encode_special(name) for name in tokenizer.get_special_tokens()}
    vocab_size = tokenizer.get_vocab_size()
    sizes = [0 if i in special else len(tokenizer.decode_single_token_bytes(i)) for i in range(vocab_size)]
    torch.save(torch.tensor(sizes, dtype=torch.int32), folder / "token_bytes.pt")
    shape = {**given["shape"], "vocab_size": vocab_size}
    torch.manual_seed(0)
    model = GPT(GPTConfig(**shape))
    model.init_weights()
    state = {name: value.float() for name, value in model.state_dict().items()}
    save_checkpoint(given["checkpoint"], 0, state, None, {"step": 0, "model_config": shape, "user_config": {}})
    yield 1
    yield {"vocab_size": vocab_size}


def vocabulary(given: Given) -> Any:
    yield
    tokenizer = RustBPETokenizer.train_from_iterator(documents(), given["vocab_size"])
    yield 1
    ranks = tokenizer.enc._mergeable_ranks
    yield {"same": {"merges": digest(sorted(ranks, key=ranks.__getitem__))}}


def encoding(given: Given) -> Any:
    tokenizer = get_tokenizer()
    bos, size = tokenizer.get_bos_token_id(), 128  # documents in a call, as the loader has it
    yield
    ids = []
    for batch in dataset.parquets_iter_batched("train"):
        for first in range(0, len(batch), size):
            ids += tokenizer.encode(batch[first : first + size], prepend=bos, num_threads=4)
    yield 1
    yield {"same": {"ids": digest(ids)}}


def pretraining(given: Given) -> Any:
    yield from _training("base", np.load(given["pretraining"]))


def fine_tuning(given: Given) -> Any:
    yield from _training("base", np.load(given["fine_tuning"]))


def _training(source: str, batches: np.ndarray) -> Any:
    """Steps on batches (S, 2, B, T) of ids and targets; the first, which compiles, is no part of the work."""
    model, _, device = opened(source, "train")
    optimizer = _optimizer(model)
    compiled = torch.compile(model, dynamic=False)

    def step(number: int) -> float:
        ids, targets = torch.from_numpy(batches[number].astype(np.int64)).to(device)
        loss = compiled(ids, targets)
        loss.backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)
        return loss.item()

    losses = [step(0)]
    yield
    for number in range(1, len(batches)):
        losses.append(step(number))
        yield 1
    yield {"near": {f"loss {number}": loss for number, loss in enumerate(losses, start=1)}}


def _optimizer(model: Any) -> Any:
    """At the rates of material.py, constant, without decay."""
    optimizer = model.setup_optimizer(
        unembedding_lr=0.0008, embedding_lr=0.03, matrix_lr=0.002, scalar_lr=0.05, weight_decay=0.0
    )
    for group in optimizer.param_groups:
        if group["kind"] == "muon":
            group["momentum"] = 0.97
        elif group["lr"] == 0.2:  # the smear's, which no argument reaches
            group["lr"] = 0.02
    return optimizer


def bits_per_byte(given: Given) -> Any:
    from nanochat.loss_eval import evaluate_bpb

    model, _, device = opened()
    token_bytes = get_token_bytes(device=device)
    rows = torch.from_numpy(np.load(given["held_out"]).astype(np.int64)).to(device)
    batches = [(part[:, :-1].contiguous(), part[:, 1:].contiguous()) for part in rows.split(given["rows"])]
    yield
    bpb = evaluate_bpb(model, batches, len(batches), token_bytes)
    yield 1
    yield {"near": {"bits per byte": bpb}}


def core(given: Given) -> Any:
    from scripts.base_eval import evaluate_core

    model, tokenizer, device = opened()
    yield
    found = evaluate_core(model, tokenizer, device, max_per_task=given["core_items"])
    yield 1
    yield {
        "near": {"CORE": found["core_metric"]},
        "each": {"benchmarks": [round(value, 5) for value in found["results"].values()]},
    }


class Heard(Engine):
    """An engine that remembers what it said."""

    said: list[list[int]]

    def generate_batch(self, tokens: Any, num_samples: int = 1, **options: Any) -> Any:
        rows, masks = super().generate_batch(tokens, num_samples, **options)
        self.said = [*getattr(self, "said", []), *(row[len(tokens) :] for row in rows)]
        return rows, masks


def choices(given: Given) -> Any:
    yield from _chat("ARC-Easy", given)


def generation(given: Given) -> Any:
    yield from _chat("GSM8K", given)


def _chat(name: str, given: Given) -> Any:
    from scripts.chat_eval import run_chat_eval

    model, tokenizer, _ = opened("sft")
    engine = Heard(model, tokenizer)
    yield
    accuracy = run_chat_eval(name, model, tokenizer, engine, batch_size=8, max_new_tokens=given["answer_tokens"])
    said = getattr(engine, "said", [])
    yield sum(map(len, said)) or 1
    yield {"near": {"accuracy": accuracy}, "any order": {"answers": said} if said else {}}


def rl(given: Given) -> Any:
    """One step: the answers to each question, then their gradient in passes of eight, then the optimizer."""
    model, tokenizer, device = opened("sft")
    optimizer, engine = _optimizer(model), Engine(model, tokenizer)
    questions = [unanswered(tokenizer, [{"role": "user", "content": each["question"]}])
                 for each in given["problems"][: given["num_questions"]]]  # fmt: skip
    yield
    sampled = 0
    for number, prompt in enumerate(questions):
        answers, masks = [], []
        for first in range(0, given["samples"], 8):
            found, mask = engine.generate_batch(
                prompt,
                num_samples=8,
                max_tokens=given["rl_tokens"],
                temperature=1.0,
                top_k=50,
                seed=1000 * number + first,
            )
            answers, masks = answers + found, masks + mask
        rewards = torch.tensor([reward(tokenizer.decode(answer[len(prompt) :])) for answer in answers])
        width = max(map(len, answers))
        ids = torch.zeros(len(answers), width, dtype=torch.long)
        chosen = torch.zeros(len(answers), width, dtype=torch.bool)
        for row, (answer, mask) in enumerate(zip(answers, masks, strict=True)):
            ids[row, : len(answer)], chosen[row, : len(mask)] = torch.tensor(answer), torch.tensor(mask).bool()
        sampled += int(chosen.sum())
        targets = ids[:, 1:].masked_fill(~chosen[:, 1:], -1)
        advantages = rewards - rewards.mean()
        model.train()
        for part in torch.arange(len(answers)).split(8):
            wanted = targets[part].to(device)
            nats = model(ids[part, :-1].to(device), wanted, loss_reduction="none").view(wanted.shape)
            loss = (nats * advantages[part].to(device).unsqueeze(1)).sum() / (wanted >= 0).sum().clamp(min=1)
            (loss / (len(answers) / 8 * len(questions))).backward()
        model.eval()
    optimizer.step()
    model.zero_grad(set_to_none=True)
    yield sampled
    yield {"told": {"sampled tokens": sampled}}


def one_stream(given: Given) -> Any:
    model, tokenizer, _ = opened("sft")
    engine, prompt = Engine(model, tokenizer), given["prompt"]
    greedy = [row[0] for row, _ in engine.generate(prompt, max_tokens=given["greedy_tokens"], temperature=0.0)]
    yield
    for seed in range(given["streams"]):
        yield _stream(engine, prompt, given["stream_tokens"], seed)
    yield {"each": {"greedy tokens": greedy}}


def _stream(engine: Engine, prompt: list[int], max_tokens: int, seed: int) -> int:
    """Answer once; how many tokens."""
    return sum(1 for _ in engine.generate(prompt, max_tokens=max_tokens, temperature=1.0, top_k=50, seed=seed))


one_client = one_stream


def eight_clients(given: Given) -> Any:
    """One after the other: nanochat's engine takes several rows of one prompt, not several prompts."""
    model, tokenizer, _ = opened("sft")
    engine = Engine(model, tokenizer)
    asked = [{**each, "prompt": unanswered(tokenizer, each["messages"])} for each in given["asked"]]
    yield
    for number in range(given["streams"]):
        yield sum(_stream(engine, each["prompt"], each["max_tokens"], number) for each in asked)
    yield {}


if __name__ == "__main__":
    run_part(globals())
