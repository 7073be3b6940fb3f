"""Training steps on a GPU: their time, their kernels, and what fp8 does to the loss.

    .venv/bin/python benchmarks/gpu_steps.py steps [--device cuda]
    .venv/bin/python benchmarks/gpu_steps.py compare [--text FOLDER] [--steps 300]
    .venv/bin/python benchmarks/gpu_steps.py loop [--steps 12]

`steps`: depth 12 in bf16, depth 24 in fp8 and bf16: milliseconds of a micro-step and of the optimizer, tokens/s at
the preset's batch, MFU against the measured rate of one large bf16 product, and milliseconds by kind of kernel.
`compare`: the same steps of depth 12 from one seed in bf16 and in fp8 with dynamic and delayed scales: bits per byte,
time, saturations.
`loop`: the training loop itself at depth 24 as the preset has it (fp8, as many rows as fit, its optimizer), a dozen
steps on random tokens with a checkpoint in their middle: what a step takes, and how long the save holds it up.
FOLDER holds .parquet shards, the last of them for validation; without it the text is Python's documentation, by a
vocabulary of its own, or by bytes where nothing is installed that makes one. On a CPU a tiny model runs, to show that
it works. Prints one JSON object.
"""

import argparse
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from timing import matrix_rate, median_s

from nanochat_core.base.distributed import World
from nanochat_core.base.errors import MissingError
from nanochat_core.base.hardware import describe, peak_memory_gib, pick_device
from nanochat_core.data.loader import BatchOrder, PackedDocuments, read_batch
from nanochat_core.data.packing import pack_rows
from nanochat_core.data.tokenize import load_shards
from nanochat_core.evals.bpb import bits_per_byte
from nanochat_core.model.fp8_scaling import Scaling
from nanochat_core.model.gpt import GPT
from nanochat_core.optim.groups import OptimConfig
from nanochat_core.optim.optimizer import MuonAdamW
from nanochat_core.plan import RunPlan, optim_values, plan_run
from nanochat_core.presets import load_config
from nanochat_core.schedules import lr_multiplier, muon_momentum, weight_decay_multiplier

TINY = ("pretrain.depth=2", "pretrain.n_embd=64", "pretrain.sequence_len_tokens=64", "tokenizer.vocab_size=512")
KINDS = (  # the first that is found in a kernel's name says what it does
    ("attention", r"flash|fmha|flex|attention|sdpa"),
    ("quantize", r"_cast_tiles|_largest"),
    ("fused", r"_softcap_rows|^_split$|^_join$|^_square"),
    ("product", r"gemm|nvjet|cutlass|cublas|aten::(mm|bmm|addmm|baddbmm|_scaled_mm)|xmma|splitK"),
    ("copy", r"memcpy|memset|copy|fill|cat"),
    ("reduction", r"reduce|norm|softmax|amax|sum"),
    ("elementwise", r"elementwise|vectorized|aten::"),
)
NUM_TOP_KERNELS = 15


@dataclass(frozen=True)
class Measured:
    """One model on one device."""

    depth: int
    fp8: Scaling | None
    device_rows: int
    """Rows of a micro-step."""
    preset: str


GPU_STEPS = (Measured(12, None, 32, "d12"), Measured(24, "delayed", 16, "gpt2"), Measured(24, None, 16, "gpt2"))
CPU_STEPS = (Measured(2, None, 4, "tiny"), Measured(2, "delayed", 4, "tiny"))


def _plan(preset: str, device: torch.device, *more: str) -> RunPlan:
    return plan_run(load_config(preset, [*(TINY if device.type == "cpu" else ()), "runtime.num_processes=1", *more]))


def _new_model(plan: RunPlan, device: torch.device, fp8: Scaling | None) -> tuple[GPT, MuonAdamW]:
    model = GPT(plan.pretrain.model, fp8=fp8)
    model.init_weights(0)
    model.to(device).compute_dtype = torch.bfloat16
    return model, MuonAdamW(model, OptimConfig(**optim_values(plan)))


def step_figures(measured: Measured, device: torch.device, rate: float) -> dict[str, object]:
    """Times of one model."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    plan = _plan(measured.preset, device)
    model, optimizer = _new_model(plan, device, measured.fp8)
    if model.fp8 is not None:
        model.fp8.num_steps = 1000  # past the dynamic beginning; scales do not change the time
    shape = (measured.device_rows, plan.pretrain.model.sequence_len + 1)
    ids = torch.randint(0, plan.pretrain.model.vocab_size, shape, device=device)

    def micro_step() -> None:
        (model.loss(ids[:, :-1], ids[:, 1:], reduction="sum") / ids.numel()).backward()

    def update() -> None:
        optimizer.step(lr_multiplier=1e-6, momentum=0.95, weight_decay=0.0)

    num_runs = 10 if device.type == "cuda" else 2
    micro_s, update_s = (median_s(run, device, num_runs=num_runs) for run in (micro_step, update))
    tokens = measured.device_rows * plan.pretrain.model.sequence_len
    num_micro = max(1, plan.pretrain.total_batch_tokens // tokens)
    step_s = num_micro * micro_s + update_s
    rate_used = plan.pretrain.flops_per_token * num_micro * tokens / step_s
    return {
        **asdict(measured),
        "micro_ms": 1e3 * micro_s,
        "update_ms": 1e3 * update_s,
        "step_ms": 1e3 * step_s,
        "micro_steps": num_micro,
        "tokens_per_s": num_micro * tokens / step_s,
        "model_tflops": rate_used / 1e12,
        "bf16_mfu_of_measured_rate": rate_used / rate,
        "peak_memory_gib": peak_memory_gib(device),
        "micro_step_kernels": kernel_table(micro_step, device),
    }


def kernel_table(run: object, device: torch.device) -> dict[str, object]:
    """Milliseconds of one run by kind of kernel, and the kernels that take most of them."""
    from torch.profiler import ProfilerActivity, profile

    is_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if is_gpu else ProfilerActivity.CPU]) as profiled:
        run()  # type: ignore[operator]
        if is_gpu:
            torch.cuda.synchronize()
    attribute = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    times = Counter({event.key: getattr(event, attribute) / 1e3 for event in profiled.key_averages()})
    kinds: Counter[str] = Counter()
    for name, milliseconds in times.items():
        kinds[next((kind for kind, pattern in KINDS if re.search(pattern, name)), "other")] += milliseconds
    top = [{"kernel": name[:100], "ms": ms} for name, ms in times.most_common(NUM_TOP_KERNELS)]
    return {"by_kind_ms": dict(kinds.most_common()), "top": top}


def compare(
    folder: Path | None, device: torch.device, *, num_steps: int, batch_tokens: int | None
) -> dict[str, object]:
    """The same steps in bf16, in fp8 with dynamic scales, and with delayed ones."""
    is_gpu = device.type == "cuda"
    batch = batch_tokens or (131_072 if is_gpu else 512)  # 300 steps: about one pass over 160 MB of text
    sets = (f"pretrain.max_tokens={num_steps * batch}", f"pretrain.total_batch_tokens={batch}")
    device_rows = 32 if is_gpu else 4
    plan = _plan("d12" if is_gpu else "tiny", device, *sets, f"runtime.device_batch_rows={device_rows}")
    with tempfile.TemporaryDirectory() as work:
        is_bare = not all(map(find_spec, ("pyarrow", "rustbpe", "tiktoken")))
        if is_bare:
            sources = _rows_of_bytes(Path(work), plan, max_files=None if is_gpu else 40)
        else:
            sources = _rows(folder, Path(work), plan, max_texts=None if is_gpu else 400)
        runs = [_train(plan, *sources, device, fp8, device_rows) for fp8 in (None, "dynamic", "delayed")]
    for run in runs:
        run["bpb_over_bf16"] = run["bits_per_byte"] - runs[0]["bits_per_byte"]
        run["time_over_bf16"] = run["median_step_ms"] / runs[0]["median_step_ms"]
    return {
        "batch_tokens": batch,
        "num_steps": num_steps,
        "text": "Python's modules, by bytes" if is_bare else str(folder or "Python's documentation"),
        "runs": runs,
    }


def _rows(
    folder: Path | None, work: Path, plan: RunPlan, *, max_texts: int | None
) -> tuple[PackedDocuments, PackedDocuments, torch.Tensor]:
    """(training rows, validation rows, bytes of each token) of a tokenizer trained on the text."""
    from nanochat_core.data.shards import read_documents, write_shards
    from nanochat_core.data.tokenize import tokenize_split
    from nanochat_core.tokenizer.bpe import train_tokenizer

    for split, texts in zip(("train", "validation"), _texts(folder, max_texts), strict=True):
        write_shards(texts, work / "text" / split)
    vocab_size = plan.pretrain.model.vocab_size
    texts = read_documents(work / "text/train")
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size, max_train_bytes=50_000_000, max_doc_bytes=10_000)
    tokenizer.save(work / "tokenizer")
    sources = []
    for split in ("train", "validation"):
        shards = tokenize_split(
            work / "text" / split,
            work / "rows" / split,
            tokenizer_folder=work / "tokenizer",
            num_workers=None,
            progress=lambda done, total: None,
        )
        index = pack_rows(shards, row_len=plan.pretrain.model.sequence_len + 1, long_documents="split")
        index.save(work / "rows" / f"{split}.rows.npz")
        sources.append(PackedDocuments(work / "rows", split, vocab_size=vocab_size))
    return sources[0], sources[1], torch.from_numpy(tokenizer.token_bytes())


def _rows_of_bytes(
    work: Path, plan: RunPlan, *, max_files: int | None
) -> tuple[PackedDocuments, PackedDocuments, torch.Tensor]:
    """The same of Python's own modules, a token for each byte: neither Arrow nor rustbpe is asked for."""
    files = sorted(Path(json.__file__).parents[1].rglob("*.py"))[:max_files]
    documents = [np.frombuffer(path.read_bytes(), dtype=np.uint8) for path in files if path.stat().st_size]
    vocab_size = plan.pretrain.model.vocab_size
    for split, part in (("train", documents[8:]), ("validation", documents[:8])):
        write_tokens(work, split, [np.append(vocab_size - 1, each) for each in part], plan)
    rows, held_out = (PackedDocuments(work, split, vocab_size=vocab_size) for split in ("train", "validation"))
    return rows, held_out, (torch.arange(vocab_size) < 256).long()


def write_tokens(folder: Path, split: str, documents: list[np.ndarray], plan: RunPlan) -> None:
    """Documents of ids, packed into rows as the step `tokens` leaves them."""
    (folder / split).mkdir(parents=True)
    starts = np.cumsum([0, *map(len, documents)], dtype=np.int64)
    np.concatenate(documents).astype(np.uint16).tofile(folder / split / "00000.bin")
    np.save(folder / split / "00000.starts.npy", starts)
    index = {"vocab_size": plan.pretrain.model.vocab_size, "shard_tokens": [int(starts[-1])]}
    (folder / split / "index.json").write_text(json.dumps(index))
    shards = load_shards(folder / split, vocab_size=plan.pretrain.model.vocab_size)
    index = pack_rows(shards, row_len=plan.pretrain.model.sequence_len + 1, long_documents="split")
    index.save(folder / f"{split}.rows.npz")


def loop(device: torch.device, *, num_steps: int) -> dict[str, object]:
    """The loop's own steps, with a save in their middle."""
    from nanochat_core.train import pretrain
    from nanochat_core.train.loop import TrainingLoop
    from nanochat_core.train.settings import TrainJob, TrainPaths, TrainRuntime, TrainSettings

    is_gpu = device.type == "cuda"
    plan = _plan("gpt2" if is_gpu else "tiny", device)
    shape = plan.pretrain.model
    generator = np.random.Generator(np.random.PCG64(0))
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for split, number in (("train", 64), ("validation", 4)):
            ids = [generator.integers(0, shape.vocab_size, 4 * shape.sequence_len) for _ in range(number)]
            write_tokens(work / "rows", split, ids, plan)
        (work / "tokenizer").mkdir()
        np.save(work / "tokenizer/token_bytes.npy", np.ones(shape.vocab_size, dtype=np.int64))
        settings = TrainSettings(
            model=shape, optim=optim_values(plan), total_batch_rows=plan.pretrain.total_batch_rows, seed=0,
            schedule=replace(plan.pretrain.schedule, num_steps=num_steps), validate_every_steps=None,
            validation_rows=4, dtype="bf16", fp8="auto" if is_gpu else "off",
        )  # fmt: skip
        runtime = TrainRuntime(
            device=device.type, num_processes=1, device_batch_rows=None, num_threads=None, checkpoint_every_s=1e9,
            log_every_steps=1, checkpoint_every_steps=num_steps // 2,
        )  # fmt: skip
        paths = TrainPaths(
            rows=str(work / "rows"), tokenizer=str(work / "tokenizer"), base=None,
            checkpoints=str(work / "checkpoints"), work=str(work), out=str(work / "out"),
        )  # fmt: skip
        job = TrainJob(entry="", settings=settings, runtime=runtime, paths=paths)
        training = pretrain.build(job, world=World(), device=device)
        began = time.perf_counter()
        TrainingLoop(training, job, world=World(), device=device, is_stopping=lambda: False).run()
        seconds = time.perf_counter() - began
        told = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
        saved = sorted((work / "checkpoints").glob("step-*"))
        num_bytes = sum(path.stat().st_size for path in saved[-1].rglob("*") if path.is_file()) if saved else 0
    steps = [record for record in told if record["event"] == "step"]
    usual = sorted(record["step_ms"] for record in steps[2:])[(len(steps) - 2) // 2]
    around = [r["step_ms"] for r in steps if num_steps // 2 <= r["step"] <= num_steps // 2 + 2]
    return {
        "depth": shape.n_layer,
        "choices": training.choices["choices"],
        "rows_of_a_pass": training.objective.batch_rows,
        "step_ms": usual,
        "tokens_per_s": plan.pretrain.total_batch_tokens / usual * 1e3,
        "longest_step_about_the_save_ms": max(around),
        "checkpoint_gib": num_bytes / 2**30,
        "peak_memory_gib": peak_memory_gib(device),
        "all_s": seconds,
    }


def _texts(folder: Path | None, max_texts: int | None) -> tuple[Iterable[str], Iterable[str]]:
    from nanochat_core.data import documentation
    from nanochat_core.data.shards import read_documents

    if folder is None:
        texts = list(islice(documentation.documents(), max_texts))
        return texts[20:], texts[:20]
    files = sorted(folder.glob("*.parquet"))
    if len(files) < 2:
        raise MissingError(
            f"{folder} holds {len(files)} .parquet files", hint="two or more: the last is for validation"
        )
    texts = list(islice(read_documents(folder), max_texts))
    held_out = max(1, len(texts) // len(files))
    return texts[:-held_out], texts[-held_out:]


def _train(
    plan: RunPlan,
    rows: PackedDocuments,
    held_out: PackedDocuments,
    token_bytes: torch.Tensor,
    device: torch.device,
    fp8: Scaling | None,
    device_rows: int,
) -> dict[str, object]:
    pretrain = plan.pretrain
    model, optimizer = _new_model(plan, device, fp8)
    order = BatchOrder(num_rows=rows.num_rows, total_batch_rows=pretrain.total_batch_rows, seed=0)
    seconds, losses = [], []
    for step in range(pretrain.num_steps):
        batch = read_batch(rows, order.rows_at(step))
        started, total = time.perf_counter(), 0.0
        for ids, targets in zip(batch.ids.split(device_rows), batch.targets.split(device_rows), strict=True):
            loss = model.loss(ids.to(device), targets.to(device), reduction="sum") / batch.num_targets
            loss.backward()
            total += loss.item()
        optimizer.step(
            lr_multiplier=lr_multiplier(pretrain.schedule, step),
            momentum=muon_momentum(pretrain.schedule, step),
            weight_decay=pretrain.weight_decay * weight_decay_multiplier(pretrain.schedule, step),
        )
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        losses.append(total)
    result = bits_per_byte(model, held_out, token_bytes.to(device), num_rows=512, batch_rows=device_rows)
    return {
        "fp8": fp8 or "off",
        "bits_per_byte": result.bits_per_byte,
        "last_losses": losses[-5:],
        "median_step_ms": 1e3 * sorted(seconds)[len(seconds) // 2],
        "saturations": sum(model.fp8.saturations().values()) if model.fp8 else 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["steps", "compare", "loop"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--steps", type=int, help="300 to compare, 12 of the loop")
    parser.add_argument("--batch-tokens", type=int)
    options = parser.parse_args()
    device = pick_device(options.device)
    if options.what == "steps":
        rate = matrix_rate(device)
        cases = GPU_STEPS if device.type == "cuda" else CPU_STEPS
        figures = {"matrix_rate_tflops": rate / 1e12, "models": [step_figures(case, device, rate) for case in cases]}
    elif options.what == "loop":
        figures = loop(device, num_steps=options.steps or 12)
    else:
        figures = compare(options.text, device, num_steps=options.steps or 300, batch_tokens=options.batch_tokens)
    print(json.dumps({"machine": describe().record(), "torch": torch.__version__, **figures}))


if __name__ == "__main__":
    main()
