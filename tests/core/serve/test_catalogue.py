"""Which models a store offers, and the numbers that belong to exactly these weights."""

import shutil

import pytest

from nanochat_core.base.errors import MissingError
from nanochat_core.serve.catalogue import look_up
from nanochat_core.store.store import Store


def cards(store, *names):
    return {one.card.id: one.card for one in look_up(store, names)}


def test_without_names_the_newest_chat_model_and_its_base_are_served(store):
    assert list(cards(store)) == ["tiny-chat", "tiny-base"]


def test_a_version_is_a_model_of_its_own_and_has_the_same_numbers(store):
    [plain] = cards(store, "tiny-base").values()
    [exact] = cards(store, plain.ref).values()
    assert exact.id == exact.ref == plain.ref
    assert exact.core == plain.core == 0.125
    assert list(cards(store, "tiny-base", "tiny-base", plain.ref)) == ["tiny-base", plain.ref]


def test_numbers_of_other_weights_are_not_shown(store):
    assert cards(store, "scripted-chat")["scripted-chat"].bits_per_byte is None
    assert cards(store, "tiny-chat")["tiny-chat"].core is None


def test_an_unknown_name_says_which_there_are(store):
    with pytest.raises(MissingError, match="no ref nobody") as raised:
        cards(store, "nobody")
    assert "tiny-chat" in raised.value.hint


def test_a_name_that_has_moved_on_does_not_rename_an_older_base(model_home, tmp_path):
    shutil.copytree(model_home / "store", tmp_path / "store")
    store = Store.open(str(tmp_path / "store"), cache_folder=tmp_path / "cache")
    base = cards(store)["tiny-base"]
    store.set_ref("tiny-base", "later", store.ref("scripted-chat"))
    assert list(cards(store)) == ["tiny-chat", base.ref]
