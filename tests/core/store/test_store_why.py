"""`why` names what differs, and compares with the artifact that is nearest."""

from types import SimpleNamespace

from nanochat_core.store.why import explain, nearest

IDENTITY = {
    "step": "pretrain",
    "config": {"depth": 4, "model": {"head_dim": 64}, "device": None},
    "inputs": {"tokens": "a" * 64},
    "code": {"nanochat_core.train.loop": "1" * 64, "nanochat_core.old": "2" * 64},
    "packages": {"torch": "2.11.0"},
}


def earlier(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(**{**IDENTITY, **changes})


def test_equal_identities_have_no_differences():
    assert explain(IDENTITY, earlier()) == []


def test_each_kind_of_difference_is_named_old_to_new():
    before = earlier(
        config={"depth": 6, "model": {"head_dim": 64}, "gone": "x"},
        inputs={"tokens": "b" * 64},
        code={"nanochat_core.train.loop": "9" * 64, "nanochat_core.removed": "3" * 64},
        packages={"torch": "2.10.0"},
    )
    assert explain(IDENTITY, before) == [
        "config depth: 6 -> 4",
        "config device: absent -> null",
        'config gone: "x" -> absent',
        "input tokens: bbbbbbbbbbbb -> aaaaaaaaaaaa",
        "code nanochat_core.old is new",
        "code nanochat_core.removed is gone",
        "code nanochat_core.train.loop changed",
        "package torch: 2.10.0 -> 2.11.0",
    ]


def test_nested_settings_are_named_by_their_path():
    assert explain(IDENTITY, earlier(config={**IDENTITY["config"], "model": {"head_dim": 128}})) == [
        "config model.head_dim: 128 -> 64"
    ]


def test_nearest_has_the_fewest_differences_and_of_equals_the_first():
    far = earlier(config={}, packages={})
    near, also_near = earlier(packages={"torch": "1"}), earlier(packages={"torch": "2"})
    assert nearest(IDENTITY, [far, near, also_near]) is near
    assert nearest(IDENTITY, []) is None


def test_what_was_made_from_another_kind_of_source_explains_nothing():
    wanted = {**IDENTITY, "config": {"source": "hub", "dataset": "a/b"}}
    other, none_in_common = earlier(config={"source": "embedded", "max_bytes": None}), earlier(config={"files": []})
    same = earlier(config={"source": "hub", "dataset": "c/d"})
    assert nearest(wanted, [other, none_in_common]) is None
    assert nearest(wanted, [other, same]) is same
    assert nearest({**IDENTITY, "config": {}}, [earlier(config={})]) is not None


def test_a_long_list_is_shown_where_it_differs():
    files = [[f"/data/{number:04d}.parquet", 5, 7] for number in range(1000)]
    [line] = explain({**IDENTITY, "config": {"files": files}}, earlier(config={"files": [*files[:900], *files[901:]]}))
    assert "0901.parquet" in line
    assert "0900.parquet" in line
    assert len(line) < 500
