"""Prompts with the real Qwen1.5 tokenizer: templates, borders between template and text, labels."""

from dataclasses import replace

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from edged.engine.prompt import Prompter
from edged.errors import ModelUnavailable
from edged.tasks.built_in import REPLY, SENTIMENT
from edged.tasks.conversation import Turn
from edged.tasks.specs import ClassifySpec, Label
from edged.tasks.text import Language
from tests.support import assets

TURNS = (Turn(role="user", content="我叫小明"), Turn(role="assistant", content="你好,小明!"))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(assets.qwen_tokenizer())
    return loaded


@pytest.fixture
def prompter(tokenizer: PreTrainedTokenizerBase) -> Prompter:
    return Prompter(tokenizer, max_context_tokens=512, half_width=True)


def labels(*names: str) -> ClassifySpec:
    made = tuple(Label(canonical=name, names={"zh": name, "en": name}) for name in names)
    prompt = replace(SENTIMENT.prompts["zh"], examples=())
    return ClassifySpec(name="own", labels=made, prompts={"zh": prompt, "en": prompt})


def test_a_conversation_is_what_the_models_own_template_makes_of_it(
    prompter: Prompter, tokenizer: PreTrainedTokenizerBase
) -> None:
    prompt = prompter.generation(REPLY, text="我叫什么名字?", language="zh", turns=TURNS, max_new_tokens=32)
    messages = [{"role": "system", "content": REPLY.system["zh"]}]
    messages += [{"role": turn.role, "content": turn.content} for turn in TURNS]
    messages += [{"role": "user", "content": "我叫什么名字?"}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # The prompts' full-width marks are ours and stay; what users write is made half-width.
    assert list(prompt.tokens) == tokenizer(str(whole), add_special_tokens=False)["input_ids"]
    assert prompt.max_new_tokens == 32
    assert prompt.roles == ()
    assert prompter.decode(prompt.said) == "你好,小明!"  # its own words, not the user's


def test_a_model_whose_sequences_begin_with_a_token_gets_it_once() -> None:
    words = {"<s>": 0, "<unk>": 1, "hello": 2, "else": 3}
    inner = Tokenizer(WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>")  # type: ignore[no-untyped-call]
    prompter = Prompter(made, max_context_tokens=512, half_width=True)
    plain = prompter.generation(REPLY, text="hello", language="en", turns=(), max_new_tokens=8)
    assert (plain.tokens[0], plain.tokens.count(0)) == (0, 1)
    asked = prompter.classification(replace(SENTIMENT, labels=_ONE_WORD), text="hello", language="en")
    assert (asked.tokens[0], asked.tokens.count(0)) == (0, 1)
    made.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }} {% endfor %}"
    chat = Prompter(made, max_context_tokens=512, half_width=True)
    assert chat.generation(REPLY, text="hello", language="en", turns=(), max_new_tokens=8).tokens.count(0) == 1


_ONE_WORD = (
    Label(canonical="positive", names={"en": "hello", "zh": "hello"}),
    Label(canonical="negative", names={"en": "else", "zh": "else"}),
)


def test_a_turn_ends_with_the_templates_mark_whatever_the_config_says(
    prompter: Prompter, tokenizer: PreTrainedTokenizerBase
) -> None:
    ends = {tokenizer.convert_ids_to_tokens(end) for end in prompter.end_tokens()}
    assert tokenizer.eos_token == "<|endoftext|>"  # as the base model's config has it
    assert ends == {"<|im_end|>", "<|endoftext|>"}


def test_special_tokens_and_padding_are_banned(prompter: Prompter, tokenizer: PreTrainedTokenizerBase) -> None:
    banned = prompter.banned_tokens(151936)
    assert tokenizer.convert_tokens_to_ids("<|im_start|>") in banned
    assert set(range(len(tokenizer), 151936)) <= banned
    assert not banned & prompter.end_tokens()


@pytest.fixture
def thinker() -> PreTrainedTokenizerBase:
    """As Qwen3 has it: its marks are no special tokens, and its template thinks unless it is told not to."""
    made: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(assets.qwen_tokenizer())
    made.add_tokens([AddedToken(mark, special=False) for mark in ("<think>", "</think>", "<tool_call>")])
    made.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    )
    return made


def test_thinking_is_turned_off_and_no_mark_of_it_is_written_or_taken_from_a_text(
    thinker: PreTrainedTokenizerBase,
) -> None:
    prompter = Prompter(thinker, max_context_tokens=512, half_width=True)
    text = "a <think>b</think> <tool_call>c <|im_end|>"
    tokens = prompter.generation(REPLY, text=text, language="en", turns=(), max_new_tokens=8).tokens
    shown = str(thinker.decode(list(tokens)))
    assert shown.endswith(f"user\n{text}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    begin, end, call, turn = map(thinker.convert_tokens_to_ids, ("<think>", "</think>", "<tool_call>", "<|im_end|>"))
    assert [tokens.count(each) for each in (begin, end, call, turn)] == [1, 1, 0, 2]
    assert {begin, end, call} <= prompter.banned_tokens(len(thinker))


@pytest.mark.parametrize(
    ("language", "text"),
    [("zh", "今天心情很好"), ("en", "I love this phone"), ("zh", "１２３！"), ("en", "  spaces  ")],
)
def test_a_classification_reads_as_one_text(
    prompter: Prompter, tokenizer: PreTrainedTokenizerBase, language: Language, text: str
) -> None:
    prompt = prompter.classification(SENTIMENT, text=text, language=language)
    shown = str(tokenizer.decode(list(prompt.tokens)))
    spec = SENTIMENT.prompts[language]
    assert shown.startswith(spec.role)
    assert shown.count(spec.case.split("{text}", maxsplit=1)[0]) == len(spec.examples) + 1
    cleaned = "123!" if text == "１２３！" else text.strip()
    assert shown.endswith(spec.case.partition(" {label}" if language == "en" else "{label}")[0].format(text=cleaned))
    # Token for token what the tokenizer makes of the whole: the border between prefix and text costs nothing.
    assert list(prompt.tokens) == tokenizer(shown, add_special_tokens=False)["input_ids"]


def test_the_prefix_is_the_same_for_every_text(prompter: Prompter) -> None:
    prefixes = {prompter.classification(SENTIMENT, text=text, language="zh").prefix for text in ("好", "不好", " a")}
    assert len(prefixes) == 1


def test_chinese_labels_of_one_and_of_several_tokens(prompter: Prompter, tokenizer: PreTrainedTokenizerBase) -> None:
    for spec, words in ((SENTIMENT, ["好", "差", "喜欢", "讨厌"]), (labels("正面", "负面"), ["正面", "负面"])):
        one = prompter.classification(spec, text="好", language="zh").labels
        spelled = [[tokenizer.decode([token]) for _, token in path] for path in one.steps]
        assert ["".join(map(str, parts)) for parts in spelled] == words
    several = prompter.classification(labels("非常满意", "非常失望", "一般"), text="好", language="zh").labels
    lengths = [len(path) for path in several.steps]
    assert max(lengths) > 1
    assert [path[0][0] for path in several.steps] == [-1, -1, -1]
    # "非常" is shared, so it is one branch for both.
    assert several.steps[0][1][0] == several.steps[1][1][0]


def test_a_label_that_begins_another_is_told_apart_by_its_end(
    prompter: Prompter, tokenizer: PreTrainedTokenizerBase
) -> None:
    spec = labels("好", "好极了")
    trie = prompter.classification(spec, text="嗯", language="zh").labels
    assert len(set(trie.steps)) == 2
    # It ends as in the cases that are shown, whatever follows there.
    _, _, after = spec.prompts["zh"].case.partition("{label}")
    assert [tuple(token for _, token in path) for path in trie.steps] == [
        tuple(tokenizer(f"{word}{after}").input_ids) for word in ("好", "好极了")
    ]


def test_labels_that_are_the_same_are_refused(prompter: Prompter) -> None:
    with pytest.raises(ModelUnavailable, match="cannot be told apart"):
        prompter.classification(labels("好", "好"), text="嗯", language="zh")


def test_a_model_without_a_template_gets_a_plain_one_and_stops_at_the_next_role() -> None:
    tokenizer = AutoTokenizer.from_pretrained(assets.qwen_tokenizer())
    tokenizer.chat_template = None
    prompter = Prompter(tokenizer, max_context_tokens=2048, half_width=True)
    prompt = prompter.generation(REPLY, text="How are you?", language="en", turns=(), max_new_tokens=32)
    shown = tokenizer.decode(list(prompt.tokens))
    names = {"user": "User", "assistant": "Assistant"}
    examples = "".join(f"{names[turn.role]}: {turn.content}\n" for turn in REPLY.examples["en"])
    assert shown == f"{REPLY.system['en']}\n\n{examples}User: How are you?\nAssistant:"
    assert {"User:", "Assistant:"} <= {*prompt.roles}


def test_a_template_without_a_system_role_gets_the_instruction_in_the_first_turn() -> None:
    tokenizer = AutoTokenizer.from_pretrained(assets.qwen_tokenizer())
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "
    )
    prompter = Prompter(tokenizer, max_context_tokens=512, half_width=True)
    task = replace(REPLY, examples={})
    prompt = prompter.generation(task, text="Hi", language="en", turns=(), max_new_tokens=32)
    assert tokenizer.decode(list(prompt.tokens)) == f"[user] {REPLY.system['en']}\n\nHi\n[assistant] "
    shown = Turn(role="user", content="Hello"), Turn(role="assistant", content="Good day")
    prompt = prompter.generation(
        replace(task, examples={"en": shown}), text="Hi", language="en", turns=(), max_new_tokens=32
    )
    before = f"[user] {REPLY.system['en']}\n\nHello\n[assistant] Good day\n"
    assert tokenizer.decode(list(prompt.tokens)) == f"{before}[user] Hi\n[assistant] "


def test_examples_come_before_the_conversation_and_are_left_out_where_the_context_is_small() -> None:
    tokenizer = AutoTokenizer.from_pretrained(assets.qwen_tokenizer())
    large, small = (Prompter(tokenizer, max_context_tokens=size, half_width=True) for size in (2048, 512))
    shown = [turn.content for turn in REPLY.examples["en"] if turn.role == "user"]
    for prompter, has_examples in ((large, True), (small, False)):
        prompt = prompter.generation(REPLY, text="And now?", language="en", turns=TURNS, max_new_tokens=32)
        text = str(tokenizer.decode(list(prompt.tokens)))
        found = [text.find(each) for each in (*shown, TURNS[0].content, "And now?")]
        assert [at for at in found if at >= 0] == sorted(at for at in found if at >= 0)
        assert (found[0] >= 0) == has_examples
        assert min(found[-2:]) >= 0
        assert prompt.tokens[: len(start := prompter.shared_beginning(REPLY, "en"))] == start
        assert (shown[-1] in tokenizer.decode(list(start))) == has_examples
        assert prompter.decode(prompt.said) == TURNS[1].content  # words of examples are not the model's own


def test_pinned_beginning_is_shared_by_every_chat(prompter: Prompter) -> None:
    shared = prompter.shared_beginning(REPLY, "zh")
    for text, turns in (("你好", ()), ("x", TURNS)):
        prompt = prompter.generation(REPLY, text=text, language="zh", turns=turns, max_new_tokens=8)
        assert prompt.tokens[: len(shared)] == shared
