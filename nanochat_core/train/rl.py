"""Reinforcement learning: a chat model practises on questions whose answers can be checked.

On the shared loop, as pretraining and fine-tuning are; what differs is where a step's gradient comes from. A step asks
the model some questions several times over (rollouts.py), compares the answers to each question with each other
(advantage.py) and makes the tokens of the better ones likelier. The optimizer starts anew: its averages from
fine-tuning are of another loss. There is no penalty for leaving the fine-tuned model; how far it goes is measured (kl).
The recipe's numbers are nanochat's (July 2026).
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nanochat_core.base import distributed
from nanochat_core.base.distributed import World
from nanochat_core.base.errors import ConfigError
from nanochat_core.base.passes import usual_rows
from nanochat_core.data.loader import BatchOrder
from nanochat_core.evals.benchmarks.scoring import pass_at_ks, standard_error
from nanochat_core.evals.items import Question, read_questions
from nanochat_core.inference.engine import Engine
from nanochat_core.model import attention_ladder
from nanochat_core.model.gpt import GPT
from nanochat_core.model.weights import load_model
from nanochat_core.optim.groups import OptimConfig
from nanochat_core.optim.optimizer import MuonAdamW
from nanochat_core.tokenizer.tokenizer import Tokenizer
from nanochat_core.train.advantage import PolicyTerms, advantages, batch_of, policy_terms
from nanochat_core.train.choices import prepare_products
from nanochat_core.train.loop import Learnt, Training
from nanochat_core.train.rollouts import Rollout, SamplingSettings, prompt_of, roll_out
from nanochat_core.train.settings import RLSettings, TrainJob

GPU_ROWS = 32  # of a pass, where the context allows no more on a processor
TRAIN_FILE, HELD_OUT_FILE = "train.jsonl", "held_out.jsonl"


def build(job: TrainJob, *, world: World, device: torch.device) -> Training:
    """Model, optimizer and practice of a reinforcement learning."""
    settings, rl = job.settings, job.settings.rl
    assert job.paths.base is not None
    assert rl is not None
    model, reference = (load_model(Path(job.paths.base)).to(device) for _ in range(2))
    attention_ladder.free_lengths()
    choices = prepare_products(model, job, device=device)
    usual = usual_rows(model.config.sequence_len)
    # on a processor half as many: as fast for its short rows, and the reference's share of the memory is saved
    chosen = max(GPU_ROWS, usual) if device.type == "cuda" else max(1, usual // 2)
    choices.batch_rows = job.runtime.device_batch_rows or chosen
    choices.told.append(
        f"answers of {choices.batch_rows * model.config.sequence_len:,} tokens in a pass, padding included"
    )
    reference.compute_dtype = model.compute_dtype
    _hold_in(reference, model.compute_dtype)
    tokenizer = Tokenizer.load(Path(job.paths.tokenizer))
    train, held_out = (
        fitting(read_questions(Path(job.paths.rows) / name), tokenizer, rl, context=model.config.sequence_len)
        for name in (TRAIN_FILE, HELD_OUT_FILE)
    )
    practice = Practice(
        model, reference, tokenizer, train, settings=rl, seed=settings.seed, world=world,
        questions_per_step=settings.total_batch_rows, batch_rows=choices.batch_rows,
    )  # fmt: skip
    test = HeldOut(model, tokenizer, held_out, settings=rl, seed=settings.seed, world=world)
    optimizer = MuonAdamW(model, OptimConfig(**settings.optim))
    return Training(model, optimizer, practice, test.measure, validates_first=True, choices=choices.record())


def _hold_in(model: GPT, dtype: torch.dtype) -> None:
    """Keep tables and matrices in what they are cast to anyhow, for a model that learns no more: half the memory."""
    model.requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = parameter.data.to(dtype)


def fitting(questions: Sequence[Question], tokenizer: Tokenizer, rl: RLSettings, *, context: int) -> list[Question]:
    """Those that leave room for an answer: the longest one, or a quarter of a short context."""
    longest = context - min(rl.max_answer_tokens, context // 4)
    kept = [question for question in questions if len(prompt_of(tokenizer, question)) <= longest]
    if not kept:
        raise ConfigError(
            f"none of the {len(questions):,} questions fits into {longest} of {context} tokens of context",
            hint="choose another rl.source, or a longer pretrain.sequence_len_tokens",
        )
    return kept


@dataclass
class Practice:
    """Where the gradient of a step comes from: this rank's questions of the step, asked and learnt from."""

    model: GPT
    reference: GPT
    """The model that it started as."""
    tokenizer: Tokenizer
    questions: Sequence[Question]
    settings: RLSettings
    seed: int
    questions_per_step: int
    world: World
    batch_rows: int
    """Of one forward and backward pass, as long as the context; of answers, which are shorter, so many more."""
    loss_scale: float = 1.0

    def backward(self, step: int) -> Learnt:
        """Add this rank's share of the step's gradient to the parameters."""
        started_s = time.perf_counter()
        groups = self.ask(step)
        rollout_s = time.perf_counter() - started_s
        started_s = time.perf_counter()
        terms = self.learn(groups)
        rollouts = [rollout for group in groups for rollout in group]
        num_useful = sum(len({rollout.reward for rollout in group}) > 1 for group in groups)
        num_solved = sum(any(rollout.reward for rollout in group) for group in groups)
        own = (len(groups), len(rollouts), sum(r.reward for r in rollouts), num_solved, num_useful)
        measured = (terms.num_tokens, float(terms.entropy), float(terms.kl))
        sums = distributed.sum_over_ranks(torch.tensor([*own, *measured], dtype=torch.float64), self.world)
        asked, answers, rewards, solved, useful, tokens, entropy, kl = sums.tolist()
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(max(1.0, tokens))
            else:  # nothing to learn here, in this step: other ranks may have something
                parameter.grad = torch.zeros_like(parameter)
        return Learnt(
            terms.loss.detach().double().cpu(),
            divisor=max(1, int(tokens)),
            num_tokens=int(tokens),
            numbers={
                "reward": rewards / answers,
                "pass_rate": solved / asked,
                "useful_frac": useful / asked,
                "entropy": entropy / max(1.0, tokens),
                "kl": kl / max(1.0, tokens),
                "answer_tokens": tokens / answers,
                "rollout_s": rollout_s,
                "learn_s": time.perf_counter() - started_s,
            },
        )

    def ask(self, step: int) -> list[list[Rollout]]:
        """This rank's questions of a step, each with its answers."""
        order = BatchOrder(num_rows=len(self.questions), total_batch_rows=self.questions_per_step, seed=self.seed)
        own = order.rows_at(step)[self.world.rank :: self.world.size]
        questions = [self.questions[int(number)] for number in own]
        # a new engine each time: it may keep packed copies of weights that the last step has changed
        engine = Engine(self.model, self.tokenizer)
        return roll_out(engine, questions, sampling_of(self.settings), key=f"{self.seed} step {step}")

    def learn(self, groups: Sequence[Sequence[Rollout]]) -> PolicyTerms:
        """Gradients of the summed loss of all answers; the sums that say how it went.

        Answers to a question that are all right or all wrong say nothing about what to change; they are only measured.
        """
        self.model.train()
        weighted = [
            (advantage, rollout)
            for group in groups
            for advantage, rollout in zip(advantages([r.reward for r in group]), group, strict=True)
        ]
        parts = []
        for is_useful in (True, False):
            chosen = [pair for pair in weighted if (pair[0] != 0) == is_useful]
            for rows in in_passes(chosen, num_tokens=self.batch_rows * self.model.config.sequence_len):
                with torch.set_grad_enabled(is_useful):
                    parts.append(self._terms(rows))
                if is_useful:
                    (parts[-1].loss * self.loss_scale).backward()
        loss, entropy, kl = torch.stack([torch.stack([p.loss.detach(), p.entropy, p.kl]) for p in parts]).sum(0)
        return PolicyTerms(loss, entropy, kl, num_tokens=sum(part.num_tokens for part in parts))

    def _terms(self, chosen: Sequence[tuple[float, Rollout]]) -> PolicyTerms:
        ids, targets = batch_of(
            [rollout.tokens for _, rollout in chosen],
            [rollout.is_sampled for _, rollout in chosen],
            pad=self.tokenizer.bos,
        )
        device = self.model.device
        row_advantages = torch.tensor([advantage for advantage, _ in chosen], device=device)
        return policy_terms(
            self.model, ids.to(device), targets.to(device), row_advantages=row_advantages, reference=self.reference
        )


def in_passes(chosen: Sequence[tuple[float, Rollout]], *, num_tokens: int) -> Iterator[list[tuple[float, Rollout]]]:
    """Answers with their advantages, those of similar length together, up to `num_tokens` with their padding."""
    rows: list[tuple[float, Rollout]] = []
    for pair in sorted(chosen, key=lambda pair: len(pair[1].tokens)):
        if rows and (len(rows) + 1) * len(pair[1].tokens) > num_tokens:
            yield rows
            rows = []
        rows.append(pair)
    if rows:
        yield rows


@dataclass
class HeldOut:
    """Questions that are never practised on, asked the same way each time."""

    model: GPT
    tokenizer: Tokenizer
    questions: Sequence[Question]
    settings: RLSettings
    seed: int
    world: World

    def measure(self) -> dict[str, float]:
        """The mean reward with its standard error over questions, and pass@k."""
        own = range(self.world.rank, len(self.questions), self.world.size)
        engine = Engine(self.model, self.tokenizer)
        sampling = sampling_of(self.settings, num_samples=self.settings.held_out_samples)
        groups = roll_out(engine, [self.questions[i] for i in own], sampling, key=f"{self.seed} held out")
        marks = torch.zeros(len(self.questions), sampling.num_samples)
        for number, group in zip(own, groups, strict=True):
            marks[number] = torch.tensor([rollout.reward for rollout in group])
        right = [[bool(mark) for mark in row] for row in distributed.sum_over_ranks(marks, self.world).tolist()]
        passed = {f"pass_at_{k}": value for k, value in pass_at_ks(right).items()}
        return {"held_out_reward": passed["pass_at_1"], "standard_error": standard_error(right), **passed}


def sampling_of(settings: RLSettings, *, num_samples: int | None = None) -> SamplingSettings:
    """How answers are sampled; held-out ones in another number."""
    return SamplingSettings(
        num_samples=num_samples or settings.samples_per_question,
        temperature=settings.temperature,
        top_k=settings.top_k,
        max_answer_tokens=settings.max_answer_tokens,
    )
