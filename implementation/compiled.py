"""Build hook: with ``TXGATEWAY_COMPILE=1``, the modules on the way of a request become extension modules.

They are the same sources, which Cython takes as they are; a wheel has both, and Python prefers the compiled ones. Without the
variable, and in editable installs, nothing is compiled and no compiler is needed.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "TXGATEWAY_COMPILE"
SOURCES = Path("src")
#: What most requests pass through; relative to the package.
MODULES = (
    "cors.py errors.py fields.py forwarded.py headers.py ids.py leaf.py own_headers.py request.py request_body.py",
    "auth/authenticator.py auth/cache.py auth/token.py",
    "middleware/*.py",
    "proxy/attempts.py proxy/backend.py proxy/balancer.py proxy/breaker.py proxy/forwarding.py",
    "proxy/multiplexed_pool.py proxy/outgoing.py proxy/pool.py",
    "proxy/replay.py proxy/retry.py proxy/reverse_proxy.py proxy/target.py proxy/window.py proxy/balancing/*.py",
    "ratelimit/bucket.py ratelimit/keys.py ratelimit/memory.py",
    "routing/*.py",
    "telemetry/access_log.py telemetry/cells.py telemetry/lines.py",
    "transport/framing.py transport/heads.py transport/http1_*.py transport/interfaces.py transport/response_*.py",
    "transport/http2/*.py transport/server_tls.py transport/sockets.py transport/reactor.py transport/tunnel.py transport/wheel.py",
)


class CompiledBuildHook(BuildHookInterface[Any]):
    """Adds the compiled modules to a wheel."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What a build needs besides hatchling."""
        # The next minor version may take the sources in another way, which the tests must see first.
        return ["cython>=3.2,<3.4", "setuptools>=75"] if is_wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, if that is wanted."""
        if not is_wanted() or version == "editable":
            return
        directory = Path(self.root)
        scratch = Path(tempfile.mkdtemp(prefix="txgateway-"))
        build_data["force_include"] |= compiled(directory, scratch)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def is_wanted() -> bool:
    """Whether the environment asks for it."""
    return os.environ.get(VARIABLE, "") not in {"", "0", "false"}


def modules(directory: Path) -> list[Path]:
    """The sources to compile, in the checkout or unpacked archive at ``directory``."""
    package = directory / SOURCES / "txgateway"
    patterns = " ".join(MODULES).split()
    found = [path for pattern in patterns for path in sorted(package.glob(pattern))]
    return [path for path in found if path.name != "__init__.py"]


def compiled(directory: Path, scratch: Path) -> dict[str, str]:
    """Compile into ``scratch``.

    Returns:
        places in the wheel, by file.
    """
    from Cython.Build import cythonize  # noqa: PLC0415 -- there only if something is to be compiled
    from setuptools import Distribution, Extension  # noqa: PLC0415

    sources = directory / SOURCES
    extensions = [
        Extension(
            ".".join(path.relative_to(sources).with_suffix("").parts),
            [str(path)],
            extra_compile_args=["-fwrapv"],  # how far to optimize is Python's own choice, or that of CFLAGS
        )
        for path in modules(directory)
    ]
    jobs = os.cpu_count() or 1
    made = cythonize(
        extensions,
        build_dir=str(scratch / "c"),
        nthreads=jobs,
        # Annotations are for mypy: what Cython would make of them is another language.
        compiler_directives={"language_level": 3, "annotation_typing": False},
    )
    command: Any = Distribution({"ext_modules": made}).get_command_obj("build_ext")
    command.build_lib = str(scratch / "lib")
    command.build_temp = str(scratch / "o")
    command.parallel = jobs
    command.ensure_finalized()
    command.run()
    library = scratch / "lib"
    return {str(path): str(path.relative_to(library)) for path in sorted(library.rglob("*.so"))}
