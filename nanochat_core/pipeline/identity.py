"""Which settings decide which step's result: each step's identity config, as plain values.

A setting that a step does not read is not here, so changing it reruns nothing (`sft.epochs` touches fine-tuning and
what follows). Derived numbers go in by value: a plan rule that changes a learning rate changes the key, one that
changes only how the plan is printed does not.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat_core.base.fingerprint import package_versions
from nanochat_core.data.documentation import PACKAGES
from nanochat_core.pipeline.data_files import contents, digests
from nanochat_core.plan import RunPlan, optim_values
from nanochat_core.schedules import Schedule

if TYPE_CHECKING:
    from nanochat_core.data.files import Found
    from nanochat_core.train.settings import TrainSettings

Identity = dict[str, Any]
# A run's trainings draw from generators of their own: each has the run's seed and so much more.
SEED_AFTER = {"pretrain": 0, "sft": 1, "rl": 2}


def run_seed(step: str, config: Mapping[str, Any]) -> int:
    """The seed of the run that a model is from, by the step that made it and that step's identity."""
    return int(config["seed"]) - SEED_AFTER[step]


def corpus(plan: RunPlan) -> Identity:
    """The embedded corpus is what is installed, so the versions of what it reads are part of it."""
    config = asdict(plan.config.corpus)
    del config["mirrors"]  # where the same bytes come from
    if plan.config.corpus.source == "embedded":
        chosen = {name: config[name] for name in ("source", "max_bytes", "validation_docs")}
        return {**chosen, "documented": package_versions(PACKAGES)}
    if plan.config.corpus.source == "hub" and (folder := local_folder(plan.config.corpus.dataset)):
        config["files"] = _stamps(str(folder))
    if plan.config.corpus.source == "path":
        from nanochat_core.data.corpora import least_validation_bytes, select
        from nanochat_core.data.splits import roles

        del config["path"]  # where the files are
        found = select(plan.config.corpus)
        config["files"] = _texts(found, roles(found.names))
        config["least_bytes"] = least_validation_bytes(found, sequence_len=plan.pretrain.model.sequence_len)
    return config


def _texts(found: "Found", roles: list[str]) -> list[list[str]]:
    """[form, role, digest] of each file in the order in which they are read: what else it is called is not used."""
    from nanochat_core.data.files import form_of

    return [
        [form_of(file), role, digest]
        for file, role, digest in zip(found.files, roles, contents(found.files), strict=True)
    ]


def _talks(found: "Found") -> list[list[str]]:
    """The same of files of conversations."""
    from nanochat_core.data.files import held_out

    chosen = held_out(found.names)
    return _texts(found, ["held out" if name in chosen else "" for name in found.names])


def local_folder(dataset: str | None) -> Path | None:
    """The folder that a dataset's name means, where it is one on this machine."""
    folder = Path(dataset).expanduser() if dataset else None
    return folder if folder and folder.is_dir() else None


def tokenizer(plan: RunPlan) -> Identity:
    return asdict(plan.config.tokenizer)


def tokens(plan: RunPlan) -> Identity:
    return {"sequence_len": plan.pretrain.model.sequence_len, **asdict(plan.config.tokens)}


def pretrain(plan: RunPlan) -> Identity:
    return {**asdict(pretrain_settings(plan)), "head_dim": plan.pretrain.model.head_dim}


def pretrain_settings(plan: RunPlan) -> "TrainSettings":
    from nanochat_core.train.settings import TrainSettings

    config = plan.config.pretrain
    return TrainSettings(
        model=plan.pretrain.model,
        optim=optim_values(plan),
        schedule=plan.pretrain.schedule,
        total_batch_rows=plan.pretrain.total_batch_rows,
        seed=plan.config.seed,
        validate_every_steps=config.validate_every_steps,
        validation_rows=math.ceil(config.validation_tokens / plan.pretrain.model.sequence_len),
        dtype=config.dtype,
        fp8=config.fp8,
        document_mask=config.document_mask,
    )


def sft_sequence_len(plan: RunPlan) -> int:
    return plan.config.sft.sequence_len_tokens or plan.pretrain.model.sequence_len


MIXED = ("mmlu_repeats", "gsm8k_repeats", "num_letter_counts", "num_spellings")


def conversations(plan: RunPlan) -> Identity:
    """What the mix is made of, not how it is learnt."""
    sft = plan.config.sft
    identity: Identity = {"source": sft.source, "sequence_len": sft_sequence_len(plan), "seed": plan.config.seed}
    if sft.source == "builtin":
        counts = ("num_documentation", "num_arithmetic", "num_spelling", "num_identity")
        identity |= {name: getattr(sft, name) for name in counts}
        documented = package_versions(PACKAGES)
        identity |= {"documented": documented, "num_questions": plan.config.evaluate.num_questions}
        return identity
    if sft.source == "path":
        from nanochat_core.data.conversations import select

        found = select(sft.path)
        identity["files"] = _talks(found)
    else:
        identity |= {"smoltalk": sft.smoltalk, "num_smoltalk": sft.num_smoltalk}
        identity["files"] = _stamps(sft.smoltalk) if local_folder(sft.smoltalk) else []
    return {**identity, **_mixed_in(plan)}


def _mixed_in(plan: RunPlan) -> Identity:
    """What is added to conversations: from the benchmarks' training questions, generated, or a file of the user's."""
    sft, source = plan.config.sft, plan.config.benchmarks
    identity: Identity = {name: getattr(sft, name) for name in MIXED} | {"identity": []}
    if sft.identity_path:
        from nanochat_core.data.conversations import select

        identity["identity"] = _talks(select(sft.identity_path, setting="sft.identity_path"))
    if not any(getattr(sft, name) for name in MIXED):
        return identity
    files = _stamps(source.path) if source.source == "path" else []
    return {**identity, "added_from": source.source, "added_files": files, "documented": package_versions(PACKAGES)}


def sft(plan: RunPlan) -> Identity:
    """The base's own settings come in through its digest, the number of rows through the conversations'.

    How rows become steps is this module's rule, so it goes in by value, at three sizes.
    """
    sizes = {num_rows: sft_settings(plan, num_rows=num_rows) for num_rows in (100, 1_000, 10_000)}
    steps = {str(num_rows): settings.schedule.num_steps for num_rows, settings in sizes.items()}
    return {"epochs": plan.config.sft.epochs, "steps_for_rows": steps, **asdict(sizes[1_000])}


def sft_settings(plan: RunPlan, *, num_rows: int) -> "TrainSettings":
    """Settings for `num_rows` packed rows per epoch."""
    batch_rows = min(_sft_batch_rows(plan), 1 << (num_rows.bit_length() - 1))  # a power of two divides over ranks
    num_steps = max(1, plan.config.sft.epochs * num_rows // batch_rows)
    return _sft_settings(plan, num_steps=num_steps, total_batch_rows=batch_rows)


def _sft_batch_rows(plan: RunPlan) -> int:
    return max(1, (plan.config.sft.total_batch_tokens or plan.pretrain.total_batch_tokens) // sft_sequence_len(plan))


def _sft_settings(plan: RunPlan, *, num_steps: int, total_batch_rows: int) -> "TrainSettings":
    from nanochat_core.train.settings import TrainSettings

    config = plan.config.sft
    return TrainSettings(
        model=plan.pretrain.model,
        optim=optim_values(plan),
        schedule=Schedule(
            num_steps=num_steps,
            warmup_steps=0,
            warmdown_frac=config.warmdown_frac,
            final_lr_frac=config.final_lr_frac,
            initial_lr_frac=config.lr_frac,
            momentum_warmup_steps=0,
            has_weight_decay=False,
        ),
        total_batch_rows=total_batch_rows,
        seed=plan.config.seed + SEED_AFTER["sft"],
        validate_every_steps=config.validate_every_steps,
        validation_rows=1 << 30,
        dtype=plan.config.pretrain.dtype,
        document_mask=plan.config.pretrain.document_mask,
    )


def rl_questions(plan: RunPlan) -> Identity:
    """What is asked, not how it is learnt; GSM8K does not depend on how many steps there are."""
    rl, source = plan.config.rl, plan.config.benchmarks
    identity: Identity = {name: getattr(rl, name) for name in ("source", "num_questions", "held_out_questions")}
    identity["seed"] = plan.config.seed
    if rl.source == "arithmetic":
        return identity | {"num_questions": num_sums(plan)}
    return identity | {"read_from": source.source, "files": _stamps(source.path) if source.source == "path" else []}


def num_sums(plan: RunPlan) -> int:
    """Generated questions: the number wished for, or as many as the steps ask for."""
    return plan.config.rl.num_questions or (plan.config.rl.num_steps or 0) * plan.config.rl.questions_per_step


def rl(plan: RunPlan) -> Identity:
    """The model's own settings come in through its digest, the number of questions through theirs."""
    sizes = {num: rl_settings(plan, num_questions=num) for num in (100, 10_000)}
    steps = {str(num): settings.schedule.num_steps for num, settings in sizes.items()}
    return {"steps_for_questions": steps, **asdict(sizes[10_000])}


def rl_settings(plan: RunPlan, *, num_questions: int) -> "TrainSettings":
    """Settings for a set of so many questions."""
    from nanochat_core.train.settings import RLSettings, TrainSettings

    config = plan.config.rl
    num_steps = config.num_steps or max(1, num_questions // config.questions_per_step)
    return TrainSettings(
        model=plan.pretrain.model,
        optim=optim_values(plan),
        schedule=Schedule(
            num_steps=num_steps,
            warmup_steps=0,
            warmdown_frac=1.0,
            final_lr_frac=0.0,
            initial_lr_frac=config.lr_frac,
            momentum_warmup_steps=0,
            has_weight_decay=False,
        ),
        total_batch_rows=config.questions_per_step,
        seed=plan.config.seed + SEED_AFTER["rl"],
        validate_every_steps=config.validate_every_steps,
        validation_rows=config.held_out_questions,
        dtype=plan.config.pretrain.dtype,
        rl=RLSettings(
            samples_per_question=config.samples_per_question,
            temperature=config.temperature,
            top_k=config.top_k,
            max_answer_tokens=config.max_answer_tokens,
            held_out_samples=config.held_out_samples,
        ),
    )


def evaluate(plan: RunPlan) -> Identity:
    config, pretrain = plan.config.evaluate, plan.config.pretrain
    chosen = {"bpb_tokens": config.bpb_tokens, "sample_tokens": config.sample_tokens}
    return {**chosen, "dtype": pretrain.dtype, "document_mask": pretrain.document_mask}


def core_bundle(plan: RunPlan) -> Identity:
    config = plan.config.core
    if config.source == "path":
        return {"files": _stamps(config.path)}
    return {"url": config.url, "sha256": config.sha256}


def core_prompts(plan: RunPlan) -> Identity:
    return {"max_per_benchmark": plan.config.core.max_per_benchmark}


def evaluate_core(plan: RunPlan) -> Identity:
    return {"dtype": plan.config.pretrain.dtype}


def benchmarks(plan: RunPlan) -> Identity:
    config = plan.config.benchmarks
    chosen = {name: getattr(config, name) for name in ("source", "names", "max_per_benchmark")}
    files = _stamps(config.path) if config.source == "path" else []
    return {**chosen, "seed": plan.config.seed, "files": files}


def benchmark(plan: RunPlan) -> Identity:
    config = plan.config.benchmarks
    chosen = {name: getattr(config, name) for name in ("num_samples", "temperature", "max_answer_tokens")}
    return {**chosen, "seed": plan.config.seed, "dtype": plan.config.pretrain.dtype}


def _stamps(path: str | None) -> list[list[str]]:
    """Of a file, or of every file below a folder; none where there is nothing, and the step then says so."""
    chosen = Path(path or "").expanduser()
    walk = os.walk(chosen, followlinks=True)  # data are often linked into place
    below = sorted(Path(folder, name) for folder, _, names in walk for name in names)
    files = [chosen] if chosen.is_file() else [file for file in below if file.is_file()]
    return digests(files, chosen) if path else []


def report(plan: RunPlan) -> Identity:
    return {}
