//! Parameters: names and values that this instance alone was given, and the variable that each becomes. Where they come from is for
//! [`credentials`] and [`ovf_env`]. Values may be secrets: nothing here logs one.

pub mod credentials;
pub mod ovf_env;
pub mod ovf_medium;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{error, info, warn};

use crate::blocking::blocking;
use crate::board::Board;
use crate::config::{DEV, SYS_CLASS_BLOCK, UDEV_QUEUE};
use crate::stop::Stop;
use ovf_medium::{Carried, Devices};

/// Every variable of a parameter begins so.
const PREFIX: &str = "GVA_PARAM_";
/// The longest name, in bytes; that of a credential cannot be longer.
const LONGEST_NAME: usize = 255;
/// The longest value, in bytes. The kernel takes twice as much in one string; execve(2).
pub const LONGEST_VALUE: usize = 64 << 10;
/// And so much all of them together, with their names: the kernel takes an eighth of what it allows by default.
const LARGEST_SUM: usize = 256 << 10;
/// What one more variable costs beside its text: `=`, NUL and a pointer.
const OVERHEAD: usize = 10;

/// What udev finishes may bring the next event: it must have been at rest so long.
const UDEV_REST: Duration = Duration::from_millis(100);
/// How often it is looked at.
const UDEV_LOOK: Duration = Duration::from_millis(20);
/// A disc that is not read in this time is done without.
const DISC_BOUND: Duration = Duration::from_secs(20);

/// A parameter as it was given. No `Debug`: the value may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Given {
    /// Its name, any bytes.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// What one origin gave.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Found {
    /// In the order in which it was found.
    pub given: Vec<Given>,
    /// What could not be read or understood, a line each.
    pub problems: Vec<String>,
}

/// Where a parameter comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The credential `gva.param.NAME`.
    Credential,
    /// The OVF environment.
    Ovf,
}

impl Origin {
    /// A parameter of this name, for people.
    fn naming(self, name: &[u8]) -> String {
        let text = String::from_utf8_lossy(name);
        let mut shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
        if text.chars().nth(80).is_some() {
            shown.push('…');
        }
        match self {
            Origin::Credential => format!("credential {}{shown}", credentials::PREFIX),
            Origin::Ovf => format!("property {shown} of the OVF environment"),
        }
    }
}

/// A parameter in force.
#[derive(Clone, PartialEq, Eq)]
pub struct Parameter {
    /// `GVA_PARAM_NAME`
    pub variable: String,
    /// Its value, without a NUL.
    pub value: OsString,
    /// Where it comes from, for people: `credential gva.param.site`.
    pub from: String,
}

/// The variable of a parameter: letters in upper case; every byte that is no letter of ASCII, digit or `_` becomes `_`.
#[must_use]
pub fn variable(name: &[u8]) -> String {
    let usual = |byte: &u8| match byte.to_ascii_uppercase() {
        byte @ (b'A'..=b'Z' | b'0'..=b'9') => char::from(byte),
        _ => '_',
    };
    PREFIX.chars().chain(name.iter().map(usual)).collect()
}

/// What all that was given comes to, sorted, and what is not passed on and why, a line each. What comes first has the name, also if its value
/// cannot be passed: another value in its place would be taken for it.
#[must_use]
pub fn in_force(origins: &[(Origin, &[Given])]) -> (Vec<Parameter>, Vec<String>) {
    let mut owners: BTreeMap<String, Origin> = BTreeMap::new();
    let (mut passed, mut problems) = (Vec::new(), Vec::new());
    let mut sum = 0;
    for &(origin, given) in origins {
        let mut sorted: Vec<_> = given.iter().collect();
        sorted.sort_by(|one, other| one.name.cmp(&other.name));
        for Given { name, value } in sorted {
            let from = origin.naming(name);
            let variable = variable(name);
            match owners.get(&variable) {
                // A credential is nearer than the OVF environment.
                Some(owner) if *owner != origin => continue,
                Some(_) => {
                    problems.push(format!("{from} is not passed on: {variable} is taken"));
                    continue;
                }
                None => {}
            }
            if name.is_empty() || name.len() > LONGEST_NAME {
                problems.push(format!(
                    "{from} is not passed on: its name must have 1 to {LONGEST_NAME} bytes"
                ));
                continue;
            }
            owners.insert(variable.clone(), origin);
            let cost = variable.len() + value.len() + OVERHEAD;
            let refused = if value.contains(&0) {
                Some("its value has a NUL byte, which no variable can".to_owned())
            } else if value.len() > LONGEST_VALUE {
                let most = LONGEST_VALUE >> 10;
                Some(format!("its value is longer than {most} KiB"))
            } else if sum + cost > LARGEST_SUM {
                let most = LARGEST_SUM >> 10;
                Some(format!(
                    "all parameters together are larger than {most} KiB"
                ))
            } else {
                None
            };
            if let Some(reason) = refused {
                problems.push(format!("{from} is not passed on: {reason}"));
                continue;
            }
            sum += cost;
            passed.push(Parameter {
                variable,
                value: OsString::from_vec(value.clone()),
                from,
            });
        }
    }
    passed.sort_by(|one, other| one.variable.cmp(&other.variable));
    (passed, problems)
}

/// The parameters of this instance: credentials from the start, those of the OVF environment from when a disc with one is there.
#[derive(Default)]
pub struct Parameters {
    credentials: Vec<Given>,
    passed: RefCell<Vec<Parameter>>,
    /// udev was waited for.
    waited: Cell<bool>,
    /// The OVF environment was found, or is no longer looked for.
    settled: Cell<bool>,
    /// Devices on which there is none.
    looked_at: RefCell<HashSet<ovf_medium::Key>>,
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passed = self.passed.borrow();
        let names = passed.iter().map(|parameter| &parameter.variable);
        f.debug_list().entries(names).finish()
    }
}

impl Parameters {
    /// Those from credentials. What is wrong with one is told, and the others hold.
    #[must_use]
    pub fn new(directories: &[PathBuf], board: &Board) -> Parameters {
        let Found { given, problems } = credentials::parameters(directories);
        let (passed, more) = in_force(&[(Origin::Credential, &given)]);
        for problem in problems.iter().chain(&more) {
            tell(board, problem);
        }
        let parameters = Parameters {
            credentials: given,
            passed: RefCell::new(passed),
            ..Parameters::default()
        };
        parameters.announce();
        parameters
    }

    /// The variables for a script.
    #[must_use]
    pub fn variables(&self) -> Vec<(OsString, OsString)> {
        let passed = self.passed.borrow();
        let pairs = passed
            .iter()
            .map(|p| ((&p.variable).into(), p.value.clone()));
        pairs.collect()
    }

    /// Looks for the OVF environment among the discs that were not looked at before; once it was found, not again. At boot a disc may come behind the
    /// disk with the application: as long as udev works on what was found, it is waited for, up to `wait`.
    pub async fn look_for_ovf(&self, stop: &Stop, board: &Board, temp_dir: &Path, wait: Duration) {
        if self.settled.get() {
            return;
        }
        if !self.waited.replace(true) {
            wait_for_udev(Path::new(UDEV_QUEUE), stop, wait).await;
        }
        let devices = Devices {
            sys_class_block: SYS_CLASS_BLOCK.into(),
            dev: DEV.into(),
            known: self.looked_at.borrow().clone(),
        };
        let temp_dir = temp_dir.to_owned();
        let work = blocking(move || ovf_medium::look(&devices, &temp_dir));
        let looked = match tokio::time::timeout(DISC_BOUND, work).await {
            Ok(Ok(looked)) => looked,
            Ok(Err(err)) => return tell(board, &format!("looking for the OVF environment: {err}")),
            Err(_) => {
                // A second look would hang in the same way.
                self.settled.set(true);
                let problem = format!(
                    "looking for the OVF environment: a disc did not answer within {}; doing without",
                    humantime::format_duration(DISC_BOUND)
                );
                return tell(board, &problem);
            }
        };
        self.looked_at.borrow_mut().extend(looked.keys);
        for problem in &looked.problems {
            tell(board, problem);
        }
        self.take(looked.carried, board);
    }

    fn take(&self, carried: Vec<Carried>, board: &Board) {
        let mut carried = carried.into_iter();
        let Some(first) = carried.next() else { return };
        for other in carried {
            warn!(
                "{} has an {} too: that on {} is the one in force",
                other.device.display(),
                ovf_env::FILE,
                first.device.display()
            );
        }
        self.settled.set(true);
        let (passed, more) = in_force(&[
            (Origin::Credential, &self.credentials),
            (Origin::Ovf, &first.found.given),
        ]);
        // Those of the credentials were told at the start.
        let (_, told) = in_force(&[(Origin::Credential, &self.credentials)]);
        let news = more.iter().filter(|problem| !told.contains(problem));
        for problem in first.found.problems.iter().chain(news) {
            tell(board, &format!("{}: {problem}", first.device.display()));
        }
        self.passed.replace(passed);
        info!(device = %first.device.display(), "the OVF environment was read");
        self.announce();
    }

    fn announce(&self) {
        if !self.passed.borrow().is_empty() {
            info!(names = ?self, "parameters");
        }
    }
}

/// To the log and to the host.
fn tell(board: &Board, problem: &str) {
    error!("{problem}");
    board.error(problem);
}

/// Waits while udev works, and not at all if it does not.
async fn wait_for_udev(queue: &Path, stop: &Stop, bound: Duration) {
    if bound.is_zero() {
        return;
    }
    let settled = async {
        let mut rest = UDEV_REST;
        loop {
            if queue.exists() {
                rest = Duration::ZERO;
            } else if rest >= UDEV_REST {
                return true;
            } else {
                rest += UDEV_LOOK;
            }
            if !stop.sleep(UDEV_LOOK).await {
                return true;
            }
        }
    };
    if tokio::time::timeout(bound, settled).await.is_err() {
        warn!(
            "udev is still at work after {}: a disc with an OVF environment may not be there yet",
            humantime::format_duration(bound)
        );
    }
}

/// What `gvad check` tells of credentials: comments for the end of the configuration.
#[must_use]
pub fn describe(directories: &[PathBuf]) -> String {
    let Found { given, problems } = credentials::parameters(directories);
    let (passed, more) = in_force(&[(Origin::Credential, &given)]);
    let passed = passed
        .iter()
        .map(|parameter| format!("# {}: from the {}\n", parameter.variable, parameter.from));
    let problems = problems.iter().chain(&more);
    passed
        .chain(problems.map(|problem| format!("# error: {problem}\n")))
        .collect()
}

#[cfg(test)]
mod tests;
