"""The door for ``twistd gateway``: reads the environment, refuses a bad one, and builds the service."""

from __future__ import annotations

import os
from typing import Any

from twisted.application.service import Service
from twisted.python import usage

from txgateway.config import ConfigurationError, load
from txgateway.transport.reactor import install

# Before anything imports the default one; a reactor chosen with --reactor is installed by now and stays.
install()

#: Exit status for a configuration that is not acceptable (EX_CONFIG of sysexits.h).
EX_CONFIG = 78


class Options(usage.Options):
    """``twistd gateway`` takes no settings as options: the environment and the routes document hold them."""

    longdesc = "An API gateway. Settings come from GATEWAY_* environment variables; see `txgateway config`."


def makeService(options: Options) -> Service:
    """The gateway as a Twisted service.

    An unacceptable configuration ends the process with status 78, every problem on its own line on standard error.
    """
    from twisted.internet import reactor

    from txgateway.resources import check_resources

    try:
        configuration = load(os.environ)
        check_resources(configuration)
    except ConfigurationError as error:
        os.write(2, "".join(f"{problem}\n" for problem in error.problems).encode("utf-8", "backslashreplace"))
        raise SystemExit(EX_CONFIG) from None
    from txgateway.service import GatewayService

    parent: dict[str, Any] = options.parent or {}
    return GatewayService(
        configuration, reactor, logfile=parent.get("logfile"), is_daemon=not parent.get("nodaemon", True)
    )
