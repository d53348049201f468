"""Chat templates: Jinja compiled once, in the same sandbox and with the same extras that transformers gives them.

transformers' own renderer is not used because importing it costs more than rendering ten thousand rows, and because its
record of `{% generation %}` blocks counts characters wrongly inside macros. Here a block is bracketed by two characters
that no text may hold, and taken out again. `tests/models/test_template.py` compares every text with transformers'.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import jinja2

OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Noncharacters of Unicode, free for internal use: they bracket what a `{% generation %}` block wrote."""
LEFT, RIGHT = "\ufdd2", "\ufdd3"
"""The same, around the words of a message, to find them again in the rendered text."""
MARKS = (OPEN, CLOSE, LEFT, RIGHT)

MORE_TEMPLATES = "additional_chat_templates"
"""transformers' folder for templates by other names than `default`, each `NAME.jinja`."""
TOOL_USE = "tool_use"
"""The template by which transformers and servers write conversations that declare functions, where there is one."""

Tools = Sequence[Mapping[str, Any]]
"""Functions that may be called, as JSON Schema in the form that servers take."""
Turn = Mapping[str, Any]
"""`role` and `content` and, where there are any, `tool_calls`, as templates read them."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""For a base that has the ChatML tokens and no template."""

PLAIN = (
    "{% if BEGIN %}{{ bos_token }}{% endif %}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] | trim + '\\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] | trim + '\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Assistant:' }}"
    "{% generation %}{{ ' ' + message['content'] | trim + eos_token }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ raise_exception('the plain template has no ' + message['role'] + ' role') }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""For a base that knows no chat tokens at all. The answer opens with a space, which every tokenizer joins to the next
word and never to the colon before it, so that prompt and answer share no token."""


class TemplateFault(Exception):
    """The template cannot be compiled, or refuses these messages; the text says why."""


class Template:
    """A compiled chat template with the special tokens that it may name."""

    def __init__(self, source: str, tokens: Mapping[str, str], tools: Tools | None = None) -> None:
        """`tokens` are the variables `bos_token`, `eos_token` and so on; `tools` the functions that are declared where
        a rendering names none, for a template of such rows alone. Raises TemplateFault for bad Jinja."""
        import jinja2

        self.source = source
        self.tokens = dict(tokens)
        self._tools = tools
        environment = _environment()
        try:
            self._compiled = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateFault(f"line {error.lineno}: {error.message}") from error
        # Jinja copies its globals at every rendering, and keeps them in a chain of maps that is slow to copy.
        self._compiled.globals = dict(self._compiled.globals)
        self._marker: Any = environment.extensions[_MARKER]

    def render(self, turns: Sequence[Turn], answer_next: bool = False, tools: Tools | None = None) -> str:
        """The text of the turns, and after it what asks for an answer when `answer_next`. Raises TemplateFault."""
        import jinja2

        try:
            return self._compiled.render(
                messages=turns,
                tools=tools or self._tools,
                documents=None,
                add_generation_prompt=answer_next,
                **self.tokens,
            )
        except jinja2.TemplateError as error:
            raise TemplateFault(str(error.message)) from error
        # What Jinja code of strangers raises when it does what Python forbids: indexing None, adding text to a number.
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            raise TemplateFault(f"{type(error).__name__}: {error}") from error

    def render_marked(self, turns: Sequence[Turn]) -> str:
        """The same text, with OPEN and CLOSE around what each `{% generation %}` block wrote."""
        self._marker.marking = True
        try:
            return self.render(turns)
        finally:
            self._marker.marking = False

    def with_tokens(self, tokens: Mapping[str, str]) -> Template:
        """The same compiled template with other special tokens."""
        other = copy(self)
        other.tokens = dict(tokens)
        return other

    @property
    def has_generation_blocks(self) -> bool:
        return bool(self._marker.blocks)

    @property
    def writes_the_date(self) -> bool:
        return "strftime_now" in self.source


_MARKER = "llmtune.models.template.GenerationBlocks"


def _environment() -> jinja2.Environment:
    """transformers' environment (utils/chat_template_utils.py of 5.23) with `generation` blocks marked in the text."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationBlocks(Extension):
        tags = {"generation"}  # noqa: RUF012 - Jinja's own way to name tags
        identifier = _MARKER

        def __init__(self, environment: jinja2.Environment) -> None:
            super().__init__(environment)
            self.marking = False
            self.blocks = 0

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            self.blocks += 1
            return nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

        def _written(self, caller: Any) -> str:
            text: str = caller()
            return f"{OPEN}{text}{CLOSE}" if self.marking else text

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    def tojson(value: object, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        # Jinja's own filter escapes HTML characters.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlocks, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return environment


def plain(begins_with_bos: bool, border: str | None = None) -> str:
    """The plain template; with the begin-of-sequence token in front when the tokenizer itself would write one.

    `border` names a special token variable to put between `Assistant:` and the answer, instead of a space, for
    tokenizers whose tokens reach over spaces.
    """
    source = PLAIN.replace("{% if BEGIN %}{{ bos_token }}{% endif %}", "{{ bos_token }}" if begins_with_bos else "")
    if border is None:
        return source
    return source.replace("{{ 'Assistant:' }}", f"{{{{ 'Assistant:' + {border} }}}}").replace(
        "' ' + message", "message"
    )
