"""Renders conversations as transformers does, through templates in the dialects of well-known models.

    make_templates.py OUT

For each `templates/<name>.jinja` a folder `OUT/<name>/` is written that Tunesmith can load as a base model's tokenizer and
template (`tokenizer.json`, one token per byte and the special ones; `tokenizer_config.json`; `chat_template.jinja`), and
`cases.json`: conversations with their text, token ids and, where the template has `{% generation %}`, the assistant mask;
or the message of the exception that the template raises. `crates/dataset/tests/golden/templates` is what it wrote.
"""

import datetime
import json
import sys
from pathlib import Path

import jinja2
import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

TEMPLATES = Path(__file__).parent / "templates"
# Beginning and end of a text, and the markers of the dialect.
SPECIAL = {
    "qwen2.5": ("", "<|im_end|>", ["<|im_start|>", "<tool_call>", "</tool_call>"]),
    "qwen3": ("", "<|im_end|>", ["<|im_start|>", "<think>", "</think>"]),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>"]),
    "mistral": ("<s>", "</s>", ["[INST]", "[/INST]"]),
    "mistral3": ("<s>", "</s>", ["[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
                               "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]),
    "gemma2": ("<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"]),
    "gemma3": ("<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"]),
    "phi3": ("<s>", "<|endoftext|>", ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]),
    "phi4": ("", "<|im_end|>", ["<|im_start|>", "<|im_sep|>"]),
    "chatml-marked": ("", "<|im_end|>", ["<|im_start|>"]),
}


def say(role, content, **more):
    return {"role": role, "content": content, **more}


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place, in °C <now & later>",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer", "default": 1}},
            "required": ["place"],
        },
    },
}


def call(number, place):
    arguments = {"place": place, "days": 2, "exact": False, "limit": 1.5, "of": None}
    return {"id": f"call_{number}", "type": "function", "function": {"name": "weather", "arguments": arguments}}


SYSTEM = say("system", "  Be kind.\n")
CONVERSATIONS = {
    "one turn": ([say("user", "Hello"), say("assistant", "Hi there.")], None),
    "system and two turns": (
        [SYSTEM, say("user", "Zoë asks: 1 < 2 & 'x'?"), say("assistant", " Yes — né 😀 \n"), say("user", "Bye\n"),
         say("assistant", "Ciao")],
        None,
    ),
    "three turns": (
        [say("user", "a"), say("assistant", "b"), say("user", "c"), say("assistant", "d"), say("user", "e"),
         say("assistant", "f")],
        None,
    ),
    "line breaks": ([say("user", "\n\n x \t\n"), say("assistant", "1\n\n2\n")], None),
    "markers in the text": ([say("user", "{{ bos_token }} {% raw %} <|im_end|> </s>"), say("assistant", "[/INST] ok")], None),
    "thoughts": (
        [say("user", "2+2?"), say("assistant", "<think>\nEasy.\n</think>\n\n4"), say("user", "3+3?"),
         say("assistant", "<think>\nEasy\ntoo.\n</think>\n\n6")],
        None,
    ),
    "one call": (
        [say("user", "Weather in Köln?"), say("assistant", "", tool_calls=[call(1, "Köln")]),
         say("tool", "{\"now\": 21}", tool_call_id="call_1"), say("assistant", "21 °C.")],
        [WEATHER],
    ),
    "two calls": (
        [SYSTEM, say("user", "Weather in A and B?"),
         say("assistant", "Let me look.", tool_calls=[call(1, "A"), call(2, "B\"")]),
         say("tool", "1", tool_call_id="call_1"), say("tool", "2", tool_call_id="call_2"), say("assistant", "1 and 2.")],
        [WEATHER, {**WEATHER, "strict": True}],
    ),
    # Mistral's templates take ids of nine letters only.
    "calls with short ids": (
        [say("user", "Weather in A and B?"), say("assistant", "", tool_calls=[call("abcd", "A"), call("efgh", "B")]),
         say("tool", "[1]", tool_call_id="call_abcd"), say("tool", "[2]", tool_call_id="call_efgh"),
         say("assistant", "1 and 2."), say("user", "And now?"),
         say("assistant", "", tool_calls=[{**call("ijkl", ""), "function": {"name": "weather", "arguments": {}}}]),
         say("tool", "0", tool_call_id="call_ijkl"), say("assistant", "None.")],
        [WEATHER],
    ),
    "two users in a row": ([say("user", "a"), say("user", "b"), say("assistant", "c")], None),
    "assistant first": ([say("assistant", "a"), say("user", "b"), say("assistant", "c")], None),
}


class FixedDate(datetime.datetime):
    """`strftime_now` is fixed in Tunesmith: what is trained and served must not depend on the day."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    bos, eos, markers = SPECIAL[name]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([text for text in [bos, eos, *markers] if text])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos or None, eos_token=eos)
    made.chat_template = (TEMPLATES / f"{name}.jinja").read_text().removesuffix("\n")
    return made


def render(made, messages, tools, prompt: bool) -> dict:
    common = dict(tools=tools, add_generation_prompt=prompt)
    try:
        text = made.apply_chat_template(messages, tokenize=False, **common)
    except jinja2.TemplateError as error:
        return {"refused": str(error)}
    masked = "{% generation %}" in made.chat_template or "{%- generation" in made.chat_template
    encoded = made.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=masked, **common)
    case = {"text": text, "ids": list(encoded["input_ids"])}
    if masked:
        case["assistant_mask"] = list(encoded["assistant_masks"])
    return case


def main(out: Path) -> None:
    chat_template_utils.datetime = FixedDate
    for name in SPECIAL:
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        made = tokenizer(name)
        made.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        bos, eos, _ = SPECIAL[name]
        config = {"bos_token": bos or None, "eos_token": eos}
        (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n")
        (folder / "chat_template.jinja").write_text(made.chat_template)
        cases = []
        for title, (messages, tools) in CONVERSATIONS.items():
            for prompt in (False, True):
                asked = messages[:-1] if prompt else messages
                case = {"name": title, "messages": asked, "tools": tools, "add_generation_prompt": prompt}
                cases.append({**case, **render(made, asked, tools, prompt)})
        lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
        (folder / "cases.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
