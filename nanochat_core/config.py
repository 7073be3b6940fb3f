"""What a run may choose: one frozen dataclass per stage, and `RuntimeConfig` apart.

Only values live here. Every field of the stage configs goes into the fingerprints of the steps that read it, so this
module itself is left out of the code closure (base/fingerprint.py); nothing in `RuntimeConfig` may change a result.
Derived numbers are not fields: plan.py computes them. `None` means "off" or "derive it". presets/__init__.py reads.
"""

from dataclasses import dataclass, field
from typing import Literal

from nanochat_core.base.neutral import NEUTRAL, later
from nanochat_core.clean_config import CleanConfig
from nanochat_core.corpus_config import CorpusConfig as CorpusConfig
from nanochat_core.corpus_config import PhaseConfig as PhaseConfig
from nanochat_core.corpus_config import SourceConfig as SourceConfig


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape of one model; everything that is needed to build it and nothing about training."""

    sequence_len: int
    """Longest context in tokens; rotary tables and windows are sized for it."""
    vocab_size: int
    """True vocabulary; the embedding and the head are padded to a multiple of 64 inside the model."""
    n_layer: int
    n_head: int
    n_kv_head: int
    """Key/value heads; divides n_head (grouped-query attention, arXiv 2305.13245)."""
    n_embd: int
    window_pattern: str = "SSSL"
    """Tiled over the layers: L attends to all of the context, S to a part of it; the last layer is always L."""
    short_window_tokens: int | None = later(None)
    """What S looks back; None: a quarter of the context, rounded up to 128."""
    residual_weights: bool = later(True)
    """Each layer multiplies the stream by a learned weight. This and what follows is how older models differ."""
    skip_weights: bool = later(True)
    """Each layer adds the first stream again, by a learned weight."""
    smear: bool = later(True)
    """A gated share of the previous token's embedding is added to each token's."""
    backout: bool = later(True)
    """The stream of the middle layer is partly taken out before the head."""
    value_gate_channels: int = later(12)
    """So many channels of the normalised stream open the gate of the value embeddings; 0: there are none."""
    value_gate_scale: float = later(3.0)
    """The gate runs from 0 to this."""
    qk_gain: float = later(1.2)
    """Of normalised queries and keys: attention sharper than a plain unit norm."""
    rotary_base: float = later(100_000.0)
    softcap: float = later(15.0)
    """Logits are capped softly at this."""

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """A model to start from, in the place of weights that are drawn (`--from MODEL`)."""

    model: str | None = None
    """NAME or NAME@VERSION of the store, a run, RUN:STEP, a fingerprint, a folder (ours, nanochat's or transformers'),
    or one on the hub: hf:OWNER/NAME@REVISION. None: pretraining from drawn weights. In files also `from`."""
    tokenizer: str | None = None
    """The folder of its tokenizer, where that is another one."""
    softcap: float | None = None
    """What its logits are capped at, where no file tells; None: both are measured (docs/export.md)."""
    stage: Literal["base", "chat"] = "base"
    """base: it is fine-tuned, whatever it has learnt before. chat: it is a chat model, and is practised as it is."""
    train: bool = False
    """Go on pretraining it on the corpus, by the preset's schedule from the first step, with a new optimizer."""
    content: str | None = None
    """What it was found to be: a digest of its weights, shape and tokenizer. Filled in, as the shape is."""
    network: str | None = None
    """What it has otherwise than today's network, as JSON. Filled in."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The vocabulary, learnt from the text by byte-pair encoding."""

    vocab_size: int = 32_768
    """Tokens in all, the 256 bytes and nine special ones among them; above 65,536 token files take twice the room."""
    pattern: Literal["nanochat", "gpt4", "scripts", "bytes"] = later("nanochat")
    """How text is cut: as nanochat or GPT-4 do, for India's and blankless scripts, or no merges (vocab_size 265)."""
    max_train_bytes: int = 2_000_000_000
    """Text that BPE training looks at, in bytes of UTF-8; nanochat's `--max-chars` counts characters."""
    max_doc_bytes: int = 10_000
    """Longer documents count only up to here, so that giants do not shape the vocabulary; nanochat's is characters."""


@dataclass(frozen=True, kw_only=True)
class TokensConfig:
    """How documents become rows."""

    long_documents: Literal["crop", "split"] = "crop"
    """What happens to the part of a document that does not fit into a row: dropped, or kept as a further document.
    crop is nanochat's rule and right for endless text; split suits a small corpus with short rows."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What a pretraining run may choose. Everything else is derived in plan.py."""

    depth: int = 20
    """The one dial: layers, and through plan.py width, heads, tokens, batch, learning rates, weight decay."""
    n_embd: int | None = None
    """Model width; None: 64 x depth, rounded up to a multiple of head_dim."""
    head_dim: int = 128
    """Width of one attention head; an even number."""
    n_kv_head: int | None = None
    """None: as many as query heads."""
    sequence_len_tokens: int = 2048
    """Length of a row, which is the longest context of the model."""
    window_pattern: str = "SSSL"
    """Attention of the layers in turn, tiled: L sees all of the context, S a quarter; the last layer is always L."""
    tokens_per_param: float = 12.0
    """Compute-optimal for this model family; Chinchilla's 20 counts parameters in another way."""
    max_tokens: int | None = None
    """Ceiling on training tokens whatever the depth says; None: no ceiling."""
    total_batch_tokens: int | None = None
    """Tokens per optimizer step; None: the power law in plan.py."""
    embedding_lr: float = 0.3
    """Learning rate of the token embedding (AdamW) at depth 12 and a batch of 2^19; the plan scales all five."""
    value_embedding_lr: float = 0.15
    """Learning rate of the value embeddings (AdamW)."""
    unembedding_lr: float = 0.008
    """Learning rate of the head (AdamW)."""
    matrix_lr: float = 0.02
    """Learning rate of the layers' matrices (Muon)."""
    scalar_lr: float = 0.5
    """Learning rate of the residual and smear scalars (AdamW)."""
    weight_decay: float = 0.28
    """Cautious decay on the matrices at depth 12; scaled by plan.py."""
    max_weight_decay: float = 0.6
    """Ceiling on the scaled decay: below depth 8 the law leaves its range (1.9 at depth 4; 0.52 at depth 8)."""
    warmup_steps: int = 40
    """Steps in which the learning rate rises from 0; a quarter of the run at most."""
    warmdown_frac: float = 0.65
    """Share of the steps, at the end, in which the learning rate falls."""
    final_lr_frac: float = 0.05
    """What it falls to, as a fraction of the full rate."""
    momentum_warmup_steps: int = 400
    """Muon's momentum rises from 0.85 to 0.97 over these steps."""
    validate_every_steps: int | None = 250
    """None: only at the end."""
    validation_tokens: int = 10_485_760
    """Tokens of the validation shard that each evaluation during training looks at."""
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Compute type of the matrix products; auto: bf16 where the hardware has it, fp16 with a scaled loss on other GPUs.
    Cache keys say auto as well, as another machine may train: name the type where both kinds share a store."""
    fp8: Literal["auto", "off", "dynamic", "delayed"] = "auto"
    """Matrix products of the layers in fp8, with scales from each tensor or from the last steps; auto: delayed from
    depth 18 on where the GPU multiplies fp8 and the rest is bf16. Evaluations and fine-tuning are in `dtype`."""
    document_mask: bool = False
    """Tokens do not see the documents before their own in a row, in fine-tuning and evaluation neither."""
    phases: tuple[PhaseConfig, ...] = later(())
    """Parts of the schedule that take the corpus's sources by weights of their own (docs/data.md); none: one part."""


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """Supervised fine-tuning on conversations."""

    source: Literal["builtin", "path", "mix"] = "builtin"
    """builtin: generated questions about the corpus, arithmetic with the calculator, spelling, who-are-you.
    mix: SmolTalk, and what the counts below add to it (nanochat's mixture)."""
    path: str | None = None
    """source = path: a file, a folder or a pattern of .jsonl, .json, .parquet, .csv or .tsv files, packed or not,
    in the forms below. Files named valid, val, dev or test are held out, else every 20th conversation is."""
    form: Literal["auto", "messages", "ShareGPT", "Alpaca", "prompt/completion", "question/answer"] = later("auto")
    """source = path: the form that every row has; auto: each row is told by what it holds."""
    columns: str | None = later(None)
    """source = path: which of your columns is which, as "question=Frage,answer=Antwort" (docs/data.md)."""
    licence: str | None = later(None)
    """source = path: on what terms the conversations may be used, as corpus.licence."""
    origin: str | None = later(None)
    """source = path: where the conversations are from, in words."""
    smoltalk: str = "HuggingFaceTB/smol-smoltalk"
    """source = mix: a Hugging Face dataset of {"messages"}, or a folder in its layout."""
    num_smoltalk: int | None = 460_000
    """source = mix: so many of its conversations; None: all."""
    mmlu_repeats: int = 0
    """path and mix: times that MMLU's auxiliary training questions are in the mixture; read as `benchmarks` says."""
    gsm8k_repeats: int = 0
    """path and mix: times that GSM8K's training questions are in the mixture."""
    num_letter_counts: int = 0
    """path and mix: generated conversations that spell a word and count a letter in it."""
    num_spellings: int = 0
    """path and mix: generated conversations that spell a word."""
    identity_path: str | None = None
    """path and mix: a JSONL file of conversations about who the model is, taken twice."""
    epochs: int = 1
    """Passes over the conversations."""
    num_documentation: int = 4000
    """builtin: questions about the documentation in the corpus."""
    num_arithmetic: int = 8000
    """builtin: sums, worked with the calculator."""
    num_spelling: int = 2000
    """builtin: words to spell, and letters to count in them."""
    num_identity: int = 400
    """builtin: questions about who the model is."""
    sequence_len_tokens: int | None = None
    """None: the base model's."""
    total_batch_tokens: int | None = None
    """None: as in pretraining."""
    lr_frac: float = 0.8
    """Start at this fraction of the base run's learning rates."""
    warmdown_frac: float = 0.5
    """Share of the steps, at the end, in which the learning rate falls."""
    final_lr_frac: float = 0.0
    """What it falls to, as a fraction of the full rate."""
    validate_every_steps: int | None = 200
    """None: only at the end."""


@dataclass(frozen=True, kw_only=True)
class RLConfig:
    """Reinforcement learning on questions whose answers can be checked. The defaults are nanochat's, for GSM8K."""

    enabled: bool = False
    """Whether the chat model practises at all."""
    source: Literal["gsm8k", "arithmetic"] = "gsm8k"
    """gsm8k: its training questions, read as `benchmarks` says. arithmetic: sums of three numbers, made by the code."""
    num_steps: int | None = None
    """None: as many as ask each question once."""
    num_questions: int | None = None
    """Questions to practise on; None: all of GSM8K's 7,473, or so many sums as the steps ask for."""
    questions_per_step: int = 16
    """Questions of one optimizer step; divides over the processes."""
    samples_per_question: int = 16
    """Answers that are sampled to each and compared with each other."""
    temperature: float = 1.0
    """Of the answers that are sampled."""
    top_k: int | None = 50
    """They are drawn from so many of the likeliest tokens; None: from all."""
    max_answer_tokens: int = 256
    """Longer answers are cut there."""
    lr_frac: float = 0.05
    """Start at this fraction of the base run's learning rates and fall linearly to 0."""
    validate_every_steps: int | None = 60
    """None: only at the beginning and the end."""
    held_out_questions: int = 400
    """Asked before, in between and at the end; never practised."""
    held_out_samples: int = 8
    """Answers to each of them, for pass@k."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluation of a finished model: bits per byte, samples, held-out questions."""

    bpb_tokens: int = 41_943_040
    """Validation tokens for the final bits per byte."""
    num_questions: int = 200
    """Held-out questions per benchmark of the builtin mix."""
    sample_tokens: int = 48
    """Length of each sample in the report."""


@dataclass(frozen=True, kw_only=True)
class CoreConfig:
    """CORE, the 22 benchmarks of the DCLM paper (arXiv 2406.11794), on the base model."""

    source: Literal["none", "url", "path"] = "none"
    """none: not measured."""
    url: str = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
    """source = url: a zip of the published bundle."""
    sha256: str | None = None
    """source = url: the digest that the download must have; None: whatever comes is taken and its digest recorded."""
    path: str | None = None
    """source = path: a folder or a zip in the bundle's layout (core.yaml, eval_meta_data.csv, eval_data/)."""
    max_per_benchmark: int | None = None
    """Only so many items of each benchmark, drawn at a fixed seed: a quick look, and the result says so."""


@dataclass(frozen=True, kw_only=True)
class BenchmarksConfig:
    """Chat benchmarks: MMLU, ARC, GSM8K, HumanEval, spelling."""

    source: Literal["none", "hub", "path"] = "none"
    """none: not measured. hub: Hugging Face datasets. path: a folder with the same files (docs/evaluation.md)."""
    path: str | None = None
    """source = path: the folder."""
    names: str = "arc_easy,arc_challenge,mmlu,gsm8k,humaneval,spelling_bee"
    """Which ones, separated by commas."""
    max_per_benchmark: int | None = None
    """Only so many items of each benchmark, drawn at a fixed seed: a quick look, and the result says so."""
    num_samples: int = 1
    """Answers per generative item, for pass@k; 1: greedy."""
    temperature: float = 0.8
    """Of the samples, where there is more than one."""
    max_answer_tokens: int = 512
    """Longer answers are cut there."""


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """What belongs to the machine. No fingerprint sees it, so it may not change a result."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: a GPU where there is one."""
    num_processes: int = 1
    """Ranks that torchrun starts on each node; on GPUs one per device."""
    num_nodes: int = 1
    """Machines that train together; the others run `nanochat node` with the same settings (infra/)."""
    device_batch_rows: int | None = None
    """Rows of one forward and backward pass on one device; the rest of the batch is accumulated. None: on a GPU the
    most that fit, measured once for a model and remembered; on a processor 8,192 tokens."""
    attention: Literal["auto", "fa3", "fa3-hub", "fa4", "cudnn", "flex", "fa2", "sdpa", "blocked"] = "auto"
    """Whose attention kernels a training uses; auto: the first of these that is there and computes it right."""
    compile: Literal["none", "blocks", "max-autotune"] = "none"
    """Compile each layer of a training (torch.compile); max-autotune takes minutes. Rounds as another machine does."""
    deterministic: bool = False
    """Train with kernels alone that give equal bits each time. A CPU does so anyway; on a GPU it costs speed."""
    num_workers: int | None = None
    """Processes that tokenize; None: one per core."""
    scale_out: Literal["none", "dask", "ray"] = "none"
    """Tokenize on a cluster: one Prefect task per shard of text (extras `dask` and `ray`)."""
    scale_out_address: str | None = None
    """The cluster's scheduler, such as tcp://10.0.0.5:8786; None: a cluster of this machine's processes."""
    num_threads: int | None = None
    """Threads per training process; None: cores / processes."""
    num_downloads: int = 8
    """Shards that are fetched at the same time."""
    eval_batch_tokens: int = 16_384
    """Tokens that an evaluation puts through the model at once on one device."""
    allow_unsafe_code: bool = False
    """Run generated code also where the kernel gives no sandbox without a network."""
    checkpoint_every_s: float = 300.0
    """At most this much training is lost to a kill."""
    checkpoint_every_steps: int | None = None
    """Besides those by time; None: by time, and before each validation."""
    hang_after_s: float = 600.0
    """A rank that says nothing for so long in a step has hung: it is stopped, and the training goes on from its last
    checkpoint. Start-up and validation may take an hour, a step twenty times the slowest before it."""
    max_cost_usd: float | None = None
    """Refuse to start when the plan costs more, and stop a training with a checkpoint when it has."""
    log_every_steps: int = 1
    """A line of the step log for every so many; a record needs 1."""
    keep_runs: int = 50
    """`nanochat runs gc` keeps what so many of the newest runs made."""
    keep_days: int = 30
    """`nanochat runs gc` keeps what is younger than this, finished or not."""
    gpu: str = "H100"
    """What the plan prices a run for."""
    num_gpus: int = 8
    """So many of them."""
    usd_per_gpu_hour: float | None = None
    """None: the price table in plan.py."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run: a preset with the user's changes applied."""

    preset: str
    """Where the values come from that nobody set: the name of a preset."""
    seed: int = 42
    """Of weights, order of rows and samples; the same seed gives the same model."""
    base: BaseConfig = field(default_factory=BaseConfig, metadata={NEUTRAL: BaseConfig()})
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    clean: CleanConfig = field(default_factory=CleanConfig, metadata={NEUTRAL: CleanConfig()})
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    tokens: TokensConfig = field(default_factory=TokensConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    rl: RLConfig = field(default_factory=RLConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    core: CoreConfig = field(default_factory=CoreConfig)
    benchmarks: BenchmarksConfig = field(default_factory=BenchmarksConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
