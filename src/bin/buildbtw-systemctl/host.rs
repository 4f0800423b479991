//! What the unit tells the process through its environment, and where a host keeps things.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

/// The settings, and the directories.
pub struct Host {
    /// `BUILDBTW_LOG_LINES`: how many of a failed unit's last lines a caller is shown.
    pub log_lines: usize,
    /// `BUILDBTW_CLEAN=state`: an undeployment also removes the unit's state directories.
    pub clean: bool,
    /// `BUILDBTW_EXPIRE_DAYS`: a branch whose last deployment is older may be undeployed; none with 0.
    pub expire: Option<Duration>,
    /// What is deployed: symlinks to what systemd starts at boot (systemd.unit(5), `.wants/`).
    pub wants: PathBuf,
    /// For each branch its mark (the newest order and its outcome) and its turn (a lock).
    pub state: PathBuf,
    /// The image that `buildbtw-pull@.service` pulled last, for each branch.
    pub pulled: PathBuf,
}

impl Host {
    /// # Errors
    ///
    /// Fails where a setting is malformed, with a sentence about it.
    pub fn from_env() -> Result<Self, String> {
        let text = |name| env::var(name).unwrap_or_default();
        let number = |name, otherwise: Option<u32>| match text(name).as_str() {
            "" => Ok(otherwise),
            text => text.parse().map(Some).map_err(|_| format!("{name}={text} is not a number")),
        };
        let clean = text("BUILDBTW_CLEAN");
        if !["", "state"].contains(&clean.as_str()) {
            return Err(format!("BUILDBTW_CLEAN={clean} is not \"state\""));
        }
        let days = number("BUILDBTW_EXPIRE_DAYS", None)?;
        // Only the tests have another root.
        let root = PathBuf::from(format!("{}/", text("BUILDBTW_ROOT")));
        Ok(Self {
            log_lines: number("BUILDBTW_LOG_LINES", Some(20))?.unwrap_or_default() as usize,
            clean: !clean.is_empty(),
            expire: days
                .filter(|&days| days > 0)
                .map(|days| Duration::from_secs(u64::from(days) * 24 * 60 * 60)),
            wants: root.join("etc/systemd/system/buildbtw.target.wants"),
            state: root.join("var/lib/buildbtw-hook"),
            pulled: root.join("run/buildbtw-pull"),
        })
    }
}
