//! Without a connection.

use std::os::unix::net::UnixDatagram;

use super::harness::*;

#[test]
fn started_by_hand_it_says_what_it_is_for() {
    let host = Host::new();
    let usage = "buildbtw-hook serves one HTTP request on a connection that systemd accepted.";
    let version = concat!("buildbtw-hook ", env!("CARGO_PKG_VERSION"), "\n");
    let root_side = "buildbtw-systemctl carries out one order of buildbtw-hook";
    for (executable, arguments, status, stdout, stderr) in [
        (EXE, &["--version"][..], 0, version, ""),
        (EXE, &["--help"], 0, usage, ""),
        (EXE, &[], 2, "", "no connection was passed"),
        (EXE, &["--nonsense"], 2, "", "it takes no argument \"--nonsense\""),
        (ROOT_SIDE, &[], 2, "", "stdin is not a connection"),
        (ROOT_SIDE, &["deploy"], 2, "", "it takes no argument \"deploy\""),
    ] {
        let output = host.run(executable, arguments);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(stdout), "{output:?}");
        assert_eq!(output.stdout.is_empty(), status != 0, "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(stderr), "{output:?}");
        assert_eq!(text.contains(usage) || text.contains(root_side), status != 0, "{output:?}");
    }
    assert_eq!(host.take_calls(), NOT_RUN);
    let (datagram, _peer) = UnixDatagram::pair().expect("a socket");
    let output = host.start(datagram.into()).wait();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(usage), "{output:?}");
}
