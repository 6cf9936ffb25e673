"""``python -m txgateway.reloading.child``: reads the configuration of its environment, and writes it as frames."""

from __future__ import annotations

import os
import sys

from txgateway.config import ConfigurationError, load
from txgateway.reloading.transfer import configuration_frames, problem_frames
from txgateway.resources import check_resources


def main() -> None:
    """Write frames to standard output, whatever else is written there by modules that the configuration names."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with out:
        try:
            configuration = load(os.environ)
            check_resources(configuration)
        except ConfigurationError as error:
            out.writelines(problem_frames(tuple(error.problems)))
        else:
            out.writelines(configuration_frames(configuration))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # threads that such modules have begun are not waited for
