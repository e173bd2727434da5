"""Agents that are command-line programs."""

import json
import os
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

from pydantic import ConfigDict, Field, field_validator

from agent_pipelines.core.clock import isoformat
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.event import AgentEvent
from agent_pipelines.core.invocation import Invocation, Message
from agent_pipelines.core.secrets import redactor
from agent_pipelines.runtimes.base import Capabilities, Runtime, RuntimeConfig
from agent_pipelines.runtimes.command_output import OutputConfig, OutputReader
from agent_pipelines.runtimes.excerpt import ending, excerpt
from agent_pipelines.runtimes.process import ProcessGroup, manner_of_end

_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")
_PLACEHOLDERS = (
    "prompt",
    "system",
    "session_id",
    "idempotency_key",
    "task",
    "logical_time",
    "output_schema",
    "invocation",
)
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_INTERPRETER = re.compile(r"(?:ba|da|z|k)?sh|python[\d.]*|node|perl|ruby")
_CODE_FLAG = re.compile(r"-[a-z]*[ce]|--eval")


class CommandConfig(OutputConfig, RuntimeConfig):
    """Settings of a command-line agent.

    Arguments and `stdin` may hold {prompt}, {system}, {session_id}, {idempotency_key}, {task}, {logical_time},
    {output_schema} and {invocation} (the whole of it, as JSON). No shell reads them, and code for an interpreter may hold
    none: a prompt would become code. An argument can be seen by every user of the machine and is limited to 128 KiB by
    Linux: give prompts on stdin.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    argv: tuple[str, ...] = Field(
        min_length=1, description="Program and arguments.", examples=[["claude", "-p", "--output-format", "json"]]
    )
    resume: tuple[str, ...] | None = Field(
        default=None,
        description="Program and arguments that continue the agent's own session {session_id}, if it keeps any.",
        examples=[["claude", "-p", "--resume", "{session_id}", "--output-format", "json"]],
    )
    stdin: str | None = Field(default="{prompt}", description="What the program reads; null closes its stdin.")
    env: dict[str, str] = Field(default_factory=dict, description="Environment variables, none of them secret.")
    env_from: tuple[str, ...] = Field(
        default=(),
        description="Variables that are passed on besides PATH, HOME, LANG and TMPDIR; their values are kept secret.",
        examples=[["ANTHROPIC_API_KEY"]],
    )
    cwd: str | None = Field(default=None, description="Directory that the program starts in.")
    exit_codes: dict[int, ErrorClass] = Field(
        default_factory=dict, description="Error classes of exit codes; others are `agent`.", examples=[{"75": "overloaded"}]
    )
    grace: Duration = Field(
        default=Duration(5),
        description="Time between SIGTERM and SIGKILL, and for what the program leaves behind to end by itself.",
        examples=["5s"],
    )

    @field_validator("argv", "resume")
    @classmethod
    def _program_is_fixed(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (not value or not value[0] or _PLACEHOLDER.search(value[0])):
            raise ValueError("the first item is the program; write its name or path, without a placeholder")
        if value is not None and _INTERPRETER.fullmatch(Path(value[0]).name):
            for flag, code in pairwise(value):
                if _CODE_FLAG.fullmatch(flag) and _PLACEHOLDER.search(code):
                    raise ValueError(f"code after `{flag}` holds a placeholder; pass it as an argument of its own, or on `stdin`")
        return value

    @field_validator("argv", "resume", "stdin")
    @classmethod
    def _placeholders_are_known(cls, value: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        for template in (value,) if isinstance(value, str) else value or ():
            for name in _PLACEHOLDER.findall(template):
                if name not in _PLACEHOLDERS:
                    raise ValueError(f"{{{name}}} is no placeholder; known are {', '.join(map('{{{}}}'.format, _PLACEHOLDERS))}")
        return value

    @field_validator("exit_codes")
    @classmethod
    def _success_has_no_class(cls, value: dict[int, ErrorClass]) -> dict[int, ErrorClass]:
        if 0 in value:
            raise ValueError("0 is success; remove it")
        return value

    def uses(self, placeholder: str) -> bool:
        """Whether a template holds a placeholder."""
        return any(f"{{{placeholder}}}" in text for text in (*self.argv, *(self.resume or ()), self.stdin or ""))


class CommandRuntime(Runtime[CommandConfig]):
    """A program that is started for each attempt and ends with it."""

    kind = "command"
    stops_by = "ended its process group"
    config_type = CommandConfig
    capabilities = Capabilities(keeps_sessions=True, streams=True, reports_usage=True, cancels=True, structured_output=True)

    def __init__(self, config: CommandConfig) -> None:
        super().__init__(config)
        spending = (config.result, *config.events)
        self.capabilities = Capabilities(
            keeps_sessions=config.resume is not None,
            streams=config.output != "json",
            reports_usage=any(name.endswith("_tokens") for fields in spending for name in fields.declared),
            cancels=True,
            structured_output=config.uses("output_schema"),
        )

    async def stream(self, invocation: Invocation) -> AsyncGenerator[AgentEvent, None]:
        """Start the program and read its output to the end."""
        config = self.config
        argv, stdin = command_line(config, invocation)
        reader = OutputReader(config, resumes=resumes(config, invocation))
        environment = environment_of(config)
        running = ProcessGroup.running(argv, stdin=stdin, env=environment, cwd=config.cwd, grace=config.grace)
        async with AsyncExitStack() as stack:
            try:
                group = await stack.enter_async_context(running)
            except (OSError, ValueError) as error:
                raise failure_of_start(config, error) from None
            async for piece in group.output():
                for event in reader.feed(piece):
                    yield event
            code = await group.wait()
        for event in reader.close():
            yield event
        failure = verdict(config, code, group.stderr, reader)
        if failure is not None:
            raise failure
        for event in reader.finish():
            yield event


def resumes(config: CommandConfig, invocation: Invocation) -> bool:
    """Whether the attempt continues a session of the agent's own."""
    return config.resume is not None and invocation.remote_session_id is not None


def command_line(config: CommandConfig, invocation: Invocation) -> tuple[list[str], bytes | None]:
    """Arguments and stdin for an invocation."""
    resumed = resumes(config, invocation)
    messages = list(invocation.messages)
    if resumed:
        while any(message.role == "assistant" for message in messages):
            messages.pop(0)
    system = "\n\n".join(message.content for message in invocation.messages if message.role == "system")
    prompt = conversation([message for message in messages if message.role != "system"])
    if system and not resumed and not config.uses("system"):
        prompt = f"{system}\n\n{prompt}"
    values = {
        "prompt": prompt,
        "system": system,
        "session_id": invocation.remote_session_id if resumed else invocation.session_id,
        "idempotency_key": invocation.idempotency_key,
        "task": invocation.task,
        "logical_time": isoformat(invocation.logical_at),
        "output_schema": None if invocation.output_schema is None else json.dumps(invocation.output_schema),
        "invocation": invocation.model_dump_json(),
    }

    def fill(template: str) -> str:
        # In one pass: a prompt that says {system} is text, not a template.
        return _PLACEHOLDER.sub(lambda found: values[found[1]] or "", template)

    argv = (config.resume if resumed else None) or config.argv
    return [fill(argument) for argument in argv], None if config.stdin is None else fill(config.stdin).encode()


def conversation(messages: list[Message]) -> str:
    """The messages as one text: a single one as it is, several each under the name of its role."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in messages)


def environment_of(config: CommandConfig) -> dict[str, str]:
    """The environment of the program. Raises RuntimeFailure (authentication) if a variable to pass on is not set."""
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | config.env
    for name in config.env_from:
        value = os.environ.get(name)
        if value is None:
            problem = f"environment variable {name} is not set; `env_from` passes it on to {config.argv[0]}"
            raise RuntimeFailure(ErrorClass.AUTHENTICATION, problem)
        # Shorter values are switches like `true`, which must not vanish from every text.
        if len(value) >= 8:
            redactor.register(value)
        environment[name] = value
    return environment


def failure_of_start(config: CommandConfig, error: Exception) -> RuntimeFailure:
    """The failure that a program which does not start stands for."""
    program = config.argv[0]
    if isinstance(error, OSError) and config.cwd is not None and error.filename == config.cwd:
        return RuntimeFailure(ErrorClass.NOT_FOUND, f"{program} cannot start in `cwd` {config.cwd}: {error.strerror}")
    if isinstance(error, FileNotFoundError):
        return RuntimeFailure(
            ErrorClass.NOT_FOUND, f"{program}: no such program, or no interpreter for it; install it, or give its path in `argv`"
        )
    if isinstance(error, PermissionError):
        return RuntimeFailure(ErrorClass.NOT_FOUND, f"{program} is not executable; set its permission or name another in `argv`")
    reason = error.strerror if isinstance(error, OSError) else error
    problem = f"{program} cannot be started: {reason}; a long or binary prompt belongs on `stdin`"
    return RuntimeFailure(ErrorClass.INVALID_REQUEST, problem)


def verdict(config: CommandConfig, code: int, stderr: str, reader: OutputReader) -> RuntimeFailure | None:
    """The failure that the end of a program stands for, None for a success."""
    program = Path(config.argv[0]).name
    by_code = config.exit_codes.get(code, ErrorClass.AGENT)
    reported = reader.failure
    # That the output of a failed program cannot be read is no news.
    if code != 0 and (reported is None or reported.error_class is ErrorClass.PROTOCOL):
        said = ending(stderr) or ending(reader.heard)
        return RuntimeFailure(by_code, f"{program} {manner_of_end(code)}{': ' + said if said else ''}", status=code)
    if reported is None:
        return None
    if reported.error_class is ErrorClass.PROTOCOL:
        said = excerpt(reader.heard)
        return RuntimeFailure(ErrorClass.PROTOCOL, f"{program}: {reported.message}{': ' + said if said else ''}", status=code)
    error_class = by_code if reported.error_class is ErrorClass.AGENT else reported.error_class
    return RuntimeFailure(error_class, excerpt(f"{program} failed: {reported.message}"), status=code)
