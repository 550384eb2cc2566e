"""Chat templates in their cage: what they may do, every attack refused by name, and a worker that comes back."""

import datetime
import os
import subprocess
import sys

import pytest

from dpojax.errors import TemplateError
from dpojax.interop import template as template_module
from dpojax.interop.template import TemplateRenderer

CHAT = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "<é> & 'x'"}]
PLAIN = """
{%- for m in messages %}
  {%- if m.role == "bad" %}{{ raise_exception("role " ~ m.role ~ " at " ~ loop.index0) }}{% endif %}
<{{ m.role }}>{{ m.content | trim }}{{ eos_token }}
{% endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""


def render(template: str, messages=CHAT, *, seconds=1.0, megabytes=256, **options) -> str:
  with TemplateRenderer(template, special_tokens={"eos_token": "</s>"}, seconds=seconds, megabytes=megabytes) as r:
    return r.render(messages, add_generation_prompt=options.get("prompt", False))


def test_plain():
  assert render(PLAIN) == "<user>hi</s>\n<assistant><é> & 'x'</s>\n"
  assert render(PLAIN, prompt=True).endswith("</s>\n<assistant>")


@pytest.mark.slow
@pytest.mark.parametrize(
  ("template", "text"),
  [
    ("{{ messages | tojson }}", '[{"role": "user", "content": " hi "}, {"role": "assistant", "content": "<é> & \'x\'"}]'),
    ("{{ messages[0] | tojson(indent=1) }}", '{\n "role": "user",\n "content": " hi "\n}'),
    ("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% elif i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}", "023"),
    ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", " hi !"),
    ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
    ("  {% if true %}\nx\n  {% endif %}\n", "x\n"),
    ("{{ bos_token }}{{ nothing }}|", "|"),
    ("{% if tools is none and documents is none %}none{% endif %}", "none"),
  ],
)  # fmt: skip
def test_what_templates_use(template, text):
  assert render(template) == text


def test_the_clock_can_be_stopped():
  now = datetime.datetime(2024, 7, 26, 12, tzinfo=datetime.UTC)
  with TemplateRenderer("{{ strftime_now('%d %b %Y') }}", special_tokens={}, now=now) as renderer:
    assert renderer.render([], add_generation_prompt=False) == "26 Jul 2024"
  assert render("{{ strftime_now('%Y') }}") >= "2026"


FORBIDDEN = {
  "{{ messages.__class__.__base__.__subclasses__() }}": "attribute '__class__' of 'list' object is unsafe",
  "{{ ''.__class__.__mro__[1] }}": "attribute '__class__' of 'str' object is unsafe",
  "{{ cycler.__init__.__globals__.os.system('true') }}": "attribute '__init__' of 'type' object is unsafe",
  "{{ raise_exception.__globals__['json'] }}": "attribute '__globals__' of 'function' object is unsafe",
  "{{ '{0.__class__.__mro__}'.format(messages) }}": "attribute '__class__' of 'list' object is unsafe",
  "{{ (messages | attr('__class__')).x }}": "attribute '__class__' of 'list' object is unsafe",
  "{{ messages.append(1) }}": "attribute 'append' of 'list' object is unsafe",
  "{% include '/etc/passwd' %}": "no loader for this environment",
  "{% for i in range(10 ** 6) %}{% endfor %}": "Range too big",
  "{{ 'x' * 10 ** 9 }}": "used more than 256 MB of memory",
  "{{ 'x' * (10 ** 9 * messages | length) }}": "used more than 256 MB of memory",
  "{{ '%1000000000d' % 1 }}": "used more than 256 MB of memory",
  "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}": "more than 256 MB",
  "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "took longer than 0.5 s",
  "{{ (messages | length * 10) ** (10 ** 9) }}": "took longer than 0.5 s",
  "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "nested too deeply, or calls itself without end",
  "\n{{ raise_exception('roles must alternate') }}": "line 2: fails on conversation 0: roles must alternate",
  "{{ messages[0].foo.bar }}": "'dict object' has no attribute 'foo'",
  "{{ messages[5].content }}": "list object has no element 5",
}


@pytest.mark.slow
@pytest.mark.parametrize("template", FORBIDDEN)
def test_attacks_are_refused_and_the_next_render_works(template):
  guarded = "{% if messages %}" + template + "{% endif %}fine"
  # The short limit is for attacks on time: on a busy machine, filling memory may take longer.
  seconds = 0.5 if "took longer" in FORBIDDEN[template] else 30.0
  with TemplateRenderer(guarded, special_tokens={}, seconds=seconds) as renderer:
    for _ in range(2):
      with pytest.raises(TemplateError) as caught:
        renderer.render(CHAT, add_generation_prompt=False)
      assert FORBIDDEN[template] in str(caught.value)
      assert str(caught.value).startswith("chat template")
    if "attribute" not in FORBIDDEN[template]:  # constant expressions of the other kind fail to compile
      assert renderer.render([], add_generation_prompt=False) == "fine"


@pytest.mark.parametrize(
  ("template", "message"),
  [
    ("x\n{% if %}", "chat template, line 2: does not compile: Expected an expression"),
    ("{% for m in messages %}", "does not compile: Unexpected end of template"),
    ("{{ messages | nosuchfilter }}", "does not compile: No filter named 'nosuchfilter'"),
    ("{{" + "(" * 5000 + "1" + ")" * 5000 + "}}", "does not compile: nested too deeply"),
  ],
)
def test_templates_that_do_not_compile(template, message):
  with pytest.raises(TemplateError) as caught:
    render(template)
  assert message in str(caught.value)


def test_an_error_tells_which_conversation():
  bad = [{"role": "bad", "content": ""}]
  with TemplateRenderer(PLAIN, special_tokens={}) as renderer:
    with pytest.raises(TemplateError, match="line 3: fails on conversation 700: role bad at 0") as caught:
      renderer.render_batch([CHAT] * 700 + [bad] + [CHAT] * 9, add_generation_prompt=False)
    assert caught.value.index == 700
    assert renderer.render_batch([CHAT] * 2, add_generation_prompt=False)[1].startswith("<user>hi\n")


def test_messages_must_be_plain():
  with pytest.raises(TemplateError, match=r"messages must be plain JSON values: .*bytes"):
    render(PLAIN, [{"role": "user", "content": b"x"}])


def test_a_thousand_rows_come_back_in_order():
  with TemplateRenderer(PLAIN, special_tokens={}) as renderer:
    renderer.render(CHAT, add_generation_prompt=False)
    rows = [[{"role": "user", "content": f"{n} " * 200}] for n in range(1000)]
    texts = renderer.render_batch(rows, add_generation_prompt=False)
  assert [t.split()[1] for t in texts[1:]] == [str(n) for n in range(1, 1000)]


def test_a_killed_worker_is_named_and_replaced():
  with TemplateRenderer(PLAIN, special_tokens={}) as renderer:
    renderer.render(CHAT, add_generation_prompt=False)
    renderer._worker._process.kill()
    with pytest.raises(TemplateError, match=r"fails on conversation 0: its process ended"):
      renderer.render(CHAT, add_generation_prompt=False)
    assert renderer.render(CHAT, add_generation_prompt=False)


def test_allocator_settings_of_training_do_not_starve_the_worker(monkeypatch):
  monkeypatch.setenv("MALLOC_TOP_PAD_", "268435456")
  monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
  assert render(PLAIN)


def test_no_worker_is_left_behind():
  program = (
    "from dpojax.interop.template import TemplateRenderer as T\n"
    "a, b = T('x', special_tokens={}), T('x', special_tokens={})\n"
    "for r in (a, b): r.render([], add_generation_prompt=False)\n"
    "print(a._worker._process.pid, b._worker._process.pid)\n"
    "a.close()\n"
  )
  pids = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
  assert len(pids) == 2
  for pid in pids:
    with pytest.raises(ProcessLookupError):
      os.kill(int(pid), 0)


HUNGRY = "{% for m in messages %}{{ 'ab' * m.size }}{{ m.content }}{% endfor %}"


def test_innocent_conversations_are_not_blamed_for_one_that_takes_the_memory():
  chats = [[{"role": "user", "content": str(n), "size": 0}] for n in range(20)]
  chats[7][0]["size"] = 10**9
  with TemplateRenderer(HUNGRY, special_tokens={}, seconds=5.0) as renderer:
    with pytest.raises(TemplateError, match="fails on conversation 7: used more than 256 MB") as refused:
      renderer.render_batch(chats, add_generation_prompt=False)
    assert refused.value.index == 7
    del chats[7]
    assert renderer.render_batch(chats, add_generation_prompt=False) == [c[0]["content"] for c in chats]


@pytest.mark.slow
def test_conversations_that_are_too_many_for_one_worker_are_all_rendered(monkeypatch):
  """All at once they end it before it has answered any; each alone is no trouble."""
  monkeypatch.setattr(template_module, "_BYTES_AT_ONCE", 10**9)
  chats = [[{"role": "user", "content": f"{n} " + "x" * 2_000_000}] for n in range(40)]
  texts = [chat[0]["content"] for chat in chats]
  with TemplateRenderer("{{ messages[0].content }}", special_tokens={}, seconds=5.0, megabytes=128) as renderer:
    assert renderer.render_batch(chats, add_generation_prompt=False) == texts


def test_requests_are_sent_by_size_as_well_as_number():
  requests = ["a"] * 300 + ["b" * 1_500_000, "c" * 1_500_000, "d" * 5_000_000, "e"]
  assert [len(some) for some in template_module._batches(requests)] == [256, 45, 1, 1, 1]
  assert [r for some in template_module._batches(requests) for r in some] == requests


def test_tools_reach_the_template_of_their_conversation():
  with TemplateRenderer("{{ tools | tojson }}{{ messages[0].extra }}", special_tokens={}) as renderer:
    chats = [[{"role": "user", "content": "a", "extra": [1]}]] * 2
    texts = renderer.render_batch(chats, add_generation_prompt=False, tools=[None, [{"name": "f"}]])
  assert texts == ["null[1]", '[{"name": "f"}][1]']


def test_what_a_template_writes_is_bounded_and_whole_characters():
  renderer = TemplateRenderer("{{ 'ab' * 10 }}", special_tokens={}, most_characters=19)
  with renderer, pytest.raises(TemplateError, match="writes 20 characters, more than 19"):
    renderer.render([], add_generation_prompt=False)
  with pytest.raises(TemplateError, match=r"writes half a character \(a lone surrogate\)"):
    render(r"{{ '\ud83d' }}")


def test_messages_nested_too_deeply_are_named():
  deep: list = []
  for _ in range(100_000):
    deep = [deep]
  with pytest.raises(TemplateError, match="messages must be plain JSON values"):
    render("{{ messages }}", [{"role": "user", "content": "a", "extra": deep}])
