"""Policy tests: scripted requests against the user's own configuration, in virtual time, and what is expected of them.

A file of cases is read and judged (``document``, ``tables``, ``values``), becomes a configuration that can be had in
memory (``surroundings``), and is run case by case, each with a gateway of its own (``run``, ``scripts``, ``tokens``);
what came is held against what was expected (``compare``) and told (``report``, ``junit``).
"""

from __future__ import annotations

from txgateway.policy.files import CaseFile, FileProblem, WrongFiles, read_files
from txgateway.policy.junit import junit_xml
from txgateway.policy.report import as_tree, lines
from txgateway.policy.run import FileResult, run_file

__all__ = [
    "CaseFile",
    "FileProblem",
    "FileResult",
    "WrongFiles",
    "as_tree",
    "junit_xml",
    "lines",
    "read_files",
    "run_file",
]
