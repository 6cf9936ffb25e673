"""The twisted.web resources that a configuration names: other people's code, imported before anything listens."""

from __future__ import annotations

from importlib import import_module

from twisted.web.resource import IResource

from txgateway.config import Configuration, ConfigurationError, Problem


def load_resource(name: str) -> IResource:
    """The resource that ``package.module:attribute`` names.

    Raises:
        ImportError: there is no such module or attribute.
        TypeError: it is no IResource.
    """
    module_name, _, attribute = name.partition(":")
    module = import_module(module_name)
    try:
        resource = getattr(module, attribute)
    except AttributeError as exc:
        raise ImportError(f"module {module_name!r} has no {attribute!r}") from exc
    if not IResource.providedBy(resource):
        raise TypeError(f"{name} is not a twisted.web IResource")
    return resource


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
