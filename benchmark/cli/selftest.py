"""`selftest`: the promises that every method and policy must keep, also those of a plug-in."""

from __future__ import annotations

from pathlib import Path

import click

from benchmark.errors import EXIT_FAILED, EXIT_OK


@click.command(
    epilog="""\b
Example:
  python -m benchmark selftest --plugin my_method.py"""
)
@click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="Python file that registers more."
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on stdout.")
def selftest(plugins: tuple[Path, ...], as_json: bool) -> int:
    """Run the conformance checks on every registered method and policy; exit 1 if one fails."""
    import json

    from benchmark import registry
    from benchmark.cli.tables import plain_table

    for plugin in plugins:
        registry.load_plugin(plugin)

    from benchmark.conformance import check_all

    findings = check_all()
    failed = sum(not finding.passed for finding in findings)
    rows = [
        [finding.subject, finding.promise, "passed" if finding.passed else f"FAILED: {finding.detail}"]
        for finding in findings
    ]
    click.echo(plain_table(("subject", "promise", "result"), rows), err=as_json)
    click.echo(f"{len(findings) - failed} passed, {failed} failed", err=True)
    if as_json:
        click.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    return EXIT_FAILED if failed else EXIT_OK
