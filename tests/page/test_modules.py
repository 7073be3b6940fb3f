"""The page's modules by themselves, in the browser: streams cut anywhere, hostile text and files, the comparison."""

import json
import re
from typing import Any

import pytest
from page.chat_page import Chat

pytestmark = pytest.mark.slow

# every ending of a line, a comment, other fields, several data lines, and characters of two, three and four bytes
STREAM = (
    ": ping\n\n"
    'data: {"choices":[{"delta":{"content":"é"}}]}\n\n'
    'event: message\r\nid: 7\r\ndata: {"choices":\r\ndata: [{"delta":{"content":"中"}}]}\r\n\r\n'
    'data:{"choices":[{"delta":{"content":"🙂\\n"}}]}\r\r'
    "retry\n\n"
    "data: [DONE]\n\n"
    'data: {"after": "the end"}\n\n'
)
READ_PIECES = """async ({ stream }, pieces) => {
  const body = new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(new Uint8Array(piece));
      controller.close();
    },
  });
  const texts = [];
  for await (const chunk of stream.chunks(body)) texts.push(chunk.choices[0].delta.content);
  return texts;
}"""
READ_EVERY_CUT = f"""async (modules, bytes) => {{
  const read = {READ_PIECES};
  const cuts = [bytes.map((byte) => [byte])];
  for (let cut = 0; cut <= bytes.length; cut += 1) cuts.push([bytes.slice(0, cut), bytes.slice(cut)]);
  return Promise.all(cuts.map((pieces) => read(modules, pieces)));
}}"""
MARKED_UP = """({ markdown }, text) => {
  const holder = document.createElement("div");
  holder.append(markdown.renderMarkdown(text));
  const shape = (node) => node.nodeType === 3 ? node.data : [node.localName, ...[...node.childNodes].map(shape)];
  return [...holder.childNodes].map(shape);
}"""
HOSTILE = [
    "<script>globalThis.hacked = 1</script>",
    "<img src=x onerror='globalThis.hacked = 1'>",
    "[click](javascript:globalThis.hacked=1)",
    "[click](JaVaScRiPt&colon;alert(1))",
    "[click](data:text/html,<script>globalThis.hacked=1</script>)",
    "[click](\x01javascript:globalThis.hacked=1)",
    "[click](//evil.example/x)",
    "[<img src=x onerror=globalThis.hacked=1>](https://example.org)",
    'https://example.org/"onmouseover=globalThis.hacked=1//',
    "```<img src=x onerror=globalThis.hacked=1>\n</code><script>globalThis.hacked=1</script>",
    "`</code><svg onload=globalThis.hacked=1>`",
    "<a href='javascript:globalThis.hacked=1'>x</a> <iframe src='javascript:globalThis.hacked=1'></iframe>",
    "&lt;script&gt;globalThis.hacked=1&lt;/script&gt;",
    "> - 1. > # <style>*{display:none}</style>",
]
ALLOWED = set(
    re.findall(r"\w+", "div p h4 h5 h6 ul ol li blockquote hr pre code em strong del a br button svg path span")
)


def conversation(**changes: Any) -> dict[str, Any]:
    """One exchange, as it is kept."""
    nodes = [
        {"role": "user", "parent": None, "chosen": 1, "text": "hello"},
        {
            "role": "assistant", "parent": 0, "chosen": None,
            "answers": [{"model": "m", "parts": [{"type": "text", "text": "hi"}], "status": "done"}],
        },
    ]  # fmt: skip
    return {"id": "one", "title": "t", "createdAt": 1, "updatedAt": 2, "chosen": 0, "nodes": nodes, **changes}


@pytest.fixture(scope="module")
def module_page(browser: Any, url: str) -> Any:
    """One page for the whole file: these tests leave nothing behind."""
    return Chat(browser.new_page()).open(url)


def test_a_stream_cut_at_every_byte_gives_the_same_chunks(module_page: Chat) -> None:
    results = module_page.call(READ_EVERY_CUT, list(STREAM.encode()))
    assert len(results) == len(STREAM.encode()) + 2
    assert all(result == ["é", "中", "🙂\n"] for result in results)


def test_a_stream_that_is_no_json_is_an_error_and_not_a_gap(module_page: Chat) -> None:
    code = f"async (modules, pieces) => {{ try {{ return await ({READ_PIECES})(modules, pieces); }}"
    code += " catch (error) { return [error.constructor.name, error.message]; } }"
    kind, message = module_page.call(code, [list(b"data: {broken\n\n")])
    assert kind == "StreamError"
    assert "{broken" in message


def test_events_without_their_blank_line_are_not_taken_for_whole(module_page: Chat) -> None:
    assert module_page.call(READ_PIECES, [list(b'data: {"choices":[{"delta":{"content":"half"}}]}\n')]) == []


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_becomes_text_and_safe_links_only(module_page: Chat, text: str) -> None:
    code = """({ markdown }, text) => {
      const holder = document.createElement("div");
      document.body.append(holder);
      const view = new markdown.MarkdownView();
      holder.append(view.node);
      for (let end = 0; end <= text.length; end += 1) view.update(text.slice(0, end));
      const nodes = [...view.node.querySelectorAll("*")];
      const found = {
        tags: nodes.map((node) => node.localName),
        links: nodes.filter((node) => node.localName === "a").map((node) => [node.protocol, node.rel]),
        handlers: nodes.flatMap((node) => node.getAttributeNames()).filter((name) => /^on|style/.test(name)),
      };
      holder.remove();
      return found;
    }"""
    found = module_page.call(code, text)
    assert set(found["tags"]) <= ALLOWED
    assert found["handlers"] == []
    assert all(protocol == "https:" and "noopener" in rel for protocol, rel in found["links"])
    assert module_page.page.evaluate("globalThis.hacked") is None


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("**b** *c* _d_ `e*f*`", [["p", ["strong", "b"], " ", ["em", "c"], " ", ["em", "d"], " ", ["code", "e*f*"]]]),
        ("one\ntwo\n\nthree", [["p", "one", ["br"], "two"], ["p", "three"]]),
        ("- a\n- b\n  - c\n", [["ul", ["li", "a"], ["li", "b", ["ul", ["li", "c"]]]]]),
        ("3. a\n4. b", [["ol", ["li", "a"], ["li", "b"]]]),
        ("#### 42", [["p", "Answer ", ["strong", "42"]]]),
        ("##### deep\n# top", [["h4", "deep"], ["h4", "top"]]),
        ("> a\n> b\n\n---", [["blockquote", ["p", "a", ["br"], "b"]], ["hr"]]),
        ("**open", [["p", "**", "open"]]),
        ("`open", [["p", "`", "open"]]),
        (r"\*no\*", [["p", "*", "no", "*"]]),
    ],
)  # fmt: skip
def test_markdown_has_the_shape_that_people_expect(module_page: Chat, text: str, shape: list[Any]) -> None:
    assert module_page.call(MARKED_UP, text) == shape


def test_sums_and_python_names_are_not_taken_for_emphasis(module_page: Chat) -> None:
    text = "2 * 3 * 4 = 2*3*4, snake_case_name, __init__"
    ((tag, *pieces),) = module_page.call(MARKED_UP, text)
    assert (tag, "".join(pieces)) == ("p", text)


def test_text_that_grows_is_drawn_as_if_it_had_come_at_once(module_page: Chat) -> None:
    text = "# A\n\n1. one\n   - *two*\n\n```py\nx = `1`\n```\n> q\n\nend **b** `c` https://example.org."
    code = """({ markdown }, text) => {
      const view = new markdown.MarkdownView();
      for (let end = 0; end <= text.length; end += 1) view.update(text.slice(0, end));
      const whole = document.createElement("div");
      whole.append(markdown.renderMarkdown(text));
      return [...view.node.childNodes].every((node, at) => node.isEqualNode(whole.childNodes[at]))
        && view.node.childNodes.length === whole.childNodes.length;
    }"""
    assert module_page.call(code, text) is True


@pytest.mark.parametrize(
    "piece", ["[", "*", "`", "_a", "> ", "- ", "[a](", "https://", "``` ", "# ", "\\", "(((", "**a "]
)
def test_no_text_makes_the_page_hang(module_page: Chat, piece: str) -> None:
    code = """({ markdown }, text) => {
      const start = performance.now();
      markdown.renderMarkdown(text);
      return performance.now() - start;
    }"""
    assert module_page.call(code, piece * 5000) < 3000
    assert module_page.call(code, (piece + "\n") * 1500) < 3000


def test_a_conversation_that_is_kept_is_read_back_as_it_was(module_page: Chat) -> None:
    code = "({ record }, text) => record.conversationsFromFile(record.fileFrom(record.conversationsFromFile(text)))"
    file = {"format": "nanochat-conversations", "version": 1, "conversations": [conversation()]}
    (read,) = module_page.call(code, json.dumps(file))
    assert read["nodes"][1]["answers"][0]["parts"] == [{"type": "text", "text": "hi"}]
    assert (read["id"], read["chosen"], read["nodes"][0]["chosen"]) == ("one", 0, 1)


def _changed(place: int, **changes: Any) -> dict[str, Any]:
    bad = conversation()
    bad["nodes"][place].update(changes)
    return bad


@pytest.mark.parametrize(
    "bad",
    [
        None, 7, [], {}, conversation(nodes="x"), conversation(id=7), conversation(chosen=1),
        conversation(chosen="__proto__"), conversation(updatedAt="now"), _changed(0, role="system"),
        _changed(0, text={"a": 1}), _changed(0, parent=0),
        _changed(1, parent=5), _changed(1, parent=-1), _changed(1, answers=[]), _changed(1, chosen=0),
        _changed(1, answers=[{"model": "m", "parts": [{"type": "html", "text": "x"}]}]),
        _changed(1, answers=[{"model": "m", "parts": [{"type": "text", "text": 7}]}]),
        _changed(1, answers=[{"model": "m", "parts": [], "sampling": {"temperature": 1e9}}]),
        _changed(0, text="x" * 400_001),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_it_should_be_is_refused_in_words(module_page: Chat, bad: Any) -> None:
    code = """({ record }, text) => {
      try { record.conversationsFromFile(text); return "taken"; }
      catch (error) { return error instanceof record.RecordError ? error.message : `${error.constructor.name}!`; }
    }"""
    file = {"format": "nanochat-conversations", "version": 1, "conversations": [bad]}
    said = module_page.call(code, json.dumps(file))
    assert said != "taken"
    assert not said.endswith("!")


def test_fields_that_nobody_knows_are_left_behind(module_page: Chat) -> None:
    text = json.dumps(conversation(html="<b>")).replace('"title"', '"__proto__": {"hacked": 1}, "title"')
    code = "({ record }, text) => [Object.keys(record.conversationFrom(JSON.parse(text))), ({}).hacked ?? null]"
    keys, hacked = module_page.call(code, text)
    assert sorted(keys) == ["chosen", "createdAt", "id", "nodes", "title", "updatedAt"]
    assert hacked is None


@pytest.mark.parametrize(
    ("left", "right", "shared"),
    [
        ("a b c", "a b c", ([1, 1, 1], [1, 1, 1])),
        ("a b c", "a x c", ([1, 0, 1], [1, 0, 1])),
        ("a b", "x a b y", ([1, 1], [0, 1, 1, 0])),
        ("a a a", "a", ([1, 0, 0], [1])),
        ("a b c d", "c d a b", ([0, 0, 1, 1], [1, 1, 0, 0])),
        ("a", "b", ([0], [0])),
    ],
)
def test_words_that_both_said_are_the_longest_common_ones(
    module_page: Chat, left: str, right: str, shared: tuple[list[int], list[int]]
) -> None:
    code = "({ compare }, left, right) => compare.sharedWords(left, right)"
    found = module_page.call(code, left.split(), right.split())
    assert [sum(found["left"]), sum(found["right"])] == [sum(shared[0]), sum(shared[1])]
    if "c d a b" not in right:  # two subsequences of equal length there
        assert (found["left"], found["right"]) == tuple([bool(flag) for flag in flags] for flags in shared)


def test_sentences_are_announced_whole_and_once(module_page: Chat) -> None:
    code = """({ announce }, text) => {
      const region = document.createElement("div");
      const announcer = new announce.Announcer(region);
      const seen = [];
      for (const char of text) {
        announcer.hear("m", char);
        seen.push([...region.children].map((line) => line.textContent));
      }
      announcer.end("m");
      return { seen, last: [...region.children].map((line) => line.textContent) };
    }"""
    heard = module_page.call(code, "It is 3.5 now. Is it? Yes\nand so on")
    assert heard["last"] == ["It is 3.5 now.", "Is it?", "Yes", "and so on"]
    assert all(line in heard["last"] for lines in heard["seen"] for line in lines)


def test_tool_calls_are_told_to_the_model_as_it_saw_them_in_training(module_page: Chat) -> None:
    parts = [("text", "so "), ("python", "1/0"), ("python_error", "1/0"), ("python", "7*8"), ("python_output", "56")]
    given = [{"type": kind, "text": text} for kind, text in parts]
    told = module_page.call("({ tree }, parts) => tree.contentFrom(parts)", given)
    assert told == [part for part in given if part["type"] != "python_error"]
    groups = module_page.call("({ tool_card }, parts) => tool_card.groupParts(parts)", given)
    assert [group.get("expression") for group in groups] == [None, "1/0", "7*8"]
    assert [group.get("isError") for group in groups] == [None, True, False]


def test_a_link_that_is_damaged_is_refused_in_words(module_page: Chat) -> None:
    code = """({ link, record }, fragment) => {
      try { return link.fromFragment(fragment)?.prompt ?? null; }
      catch (error) { return error instanceof record.RecordError ? "refused" : String(error); }
    }"""
    assert module_page.call(code, "#prompt") is None
    assert module_page.call(code, "#reproduce?prompt=hi&seed=3") == "hi"
    for bad in ("seed=x", "temperature=9", "top_k=1.5", "before=%7B", "before=[7]", 'before=[{"text":1}]'):
        assert module_page.call(code, f"#reproduce?{bad}&prompt=hi") == "refused", bad
