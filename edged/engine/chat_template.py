"""A model's chat template, rendered as transformers renders it, without transformers. The only module with jinja2.

A template is code of strangers: it runs in jinja's sandbox, where it can read and change nothing outside, and does a
bounded number of steps: one that would loop for ever is refused.
Source: transformers, `utils/chat_template_utils.py`, `_compile_jinja_template`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn, cast

import jinja2
import jinja2.ext
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.nodes import CallBlock, Filter, For, Node, Template
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context

_MOST_STEPS = 1_000_000  # turns of loops, and calls, in one rendering: about a second
_COUNTED = "edged_counted"  # the filter through which every loop goes


class ChatTemplate:
    """One template, compiled once."""

    def __init__(self, template: str, special: Mapping[str, str]) -> None:
        """Compile a template.

        Args:
            template: Jinja.
            special: the named special tokens, which a template may write.

        Raises:
            jinja2.TemplateError: it is no template.
        """
        self._environment = _environment()
        self._compiled = self._environment.from_string(template)
        self._special = dict(special)

    def render(
        self, conversation: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = False, **options: Any
    ) -> str:
        """Render a conversation of `{"role": …, "content": …}`.

        Args:
            conversation: in order.
            add_generation_prompt: whether the assistant's turn is begun.
            options: further names that the template may know, as `enable_thinking`.

        Raises:
            Exception: whatever the template raises, also that it does too many steps.
        """
        self._environment.steps = 0
        names = {key: value for key, value in options.items() if key != "tokenize"}
        return self._compiled.render(
            **{**self._special, **names},
            messages=[dict(turn) for turn in conversation],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
        )


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with a bound on the steps of one rendering.

    Attributes:
        steps: done so far in this rendering.
    """

    steps = 0

    def count(self) -> None:
        """Do one more step.

        Raises:
            TemplateError: it is one too many.
        """
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise TemplateError(f"it does not end within {_MOST_STEPS} steps")

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call something for a template: every call of a template comes here, also those of macros and of `loop`."""
        self.count()
        return super().call(context, obj, *args, **kwargs)

    def _generate(self, source: Template, *args: Any, **kwargs: Any) -> str:
        """Make Python of a parsed template: jinja's own hook for changing the template before that."""
        for each in source.find_all(For):
            each.iter = Filter(each.iter, _COUNTED, [], [], None, None, lineno=each.lineno)
        return super()._generate(source, *args, **kwargs)


@pass_context  # else jinja would call it while it compiles
def _counted(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    count = cast("_Sandbox", context.environment).count

    def counted() -> Iterator[Any]:
        for each in it:
            count()
            yield each

    it = iter(items)  # here, not in the generator: what cannot be looped over is refused before the loop begins
    return counted()


class _Generation(jinja2.ext.Extension):
    """The tag `generation`, with which templates mark the assistant's words. The mark is left out, the words stay."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own form

    def parse(self, parser: Parser) -> Node | list[Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_words"), [], [], body).set_lineno(line)

    def _words(self, caller: Any) -> str:
        return str(caller())


class _Dict:
    """The function `dict`: of the type itself a template could reach more."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _Namespace(Namespace):
    """The function `namespace`, without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        itself, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(itself, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template may not store {name!r} in a namespace")


def _environment() -> _Sandbox:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.filters[_COUNTED] = _counted
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": _strftime_now,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is; jinja's own filter escapes what HTML has."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005 - local time, as transformers has it
