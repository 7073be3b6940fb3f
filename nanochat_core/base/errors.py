"""Errors that people read: what was seen, and what to do about it.

A `NanochatError` is shown as one line and a hint, without a traceback (`--debug` shows it); its class decides
the exit code. Anything else that escapes is a bug of ours and keeps its traceback. Messages repeat what was typed and
what servers said, and end in logs and records: secrets in them are taken out here.
"""

from nanochat_core.base.redaction import redact

# What every verb ends with; `--debug` changes none of them.
EXIT_CODES = {
    0: "done",
    1: "anything else, such as an answer that cannot be written, a bundle that is refused, what `doctor` found",
    2: "a wrong setting or command, or a plan that is too dear",
    3: "data, an artifact or a ref that is missing or damaged",
    4: "the machine lacks something: a GPU, memory, room on a disk",
    5: "the nightly gate found a regression",
    6: "a loss or gradient is no number",
    7: "the allowed money is spent; the training has saved a checkpoint",
    130: "stopped by Ctrl-C or SIGTERM; the same command goes on",
    141: "whoever read the answer (`| head`) has gone",
}


class NanochatError(Exception):
    """Base of the errors meant for people. `exit_code` is what the command line ends with."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = redact(message)
        self.hint = redact(hint) if hint else hint
        super().__init__(self.message)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not pickle by themselves, and worker processes send them back.
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[NanochatError], message: str, hint: str | None) -> NanochatError:
    return kind(message, hint=hint)


class ConfigError(NanochatError):
    """A preset, a `--set` or a combination of values that cannot work."""

    exit_code = 2


class MissingError(NanochatError):
    """Data, an artifact or a ref that is not there, or cannot be read."""

    exit_code = 3


class CorruptError(MissingError):
    """Bytes that do not have the digest that was promised for them."""


class UnreadableError(CorruptError):
    """Checkpoints of which none can be read."""


class HardwareError(NanochatError):
    """The machine lacks what the run needs: memory, a GPU, disk space."""

    exit_code = 4


class TrainingError(NanochatError):
    """A training process that ended badly; the message names the last lines of its log."""
