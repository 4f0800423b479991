//! The man page and the catalog say what the program does: held to its source.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files of a directory, and what they say.
fn all(directory: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries = fs::read_dir(path).expect("a directory").map(|entry| entry.expect("a file"));
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    files
        .filter(|file| file.path().extension().is_none_or(|extension| extension != "8"))
        .map(|file| fs::read_to_string(file.path()).expect("text"))
        .collect()
}

/// The words of a text that begin like this, up to what is not part of a name.
fn names(text: &str, prefix: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    text.match_indices(prefix)
        .map(|(at, _)| text[at..].split(|c| !is_name(c)).next().unwrap_or_default().to_owned())
        .filter(|name| name.len() > prefix.len())
        .collect()
}

/// The numbers of three digits that stand alone.
fn statuses(text: &str) -> BTreeSet<u16> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let numbers = words.filter(|word| word.len() == 3).filter_map(|word| word.parse().ok());
    numbers.filter(|status| (200..600).contains(status)).collect()
}

#[test]
fn every_setting_and_field_is_in_the_manual_and_no_other() {
    let manual = read("systemd/buildbtw-hook.8");
    let program = all("src") + &all("src/bin/buildbtw-systemctl") + &all("systemd");
    let mut known = names(&program, "BUILDBTW_");
    // What buildbtw itself reads, in its container; and what only the tests set.
    let others =
        ["BUILDBTW_DATABASE_FILE", "BUILDBTW_LISTEN", "BUILDBTW_ROOT", "BUILDBTW_SERVER_URL"];
    for name in others {
        assert!(known.remove(name), "{name}");
    }
    assert_eq!(names(&manual, "BUILDBTW_"), known, "left: the manual");
    for field in ["HTTP_STATUS", "MESSAGE_ID"] {
        assert!(manual.contains(field) && program.contains(field), "{field}");
    }
}

#[test]
fn the_defaults_in_the_manual_are_the_programs() {
    let manual = read("systemd/buildbtw-hook.8");
    for (name, file, before, after) in [
        ("BUILDBTW_WAIT_SEC", "src/settings.rs", "WAIT_SEC: u32 = ", ";"),
        (
            "BUILDBTW_LOG_LINES",
            "src/bin/buildbtw-systemctl/host.rs",
            "BUILDBTW_LOG_LINES\", Some(",
            ")",
        ),
    ] {
        let (_, rest) = manual.split_once(&format!(".It Ev {name}\n")).expect(name);
        let (described, _) = rest.split_once("\n.It ").unwrap_or((rest, ""));
        let (before_default, _) = described.split_once(" by default").expect(name);
        let default = before_default.split_whitespace().next_back().expect(name);
        assert!(read(file).contains(&format!("{before}{default}{after}")), "{name}: {default}");
    }
}

#[test]
fn every_status_is_in_the_manual_and_every_outcome_in_the_readme() {
    let manual = read("systemd/buildbtw-hook.8");
    let (_, answers) = manual.split_once("Every answer:").expect("a list of answers");
    let (answers, _) = answers.split_once(".El").expect("its end");
    let listed: String = answers.lines().filter(|line| line.starts_with(".It ")).collect();
    let program = read("src/answer.rs");
    assert_eq!(statuses(&listed), statuses(&program), "left: the manual");
    let (outcomes, _) = program.split_once("impl From<Refusal>").expect("no refusals in answer.rs");
    let readme = read("README.md");
    let table: String = readme.lines().filter(|line| line.starts_with("| ")).collect();
    let (table, outcomes) = (statuses(&table), statuses(outcomes));
    assert!(table.is_superset(&outcomes), "{outcomes:?} in the README: {table:?}");
    assert!(table.is_subset(&statuses(&program)), "{table:?}");
}

#[test]
fn every_path_is_in_the_manual_and_in_the_readme() {
    let hooks = read("src/request.rs");
    let names: Vec<_> = hooks
        .lines()
        .filter(|line| line.trim().starts_with("Verb::"))
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    assert_eq!(names.len(), 5, "{names:?}");
    for name in names {
        for file in ["systemd/buildbtw-hook.8", "README.md"] {
            assert!(read(file).contains(&format!("/hooks/{name}")), "{name} in {file}");
        }
    }
}

#[test]
fn every_message_id_is_in_the_catalog_and_no_other() {
    let ids = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        let is_id = |word: &&str| word.len() == 32 && word.bytes().all(|b| b.is_ascii_hexdigit());
        // systemd's own, of a start that failed.
        let own = |word: &&str| *word != "be02cf6855d2428ba40df7e9d022f03d";
        words.filter(is_id).filter(own).map(str::to_owned).collect()
    };
    let catalog = ids(&read("systemd/buildbtw-hook.catalog"));
    assert_eq!(catalog.len(), 5);
    assert_eq!(
        catalog,
        ids(&(all("src") + &all("src/bin/buildbtw-systemctl"))),
        "left: the catalog"
    );
}

#[test]
fn every_unit_names_the_manual() {
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")).expect("it") {
        let path = entry.expect("a file").path();
        let kinds = ["service", "slice", "socket", "target", "timer"];
        if kinds.iter().any(|kind| path.extension() == Some(kind.as_ref())) {
            let text = fs::read_to_string(&path).expect("text");
            assert!(text.contains("Documentation=man:buildbtw-hook(8)\n"), "{path:?}");
        }
    }
}

#[test]
fn the_version_is_the_changelogs_and_the_packages() {
    let version = env!("CARGO_PKG_VERSION");
    for (file, before, after) in [
        ("CHANGELOG.md", "## ", ","),
        ("systemd/arch/PKGBUILD", "pkgver=", "\n"),
        ("systemd/debian/changelog", "buildbtw-hook (", "-1)"),
    ] {
        let text = read(file);
        let (_, newest) = text.split_once(before).expect(file);
        assert!(newest.starts_with(&format!("{version}{after}")), "{file}: not {version} first");
    }
}
