"""How fast a model decodes: tokens per second, time to the first token, and the share of the memory's bandwidth used.

Every way of holding the weights, and a decoder as it is usually first written, take turns in one process and are
compared repeat by repeat: on a busy machine ratios of one run hold where figures of two runs do not, and the fastest
tenth of the steps says what the machine does while nobody else uses it. Bandwidth use (MBU) is given twice: without
lookup tables it counts what a token really reads, matrices and the visible cache; with them, as nanochat's own
inference bench does, it is larger, for a token reads one row of each table only.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.reference_decoder import ReferenceDecoder
from benchmarks.shapes import check_bench, model_shape
from nanochat_core.base.errors import ConfigError
from nanochat_core.base.hardware import cpu_flags
from nanochat_core.config import GPTConfig
from nanochat_core.inference.decoder import Decoder
from nanochat_core.inference.device_steps import Chosen, DeviceSteps, Feed
from nanochat_core.inference.packed import INT8_ROWS, pick_kind, problem_of
from nanochat_core.model.gpt import GPT
from nanochat_core.model.shape import count_params, kv_dim, window_sizes

REFERENCE = "reference"
VARIANTS = (REFERENCE, "plain", "bf16", "fp16", "int8")
WARM_UP_TOKENS = 4
PROBE_BYTES = 2**28  # far more than any cache holds
BYTES_PER_WEIGHT = {REFERENCE: 4, "plain": 4, "bf16": 2, "fp16": 2, "int8": 1}


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What is measured."""

    depth: int = 6
    vocab_size: int = 32768
    num_rows: int = 1
    """Sequences decoded together."""
    prompt_tokens: int = 64
    new_tokens: int = 64
    num_repeats: int = 7
    variants: tuple[str, ...] = VARIANTS

    def __post_init__(self) -> None:
        check_bench(self, VARIANTS)


@dataclass(frozen=True)
class Timing:
    """One repeat of one variant."""

    first_token_s: float
    steps_s: list[float]
    steps_cpu_s: list[float]

    @property
    def decode_s(self) -> float:
        return sum(self.steps_s)

    @property
    def decode_cpu_s(self) -> float:
        return sum(self.steps_cpu_s)


Step = Callable[[list[int]], list[int]]
"""The last token of each row to the next."""
Session = Callable[[], tuple[Callable[[Tensor], Tensor], Step]]
"""Starts empty sequences: (prefill of ids (B, T) to logits (B, V), step)."""


def bench_decode(config: BenchConfig, *, device: torch.device | None = None) -> dict[str, object]:
    """Figures of all variants as a JSON value; medians over the repeats."""
    device = device or torch.device("cpu")
    # fp32 on a CPU is what the reference is fastest in there, and what "plain" stands for
    model = random_model(config, torch.float32 if device.type == "cpu" else torch.bfloat16, device)
    sessions = {name: _session(name, model, config) for name in config.variants}
    prompt = torch.arange(config.prompt_tokens).expand(config.num_rows, -1) % config.vocab_size
    for start in sessions.values():
        _timed(start, prompt.to(device), WARM_UP_TOKENS)
    timings: dict[str, list[Timing]] = {name: [] for name in sessions}
    for repeat in range(config.num_repeats):
        order = list(sessions) if repeat % 2 == 0 else list(sessions)[::-1]
        for name in order:
            timings[name].append(_timed(sessions[name], prompt.to(device), config.new_tokens))
    bandwidth = read_bandwidth(device)
    return {
        "config": asdict(config),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu_flags": sorted(cpu_flags() & {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"}),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "read_bytes_per_s": bandwidth,
        "variants": {
            name: _figures(
                name,
                timings,
                model.config,
                config,
                bandwidth,
                bytes_per_key=2 if device.type == "cuda" and name != REFERENCE else 4,
            )
            for name in sessions
        },
    }


def usual_variants(device: torch.device) -> tuple[str, ...]:
    """What there is to compare on this machine; a GPU holds plain bf16 weights only."""
    if device.type != "cpu":
        return (REFERENCE, "bf16")
    return tuple(name for name in VARIANTS if name == REFERENCE or problem_of(name) is None)


def random_model(config: BenchConfig, dtype: torch.dtype, device: torch.device) -> GPT:
    """A model of nanochat's shape for `depth` with nothing left at zero; speed does not depend on the values."""
    length = max(2048, config.prompt_tokens + config.new_tokens)
    model = GPT(model_shape(config.depth, vocab_size=config.vocab_size, sequence_len=length))
    model.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for block in model.layers:
            for weight in (block.attn.proj.weight, block.mlp.proj.weight):
                weight.copy_(torch.empty(weight.shape).normal_(0, model.config.n_embd**-0.5, generator=generator))
    model.compute_dtype = dtype
    return model.to(device).eval()


def decode_bytes(
    name: str, shape: GPTConfig, config: BenchConfig, *, with_tables: bool, bytes_per_key: int = 4
) -> float:
    """Bytes that one step reads, half way through the answer; of the cache so many a number: 4, on a GPU 2."""
    counts, rows = count_params(shape), config.num_rows
    per_weight = 2 if name == "int8" and rows > INT8_ROWS else BYTES_PER_WEIGHT[name]
    context = config.prompt_tokens + config.new_tokens // 2
    tokens = sum(min(context, window + 1) for window in window_sizes(shape))
    cache = 2 * tokens * kv_dim(shape) * rows * bytes_per_key
    tables = 4 * (counts.wte + counts.value_embeds) if with_tables else 0
    return counts.scaling * per_weight + cache + tables


def read_bandwidth(device: torch.device) -> float:
    """Bytes per second at which the device reads memory, measured with the threads that torch has now."""
    probe = torch.ones(PROBE_BYTES // 8, dtype=torch.int64, device=device)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        probe.sum().item()
        best = min(best, time.perf_counter() - started)
    return PROBE_BYTES / best


def _session(name: str, model: GPT, config: BenchConfig) -> Session:
    max_len = config.prompt_tokens + config.new_tokens + 1  # a GPU is a token ahead
    rows = list(range(config.num_rows))
    if name != REFERENCE and pick_kind(model, name)[0] != name:
        raise ConfigError(f"{name} weights: {pick_kind(model, name)[1]}", hint=f"--variants {REFERENCE},plain")

    kept: list[DeviceSteps] = []

    def start() -> tuple[Callable[[Tensor], Tensor], Step]:
        if name == REFERENCE:
            reference = ReferenceDecoder(model, num_rows=config.num_rows, max_len=max_len)
            column = partial(torch.tensor, device=model.device)
            return reference.append, lambda tokens: _likeliest(reference.append(column(tokens).unsqueeze(1)))
        if kept:  # with its graphs: capturing them anew would be timed with the first steps of each repeat
            for row in rows:
                kept[0].decoder.clear_row(row)
            return partial(kept[0].decoder.prefill_rows, rows), _ahead(kept[0], rows)
        decoder = Decoder(model, num_rows=config.num_rows, max_len=max_len, weights=name)
        if model.device.type == "cuda":
            kept.append(DeviceSteps(decoder))
            return partial(decoder.prefill_rows, rows), _ahead(kept[0], rows)
        return partial(decoder.prefill_rows, rows), lambda tokens: _likeliest(decoder.step(tokens))

    return start


def _likeliest(logits: Tensor) -> list[int]:
    return list(logits.argmax(-1).tolist())


def _ahead(steps: DeviceSteps, rows: Sequence[int]) -> Step:
    """As a batch on a GPU decodes: the next step is started before this one is read."""
    started: list[Chosen] = []

    def step(tokens: list[int]) -> list[int]:
        if not started:
            started.append(steps.launch([Feed(row, token) for row, token in zip(rows, tokens, strict=True)]))
        started.append(steps.launch([Feed(row) for row in rows]))
        return started.pop(0).read()

    return step


def _timed(start: Session, prompt: Tensor, new_tokens: int) -> Timing:
    """Greedy decoding, every token read back as a serving engine does."""
    prefill, step = start()
    started = time.perf_counter()
    tokens = _likeliest(prefill(prompt))
    first_token_s = time.perf_counter() - started
    steps_s, steps_cpu_s = [], []
    for _ in range(max(2, new_tokens) - 1):
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = step(tokens)
        steps_s.append(time.perf_counter() - wall)
        steps_cpu_s.append(time.process_time() - cpu)
    return Timing(first_token_s, steps_s, steps_cpu_s)


def _figures(
    name: str,
    timings: dict[str, list[Timing]],
    shape: GPTConfig,
    config: BenchConfig,
    bandwidth: float,
    *,
    bytes_per_key: int,
) -> dict[str, object]:
    own = timings[name]
    steps = len(own[0].steps_s)
    wall_s = statistics.median(timing.decode_s for timing in own) / steps
    cpu_s = statistics.median(timing.decode_cpu_s for timing in own) / steps
    quiet_s = _fastest_tenth(own)
    read = partial(decode_bytes, name, shape, config, bytes_per_key=bytes_per_key)
    figures: dict[str, object] = {
        "tokens_per_s": config.num_rows / wall_s,
        "tokens_per_cpu_s": config.num_rows / cpu_s,
        "quiet_tokens_per_s": config.num_rows / quiet_s,
        "step_ms": 1e3 * wall_s,
        "first_token_ms": 1e3 * statistics.median(timing.first_token_s for timing in own),
        "mbu": read(with_tables=False) / quiet_s / bandwidth,
        "mbu_with_tables": read(with_tables=True) / quiet_s / bandwidth,
    }
    if REFERENCE in timings and name != REFERENCE:
        base = timings[REFERENCE]
        pairs = list(zip(own, base, strict=True))
        figures["times_reference"] = statistics.median(theirs.decode_s / ours.decode_s for ours, theirs in pairs)
        figures["times_reference_cpu"] = statistics.median(
            theirs.decode_cpu_s / ours.decode_cpu_s for ours, theirs in pairs
        )
        figures["times_reference_quiet"] = _fastest_tenth(base) / quiet_s
    return figures


def _fastest_tenth(timings: Sequence[Timing]) -> float:
    """Wall seconds of a step that a tenth of the steps beat."""
    steps = sorted(seconds for timing in timings for seconds in timing.steps_s)
    return steps[len(steps) // 10]
