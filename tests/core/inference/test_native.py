"""The compiled step: its products, what it does without a compiler, and how often it compiles."""

import logging
import os
import subprocess
import sys

import pytest
import torch
from core.inference.test_decoder import ids_of, make_model

from nanochat_core.inference import native, threads
from nanochat_core.inference.decoder import Decoder
from nanochat_core.inference.native import BlockedMatrix, library
from nanochat_core.inference.packed import decode_weights

needs_compiler = pytest.mark.skipif(library() is None, reason="no C compiler")


@pytest.fixture
def compile_anew(monkeypatch, tmp_path):
    """`library` as a process has it that finds nothing in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.cache_clear()
    yield library
    library.cache_clear()


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (15, 24), (64, 33), (90, 64), (265, 128)])
def test_products_of_any_shape_equal_exact_ones(outputs, inputs, dtype):
    weight, x = numbers(outputs, inputs).to(dtype), numbers(11, inputs, seed=1)
    for rows in range(1, 12):
        found = BlockedMatrix(weight, dtype)(x[:rows])
        expected = x[:rows].double() @ weight.double().T
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_rows_product_is_the_same_bit_for_bit_beside_any_others_and_on_any_threads(dtype, monkeypatch):
    matrix, x = BlockedMatrix(numbers(265, 96), dtype), numbers(9, 96, seed=1)
    together = matrix(x)
    for row in range(9):
        assert torch.equal(matrix(x[row : row + 1])[0], together[row])
    monkeypatch.setattr(threads, "BYTES", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert threads.threads_for(1) == 3
    assert torch.equal(matrix(x), together)


@needs_compiler
@pytest.mark.parametrize("flags", [native.FLAGS, tuple(flag for flag in native.FLAGS if "march" not in flag)])
def test_every_half_is_read_as_the_number_that_it_is(compile_anew, monkeypatch, flags):
    """Denormals, both zeros, infinities and NaN too, and on processors without an instruction for it."""
    monkeypatch.setattr(native, "FLAGS", flags)
    halves = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16)
    assert compile_anew() is not None
    found = BlockedMatrix(halves.unsqueeze(1), torch.float16)(torch.ones(1, 1))[0]
    torch.testing.assert_close(found, halves.float(), atol=0, rtol=0, equal_nan=True)


@needs_compiler
def test_what_is_no_number_stays_none_and_in_its_row():
    model = make_model()
    with torch.no_grad():
        model.embed.weight[7] = torch.nan
    decoder = Decoder(model, num_rows=2, max_len=8)
    logits = decoder.step([7, 8])
    assert decoder.is_compiled
    assert logits[0].isnan().all()
    assert logits[1].isfinite().all()


@needs_compiler
def test_logits_reach_the_cap_and_not_beyond():
    model = make_model()
    with torch.no_grad():
        model.head.weight.mul_(1e4)
    logits = Decoder(model, num_rows=1, max_len=8).step([3])
    torch.testing.assert_close(logits.abs().max(), torch.tensor(model.config.softcap))
    assert logits.abs().max() <= model.config.softcap


@needs_compiler
def test_it_is_compiled_once_and_then_read(compile_anew, monkeypatch, tmp_path):
    calls = []
    run = native.subprocess.run
    monkeypatch.setattr(native.subprocess, "run", lambda *args, **kwargs: calls.append(args) or run(*args, **kwargs))
    assert compile_anew() is not None
    compile_anew.cache_clear()
    assert compile_anew() is not None
    assert len(calls) == 1
    assert [path.suffix for path in (tmp_path / "nanochat").iterdir()] == [".so"]


def test_without_a_compiler_the_same_answers_come_by_operations(compile_anew, monkeypatch, caplog):
    monkeypatch.setenv("CC", "/no/such/compiler")
    model, ids = make_model(), ids_of(20, seed=3)
    with caplog.at_level(logging.INFO, logger=native.log.name):
        decoder = Decoder(model, num_rows=1, max_len=40)
    assert not decoder.is_compiled
    assert "decoding without compiled steps" in caplog.text
    decoder.prefill(0, ids)
    with torch.no_grad():
        expected = model(torch.tensor([[*ids, 5]]))[0, -1]
    torch.testing.assert_close(decoder.step([5])[0], expected, atol=1e-5, rtol=0)
    assert decode_weights(model, "fp16").kind != "plain"


@needs_compiler
def test_a_compiler_may_be_named_with_its_options(compile_anew, monkeypatch):
    monkeypatch.setenv("CC", "cc -O1 -DNAMED")
    assert compile_anew() is not None


@needs_compiler
def test_a_compiler_that_fails_is_as_none(compile_anew, monkeypatch):
    monkeypatch.setenv("CC", "false")
    assert compile_anew() is None


def test_a_small_models_prompt_takes_one_thread_and_gives_the_others_back(monkeypatch):
    model, seen = make_model(), []
    decoder = Decoder(model, num_rows=1, max_len=200)
    hidden = decoder._hidden
    monkeypatch.setattr(decoder, "_hidden", lambda *given: seen.append(torch.get_num_threads()) or hidden(*given))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        decoder.prefill(0, ids_of(50, seed=1))
        monkeypatch.setattr(threads, "FLOPS", 1e3)
        decoder.prefill(0, ids_of(50, seed=1))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 3]


@needs_compiler
def test_a_library_that_was_damaged_is_compiled_again(tmp_path):
    load = "from nanochat_core.inference.native import library; assert library() is not None"

    def in_a_process() -> int:  # of its own: a process finds by name what it has loaded before
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
        subprocess.run([sys.executable, "-c", load], env=environment, check=True)
        [made] = (tmp_path / "nanochat").glob("*.so")
        size = made.stat().st_size
        made.write_bytes(b"not a library")
        return size

    assert in_a_process() == in_a_process()


@needs_compiler
def test_what_others_may_have_written_is_not_run(compile_anew, tmp_path, caplog):
    (tmp_path / "nanochat").mkdir(mode=0o777)
    (tmp_path / "nanochat").chmod(0o777)
    with caplog.at_level(logging.INFO):
        assert compile_anew() is None
    assert "others may write" in caplog.text
