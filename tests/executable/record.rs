//! The record of a call.

use super::harness::*;

#[test]
fn leaves_one_record() {
    let host = Host::new();
    let x = format!("{DEPLOY}?branch=x");
    for (request, start) in [
        (deploy_x(), "deploy-branch x: 200 in "),
        (get(LIST), "list-branches -: 200 in "),
        (message(&format!("GET {x} HTTP/1.1"), &[], ""), "- -: 401 in "),
        // No line but ours.
        (
            get(&format!("{x}%0AINFO:%20deploy-branch%20y:%20200%20in%201%20ms%20for%20z")),
            "deploy-branch -: 400 in ",
        ),
    ] {
        let ended = host.call(&request).ended;
        assert!(ended.record.starts_with(start), "{ended:?}");
    }
}

#[test]
fn records_the_caller() {
    let peer = "192.0.2.7";
    for (remote, fields, caller) in [
        ("", &[][..], "local"),
        (peer, &[], peer),
        (peer, &["X-Real-IP: 198.51.100.1"], "198.51.100.1"),
        (peer, &["X-Real-IP: 198.51.100.1 HTTP_STATUS=200"], peer),
        // A name that the client of a Unix socket chose.
        ("@x: 200 in 1 ms for 192.0.2.7", &[], "local"),
    ] {
        let host = Host::new().set("REMOTE_ADDR", remote);
        let record = host.call(authorized("GET / HTTP/1.1", fields, "")).ended.record;
        assert!(record.contains(&format!(" ms for {caller}: ")), "{record}");
    }
    let malformed = Host::new().set("REMOTE_ADDR", peer).call("\n").ended.record;
    assert!(malformed.contains(" ms for 192.0.2.7: "), "{malformed}");
}
