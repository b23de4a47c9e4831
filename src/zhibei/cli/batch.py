"""Several models, one after the other: one that fails does not stop the next ones, and the first failure is the exit code."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import click

from zhibei.cli import exit_codes
from zhibei.cli.invocation import Invocation
from zhibei.errors import ZhibeiError


class Batch:
    """The failures of a command on several models. Where there is only one, its failure is raised as it is."""

    def __init__(self, invocation: Invocation, num_items: int) -> None:
        self._invocation = invocation
        self._num_items = num_items
        self._code = exit_codes.OK

    @contextmanager
    def item(self) -> Generator[None, None, None]:
        """Work on one of them."""
        try:
            yield
        except ZhibeiError as error:
            if self._num_items == 1:
                raise
            self._invocation.error(error)
            self.fail(exit_codes.exit_code(error))

    def fail(self, code: int) -> None:
        """Something is not as it should be."""
        self._code = self._code or code

    def finish(self) -> None:
        """End the command with the first failure's code, if there was one."""
        if self._code != exit_codes.OK:
            raise click.exceptions.Exit(self._code)
