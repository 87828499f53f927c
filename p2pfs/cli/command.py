"""From the words of a command line to an exit code. Imports are lazy throughout: a short command starts quickly."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Sequence
from typing import Any

from docopt import DocoptExit, docopt

from p2pfs import errors, version
from p2pfs.cli import usage
from p2pfs.cli.call import Call
from p2pfs.cli.output import Output, open_stderr, require_stdout, silence_stdout
from p2pfs.cli.verbs import VERBS

SIGPIPE_EXIT = 128 + signal.SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code, as `p2pfs-cli --help` lists them."""
    words = list(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _interrupt)
    open_stderr()
    output = Output(is_json="--json" in words, is_quiet=False)
    try:
        require_stdout()
        options = parse(words)
        output = Output(options["--json"], options["--quiet"])
        return run(options, output)
    except errors.P2pfsError as error:
        output.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        interrupted = errors.Interrupted("interrupted")
        output.error(interrupted)
        return interrupted.exit_code
    except BrokenPipeError:
        # Whoever read our output (`| head`) has seen enough.
        silence_stdout()
        return SIGPIPE_EXIT
    except OSError as error:
        from p2pfs.client.files import local_error

        # An error of a file names it; what has no name is where the results go.
        failure = local_error(error, None if error.filename else "standard output")
        output.error(failure)
        silence_stdout()
        return failure.exit_code


def parse(words: list[str]) -> dict[str, Any]:
    """The options and arguments by their names in the usage text. Raises UsageError; exits for --help, --version."""
    shown = io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            return dict(docopt(usage.USAGE, words, version=f"p2pfs-cli {version.VERSION}"))
    except DocoptExit:
        raise errors.UsageError(usage.explain_misuse(words, list(VERBS))) from None
    except SystemExit:
        if unknown := usage.unknown_letter(words):
            raise errors.UsageError(unknown) from None
        print(shown.getvalue(), end="", flush=True)  # at once: when it gets nowhere, that is told
        raise


def run(options: dict[str, Any], output: Output) -> int:
    """Run the verb that was named."""
    verb = next(name for name in VERBS if options[name])
    call = Call(options, output)
    try:
        with call.in_time(), call.alarm():
            code = VERBS[verb](call)
            sys.stdout.flush()
            return code
    finally:
        call.close()


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
