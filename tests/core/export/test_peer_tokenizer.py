"""nanochat's pickled tokenizer becomes ours, and no pickle runs anything."""

import os
import pickle

import pytest
import tiktoken
import torch

from nanochat_core.base.errors import MissingError
from nanochat_core.export.peer_tokenizer import load_peer_tokenizer
from nanochat_core.model.import_checkpoint import load_nanochat_checkpoint
from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS


def _encoding(tokenizer, **changes):
    values = {
        "pat_str": tokenizer.pattern,
        "mergeable_ranks": {token: rank for rank, token in enumerate(tokenizer.ranks)},
        "special_tokens": {name: tokenizer.special(name) for name in SPECIAL_TOKENS},
    }
    return tiktoken.Encoding("rustbpe", **{**values, **changes})


@pytest.mark.parametrize(
    "protocol", range(3, pickle.HIGHEST_PROTOCOL + 1)
)  # Python 3's own; older ones spell bytes as calls
def test_a_pickled_encoding_becomes_ours(tokenizer, tmp_path, protocol):
    (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps(_encoding(tokenizer), protocol=protocol))
    torch.save(torch.tensor(tokenizer.token_bytes(), dtype=torch.int32), tmp_path / "token_bytes.pt")
    read = load_peer_tokenizer(tmp_path)
    assert (read.ranks, read.pattern) == (tokenizer.ranks, tokenizer.pattern)


class _Runs:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tokenizer, tmp_path):
    for hidden in (_Runs(tmp_path / "ran"), [_Runs(tmp_path / "ran")], {"mergeable_ranks": _Runs(tmp_path / "ran")}):
        (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps(hidden))
        with pytest.raises(MissingError, match="mkdir") as refused:
            load_peer_tokenizer(tmp_path)
        assert refused.value.hint
        assert not (tmp_path / "ran").exists()


def test_token_bytes_that_run_code_are_refused_and_run_nothing(tokenizer, tmp_path):
    (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps(_encoding(tokenizer)))
    torch.save(_Runs(tmp_path / "ran"), tmp_path / "token_bytes.pt")
    with pytest.raises(MissingError):
        load_peer_tokenizer(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["names", "gap", "registered", "bytes", "nothing", "cut", "large"])
def test_another_vocabulary_is_refused(tokenizer, tmp_path, kind):
    path = tmp_path / "tokenizer.pkl"
    good = pickle.dumps(_encoding(tokenizer))
    if kind == "names":
        good = pickle.dumps(_encoding(tokenizer, special_tokens={"<|endoftext|>": 592}))
    elif kind == "gap":
        ranks = {token: rank + (rank > 400) for rank, token in enumerate(tokenizer.ranks)}
        good = pickle.dumps(_encoding(tokenizer, mergeable_ranks=ranks, special_tokens={"<|bos|>": 700}))
    elif kind == "registered":  # tiktoken pickles what it knows, GPT-2's and the like, as a mere name
        good = b"\x80\x02ctiktoken.core\nEncoding\n)\x81X\x04\x00\x00\x00gpt2b."
    elif kind == "bytes":
        torch.save(torch.zeros(601), tmp_path / "token_bytes.pt")
    elif kind == "nothing":
        good = pickle.dumps(3)
    elif kind == "cut":
        good = good[: len(good) // 2]
    path.write_bytes(good)
    if kind == "large":
        os.truncate(path, 65 << 20)
    with pytest.raises(MissingError) as refused:
        load_peer_tokenizer(tmp_path)
    assert refused.value.hint


def test_a_tokenizers_folder_is_not_taken_for_a_models(tokenizer, tmp_path):
    (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps(_encoding(tokenizer)))
    with pytest.raises(MissingError, match="tokenizer and no weights") as refused:
        load_nanochat_checkpoint(tmp_path)
    assert "import-tokenizer" in refused.value.hint
