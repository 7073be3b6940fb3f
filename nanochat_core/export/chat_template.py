"""The conversation's rendering as a Jinja template, for tokenizers of transformers.

It writes what tokenizer/conversation.py renders: a system message in front of the first user message, tool calls and
their results between their markers. A template yields text that is tokenized afterwards, so text which spells a special
token would become one; ours encodes such text as plain text. A template cannot, so it refuses it.
"""

from nanochat_core.tokenizer import tokenizer as tk
from nanochat_core.tokenizer.conversation import PART_TOKENS

_PART = "{{- markers[part.type][0] + checked(part.text) + markers[part.type][1] -}}"
_TEMPLATE = """
{%- set specials = SPECIALS -%}
{%- set markers = MARKERS -%}
{%- macro checked(text) -%}
    {%- if text is not string -%}{{- raise_exception('a message has no text') -}}{%- endif -%}
    {%- for special in specials -%}
        {%- if special in text -%}{{- raise_exception('a message spells the special token ' + special) -}}{%- endif -%}
    {%- endfor -%}
    {{- text -}}
{%- endmacro -%}
{%- set system = '' -%}
{%- set turns = messages -%}
{%- if messages and messages[0].role == 'system' -%}
    {%- set system = checked(messages[0].content) + '\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- endif -%}
{%- if not turns -%}{{- raise_exception('a conversation without messages') -}}{%- endif -%}
{{- BOS -}}
{%- for message in turns -%}
    {%- set role = 'assistant' if loop.index0 % 2 else 'user' -%}
    {%- if message.role != role -%}
        {{- raise_exception('user and assistant alternate, the user first') -}}
    {%- endif -%}
    {%- if role == 'user' -%}
        {{- USER_START + (system if loop.first else '') + checked(message.content) + USER_END -}}
    {%- else -%}
        {{- ASSISTANT_START -}}
        {%- if message.content is string -%}
            {{- checked(message.content) -}}
        {%- else -%}
            {%- for part in message.content -%}
                {%- if part.type not in markers -%}{{- raise_exception('a part of an unknown type') -}}{%- endif -%}
                PART
            {%- endfor -%}
        {%- endif -%}
        {{- ASSISTANT_END -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- ASSISTANT_START -}}{%- endif -%}
"""


def chat_template() -> str:
    """The template's text, with the special tokens written in."""
    markers = {"text": ("", ""), **PART_TOKENS}
    values = {
        "SPECIALS": repr(list(tk.SPECIAL_TOKENS)),
        "MARKERS": "{" + ", ".join(f"{kind!r}: {list(pair)!r}" for kind, pair in markers.items()) + "}",
        "PART": _PART,
        "USER_START": repr(tk.USER_START),
        "USER_END": repr(tk.USER_END),
        "ASSISTANT_START": repr(tk.ASSISTANT_START),
        "ASSISTANT_END": repr(tk.ASSISTANT_END),
        "BOS": repr(tk.BOS),
    }
    text = _TEMPLATE
    for name, value in values.items():
        text = text.replace(name, value)
    return text.strip()
