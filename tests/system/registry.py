"""A way to the machine's registry that is slow or stalls, and a registry that wants a login."""

import json
import os
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import host

NAME = "localhost:5001/buildbtw"
# bcrypt of "secret", for the user "ci".
HTPASSWD = "ci:$2b$05$c3gN7t/x17uMtQfY8n3OfunYg.NLnfTja5EBrs3egms1AHUIOs1S.\n"


def image_of(tag):
    """The ID of the image that the registry has for a tag, as Podman prints it."""
    url = f"http://localhost:5000/v2/buildbtw/manifests/{tag}"
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=accept)) as answer:
        return json.load(answer)["config"]["digest"].removeprefix("sha256:")[:12]


class Line:
    """The way to the registry at localhost:5001, which lets so many bytes a second through."""

    def __init__(self):
        self.rate = None
        self._listener = socket.create_server(("127.0.0.1", 5001))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", 5000))
            for source, target, limited in [(client, server, False), (server, client, True)]:
                threading.Thread(target=self._pass, args=(source, target, limited), daemon=True).start()

    def _pass(self, source, target, limited):
        try:
            while part := source.recv(65536):
                while limited and self.rate == 0:
                    time.sleep(0.02)
                target.sendall(part)
                if limited and self.rate:
                    time.sleep(len(part) / self.rate)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        """Ends it for those who come later."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def line():
    """The pull unit's way to the registry."""
    insecure = '[[registry]]\nlocation = "localhost:5001"\ninsecure = true\n'
    texts = {
        Path("/etc/containers/registries.conf.d/line.conf"): insecure,
        Path("/etc/buildbtw/image"): f"BUILDBTW_IMAGE={NAME}\n",
    }
    with host.files(texts):
        opened = Line()
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def with_login():
    """The registry at localhost:5002, for the user "ci" with the password "secret"."""
    Path("/run/htpasswd").write_text(HTPASSWD)
    insecure = '[[registry]]\nlocation = "localhost:5002"\ninsecure = true\n'
    settings = {"HTTP_ADDR": "127.0.0.1:5002", "AUTH": "htpasswd"}
    settings |= {"AUTH_HTPASSWD_REALM": "tests", "AUTH_HTPASSWD_PATH": "/run/htpasswd"}
    environment = os.environ | {f"REGISTRY_{name}": value for name, value in settings.items()}
    command = ["docker-registry", "serve", "/etc/docker/registry/config.yml"]
    with (
        host.files({Path("/etc/containers/registries.conf.d/login.conf"): insecure}),
        subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process,
    ):
        host.until(lambda: host.run("curl", "-s", "http://localhost:5002/v2/").returncode == 0)
        try:
            yield
        finally:
            process.terminate()
