"""Reinforcement learning on the shared loop: it learns, it resumes to the bit, and ranks add up to one."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from nudge import nudge
from threads import one_thread as one_thread

from nanochat_core.base.distributed import World
from nanochat_core.base.records import read_records
from nanochat_core.base.torchrun import torchrun
from nanochat_core.config import GPTConfig
from nanochat_core.model.gpt import GPT
from nanochat_core.model.weights import load_model
from nanochat_core.optim.groups import OptimConfig
from nanochat_core.optim.optimizer import MuonAdamW
from nanochat_core.train import rl
from nanochat_core.train.loop import NonFiniteLossError, TrainingLoop
from nanochat_core.train.rollouts import Rollout

from .conftest import RL

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
FILES = ("model.safetensors", "optimizer.safetensors")
CPU = torch.device("cpu")


def train(job):
    """The whole training in this process; its loop."""
    loop = TrainingLoop(
        rl.build(job, world=World(), device=CPU), job, world=World(), device=CPU, is_stopping=lambda: False
    )
    assert loop.run()
    return loop


def test_practice_makes_the_rewarded_answer_the_usual_one(make_job, tmp_path):
    loop = train(make_job(tmp_path, num_steps=20))
    records = read_records(tmp_path / "metrics.jsonl")
    before, after = (r for r in records if r["event"] == "validate")
    assert before["step"] == 0
    assert before["held_out_reward"] < 0.4
    assert after["held_out_reward"] > 0.8
    assert loop.progress.last_validation["pass_at_8"] >= after["held_out_reward"]
    steps = [record for record in records if record["event"] == "step"]
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert steps[-1]["kl"] > 0.1
    assert all(record["rollout_s"] + record["learn_s"] <= record["step_ms"] / 1e3 for record in steps)


def practice_of(job):
    return rl.build(job, world=World(), device=CPU).objective


def rollout(tokens, reward):
    return Rollout(tokens, [False] * (len(tokens) - 1) + [True], reward, "")


def test_answers_of_similar_length_share_a_pass_up_to_its_tokens():
    lengths = [9, 2, 5, 3, 3, 30]
    passes = list(rl.in_passes([(0.5, rollout([1] * length, 1.0)) for length in lengths], num_tokens=12))
    assert [[len(pair[1].tokens) for pair in rows] for rows in passes] == [[2, 3, 3], [5], [9], [30]]
    assert list(rl.in_passes([], num_tokens=12)) == []


def test_answers_that_are_all_right_or_all_wrong_give_no_gradient(make_job, tmp_path):
    practice = practice_of(make_job(tmp_path))
    same = [[rollout([261, 5, 6], 1.0), rollout([261, 5, 7], 1.0)], [rollout([261, 8], 0.0), rollout([261, 9], 0.0)]]
    terms = practice.learn(same)
    assert float(terms.loss) == 0
    assert terms.num_tokens == 4
    assert all(parameter.grad is None for parameter in practice.model.parameters())
    mixed = practice.learn([*same, [rollout([261, 5, 6], 1.0), rollout([261, 5, 7], 0.0)]])
    with_others = [parameter.grad.clone() for parameter in practice.model.parameters()]
    practice.model.zero_grad()
    practice.learn([[rollout([261, 5, 6], 1.0), rollout([261, 5, 7], 0.0)]])
    assert mixed.num_tokens == 6
    for parameter, grad in zip(practice.model.parameters(), with_others, strict=True):
        assert torch.equal(parameter.grad, grad)


def test_a_step_without_a_right_answer_leaves_a_gradient_of_zero(make_job, tmp_path):
    job = make_job(tmp_path)
    practice = practice_of(job)
    impossible = [type(q)(q.benchmark, q.question, "none") for q in practice.questions]
    practice.questions = impossible
    learnt = practice.backward(0)
    assert learnt.numbers["reward"] == 0
    assert learnt.num_tokens > 0
    assert all(not parameter.grad.any() for parameter in practice.model.parameters())
    MuonAdamW(practice.model, OptimConfig()).step(lr_multiplier=0.0, momentum=0.9, weight_decay=0.0)


def test_a_gradient_that_is_no_number_is_not_applied(make_job, tmp_path):
    job = make_job(tmp_path)
    training = rl.build(job, world=World(), device=CPU)
    training.validates_first = False
    backward = training.objective.backward

    def broken(step):
        learnt = backward(step)
        next(iter(training.model.parameters())).grad[0] = float("nan")
        return learnt

    training.objective.backward = broken
    loop = TrainingLoop(training, job, world=World(), device=CPU, is_stopping=lambda: False)
    weights = {name: parameter.clone() for name, parameter in training.model.named_parameters()}
    with pytest.raises(NonFiniteLossError):
        loop.run()
    assert all(torch.equal(weights[name], parameter) for name, parameter in training.model.named_parameters())


def test_questions_that_leave_no_room_for_an_answer_are_left_out(tokenizer):
    short, long = (rl.Question("arithmetic", "x" * length, "1") for length in (5, 60))
    assert rl.fitting([short, long], tokenizer, RL, context=64) == [short]
    with pytest.raises(rl.ConfigError, match="none of the 1"):
        rl.fitting([long], tokenizer, RL, context=64)


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / "out" / name).read_bytes()).hexdigest() for name in FILES}


def start(job) -> "subprocess.Popen[bytes]":
    """One rank, as torchrun starts it."""
    job.save(Path(job.paths.work) / "plan.json")
    command = [sys.executable, "-m", "nanochat_core.train.worker", str(Path(job.paths.work) / "plan.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.torture
def test_a_killed_training_ends_with_the_bits_of_an_unbroken_one(make_job, tmp_path):
    unbroken, killed = make_job(tmp_path / "a"), make_job(tmp_path / "b")
    assert start(unbroken).wait(120) == 0
    for wanted in sorted(random.sample(range(1, 8), 2)):
        process = start(killed)
        deadline = time.monotonic() + 60
        path = tmp_path / "b/metrics.jsonl"
        while not any(r["event"] == "step" and r["step"] >= wanted for r in read_records(path)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert start(killed).wait(120) == 0
    assert digests(tmp_path / "b") == digests(tmp_path / "a")
    records = read_records(tmp_path / "b/metrics.jsonl")
    assert [r["step"] for r in records if r["event"] == "step"] == list(range(1, 9))
    assert any(r["event"] == "start" and r["step"] > 0 for r in records), "it began anew"
    result = json.loads((tmp_path / "b/result.json").read_text())
    assert result["status"] == "completed"
    assert {"held_out_reward", "pass_at_1", "standard_error"} <= set(result)
    assert load_model(tmp_path / "b/out").config.vocab_size == 265
    rewards = [
        [r["reward"] for r in read_records(tmp_path / f"{name}/metrics.jsonl") if "reward" in r] for name in "ab"
    ]
    assert rewards[0] == rewards[1]


@pytest.mark.slow
def test_a_stopped_training_saves_and_goes_on_with_the_same_bits(make_job, tmp_path):
    stopped = make_job(tmp_path / "b")
    training = rl.build(stopped, world=World(), device=CPU)
    told = iter([False, False, True])
    assert not TrainingLoop(training, stopped, world=World(), device=CPU, is_stopping=lambda: next(told)).run()
    loop = train(stopped)
    expected = train(make_job(tmp_path / "c")).training.model
    assert loop.progress.step == 8
    for ours, theirs in zip(loop.training.model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)


RANK_PROGRAM = """
import sys
from pathlib import Path
import torch
from nanochat_core.base import distributed
from nanochat_core.train import rl
from nanochat_core.train.settings import TrainJob

job, out = TrainJob.load(Path(sys.argv[1])), Path(sys.argv[2])
world = distributed.world_from_environment()
torch.set_num_threads(1)
distributed.start(world, torch.device("cpu"))
training = rl.build(job, world=world, device=torch.device("cpu"))
learnt = training.objective.backward(0)
for parameter in training.model.parameters():
    distributed.sum_over_ranks(parameter.grad, world)
held_out = training.validate()
if world.is_main:
    grads = {name: parameter.grad for name, parameter in training.model.named_parameters()}
    torch.save({"grads": grads, "numbers": learnt.numbers, "held_out": held_out, "tokens": learnt.num_tokens}, out)
distributed.stop()
"""


@pytest.mark.slow
def test_two_ranks_share_the_questions_and_add_up_to_the_gradient_of_one(make_job, tmp_path):
    (tmp_path / "one_rank.py").write_text(RANK_PROGRAM)
    job = make_job(tmp_path)
    job.save(tmp_path / "plan.json")
    results = []
    for num_processes in (1, 2):
        out = tmp_path / f"{num_processes}.pt"
        command = torchrun("one_rank", str(tmp_path / "plan.json"), str(out), num_processes=num_processes)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{tmp_path}"}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=120)
        results.append(torch.load(out, weights_only=True))
    one, two = results
    assert two["tokens"] == one["tokens"]
    assert two["held_out"] == pytest.approx(one["held_out"])
    for name in ("reward", "pass_rate", "useful_frac", "answer_tokens"):
        assert two["numbers"][name] == pytest.approx(one["numbers"][name])
    for name in ("entropy", "kl"):
        assert two["numbers"][name] == pytest.approx(one["numbers"][name], abs=1e-5)
    assert one["numbers"]["useful_frac"] > 0
    for name, grad in one["grads"].items():
        assert torch.allclose(two["grads"][name], grad, atol=1e-6, rtol=0), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_reference_computes_the_same_bits_from_the_tables_and_matrices_that_it_is_cast_to(dtype):
    model = GPT(GPTConfig(sequence_len=64, vocab_size=300, n_layer=4, n_head=2, n_kv_head=1, n_embd=64))
    nudge(model, 0.3, seed=0)
    model.compute_dtype = dtype
    ids = torch.randint(0, 300, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model.hidden(ids), model.logits(model.hidden(ids))
        rl._hold_in(model, dtype)
        after = model.hidden(ids), model.logits(model.hidden(ids))
    assert all(map(torch.equal, before, after))
    large = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    assert {parameter.dtype for parameter in large} == {dtype}
    assert not any(parameter.requires_grad for parameter in model.parameters())
