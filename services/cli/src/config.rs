//! `kr config`: the router's configuration as the router itself reads it. Asks the `kr-router` beside this program, so that
//! there is one reader of it.

use std::ffi::OsString;
use std::process::Command as Process;

use crate::error::Error;

/// Show or check a router's configuration.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print the effective configuration as TOML.
    Print {
        /// Say for each value where it comes from: default, file, environment or flag.
        #[arg(long)]
        with_origin: bool,
        /// kr-router's own flags, such as --config FILE.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        router: Vec<OsString>,
    },
    /// Check it and exit with 0 or 64, starting nothing.
    Check {
        /// kr-router's own flags, such as --config FILE.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        router: Vec<OsString>,
    },
}

/// Runs the command.
///
/// # Errors
/// `kr-router` is not beside this program, or it found problems (its own message is shown).
pub(crate) fn run(command: Command) -> Result<(), Error> {
    let (flags, router): (&[&str], _) = match command {
        Command::Print {
            with_origin: true,
            router,
        } => (&["--print-config", "--with-origin"], router),
        Command::Print {
            with_origin: false,
            router,
        } => (&["--print-config"], router),
        Command::Check { router } => (&["--check-config"], router),
    };
    let program = std::env::current_exe()?.with_file_name("kr-router");
    let status = Process::new(&program).args(flags).args(router).status();
    let status = status.map_err(|error| {
        let program = program.display();
        Error::Input(format!(
            "cannot start {program} ({error}); keep kr and kr-router in one folder"
        ))
    })?;
    match status.code() {
        Some(0) => Ok(()),
        Some(64) => Err(Error::Configuration("the configuration has problems; see above".into())),
        _ => Err(Error::Input(format!(
            "kr-router could not read its configuration ({status})"
        ))),
    }
}
