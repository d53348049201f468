"""Chat templates render as transformers renders them, and say what is wrong with them."""

from __future__ import annotations

import pytest

from llmtune.models.template import CHATML, CLOSE, OPEN, Template, TemplateFault, plain

TURNS = [
    {"role": "system", "content": "You are the clerk."},
    {"role": "user", "content": "  Open <b>today</b>?  "},
    {"role": "assistant", "content": "Until six.\n"},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES = {
    "chatml": CHATML,
    "plain": plain(True),
    "blocks": "{%- for m in messages %}\n  {%- if not loop.first %}\n\n  {% endif %}\n[{{ m.role }}] {{ m.content }}\n"
    "{%- endfor %}\n\n{% if add_generation_prompt %}[assistant]{% endif %}\n",
    "tojson": "{{ bos_token }}{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}",
    "loops": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content | trim }}"
    "{{ eos_token }}{% break %}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "crlf": "{{ messages[0].content }}\r\n{{ eos_token }}\r\n",
    "macro": "{% macro say(m) %}<{{ m.role }}>{{ m.content }}{% endmacro %}"
    "{% for m in messages %}{{ say(m) }}{% endfor %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("answer_next", [False, True])
def test_text_is_what_transformers_renders(name: str, answer_next: bool) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    source = TEMPLATES[name]
    ((theirs,), _) = render_jinja_template([TURNS], chat_template=source, add_generation_prompt=answer_next, **TOKENS)
    assert Template(source, TOKENS).render(TURNS, answer_next) == theirs


def test_marks_bracket_the_generated_text_and_nothing_else_changes() -> None:
    template = Template(CHATML, TOKENS)
    marked = template.render_marked(TURNS)
    assert marked.replace(OPEN, "").replace(CLOSE, "") == template.render(TURNS)
    assert marked.partition(OPEN)[2].partition(CLOSE)[0] == "Until six.\n<|im_end|>"


def test_marks_are_right_inside_a_macro_too() -> None:
    source = (
        "{% macro say(m) %}[{{ m.role }}]{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}"
        "{% for m in messages %}{{ say(m) }}{% endfor %}"
    )
    marked = Template(source, {}).render_marked([{"role": "assistant", "content": "Yes."}])
    assert marked == f"[assistant]{OPEN}Yes.{CLOSE}"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("{{ messages[9].content }}", "no element 9"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{% for t in tools %}{% endfor %}", "not iterable"),
    ],
)
def test_what_a_template_raises_is_said(source: str, says: str) -> None:
    with pytest.raises(TemplateFault, match=says):
        Template(source, {}).render(TURNS)


def test_bad_jinja_names_the_line() -> None:
    with pytest.raises(TemplateFault, match="line 2"):
        Template("{{ messages }}\n{% if %}", {})


def test_template_code_cannot_reach_python() -> None:
    with pytest.raises(TemplateFault):
        Template("{{ messages.__class__.__mro__[1].__subclasses__() }}", {}).render(TURNS)
