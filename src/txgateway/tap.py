"""The door for ``twistd gateway``: reads the environment, refuses a bad one, and builds the service."""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.application.service import Service
from twisted.python import usage

from txgateway import systemd
from txgateway.config import EX_CONFIG, Configuration, ConfigurationError, Problem, load
from txgateway.listeners import all_descriptions
from txgateway.transport.reactor import install

# Before anything imports the default one; a reactor chosen with --reactor is installed by now and stays.
install()


class Options(usage.Options):
    """``twistd gateway`` takes no settings as options: the environment and the routes document hold them."""

    longdesc = "An API gateway. Settings come from GATEWAY_* environment variables; see `txgateway config`."


def makeService(options: Options) -> Service:
    """The gateway as a Twisted service.

    An unacceptable configuration ends the process with status 78, every problem on its own line on standard error.
    """
    from twisted.internet import reactor

    from txgateway.resources import check_resources
    from txgateway.workers.assignment import take_assignment, worker_count
    from txgateway.workers.member import Member

    assignment = take_assignment(os.environ)  # before anybody takes it for a setting
    try:
        configuration = load(os.environ)
        check_resources(configuration)
        inherited = _inherited(configuration) if assignment is None else ()
        notifier = _notifier() if assignment is None else None
    except ConfigurationError as error:
        os.write(2, "".join(f"{problem}\n" for problem in error.problems).encode("utf-8", "backslashreplace"))
        raise SystemExit(EX_CONFIG) from None
    from txgateway.service import GatewayService

    parent: dict[str, Any] = options.parent or {}
    common: dict[str, Any] = {"logfile": parent.get("logfile"), "is_daemon": not parent.get("nodaemon", True)}
    if assignment is not None:
        member = Member(assignment, reactor)
        member.join()
        return GatewayService(configuration, reactor, member=member, **common)
    common |= {"inherited": inherited, "notifier": notifier}
    workers = worker_count(configuration.settings.workers)
    if workers > 1:
        from txgateway.workers.supervisor import SupervisorService

        return SupervisorService(configuration, reactor, workers, sys.argv, **common)
    return GatewayService(configuration, reactor, **common)


def _notifier() -> systemd.Notifier:
    try:
        return systemd.Notifier.taken_from(os.environ, os.getpid())
    except ValueError as exc:
        raise ConfigurationError([Problem("WATCHDOG_USEC", None, str(exc))]) from exc


def _inherited(configuration: Configuration) -> tuple[int, ...]:
    """Descriptors of the listeners' sockets, where the process manager has opened them."""
    try:
        descriptors = systemd.take_descriptors(os.environ, os.getpid(), systemd.first_environment())
        return systemd.listeners_from(descriptors, all_descriptions(configuration.settings))
    except ValueError as exc:
        raise ConfigurationError([Problem("LISTEN_FDS", None, str(exc))]) from exc
