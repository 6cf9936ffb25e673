"""The twisted.web resources that a configuration names: other people's code, imported before anything listens."""

from __future__ import annotations

from twisted.web.resource import IResource

from txgateway.config import Configuration, ConfigurationError, Problem
from txgateway.config.user_code import named


def load_resource(name: str) -> IResource:
    """The resource that ``package.module:attribute`` names.

    Raises:
        ImportError: there is no such module or attribute.
        TypeError: it is no IResource.
    """
    resource = named(name)
    if not IResource.providedBy(resource):
        raise TypeError(f"{name} is not a twisted.web IResource")
    found: IResource = resource
    return found


def check_resources(configuration: Configuration) -> None:
    """Import every mounted resource, so that a bad name is told before anything listens.

    Raises:
        ConfigurationError: one problem for each that cannot be imported or is no resource.
    """
    problems = []
    for index, route in enumerate(configuration.routes):
        if route.resource is None:
            continue
        try:
            load_resource(route.resource)
        except Exception as exc:  # noqa: BLE001 -- importing runs other people's code
            message = f"expected package.module:name of a twisted.web IResource: {type(exc).__name__}: {exc}"
            problems.append(Problem(f"routes[{index}].resource", repr(route.resource), message))
    if problems:
        raise ConfigurationError(problems)
