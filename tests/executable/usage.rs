//! Without a connection.

use std::fs;
use std::os::unix::net::UnixDatagram;

use super::harness::*;

#[test]
fn started_by_hand_it_says_what_it_is_for() {
    let host = Host::new();
    let usage = "buildbtw-hook serves one HTTP request on a connection that systemd accepted.";
    let version = concat!("buildbtw-hook ", env!("CARGO_PKG_VERSION"), "\n");
    for (arguments, status, stdout, stderr) in [
        (&["--version"][..], 0, version, ""),
        (&["--help"], 0, usage, ""),
        (&[], 2, "", "no connection was passed"),
        (&["--nonsense"], 2, "", "it takes no argument \"--nonsense\""),
        (&["-h"], 2, "", "it takes no argument \"-h\""),
        (&[""], 2, "", "it takes no argument \"\""),
        (&["x"], 2, "", "it takes no argument \"x\""),
    ] {
        let output = host.run(arguments);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(stdout), "{output:?}");
        assert_eq!(output.stdout.is_empty(), status != 0, "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(stderr), "{output:?}");
        assert_eq!(text.contains(usage), status != 0, "{output:?}");
        assert_eq!(host.take_calls(), NOT_RUN);
    }
    let elsewhere = host.set("LISTEN_FDS", "1").set("LISTEN_PID", "1");
    assert_eq!(elsewhere.run(&[]).status.code(), Some(2));
    let (datagram, _peer) = UnixDatagram::pair().expect("a socket");
    let host = Host::new();
    for passed in [
        datagram.into(),
        fs::File::open("/dev/null").expect("a file").into(),
        fs::File::open("/").expect("a directory").into(),
    ] {
        let output = host.start(passed).wait();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(usage), "{output:?}");
        assert_eq!(output.stdout, b"");
    }
}
