"""depth -> everything: the numbers of a run, as pure functions without torch.

The rules are nanochat's (July 2026): tokens from the scaling parameters, batch by a power law in the tokens, learning
rates by the square root of the batch, weight decay so that its time scale stays the same. tests/core/test_plan.py
compares the results with a published table for 16 depths. Times and prices are estimates and say what they assume.
"""

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from nanochat_core.base.errors import ConfigError
from nanochat_core.base.neutral import NEUTRAL
from nanochat_core.base.passes import usual_rows
from nanochat_core.bounds import check_bounds, check_no_secrets
from nanochat_core.config import GPTConfig, PretrainConfig, RunConfig, RuntimeConfig
from nanochat_core.corpus_config import CorpusConfig, SourceConfig, TextConfig
from nanochat_core.mixing import Phase, phases_of, used_sources
from nanochat_core.model import shape
from nanochat_core.schedules import Schedule

REFERENCE_DEPTH = 12  # where the base learning rates and the decay were tuned
REFERENCE_BATCH_TOKENS = 2**19  # the best batch at the reference depth
REFERENCE_WIDTH = 768  # the AdamW groups' rates were tuned at this width
BATCH_EXPONENT = 0.383  # best batch ~ tokens^0.383, "Power Lines", arXiv 2505.13738
WIDTH_PER_LAYER = 64

# Dense bf16 peak in FLOP/s (vendor data sheets, without sparsity), memory, and a typical rental price (2026).
GPUS: dict[str, tuple[float, float, float]] = {
    "B200": (2250e12, 180.0, 5.50),
    "H200": (989e12, 141.0, 3.60),
    "H100": (989e12, 80.0, 3.00),
    "A100": (312e12, 80.0, 1.80),
    "L40S": (362e12, 48.0, 1.20),
    "RTX4090": (165e12, 24.0, 0.50),
    "CPU": (0.1e12, 16.0, 0.04),  # a core with AVX512-bf16 gives about this much on a small model; rented, not owned
}
NO_GPU = ("cpu", "mps")  # devices that a training names and nobody rents
EXPECTED_MFU = 0.45  # nanochat's d24 on 8xH100 reaches 0.47 to 0.50 of the bf16 peak in training steps
EXPECTED_CPU_MFU = 0.6  # small shapes, one process; measured on 2 cores with the tiny preset


@dataclass(frozen=True, kw_only=True)
class PretrainPlan:
    """Every derived number of one pretraining run."""

    model: GPTConfig
    num_params: dict[str, int]
    scaling_params: int
    flops_per_token: int
    target_tokens: int
    total_batch_tokens: int
    num_steps: int
    lr_scale_batch: float
    lr_scale_adamw_width: float
    weight_decay: float
    schedule: Schedule

    @property
    def num_tokens(self) -> int:
        return self.num_steps * self.total_batch_tokens

    @property
    def total_flops(self) -> int:
        return self.flops_per_token * self.num_tokens

    @property
    def total_batch_rows(self) -> int:
        return self.total_batch_tokens // self.model.sequence_len


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A run's configuration and what follows from it; what tasks hand to each other."""

    config: RunConfig
    pretrain: PretrainPlan
    fresh: tuple[str, ...] = ()
    """Steps to make again although they are cached."""
    accept_drift: tuple[str, ...] = ()
    """Steps whose artifact is reused although their code or packages changed, where there is one."""
    kept: tuple[str, ...] = ()
    """Those of them that somebody named (or "all"): one that cannot be reused is an error."""
    verify_inputs: bool = False
    """Read every input file whole, also large ones."""

    @property
    def is_mix(self) -> bool:
        """Whether its text is of several sources."""
        return bool(self.config.corpus.sources)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What pretraining takes of each source, and when."""
        return phases_of(self.config, num_steps=self.pretrain.num_steps)

    @property
    def sources(self) -> "dict[str, RunPlan]":
        """Source -> this plan with that source as the whole corpus; without those that weigh nothing."""
        return {each.name: self._with_text(each) for each in used_sources(self.config)}

    def _with_text(self, source: SourceConfig) -> "RunPlan":
        text = CorpusConfig(**{item.name: getattr(source, item.name) for item in fields(TextConfig)})
        alone = replace(self.config.pretrain, phases=())
        return replace(self, config=replace(self.config, corpus=text, pretrain=alone))

    @property
    def has_base(self) -> bool:
        """Whether it starts from a model."""
        return self.config.base.model is not None

    @property
    def is_base_kept(self) -> bool:
        """Whether that model is not pretrained any further."""
        return self.has_base and not self.config.base.train

    @property
    def is_chat_kept(self) -> bool:
        """Whether it is a chat model already, and not fine-tuned."""
        return self.has_base and self.config.base.stage == "chat"

    @property
    def has_core(self) -> bool:
        return self.config.core.source != "none"

    @property
    def has_benchmarks(self) -> bool:
        return self.config.benchmarks.source != "none"

    @property
    def has_rl(self) -> bool:
        return self.config.rl.enabled


def plan_run(
    config: RunConfig, *, fresh: tuple[str, ...] = (), accept_drift: tuple[str, ...] = (), verify_inputs: bool = False
) -> RunPlan:
    """Derive the plan, or raise ConfigError naming the value that cannot work."""
    check_no_secrets(config)
    check_bounds(config)
    if config.base.model is not None and config.base.content is None:
        raise ConfigError(f"base.model = {config.base.model} has no place here", hint="run, plan and why take it")
    pretrain = plan_pretrain(config.pretrain, vocab_size=config.tokenizer.vocab_size, network=config.base.network)
    phases_of(config, num_steps=pretrain.num_steps)  # refuses one that is too short
    _check_sft(config, sequence_len=pretrain.model.sequence_len, batch_tokens=pretrain.total_batch_tokens)
    _check_divides("pretrain", pretrain.total_batch_rows, config.runtime)
    _check_rl(config)
    return RunPlan(
        config=config, pretrain=pretrain, fresh=fresh, accept_drift=accept_drift, verify_inputs=verify_inputs
    )


def _check_sft(config: RunConfig, *, sequence_len: int, batch_tokens: int) -> None:
    own_len = config.sft.sequence_len_tokens or sequence_len
    if own_len > sequence_len:
        raise ConfigError(
            f"sft.sequence_len_tokens = {own_len} is over the model's context of {sequence_len}",
            hint="leave it out to use the model's",
        )
    _check_divides("sft", max(1, (config.sft.total_batch_tokens or batch_tokens) // own_len), config.runtime)


def _check_rl(config: RunConfig) -> None:
    world_size = config.runtime.num_nodes * config.runtime.num_processes
    if config.rl.enabled and config.rl.questions_per_step % world_size:
        raise ConfigError(
            f"{config.rl.questions_per_step} questions do not divide over {world_size} processes",
            hint="lower runtime.num_processes, or choose an rl.questions_per_step that divides",
        )


def _check_divides(stage: str, total_batch_rows: int, runtime: RuntimeConfig) -> None:
    """Before any step runs: a stage that cannot be shared out would fail only after those before it were paid for."""
    world_size = runtime.num_nodes * runtime.num_processes
    if total_batch_rows % world_size:
        raise ConfigError(
            f"a batch of {total_batch_rows} rows does not divide over {world_size} processes",
            hint=f"lower runtime.num_processes, or choose a {stage}.total_batch_tokens that divides",
        )


def model_config(config: PretrainConfig, *, vocab_size: int, network: str | None = None) -> GPTConfig:
    """Shape of the model at `config.depth`; `network`: what it has otherwise than today's, as JSON."""
    head_dim = config.head_dim
    n_embd = config.n_embd or math.ceil(config.depth * WIDTH_PER_LAYER / head_dim) * head_dim
    n_head = n_embd // head_dim
    _check_shape(config, n_embd=n_embd)
    return GPTConfig(
        sequence_len=config.sequence_len_tokens,
        vocab_size=vocab_size,
        n_layer=config.depth,
        n_head=n_head,
        n_kv_head=config.n_kv_head or n_head,
        n_embd=n_embd,
        window_pattern=config.window_pattern.upper(),
        **_network(network),
    )


def _network(text: str | None) -> dict[str, Any]:
    """What a model to start from has otherwise than today's network."""
    try:
        options = json.loads(text or "{}")
        if options.keys() <= {item.name for item in fields(GPTConfig) if NEUTRAL in item.metadata}:
            return dict(options)
    except (ValueError, AttributeError):
        pass
    raise ConfigError(f"base.network = {text} is no network's", hint="leave it out: it is found with the model")


def _check_shape(config: PretrainConfig, *, n_embd: int) -> None:
    if config.head_dim % 2:
        raise ConfigError(f"pretrain.head_dim = {config.head_dim} is not an even number", hint="128 is usual")
    if n_embd % config.head_dim:
        raise ConfigError(
            f"pretrain.n_embd = {n_embd} does not divide into heads of head_dim = {config.head_dim}",
            hint=f"set pretrain.n_embd to a multiple of {config.head_dim}",
        )
    n_head = n_embd // config.head_dim
    if config.n_kv_head is not None and n_head % config.n_kv_head:
        raise ConfigError(
            f"pretrain.n_kv_head = {config.n_kv_head} does not divide the {n_head} query heads",
            hint=f"choose one of {[k for k in range(1, n_head + 1) if n_head % k == 0]}",
        )
    if set(config.window_pattern.upper()) - {"S", "L"} or not config.window_pattern:
        raise ConfigError(f"pretrain.window_pattern = {config.window_pattern!r} has other letters than S and L")


def plan_pretrain(config: PretrainConfig, *, vocab_size: int, network: str | None = None) -> PretrainPlan:
    """All derived numbers of a pretraining run."""
    model = model_config(config, vocab_size=vocab_size, network=network)
    params = shape.count_params(model)
    scaling_params = params.scaling
    target_tokens = int(config.tokens_per_param * scaling_params)
    reference_tokens = reference_tokens_of(config, vocab_size=vocab_size)
    batch_tokens = config.total_batch_tokens or optimal_batch_tokens(target_tokens, reference_tokens)
    if config.max_tokens is not None:
        target_tokens = min(target_tokens, config.max_tokens)
    _check_batch(batch_tokens, sequence_len=model.sequence_len)
    num_steps = target_tokens // batch_tokens
    if num_steps < 1:
        raise ConfigError(
            f"a batch of {batch_tokens:,} tokens is more than the {target_tokens:,} tokens of the whole run",
            hint="lower pretrain.total_batch_tokens, or raise pretrain.tokens_per_param",
        )
    decay = scaled_weight_decay(config.weight_decay, batch_tokens, tokens=target_tokens, reference=reference_tokens)
    return PretrainPlan(
        model=model,
        num_params={**asdict(params), "total": params.total},
        scaling_params=scaling_params,
        flops_per_token=shape.flops_per_token(model),
        target_tokens=target_tokens,
        total_batch_tokens=batch_tokens,
        num_steps=num_steps,
        lr_scale_batch=math.sqrt(batch_tokens / REFERENCE_BATCH_TOKENS),
        lr_scale_adamw_width=(model.n_embd / REFERENCE_WIDTH) ** -0.5,
        weight_decay=min(decay, config.max_weight_decay),
        schedule=Schedule(
            num_steps=num_steps,
            warmup_steps=min(config.warmup_steps, max(1, num_steps // 4)),
            warmdown_frac=config.warmdown_frac,
            final_lr_frac=config.final_lr_frac,
            momentum_warmup_steps=config.momentum_warmup_steps,
        ),
    )


def reference_tokens_of(config: PretrainConfig, *, vocab_size: int) -> float:
    """Tokens of the depth-12 model at nanochat's own shapes, whatever the preset's shapes are: what laws scale from."""
    reference = replace(config, depth=REFERENCE_DEPTH, n_embd=None, head_dim=128, n_kv_head=None)
    return config.tokens_per_param * shape.count_params(model_config(reference, vocab_size=vocab_size)).scaling


def _check_batch(batch_tokens: int, *, sequence_len: int) -> None:
    if batch_tokens % sequence_len:
        nearest = max(1, round(batch_tokens / sequence_len)) * sequence_len
        raise ConfigError(
            f"a batch of {batch_tokens:,} tokens does not divide into rows of {sequence_len} tokens",
            hint=f"set pretrain.total_batch_tokens={nearest}",
        )


def optimal_batch_tokens(tokens: float, reference_tokens: float) -> int:
    """Tokens per step, a power of two: 2^19 at the reference, growing with tokens^0.383."""
    return 2 ** round(math.log2(REFERENCE_BATCH_TOKENS * (tokens / reference_tokens) ** BATCH_EXPONENT))


def scaled_weight_decay(base: float, batch_tokens: float, *, tokens: float, reference: float) -> float:
    """Decay that keeps the averaging time scale of the reference run (arXiv 2405.13698)."""
    return base * math.sqrt(batch_tokens / REFERENCE_BATCH_TOKENS) * reference / tokens


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a pretraining run will take on named hardware; MFU is assumed, not measured."""

    gpu: str
    num_gpus: int
    assumed_mfu: float
    hours: float
    usd: float
    memory_gib: float
    """Per device: weights, gradients, optimizer state and the activations of one micro-batch."""
    fits: bool


def estimate(plan: RunPlan) -> Estimate:
    """Hours, dollars and memory of the pretraining for `runtime.gpu` x `runtime.num_gpus`."""
    runtime = plan.config.runtime
    if runtime.gpu not in GPUS:
        raise ConfigError(f"runtime.gpu = {runtime.gpu!r} is not in the table", hint=f"one of {', '.join(GPUS)}")
    if runtime.num_gpus < 1:
        raise ConfigError(f"runtime.num_gpus = {runtime.num_gpus} is below 1")
    peak, capacity_gib, listed = GPUS[runtime.gpu]
    price = listed if runtime.usd_per_gpu_hour is None else runtime.usd_per_gpu_hour
    mfu = EXPECTED_CPU_MFU if runtime.gpu == "CPU" else EXPECTED_MFU
    flops = 0 if plan.is_base_kept else plan.pretrain.total_flops
    hours = flops / (peak * runtime.num_gpus * mfu) / 3600
    rows = runtime.device_batch_rows or _rows_to_fit(plan, capacity_gib)
    memory_gib = memory_bytes(plan.pretrain, device_batch_rows=rows) / 2**30
    return Estimate(
        gpu=runtime.gpu,
        num_gpus=runtime.num_gpus,
        assumed_mfu=mfu,
        hours=hours,
        usd=hours * price * runtime.num_gpus,
        memory_gib=memory_gib,
        fits=memory_gib < capacity_gib,
    )


def gpu_named(device: str) -> str | None:
    """The GPU of the table that a device's own name means ("NVIDIA H100 80GB HBM3"); None: none of them."""
    if device.split(":")[0] in NO_GPU:
        return None
    return next((gpu for gpu in GPUS if gpu.lower() in device.lower().replace(" ", "")), None)


def usd_per_gpu_hour(device: str, configured: float | None) -> float | None:
    """The price that was configured, else the table's; 0 for one's own processor, None for an unknown GPU."""
    if device.split(":")[0] in NO_GPU:
        return 0.0
    gpu = gpu_named(device)
    return configured if configured is not None else GPUS[gpu][2] if gpu else None


def _rows_to_fit(plan: RunPlan, capacity_gib: float) -> int:
    """What a training will choose by itself, as far as the estimate can tell."""
    runtime, derived = plan.config.runtime, plan.pretrain
    per_device = max(1, derived.total_batch_rows // (runtime.num_processes * runtime.num_nodes))
    if runtime.gpu == "CPU":
        return min(per_device, usual_rows(derived.model.sequence_len))
    rows = 1
    while 2 * rows <= per_device and memory_bytes(derived, device_batch_rows=2 * rows) < capacity_gib * 2**30:
        rows *= 2
    return rows


def memory_bytes(plan: PretrainPlan, *, device_batch_rows: int) -> int:
    """Upper estimate of one device's memory without recomputation or sharded state.

    fp32 master and gradient (8 bytes) for all, two moments (8) for AdamW's, one (4) for Muon's matrices; activations as
    about 16 tensors of the model width in bf16 per layer and token (attention 6, MLP 9, residual 1).
    """
    matrices = plan.num_params["transformer_matrices"]
    others = plan.num_params["total"] - matrices
    tokens = device_batch_rows * plan.model.sequence_len
    return matrices * 12 + others * 16 + tokens * plan.model.n_layer * plan.model.n_embd * 2 * 16


def optim_values(plan: RunPlan) -> dict[str, float]:
    """The optimizer's settings as plain numbers, as optim.groups.OptimConfig takes them."""
    config, derived = plan.config.pretrain, plan.pretrain
    return {
        "embedding_lr": config.embedding_lr,
        "value_embedding_lr": config.value_embedding_lr,
        "unembedding_lr": config.unembedding_lr,
        "matrix_lr": config.matrix_lr,
        "scalar_lr": config.scalar_lr,
        "adamw_lr_scale": derived.lr_scale_adamw_width,
        "lr_scale": derived.lr_scale_batch,
        "weight_decay": derived.weight_decay,
    }


def summary(plan: RunPlan) -> dict[str, Any]:
    """The plan as JSON values: what `nanochat plan --json` prints."""
    derived = asdict(plan.pretrain)
    derived.update(num_tokens=plan.pretrain.num_tokens, total_flops=plan.pretrain.total_flops)
    derived["window_sizes"] = shape.window_sizes(plan.pretrain.model)
    return {"preset": plan.config.preset, "pretrain": derived, "estimate": asdict(estimate(plan))}
