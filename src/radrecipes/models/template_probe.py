"""Renders a chat template under limits of memory and time: a program of its own, started by `chat_template.py`.

It imports nothing but Jinja, because it is started before anything is tokenised. What differs from the environment of Transformers
shows, because both renderings must be equal.
"""

import json
import sys


def main() -> None:
    """Read a request from standard input and write what was found, both as JSON."""
    request = json.load(sys.stdin)
    if sys.platform == "linux":
        _limit(request)
    sys.path.insert(0, request["packages"])
    try:
        answer = _render(request)
    except (MemoryError, OverflowError):  # a range beyond the sandbox's own limit is an OverflowError
        answer = {"over_limit": True}
    print(json.dumps(answer))


def _limit(request: dict) -> None:
    """Memory and processor time of this process; other systems enforce neither, or lack `resource`."""
    import resource

    for kind, limit in ((resource.RLIMIT_AS, request["memory"]), (resource.RLIMIT_CPU, request["seconds"])):
        resource.setrlimit(kind, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _render(request: dict) -> dict:
    """The texts of all conversations and the names that change from one day or process to another."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The tag around the assistant's turn, which Transformers adds to Jinja."""

        tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

        def parse(self, parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(["name:endgeneration"], drop_needle=True)).set_lineno(line)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, ensure_ascii=False, **options: json.dumps(
        value, ensure_ascii=ensure_ascii, **options
    )
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: "today"}
    try:
        parsed = environment.parse(request["template"])
        numbers = [it.value for it in parsed.find_all(nodes.Const) if isinstance(it.value, int)]
        if max(numbers, default=0) > request["characters"] or any(parsed.find_all(nodes.Pow)):
            # Wherever it is: it could wait for a text that these conversations do not contain.
            return {"over_limit": True}
        used = {name.name for name in parsed.find_all(nodes.Name)} | {it.name for it in parsed.find_all(nodes.Filter)}
        template, texts = environment.from_string(request["template"]), []
        for messages in request["conversations"]:
            asks = messages[-1]["role"] == "user"
            given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": asks}
            texts.append(template.render(**given, **request["tokens"]))
            if len(texts[-1]) > request["characters"]:
                return {"over_limit": True}
    except (MemoryError, OverflowError):
        raise
    except Exception as error:  # a template can raise anything
        return {"error": type(error).__name__, "line": getattr(error, "lineno", None), "message": str(error)[:80]}
    return {"texts": texts, "used": sorted(used & {"strftime_now", "lipsum", "random"})}


if __name__ == "__main__":
    main()
