"""systemd/install: puts the program in place, upgrades it, and removes it."""

import hashlib
import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import host
from host import run

SOURCE = Path(__file__).parent.parent.parent
INSTALL = SOURCE / "systemd/install"
TOKEN = str(host.TOKEN_FILE)

# What an installation consists of.
FILES = """\
/usr/local/lib/buildbtw-hook/buildbtw-hook-expire
/usr/local/lib/buildbtw-hook/buildbtw-systemctl
/usr/local/lib/buildbtw-hook/root/dev/null
/usr/local/lib/buildbtw-hook/root/usr/local/bin/buildbtw-hook
/usr/local/lib/systemd/catalog/buildbtw-hook.catalog
/usr/local/lib/systemd/system/buildbtw-hook-expire.service
/usr/local/lib/systemd/system/buildbtw-hook-expire.timer
/usr/local/lib/systemd/system/buildbtw-hook-token.service
/usr/local/lib/systemd/system/buildbtw-hook.socket
/usr/local/lib/systemd/system/buildbtw-hook@.service
/usr/local/lib/systemd/system/buildbtw-systemctl.socket
/usr/local/lib/systemd/system/buildbtw-systemctl@.service
/usr/local/lib/systemd/system/buildbtw.target
/usr/local/lib/sysusers.d/buildbtw-hook.conf
/usr/local/lib/tmpfiles.d/buildbtw-hook.conf
/usr/local/share/man/man8/buildbtw-hook.8
""".split()
NAMES = {Path(file).name for file in FILES} | {"buildbtw-hook.sysusers", "buildbtw-hook.tmpfiles"}
NO_EXAMPLES = NAMES | {"README.md", "install", "package"}
EXAMPLES = [file.name for file in INSTALL.parent.iterdir() if file.is_file() and file.name not in NO_EXAMPLES]
FILES += [f"/usr/local/share/doc/buildbtw-hook/examples/{name}" for name in EXAMPLES]
# Each with its mode; programs have no suffix.
FILES = {file: 0o644 if Path(file).suffix or file.endswith("/dev/null") else 0o755 for file in FILES}
UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# What it makes of the host besides.
MADE = {
    "/etc/systemd/system/multi-user.target.wants/buildbtw.target",
    "/etc/systemd/system/sockets.target.wants/buildbtw-hook.socket",
    "/etc/systemd/system/sockets.target.wants/buildbtw-systemctl.socket",
    "/run/buildbtw-hook.sock",
    "/run/buildbtw-systemctl.sock",
    "/usr/local/bin/buildbtw-hook",
}


def files():
    """Every file of the host that an installation could touch, and a digest of it."""
    found = {}
    roots = [
        "/etc",
        "/usr/local/bin",
        "/usr/local/lib",
        "/usr/local/share",
        "/usr/lib/systemd",
        "/usr/lib/sysusers.d",
    ]
    for path in itertools.chain.from_iterable(Path(root).rglob("*") for root in roots):
        if path.is_symlink():
            found[str(path)] = str(path.readlink())
        elif path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in Path("/run").glob("buildbtw-*.sock"):
        found[str(path)] = ""
    return found


@pytest.fixture
def tree(tmp_path):
    """A copy of what an installation is made from, to be changed; anyone may read it."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:-2]:
        parent.chmod(0o755)
    shutil.copytree(SOURCE / "systemd", tmp_path / "systemd")
    (tmp_path / "target/release").mkdir(parents=True)
    for name in ("buildbtw-hook", "buildbtw-systemctl"):
        shutil.copy(SOURCE / "target/release" / name, tmp_path / "target/release")
    return tmp_path


@pytest.fixture
def reinstalled():
    """The host is left with the program, whatever a test did."""
    yield
    subprocess.run([INSTALL], check=True, stdout=subprocess.DEVNULL)


def test_upgrade_in_place(tree, reinstalled):
    before, token = files(), host.token()
    socket = host.unit("buildbtw-hook.socket", "InvocationID")
    executable = tree / "target/release/buildbtw-hook"
    executable.write_bytes(executable.read_bytes() + b"\n# a newer one")
    # A call is under way and another one waits for its client, when the new program comes.
    with (
        host.held("feature-x") as release,
        host.in_background(lambda: host.deploy("feature-x")) as under_way,
        host.connect("tcp") as waiting,
    ):
        host.until(lambda: len(host.processes()) == 2)
        result = run(tree / "systemd/install")
        assert result.returncode == 0, result.stdout
        waiting.sendall(host.request("/hooks/undeploy-branch?branch=main", credentials=token))
        assert host.answer_on(waiting).status == 200
        release()
        assert under_way.result().status == 200
    assert host.undeploy("feature-x").status == 200
    after = files()
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed == {"/usr/local/lib/buildbtw-hook/root/usr/local/bin/buildbtw-hook"}
    assert host.token() == token
    assert "random token" not in result.stdout
    assert host.unit("buildbtw-hook.socket", "InvocationID") == socket, "no caller was dropped"


def test_upgrade_of_the_socket(tree, reinstalled):
    unit = tree / "systemd/buildbtw-hook.socket"
    unit.write_text(unit.read_text().replace("127.0.0.1:9000", "127.0.0.1:9001"))
    result = run(tree / "systemd/install")
    assert result.returncode == 0, result.stdout
    assert run("curl", "--silent", "http://127.0.0.1:9000/").returncode == 7
    (line,) = re.findall("(?m)^curl .*", result.stdout)
    assert "http://127.0.0.1:9001/" in line
    assert run("sh", "-c", f"{line} --silent").stdout.startswith("branch main is deployed")


@pytest.mark.each_suite
def test_uninstall_and_install_again(reinstalled):
    installed, token = files(), host.TOKEN_FILE.read_bytes()
    assert FILES.keys() | MADE | {TOKEN} <= installed.keys()
    assert {path: Path(path).stat().st_mode & 0o7777 for path in FILES} == FILES
    assert {Path(path).owner() for path in FILES} == {"root"}
    assert host.deploy("main").status == 200
    assert host.STATE.exists()

    result = run(INSTALL, "--uninstall")
    assert result.returncode == 0, result.stdout
    assert TOKEN in result.stdout
    left = files()
    assert installed.keys() - left.keys() == FILES.keys() | MADE
    assert left.keys() - installed.keys() == set()
    # The list of users is another one; its older copy has the user still.
    changed = {path for path in left if left[path] != installed[path]}
    assert changed <= {f"/etc/{name}{copy}" for copy in ("", "-")
                       for name in ("passwd", "shadow", "group", "gshadow")}  # fmt: skip
    assert host.TOKEN_FILE.read_bytes() == token
    assert not host.STATE.exists()
    assert run("getent", "passwd", host.USER).returncode == 2
    assert run("getent", "group", host.USER).returncode == 2
    assert run("systemctl", "cat", "buildbtw-hook.socket").returncode != 0
    assert run("curl", "--silent", "http://127.0.0.1:9000/").returncode == 7
    assert host.host_state() == "running"
    assert host.state("main") == "active", "what is deployed goes on"

    assert run(INSTALL, "--uninstall").returncode == 0, "again, with nothing there"

    assert run(INSTALL).returncode == 0
    again = files()
    assert again.keys() == installed.keys()
    assert all(again[path] == installed[path] for path in FILES)
    assert host.TOKEN_FILE.read_bytes() == token
    assert host.undeploy("main").status == 200


def test_a_token_is_made_where_there_is_none(token_file):
    """By an installation, and by the socket of a copied image."""
    kept = host.token()
    host.systemctl("restart", "buildbtw-hook.socket")
    assert host.token() == kept
    shutil.rmtree(token_file.parent)
    result = run(INSTALL)
    assert "making a random token" in result.stdout
    first = host.token()
    assert re.fullmatch(UUID, first)
    assert first not in result.stdout
    made = token_file.stat()
    assert (made.st_uid, made.st_gid, oct(made.st_mode)) == (0, 0, "0o100600")
    token_file.unlink()
    host.systemctl("restart", "buildbtw-hook.socket")
    assert len({kept, first, host.token()}) == 3
    assert [file.name for file in token_file.parent.iterdir()] == ["token"]
    assert host.undeploy("main").status == 200


def test_destdir_leaves_the_live_system_alone(tree):
    """As a package is made: by an ordinary user, who leaves the live system alone."""
    destination = tree / "destination"
    destination.mkdir()
    destination.chmod(0o777)
    before = files()
    socket = host.unit("buildbtw-hook.socket", "InvocationID")
    as_nobody = ["runuser", "-u", "nobody", "--", "env", f"DESTDIR={destination}", "PREFIX=/opt/b"]
    result = run(*as_nobody, tree / "systemd/install")
    assert (result.returncode, result.stdout) == (0, "")
    found = [path for path in destination.rglob("*") if path.is_file() and not path.is_symlink()]
    put = {f"/{path.relative_to(destination)}": path for path in found}
    elsewhere = {path.replace("/usr/local", "/opt/b"): mode for path, mode in FILES.items()}
    assert {path: file.stat().st_mode & 0o7777 for path, file in put.items()} == elsewhere
    for path in found:
        if path.parent.name == "examples":
            # What they name is the operator's.
            assert path.read_bytes() == (tree / "systemd" / path.name).read_bytes()
        elif path.suffix == ".service":
            assert "/usr/local" not in path.read_text(), path
    executable = destination / "opt/b/bin/buildbtw-hook"
    assert executable.resolve() == put["/opt/b/lib/buildbtw-hook/root/opt/b/bin/buildbtw-hook"]

    assert run(*as_nobody, tree / "systemd/install", "--uninstall").returncode == 0
    assert [path for path in destination.rglob("*") if path.is_file()] == []
    assert (files(), host.unit("buildbtw-hook.socket", "InvocationID")) == (before, socket)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("rm target/release/buildbtw-hook; systemd/install", "run 'cargo build --release' first"),
        ("PREFIX=/opt/b systemd/install", "PREFIX=/opt/b needs a DESTDIR"),
        ("runuser -u nobody -- systemd/install --uninstall", "as root: sudo systemd/install --uninstall"),
        ("systemd/install --remove", "usage: systemd/install [--uninstall]"),
    ],
)
def test_install_refuses(command, words, tree):
    before = files()
    result = run("sh", "-c", command, cwd=tree)
    assert result.returncode == 1
    (line,) = result.stdout.splitlines()
    assert line.startswith("systemd/install: ")
    assert words in line
    assert files() == before
