"""The process that renders chat templates; started and watched by `dpojax.interop.template`.

    python -P template_worker.py SECONDS MEGABYTES [UNIX_TIME]

It speaks JSON, one value a line. First comes `{"template", "special_tokens"}`, answered once the
template is compiled; then `{"conversations", "tools", "add_generation_prompt"}`, `tools` null or as many as there are
conversations, answered by a line for every conversation. An answer is `{"text": ...}` or `{"error": ..., "line": ...}`. Nothing of dpojax is
imported, so that it starts at once and has little to offer to a template that breaks out.
"""

import datetime
import json
import resource
import signal
import sys

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _Generation(jinja2.ext.Extension):
  """`{% generation %}…{% endgeneration %}`, by which templates mark what the model wrote; rendered as its content."""

  tags = {"generation"}  # noqa: RUF012

  def parse(self, parser):
    line = next(parser.stream).lineno
    body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
    return jinja2.nodes.Scope(body, lineno=line)


def _raise_exception(message):
  raise jinja2.TemplateError(message)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
  """Unlike Jinja's own filter it leaves <, > and & alone: nobody shows a prompt as HTML."""
  return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def make_environment(now: float | None = None) -> ImmutableSandboxedEnvironment:
  """The sandbox with the functions that published templates use; `now` stops its clock at a Unix time."""
  environment = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
  )

  def strftime_now(form):
    clock = datetime.datetime.now() if now is None else datetime.datetime.fromtimestamp(now, datetime.UTC)
    return clock.strftime(form)

  environment.filters["tojson"] = _to_json
  environment.globals.update(raise_exception=_raise_exception, strftime_now=strftime_now)
  return environment


def _describe(error: BaseException) -> dict:
  """What went wrong and the template's line where it did, if it can be told."""
  line = getattr(error, "lineno", None)
  trace = error.__traceback__
  while trace is not None:
    if trace.tb_frame.f_code.co_filename == "<template>":  # Jinja maps these back to the template's lines
      line = trace.tb_lineno
    trace = trace.tb_next
  if isinstance(error, MemoryError):
    return {"error": "memory", "line": line}
  if isinstance(error, RecursionError):
    return {"error": "nested too deeply, or calls itself without end", "line": line}
  return {"error": str(error) or type(error).__name__, "line": line}


def main(arguments: list[str]) -> int:
  seconds, megabytes = float(arguments[0]), int(arguments[1])
  environment = make_environment(float(arguments[2]) if len(arguments) > 2 else None)
  resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

  def answer(work) -> None:
    # The parent kills a render that takes too long; the alarm is for the case that it died before us.
    signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 5)
    fatal = False
    try:
      reply = work()
    except Exception as error:
      reply = _describe(error)
      fatal = isinstance(error, MemoryError | RecursionError)
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()
    signal.setitimer(signal.ITIMER_REAL, 0)
    if fatal:
      raise SystemExit(1)  # the parent starts a fresh one

  sys.stdout.write('"ready"\n')
  sys.stdout.flush()
  first = json.loads(sys.stdin.readline())
  compiled = []

  def compile_template() -> dict:
    compiled.append(environment.from_string(first["template"], globals=first["special_tokens"]))
    return {"text": ""}

  answer(compile_template)
  for line in sys.stdin:
    request = json.loads(line)
    conversations = request["conversations"]
    extra = {"add_generation_prompt": request["add_generation_prompt"], "documents": None}
    for messages, tools in zip(conversations, request["tools"] or [None] * len(conversations), strict=True):
      values = {**extra, "messages": messages, "tools": tools}
      answer(lambda values=values: {"text": compiled[0].render(**values)})
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
