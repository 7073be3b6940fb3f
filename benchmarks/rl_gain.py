"""What reinforcement learning adds to a fine-tuned model, over several seeds: held-out reward before and after.

    .venv/bin/python benchmarks/rl_gain.py [--ref tiny-sft] [--preset tiny] [--seeds 1,2,3] [--set rl.num_steps=12]

Starts from a chat model of this machine's store (NANOCHAT_HOME, NANOCHAT_STORE), draws its own questions for each seed,
and trains with the job and the process of the `rl` step; nothing is written into the store. Prints JSON: for each seed
the reward with its standard error over questions, pass@k, KL from the start in nats per token, and seconds.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from nanochat_core import workspace
from nanochat_core.base.hardware import describe
from nanochat_core.base.records import RECORDS_NAME, read_records
from nanochat_core.data.arithmetic import sums
from nanochat_core.evals.items import Question, write_questions
from nanochat_core.pipeline.models import fetch, find_model
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from nanochat_core.steps import rl
from nanochat_core.steps.rl_questions import num_sums
from nanochat_core.train.launch import run_training
from nanochat_core.train.rl import HELD_OUT_FILE, TRAIN_FILE


def ask(plan: RunPlan, folder: Path) -> Path:
    """Write the questions of a plan's seed, as the step `rl_questions` does for sums."""
    config, seed = plan.config.rl, plan.config.seed
    counts = {TRAIN_FILE: num_sums(plan), HELD_OUT_FILE: config.held_out_questions}
    folder.mkdir()
    for name, count in counts.items():
        part = name.removesuffix(".jsonl")
        write_questions(folder / name, [Question("arithmetic", *one) for one in sums(part, count=count, seed=seed)])
    (folder / "counts.json").write_text(json.dumps({"train": counts[TRAIN_FILE], "held_out": counts[HELD_OUT_FILE]}))
    return folder


def gain(plan: RunPlan, model: Path, tokenizer: Path) -> dict[str, Any]:
    """Train once; the first and the last look at the held-out questions."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = {"tokenizer": tokenizer, "rl_questions": ask(plan, folder / "questions"), "sft": model}
        parts = {part: folder / part for part in ("checkpoints", "work", "out")}
        for part in parts.values():
            part.mkdir()
        started_s = time.perf_counter()
        run_training(rl.job(plan, inputs, **parts), lambda record: None)
        took_s = time.perf_counter() - started_s
        records = read_records(parts["work"] / RECORDS_NAME)
    looks = [record for record in records if record["event"] == "validate"]
    last = [record for record in records if record["event"] == "step"][-1]
    ends = [{key: look[key] for key in look if key not in ("event", "time_s")} for look in (looks[0], looks[-1])]
    return {"seed": plan.config.seed, "before": ends[0], "after": ends[1], "kl": last["kl"], "took_s": took_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ref", default="tiny-sft")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    store = workspace.current().store
    found = find_model(store, options.ref)
    model = fetch(store, found.artifact, "model.safetensors", "config.json")
    tokenizer = fetch(store, found.tokenizer, "tokenizer.json")
    runs = []
    for seed in options.seeds.split(","):
        plan = plan_run(load_config(options.preset, [*options.overrides, "rl.source=arithmetic", f"seed={seed}"]))
        runs.append(gain(plan, model, tokenizer))
    rewards = {when: [run[when]["held_out_reward"] for run in runs] for when in ("before", "after")}
    means = {f"mean_{when}": statistics.fmean(values) for when, values in rewards.items()}
    result = {"machine": describe().record(), "ref": found.name, "overrides": options.overrides, **means, "runs": runs}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
