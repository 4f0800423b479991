"""The packages of Debian and Arch: installed, upgraded during calls, removed, and not beside systemd/install."""

import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

import host
import test_install
from host import run

PACKAGES = Path("/src/target/package")
INSTALL = test_install.INSTALL
FILES = {path.replace("/usr/local", "/usr"): mode for path, mode in test_install.FILES.items()}
UNITS = ["buildbtw-systemctl.socket", "buildbtw-hook.socket", "buildbtw.target"]
TEMPLATES = ["buildbtw-hook@.service", "buildbtw-systemctl@.service"]

PACMAN_CONF = Path("/run/pacman.conf")
# What Arch's systemd package has pacman do; Debian's pacman comes without.
HOOK = """\
[Trigger]
Type=Path
Operation=Install
Operation=Upgrade
Operation=Remove
Target={target}
[Action]
When=PostTransaction
Exec={command}
"""
HOOKS = {
    "20-sysusers": ("usr/lib/sysusers.d/*.conf", "/usr/bin/systemd-sysusers"),
    "30-catalog": ("usr/lib/systemd/catalog/*", "/usr/bin/journalctl --update-catalog"),
    "30-daemon-reload": ("usr/lib/systemd/system/*", "/usr/bin/systemctl daemon-reload"),
    "30-tmpfiles": ("usr/lib/tmpfiles.d/*.conf", "/usr/bin/systemd-tmpfiles --create"),
}


def succeed(*command):
    """A command's output; it must succeed."""
    result = run(*command)
    assert result.returncode == 0, result.stdout
    return result.stdout


class Debian:
    """dpkg's words."""

    # Not dpkg's, which would replace it in the midst of calls.
    made = {"/usr/lib/buildbtw-hook/root/dev/null"}
    removal = ["dpkg", "--purge", "buildbtw-hook"]
    file = next(PACKAGES.glob("*.deb"), None)

    @staticmethod
    def install(file):
        """As apt does: another package reloads systemd between unpacking and configuring."""
        output = succeed("dpkg", "--unpack", file)
        succeed("systemctl", "daemon-reload")
        return output + succeed("dpkg", "--configure", "buildbtw-hook")

    @staticmethod
    def refused(file):
        """What it says instead of being installed."""
        result = run("dpkg", "--install", file)
        assert result.returncode == 1
        return result.stdout

    @staticmethod
    def start(output):
        """A package of Debian starts what it brings."""

    @staticmethod
    def remove():
        return succeed("dpkg", "--remove", "buildbtw-hook")

    @staticmethod
    def forget():
        """Removes what a removal leaves."""
        succeed("dpkg", "--purge", "buildbtw-hook")

    @classmethod
    def changed(cls, work, edit):
        """A package of the next version, its files as `edit` leaves them."""
        succeed("dpkg-deb", "--raw-extract", cls.file, work)
        control = work / "DEBIAN/control"
        control.write_text(re.sub("(?m)^Version: .*", "Version: 9", control.read_text()))
        edit(work)
        succeed("dpkg-deb", "--build", work, "/run/changed.deb")
        return "/run/changed.deb"


class Arch:
    """pacman's words."""

    made = set()
    removal = ["pacman", "-Rdd", "--noconfirm", "buildbtw-hook"]
    file = next(PACKAGES.glob("*.pkg.tar.*"), None)

    @staticmethod
    def install(file):
        # No dependency of it is a package of pacman's here.
        return succeed("pacman", "--config", PACMAN_CONF, "-Udd", "--noconfirm", file)

    @classmethod
    def refused(cls, file):
        """pacman does not listen to a package; what that says."""
        return cls.install(file)

    @staticmethod
    def start(output):
        """A package of Arch says how to."""
        (line,) = re.findall("systemctl enable --now .*", output)
        succeed(*line.split())

    @staticmethod
    def remove():
        return succeed("pacman", "-Rdd", "--noconfirm", "buildbtw-hook")

    @staticmethod
    def forget():
        """As the removal says, by hand."""
        shutil.rmtree("/etc/buildbtw-hook")
        for directory in (host.STATE, host.WANTS):
            shutil.rmtree(directory)

    @classmethod
    def changed(cls, work, edit):
        """A package of the next version, its files as `edit` leaves them."""
        work.mkdir()
        succeed("tar", "-C", work, "-xf", cls.file)
        info = work / ".PKGINFO"
        info.write_text(re.sub("(?m)^pkgver = .*", "pkgver = 9-1", info.read_text()))
        edit(work)
        file = "/run/changed.pkg.tar.gz"
        succeed("tar", "-C", work, "-czf", file, ".PKGINFO", ".INSTALL", ".MTREE", "usr")
        return file


@pytest.fixture(scope="module", autouse=True)
def pacman_hooks():
    """The machine as far as pacman sees it."""
    directory = Path("/etc/pacman.d/hooks")
    directory.mkdir(parents=True, exist_ok=True)
    # The package is ours, and signed by nobody.
    PACMAN_CONF.write_text("[options]\nArchitecture = auto\nSigLevel = Never\nLocalFileSigLevel = Never\n")
    for name, (target, command) in HOOKS.items():
        (directory / f"{name}.hook").write_text(HOOK.format(target=target, command=command))
    yield
    shutil.rmtree(directory)


@pytest.fixture(params=[Debian, Arch], ids=["debian", "arch"])
def package(request):
    """A package; the host is left with the program of systemd/install and its token."""
    assert request.param.file, "tests/packages builds them"
    token = host.TOKEN_FILE.read_bytes()
    yield request.param
    run("dpkg", "--purge", "buildbtw-hook")
    run("pacman", "-Rdd", "--noconfirm", "buildbtw-hook")
    host.TOKEN_FILE.parent.mkdir(exist_ok=True)
    host.TOKEN_FILE.write_bytes(token)
    host.TOKEN_FILE.chmod(0o600)
    subprocess.run([INSTALL], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def bare(package):
    """The host without the program, its token and what it knew."""
    succeed(INSTALL, "--uninstall")
    shutil.rmtree("/etc/buildbtw-hook")
    return package


def callers():
    """Callers who come one after another on both addresses; the list has what they were told."""

    def told(transport):
        try:
            return host.undeploy("nobody", transport=transport).status
        except AssertionError as lost:
            return str(lost)

    return host.repeated(*(partial(told, transport) for transport in host.TRANSPORTS * 2))


def running():
    """The containers of two branches."""
    return [host.container(branch) for branch in ("main", "feature-x")]


@pytest.mark.each_suite
def test_installed_upgraded_and_removed(bare, tmp_path):
    bare.start(bare.install(bare.file))
    # systemd mounts on these, and would make those that are missing.
    for directory in ("dev", "proc", "run", "sys"):
        assert Path("/usr/lib/buildbtw-hook/root", directory).is_dir()
    (manual,) = Path("/usr/share/man/man8").glob("buildbtw-hook.8*")
    modes = {path: mode for path, mode in FILES.items() if not path.endswith(".8")} | {str(manual): 0o644}
    assert {path: Path(path).stat().st_mode & 0o7777 for path in modes} == modes
    assert re.fullmatch(test_install.UUID, host.token())
    assert oct(host.TOKEN_FILE.stat().st_mode) == "0o100600"
    for branch in ("main", "feature-x"):
        assert host.deploy(branch, transport="tcp").status == 200
    for unit in UNITS:
        assert run("systemctl", "is-enabled", unit).stdout == "enabled\n"
    assert host.host_state() == "running"
    token, containers = host.token(), running()

    def edit(work):
        for name in ("buildbtw-systemctl", "root/usr/bin/buildbtw-hook"):
            with (work / "usr/lib/buildbtw-hook" / name).open("ab") as executable:
                executable.write(b"newer")
        for template in TEMPLATES:
            with (work / "usr/lib/systemd/system" / template).open("a") as unit:
                unit.write("Environment=NEWER=1\n")

    sockets = [host.unit(unit, "InvocationID") for unit in UNITS]
    made = {path: Path(path).stat().st_ino for path in bare.made}
    newer = bare.changed(tmp_path / "newer", edit)
    with (
        host.held("slow") as release,
        host.in_background(lambda: host.undeploy("slow")) as under_way,
        callers() as told,
    ):
        for file in (newer, bare.file, newer):
            seen = len(told)
            host.until(lambda seen=seen: len(told) > seen + 4)
            bare.install(file)
        release()
        assert under_way.result().status == 200
    assert set(told) == {200}, [each for each in told if each != 200]
    assert Path("/usr/lib/buildbtw-hook/buildbtw-systemctl").read_bytes().endswith(b"newer")
    assert made == {path: Path(path).stat().st_ino for path in bare.made}
    for template in TEMPLATES:
        instance = host.unit(template.replace("@", "@next"), "Environment")
        assert "NEWER=1" in instance["Environment"].split()
    assert [host.unit(unit, "InvocationID") for unit in UNITS] == sockets
    assert running() == containers
    assert host.token() == token
    assert host.noted() == ["feature-x", "main"]
    assert not list(Path("/run/systemd/system").glob("buildbtw-*.service"))

    succeed("systemctl", "enable", "--now", "buildbtw-hook-expire.timer")
    bare.remove()
    assert running() == containers, "what is deployed goes on"
    assert host.token() == token
    assert {file.stem for file in host.STATE.iterdir()} == {"feature-x", "main"}
    assert run("curl", "--silent", "http://127.0.0.1:9000/").returncode == 7
    assert not Path("/usr/lib/buildbtw-hook").exists()
    assert host.host_state() == "running"
    bare.forget()
    assert not host.TOKEN_FILE.parent.exists()
    assert not host.STATE.exists()
    left = [str(path) for path in Path("/etc/systemd/system").rglob("buildbtw-*")]
    assert left == []


def test_an_upgrade_that_changes_an_address(bare, tmp_path):
    def edit(work):
        unit = work / "usr/lib/systemd/system/buildbtw-hook.socket"
        unit.write_text(unit.read_text().replace("127.0.0.1:9000", "127.0.0.1:9001"))

    bare.start(bare.install(bare.file))
    bare.install(bare.changed(tmp_path / "newer", edit))
    assert run("curl", "--silent", "http://127.0.0.1:9000/").returncode == 7
    assert run("curl", "--silent", "http://127.0.0.1:9001/").returncode == 0


def test_beside_systemd_install(package):
    """Each refuses to come beside the other, or says what to do."""
    output = package.refused(package.file)
    assert "un 'systemd/install --uninstall' of the source first" in output
    run(*package.removal)
    succeed(INSTALL, "--uninstall")
    package.start(package.install(package.file))
    for arguments in ([], ["--uninstall"]):
        refused = run(INSTALL, *arguments)
        assert refused.returncode == 1
        assert "a package is installed, use that: " in refused.stdout
