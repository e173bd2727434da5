"""How the command line fails: one line on stderr and an exit code, never a traceback for what is expected."""

import difflib
import os
import sys
from collections.abc import Collection
from typing import Any

import typer
from typer.core import TyperGroup

from agent_pipelines.core.errors import AgentPipelinesError
from agent_pipelines.core.secrets import redactor

FAILURE = 1
BAD_INPUT = 2
_INTERRUPTED = 130

# The command line library carries its own copy of click in newer versions and uses the installed one in older ones.
_UsageError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class BadInput(AgentPipelinesError):
    """What was typed cannot be used: says what would be right."""


def unknown(what: str, typed: str, known: Collection[str]) -> BadInput:
    """The error for a name that does not exist, with the names that come near, their last parts included."""

    def likeness(name: str) -> float:
        return max(difflib.SequenceMatcher(None, typed, part).ratio() for part in (name, name.rpartition("/")[2]))

    near = sorted((name for name in known if likeness(name) >= 0.6), key=likeness, reverse=True)[:3]
    if near:
        return BadInput(f"no {what} is named {typed!r}; did you mean {' or '.join(near)}?")
    listed = ", ".join(sorted(known)[:10]) + (", …" if len(known) > 10 else "")
    return BadInput(f"no {what} is named {typed!r}; there is {listed or 'none'}")


def complain(message: str) -> None:
    """Write an error to stderr, without secrets."""
    print(f"error: {redactor.text(message)}", file=sys.stderr)  # noqa: T201


class Commands(TyperGroup):
    """The commands, with errors and exit codes as this product has them: 1 for a failure, 2 for bad input."""

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        """Run the command line and exit."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **kwargs)
        sys.exit(self._run(*args, **kwargs))

    def _run(self, *args: Any, **kwargs: Any) -> int:
        try:
            code = super().main(*args, standalone_mode=False, **kwargs)
            sys.stdout.flush()
        except BadInput as error:
            complain(str(error))
        except AgentPipelinesError as error:
            complain(str(error))
            return FAILURE
        except _UsageError as error:
            words = " ".join(getattr(error, "format_message", error.__str__)().split()).replace("Value error, ", "")
            if type(error).__name__ == "NoArgsIsHelpError":
                getattr(error, "show", lambda: None)()
            else:
                complain(words)
        except BrokenPipeError:
            # The reader has gone, as in `... | head`; Python must not complain about it once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILURE
        except (KeyboardInterrupt, typer.Abort):
            return _INTERRUPTED
        else:
            return code if isinstance(code, int) else 0
        return BAD_INPUT
