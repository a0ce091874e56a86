"""Writes expected.json: what Jinja, set up as in Hugging Face's Transformers, makes of the templates. Needs jinja2 from PyPI."""

import json
from datetime import date
from pathlib import Path

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = Path(__file__).parent


def raise_exception(message):
    raise TemplateError(message)


def messages(*turns):
    return [{"role": role, "content": content} for role, content in turns]


SYSTEM = ("system", "Be brief. ")
TALK = [("user", "Hi!"), ("assistant", "<think>\nA greeting.\n</think>\n\n Hello. "), ("user", " Why is the sky\nblue? 🌈")]
CONVERSATIONS = {
    "question": (messages(TALK[0]), True),
    "talk": (messages(*TALK), True),
    "system": (messages(SYSTEM, *TALK), True),
    "answered": (messages(*TALK[:2]), False),
    "answer first": (messages(TALK[1]), True),
}

environment = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = date(2024, 7, 26).strftime
expected = []
for path in sorted(HERE.glob("*.jinja")):
    template = environment.from_string(path.read_text())
    for name, (conversation, prompt) in CONVERSATIONS.items():
        case = {"template": path.name, "case": name, "messages": conversation, "add_generation_prompt": prompt}
        try:
            case["text"] = template.render(
                messages=conversation, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>", tools=None,
                documents=None)
        except TemplateError as error:
            case["refusal"] = str(error)
        expected.append(case)
(HERE / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1) + "\n")
