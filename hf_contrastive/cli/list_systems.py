"""`hf-contrastive list`: the table of systems."""

from __future__ import annotations

from typing import Annotated

import typer

from hf_contrastive.cli.common import WrongUsage, examples, print_json, print_line, print_table


EXAMPLES = examples("hf-contrastive list", "hf-contrastive list --domain image", "hf-contrastive list --json")


def command(
    domain: Annotated[str | None, typer.Option(help="Only systems for this kind of data, for example image.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show the systems of the library: what each is for and the command to try it."""
    from hf_contrastive.registry import list_systems

    rows = list_systems()
    domains = sorted({row.domain for row in rows})
    if domain is not None and domain not in domains:
        raise WrongUsage(f"no system has the domain {domain!r}; the domains are: {', '.join(domains)}.")
    rows = [row for row in rows if domain in (None, row.domain)]
    if as_json:
        names = ("slug", "title", "domain", "task", "status", "summary", "year", "paper_title", "paper_url", "recipe")
        print_json(
            [
                {**{name: getattr(row, name) for name in names}, "try": f"hf-contrastive train {row.slug}"}
                for row in rows
            ]
        )
        return
    print_table(
        ["system", "title", "domain", "task", "status", "try"],
        [[row.slug, row.title, row.domain, row.task, row.status, f"hf-contrastive train {row.slug}"] for row in rows],
        styles={"system": "bold cyan", "try": "green"},
        no_wrap=("system", "try"),
    )
    print_line("More about one: hf-contrastive info " + (rows[0].slug if rows else "SYSTEM"), style="dim")
