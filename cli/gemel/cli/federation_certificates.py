"""`gemel federation rotate-tls|rotate-ca`: certificates are renewed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gemel.cli.federation_home import Home, open_home, show_pairs
from gemel.cli.output import Format, FormatOption, emit, failures, say


def rotate_tls(
    home: Home,
    *,
    days: Annotated[int, typer.Option(min=1, max=825, help="Validity of the new certificate.")] = 365,
    output: FormatOption = Format.TABLE,
) -> None:
    """A fresh certificate and key for the outer ports, under the same CA: no hospital has to do anything."""
    with failures(output):
        from gemel.server import federation_setup

        config, _, _ = open_home(home)
        made = federation_setup.rotate(home, config, days=days)
        result = {
            "names": list(made.names),
            "not_after": made.not_after.isoformat(),
            "days_left": made.days_left(),
            "serial": made.serial,
        }
    emit(result, output, render=lambda console: show_pairs(console, result))
    say("Let nginx read it: `systemctl reload gemel-proxy`, or `nginx -c HOME/nginx/nginx.conf -s reload`.")


def rotate_ca(
    home: Home,
    *,
    switch: Annotated[
        bool, typer.Option("--switch", help="Use the CA that was prepared; the coordinator must not run.")
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Replace the federation's CA, in two steps: prepare it and give it to every hospital; then switch."""
    with failures(output):
        from gemel.core.errors import GemelError
        from gemel.core.pki import read_certificate
        from gemel.server import federation_setup
        from gemel.server.supervisor import running_pid

        config, _, _ = open_home(home)
        if switch and running_pid(home):
            raise GemelError(
                "GEM525", "Stop the coordinator first: what runs still shows the old certificates."
            )
        if switch:
            federation_setup.switch_ca(home, config)
        path = home / "tls" / "ca.crt" if switch else federation_setup.prepare_ca(home)
        made = read_certificate(path)
        result = {"file": str(path), "sha256": made.sha256, "not_after": made.not_after.isoformat()}
    emit(result, output, render=lambda console: show_pairs(console, result))
    if switch:
        say(
            "Start the coordinator and reload nginx. Kits of before are void: invite again who has not joined."
        )
    else:
        say(
            "Each hospital compares the fingerprint and adds the file to its node's tls/ca.crt. Then, with --switch."
        )


def certificate_rows(home: Path) -> dict[str, dict[str, Any]]:
    """What each certificate of a home says, by what it is for."""
    from gemel.server import federation_setup

    return {
        what: {
            "sha256": made.sha256,
            "not_after": f"{made.not_after:%Y-%m-%d}",
            "days_left": made.days_left(),
            "names": list(made.names),
        }
        for what, made in federation_setup.certificates(home).items()
    }
