"""The chat page as a person uses it, and the models that the tests serve to it.

`Chat` wraps a browser's page. The models are made here, untrained: one calls the calculator whatever it is asked, two
write what their random weights make them write, and one never ends, so that there is time to stop it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from model_server import byte_tokenizer, calculator_script, random_model, scripted_model, serve_here

from nanochat_core.inference.engine import Engine
from nanochat_core.model.gpt import GPT
from nanochat_core.serve.catalogue import ModelCard
from nanochat_core.serve.limits import Limits
from nanochat_core.serve.pool import ModelPool, ServedModel
from nanochat_core.tokenizer import tokenizer as tk

ENDLESS = "streaming "  # what the endless model says until its context is full
WAIT_S = 30.0
SECRET = "a token of the tests"


def served(name: str, model: GPT, *, load: Callable[[], None] = lambda: None, **figures: Any) -> ServedModel:
    """A model as the server holds it; `load` runs before it is ready."""
    card = ModelCard(
        id=name,
        ref=f"{name}@0123456789ab",
        kind=figures.pop("kind", "chat"),
        context_tokens=model.config.sequence_len,
        num_parameters=1_234_567,
        made_at="2026-01-01T00:00:00+00:00",
        **figures,
    )

    def engine() -> Engine:
        load()
        return Engine(model, byte_tokenizer())

    return ServedModel(card, engine)


def endless_model() -> ServedModel:
    """Says ENDLESS again and again, so that there is time to stop it."""
    codes = ENDLESS.encode()
    script = dict(zip(codes, codes[1:] + codes[:1], strict=True))
    script[byte_tokenizer().special(tk.ASSISTANT_START)] = codes[0]
    return served("endless", scripted_model(script, context_tokens=16_384))


def make_pool(limits: Limits | None = None) -> ModelPool:
    """One that calls the calculator, two of random weights, and one that never ends."""
    calling = scripted_model(calculator_script(byte_tokenizer()))
    models = [
        served("scripted", calling, bits_per_byte=1.234, core=0.125),
        served("random-a", random_model(1), bits_per_byte=3.5),
        served("random-b", random_model(2), kind="base"),
        endless_model(),
    ]
    return ModelPool(models, limits=limits)


@contextmanager
def serving(models: ModelPool, *, token: str | None = None, is_awaited: bool = True) -> Iterator[str]:
    """Another server, for what one server cannot show."""
    with serve_here(models, token=token) as address:
        if is_awaited:
            models.wait(60)
        yield address


class Chat:
    """The page as a person uses it."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def open(self, address: str) -> "Chat":
        self.page.goto(address)
        self.wait_for_models()
        return self

    def wait_for_models(self) -> None:
        self.page.wait_for_selector("#model option", state="attached")

    def until(self, condition: str) -> None:
        """Wait for JavaScript to be true. Asked from here: the page's policy forbids the eval of wait_for_function."""
        deadline = time.monotonic() + WAIT_S
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, condition
            time.sleep(0.02)

    def choose(self, model: str, *, compare_with: str | None = None) -> None:
        self.page.select_option("#model", model)
        if (compare_with is not None) != (self.page.get_attribute("#compare", "aria-pressed") == "true"):
            self.page.click("#compare")
        if compare_with is not None:
            self.page.select_option("#model-b", compare_with)

    def set(self, **settings: object) -> None:
        """Fill in settings and close them."""
        self.page.click("#open-settings")
        for name, value in settings.items():
            self.page.fill(f"[name={name}]", str(value))
        self.page.keyboard.press("Escape")

    def send(self, text: str) -> None:
        self.page.fill("#prompt", text)
        self.page.press("#prompt", "Enter")

    def ask(self, text: str) -> str:
        """Send, and wait for the whole answer; gives its text."""
        self.send(text)
        self.wait_until_done()
        return self.answers()[-1]

    def wait_until_done(self) -> None:
        self.page.wait_for_selector("#send[aria-label=Send]")
        self.page.wait_for_selector(".answer[aria-busy=false]")
        self.page.wait_for_selector(".answer[aria-busy=true]", state="detached")

    def answers(self) -> list[str]:
        return self.page.locator(".answer-body").all_inner_texts()

    def questions(self) -> list[str]:
        return self.page.locator(".bubble").all_inner_texts()

    def call(self, code: str, *arguments: object) -> Any:
        """Run `async (modules, ...arguments) => ...` in the page; modules by their file's name."""
        return self.page.evaluate(
            """async (given) => {
              const names = ["stream", "markdown", "record", "tree", "compare", "link", "announce", "tool_card"];
              const loaded = await Promise.all(names.map((name) => import(`/static/${name}.js`)));
              const modules = Object.fromEntries(names.map((name, at) => [name, loaded[at]]));
              return (CODE)(modules, ...given);
            }""".replace("CODE", code),
            list(arguments),
        )
