"""The servers, as processes on a temporary directory: hosts, and nginx where it is installed.

Each is a context manager that yields only when its server answers, and ends the process on leaving: asked first, killed
if it does not go. They run in sessions of their own, so that Ctrl-C reaches the caller alone, who ends them in order.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pvblob.cli.fleet.counters import family
from pvblob.cli.fleet.workers.contract import Address
from pvblob.errors import PvblobError

READY_S_MAX = 30.0
STOP_S_MAX = 15.0
_NGINX_CONFIG = """\
{user}daemon off;
worker_processes {workers};
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  sendfile on;
  sendfile_max_chunk 2m;
  tcp_nopush on;
  tcp_nodelay on;
  keepalive_timeout 300;
  keepalive_requests 100000000;
  {cache}
  client_max_body_size 0;
  client_body_buffer_size 1m;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  types {{ }}
  default_type application/octet-stream;
  server {{
    listen 127.0.0.1:{port} backlog=1024 reuseport;
    root {directory}/www;
    dav_methods PUT;
  }}
}}
"""
# What is read never changes; what is written would be served from the files before.
_CACHE_OF_CONSTANT_FILES = "open_file_cache max=1000 inactive=600s; open_file_cache_valid 600s;"


class ServerFailure(PvblobError):
    """A server did not start; the text holds what it said."""


class Server(NamedTuple):
    """A running server. pid: 0 for none.  addresses: by protocol.  settings: for the reader of the results."""

    pid: int
    addresses: dict[str, Address]
    settings: str

    def pids(self) -> list[int]:
        """Return the processes whose CPU time is the server's."""
        return family(self.pid) if self.pid else []


@contextmanager
def host(
    directory: Path, name: str, durability: str, environment: Mapping[str, str], config: Path | None = None
) -> Iterator[Server]:
    """Run `pvblob serve` on a fresh store in *directory*, with its HTTP front on a free port. Raises ServerFailure.

    environment: its `PVBLOB_*` settings beyond these.  config: its settings file.
    """
    command = [sys.executable, "-m", "pvblob.cli.app", "serve", "--json", "--http", "127.0.0.1:0"]
    command += ["--socket", str(directory / f"{name}.sock"), "--store", str(directory / name)]
    command += ["--durability", durability]
    command += ["--config", str(config)] if config else []
    # Nobody's settings but these: no PVBLOB_* variable, no pvblob.toml of the working directory.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PVBLOB_")}
    with _process(command, directory, name, inherited | dict(environment)) as process:
        ready = json.loads(_first_line(process, directory, name))
        settings = f"pvblob serve, durability {ready['durability']}, store on {file_system(directory)}"
        for key, value in environment.items():
            settings += f", {key.removeprefix('PVBLOB_').lower()} {value}"
        channel = Address("channel", socket=ready["socket"])
        yield Server(ready["pid"], {"channel": channel, "azure": Address("azure", url=ready["http"])}, settings)


def nginx_program() -> str | None:
    """Return the path of nginx, None where it is not installed."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def nginx(directory: Path, program: str, *, writes: bool) -> Iterator[Server]:
    """Run nginx for the files in `www` of *directory*: static with sendfile, and WebDAV PUT. Raises ServerFailure.

    writes: files will change, so none is kept open.
    """
    port, workers = _free_port(), os.cpu_count() or 1
    config = directory / "nginx.conf"
    # As root nginx would give its workers to "nobody", who may not look into a temporary directory.
    user = "user root;\n" if os.geteuid() == 0 else ""
    cache = "" if writes else _CACHE_OF_CONSTANT_FILES
    text = _NGINX_CONFIG.format(user=user, workers=workers, directory=directory, port=port, cache=cache)
    config.write_text(text, "utf-8")
    with _process([program, "-c", str(config), "-p", str(directory)], directory, "nginx", None) as process:
        _wait_for_port(process, port, directory)
        how = "WebDAV" if writes else "sendfile, open_file_cache"
        settings = f"nginx {_nginx_version(program)}, {workers} workers, {how}, files on {file_system(directory)}"
        yield Server(process.pid, {"http": Address("http", url=f"http://127.0.0.1:{port}")}, settings)


@contextmanager
def _process(
    command: list[str], directory: Path, name: str, environment: dict[str, str] | None
) -> Iterator[subprocess.Popen[str]]:
    with (directory / f"{name}.err").open("wb") as errors:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """End *process*: SIGTERM, and SIGKILL if it has not gone in time."""
    process.terminate()
    try:
        process.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _first_line(process: subprocess.Popen[str], directory: Path, name: str) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ServerFailure(f"the host did not start: {_last_words(directory, name)}")
    return line


def _wait_for_port(process: subprocess.Popen[str], port: int, directory: Path) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise ServerFailure(f"nginx did not start: {_last_words(directory, 'nginx')}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _last_words(directory: Path, name: str) -> str:
    return (directory / f"{name}.err").read_text("utf-8", "replace").strip()[-2000:] or "it said nothing"


def _nginx_version(program: str) -> str:
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
    return said.rpartition("/")[2].strip()


def file_system(directory: Path) -> str:
    """Return the type of the file system that holds *directory*: the longest mount point above it."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text("utf-8").splitlines()]
    above = [(len(point), kind) for point, kind in mounts if directory.resolve().is_relative_to(point)]
    return max(above)[1] if above else "an unknown file system"
