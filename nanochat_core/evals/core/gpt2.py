"""What OpenAI's GPT-2 scores on CORE: the line that this project trains towards.

Figures from nanochat, which measured the four checkpoints with the same bundle: the target 0.256525 is in its README,
the rest in the tables of dev/estimate_gpt3_core.ipynb (commit 03880dbc, January 2026, four digits). Constants alone,
and nothing imported, so that reports, records and sweeps hold their scores against the same number at no cost.
"""

GPT2_CORE = 0.256525
"""Of the largest, gpt2-xl: "GPT-2" without a size means this one."""
GPT2_CORE_BY_SIZE = {"124M": 0.1139, "355M": 0.1849, "774M": 0.2146, "1.6B": GPT2_CORE}
"""By parameters; on Hugging Face they are gpt2, gpt2-medium, gpt2-large and gpt2-xl."""
