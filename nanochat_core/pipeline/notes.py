"""What a person is told of a step's input files in every run, made or cached: what of a named folder is left out.

Apart from the table of steps; the settings decide, so every function takes the plan and returns lines.
"""

from nanochat_core.plan import RunPlan


def corpus(plan: RunPlan) -> list[str]:
    from nanochat_core.data.corpora import notes_of

    return notes_of(plan.config.corpus)


def conversations(plan: RunPlan) -> list[str]:
    from nanochat_core.data.conversations import notes_of

    sft = plan.config.sft
    mine = notes_of(sft.path) if sft.source == "path" else []
    return mine + (notes_of(sft.identity_path, setting="sft.identity_path") if sft.source != "builtin" else [])
