"""A group of commands that names near matches of one it does not know."""

from __future__ import annotations

import click

from benchmark.errors import near_matches


class Suggesting(click.Group):
    """As click's, with `Did you mean` also where this version of click does not say so."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if "Did you mean" not in error.message:  # newer versions of click say so themselves
                raise click.UsageError(
                    f"{error.message} {near_matches(args[0], self.commands)}".strip(), ctx
                ) from error
            raise
