"""What a law is: a question to a middleware on trial, asked with many examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen
from hypothesis import strategies as st

from txgateway.testing.stories import told
from txgateway.testing.trial import Trial


class LawBroken(AssertionError):
    """A middleware does not keep a law.

    Attributes:
        law: its name.
    """

    law = ""


@frozen
class Law:
    """One law.

    Attributes:
        name: of the function.
        text: what has to be true, in a sentence.
        examples: what it is tried on.
        check: says what is wrong.
        broken: what is raised then; a class for each law, so that an example is made smaller for one law only.
    """

    name: str
    text: str
    examples: Callable[[], st.SearchStrategy[Any]]
    check: Callable[[Trial, Any], str | None]
    broken: type[LawBroken]

    def __call__(self, trial: Trial, example: Any) -> None:
        """Judge one example.

        Raises:
            LawBroken: the law is.
        """
        complaint = self.check(trial, example)
        if complaint is not None:
            history = told(example if isinstance(example, Sequence) else [example])
            raise self.broken(f"{self.name}: {self.text}\n  {complaint}\n  This is what happened:\n{history}")


def law(examples: Callable[[], st.SearchStrategy[Any]]) -> Callable[[Callable[[Trial, Any], str | None]], Law]:
    """Make a law of a function, whose docstring's first line is its text.

    Args:
        examples: what it is tried on.
    """

    def made(check: Callable[[Trial, Any], str | None]) -> Law:
        name, text = check.__name__, (check.__doc__ or "").strip().splitlines()[0]
        return Law(name, text, examples, check, type("LawBroken", (LawBroken,), {"law": name}))

    return made
