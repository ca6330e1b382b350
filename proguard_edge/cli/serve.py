"""`proguard-edge serve` and `proguard-edge api-key`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from proguard_edge.cli.exit import handle_errors
from proguard_edge.cli.options import FILE, guard_options, server_options
from proguard_edge.errors import InputError

if TYPE_CHECKING:
    from proguard_edge.policy import Policy
    from proguard_edge.serve.settings import Settings

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@guard_options
@server_options
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Engines.")
@click.option("--policies", type=FILE, help="Folder of policy files that requests may name.")
@click.option("--inline-policies/--no-inline-policies", default=True, show_default=True)
@click.option("--api-keys", type=FILE, help="File of keys; see `proguard-edge api-key`.")
@click.option("--no-auth", is_flag=True, help="Serve an address that others reach without keys.")
@click.option("--allowed-host", "hosts", multiple=True, help="What the Host header may say.")
@click.option("--certificate", type=FILE, help="TLS: PEM certificate chain.")
@click.option("--key", type=FILE, help="TLS: PEM private key.")
@click.option("--audit", type=FILE, help="Folder of the audit log.  [default: none]")
@click.option("--audit-key", type=FILE, help="Its key, better kept elsewhere.")
@click.option("--queue", type=click.IntRange(1), default=256, show_default=True)
@click.option(
    "--max-wait",
    type=click.FloatRange(0),
    help="Seconds of expected waiting from which requests are turned away (429); a few times a "
    "verdict's own keeps latencies short.  [default: half of --deadline]",
)
@click.option("--deadline", type=click.FloatRange(0.1), default=30.0, show_default=True)
@click.option("--max-body-mb", type=click.IntRange(1), default=32, show_default=True)
@click.option(
    "--header-seconds",
    type=click.FloatRange(0.1),
    default=10.0,
    show_default=True,
    help="In which a client must have sent its header; three times as long for the body.",
)
@click.option("--access-log", is_flag=True, help="A line for each request on stderr.")
@handle_errors
def serve(
    host: str,
    port: int,
    certificate: Path | None,
    key: Path | None,
    access_log: bool,
    **options: Any,
) -> None:
    """Moderate over HTTP: OpenAI's /v1/moderations, /v1/verdicts, a page to see it.

    SIGTERM and Ctrl-C: no new connections, what is under way is answered, exit code 0.
    """
    try:
        from proguard_edge.serve.run import Listen, run
    except ModuleNotFoundError as error:
        from proguard_edge.environments import make_it

        how = f"{make_it('serve')}, or pip install 'proguard-edge[serve]'"
        raise InputError(f"needs {error.name}: {how}") from None
    if (certificate is None) != (key is None):
        raise click.UsageError("--certificate and --key go together")
    settings = _settings(host, **options)
    shown = f"[{host}]" if ":" in host else host
    scheme = "https" if certificate else "http"
    click.echo("loading", err=True)

    def ready(name: str, port: int) -> None:
        click.echo(f"{name} judges on {scheme}://{shown}:{port}", err=True)

    run(settings, Listen(host, port, certificate, key, access_log), ready)


def _settings(
    host: str,
    *,
    policy_file: Path | None,
    policies: Path | None,
    mode: Literal["verdict", "reason"],
    workers: int,
    api_keys: Path | None,
    no_auth: bool,
    hosts: tuple[str, ...],
    audit: Path | None,
    audit_key: Path | None,
    inline_policies: bool,
    queue: int,
    max_wait: float | None,
    deadline: float,
    max_body_mb: int,
    header_seconds: float,
    **loading: Any,
) -> Settings:
    from proguard_edge.policy import Policy
    from proguard_edge.serve.keys import read_keys
    from proguard_edge.serve.pool import Limits
    from proguard_edge.serve.settings import Settings
    from proguard_edge.serve.workers import GuardSpec
    from proguard_edge.signature import read_key
    from proguard_edge.system import cores

    if host not in LOOPBACK and api_keys is None and not no_auth:
        raise click.UsageError(
            f"{host} can be reached by others: give --api-keys, or --no-auth if they all may"
        )
    own = Policy.load(policy_file) if policy_file is not None else None
    named = _policies(policies)
    if loading["public_key"] is not None:
        # A worker that comes back asks for the same key, whatever lies in the file by then.
        loading["public_key"] = read_key(loading["public_key"])
    if workers > 1 and not loading["threads"]:
        # Each engine would take all cores, and they would wait for one another.
        loading["threads"] = max(1, cores() // workers)
    checked = tuple(filter(None, (own, *named.values())))
    return Settings(
        guard=GuardSpec(**loading, policies=checked),
        workers=workers,
        limits=Limits(
            queue=queue,
            max_wait_s=deadline / 2 if max_wait is None else max_wait,
            deadline_s=deadline,
        ),
        default_policy=own,
        default_mode=mode,
        policies=named,
        inline_policies=inline_policies,
        keys=read_keys(api_keys) if api_keys is not None else {},
        audit=audit,
        audit_key=audit_key,
        max_body_bytes=max_body_mb << 20,
        header_s=header_seconds,
        body_s=3 * header_seconds,
        # Another site's page could make a browser of this machine ask us, under a name of its own.
        allowed_hosts=hosts or (LOOPBACK if host in LOOPBACK else ()),
    )


def _policies(folder: Path | None) -> dict[str, Policy]:
    from proguard_edge.policy import Policy

    if folder is None:
        return {}
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder of policy files")
    files = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    if not files:
        raise InputError(f"{folder}: holds no .yaml file")
    return {path.stem: Policy.load(path) for path in files}


@click.command("api-key")
@click.argument("name")
@click.option("--file", "path", type=FILE, required=True, help="Key file to add to, or to make.")
@handle_errors
def api_key(name: str, path: Path) -> None:
    """Make an API key for NAME and print it, once; the file holds its digest alone."""
    from proguard_edge.serve.keys import new_key

    click.echo(new_key(path, name))
