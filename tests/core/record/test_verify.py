"""A bundle with one altered field is refused and the field is named, also where the digests were made to fit again."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from core.record.spoil import edit_json, edit_line, reseal_bundle, reseal_manifest, setting

from nanochat_core.base.errors import MissingError
from nanochat_core.record.verify import verify

LOG = "pretrain/log/metrics.jsonl"
OUTCOMES = "evaluate_core/outcomes.jsonl"
CORE = "evaluate_core/core.json"


@pytest.fixture
def bundle(sound_bundle: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(sound_bundle, tmp_path / "bundle"))


@pytest.fixture
def run(bundle: Path) -> Path:
    """The folder of its first run."""
    return sorted((bundle / "evidence").iterdir())[0]


def messages(bundle: Path) -> list[str]:
    return [str(problem) for problem in verify(bundle).problems]


def assert_named(bundle: Path, file: str, *parts: str) -> None:
    """Refused, with one problem that names the file and holds all parts."""
    found = messages(bundle)
    assert found, "it was not refused"
    assert any(line.split(": ")[0].endswith(file) and all(part in line for part in parts) for line in found), found


def test_a_sound_bundle_passes_and_says_what_it_does_not_show(bundle: Path) -> None:
    verdict = verify(bundle)
    assert verdict.problems == ()
    assert verdict.claims is not None
    assert verdict.claims["seeds"] == [42, 43]
    assert verdict.claims["core_is_whole"] is False
    assert verdict.claims["significance"]["core_above_gpt2"] is None  # forty items each are no CORE
    assert any("weights are not in the bundle" in note for note in verdict.notes)


ONE_FIELD = [  # (file, edit, what the refusal holds)
    ("record.json", setting("claims/clock_s", 12.0), "claims.clock_s is 12.0, the step log gives 3.0"),
    ("record.json", setting("claims/runs/0/clock_s", 1.0), "claims.runs[0].clock_s"),
    ("record.json", setting("claims/runs/1/git_commit", "beef"), "claims.runs[1].git_commit"),
    ("record.json", setting("claims/core", 0.9), "claims.core"),
    ("record.json", setting("claims/core_standard_error", 1e-9), "claims.core_standard_error"),
    ("record.json", setting("claims/significance/core_above_gpt2", {"p_value": 1e-6}), "core_above_gpt2"),
    ("record.json", setting("claims/core_is_whole", True), "claims.core_is_whole"),
    ("record.json", setting("claims/seeds", [1, 2]), "claims.seeds[0] is 1, the evidence gives 42"),
    ("record.json", setting("claims/config/pretrain/depth", 3), "claims.config.pretrain.depth is 3"),
    ("record.json", setting("claims/runs/0/packages/torch", "2.12.0"), "claims.runs[0].packages.torch"),
    ("record.json", setting("claims/runs/0/tokens", 99), "claims.runs[0].tokens"),
    ("record.json", setting("claims/flops", 1), "claims.flops is 1, the plan and the step log gives"),
    ("record.json", setting("claims/runs/0/usd", 7.0), "claims.runs[0].usd is 7.0"),
    ("record.json", setting("claims/reaches_gpt2", True), "claims.reaches_gpt2"),
    ("record.json", setting("claims/extra", 1), "claims.extra is 1, the evidence gives"),
    ("record.json", setting("extra", 1), "extra is unknown"),
    ("record.json", setting("target_bits_per_byte", 9.0), "bits_per_byte_below_target.threshold"),
    ("record.json", setting("format", 2), "format is 2"),
    ("{run}/run.json", setting("record/config/pretrain/matrix_lr", 0.5), "field matrix_lr: is not what was bundled"),
    ("{run}/run.json", setting("record/seconds", 1.0), "seconds"),
    ("{run}/run.json", setting("record/steps/3/metrics/bits_per_byte", 0.5), "record.steps[3].metrics.bits_per_byte"),
    ("{run}/run.json", setting("record/steps/3/fingerprint", "ab" * 32), "record.steps[3].fingerprint"),
    ("{run}/plan.json", setting("pretrain/num_steps", 29), "pretrain.num_steps is 29, the configuration gives 30"),
    ("{run}/plan.json", setting("pretrain/model/n_embd", 65), "pretrain.model.n_embd"),
    ("{run}/manifests/pretrain.json", setting("config/seed", 7), "config.seed is 7"),
    ("{run}/manifests/pretrain.json", setting("metrics/train_s", 1.0), "metrics.train_s is 1.0, the step log gives"),
    ("{run}/manifests/pretrain.json", setting("provenance/cpu", "abacus"), "field cpu:"),
    ("{run}/manifests/pretrain.json", setting("provenance/seconds", 9.0), "provenance.seconds is 9.0"),
    ("{run}/manifests/pretrain.json", setting("inputs/tokens", "ab" * 32), "inputs.tokens is abab"),
    ("{run}/manifests/pretrain.json", setting("files/model.safetensors/sha256", "ab" * 32), "digest"),
    ("{run}/manifests/tokens.json", setting("packages/torch", "9.9"), "fingerprint is"),
    ("{run}/manifests/tokens.json", setting("surplus", 1), "surplus is unknown"),
    ("{run}/evaluate_base/bpb.json", setting("bits_per_byte", 1.0), "bits_per_byte is 1.0, the last validation"),
    ("{run}/evaluate_base/bpb.json", setting("nats_per_token", 1.0), "nats_per_token is 1.0"),
    ("{run}/evaluate_base/bpb.json", setting("num_bytes", lambda n: n - 1), "field num_bytes:"),
    ("{run}/evaluate_base/bpb.json", setting("num_tokens", 10**6), "num_tokens is 1000000"),
    ("{run}/evaluate_base/bpb.json", setting("note", "x"), "note is unknown"),
    ("{run}/evaluate_core/core.json", setting("core", 0.5), "core is 0.5, the items give"),
    ("{run}/evaluate_core/core.json", setting("benchmarks/piqa/accuracy", 0.99), "benchmarks.piqa.accuracy is 0.99"),
    ("{run}/evaluate_core/core.json", setting("benchmarks/boolq/baseline_percent", 50), "boolq.baseline_percent is 50"),
    ("{run}/evaluate_core/core.json", setting("benchmarks/squad/num_fewshot", 0), "squad.num_fewshot is 0"),
    ("{run}/evaluate_core/core.json", setting("num_items", 5), "num_items is 5"),
    ("{run}/evaluate_core/core.json", setting("interval_95", [0, 1]), "interval_95[0] is 0"),
    ("{run}/evaluate_core/core.json", setting("benchmarks/coqa/interval_95/0", 0.0), "coqa.interval_95"),
    ("{run}/evaluate_core/core.json", setting("missing", ["coqa"]), "missing is"),
    ("{run}/evaluate_core/core.json", setting("bundle_digest", "cd"), "bundle_digest is"),
    ("{run}/evaluate_core/core.json", setting("max_per_benchmark", None), "max_per_benchmark is null"),
    ("{run}/manifests/evaluate_core.json", setting("metrics/core", 0.5), "metrics.core is 0.5"),
    ("{run}/evaluate_core/core.json", setting("is_complete", lambda value: not value), "is_complete"),
    ("lines.json", setting("format", 2), "has sha256"),
]


@pytest.mark.parametrize(("file", "edit", "said"), ONE_FIELD, ids=[f"{file}-{said}" for file, _, said in ONE_FIELD])
def test_one_altered_field_is_refused_by_name(file: str, edit, said: str, bundle: Path, run: Path) -> None:
    name = file.replace("{run}", f"evidence/{run.name}")
    edit_json(bundle / name, edit)
    assert_named(bundle, name, said)


LOG_FIELDS = [  # (line, edit, field that the refusal names)
    (6, setting("step_ms", lambda ms: ms / 2), "step_ms"),
    (6, setting("train_s", lambda s: s + 1), "step_ms"),
    (6, setting("tokens", 1), "tokens"),
    (6, setting("tokens_per_s", 1e9), "tokens_per_s"),
    (6, setting("loss", lambda loss: loss - 1), "smooth_loss"),
    (6, setting("smooth_loss", 1.0), "smooth_loss"),
    (6, setting("lr_multiplier", 0.5), "lr_multiplier"),
    (6, setting("step", 6), "step"),
    (6, setting("event", "end"), "loss"),
    (6, setting("event", "stp"), "event"),
    (6, setting("memory_gib", -1.0), "memory_gib"),
    (6, setting("loss", "low"), "loss"),
    (6, setting("grad_norm", 1.0), "grad_norm"),
    (1, setting("num_steps", 31), "num_steps"),
    (1, setting("world_size", 0), "world_size"),
    (14, setting("step", 13), "step"),
    (14, setting("bits_per_byte", 0.0), "bits_per_byte"),
    (14, setting("train_s", 0.0), "train_s"),
    (35, setting("name", "step-1"), "name"),
    (36, setting("train_s", 1.0), "train_s"),
]


@pytest.mark.parametrize(("line", "edit", "field"), LOG_FIELDS, ids=[f"{n}-{f}" for n, _, f in LOG_FIELDS])
@pytest.mark.parametrize("reseals", [False, True], ids=["as is", "resealed"])
def test_an_altered_step_log_is_refused_by_line_and_field(
    line: int, edit, field: str, reseals: bool, bundle: Path, run: Path
) -> None:
    edit_line(run / LOG, line, edit)
    if reseals:  # all digests fit again: only what contradicts itself is left
        reseal_manifest(run, "pretrain")
        reseal_bundle(bundle)
    assert_named(bundle, LOG, f"line {line}", f"field {field}:")


@pytest.mark.parametrize("field", ["time_s", "memory_gib"])
def test_what_follows_from_nothing_is_held_by_the_digest_of_its_line(field: str, bundle: Path, run: Path) -> None:
    edit_line(run / LOG, 6, setting(field, lambda value: value * 1.01))
    assert_named(bundle, LOG, "line 6 is not what was bundled")


@pytest.mark.parametrize("reseals", [False, True], ids=["as is", "resealed"])
def test_a_step_left_out_and_a_step_taken_twice_are_named(reseals: bool, bundle: Path, run: Path) -> None:
    lines = (run / LOG).read_text().splitlines()
    for changed, number, said in (
        ([*lines[:5], *lines[6:]], 6, "follows step 4"),
        ([*lines[:6], lines[5], *lines[6:]], 7, "is there already"),
    ):
        (run / LOG).write_text("\n".join(changed) + "\n")
        if reseals:
            reseal_manifest(run, "pretrain")
            reseal_bundle(bundle)
        assert_named(bundle, LOG, f"line {number}", "field step:", said)


def test_a_validation_left_out_is_named(bundle: Path, run: Path) -> None:
    lines = (run / LOG).read_text().splitlines()
    kept = [line for line in lines if '"validate"' not in line or '"step": 12' not in line]
    assert len(kept) == len(lines) - 1
    (run / LOG).write_text("\n".join(kept) + "\n")
    assert_named(bundle, LOG, "the validation of step 12 is missing")


@pytest.mark.parametrize("reseals", [False, True], ids=["as is", "resealed"])
def test_one_flipped_item_of_core_is_named(reseals: bool, bundle: Path, run: Path) -> None:
    edit_line(run / OUTCOMES, 3, setting("is_right", lambda value: not value))
    edit_line(run / OUTCOMES, 43, setting("is_right", lambda value: not value))  # jeopardy, where no losses tell
    if reseals:
        reseal_manifest(run, "evaluate_core")
        reseal_bundle(bundle)
        assert_named(bundle, "core.json", "benchmarks.jeopardy.accuracy", "the items give")
    else:
        assert_named(bundle, OUTCOMES, "line 43 is not what was bundled")
    assert_named(bundle, OUTCOMES, "line 3 field is_right:", "was chosen")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("chosen", lambda chosen: 1 - chosen, "the lowest loss is that of"),
        ("losses", [9.0, 0.1, 0.2], "field chosen:"),
        ("gold", 7, "of 2 choices"),
        ("gold", None, "field"),
        ("index", 10_042, "has 10,042 items"),
        ("index", -1, "is not what it can be"),
        ("benchmark", "jeopardy", "does not fit language_modeling"),
        ("is_right", 1, "is not what it can be"),
        ("confidence", 0.9, "is unknown"),
    ],
)
def test_an_altered_item_is_named_also_where_the_digests_fit(
    field: str, value, said: str, bundle: Path, run: Path
) -> None:
    lines = [json.loads(line) for line in (run / OUTCOMES).read_text().splitlines()]
    wrong = next(number for number, item in enumerate(lines, start=1) if item["gold"] == 1 and not item["is_right"])
    edit_line(run / OUTCOMES, wrong, setting(field, value))
    reseal_manifest(run, "evaluate_core")
    reseal_bundle(bundle)
    assert_named(bundle, OUTCOMES, f"line {wrong}", said)


def test_an_item_added_twice_is_named(bundle: Path, run: Path) -> None:
    lines = (run / OUTCOMES).read_text().splitlines()
    (run / OUTCOMES).write_text("\n".join([*lines, lines[0]]) + "\n")
    reseal_manifest(run, "evaluate_core")
    reseal_bundle(bundle)
    assert_named(bundle, OUTCOMES, f"line {len(lines) + 1}", "index")


def test_a_better_clock_with_every_digest_made_to_fit_is_refused_by_the_claim(bundle: Path) -> None:
    edit_json(bundle / "record.json", setting("claims/clock_s", 1.5))
    reseal_bundle(bundle)
    assert messages(bundle) == ["record.json: claims.clock_s is 1.5, the step log gives 3.0"] or any(
        "claims.clock_s is 1.5, the step log gives" in line for line in messages(bundle)
    )
    assert len(messages(bundle)) == 1


def test_a_description_that_was_changed_breaks_the_seal_and_nothing_else(bundle: Path) -> None:
    edit_json(bundle / "record.json", setting("description", "a world record"))
    [only] = messages(bundle)
    assert only.startswith("record.json: seal was altered")
    assert "description" in only


@pytest.mark.parametrize(
    "name", ["run.json", "plan.json", "manifests/tokens.json", LOG, OUTCOMES, "evaluate_base/bpb.json"]
)
@pytest.mark.parametrize("reseals", [False, True], ids=["as is", "resealed"])
def test_a_missing_file_is_named(name: str, reseals: bool, bundle: Path, run: Path) -> None:
    (run / name).unlink()
    if reseals:
        reseal_bundle(bundle)
    assert_named(bundle, name, "is missing")


def test_a_file_that_does_not_belong_is_named(bundle: Path, run: Path) -> None:
    (run / "notes.txt").write_text("trust me")
    assert_named(bundle, "notes.txt", "is not listed")
    reseal_bundle(bundle)
    assert_named(bundle, "notes.txt", "is named by no manifest")
    (run / "notes.txt").rename(bundle / "notes.txt")
    reseal_bundle(bundle)
    assert_named(bundle, "notes.txt", "is no part of a bundle")


@pytest.mark.parametrize(
    "name",
    [
        "record.json",
        "lines.json",
        *(f"evidence/RUN/{name}" for name in (LOG, OUTCOMES, "manifests/pretrain.json", CORE)),
    ],
)
def test_a_file_cut_short_is_named(name: str, bundle: Path, run: Path) -> None:
    path = bundle / name.replace("RUN", run.name)
    path.write_bytes(path.read_bytes()[:-40])
    assert_named(bundle, path.name)


def test_a_field_that_is_there_twice_or_no_number_is_refused(bundle: Path, run: Path) -> None:
    path = run / "evaluate_base/bpb.json"
    text = path.read_text()
    for change in (text.replace("{", '{"num_bytes": 1,', 1), text.replace('"num_bytes": ', '"num_bytes": NaN, "x": ')):
        path.write_text(change)
        assert_named(bundle, "bpb.json", "is not JSON as we write it")


def test_runs_of_other_code_or_with_the_same_seed_are_not_one_record(bundle: Path, run: Path) -> None:
    path = run / "manifests/pretrain.json"
    edit_json(path, setting("code", {"nanochat_core.train.loop": "cd" * 32}))
    assert_named(bundle, "record.json", "code.nanochat_core.train.loop", run.name)


def test_a_zip_is_checked_like_a_folder(bundle: Path, tmp_path: Path) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", bundle))
    assert verify(packed).problems == ()
    edit_json(bundle / "record.json", setting("claims/clock_s", 12.0))
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", bundle))
    assert any("claims.clock_s is 12.0" in line for line in messages(packed))


def test_a_zip_cut_short_or_with_names_that_lead_outside_is_not_read(bundle: Path, tmp_path: Path) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", bundle))
    packed.write_bytes(packed.read_bytes()[:-100])
    assert messages(packed) == ["packed.zip: is no zip file, or only a part of one"]
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as evil:
        evil.writestr("record.json", "{}")
        evil.writestr("../outside", "x")
    assert_named(tmp_path / "evil.zip", "evil.zip", "'../outside' is no plain file")


def test_a_link_in_a_bundle_is_not_followed(bundle: Path) -> None:
    (bundle / "evidence/link").symlink_to("/etc/passwd")
    assert_named(bundle, "bundle", "'evidence/link', which is no plain file")


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        verify(tmp_path / "absent")
    assert messages(tmp_path) == ["record.json: is missing: this is no bundle"]


def test_a_record_of_nonsense_is_refused_without_a_traceback(bundle: Path, run: Path) -> None:
    for content in (b"[]", b"{}", b"null", b'{"claims": 1, "files": []}', b"\xff\xfe"):
        (bundle / "record.json").write_bytes(content)
        assert_named(bundle, "record.json")
    for name in ("run.json", "manifests/pretrain.json", LOG, "evaluate_core/core.json", OUTCOMES, "plan.json"):
        for content in (b"[]", b"{}", b"null", b"7", b""):
            (run / name).write_bytes(content)
            assert_named(bundle, name)


def test_verifying_loads_neither_torch_nor_prefect(bundle: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from nanochat_core.record.verify import verify\n"
        f"assert verify(Path({str(bundle)!r})).is_sound\n"
        "assert 'torch' not in sys.modules and 'prefect' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[3])


def test_the_json_of_a_bundle_is_for_people_too(bundle: Path) -> None:
    record = json.loads((bundle / "record.json").read_text())
    assert set(record) == {"format", "rules", "description", "target_bits_per_byte", "claims", "files", "seal"}
