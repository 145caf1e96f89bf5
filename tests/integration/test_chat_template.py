"""Templates are rendered, and texts tokenized, without transformers as with it."""

from typing import Any

import pytest
from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from edged.engine import chat_template
from edged.engine.bundle_making import tokenizer_config, tokenizer_json
from edged.engine.tokenizer import BundleTokenizer
from tests.integration.test_tokens import CHATML, KINDS, LLAMA2
from tests.support import assets

SYSTEM = {"role": "system", "content": "Be <brief> & kind."}
USER = {"role": "user", "content": " Hi 'you', \"今天\" \n {{ x }} "}
ASSISTANT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello!"}
TALKS = ([USER], [SYSTEM, USER], [SYSTEM, USER, ASSISTANT, USER], [USER, USER], [SYSTEM])
TEMPLATES = {
    "chatml": CHATML,
    "llama 2": LLAMA2,
    "white space": "{%- for m in messages %}\n  {% if loop.first %}\n  first\n  {%- endif %}\n"
    "\t{{ m.content | trim }}\n{% endfor %}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}\n"
    "{% endgeneration %}{%- else -%}{{ m.content }}{% endif %}{% endfor %}",
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}"
    "{{ {'b': 1, 'a': '<é>'} | tojson(sort_keys=true) }}",
    "loops": "{% for m in messages %}{% if loop.index0 == 2 %}{% break %}{% endif %}"
    "{% continue %}{% endfor %}{{ eos_token }}",
    "namespace": "{% set n = namespace(last='', count=0) %}{% for m in messages %}{% set n.last = m.role %}"
    "{% set n.count = n.count + 1 %}{% endfor %}{{ n.last }}{{ n.count }}{{ dict(a=1) }}{{ dict.fromkeys('ab', 2) }}",
    "other loops": "{% for a, b in {'x': 1, 'y': 2}.items() %}{{ a }}{{ b }}{{ loop.last }}{% else %}none{% endfor %}"
    "{% for m in messages if m.role == 'user' %}{{ loop.revindex }}{{ loop.nextitem }}{% else %}none{% endfor %}"
    "{% for a in [[1, [2]], [3]] recursive %}{{ a if a is number else loop(a) }}{% endfor %}"
    "{% for a in nothing %}{% else %}empty{% endfor %}{% for c in 'ab' %}{{ loop.cycle(1, 2) }}{{ c }}{% endfor %}",
    "loops over nothing that can be looped over": "{% for a in 7 %}{% endfor %}",
    "thinking": "{% for m in messages %}{{ m.content.split('</think>')[-1].lstrip('\n') }}{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>{% endif %}"
    "{{ strftime_now('%Y') }}",
    "names": "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token is defined }}{{ tools is none }}"
    "{{ documents is none }}{{ add_generation_prompt }}",
    "alternates": "{% for m in messages %}{% if m.role == 'user' and loop.previtem and loop.previtem.role == 'user' %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}",
    "asks for the name": "{{ add_generation_prompt is defined }}",
    "reaches out": "{{ messages.__class__.__mro__ }}{{ ''.__class__ }}",
    "hides a name": "{% set n = namespace() %}{% set n._x = 1 %}",
    "changes": "{{ messages.append(1) }}",
    "undefined": "{{ messages[0].nothing.more }}",
}


def ours_of(tokenizer: Any) -> BundleTokenizer:
    """A tokenizer of transformers as a bundle has it."""
    return BundleTokenizer(Tokenizer.from_str(tokenizer_json(tokenizer)), tokenizer_config(tokenizer))


@pytest.fixture(scope="module")
def plain() -> PreTrainedTokenizerFast:
    inner = Tokenizer(WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    make: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = make(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return made


def rendered(tokenizer: Any, talk: list[dict[str, str]], **options: Any) -> str:
    """What a template gives; "refused" where it refuses."""
    try:
        return str(tokenizer.apply_chat_template(talk, tokenize=False, **options))
    except Exception:  # noqa: BLE001 - a template raises whatever it likes
        return "refused"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_rendered_as_transformers_renders_it(plain: PreTrainedTokenizerFast, name: str) -> None:
    plain.chat_template = TEMPLATES[name]
    ours = ours_of(plain)
    for talk in TALKS:
        for options in ({"add_generation_prompt": True, "enable_thinking": False}, {}):
            assert rendered(ours, talk, **options) == rendered(plain, talk, **options)


def test_a_template_reaches_nothing_outside(plain: PreTrainedTokenizerFast) -> None:
    for name in ("reaches out", "hides a name", "changes"):
        plain.chat_template = TEMPLATES[name]
        assert rendered(ours_of(plain), [USER]) in {"refused", ""}, name


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro twice(n) %}{% if n %}{{ twice(n - 1) }}{{ twice(n - 1) }}{% endif %}{% endmacro %}{{ twice(60) }}",
        "{% for a in [40] recursive %}{% if a %}{{ loop([a - 1, a - 1]) }}{% endif %}{% endfor %}",
    ],
)
def test_a_template_that_would_loop_for_ever_is_stopped(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "_MOST_STEPS", 10_000)
    compiled = chat_template.ChatTemplate(template, {})
    with pytest.raises(TemplateError, match="does not end within 10000 steps"):
        compiled.render([USER])


def test_each_rendering_has_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "_MOST_STEPS", 3)
    compiled = chat_template.ChatTemplate("{% for m in messages %}{{ loop.length }}{{ m.content }}{% endfor %}", {})
    for _ in range(3):
        assert compiled.render([USER] * 3) == 3 * f"3{USER['content']}"
    with pytest.raises(TemplateError):
        compiled.render([USER] * 4)


TEXTS = (
    "",
    "I love this phone",
    "今天心情很好",
    " two  spaces ",
    "<|im_end|>a</s><unk>",
    "it's , a test .",
    "\u2603 🦖\n\n",
)


@pytest.mark.parametrize("kind", [*KINDS, "qwen"])
def test_texts_are_tokenized_as_transformers_tokenizes_them(kind: str) -> None:
    theirs: Any = AutoTokenizer.from_pretrained(assets.qwen_tokenizer()) if kind == "qwen" else KINDS[kind](CHATML)
    ours = ours_of(theirs)
    for text in TEXTS:
        for special in (False, True):
            for plain in (False, True):
                options = {"add_special_tokens": special, "split_special_tokens": plain, "return_offsets_mapping": True}
                encoded = theirs(text, **options)
                assert dict(ours(text, **options)) == {key: encoded[key] for key in ("input_ids", "offset_mapping")}
        tokens = theirs(text)["input_ids"]
        for skip in (False, True):
            assert ours.decode(tokens, skip_special_tokens=skip) == theirs.decode(tokens, skip_special_tokens=skip)
    for name in ("eos_token_id", "bos_token_id", "unk_token_id", "unk_token", "all_special_ids"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert len(ours) == len(theirs)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.added_tokens_decoder.keys() == theirs.added_tokens_decoder.keys()
    assert ours.convert_tokens_to_ids("no such token") == theirs.convert_tokens_to_ids("no such token")
