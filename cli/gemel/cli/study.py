"""`gemel study`: a data scientist's studies, from the first draft to what they brought."""

from __future__ import annotations

import typer

from gemel.cli import study_draft, study_life, study_login, study_token
from gemel.cli.simulate import simulate

app = typer.Typer(
    help="Studies: write, price, sign, submit, follow, stop, resume; what they brought.", no_args_is_help=True
)
app.command("login", no_args_is_help=True)(study_login.login)
app.command("logout")(study_login.logout)
app.command("token")(study_token.token)
app.command("key")(study_draft.key)
app.command("new", no_args_is_help=True)(study_draft.new)
app.command("show", no_args_is_help=True)(study_draft.show)
app.command("sign", no_args_is_help=True)(study_draft.sign)
app.command("submit", no_args_is_help=True)(study_life.submit)
app.command("list")(study_life.list_)
app.command("watch", no_args_is_help=True)(study_life.watch)
app.command("stop", no_args_is_help=True)(study_life.stop)
app.command("resume", no_args_is_help=True)(study_life.resume)
app.command("certificate", no_args_is_help=True)(study_life.certificate)
app.command("pull", no_args_is_help=True)(study_life.pull)
app.command("simulate", no_args_is_help=True)(simulate)
