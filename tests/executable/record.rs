//! The record of a call.

use super::harness::*;

#[test]
fn leaves_one_record() {
    let host = Host::new();
    let x = format!("{DEPLOY}?branch=x");
    for (request, start) in [
        (deploy_x(), "deploy-branch x: 200 in "),
        (get(&format!("{UNDEPLOY}?branch=x")), "undeploy-branch x: 200 in "),
        (get(LIST), "list-branches -: 200 in "),
        (
            authorized(&format!("GET {x} HTTP/1.1"), &["Prefer: respond-async"], ""),
            "deploy-branch x: 202 in ",
        ),
        (get(&format!("{UNDEPLOY}?branch=X")), "undeploy-branch -: 400 in "),
        (message(&format!("GET {x} HTTP/1.1"), &[], ""), "- -: 401 in "),
        (get("/hooks/x?branch=x"), "- -: 404 in "),
        ("\n".to_owned(), "- -: 400 in "),
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
    let peer = Some("192.0.2.7");
    for (remote, fields, caller) in [
        (None, &[][..], "local"),
        (peer, &[], "192.0.2.7"),
        (peer, &["X-Real-IP: 198.51.100.1"], "198.51.100.1"),
        (None, &["x-real-ip: 2001:db8::1"], "2001:db8::1"),
        (peer, &["X-Real-IP: 198.51.100.1 HTTP_STATUS=200"], "192.0.2.7"),
        // A name that the client of a Unix socket chose.
        (Some("@x: 200 in 1 ms for 192.0.2.7"), &[], "local"),
    ] {
        let host = Host::new();
        let host = if let Some(remote) = remote { host.set("REMOTE_ADDR", remote) } else { host };
        let malformed = if remote == peer { "192.0.2.7" } else { "local" };
        for (version, caller) in [("1.1", caller), ("9", malformed)] {
            let request = authorized(&format!("GET / HTTP/{version}"), fields, "");
            let record = host.call(request).ended.record;
            assert!(record.contains(&format!(" ms for {caller}: ")), "{record}");
        }
    }
}
