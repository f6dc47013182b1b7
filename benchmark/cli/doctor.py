"""`doctor`: what this machine offers, and what stands in the way."""

from __future__ import annotations

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on stdout.")
def doctor(as_json: bool) -> None:
    """Check packages, device, numerics, disk and datasets."""
    import json
    import shutil
    from pathlib import Path

    import torch

    from benchmark import registry
    from benchmark.cli.tables import plain_table
    from benchmark.errors import BenchmarkError
    from benchmark.numerics import choose_device, numerics, torch_flags
    from benchmark.provenance import device_name, git_state, versions

    device = choose_device("auto")
    with numerics("fp32", device):
        flags = torch_flags()
    findings: dict[str, str] = {
        **versions(),
        "device": device_name(device),
        "gpus": str(torch.cuda.device_count()),
        "tf32 in fp32 runs": "off" if not (flags["cuda.matmul.allow_tf32"] or flags["cudnn.allow_tf32"]) else "ON",
        "free disk here": f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB",
        "sbatch": "found" if shutil.which("sbatch") else "not found",
        "commit": str(git_state()["git_sha"] or "not a git checkout"),
    }
    for name in registry.names("datasets"):
        try:
            registry.load("datasets", name)(None)
            findings[f"dataset {name}"] = "found"
        except BenchmarkError as error:
            findings[f"dataset {name}"] = f"not found ({str(error).splitlines()[-1]})"
    if as_json:
        click.echo(json.dumps(findings, indent=2))
        return
    click.echo(plain_table(("what", "found"), [[key, value] for key, value in findings.items()]))
