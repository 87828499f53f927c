"""The command `p2pfs-node`: reads the configuration, runs one node, and turns signals into what it does.

`bin/p2pfs-node` has patched the standard library for gevent before this is imported.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import docopt

from p2pfs import errors, green, logs, terminal
from p2pfs.config import Config, load, new_secret, reloaded, to_ini
from p2pfs.core.invitation import MAX_TEXT
from p2pfs.systemd import Notifier
from p2pfs.version import VERSION

if TYPE_CHECKING:
    from p2pfs.node.node import Node

log = logging.getLogger(__name__)

GRACE_S = 10.0
"""How long requests in work may go on after SIGTERM."""
STOP_S = 15.0
"""How long the rest of the stop may take before the process ends all the same."""

USAGE = """\
p2pfs-node: run one node of a p2pfs cluster on this machine, in the foreground.

Usage:
  p2pfs-node -c FILE [-o OPTION]... [--check-config]
  p2pfs-node [-c FILE] [-o OPTION]... --print-config
  p2pfs-node --new-secret
  p2pfs-node init [-c FILE] [--listen=ADDR] [-o OPTION]...
  p2pfs-node join [-c FILE] [--listen=ADDR] [-o OPTION]... [--] TOKEN
  p2pfs-node (-h | --help)
  p2pfs-node --version

  init   make secret, identity and configuration of the first node of a cluster; prints what to do next
  join   make a node of a cluster that exists: TOKEN is what `p2pfs-cli invite` printed on one of its nodes, or `-`
         for standard input, where the list of processes (ps) does not show it; prints what to do next

Options:
  -c FILE --config=FILE    configuration file (INI); --print-config prints one that explains every option. init and
                           join write it, and the secret beside it; without -c it is node.ini in the current folder
  -o OPTION                section.key=value: override one option; may be repeated. init and join write it down
  --listen=ADDR            HOST:PORT where other nodes reach this one, as -o node.listen=ADDR. Without it, init takes
                           127.0.0.1:4801, and join port 4801 of the address that this machine has towards the other
  --check-config           read and check the configuration, start nothing
  --print-config           print every option with its meaning and its value, as a file for -c
  --new-secret             print a new cluster secret
  -h --help                this text
  --version                the version

One node, for this machine only:
  p2pfs-node --print-config > node.ini && p2pfs-node -c node.ini
  p2pfs-cli store ~/photos                                               in another terminal

Several machines:
  p2pfs-node init --listen=10.0.0.1:4801 && p2pfs-node -c node.ini       on the first one
  p2pfs-cli invite                                                       there; prints TOKEN
  p2pfs-node join TOKEN && p2pfs-node -c node.ini                        on each of the others

Each option is taken from the first of these that sets it: -o, the environment (P2PFS_NODE_DATA_DIR for
node.data_dir), the file, the default. A secret in -o is visible to all users of the machine (ps): use
cluster.secret_file.

Signals:
  SIGTERM, SIGINT   finish the requests in work, for 10 s at most, and stop; a second one: stop at once
  SIGHUP            read the configuration again; what needs a restart is logged
  SIGUSR1           log what every greenlet is doing

Exit codes: 0 stopped as asked, 1 failed, 2 usage or configuration, 6 no space, 7 no way to the node that invited,
9 refused (data directory of another cluster or in use, a node that exists already, an invitation that is not good
any more); messages and log lines go to standard error.
"""


DESCRIPTORS = 65536
FOR_FILES = 400
"""Files, beside connections, that are open at most where few may be: blocks on their way, and what clients gave."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the result is the exit code."""
    os.umask(0o077)
    _fill_standard()
    shown = io.StringIO()
    try:
        try:
            with contextlib.redirect_stdout(shown):
                arguments = docopt.docopt(USAGE, argv, version=f"p2pfs-node {VERSION}")
        except docopt.DocoptExit as error:
            # Only the usage: the rest of docopt's message quotes arguments, and one of them may be a secret.
            raise errors.UsageError(f"no such use\n{error.usage.strip()}\nTry p2pfs-node --help.") from None
        except SystemExit:  # --help or --version
            _tell(shown.getvalue())
            return 0
        return _command(arguments)
    except errors.P2pfsError as error:
        print(f"p2pfs-node: error: {terminal.message(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return errors.Interrupted.exit_code


def _command(arguments: dict[str, Any]) -> int:
    path, overrides = arguments["--config"], arguments["-o"]
    if arguments["init"] or arguments["join"]:
        if arguments["--listen"] is not None:
            overrides = [*overrides, f"node.listen={arguments['--listen']}"]
        _tell("\n".join(_make(arguments, path or "node.ini", overrides)) + "\n")
    elif arguments["--new-secret"]:
        _tell(new_secret() + "\n")
        print(
            "Save it where only the node's user can read it, the same on every node:\n"
            "  (umask 077; p2pfs-node --new-secret > secret)    and set cluster.secret_file",
            file=sys.stderr,
        )
    elif arguments["--print-config"]:
        # Nothing given: the defaults, as they are on every machine. That is conf/node.ini.
        is_plain = path is None and not overrides
        _tell(to_ini(None if is_plain else load(path, overrides)))
    elif arguments["--check-config"]:
        load(path, overrides)
        _tell(f"{path}: good\n")
    else:
        _run(path, overrides)
    return 0


def _fill_standard() -> None:
    """Put /dev/null where a standard descriptor is closed (`2>&-`).

    What is opened next would get its number, and a message that some library writes there would end up in the catalog.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - for as long as the process lives


def _tell(text: str) -> None:
    """Write to standard output, at once: a secret or a token that got nowhere must not pass for given out."""
    if sys.stdout is None:
        raise errors.UsageError("standard output is closed; give it a file, a pipe or /dev/null")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a configuration is UTF-8 everywhere; a path may hold other bytes
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        print(text, end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered complains no more
        if isinstance(error, BrokenPipeError):
            sys.exit(128 + signal.SIGPIPE)  # whoever read it (`| head`) has seen enough
        kind = errors.NoSpace if error.errno == errno.ENOSPC else errors.Refused
        raise kind(f"standard output: {(error.strerror or str(error)).lower()}") from None


def _make(arguments: dict[str, Any], path: str, options: list[str]) -> list[str]:
    if arguments["init"]:
        from p2pfs.setup.init import init

        return init(path, options)
    from p2pfs.setup.join import join

    token = arguments["TOKEN"]
    return join(sys.stdin.read(MAX_TEXT) if token == "-" else token, path, options)


def _run(path: str, overrides: list[str]) -> None:
    config = load(path, overrides)
    logs.set_up(config.log.level, config.log.format)
    green.check_patched()
    _allow_descriptors(config.node.max_connections)
    from p2pfs.node.node import Node  # here, so that the other modes start quickly and need no patched process

    Daemon(Node(config), config, lambda: load(path, overrides), Notifier()).run()


def _allow_descriptors(connections: int) -> None:
    """Take what the system lets us have: connections and small blocks on their way in need more than the usual 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, DESCRIPTORS)), hard))
    least, most = connections + FOR_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most < least:
        log.warning("only %d files may be open, and up to %d are needed: raise the limit (LimitNOFILE, ulimit -n), or "
                    "lower [node] max_connections", most, least)


class Daemon:
    """A node in a process: started, told to the service manager, watched, reloaded and stopped.

    `read_config` gives the configuration as it is now, for SIGHUP.
    """

    def __init__(self, node: Node, config: Config, read_config: Callable[[], Config], notifier: Notifier) -> None:
        self._node = node
        self._config = config
        self._read_config = read_config
        self._notifier = notifier
        self._group = green.Group("daemon")
        self._stops_asked = 0
        self._is_stopping = False
        self._stopped = green.Event()

    def run(self) -> None:
        """Run the node until a signal stops it. Raises what made it fail."""
        self._node.start()
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                green.on_signal(number, self._ask_to_stop)
            green.on_signal(signal.SIGHUP, self._reload)
            green.on_signal(signal.SIGUSR1, self._dump)
            self._feed_watchdog()
            log.info("node ready", extra={
                "address": self._node.address, "control": self._node.control_path, "id": self._node.identity.id,
            })
            self._notifier.ready(self._status)
            self._node.wait()
        finally:
            self._stop()
            self._group.close()
        log.info("node stopped")

    @property
    def _status(self) -> str:
        return f"listening on {self._node.address}"

    def _feed_watchdog(self) -> None:
        interval_s = self._notifier.watchdog_s
        if interval_s is None:
            return

        def feed() -> float:
            # From the hub that serves requests, so that a blocked hub is not alive.
            self._notifier.alive()
            return interval_s / 3

        self._group.loop("watchdog", feed)

    # --- signals: each runs in a greenlet of its own --------------------------------------------------

    def _ask_to_stop(self) -> None:
        self._stops_asked += 1
        if self._stops_asked == 1:
            log.info("stopping: %g s at most for the requests in work", GRACE_S)
            self._notifier.stopping("finishing the requests in work")
            self._group.spawn("drain", self._drain)
        elif self._stops_asked == 2:
            log.warning("asked twice: stopping at once")
            self._stop()
        else:
            # What is on disk is safe at any moment; a stop that hangs is not worth a longer wait.
            os._exit(1)

    def _drain(self) -> None:
        try:
            self._node.drain(GRACE_S)
        finally:
            self._stop()

    def _stop(self) -> None:
        """Stop the node, whoever asks first; the others wait for it. After STOP_S the process ends all the same."""
        if self._is_stopping:
            self._stopped.wait(STOP_S)
            return
        self._is_stopping = True
        patience = green.Group("patience")
        patience.spawn("stop", self._give_up)
        try:
            self._node.stop()
        finally:
            patience.close()
            self._stopped.set()

    @staticmethod
    def _give_up() -> None:
        """End the process when the stop hangs: a disk that does not answer would keep it for ever."""
        green.sleep(STOP_S)
        log.error("the stop takes over %g s: the process ends now; what was acknowledged is on disk", STOP_S)
        os._exit(1)

    def _reload(self) -> None:
        if self._stops_asked:
            return
        self._notifier.reloading()
        try:
            config, applied, waiting = reloaded(self._config, self._read_config())
            self._node.reload(config)
        except errors.P2pfsError as error:
            log.error("configuration not reloaded, the old one stays: %s", error)
        else:
            self._config = config
            logs.set_up(config.log.level, config.log.format)
            for row in applied:
                log.info("%s is now %s", row.name, row.kind.show(config.value(row)))
            for row in waiting:
                log.warning("%s changed in the configuration and needs a restart", row.name)
            log.info("configuration reloaded")
        finally:
            self._notifier.ready(self._status)

    def _dump(self) -> None:
        for line in green.dump().splitlines():
            log.info("%s", line)
