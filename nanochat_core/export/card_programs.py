"""The programs that a model card shows: load the folder and let it answer. A test runs each of them as it stands."""

HF_CHAT = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where these files are
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
messages = [{"role": "user", "content": "What is 37 + 58?"}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
answer = model.generate(**prompt)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
"""
HF_BASE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where these files are
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
prompt = tokenizer(tokenizer.bos_token + "The chemical symbol of gold is", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=32)[0], skip_special_tokens=True))
"""
OURS_START = """\
from pathlib import Path

from nanochat_core.inference.engine import Engine
from nanochat_core.inference.sampling import Sampling
from nanochat_core.model.weights import load_model
"""
OURS_LOAD = """\
from nanochat_core.tokenizer.tokenizer import Tokenizer

folder = Path(".")  # where these files are
tokenizer = Tokenizer.load(folder)
engine = Engine(load_model(folder), tokenizer)
"""
OURS_CHAT = f"""\
{OURS_START}from nanochat_core.tokenizer.conversation import render_prompt
{OURS_LOAD}prompt = render_prompt(tokenizer, [{{"role": "user", "content": "What is 37 + 58?"}}])
print(engine.generate([prompt], [Sampling()])[0].text)
"""
OURS_BASE = f"""\
{OURS_START}{OURS_LOAD}prompt = [tokenizer.bos, *tokenizer.encode("The chemical symbol of gold is")]
print(engine.generate([prompt], [Sampling(max_new_tokens=32)])[0].text)
"""
PROGRAMS = {("hf", True): HF_CHAT, ("hf", False): HF_BASE, ("safetensors", True): OURS_CHAT}
CHAT_NOTE = (
    "The chat template renders a conversation as in training, a system message and earlier tool calls included "
    '(`{"type": "python" | "python_output" | "text", "text": ...}` parts). It refuses a message that spells a special '
    "token."
)
PLAIN_NOTE = (
    "The model expects `<|bos|>` in front; the tokenizer does not add it. Special tokens are recognised in text, as "
    "with every tokenizer of this library: give `split_special_tokens=True` with text of strangers."
)


def program(form: str, *, is_chat: bool) -> str:
    """Python source, for the folder's own directory."""
    return PROGRAMS.get((form, is_chat), OURS_BASE)


def note(form: str, *, is_chat: bool) -> str:
    """What there is to know about it."""
    if form != "hf":
        return (
            "`pip install nanochat-prefect` has these modules; `nanochat import-checkpoint` reads the folder as well."
        )
    return " ".join([*([CHAT_NOTE] if is_chat else []), PLAIN_NOTE])
