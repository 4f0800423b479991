//! Without a connection.

use std::fs;
use std::os::unix::net::UnixDatagram;

use super::harness::*;

#[test]
fn started_by_hand_it_says_what_it_is_for() {
    let host = Host::new();
    let usage = "buildbtw-hook serves one HTTP request on a connection that systemd accepted.";
    let version = concat!("buildbtw-hook ", env!("CARGO_PKG_VERSION"), "\n");
    let elsewhere = Host::new().set("LISTEN_FDS", "1").set("LISTEN_PID", "1");
    for (host, arguments, status, stdout, stderr) in [
        (&host, &["--version"][..], 0, version, ""),
        (&host, &["--help"], 0, usage, ""),
        (&host, &[], 2, "", "no connection was passed"),
        (&elsewhere, &[], 2, "", "no connection was passed"),
        (&host, &["--nonsense"], 2, "", "it takes no argument \"--nonsense\""),
        (&host, &[""], 2, "", "it takes no argument \"\""),
    ] {
        let output = host.run(EXE, arguments);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(stdout), "{output:?}");
        assert_eq!(output.stdout.is_empty(), status != 0, "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(stderr), "{output:?}");
        assert_eq!(text.contains(usage), status != 0, "{output:?}");
    }
    let (datagram, _peer) = UnixDatagram::pair().expect("a socket");
    for passed in [datagram.into(), fs::File::open("/dev/null").expect("a file").into()] {
        let output = host.start(passed).wait();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(usage), "{output:?}");
        assert_eq!(output.stdout, b"");
    }
}
