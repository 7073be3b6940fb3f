"""Our side: each part as our own steps do it, on what nanochat's side works on as well (material.py)."""

import asyncio
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.versus.clock import digest, quiet, reward, run_part

Given = dict[str, Any]


def opened(given: Given) -> Any:
    """The model as our evaluations open it."""
    from nanochat_core.base.hardware import pick_device, pick_dtype
    from nanochat_core.model.host_memory import keep_freed_memory
    from nanochat_core.model.weights import load_model

    keep_freed_memory()
    device = pick_device("auto")
    model = load_model(Path(given["model"])).to(device)
    model.compute_dtype = pick_dtype(given["dtype"], device)
    return model


def tokenizer_of(given: Given) -> Any:
    from nanochat_core.tokenizer.tokenizer import Tokenizer

    return Tokenizer.load(Path(given["tokenizer"]))


def engine_of(given: Given) -> Any:
    from nanochat_core.inference.engine import Engine

    return Engine(opened(given), tokenizer_of(given))


def about(given: Given) -> Iterator[Any]:
    import torch

    from nanochat_core.base.hardware import DTYPES, pick_device, pick_dtype

    yield
    device = pick_device("auto")
    found = pick_dtype("auto", device)
    yield 1
    name = next(name for name, dtype in DTYPES.items() if dtype == found)
    yield {"type": name, "device": device.type, "torch": torch.__version__}


def vocabulary(given: Given) -> Iterator[Any]:
    from nanochat_core.data.shards import read_documents
    from nanochat_core.tokenizer.bpe import train_tokenizer

    yield
    texts, no_cap = read_documents(Path(given["train"])), 1 << 60
    found = train_tokenizer(texts, vocab_size=given["vocab_size"], max_train_bytes=no_cap, max_doc_bytes=no_cap)
    yield 1
    yield {"same": {"merges": digest(found.ranks)}}


def encoding(given: Given) -> Iterator[Any]:
    """As the step `tokens` does it: to files, in as many processes as there are cores."""
    from nanochat_core.data.tokenize import tokenize_split

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Path(given["tokenizer"])
        yield
        shards = tokenize_split(
            Path(given["train"]), Path(folder), tokenizer_folder=tokenizer, num_workers=None, progress=quiet
        )
        yield 1
        ids = (
            tokens[start:end].tolist()
            for tokens, starts in zip(shards.tokens, shards.doc_starts, strict=True)
            for start, end in itertools.pairwise(starts.tolist())
        )
        yield {"same": {"ids": digest(ids)}}


class Records:
    """What a training loop would write into its log."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def write(self, event: str, **values: Any) -> None:
        if event == "step":
            self.steps.append(values)


def training_loop(given: Given, stage: str, folder: str, **inputs: str) -> tuple[Any, Records]:
    """The loop of a stage's own job, with constant rates, as a rank runs it."""
    import gc
    import pkgutil

    from benchmarks.versus.material import constant
    from nanochat_core.base.distributed import World
    from nanochat_core.base.hardware import pick_device
    from nanochat_core.model.host_memory import keep_freed_memory
    from nanochat_core.plan import plan_run
    from nanochat_core.presets import load_config
    from nanochat_core.train.loop import TrainingLoop

    keep_freed_memory()
    plan = plan_run(load_config("cpu", [*given["sets"], f"pretrain.dtype={given['dtype']}"]))
    places = {name: Path(folder) / name for name in ("checkpoints", "work", "out")}
    for place in places.values():
        place.mkdir()
    step = pkgutil.resolve_name(f"nanochat_core.steps.{stage}:job")
    job = constant(step(plan, {name: Path(path) for name, path in inputs.items()}, **places))
    device = pick_device("auto")
    training = pkgutil.resolve_name(job.entry)(job, world=World(), device=device)
    loop = TrainingLoop(training, job, world=World(), device=device, is_stopping=lambda: False)
    loop.metrics = records = Records()
    gc.freeze()
    return loop, records


def pretraining(given: Given) -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as folder:
        inputs = {"tokenizer": given["tokenizer"], "tokens": given["tokens"], "base": given["model"]}
        yield from _steps(given, *training_loop(given, "pretrain", folder, **inputs))


def fine_tuning(given: Given) -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as folder:
        inputs = {"tokenizer": given["tokenizer"], "conversations": given["conversations"], "pretrain": given["model"]}
        yield from _steps(given, *training_loop(given, "sft", folder, **inputs))


def _steps(given: Given, loop: Any, records: Records) -> Iterator[Any]:
    loop._take_step()
    yield
    for _ in range(given["steps"]):
        loop._take_step()
        yield 1
    yield {"near": {f"loss {each['step']}": each["loss"] for each in records.steps}}


def bits_per_byte(given: Given) -> Iterator[Any]:
    import numpy as np
    import torch

    from nanochat_core.evals.bpb import bits_per_byte as measured

    model = opened(given)
    token_bytes = torch.from_numpy(np.load(Path(given["tokenizer"]) / "token_bytes.npy")).to(model.device)
    rows = Rows(np.load(given["held_out"]))
    yield
    found = measured(model, rows, token_bytes, num_rows=rows.num_rows, batch_rows=given["rows"])
    yield 1
    yield {"near": {"bits per byte": found.bits_per_byte}}


class Rows:
    """Rows of ids that are an array."""

    def __init__(self, ids: Any) -> None:
        self.ids = ids
        self.num_rows, self.row_len = ids.shape

    def read(self, row: int) -> tuple[Any, None]:
        return self.ids[row], None


def core(given: Given) -> Iterator[Any]:
    """Writing the prompts included, which a run does once for all its models."""
    from nanochat_core.evals.core.bundle import read_bundle
    from nanochat_core.evals.core.measure import measure
    from nanochat_core.evals.core.plain_scoring import scorer_for
    from nanochat_core.evals.core.prompts import Prompts, write_prompts

    model, tokenizer = opened(given), tokenizer_of(given)
    with tempfile.TemporaryDirectory() as folder:
        yield
        bundle = read_bundle(Path(given["core"]))
        items = given["core_items"]
        write_prompts(bundle, tokenizer, Path(folder), max_per_benchmark=items, progress=quiet)
        scorer = scorer_for(model, batch_tokens=given["eval_batch_tokens"])
        found = measure(scorer, Prompts(Path(folder)), quiet)
        yield 1
    accuracies = [round(each["accuracy"], 5) for each in found.summary["benchmarks"].values()]
    yield {"near": {"CORE": found.summary["core"]}, "each": {"benchmarks": accuracies}}


def choices(given: Given) -> Iterator[Any]:
    yield from _chat(given, "arc_easy")


def generation(given: Given) -> Iterator[Any]:
    yield from _chat(given, "gsm8k")


def _chat(given: Given, name: str) -> Iterator[Any]:
    from nanochat_core.evals.benchmarks.registry import find
    from nanochat_core.evals.benchmarks.runner import Asking, answer_items
    from nanochat_core.evals.benchmarks.sources import open_source
    from nanochat_core.inference.engine import Engine

    said: list[list[int]] = []

    class Heard(Engine):
        def generate(self, *given: Any, **options: Any) -> Any:
            answers = super().generate(*given, **options)
            said.extend(answer.tokens for answer in answers)
            return answers

    engine = Heard(opened(given), tokenizer_of(given))
    items = list(find(name).read(open_source("path", given["chat"]), "test"))
    asking = Asking(max_answer_tokens=given["answer_tokens"])
    yield
    answered = answer_items(engine, items, asking, run_programs=lambda programs: [], progress=quiet)
    ends = {engine.tokenizer.bos, engine.tokenizer.special("<|assistant_end|>")}
    answers = [tokens[:-1] if tokens[-1:] and tokens[-1] in ends else tokens for tokens in said]
    yield sum(map(len, answers)) or 1
    accuracy = sum(one.marks[0] for one in answered) / len(answered)
    yield {"near": {"accuracy": accuracy}, "any order": {"answers": answers} if said else {}}


def rl(given: Given) -> Iterator[Any]:
    from nanochat_core.train import rollouts

    rollouts.JUDGES["arithmetic"] = lambda answer, expected: bool(reward(answer))
    with tempfile.TemporaryDirectory() as folder:
        inputs = {"tokenizer": given["tokenizer"], "rl_questions": given["rl_questions"], "sft": given["model"]}
        loop, records = training_loop(given, "rl", folder, **inputs)
        yield
        loop._take_step()
        sampled = round(records.steps[0]["answer_tokens"] * given["samples"] * given["num_questions"])
        yield sampled
    yield {"told": {"sampled tokens": sampled}}


def one_stream(given: Given) -> Iterator[Any]:
    from nanochat_core.inference.sampling import Sampling

    engine, prompt = engine_of(given), given["prompt"]

    def tokens(sampling: Sampling) -> list[int]:
        request = engine.request(prompt, sampling)
        batch = engine.slots(1, max_len=request.max_len)
        batch.add([request])
        while not request.is_done:
            batch.step()
        return request.answer.tokens

    greedy = tokens(Sampling(max_new_tokens=given["greedy_tokens"]))
    yield
    told = {"temperature": 1.0, "top_k": 50, "max_new_tokens": given["stream_tokens"]}
    for seed in range(given["streams"]):
        yield len(tokens(Sampling(seed=seed, **told)))
    yield {"each": {"greedy tokens": greedy}}


def one_client(given: Given) -> Iterator[Any]:
    """The same over HTTP: one client of `nanochat serve`, one question after the other."""
    yield from _clients(given, [{**given["asked"][0], "max_tokens": given["stream_tokens"]}])


def eight_clients(given: Given) -> Iterator[Any]:
    """Eight clients at once, each with a question of its own."""
    yield from _clients(given, given["asked"])


def _clients(given: Given, asked: list[dict[str, Any]]) -> Iterator[Any]:
    """Questions to a server of our own, all at once; the processor time is the server's and the client's."""
    from benchmarks.serve_load import server

    with server("versus", rows=8, waiting=16, dtype=given["dtype"], home=Path(given["home"])) as (url, _):
        asyncio.run(_answers(url, asked, seed=0))
        yield
        for number in range(given["streams"]):
            yield asyncio.run(_answers(url, asked, seed=8 * number))
        yield {}


async def _answers(url: str, asked: list[dict[str, Any]], *, seed: int) -> int:
    """Tokens of all answers, read as they stream."""
    import httpx

    async with httpx.AsyncClient(base_url=url, timeout=300) as http:

        async def tokens(number: int) -> int:
            count, body = 0, {**asked[number], "seed": seed + number, "stream": True}
            async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        count += json.loads(line[6:]).get("nanochat", {}).get("completion_tokens", 0)
            return count

        return sum(await asyncio.gather(*map(tokens, range(len(asked)))))


if __name__ == "__main__":
    run_part(globals())
